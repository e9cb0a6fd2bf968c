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
mod comings;
mod declined;
mod let_go;
mod members;
mod missing;
mod open;
mod proposals;
mod refusals;
mod request;
mod review;
mod state;
mod strangers;
#[cfg(test)]
mod tests;
mod views;

use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::merkle::{Hash, Node};
use fedpaint_proto::names::{Digest, OperatorName, RunName, SiteName};
use jiff::Timestamp;

pub use self::apply::{RUNS_MAX, SITES_MAX};
pub use self::comings::COMINGS_MAX;
pub use self::members::{Asking, Renewal};
pub use self::missing::Moment;
pub use self::open::Open;
use self::proposals::Exports;
pub use self::refusals::REFUSALS_NOTED_MAX;
use self::refusals::{Noted, Refusals};
pub use self::request::{Activity, Answer, Beat, Command, Doubt, Request, Sight, Stage, Verdict};
pub use self::review::{Review, Submission, is_kept, review};
pub use self::state::{Standing, State, UPDATE_SLACK_BYTES};
pub use self::strangers::STRANGERS_TOLD_MAX;
use self::strangers::Strangers;
use super::error::Error;
use crate::audit::Entry;
use crate::records::{Change, Document, EventRow, Loaded, Log};
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
    /// The audit log.
    log: Log,
    refusals: Refusals,
    exports: Exports,
    strangers: Strangers,
}

/// A change that was decided and has not happened yet.
#[derive(Debug)]
#[must_use = "a step that is neither saved nor installed has not happened"]
pub struct Step {
    before: Arc<State>,
    next: Arc<State>,
    events: Vec<EventRow>,
    /// The audit log with these.
    log: Log,
    nodes: Vec<(Node, Hash)>,
    /// What the entries vouch for.
    documents: Vec<Document>,
    /// What the core remembers of a site's refusals from then on.
    noted: Option<Noted>,
    /// Whose export of which model it tells the audit log.
    exported: Option<(OperatorName, Digest)>,
    /// Who came with a token of no invitation, or did not come, from then on.
    strangers: Option<Strangers>,
    /// Why part of what was told no longer applies, which is no error to who told it.
    late: Option<Error>,
    /// Why what was asked for is refused, although that it was asked for is noted.
    refused: Option<Error>,
}

impl Core {
    /// What a coordinator knows that starts over what was saved.
    pub fn load(loaded: Loaded, heartbeat: Duration) -> Core {
        let (log, state) = (loaded.log.clone(), Arc::new(State::from(loaded)));
        let rules = TwoPersons::default();
        let (refusals, exports) = (Refusals::default(), Exports::default());
        let strangers = Strangers::default();
        Core { heartbeat, rules, state, log, refusals, exports, strangers }
    }

    /// The same where some things take two persons.
    pub fn with_rules(self, rules: TwoPersons) -> Core {
        Core { rules, ..self }
    }

    /// Takes what the database holds for the truth, after a save of which nobody knows whether it
    /// happened. What sites last told stays.
    pub fn reload(&mut self, loaded: Loaded) {
        self.log = loaded.log.clone();
        self.state = Arc::new(State::from(loaded).with_seen_of(&self.state));
    }

    /// The audit log.
    pub fn log(&self) -> &Log {
        &self.log
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
            return self.tell_strangers(now);
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
        self.log = step.log;
        self.state = step.next;
        if let Some(noted) = step.noted {
            self.refusals.remember(noted, &self.state);
        }
        if let Some((actor, model)) = step.exported {
            self.exports.remember(actor, model);
        }
        if let Some(strangers) = step.strangers {
            self.strangers = strangers;
        }
    }

    /// What a site should be doing, and when to ask again.
    pub fn answer(&self, site: &SiteName) -> Answer {
        let (directive, next_after) = (self.state.directive(site), self.heartbeat);
        Answer { directive, next_after, log: self.log.clone() }
    }

    /// The aggregation that is owed first: of which run's round in hand, and of which updates, in
    /// the order of the sites' names.
    pub fn aggregation(&self) -> Option<(&Run, Vec<(&SiteName, &Update)>)> {
        self.state.runs().find_map(|run| match run.duty() {
            Duty::Aggregate(reports) => Some((run, reports)),
            Duty::WaitUntil(_) | Duty::OpenRound | Duty::Nothing => None,
        })
    }

    /// The runs whose round in hand is owed its average, in the order of creation.
    pub fn aggregations(&self) -> impl Iterator<Item = &Run> {
        self.state.runs().filter(|run| matches!(run.duty(), Duty::Aggregate(_)))
    }

    /// When time next changes anything.
    pub fn deadline(&self) -> Option<Timestamp> {
        let waits = self.state.runs().filter_map(|run| match run.duty() {
            Duty::WaitUntil(time) => Some(time),
            Duty::Aggregate(_) | Duty::OpenRound | Duty::Nothing => None,
        });
        waits.chain(self.strangers.due()).min()
    }

    /// The step from here to `next`. `extra` tells the audit log what no run shows. What is forgotten because its
    /// time is over was nobody's doing.
    fn step(&self, next: State, actor: &str, at: Timestamp, extra: Vec<Entry>) -> Step {
        let forgotten = next.forgotten_since(&self.state, at).into_iter();
        let forgotten = forgotten.map(|entry| (COORDINATOR, entry));
        let entries = next.entries_since(&self.state, extra).into_iter();
        let entries = entries.map(|entry| (actor, entry));
        let mut log = self.log.clone();
        // A clock may be set back; the log's time is not.
        let at = log.at.map_or(at, |newest| newest.max(at));
        let (mut events, mut nodes) = (Vec::new(), Vec::new());
        for (actor, Entry { kind, detail }) in forgotten.chain(entries) {
            let (actor, kind) = (actor.to_owned(), kind.to_owned());
            let seq = log.tree.size() + 1;
            let event = EventRow { seq, at, actor, kind, detail, document: None };
            nodes.extend(log.push(&event));
            events.push(event);
        }
        let next = Arc::new(next);
        Step { next, events, log, nodes, ..self.nothing() }
    }

    /// The step that changes nothing.
    fn nothing(&self) -> Step {
        let (before, next) = (Arc::clone(&self.state), Arc::clone(&self.state));
        let (events, nodes) = (Vec::new(), Vec::new());
        let (log, documents) = (self.log.clone(), Vec::new());
        Step {
            before,
            next,
            events,
            log,
            nodes,
            documents,
            noted: None,
            exported: None,
            strangers: None,
            late: None,
            refused: None,
        }
    }

    /// The same step, whose entry of the fitting kind vouches for a document.
    fn vouch(&self, mut step: Step, document: Document) -> Step {
        let fits = |event: &&mut EventRow| document.kind.is_of(&event.kind);
        let Some(event) = step.events.iter_mut().find(fits) else { return step };
        event.document = Some(document.digest);
        let mut log = self.log.clone();
        let nodes = step.events.iter().flat_map(|event| log.push(event)).collect();
        Step { log, nodes, documents: vec![document], ..step }
    }
}

impl Step {
    /// What is to be saved before the step is installed.
    pub fn change(&self) -> Change<'_> {
        let change = self.next.change_since(&self.before, self.events.clone());
        let (nodes, documents) = (self.nodes.clone(), self.documents.clone());
        Change { nodes, documents, ..change }
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
