//! One round of federated training, as a value.
//!
//! A [`Round`] does no I/O, reads no clock and draws no random number: whatever happens reaches it
//! as an [`Event`] with the time at which it happened. It answers from its state alone what the
//! coordinator owes it ([`Round::duty`]) and what a site should be doing ([`Round::directive`]).
//! Both can be asked again after a crash, so nothing has to be remembered but the round.
//!
//! ```text
//!  Selecting --goal reached, or time up with enough sites--> Reporting
//!      |                                                        | all reported, or time up
//!      | too few                                                v with enough reports
//!      v                 too few                           Aggregating --> Committed
//!  Abandoned <--------------------------------------------------+ failed
//! ```
//!
//! The words are those of Bonawitz et al. 2019, "Towards federated learning at scale".

mod counts;
mod late;
mod member;
mod reason;
mod stretch;

use std::collections::BTreeMap;
use std::time::Duration;

use fedpaint_proto::names::{Blob, RoundId, SiteName};
use fedpaint_proto::plan::RoundPlan;
use jiff::Timestamp;

pub use self::counts::Counts;
pub use self::late::LateUpdate;
pub use self::member::{Member, Report, Update};
pub use self::reason::{Abandonment, Refusal, Withdrawal, named};
pub use self::stretch::{ARRIVING_GRACE, ARRIVING_STEP, Stretch};
use crate::aggregate::{Aggregate, Made};
use crate::standing::Standing;

/// One attempt at one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    id: RoundId,
    base: Blob,
    policy: RoundPlan,
    phase: Phase,
    members: BTreeMap<SiteName, Member>,
    opened_at: Timestamp,
    closed_at: Option<Timestamp>,
    kept: Kept,
}

/// What a round keeps beside its phase and members.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// When each member came into its state; nothing of a round from before this was kept.
    pub since: BTreeMap<SiteName, Timestamp>,
    /// How reporting goes on longer than planned.
    pub stretch: Option<Stretch>,
    /// The late updates of earlier rounds that are part of this one, once it is sealed.
    pub late: BTreeMap<SiteName, LateUpdate>,
    /// How its updates lie to each other, once it is committed; nothing where that was not told yet.
    pub standings: Vec<Standing>,
    /// When it was sealed; nothing of a round from before this was kept.
    pub sealed_at: Option<Timestamp>,
}

/// Where a round is.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Sites may join.
    Selecting {
        /// When selection ends by itself.
        until: Timestamp,
    },
    /// The members train and report.
    Reporting {
        /// When reporting ends by itself.
        until: Timestamp,
    },
    /// The coordinator owes the average of the reports.
    Aggregating,
    /// Over: the round made a model, and what is kept beside it.
    Committed(Aggregate<Blob>),
    /// Over: the round made nothing.
    Abandoned {
        /// Why.
        reason: Abandonment,
    },
}

/// What can happen to a round.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A site wants to take part.
    Joined(SiteName),
    /// A site's update was checked and accepted.
    Reported(SiteName, Update),
    /// Bytes of an update that is not whole yet have come from a site.
    Arriving(SiteName),
    /// A site gives the round up.
    Withdrew(SiteName, Withdrawal),
    /// An operator revoked the site: until aggregation begins, nothing of it counts any more.
    Revoked(SiteName),
    /// The average is on the disk.
    Aggregated(Made<Blob>),
    /// The average could not be made.
    AggregationFailed(String),
    /// The average was waited for long enough.
    NoAverage(String),
    /// The operator waits no longer.
    Closed,
    /// The operator gives the round up.
    Abandoned(String),
}

/// What the coordinator owes a round next.
#[derive(Clone, Debug, PartialEq)]
pub enum Duty<'a> {
    /// To let it act when this time has come.
    WaitUntil(Timestamp),
    /// The average of these updates, in the order of the sites' names.
    Aggregate(Vec<(&'a SiteName, &'a Update)>),
    /// Nothing: the round is over.
    Nothing,
}

