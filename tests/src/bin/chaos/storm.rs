//! The kills: who is killed when and where, and who is started again.
//!
//! One loop over all processes. Each has its own seeded schedule: a pause, then a SIGKILL at that
//! instant, or at the next time the process reaches a named place. Whatever ends is started again at
//! once, as a service manager does; nothing else is ever done to help.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context;
use fedpaint_tests::process::{children, kill};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::federation::Federation;
use crate::say;
use crate::watch::{Seen, Watch};

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(4);

/// The mean pause of a process between being up and its next kill, where kills are in time.
const PAUSE: Duration = Duration::from_millis(900);

/// How long a named place may take to be reached before the process is killed where it is; the rule
/// then holds for its next start.
const PLACE_MAX: Duration = Duration::from_secs(4);

/// How long the run may stand still before the kills are called to blame.
const STUCK: Duration = Duration::from_secs(240);

/// How long an agent lives on after a place was reached until it is sure that it was its trainer.
const TRAINER_GRACE: Duration = Duration::from_millis(60);

/// SIGKILL's number.
pub(crate) const SIGKILL: i32 = 9;

/// Rounds at the end that are left to those kills that are behind.
const ROUNDS_LEFT: u32 = 2;

/// What the storm is to do.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// How many kills.
    pub(crate) count: u32,
    /// In how many rounds.
    pub(crate) rounds: u32,
    /// What is random follows from this.
    pub(crate) seed: u64,
    /// The coordinator's places.
    pub(crate) coordinator: Vec<String>,
    /// The agents' and trainers' places.
    pub(crate) sites: Vec<String>,
}

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Kills of the coordinator, of agents and of trainers.
    pub(crate) coordinator: u32,
    pub(crate) agents: u32,
    pub(crate) trainers: u32,
    /// Kills by the place at which they happened.
    pub(crate) places: BTreeMap<String, u32>,
    /// From the coordinator's start to its serving, in seconds, every time.
    pub(crate) restarts_s: Vec<f64>,
    /// Places that were waited for in vain.
    pub(crate) missed: BTreeMap<String, u32>,
    /// Processes that ended without being killed; somebody would have to look.
    pub(crate) surprises: Vec<String>,
}

impl Report {
    /// All kills.
    pub(crate) fn kills(&self) -> u32 {
        self.coordinator + self.agents + self.trainers
    }
}

/// A process that may be killed: the coordinator, or the agent of a site with its trainer.
struct Victim {
    site: Option<usize>,
    rng: ChaCha12Rng,
    /// When the next kill is due.
    next: Instant,
    /// Every second kill is at a place.
    at_place: bool,
    /// Where it is to be killed.
    trap: Option<Trap>,
    /// When it was started, while it does not serve yet.
    starting: Option<Instant>,
}

/// A place at which a process is to be killed.
#[derive(Clone)]
struct Trap {
    place: String,
    until: Instant,
    /// When the place was seen to be reached while the agent lives on: it was its trainer then.
    reached: Option<Instant>,
    /// Whether the process was killed elsewhere already because it did not get there.
    carried: bool,
}

/// Kills, and starts again, until the run is finished.
///
/// # Errors
/// If the run is stuck or paused, or a program does not start at all.
pub(crate) async fn rage(
    federation: &mut Federation,
    orders: &Orders,
    watch: &Watch,
) -> anyhow::Result<Report> {
    let mut storm = Storm::new(federation.sites.len(), orders);
    let (mut committed, mut since) = (0, Instant::now());
    loop {
        let seen = watch.seen();
        if seen.is_finished() && storm.victims.iter().all(|victim| victim.starting.is_none()) {
            storm.victims.iter().try_for_each(|victim| disarm(victim, federation))?;
            return Ok(storm.report);
        }
        if let Some(reason) = &seen.paused {
            anyhow::bail!("the run is paused: {reason}");
        }
        if seen.committed != committed {
            (committed, since) = (seen.committed, Instant::now());
            storm.committed = committed;
            let kills = storm.report.kills();
            say(&format!("round {committed} of {}: {kills} kills", orders.rounds));
        }
        anyhow::ensure!(since.elapsed() < STUCK, "no round since {committed} was committed");
        for i in 0..storm.victims.len() {
            storm.look(i, federation, &seen)?;
        }
        tokio::time::sleep(LOOK).await;
    }
}

