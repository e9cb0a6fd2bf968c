//! A run, as a value: a plan, the model so far, and the round in hand.
//!
//! The run decides which round is next. Like [`Round`] it does no I/O and takes the time as an
//! argument; what is owed is asked from its state ([`Run::duty`]), so a restart forgets nothing.

mod late;
mod pause;
mod readmission;
mod tally;

use std::collections::BTreeMap;

use fedpaint_proto::names::{Blob, RoundId, RunName, SiteName};
use fedpaint_proto::plan::{RunPlan, SignedPlan};
use jiff::Timestamp;

pub use self::late::{Drop, Late, LateEvent, Straggler};
pub use self::pause::Pause;
pub use self::tally::{Absence, Tally};
use crate::aggregate::Aggregate;
use crate::round::{self, Abandonment, Event, Phase, Refusal, Round, Update};

/// The training of one model over many rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    name: RunName,
    plan: SignedPlan,
    initial: Blob,
    created_at: Timestamp,
    state: State,
    newest: Aggregate<Blob>,
    committed: u32,
    failures: u32,
    round: Round,
    /// By the number of their round.
    stragglers: BTreeMap<(u32, SiteName), Straggler>,
    tally: Tally,
    /// From which round on each site is in no quarantine.
    readmitted: BTreeMap<SiteName, u32>,
    /// The number and attempt of the newest round when it was last resumed.
    resumed_from: Option<(u32, u32)>,
}

/// Where a run is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Rounds are held.
    Active,
    /// Nothing new begins until an operator resumes the run.
    Paused {
        /// Why.
        reason: Pause,
    },
    /// Every planned round is committed.
    Finished,
    /// An operator ended the run early.
    Stopped,
}

/// What the coordinator owes a run next.
#[derive(Clone, Debug, PartialEq)]
pub enum Duty<'a> {
    /// To let it act when this time has come.
    WaitUntil(Timestamp),
    /// The average of these updates, in the order of the sites' names.
    Aggregate(Vec<(&'a SiteName, &'a Update)>),
    /// The next round or attempt.
    OpenRound,
    /// Nothing.
    Nothing,
}

/// What a site should be doing, and in which round.
#[derive(Clone, Debug, PartialEq)]
pub enum Directive {
    /// Nothing; whatever it was doing is no longer wanted.
    Rest,
    /// Say that it wants to take part.
    Join {
        /// In this round.
        round: RoundId,
        /// Which begins from this model, where whoever joins will train it.
        base: Option<Blob>,
        /// Before this time.
        until: Timestamp,
    },
    /// Train and report.
    Train {
        /// For this round.
        round: RoundId,
        /// From this model.
        base: Blob,
        /// Before this time.
        until: Timestamp,
        /// As one of so many sites that have joined; 0 where the round is past, and not known.
        cohort: u32,
    },
}

/// A run that is finished or stopped never changes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run is finished or stopped")]
pub struct RunOver;

/// What was saved of a run beside its round; see [`Run::restore`].
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// The run's name.
    pub name: RunName,
    /// Its plan, and who stands behind it.
    pub plan: SignedPlan,
    /// The model it started from.
    pub initial: Blob,
    /// When it was created.
    pub created_at: Timestamp,
    /// Where it is.
    pub state: State,
    /// The newest global model, and what is kept beside it.
    pub newest: Aggregate<Blob>,
    /// Rounds committed.
    pub committed: u32,
    /// Attempts abandoned in a row.
    pub failures: u32,
    /// Whose update may come late, or was settled in the newest round.
    pub stragglers: Vec<(SiteName, Straggler)>,
    /// Who was missing in committed rounds.
    pub tally: Tally,
    /// Which sites an operator has readmitted, and from which round on.
    pub readmitted: BTreeMap<SiteName, u32>,
    /// The number and attempt of the newest round when it was last resumed.
    pub resumed_from: Option<(u32, u32)>,
}

impl Run {
    /// A new run; its first round opens at once.
    pub fn create(
        name: RunName,
        plan: impl Into<SignedPlan>,
        initial: Blob,
        now: Timestamp,
    ) -> Run {
        let plan = plan.into();
        let id = RoundId { run: name.clone(), number: 1, attempt: 1 };
        let round = Round::open(id, initial, plan.plan.round.clone(), now);
        Run {
            name,
            plan,
            initial,
            created_at: now,
            state: State::Active,
            newest: Aggregate::of(initial),
            committed: 0,
            failures: 0,
            round,
            stragglers: BTreeMap::new(),
            tally: Tally::default(),
            readmitted: BTreeMap::new(),
            resumed_from: None,
        }
    }

