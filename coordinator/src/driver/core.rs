//! What the driver decides, as a value: everything the coordinator knows, and what the next change
//! of it is. It does no I/O, reads no clock, and knows no runtime and no database.
//!
//! A shell around it asks for a [`Step`], saves what [`Step::change`] tells in one transaction, and
//! only then installs the step ([`Core::install`]), shows it and replies. A step that is dropped has
//! not happened. Before anything else the shell asks [`Core::settle`], until there is no step:
//! a deadline that has come is acted on before whatever came after it.
//!
//! What is owed is asked from the state again and again, so a core that was loaded after a crash
//! ([`Core::load`]) goes on like one that never stopped. The shell of the program is
//! `driver/work.rs`; a simulation has one of its own.

mod apply;
mod members;
mod missing;
mod proposals;
mod refusals;
mod request;
mod review;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::names::{RunName, SiteName};
use jiff::Timestamp;

pub use self::apply::{RUNS_MAX, SITES_MAX};
pub use self::members::{Asking, Renewal};
pub use self::missing::Moment;
pub use self::refusals::REFUSALS_NOTED_MAX;
use self::refusals::{Noted, Refusals};
pub use self::request::{Activity, Answer, Beat, Command, Request, Stage, Verdict};
pub use self::review::{Review, Submission, review};
pub use self::state::{Standing, State, UPDATE_SLACK_BYTES};
use super::error::Error;
use crate::audit::Entry;
use crate::records::{Change, EventRow, Loaded};
use crate::roster::TwoPersons;
use crate::round::Update;
use crate::run::{Duty, Run};

/// The actor of what nobody asked for.
const COORDINATOR: &str = "coordinator";

/// Everything the coordinator knows.
#[derive(Clone, Debug)]
pub struct Core {
    /// How soon a site is told to ask again.
    heartbeat: Duration,
    /// What takes two persons.
    rules: TwoPersons,
    /// What is on the disk, and what sites last told.
    state: Arc<State>,
    /// The newest audit entry.
    seq: u64,
    refusals: Refusals,
}

/// A change that was decided and has not happened yet.
#[derive(Debug)]
#[must_use = "a step that is neither saved nor installed has not happened"]
pub struct Step {
    before: Arc<State>,
    next: Arc<State>,
    events: Vec<EventRow>,
    /// What the core remembers of a site's refusals from then on.
    noted: Option<Noted>,
    /// Why part of what was told no longer applies, which is no error to who told it.
    late: Option<Error>,
    /// Why what was asked for is refused, although that it was asked for is noted.
    refused: Option<Error>,
}

impl Core {
    /// What a coordinator knows that starts over what was saved.
    pub fn load(loaded: Loaded, heartbeat: Duration) -> Core {
        let (seq, state) = (loaded.seq, Arc::new(State::from(loaded)));
        let rules = TwoPersons::default();
        Core { heartbeat, rules, state, seq, refusals: Refusals::default() }
    }

    /// The same where some things take two persons.
    pub fn with_rules(self, rules: TwoPersons) -> Core {
        Core { rules, ..self }
    }

    /// Takes what the database holds for the truth, after a save of which nobody knows whether it
    /// happened. What sites last told stays.
    pub fn reload(&mut self, loaded: Loaded) {
        self.seq = loaded.seq;
        self.state = Arc::new(State::from(loaded).with_seen_of(&self.state));
    }

    /// What is on the disk, and what sites last told.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The next step that time or a round's end makes due; none where nothing is. The end of a round
    /// is a step of its own: it is saved before the next round is opened.
    pub fn settle(&self, now: Timestamp) -> Option<Step> {
        let due = |run: &&Run| match run.duty() {
            Duty::WaitUntil(time) => time <= now,
            Duty::OpenRound => true,
            Duty::Aggregate(_) | Duty::Nothing => false,
        };
        let due: Vec<RunName> =
            self.state.runs().filter(due).map(|run| run.name().clone()).collect();
        if due.is_empty() {
            return None;
        }
        let mut next = State::clone(&self.state);
        for run in &due {
            // None of them is unknown: their names come from the state itself.
            let _ = next.change_run(run, |run| match run.duty() {
                Duty::OpenRound => run.open_round(now),
                _ => run.tick(now),
            });
        }
        Some(self.step(next, COORDINATOR, now, Vec::new()))
    }

    /// What a request changes. Whoever calls has settled before.
    ///
    /// # Errors
    /// Why it changes nothing.
    pub fn apply(&self, request: Request, now: Timestamp) -> Result<Step, Error> {
        apply::apply(self, request, now)
    }

    /// Makes a step that was saved the truth.
    pub fn install(&mut self, step: Step) {
        debug_assert!(Arc::ptr_eq(&step.before, &self.state), "steps do not overlap");
        self.seq += step.events.len() as u64;
        self.state = step.next;
        if let Some(noted) = step.noted {
            self.refusals.remember(noted, &self.state);
        }
    }

    /// What a site should be doing, and when to ask again.
    pub fn answer(&self, site: &SiteName) -> Answer {
        Answer { directive: self.state.directive(site), next_after: self.heartbeat }
    }

    /// The aggregation that is owed first: of which run's round in hand, and of which updates, in
    /// the order of the sites' names.
    pub fn aggregation(&self) -> Option<(&Run, Vec<(&SiteName, &Update)>)> {
        self.state.runs().find_map(|run| match run.duty() {
            Duty::Aggregate(reports) => Some((run, reports)),
            Duty::WaitUntil(_) | Duty::OpenRound | Duty::Nothing => None,
        })
    }

    /// When time next changes anything.
    pub fn deadline(&self) -> Option<Timestamp> {
        let waits = self.state.runs().filter_map(|run| match run.duty() {
            Duty::WaitUntil(time) => Some(time),
            Duty::Aggregate(_) | Duty::OpenRound | Duty::Nothing => None,
        });
        waits.min()
    }

    /// The step from here to `next`. `extra` tells the audit log what no run shows.
    fn step(&self, next: State, actor: &str, at: Timestamp, extra: Vec<Entry>) -> Step {
        let entries = next.entries_since(&self.state, extra);
        let event = |(seq, Entry { kind, detail })| EventRow {
            seq,
            at,
            actor: actor.to_owned(),
            kind: kind.to_owned(),
            detail,
        };
        let events = (self.seq + 1..).zip(entries).map(event).collect();
        let (before, next) = (Arc::clone(&self.state), Arc::new(next));
        Step { before, next, events, noted: None, late: None, refused: None }
    }

    /// The step that changes nothing.
    fn nothing(&self) -> Step {
        let (before, next) = (Arc::clone(&self.state), Arc::clone(&self.state));
        Step { before, next, events: Vec::new(), noted: None, late: None, refused: None }
    }
}

impl Step {
    /// What is to be saved before the step is installed.
    pub fn change(&self) -> Change<'_> {
        self.next.change_since(&self.before, self.events.clone())
    }

    /// Why what was asked for is refused, once the step is saved.
    pub fn take_refused(&mut self) -> Option<Error> {
        self.refused.take()
    }

    /// Why part of what was told no longer applies, for the log.
    pub fn late(&self) -> Option<&Error> {
        self.late.as_ref()
    }
}
