//! The federation as one value, and its virtual time: what is due, in order, and nothing beside it.

use std::collections::BTreeMap;
use std::fmt::{Arguments, Write};
use std::time::Duration;

use fedpaint_coordinator::aggregate::Aggregate;
use fedpaint_coordinator::driver::core::Submission;
use fedpaint_coordinator::round::Update;
use fedpaint_proto::names::{Blob, RoundId, RunName};
use jiff::Timestamp;

use super::coordinator::{Averaging, Coordinator};
use super::dice::Dice;
use super::ledger::Ledger;
use super::network::{Ask, Failed, Heard, Link};
use super::op::SITES;
use super::site::Site;

/// The purpose of the stream that a history's chance is drawn from.
const STREAM: u64 = 2;

/// How late the coordinator's timer may be after the clock was set: it looks again every so often.
const LOOK_AGAIN_MS: u64 = 30_000;

/// A known bug, to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bug {
    /// What arrives is acted on before a deadline that has come.
    SkipTimeFirst,
    /// A blob is named, and its receipt given, before its bytes are synced.
    AckBeforeFsync,
    /// A receipt is given although the database has not saved the update.
    AckBeforeSave,
    /// An update that is damaged is left out of its average, and the round goes on.
    LeaveOutDamaged,
    /// A start takes the initial model for the newest one.
    ForgetModel,
    /// A start lets in who was revoked.
    ForgetRevoked,
    /// A step is shown though it was not saved.
    ShowUnsaved,
    /// An average for which the disk has no room is never begun again.
    GiveUpFullDisk,
}

/// What is due at a time.
#[derive(Debug)]
pub(super) enum Event {
    /// A site's call arrives.
    Request { site: usize, call: u64, ask: Ask },
    /// Its answer arrives, or never will.
    Answer { site: usize, call: u64, answer: Result<Heard, Failed> },
    /// A site is to send a heartbeat.
    BeatDue { site: usize, turn: u64 },
    /// A site's job is to go on.
    JobDue { site: usize, job: u64 },
    /// The coordinator's timer.
    Wake { turn: u64 },
    /// The coordinator has read an update.
    Checked { boot: u64, site: usize, call: u64, submission: Submission, update: Update },
    /// The coordinator has computed an average, and names its files.
    Averaged { boot: u64, averaging: Averaging },
    /// The coordinator hears that its average is there.
    Aggregated { boot: u64, round: RoundId, outcome: Result<Aggregate<Blob>, String> },
}

/// The federation.
#[derive(Debug)]
pub struct World {
    pub(super) now: Timestamp,
    pub(super) dice: Dice,
    pub(super) coordinator: Coordinator,
    pub(super) sites: Vec<Site>,
    pub(super) links: Vec<Link>,
    pub(super) ledger: Ledger,
    pub(super) bug: Option<Bug>,
    pub(super) run: RunName,
    queue: BTreeMap<(Timestamp, u64), Event>,
    numbers: u64,
    trace: blake3::Hasher,
    line: String,
    /// The trace as text, where it is wanted.
    log: Option<Vec<String>>,
}

impl World {
    /// A federation before anything has happened.
    ///
    /// # Errors
    /// If its names or its plan do not parse.
    pub(super) fn new(seed: u64, bug: Option<Bug>, log: bool) -> anyhow::Result<World> {
        Ok(World {
            now: Timestamp::UNIX_EPOCH,
            dice: Dice::new(seed, STREAM),
            coordinator: Coordinator::new(bug),
            sites: (0..SITES).map(Site::new).collect::<anyhow::Result<_>>()?,
            links: (0..SITES).map(|_| Link::default()).collect(),
            ledger: Ledger::default(),
            bug,
            run: "brain".parse()?,
            queue: BTreeMap::new(),
            numbers: 0,
            trace: blake3::Hasher::new(),
            line: String::new(),
            log: log.then(Vec::new),
        })
    }

    /// A number that was not given before.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Has something happen after a while.
    pub(super) fn after(&mut self, wait: Duration, event: Event) {
        let at = self.now.checked_add(wait).unwrap_or(Timestamp::MAX);
        self.at(at, event);
    }

    /// Has something happen at a time.
    pub(super) fn at(&mut self, time: Timestamp, event: Event) {
        let number = self.number();
        self.queue.insert((time.max(self.now), number), event);
    }

    /// Lets time pass until `end`, and everything happen that is due by then.
    pub(super) fn pass_until(&mut self, end: Timestamp) {
        while self.ledger.broken.is_none() {
            let Some(first) = self.queue.first_entry().filter(|first| first.key().0 <= end) else {
                break;
            };
            let ((time, _), event) = first.remove_entry();
            self.now = time;
            self.happen(event);
        }
        self.now = self.now.max(end);
    }

    /// Lets a while pass.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now.checked_add(Duration::from_millis(ms));
        self.pass_until(end.unwrap_or(Timestamp::MAX));
    }

    /// Sets the clocks forward. What waits for a while waits as long as before; what waits for a time
    /// notices a little later.
    pub(super) fn jump(&mut self, ms: u64) {
        let by = Duration::from_millis(ms);
        let later = |time: Timestamp| time.checked_add(by).unwrap_or(Timestamp::MAX);
        self.now = later(self.now);
        for ((time, number), event) in std::mem::take(&mut self.queue) {
            let time = if matches!(event, Event::Wake { .. }) {
                let noticed = Duration::from_millis(self.dice.below(LOOK_AGAIN_MS));
                time.max(self.now.checked_add(noticed).unwrap_or(Timestamp::MAX))
            } else {
                later(time)
            };
            self.queue.insert((time, number), event);
        }
        for link in &mut self.links {
            link.cut_until = link.cut_until.map(later);
        }
    }

    /// Notes what happened: in the digest of the history, and as text where that is wanted.
    pub(super) fn note(&mut self, what: Arguments<'_>) {
        self.line.clear();
        let now = self.now.as_millisecond();
        // Writing to a text does not fail.
        let _ = writeln!(self.line, "{now} {what}");
        self.trace.update(self.line.as_bytes());
        if let Some(log) = &mut self.log {
            log.push(self.line.trim_end().to_owned());
        }
    }

    /// The digest of everything that happened, and the text of it.
    pub(super) fn trace(self) -> (String, Vec<String>) {
        (self.trace.finalize().to_hex().to_string(), self.log.unwrap_or_default())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Request { site, call, ask } => self.arrived(site, call, ask),
            Event::Answer { site, call, answer } => self.heard(site, call, answer),
            Event::BeatDue { site, turn } => self.beat(site, turn),
            Event::JobDue { site, job } => self.job_due(site, job),
            Event::Wake { turn } => self.wake(turn),
            Event::Checked { boot, site, call, submission, update } => {
                self.checked(boot, (site, call), &submission, update);
            }
            Event::Averaged { boot, averaging } => self.averaged(boot, averaging),
            Event::Aggregated { boot, round, outcome } => self.aggregated(boot, round, outcome),
        }
    }
}