/// What a site should be doing in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Directive {
    /// Nothing.
    Rest,
    /// Say that it wants to take part.
    Join {
        /// Before this time.
        until: Timestamp,
    },
    /// Train and report.
    Train {
        /// From this model.
        base: Blob,
        /// Before this time.
        until: Timestamp,
        /// As one of so many sites that have joined.
        cohort: u32,
    },
}

impl Round {
    /// Opens a round for selection.
    pub fn open(id: RoundId, base: Blob, policy: RoundPlan, now: Timestamp) -> Round {
        let phase = Phase::Selecting { until: after(now, policy.selection()) };
        let members = BTreeMap::new();
        let kept = Kept::default();
        Round { id, base, policy, phase, members, opened_at: now, closed_at: None, kept }
    }

    /// A round as it was saved.
    pub fn restore(
        id: RoundId,
        base: Blob,
        policy: RoundPlan,
        phase: Phase,
        members: BTreeMap<SiteName, Member>,
        (opened_at, closed_at): (Timestamp, Option<Timestamp>),
        kept: Kept,
    ) -> Round {
        Round { id, base, policy, phase, members, opened_at, closed_at, kept }
    }

    /// Which round and attempt this is.
    pub fn id(&self) -> &RoundId {
        &self.id
    }

    /// The model the sites train from.
    pub fn base(&self) -> Blob {
        self.base
    }

    /// Where the round is.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The sites in the round, by name.
    pub fn members(&self) -> &BTreeMap<SiteName, Member> {
        &self.members
    }

    /// When `site` came into its state, where that is known.
    pub fn since(&self, site: &SiteName) -> Option<Timestamp> {
        self.kept.since.get(site).copied()
    }

    /// The late updates of earlier rounds that are part of this one: none before it is sealed.
    pub fn late(&self) -> &BTreeMap<SiteName, LateUpdate> {
        &self.kept.late
    }

    /// How the updates of a committed round lie to each other: fresh ones by their sites' names, then late ones.
    pub fn standings(&self) -> &[Standing] {
        &self.kept.standings
    }

    /// When the round was opened.
    pub fn opened_at(&self) -> Timestamp {
        self.opened_at
    }

    /// When the round was sealed, where that is known: from then on its average is owed.
    pub fn sealed_at(&self) -> Option<Timestamp> {
        self.kept.sealed_at
    }

    /// When the round was committed or abandoned.
    pub fn closed_at(&self) -> Option<Timestamp> {
        self.closed_at
    }

