//! What the driver knows: what of that on the disk may still change, and beside it what sites last
//! told. A plain value; changing one touches no disk. It grows with sites and runs and never with rounds:
//! every change copies it, and what is past is read from the database by whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fedpaint_proto::identity::{KeyId, Role};
use fedpaint_proto::names::{Blob, Digest, RoundId, RunName, SiteName};
use jiff::Timestamp;

use super::comings::Comings;
use super::declined::Declines;
use super::request::Doubt;
use crate::audit::{self, Entry};
use crate::driver::error::Error;
use crate::driver::view::Progress;
use crate::records::{Change, EventRow, Loaded, SiteRow};
use crate::roster::{Roles, Roster};
use crate::round::Round;
use crate::run::{self, Directive, Run};

/// By how much an update may be larger than its base model: the header may be spaced otherwise.
pub const UPDATE_SLACK_BYTES: u64 = 1 << 20;

/// Everything, as one value.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Shared until one changes, so that whether any did is told by a look.
    sites: Arc<BTreeMap<SiteName, SiteRow>>,
    /// The same.
    roster: Arc<Roster>,
    /// In the order of creation.
    runs: Vec<Arc<Run>>,
    /// Up to which round a run's updates are let go, where any are.
    pub(super) let_go: Arc<BTreeMap<RunName, u32>>,
    /// Not kept over a restart.
    seen: BTreeMap<SiteName, Seen>,
    /// What sites have declined by their own policies. Nor is this.
    pub(super) declined: Declines,
    /// How often sites came to the rounds that select. Nor is this.
    pub(super) comings: Comings,
    /// What sites have said that they do not believe. Nor is this.
    doubts: BTreeSet<(SiteName, Doubt)>,
}

/// What the holder of a certificate may do.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// What sites may.
    Site,
    /// What operators of these roles may.
    Operator(Roles),
    /// Nothing.
    None,
}

/// What a site last told.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Timestamp,
    pub(super) agent_version: String,
    pub(super) wire_version: u32,
    /// For which round, and what.
    pub(super) doing: Option<(RoundId, Doing)>,
    /// Since when it does that for that round.
    pub(super) since: Timestamp,
    /// When the certificate ends that it showed.
    pub(super) shown_until: Option<Timestamp>,
    /// When the one ends that it says it signs with.
    pub(super) signing_until: Option<Timestamp>,
}

/// What a site does for a round.
#[derive(Clone, Debug)]
pub(super) enum Doing {
    Training(Progress),
    Uploading,
}

impl From<Loaded> for State {
    fn from(loaded: Loaded) -> State {
        State {
            sites: Arc::new(
                loaded.sites.into_iter().map(|site| (site.name.clone(), site)).collect(),
            ),
            roster: Arc::new(loaded.roster),
            runs: loaded.runs.into_iter().map(Arc::new).collect(),
            let_go: Arc::new(loaded.let_go),
            seen: BTreeMap::new(),
            declined: Declines::default(),
            comings: Comings::default(),
            doubts: BTreeSet::new(),
        }
    }
}

impl State {
    /// The same with what sites last told `other`.
    pub(super) fn with_seen_of(self, other: &State) -> State {
        let (seen, declined) = (other.seen.clone(), other.declined.clone());
        let (comings, doubts) = (other.comings.clone(), other.doubts.clone());
        State { seen, declined, comings, doubts, ..self }
    }

    /// Whether the site may call at all: enrolled and not revoked.
    ///
    /// # Errors
    /// Why it may not.
    pub fn access(&self, site: &SiteName) -> Result<(), Error> {
        match self.sites.get(site) {
            None => Err(Error::NotEnrolled(site.clone())),
            Some(SiteRow { revoked_at: Some(_), .. }) => Err(Error::Revoked(site.clone())),
            Some(_) => Ok(()),
        }
    }

    /// What the holder of a certificate may do: a site that is enrolled what sites may, an operator by its
    /// roles.
    ///
    /// # Errors
    /// If it was shut out, or never let in.
    pub fn admits(&self, role: &Role, key: &KeyId) -> Result<Standing, Error> {
        if self.roster.is_revoked(key) {
            return Err(Error::KeyRevoked(role.clone()));
        }
        match role {
            Role::Site(name) => {
                self.access(name)?;
                let joined = self.sites.get(name).is_some_and(|site| site.joined_at.is_some());
                match joined && !self.roster.holds(role, key) {
                    true => Err(Error::KeyRevoked(role.clone())),
                    false => Ok(Standing::Site),
                }
            }
            Role::Operator(name) => {
                let roles = self.roster.roles(name);
                roles.map(Standing::Operator).ok_or_else(|| Error::NotListed(name.clone()))
            }
            Role::Coordinator(_) => Ok(Standing::None),
        }
    }

