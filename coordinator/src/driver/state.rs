//! What the driver knows: what is on the disk, and beside it what sites last told. A plain value;
//! changing one touches no disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use fedpaint_proto::names::{Blob, Digest, RoundId, RunName, SiteName};
use jiff::Timestamp;

use super::error::Error;
use super::view::{Progress, RoundView, SiteView};
use crate::aggregate::Aggregate;
use crate::audit::{self, Entry};
use crate::round::{Member, Phase, Round};
use crate::run::{self, Directive, Run};
use crate::store::{Change, EventRow, Loaded, SiteRow};

/// Everything, as one value.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    sites: BTreeMap<SiteName, SiteRow>,
    /// In the order of creation.
    runs: Vec<Arc<Run>>,
    /// Every global model of every run, and the moving averages beside them.
    models: BTreeMap<Digest, Blob>,
    /// Not kept over a restart.
    seen: BTreeMap<SiteName, Seen>,
}

/// What a site last told.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Timestamp,
    pub(super) agent_version: String,
    pub(super) training: Option<(RoundId, Progress)>,
}

impl From<Loaded> for State {
    fn from(loaded: Loaded) -> State {
        State {
            sites: loaded.sites.into_iter().map(|site| (site.name.clone(), site)).collect(),
            runs: loaded.runs.into_iter().map(Arc::new).collect(),
            models: loaded.models.into_iter().map(|blob| (blob.digest, blob)).collect(),
            seen: BTreeMap::new(),
        }
    }
}

impl State {
    pub(super) fn access(&self, site: &SiteName) -> Result<(), Error> {
        match self.sites.get(site) {
            None => Err(Error::NotEnrolled(site.clone())),
            Some(SiteRow { revoked_at: Some(_), .. }) => Err(Error::Revoked(site.clone())),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn site(&self, name: &SiteName) -> Option<&SiteRow> {
        self.sites.get(name)
    }

    pub(super) fn site_count(&self) -> usize {
        self.sites.len()
    }

    pub(super) fn put_site(&mut self, site: SiteRow) {
        self.sites.insert(site.name.clone(), site);
    }

    pub(super) fn put_seen(&mut self, site: SiteName, seen: Seen) {
        self.seen.insert(site, seen);
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().map(Arc::as_ref)
    }

    pub(super) fn find_run(&self, name: &RunName) -> Option<&Run> {
        self.runs().find(|run| run.name() == name)
    }

    pub(super) fn run(&self, name: &RunName) -> Result<&Run, Error> {
        self.find_run(name).ok_or_else(|| Error::RunUnknown(name.clone()))
    }

    /// The run's newest round, if that is the one named.
    pub(super) fn round(&self, id: &RoundId) -> Result<&Round, Error> {
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
        self.models.insert(run.initial().digest, run.initial());
        self.runs.insert(at, Arc::new(run));
    }

    /// Changes a run; a run that does not change is not copied.
    pub(super) fn change_run<T>(
        &mut self,
        name: &RunName,
        change: impl FnOnce(&mut Run) -> T,
    ) -> Result<T, Error> {
        let held = self.runs.iter_mut().find(|run| run.name() == name);
        let held = held.ok_or_else(|| Error::RunUnknown(name.clone()))?;
        let mut run = Run::clone(held);
        let outcome = change(&mut run);
        if run != **held {
            let Aggregate { model, ema, .. } = run.newest();
            self.models.extend([Some(model), ema].into_iter().flatten().map(|m| (m.digest, m)));
            *held = Arc::new(run);
        }
        Ok(outcome)
    }

    pub(super) fn directive(&self, site: &SiteName) -> Directive {
        run::directive(self.runs(), site)
    }

    /// The base model with this digest of a live round that the site is in.
    pub(super) fn base_for(&self, site: &SiteName, digest: &Digest) -> Option<Blob> {
        self.runs().map(Run::round).find_map(|round| {
            let live = matches!(round.phase(), Phase::Selecting { .. } | Phase::Reporting { .. });
            let joined = matches!(round.members().get(site), Some(Member::Joined));
            (live && joined && round.base().digest == *digest).then(|| round.base())
        })
    }

    pub(super) fn model(&self, digest: &Digest) -> Option<Blob> {
        self.models.get(digest).copied()
    }

    /// What has to be saved to get from `before` to here. `extra` tells what no run shows.
    pub(super) fn change_since<'a>(
        &'a self,
        before: &'a State,
        extra: Vec<Entry>,
        (seq, at, actor): (u64, Timestamp, &str),
    ) -> Change<'a> {
        let new = |site: &&SiteRow| before.sites.get(&site.name) != Some(*site);
        let sites = self.sites.values().filter(new).collect();
        let mut runs = Vec::new();
        let mut entries = extra;
        for run in &self.runs {
            let held = before.runs.iter().find(|held| held.name() == run.name());
            if held.is_some_and(|held| Arc::ptr_eq(held, run)) {
                continue;
            }
            let held = held.map(Arc::as_ref);
            entries.extend(audit::changes(held, run));
            runs.push((held, run.as_ref()));
        }
        let event = |(seq, Entry { kind, detail })| EventRow {
            seq,
            at,
            actor: actor.to_owned(),
            kind: kind.to_owned(),
            detail,
        };
        let events = (seq + 1..).zip(entries).map(event).collect();
        Change { sites, runs, events }
    }

    pub(super) fn round_view(&self, round: &Round) -> RoundView {
        RoundView::new(round, |site| {
            let (id, progress) = self.seen.get(site)?.training.as_ref()?;
            (id == round.id()).then_some(*progress)
        })
    }

    pub(super) fn active_rounds(&self) -> Vec<RoundView> {
        let active = self.runs().filter(|run| *run.state() == run::State::Active);
        active.map(|run| self.round_view(run.round())).collect()
    }

    pub(super) fn site_views(&self) -> Vec<SiteView> {
        let view = |site: &SiteRow| {
            let seen = self.seen.get(&site.name);
            SiteView {
                name: site.name.clone(),
                enrolled_at: site.enrolled_at,
                revoked_at: site.revoked_at,
                seen_at: seen.map(|seen| seen.at),
                agent_version: seen.map(|seen| seen.agent_version.clone()),
            }
        };
        self.sites.values().map(view).collect()
    }
}