    /// A run as it was saved, with its newest round.
    pub fn restore(saved: Saved, round: Round) -> Run {
        let Saved { name, plan, initial, created_at, state, newest, committed, failures, .. } =
            saved;
        let key = |(site, s): (SiteName, Straggler)| ((s.round.number, site), s);
        let stragglers = saved.stragglers.into_iter().map(key).collect();
        Run {
            name,
            plan,
            initial,
            created_at,
            state,
            newest,
            committed,
            failures,
            round,
            stragglers,
            tally: saved.tally,
            readmitted: saved.readmitted,
            resumed_from: saved.resumed_from,
        }
    }

    /// The run's name.
    pub fn name(&self) -> &RunName {
        &self.name
    }

    /// The plan. It never changes.
    pub fn plan(&self) -> &RunPlan {
        &self.plan.plan
    }

    /// The same, and who stands behind it.
    pub fn signed_plan(&self) -> &SignedPlan {
        &self.plan
    }

    /// The model the run started from.
    pub fn initial(&self) -> Blob {
        self.initial
    }

    /// When the run was created.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Where the run is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The newest global model.
    pub fn model(&self) -> Blob {
        self.newest.model
    }

    /// The newest global model, and what is kept beside it: what the next aggregation begins from.
    pub fn newest(&self) -> Aggregate<Blob> {
        self.newest
    }

    /// Rounds committed.
    pub fn committed(&self) -> u32 {
        self.committed
    }

    /// Attempts abandoned in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The newest round.
    pub fn round(&self) -> &Round {
        &self.round
    }

    /// Who was missing in committed rounds.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether the run is finished or stopped.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Finished | State::Stopped)
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Timestamp) {
        self.change(now, |round| round.tick(now));
    }

    /// Lets an event happen to the round in hand. Of whom an operator revoked, late updates are let go
    /// elsewhere ([`Run::drop_stragglers`]).
    ///
    /// # Errors
    /// If the event does not apply; then nothing but the time has changed.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Result<(), Refusal> {
        // A deadline that has come is acted on first: it may make a straggler of whom this is about.
        self.tick(now);
        let (busy, joins) = (self.busy(), matches!(event, Event::Joined(_)));
        if let Event::Joined(site) = &event
            && self.trains_late(site).is_some()
        {
            return Err(Refusal::TrainsEarlierRound);
        }
        self.change(now, |round| {
            round.apply(event, now)?;
            if joins {
                round.begin_if_complete(busy, now);
            }
            Ok(())
        })
    }

    /// Lets an event happen to the round `id`: the round in hand, or an earlier one whose late updates
    /// still count.
    ///
    /// # Errors
    /// If the event does not apply; then nothing but the time has changed.
    pub fn apply_to(&mut self, id: &RoundId, event: Event, now: Timestamp) -> Result<(), Refusal> {
        self.tick(now);
        let late = |site: &SiteName| self.straggler(id, site).is_some();
        match event {
            Event::Reported(site, update) if late(&site) => {
                self.apply_late(id, &site, LateEvent::Reported(update))
            }
            Event::Withdrew(site, why) if late(&site) => {
                self.apply_late(id, &site, LateEvent::Withdrew(why))
            }
            event if id == self.round.id() => self.apply(event, now),
            _ => Err(Refusal::RoundOver),
        }
    }

    /// Whether an update of `site` for the round `id` could be accepted at `now`, whatever it holds: the
    /// model that it is to be trained from.
    ///
    /// # Errors
    /// Why it could not.
    pub fn awaits(&self, id: &RoundId, site: &SiteName, now: Timestamp) -> Result<Blob, Refusal> {
        let mut run = self.clone();
        run.tick(now);
        if run.straggler(id, site).is_some() {
            return run.awaits_late(id, site);
        }
        if id != run.round.id() {
            return Err(Refusal::RoundOver);
        }
        run.round.awaits(site, now).map(|()| run.round.base())
    }

    /// Whether the round `id`, if it is in hand or its late updates still count, holds this very update
    /// of `site`.
    pub fn holds(&self, id: &RoundId, site: &SiteName, update: &Update) -> bool {
        let late = self.straggler(id, site).and_then(|straggler| straggler.late.taken());
        late.is_some_and(|held| held.is(update))
            || (id == self.round.id() && self.round.holds(site, update))
    }

    /// Whether the round `id`, if it is in hand or its late updates still count, holds an update of `site`
    /// that is this file.
    pub fn has_file(&self, id: &RoundId, site: &SiteName, file: &Blob) -> bool {
        let late = self.straggler(id, site).and_then(|straggler| straggler.late.taken());
        late.is_some_and(|held| held.weights == *file)
            || (id == self.round.id() && self.round.has_file(site, file))
    }

    /// Opens the next round, or the next attempt at one that was abandoned, if that is due.
    pub fn open_round(&mut self, now: Timestamp) {
        if self.duty() != Duty::OpenRound {
            return;
        }
        let RoundId { number, attempt, .. } = *self.round.id();
        let (number, attempt) = match self.round.phase() {
            Phase::Committed(_) => (number + 1, 1),
            _ => (number, attempt + 1),
        };
        let id = RoundId { run: self.name.clone(), number, attempt };
        self.forget_settled();
        self.round = Round::open(id, self.newest.model, self.plan.plan.round.clone(), now);
    }

    /// Ends the run early and for good. Stopping a stopped run changes nothing.
    ///
    /// # Errors
    /// If the run is finished.
    pub fn stop(&mut self, now: Timestamp) -> Result<(), RunOver> {
        self.tick(now);
        match self.state {
            State::Active | State::Paused { .. } => {
                self.give_up_round("the run was stopped", now);
                self.drop_stragglers(Drop::RunOver, |_| true);
                self.state = State::Stopped;
                Ok(())
            }
            State::Stopped => Ok(()),
            State::Finished => Err(RunOver),
        }
    }

    /// What the coordinator owes this run next.
    pub fn duty(&self) -> Duty<'_> {
        if self.state != State::Active {
            return Duty::Nothing;
        }
        match self.round.duty() {
            round::Duty::WaitUntil(time) => Duty::WaitUntil(time),
            round::Duty::Aggregate(reports) => Duty::Aggregate(reports),
            round::Duty::Nothing => Duty::OpenRound,
        }
    }

    fn give_up_round(&mut self, why: &str, now: Timestamp) {
        if !self.round.is_over() {
            // A live round refuses no abandonment; that it is not a failure the run counts is
            // decided where rounds end.
            let _ = self.apply(Event::Abandoned(why.to_owned()), now);
        }
    }

    /// Changes the round and, if that sealed or ended it, draws the conclusion once.
    fn change<T>(&mut self, now: Timestamp, change: impl FnOnce(&mut Round) -> T) -> T {
        let sealed = |round: &Round| *round.phase() == Phase::Aggregating;
        let (was_sealed, was_over) = (sealed(&self.round), self.round.is_over());
        let outcome = change(&mut self.round);
        if !was_sealed && sealed(&self.round) {
            self.seal(now);
        }
        if !was_over && self.round.is_over() {
            self.settle_stragglers();
            self.conclude();
        }
        outcome
    }

    fn conclude(&mut self) {
        match self.round.phase() {
            Phase::Committed(made) => {
                self.newest = *made;
                self.committed = self.round.id().number;
                self.failures = 0;
                self.tally.count(&self.round);
                if self.committed >= self.plan.plan.rounds {
                    self.state = State::Finished;
                    self.drop_stragglers(Drop::RunOver, |_| true);
                }
            }
            // What an operator gives up is no failure of the federation's.
            Phase::Abandoned { reason: Abandonment::ByOperator { .. } } => {}
            Phase::Abandoned { reason } => {
                self.failures += 1;
                if self.failures >= self.plan.plan.round.failures_max {
                    let (failures, last) = (self.failures, reason.clone());
                    self.state =
                        State::Paused { reason: Pause::TooManyFailures { failures, last } };
                }
            }
            Phase::Selecting { .. } | Phase::Reporting { .. } | Phase::Aggregating => {}
        }
    }
}