    /// Whether the holder of a certificate was shut out, so that not even a handshake with it is made.
    pub fn shuts_out(&self, role: &Role, key: &KeyId) -> bool {
        match self.admits(role, key) {
            Err(Error::Revoked(_) | Error::KeyRevoked(_)) => true,
            Ok(Standing::Operator(roles)) => roles.0.is_empty(),
            Ok(Standing::Site | Standing::None) | Err(_) => false,
        }
    }

    /// Whether nobody was let in or shut out between `other` and here. It may say no where nobody was.
    pub fn same_members(&self, other: &State) -> bool {
        Arc::ptr_eq(&self.sites, &other.sites) && Arc::ptr_eq(&self.roster, &other.roster)
    }

    /// Invitations, keys and operators.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The same, to be changed; what has long ended is forgotten on the way, which the step tells.
    pub(super) fn roster_mut(&mut self, now: Timestamp) -> &mut Roster {
        let roster = Arc::make_mut(&mut self.roster);
        roster.forget(now);
        roster
    }

    /// A site, revoked or not.
    pub fn site(&self, name: &SiteName) -> Option<&SiteRow> {
        self.sites.get(name)
    }

    pub(super) fn site_count(&self) -> usize {
        self.sites.len()
    }

    pub(super) fn put_site(&mut self, site: SiteRow) {
        Arc::make_mut(&mut self.sites).insert(site.name.clone(), site);
    }

    /// Every site, by name.
    pub(super) fn sites(&self) -> impl Iterator<Item = (&SiteName, &SiteRow)> {
        self.sites.iter()
    }

    pub(super) fn seen(&self, site: &SiteName) -> Option<&Seen> {
        self.seen.get(site)
    }

    /// Notes what a site tells. It does so since it first told of it.
    pub(super) fn put_seen(&mut self, site: SiteName, mut seen: Seen) {
        if let (Some((id, doing)), Some(before)) = (&seen.doing, self.seen.get(&site))
            && let Some((held, did)) = &before.doing
            && held == id
            && std::mem::discriminant(did) == std::mem::discriminant(doing)
        {
            seen.since = before.since;
        }
        self.seen.insert(site, seen);
    }

    /// Notes what a site does not believe of the audit log, in words where it is news: each reason is once,
    /// so that no site can fill the log.
    pub(super) fn put_doubt(&mut self, site: &SiteName, doubt: Option<Doubt>) -> Option<Entry> {
        let doubt = doubt.filter(|doubt| !self.doubts.contains(&(site.clone(), *doubt)))?;
        self.doubts.insert((site.clone(), doubt));
        Some(Entry::new("site_doubts", format!("site {site}: {doubt}")))
    }

