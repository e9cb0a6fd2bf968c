//! The coordinator's shell, as a model of the real one in `driver/work.rs`: it asks the real
//! core for steps, saves them, and does what is owed. What lies in memory dies with it.

use std::time::Duration;

use fedpaint_coordinator::aggregate::Aggregate;
use fedpaint_coordinator::driver::Error;
use fedpaint_coordinator::driver::core::{Core, Request, Step};
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::reason::Reason;
use jiff::Timestamp;

use super::database::{Database, Fault};
use super::disk::Disk;
use super::ledger::{Invariant, Part, model_text, sealed_set};
use super::network::Failed;
use super::world::{Bug, Event, World};

/// How soon a site is told to ask again.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long the driver waits before it tries again what the database has failed to save.
const SAVE_RETRY: Duration = Duration::from_secs(5);

/// How long the driver waits before it makes an average again for which the disk had no room.
const AVERAGE_RETRY: Duration = Duration::from_secs(5);

/// How late a timer is at most, in milliseconds.
const LATE_MS: u64 = 50;

/// The most steps that time alone makes due at once.
const STEPS_MAX: u32 = 1_000;

/// A coordinator: what lasts, and the process if there is one.
#[derive(Debug)]
pub struct Coordinator {
    pub(super) disk: Disk,
    pub(super) database: Database,
    pub(super) process: Option<Process>,
    /// Kill the process after, or before, so many saves.
    pub(super) dies: Option<(u64, bool)>,
}

/// What dies with the process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) core: Core,
    pub(super) boot: u64,
    averaging: bool,
    retry_at: Option<Timestamp>,
    /// The timer that is set: for which time, and its number.
    wake: Option<(Timestamp, u64)>,
    /// Whether the last save failed, so that only the database knows what holds.
    in_doubt: bool,
    /// When its timer last fired; for the bug.
    looked_at: Timestamp,
}

/// An average in the making: of which round, from which base, of which updates.
#[derive(Debug)]
pub(super) struct Averaging {
    round: RoundId,
    base: Digest,
    parts: Vec<Part>,
    /// What late updates were trained from.
    bases: Vec<Digest>,
}

/// Why a change has not happened.
#[derive(Debug)]
pub(super) enum Stopped {
    /// It was refused, or not saved.
    Refused(Reason),
    /// The process is dead.
    Dead,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Stopped {
        Stopped::Refused(error.reason())
    }
}

impl Coordinator {
    pub(super) fn new(bug: Option<Bug>) -> Coordinator {
        let disk = Disk::new(bug == Some(Bug::AckBeforeFsync));
        Coordinator { disk, database: Database::new(bug), process: None, dies: None }
    }
}

impl World {
    /// Starts the coordinator over what it saved, if it does not run.
    pub(super) fn start(&mut self) {
        if self.coordinator.process.is_some() {
            return;
        }
        let Coordinator { database, disk, .. } = &self.coordinator;
        let core = Core::load(database.load(), HEARTBEAT);
        self.ledger.restarted(&core, database, disk);
        let (boot, looked_at) = (self.number(), self.now);
        self.coordinator.process = Some(Process {
            core,
            boot,
            averaging: false,
            retry_at: None,
            wake: None,
            in_doubt: false,
            looked_at,
        });
        self.note(format_args!("the coordinator starts"));
        self.work();
    }

    /// Kills the coordinator; everybody who waits for it notices.
    pub(super) fn kill(&mut self) {
        if self.coordinator.process.take().is_none() {
            return;
        }
        self.coordinator.dies = None;
        self.note(format_args!("the coordinator dies"));
        for site in 0..self.sites.len() {
            for call in self.sites[site].waits_for() {
                self.answer(site, call, Err(Failed::Network));
            }
        }
    }

    /// The coordinator's machine loses power.
    pub(super) fn lose_power(&mut self) {
        self.kill();
        let Coordinator { database, disk, .. } = &mut self.coordinator;
        disk.lose_power(&mut self.dice);
        self.ledger.all_there(database, disk);
    }

    /// Acts on a request, and on the time before it.
    pub(super) fn request(&mut self, request: Request) -> Result<(), Stopped> {
        match self.settle() {
            Err(Stopped::Dead) => return Err(Stopped::Dead),
            Err(Stopped::Refused(_)) => self.retry_later(),
            Ok(()) => {}
        }
        self.change(request)
    }

