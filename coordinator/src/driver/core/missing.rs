//! Whose update is not there, since when and why: for the round in hand, at any moment.
//!
//! It follows from the state and from what sites last told, which is not kept over a restart. Where
//! something is not known it is left out and not made up.

use std::time::Duration;

use fedpaint_proto::names::{RoundId, SiteName};
use jiff::Timestamp;

use super::state::{Doing, Seen, State};
use crate::driver::view::{MissingView, Progress, Upload, Why};
use crate::round::{Member, Phase};
use crate::run::{self, Run};

/// What is known beside the state.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    /// The time.
    pub now: Timestamp,
    /// When the coordinator was started.
    pub started_at: Timestamp,
    /// A site that has not been heard of for so long is silent.
    pub silent_after: Duration,
    /// What a site is uploading for a round.
    pub upload: &'a dyn Fn(&SiteName, &RoundId) -> Option<Upload>,
}

impl State {
    /// Whose update the round in hand of `run` lacks: its members first, then sites that still train an
    /// earlier round, then the others; each group by name.
    pub fn missing(&self, run: &Run, moment: Moment<'_>) -> Vec<MissingView> {
        let round = run.round();
        let mut missing = Vec::new();
        for (site, member) in round.members() {
            let since = round.since(site);
            missing.extend(match member {
                Member::Reported(_) => None,
                Member::Withdrawn(why) => Some(self.of(site, Why::Withdrew(*why), since)),
                Member::Joined => Some(self.waited_for(run, site, moment)),
            });
        }
        let outside = |site: &SiteName| !round.members().contains_key(site);
        for (site, row) in self.sites().filter(|(site, _)| outside(site)) {
            let late = run.trains_late(site).is_some();
            if late || row.revoked_at.is_none() {
                missing.push(self.waited_for(run, site, moment));
            }
        }
        // Stable, so that each group stays in the order of names.
        missing.sort_by_key(|view| (outside(&view.site), run.trains_late(&view.site).is_none()));
        missing
    }

    /// A site that has neither reported nor withdrawn.
    fn waited_for(&self, run: &Run, site: &SiteName, moment: Moment<'_>) -> MissingView {
        let round = run.round();
        let seen = self.seen(site);
        let heard_at = seen.map(|seen| seen.at);
        // Whatever it was to do, nobody does it where nobody is.
        let silent = heard_at.is_none_or(|heard| {
            moment.now.duration_since(heard).unsigned_abs() > moment.silent_after
        });
        if silent {
            // What was heard before a start is not kept; nor can more be missed than the round is old.
            let unheard = || moment.started_at.max(round.opened_at());
            return self.of(site, Why::Silent, Some(heard_at.unwrap_or_else(unheard)));
        }
        if let Some(late) = run.trains_late(site) {
            let mut view = self.of(site, Why::Late(late.round.clone()), Some(late.since));
            view.progress = self.progress(site, &late.round);
            view.upload = (moment.upload)(site, &late.round);
            return view;
        }
        if !round.members().contains_key(site) {
            return self.outside(run, site);
        }
        let joined = round.since(site);
        if matches!(round.phase(), Phase::Selecting { .. }) {
            return self.of(site, Why::Waiting, joined);
        }
        let doing = seen.and_then(|seen| seen.doing_for(round.id()));
        let upload = (moment.upload)(site, round.id());
        let (why, since) = match (doing, upload) {
            (Some((Doing::Uploading, since)), _) => (Why::Uploading, Some(since)),
            (doing, Some(_)) => (Why::Uploading, doing.map(|(_, since)| since)),
            (Some((Doing::Training(_), since)), None) => (Why::Training, Some(since)),
            (None, None) => match self.busy(run, site).filter(|_| seen.is_some_and(Seen::works)) {
                Some((other, since)) => (Why::Busy(other), since),
                None => (Why::NotBegun, joined),
            },
        };
        let progress = self.progress(site, round.id());
        MissingView { progress, upload, ..self.of(site, why, since) }
    }

    /// A site that is heard of and has not joined the round in hand of `run`.
    fn outside(&self, run: &Run, site: &SiteName) -> MissingView {
        let round = run.round();
        if let Some((rule, since)) = self.declines(site, round.id()) {
            return self.of(site, Why::Declined(rule), Some(since));
        }
        if let Some((other, since)) = self.busy(run, site) {
            return self.of(site, Why::Busy(other), since);
        }
        // Nobody can have joined a round before it was opened.
        let enrolled = self.site(site).map(|row| row.enrolled_at);
        let since = enrolled.map_or(round.opened_at(), |at| at.max(round.opened_at()));
        self.of(site, Why::NeverJoined, Some(since))
    }

    /// The round of another run that a site is in, and since when.
    fn busy(&self, run: &Run, site: &SiteName) -> Option<(RoundId, Option<Timestamp>)> {
        let others = self.runs().filter(|other| other.name() != run.name());
        let mut others = others.filter(|other| *other.state() == run::State::Active);
        others.find_map(|other| {
            if let Some(late) = other.trains_late(site) {
                return Some((late.round.clone(), Some(late.since)));
            }
            let round = other.round();
            let live = matches!(round.phase(), Phase::Selecting { .. } | Phase::Reporting { .. });
            let joined = matches!(round.members().get(site), Some(Member::Joined));
            (live && joined).then(|| (round.id().clone(), round.since(site)))
        })
    }

    fn of(&self, site: &SiteName, why: Why, since: Option<Timestamp>) -> MissingView {
        let heard_at = self.seen(site).map(|seen| seen.at);
        MissingView { site: site.clone(), why, since, heard_at, progress: None, upload: None }
    }

    fn progress(&self, site: &SiteName, round: &RoundId) -> Option<Progress> {
        match self.seen(site).and_then(|seen| seen.doing_for(round))? {
            (Doing::Training(progress), _) => Some(*progress),
            (Doing::Uploading, _) => None,
        }
    }
}

impl Seen {
    /// Whether the site works for some round.
    fn works(&self) -> bool {
        self.doing.is_some()
    }

    /// What the site does for this round, and since when.
    fn doing_for(&self, round: &RoundId) -> Option<(&Doing, Timestamp)> {
        let (id, doing) = self.doing.as_ref()?;
        (id == round).then_some((doing, self.since))
    }
}