struct Storm<'a> {
    orders: &'a Orders,
    victims: Vec<Victim>,
    report: Report,
    /// Rounds committed, as last seen.
    committed: u32,
}

impl<'a> Storm<'a> {
    fn new(sites: usize, orders: &'a Orders) -> Storm<'a> {
        let now = Instant::now();
        let victim = |(stream, site)| {
            let mut rng = ChaCha12Rng::seed_from_u64(orders.seed);
            rng.set_stream(stream);
            let next = now + pause(&mut rng, 1.0);
            Victim { site, rng, next, at_place: stream % 2 == 0, trap: None, starting: None }
        };
        let sites = std::iter::once(None).chain((0..sites).map(Some));
        let victims = (0..).zip(sites).map(victim).collect();
        Storm { orders, victims, report: Report::default(), committed: 0 }
    }

    /// Kills that should have happened once so many rounds are committed.
    fn due(&self, committed: u32) -> u32 {
        let Orders { count, rounds, .. } = *self.orders;
        let over = rounds.saturating_sub(ROUNDS_LEFT).max(1);
        (count * committed.min(over)).div_ceil(over)
    }

    /// Looks after one process.
    fn look(&mut self, i: usize, federation: &mut Federation, seen: &Seen) -> anyhow::Result<()> {
        let now = Instant::now();
        if let Some(status) = ended(&self.victims[i], federation)? {
            return self.bury(i, status, federation);
        }
        self.note_serving(i, federation)?;
        self.note_reached(i, federation)?;
        let victim = &self.victims[i];
        match &victim.trap {
            Some(trap) if trap.reached.is_some_and(|at| now >= at + TRAINER_GRACE) => {
                self.trainer_died(i, federation)
            }
            Some(trap) if trap.reached.is_none() && now >= trap.until => self.miss(i, federation),
            Some(_) => Ok(()),
            None if now >= victim.next && victim.starting.is_none() => {
                self.strike(i, federation, seen)
            }
            None => Ok(()),
        }
    }

    fn note_serving(&mut self, i: usize, federation: &mut Federation) -> anyhow::Result<()> {
        let victim = &mut self.victims[i];
        if let Some(begun) = victim.starting
            && federation.lab.coordinator_serves()?
        {
            self.report.restarts_s.push(begun.elapsed().as_secs_f64());
            victim.starting = None;
        }
        Ok(())
    }

    fn note_reached(&mut self, i: usize, federation: &mut Federation) -> anyhow::Result<()> {
        let Victim { site: Some(site), trap: Some(trap), .. } = &mut self.victims[i] else {
            return Ok(());
        };
        if trap.reached.is_none() && federation.sites[*site].points.reached()?.contains(&trap.place)
        {
            trap.reached = Some(Instant::now());
        }
        Ok(())
    }

    /// Kills the process now, or sets a trap; unless enough were killed.
    fn strike(&mut self, i: usize, federation: &mut Federation, seen: &Seen) -> anyhow::Result<()> {
        let traps = self.victims.iter().filter(|victim| victim.trap.is_some()).count() as u32;
        let begun = self.report.kills() + traps;
        if seen.is_finished() || begun >= self.due(seen.committed + 1).min(self.orders.count) {
            return Ok(());
        }
        let place = self.choose_place(i);
        let victim = &mut self.victims[i];
        victim.at_place = !victim.at_place;
        if let Some(place) = place.filter(|_| victim.at_place) {
            let until = Instant::now() + PLACE_MAX;
            self.set_trap(i, Trap { place, until, reached: None, carried: false }, federation)
        } else if victim.site.is_some() && victim.rng.random_range(0..3) == 0 {
            let agent = victim.site.and_then(|site| federation.sites[site].agent.as_ref());
            for child in agent.map(|agent| children(agent.id())).unwrap_or_default() {
                kill(child);
                self.report.trainers += 1;
            }
            self.rest(i);
            Ok(())
        } else {
            let status = kill_process(victim, federation)?;
            self.bury(i, status, federation)
        }
    }

    /// The place with the fewest kills, so that each has its share.
    fn choose_place(&mut self, i: usize) -> Option<String> {
        let Victim { site, rng, .. } = &mut self.victims[i];
        let places = if site.is_none() { &self.orders.coordinator } else { &self.orders.sites };
        let tries = |place: &String| {
            let kills = self.report.places.get(place).copied().unwrap_or(0);
            kills + self.report.missed.get(place).copied().unwrap_or(0)
        };
        let fewest = places.iter().map(tries).min()?;
        let rarest: Vec<&String> = places.iter().filter(|place| tries(place) == fewest).collect();
        Some(rarest[rng.random_range(0..rarest.len())].clone())
    }

    fn set_trap(
        &mut self,
        i: usize,
        trap: Trap,
        federation: &mut Federation,
    ) -> anyhow::Result<()> {
        let rule = format!("{} kill", trap.place);
        match self.victims[i].site {
            None => federation.points.arm(&rule)?,
            Some(site) => {
                // What was reached before does not count.
                federation.sites[site].points.reached()?;
                federation.sites[site].points.arm(&rule)?;
            }
        }
        self.victims[i].trap = Some(trap);
        Ok(())
    }

    /// The place was not reached in time. Some are reached only at a start, so there is one.
    fn miss(&mut self, i: usize, federation: &mut Federation) -> anyhow::Result<()> {
        let Some(trap) = self.victims[i].trap.take() else { return Ok(()) };
        if trap.carried {
            *self.report.missed.entry(trap.place).or_default() += 1;
            self.rest(i);
            return disarm(&self.victims[i], federation);
        }
        let status = kill_process(&self.victims[i], federation)?;
        self.count(i, status, federation);
        let until = Instant::now() + PLACE_MAX;
        self.set_trap(i, Trap { until, carried: true, ..trap }, federation)?;
        self.start_again(i, federation)
    }

    fn trainer_died(&mut self, i: usize, federation: &mut Federation) -> anyhow::Result<()> {
        let Some(trap) = self.victims[i].trap.take() else { return Ok(()) };
        *self.report.places.entry(trap.place).or_default() += 1;
        self.report.trainers += 1;
        self.rest(i);
        disarm(&self.victims[i], federation)
    }

    /// Counts a process that has ended, and starts it again.
    fn bury(
        &mut self,
        i: usize,
        status: ExitStatus,
        federation: &mut Federation,
    ) -> anyhow::Result<()> {
        self.count(i, status, federation);
        disarm(&self.victims[i], federation)?;
        self.start_again(i, federation)
    }

    fn count(&mut self, i: usize, status: ExitStatus, federation: &Federation) {
        let site = self.victims[i].site;
        let trap = self.victims[i].trap.take();
        if status.signal() != Some(SIGKILL) {
            let name = site.map_or("the coordinator", |site| &federation.sites[site].name);
            say(&format!("{name} ended by itself: {status}"));
            self.report.surprises.push(format!("{name}: {status}"));
            return;
        }
        let kills =
            if site.is_none() { &mut self.report.coordinator } else { &mut self.report.agents };
        *kills += 1;
        if let Some(trap) = trap {
            *self.report.places.entry(trap.place).or_default() += 1;
        }
    }

    fn start_again(&mut self, i: usize, federation: &mut Federation) -> anyhow::Result<()> {
        match self.victims[i].site {
            None => {
                federation.lab.launch_coordinator()?;
                self.victims[i].starting = Some(Instant::now());
            }
            Some(site) => federation.start_agent(site)?,
        }
        self.rest(i);
        Ok(())
    }

    /// The pause until the next kill, shorter where kills are behind.
    fn rest(&mut self, i: usize) {
        let behind = self.due(self.committed) > self.report.kills();
        let victim = &mut self.victims[i];
        victim.next = Instant::now() + pause(&mut victim.rng, if behind { 0.3 } else { 1.0 });
    }
}

fn ended(victim: &Victim, federation: &mut Federation) -> anyhow::Result<Option<ExitStatus>> {
    match victim.site {
        None => federation.lab.coordinator()?.ended(),
        Some(site) => federation.sites[site].agent.as_mut().context("an agent")?.ended(),
    }
}

fn kill_process(victim: &Victim, federation: &mut Federation) -> anyhow::Result<ExitStatus> {
    match victim.site {
        None => federation.lab.coordinator()?.kill(),
        Some(site) => federation.sites[site].agent.as_mut().context("an agent")?.kill(),
    }
}

fn disarm(victim: &Victim, federation: &Federation) -> anyhow::Result<()> {
    match victim.site {
        None => federation.points.disarm(),
        Some(site) => federation.sites[site].points.disarm(),
    }
}

fn pause(rng: &mut ChaCha12Rng, part: f64) -> Duration {
    PAUSE.mul_f64(part * rng.random_range(0.0..2.0))
}