    /// Every run, in the order of creation.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().map(Arc::as_ref)
    }

    /// The run of this name, if there is one.
    pub fn find_run(&self, name: &RunName) -> Option<&Run> {
        self.runs().find(|run| run.name() == name)
    }

    /// The run of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn run(&self, name: &RunName) -> Result<&Run, Error> {
        self.find_run(name).ok_or_else(|| Error::RunUnknown(name.clone()))
    }

    /// The run's newest round, if that is the one named.
    ///
    /// # Errors
    /// If it is over, or there is no such round.
    pub fn round(&self, id: &RoundId) -> Result<&Round, Error> {
        let round = self.run(&id.run)?.round();
        let current = round.id();
        if current == id {
            return Ok(round);
        }
        // An older round or attempt is known to be over, without a look into the database.
        let older = (1..=current.number).contains(&id.number)
            && (id.number, id.attempt) < (current.number, current.attempt)
            && id.attempt >= 1;
        Err(match older {
            true => Error::Round { round: id.clone(), refusal: crate::round::Refusal::RoundOver },
            false => Error::RoundUnknown(id.clone()),
        })
    }

    /// Adds a run, keeping the order that the store loads them in.
    pub(super) fn add_run(&mut self, run: Run) {
        let key = |run: &Run| (run.created_at(), run.name().clone());
        let at = self.runs.partition_point(|held| key(held) < key(&run));
        self.runs.insert(at, Arc::new(run));
    }

    /// Changes a run; a run that does not change is not copied. What a change leaves to count later is
    /// let go of where its site was revoked, however long ago: a round that had sealed it may have been
    /// abandoned just now.
    pub(super) fn change_run<T>(
        &mut self,
        name: &RunName,
        change: impl FnOnce(&mut Run) -> T,
    ) -> Result<T, Error> {
        let held = self.runs.iter_mut().find(|run| run.name() == name);
        let held = held.ok_or_else(|| Error::RunUnknown(name.clone()))?;
        let mut run = Run::clone(held);
        let outcome = change(&mut run);
        let revoked =
            |site: &SiteName| self.sites.get(site).is_some_and(|site| site.revoked_at.is_some());
        run.drop_stragglers(run::Drop::Revoked, revoked);
        if run != **held {
            *held = Arc::new(run);
        }
        Ok(outcome)
    }

    /// What a site should be doing. Where there are more sites than a round has room for, none is told what it begins
    /// from before it is in: those that come too late would have fetched it for nothing.
    pub fn directive(&self, site: &SiteName) -> Directive {
        let stays_out =
            |round: &RoundId| self.declines(site, round).is_some() || self.keeps_out(site, round);
        match run::directive(self.runs(), site, stays_out) {
            Directive::Join { round, until, .. } if !self.has_room_for_all(&round.run) => {
                Directive::Join { round, base: None, until }
            }
            told => told,
        }
    }

    /// Whether each round of a run has room for every site that may take part.
    fn has_room_for_all(&self, run: &RunName) -> bool {
        let sites = self.sites.values().filter(|site| site.revoked_at.is_none()).count();
        self.find_run(run).is_some_and(|run| run.plan().round.sites_goal as usize >= sites)
    }

    /// How large an update the site may upload for a round.
    ///
    /// # Errors
    /// If the round awaits none from it.
    pub fn may_upload(
        &self,
        site: &SiteName,
        round: &RoundId,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.access(site)?;
        let base = self.awaits(site, round, now)?;
        Ok(base.size.saturating_add(UPDATE_SLACK_BYTES))
    }

    /// Whether an update of the site for `round` could be accepted, in time or late: the model that it
    /// is to be trained from.
    ///
    /// # Errors
    /// Why it could not.
    pub fn awaits(&self, site: &SiteName, round: &RoundId, now: Timestamp) -> Result<Blob, Error> {
        let run = self.run(&round.run)?;
        if run.straggler(round, site).is_none() {
            self.round(round)?;
        }
        let refused = |refusal| Error::Round { round: round.clone(), refusal };
        run.awaits(round, site, now).map_err(refused)
    }

    /// The blob with this digest, if the site may read it: the base model of a round that is open, or of one
    /// that it still trains late.
    ///
    /// # Errors
    /// If there is none that the site may read.
    pub fn may_download(&self, site: &SiteName, digest: &Digest) -> Result<Blob, Error> {
        self.access(site)?;
        let mut late = self.runs().filter_map(|run| run.trains_late(site)).map(|late| late.base);
        let late = late.find(|base| base.digest == *digest);
        late.or_else(|| self.open_base(digest)).ok_or(Error::BlobUnknown(*digest))
    }

    /// What happened between `before` and here, for the audit log. `extra` tells what no run shows.
    pub(super) fn entries_since(&self, before: &State, extra: Vec<Entry>) -> Vec<Entry> {
        let mut entries = extra;
        for (held, run) in self.runs_since(before) {
            let ends = run.is_over() && !held.is_some_and(Run::is_over);
            let absent = if ends { self.absent(run) } else { Vec::new() };
            entries.extend(audit::changes(held, run, &absent));
        }
        let let_go = self.let_go_since(before);
        entries.extend(let_go.map(|(run, number)| audit::sweep::let_go(run, number)));
        entries
    }

    /// What was forgotten of the roster at `now` since `before`, for the audit log.
    pub(super) fn forgotten_since(&self, before: &State, now: Timestamp) -> Vec<Entry> {
        match Arc::ptr_eq(&before.roster, &self.roster) {
            true => Vec::new(),
            false => audit::roster::forgotten(&before.roster, &self.roster, now),
        }
    }

    /// What has to be saved to get from `before` to here, with its entries of the audit log.
    pub(super) fn change_since<'a>(
        &'a self,
        before: &'a State,
        events: Vec<EventRow>,
    ) -> Change<'a> {
        let new = |site: &&SiteRow| before.sites.get(&site.name) != Some(*site);
        let sites = match Arc::ptr_eq(&self.sites, &before.sites) {
            true => Vec::new(),
            false => self.sites.values().filter(new).collect(),
        };
        let (held, roster) = (&*before.roster, &*self.roster);
        let changed = !Arc::ptr_eq(&before.roster, &self.roster) && held != roster;
        Change {
            sites,
            roster: changed.then_some((held, roster)),
            runs: self.runs_since(before).collect(),
            let_go: self.let_go_since(before).collect(),
            events,
            ..Change::default()
        }
    }

    /// The runs that are new or changed: as they were, and as they are.
    fn runs_since<'a>(
        &'a self,
        before: &'a State,
    ) -> impl Iterator<Item = (Option<&'a Run>, &'a Run)> {
        let held = |run: &&Arc<Run>| before.runs.iter().find(|held| held.name() == run.name());
        let pair = move |run: &'a Arc<Run>| {
            let held = held(&run);
            let same = held.is_some_and(|held| Arc::ptr_eq(held, run));
            (!same).then(|| (held.map(Arc::as_ref), run.as_ref()))
        };
        self.runs.iter().filter_map(pair)
    }
}