/// What `site` should be doing, given the runs in the order of their creation: what it can train
/// comes first, then what it waits for, then what it may join. So a site is never called away from
/// a round it is in, nor from one whose update may still come late. A round that it `declines` is not
/// offered to it.
pub fn directive<'a>(
    runs: impl Iterator<Item = &'a Run>,
    site: &SiteName,
    declines: impl Fn(&RoundId) -> bool,
) -> Directive {
    let (mut join, mut waits) = (None, false);
    for run in runs.filter(|run| run.state == State::Active) {
        if let Some(late) = run.trains_late(site) {
            let (round, base, until) = (late.round.clone(), late.base, run.late_until(late));
            return Directive::Train { round, base, until, cohort: 0 };
        }
        let round = run.round();
        match round.directive(site) {
            round::Directive::Train { base, until, cohort } => {
                return Directive::Train { round: round.id().clone(), base, until, cohort };
            }
            round::Directive::Join { until } if join.is_none() && !declines(round.id()) => {
                let (round, base) = (round.id().clone(), Some(round.base()));
                join = Some(Directive::Join { round, base, until });
            }
            round::Directive::Join { .. } => {}
            round::Directive::Rest => {
                let selecting = matches!(round.phase(), Phase::Selecting { .. });
                waits |= selecting && round.members().contains_key(site);
            }
        }
    }
    if waits { Directive::Rest } else { join.unwrap_or(Directive::Rest) }
}

#[cfg(test)]
mod tests;