    /// Whether the round is committed or abandoned; then it never changes again.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Committed(_) | Phase::Abandoned { .. })
    }

    /// Lets time pass. A deadline that has come is acted on before anything else is.
    pub fn tick(&mut self, now: Timestamp) {
        match self.phase {
            Phase::Selecting { until } if now >= until => self.end_selection(now),
            Phase::Reporting { until } if now >= until => self.end_reporting(now),
            _ => {}
        }
    }

    /// Lets an event happen. One that has happened before is no error, so a retry is safe.
    ///
    /// # Errors
    /// If the event does not apply; then nothing but the time has changed.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Result<(), Refusal> {
        self.tick(now);
        if self.already_holds(&event) {
            return Ok(());
        }
        match (&self.phase, event) {
            (Phase::Committed(_) | Phase::Abandoned { .. }, _) => Err(Refusal::RoundOver),
            (_, Event::Abandoned(reason)) => {
                self.abandon(Abandonment::ByOperator { reason }, now);
                Ok(())
            }

            (Phase::Selecting { .. }, Event::Joined(site)) => {
                self.put(site, Member::Joined, now);
                self.begin_if_complete(0, now);
                Ok(())
            }
            // A site that leaves before the training begins was never there, and may come again.
            (Phase::Selecting { .. }, Event::Withdrew(site, _) | Event::Revoked(site)) => {
                self.kept.since.remove(&site);
                self.members.remove(&site).map(|_| ()).ok_or(Refusal::NotAMember)
            }
            (Phase::Selecting { .. }, Event::Closed) => {
                self.require(self.members.len())?;
                self.end_selection(now);
                Ok(())
            }
            (Phase::Selecting { .. }, Event::Reported(..) | Event::Arriving(_)) => {
                Err(Refusal::NotReporting)
            }

            (Phase::Reporting { .. }, Event::Reported(site, update)) => {
                self.joined(&site)?;
                self.settle(site, Member::Reported(update), now);
                Ok(())
            }
            (Phase::Reporting { .. }, Event::Arriving(site)) => {
                self.joined(&site)?;
                self.arriving(site, now);
                Ok(())
            }
            (Phase::Reporting { .. }, Event::Withdrew(site, why)) => {
                self.joined(&site)?;
                self.settle(site, Member::Withdrawn(why), now);
                Ok(())
            }
            (Phase::Reporting { .. }, Event::Revoked(site)) => {
                self.members.get(&site).ok_or(Refusal::NotAMember)?;
                self.settle(site, Member::Withdrawn(Withdrawal::Revoked), now);
                Ok(())
            }
            (Phase::Reporting { .. }, Event::Closed) => {
                self.require(self.reports().count())?;
                self.end_reporting(now);
                Ok(())
            }

            (Phase::Aggregating, Event::Aggregated(made)) => {
                self.kept.standings = made.standings;
                self.end(Phase::Committed(made.files), now);
                Ok(())
            }
            (Phase::Aggregating, Event::AggregationFailed(reason)) => {
                self.abandon(Abandonment::AggregationFailed { reason }, now);
                Ok(())
            }
            (Phase::Aggregating, Event::NoAverage(reason)) => {
                self.abandon(Abandonment::NoAverageInTime { reason }, now);
                Ok(())
            }
            (Phase::Aggregating, Event::Joined(_)) => Err(Refusal::SelectionOver),
            (Phase::Aggregating, _) => Err(Refusal::ReportingOver),
            (Phase::Reporting { .. }, Event::Joined(_)) => Err(Refusal::SelectionOver),
            (_, Event::Aggregated(_) | Event::AggregationFailed(_) | Event::NoAverage(_)) => {
                Err(Refusal::NotAggregating)
            }
        }
    }

    /// What the coordinator owes this round next.
    pub fn duty(&self) -> Duty<'_> {
        match self.phase {
            Phase::Selecting { until } | Phase::Reporting { until } => Duty::WaitUntil(until),
            Phase::Aggregating => Duty::Aggregate(self.reports().collect()),
            Phase::Committed(_) | Phase::Abandoned { .. } => Duty::Nothing,
        }
    }

    /// What `site` should be doing now.
    pub fn directive(&self, site: &SiteName) -> Directive {
        match (&self.phase, self.members.get(site)) {
            (&Phase::Selecting { until }, None) => Directive::Join { until },
            (&Phase::Reporting { until }, Some(Member::Joined)) => {
                Directive::Train { base: self.base, until, cohort: self.members.len() as u32 }
            }
            _ => Directive::Rest,
        }
    }

    /// Whether an update of `site` could be accepted at `now`, whatever it holds.
    ///
    /// # Errors
    /// Why it could not.
    pub fn awaits(&self, site: &SiteName, now: Timestamp) -> Result<(), Refusal> {
        let mut round = self.clone();
        round.tick(now);
        match round.phase {
            Phase::Selecting { .. } => Err(Refusal::NotReporting),
            Phase::Reporting { .. } => round.joined(site),
            Phase::Aggregating => Err(Refusal::ReportingOver),
            Phase::Committed(_) | Phase::Abandoned { .. } => Err(Refusal::RoundOver),
        }
    }

    /// Whether the round holds this very update of `site` already.
    pub fn holds(&self, site: &SiteName, update: &Update) -> bool {
        matches!(self.members.get(site), Some(Member::Reported(held)) if held.is(update))
    }

    /// Whether the round holds an update of `site` that is this file.
    pub fn has_file(&self, site: &SiteName, file: &Blob) -> bool {
        matches!(self.members.get(site), Some(Member::Reported(held)) if held.weights == *file)
    }

    fn already_holds(&self, event: &Event) -> bool {
        match event {
            Event::Joined(site) => {
                !self.is_over() && matches!(self.members.get(site), Some(Member::Joined))
            }
            Event::Reported(site, update) => self.holds(site, update),
            _ => false,
        }
    }

    fn joined(&self, site: &SiteName) -> Result<(), Refusal> {
        match self.members.get(site) {
            None => Err(Refusal::NotAMember),
            Some(Member::Joined) => Ok(()),
            Some(Member::Reported(_) | Member::Withdrawn(_)) => Err(Refusal::AlreadyReported),
        }
    }

    /// Notes what became of a member, and ends reporting where nothing is left to wait for: all have
    /// settled, or so many have withdrawn that the minimum is out of reach.
    fn settle(&mut self, site: SiteName, outcome: Member, now: Timestamp) {
        self.arrived(&site);
        self.put(site, outcome, now);
        let waiting = self.members.values().filter(|m| **m == Member::Joined).count();
        let reachable = waiting + self.reports().count();
        if waiting == 0 || reachable < self.policy.sites_min as usize {
            self.end_reporting(now);
        }
        // The deadline may have waited for this site alone.
        self.tick(now);
    }

    fn put(&mut self, site: SiteName, member: Member, now: Timestamp) {
        self.kept.since.insert(site.clone(), now);
        self.members.insert(site, member);
    }

    /// Ends selection if the goal is reached, counting `busy` sites that will not come because they
    /// still train an earlier round.
    pub(crate) fn begin_if_complete(&mut self, busy: usize, now: Timestamp) {
        let (goal, joined) = (self.policy.sites_goal as usize, self.members.len());
        let complete = joined + busy >= goal && self.require(joined).is_ok();
        if complete && matches!(self.phase, Phase::Selecting { .. }) {
            self.end_selection(now);
        }
    }

    /// Makes late updates part of this round, which has just been sealed.
    pub(crate) fn fold(&mut self, late: BTreeMap<SiteName, LateUpdate>) {
        debug_assert_eq!(self.phase, Phase::Aggregating);
        self.kept.late = late;
    }

    fn end_selection(&mut self, now: Timestamp) {
        match self.require(self.members.len()) {
            Ok(()) => {
                let until = after(now, self.policy.reporting());
                self.phase = Phase::Reporting { until };
            }
            Err(_) => {
                let (joined, need) = (self.members.len() as u32, self.policy.sites_min);
                self.abandon(Abandonment::TooFewSites { joined, need }, now);
            }
        }
    }

    fn end_reporting(&mut self, now: Timestamp) {
        let reported = self.reports().count();
        match self.require(reported) {
            Ok(()) => {
                self.phase = Phase::Aggregating;
                self.kept.sealed_at = Some(now);
            }
            Err(_) => {
                let (reported, need) = (reported as u32, self.policy.sites_min);
                let settled = |member: &Member| matches!(member, Member::Reported(_));
                let missing = self.members.iter().filter(|(_, member)| !settled(member));
                let missing = missing.map(|(site, _)| site.clone()).collect();
                self.abandon(Abandonment::TooFewReports { reported, need, missing }, now);
            }
        }
    }

    fn abandon(&mut self, reason: Abandonment, now: Timestamp) {
        // What it would have folded in waits for the next attempt.
        self.kept.late.clear();
        self.end(Phase::Abandoned { reason }, now);
    }

    fn end(&mut self, phase: Phase, now: Timestamp) {
        self.phase = phase;
        self.closed_at = Some(now);
    }

    fn require(&self, have: usize) -> Result<(), Refusal> {
        let need = self.policy.sites_min;
        if have >= need as usize {
            Ok(())
        } else {
            Err(Refusal::TooFewSites { have: have as u32, need })
        }
    }

    fn reports(&self) -> impl Iterator<Item = (&SiteName, &Update)> {
        self.members.iter().filter_map(|(site, member)| match member {
            Member::Reported(update) => Some((site, update)),
            Member::Joined | Member::Withdrawn(_) => None,
        })
    }
}

/// `now` and a plan's span of time; the end of time itself where that lies beyond it.
fn after(now: Timestamp, span: Duration) -> Timestamp {
    now.checked_add(span).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