    fn change(&mut self, request: Request) -> Result<(), Stopped> {
        self.be_certain()?;
        let now = self.clock();
        let step = self.process()?.core.apply(request, now)?;
        self.save(step)
    }

    /// The time as the core hears it; with the bug, it is told by nothing but its timer.
    pub(super) fn clock(&self) -> Timestamp {
        match &self.coordinator.process {
            Some(process) if self.bug == Some(Bug::SkipTimeFirst) => process.looked_at,
            _ => self.now,
        }
    }

    /// After a save that may or may not have happened, the database says what holds.
    fn be_certain(&mut self) -> Result<(), Stopped> {
        let Coordinator { database, process, .. } = &mut self.coordinator;
        let process = process.as_mut().ok_or(Stopped::Dead)?;
        if std::mem::take(&mut process.in_doubt) {
            process.core.reload(database.load());
        }
        Ok(())
    }

    pub(super) fn settle(&mut self) -> Result<(), Stopped> {
        self.be_certain()?;
        for _ in 0..STEPS_MAX {
            let now = self.clock();
            let Some(step) = self.process()?.core.settle(now) else { return Ok(()) };
            self.save(step)?;
        }
        self.ledger.broke(Invariant::Liveness, "time alone never comes to an end".to_owned());
        Err(Stopped::Dead)
    }

    fn save(&mut self, step: Step) -> Result<(), Stopped> {
        let change = step.change();
        if !change.is_empty() {
            let dies = self.is_to_die();
            if dies == Some(true) {
                self.kill();
                return Err(Stopped::Dead);
            }
            match self.coordinator.database.save(&change) {
                Ok(()) => {}
                Err(Fault::Failed) if self.bug == Some(Bug::ShowUnsaved) => {}
                Err(Fault::Failed) => {
                    self.process()?.in_doubt = true;
                    return Err(Stopped::Refused(Reason::Internal));
                }
                Err(Fault::Doubt) => {
                    let Coordinator { database, disk, .. } = &self.coordinator;
                    self.ledger.saved(&change, database, disk, self.now);
                    self.process()?.in_doubt = true;
                    return Err(Stopped::Refused(Reason::Internal));
                }
                Err(Fault::Gap { newest, found }) => {
                    let detail = format!("audit entry {found} after {newest}");
                    self.ledger.broke(Invariant::Heads, detail);
                }
                Err(Fault::Nodes { size }) => {
                    let detail = format!("the log's tree is not that over its {size} entries");
                    self.ledger.broke(Invariant::Heads, detail);
                }
            }
            for event in &change.events {
                self.note(format_args!("{} {}: {}", event.actor, event.kind, event.detail));
            }
            let Coordinator { database, disk, .. } = &self.coordinator;
            self.ledger.saved(&change, database, disk, self.now);
            if dies == Some(false) {
                self.kill();
                return Err(Stopped::Dead);
            }
        }
        if let Some(process) = &mut self.coordinator.process {
            process.core.install(step);
        }
        Ok(())
    }

    /// Whether this save is the one to die at, and then whether before it.
    fn is_to_die(&mut self) -> Option<bool> {
        let (count, before) = self.coordinator.dies.as_mut()?;
        *count = count.saturating_sub(1);
        (*count == 0).then_some(*before)
    }

    pub(super) fn process(&mut self) -> Result<&mut Process, Stopped> {
        self.coordinator.process.as_mut().ok_or(Stopped::Dead)
    }

    fn retry_later(&mut self) {
        let retry_at = self.now.checked_add(SAVE_RETRY).ok();
        if let Some(process) = &mut self.coordinator.process {
            process.retry_at = retry_at;
        }
    }

    /// Does what is owed, and sets the timer for when time next changes anything.
    pub(super) fn work(&mut self) {
        let now = self.now;
        let Ok(process) = self.process() else { return };
        if let Some(time) = process.retry_at.filter(|time| now < *time) {
            return self.wake_at(time);
        }
        process.retry_at = None;
        match self.settle() {
            Err(Stopped::Dead) => return,
            Err(Stopped::Refused(_)) => {
                self.retry_later();
                return self.wake_at(now.checked_add(SAVE_RETRY).unwrap_or(Timestamp::MAX));
            }
            Ok(()) => {}
        }
        self.begin_average();
        if let Some(deadline) = self.process().ok().and_then(|process| process.core.deadline()) {
            self.wake_at(deadline);
        }
    }

    fn wake_at(&mut self, time: Timestamp) {
        let turn = self.number();
        let late = Duration::from_millis(self.dice.below(LATE_MS));
        let Ok(process) = self.process() else { return };
        if process.wake.is_some_and(|(set, _)| set == time) {
            return;
        }
        process.wake = Some((time, turn));
        self.at(time.checked_add(late).unwrap_or(time), Event::Wake { turn });
    }

    /// The timer fires; one that was set anew meanwhile does nothing.
    pub(super) fn wake(&mut self, turn: u64) {
        if let Some(process) = &mut self.coordinator.process
            && process.wake.is_some_and(|(_, set)| set == turn)
        {
            process.wake = None;
            process.looked_at = self.now;
            self.work();
        }
    }

    fn begin_average(&mut self) {
        let wait = Duration::from_millis(self.dice.between(50, 3_000));
        let Ok(process) = self.process() else { return };
        if process.averaging {
            return;
        }
        let Some((run, reports)) = process.core.aggregation() else { return };
        let (round, parts) = (run.round(), sealed_set(run.round()));
        let order = reports.iter().map(|(site, _)| *site).chain(round.late().keys());
        if !order.eq(parts.iter().map(|part| &part.site)) {
            let detail = format!("round {} is averaged out of its order", round.id());
            self.ledger.broke(Invariant::CountedOnce, detail);
            return;
        }
        let bases = round.late().values().map(|late| late.base.digest).collect();
        let (round, base) = (round.id().clone(), run.model().digest);
        let averaging = Averaging { round, base, parts, bases };
        process.averaging = true;
        let boot = process.boot;
        self.after(wait, Event::Averaged { boot, averaging });
    }

    /// The average is computed, and its files get their names.
    pub(super) fn averaged(&mut self, boot: u64, averaging: Averaging) {
        if self.process().map(|process| process.boot).ok() != Some(boot) {
            return;
        }
        if self.coordinator.disk.full {
            if self.bug == Some(Bug::GiveUpFullDisk) {
                return;
            }
            return self.after(AVERAGE_RETRY, Event::Averaged { boot, averaging });
        }
        let round = averaging.round.clone();
        let outcome = self.average(&averaging);
        let wait = Duration::from_millis(self.dice.between(1, 200));
        self.after(wait, Event::Aggregated { boot, round, outcome });
    }

    fn average(&mut self, averaging: &Averaging) -> Result<Aggregate<Blob>, String> {
        let Averaging { round, base, parts, bases } = averaging;
        let disk = &mut self.coordinator.disk;
        let mut parts = parts.clone();
        if self.bug == Some(Bug::LeaveOutDamaged) {
            parts.retain(|part| disk.read_whole(&part.digest).is_some());
        }
        for digest in parts.iter().map(|part| &part.digest).chain(bases).chain([base]) {
            if disk.read_whole(digest).is_none() {
                disk.set_aside(digest);
                return Err(format!("blob {} is damaged", digest.short()));
            }
        }
        let text = model_text(round.number, base, &parts);
        let full = |error: fedpaint_coordinator::blobs::Error| error.to_string();
        let model = disk.adopt(text.as_bytes()).map_err(full)?;
        let ema = disk.adopt(format!("average of {}", model.digest).as_bytes()).map_err(full)?;
        Ok(Aggregate { ema: Some(ema), ..Aggregate::of(model) })
    }

    /// The driver hears of an average.
    pub(super) fn aggregated(
        &mut self,
        boot: u64,
        round: RoundId,
        outcome: Result<Aggregate<Blob>, String>,
    ) {
        let Ok(process) = self.process() else { return };
        if process.boot != boot {
            return;
        }
        process.averaging = false;
        // A round that an operator gave up meanwhile needs no model.
        let changed = self.change(Request::Aggregated(round, outcome.map(Into::into)));
        if let Err(Stopped::Refused(Reason::Internal)) = changed {
            self.retry_later();
        }
        self.work();
    }
}
