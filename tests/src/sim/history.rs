//! A history: the operations of a seed done to a federation, and what is demanded of it afterwards.

use std::time::Duration;

use fedpaint_coordinator::driver::core::{Command, Request, Sight, Verdict};
use fedpaint_coordinator::run::State;
use fedpaint_proto::names::{OperatorName, RoundId};
use fedpaint_proto::plan::{LatePolicy, RoundPlan, RunPlan};

use super::dice::Dice;
use super::ledger::{Broken, Invariant};
use super::op::{Op, SITES};
use super::world::{Bug, World};

/// The rounds of the run.
const ROUNDS: u32 = 10;

/// The purpose of the stream that a plan is drawn from.
const STREAM: u64 = 3;

/// How the rounds of a seed are held: half of them fold late updates in, and most deadlines stretch.
fn round_plan(seed: u64) -> RoundPlan {
    let mut dice = Dice::new(seed, STREAM);
    RoundPlan {
        sites_min: 2,
        sites_goal: SITES as u32,
        selection_s: 30,
        reporting_s: if dice.percent(50) { 240 } else { 40 },
        failures_max: 3,
        stretch_s: if dice.percent(25) { 0 } else { 120 },
        late: if dice.percent(50) { LatePolicy::Fold } else { LatePolicy::Drop },
        late_rounds_max: 1 + dice.below(3) as u32,
    }
}

/// What a round takes beside its two phases, at most: its average and the retries of saving it.
const REST_S: u64 = 60;

/// How much time passes between two looks at a run that is to end.
const LOOK_MS: u64 = 10_000;

/// What came of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The digest of everything that happened.
    pub digest: String,
    /// Rounds committed.
    pub rounds: u64,
    /// Attempts at rounds that were opened.
    pub attempts: u64,
    /// Virtual seconds.
    pub seconds: u64,
    /// What was broken.
    pub broken: Option<Broken>,
    /// What happened, line by line, where that was asked for.
    pub log: Vec<String>,
}

/// Plays a history.
///
/// # Errors
/// If the simulation itself is wrong, such as in a name.
pub fn play(seed: u64, ops: &[Op], bug: Option<Bug>, log: bool) -> anyhow::Result<Outcome> {
    let mut world = World::new(seed, bug, log)?;
    let operator: OperatorName = "ada".parse()?;
    let plan = round_plan(seed);
    world.found(&operator, &plan)?;
    for op in ops {
        if world.ledger.broken.is_some() {
            break;
        }
        world.note(format_args!("# {op}"));
        world.perform(&operator, *op);
    }
    world.come_to_an_end(&operator, &plan);
    let super::coordinator::Coordinator { database, disk, .. } = &world.coordinator;
    world.ledger.ended(database, disk);
    let rounds = world.ledger.committed();
    let attempts = world.ledger.attempts;
    let seconds = u64::try_from(world.now.as_second()).unwrap_or(0);
    let broken = world.ledger.broken.take();
    let (digest, log) = world.trace();
    Ok(Outcome { digest, rounds, attempts, seconds, broken, log })
}

impl World {
    /// Lets every site in, creates the run and starts everybody.
    fn found(&mut self, operator: &OperatorName, round: &RoundPlan) -> anyhow::Result<()> {
        self.start();
        for site in 0..SITES {
            self.enroll(operator, site);
        }
        let mut plan = RunPlan::from_toml(&format!("version = 1\nrounds = {ROUNDS}"))?;
        plan.round = round.clone();
        let initial = self.coordinator.disk.adopt(b"model 0")?;
        let (run, plan) = (self.run.clone(), Box::new(plan.into()));
        self.operate(Request::Create(operator.clone(), run, plan, initial));
        for site in 0..SITES {
            self.start_site(site);
        }
        Ok(())
    }

    /// What an operator asks for; a refusal, or a coordinator that is down, is the operator's to see.
    fn operate(&mut self, request: Request) {
        let _ = self.request(request);
        self.work();
    }

    /// Lets a site in, also one that the operator sees revoked.
    fn enroll(&mut self, operator: &OperatorName, site: usize) {
        let name = self.sites[site].name.clone();
        let revoked = self.coordinator.database.revoked_at(&name);
        self.operate(Request::Enroll(operator.clone(), name, revoked));
    }

    fn perform(&mut self, operator: &OperatorName, op: Op) {
        let site = |site: u64| usize::try_from(site).unwrap_or(0) % SITES;
        let ms = Duration::from_millis;
        match op {
            Op::Advance { ms } => self.pass(ms),
            Op::Jump { ms } => self.jump(ms),
            Op::Beat { site: at } => self.hurry(site(at)),
            Op::Cut { site: at, ms: time } => {
                let until = self.now.checked_add(ms(time)).ok();
                self.links[site(at)].cut_until = until;
            }
            Op::DropRequests { site: at, count } => self.links[site(at)].requests_lost = count,
            Op::DropReplies { site: at, count } => self.links[site(at)].answers_lost = count,
            Op::Delay { site: at, ms: time } => self.links[site(at)].delay = ms(time),
            Op::Replay { site: at, ms: time } => self.replay(site(at), ms(time)),
            Op::Corrupt { site: at } => self.links[site(at)].corrupt = true,
            Op::Crash {} => self.kill(),
            Op::PowerLoss {} => self.lose_power(),
            Op::CrashAtSave { count, before } => {
                self.coordinator.dies = Some((count, before == 1));
            }
            Op::Restart {} => self.start(),
            Op::CrashSite { site: at } => self.kill_site(site(at)),
            Op::RestartSite { site: at } => self.start_site(site(at)),
            Op::Slow { site: at, factor } => self.sites[site(at)].slow = factor.max(1),
            Op::Revoke { site: at } => {
                let name = self.sites[site(at)].name.clone();
                self.operate(Request::Revoke(operator.clone(), name, Sight::Unsaid));
            }
            Op::Enroll { site: at } => self.enroll(operator, site(at)),
            Op::Close {} => self.verdict(operator, Verdict::Close),
            Op::Abandon {} => self.verdict(operator, Verdict::Abandon("no more".to_owned())),
            Op::Pause {} => self.command(operator, Command::Pause(None)),
            Op::Resume {} => self.command(operator, Command::Resume(None)),
            Op::DiskFull {} => self.coordinator.disk.full = true,
            Op::DiskFree {} => self.coordinator.disk.full = false,
            Op::SiteDiskFull { site: at } => self.sites[site(at)].workspace.full = true,
            Op::SiteDiskFree { site: at } => self.sites[site(at)].workspace.full = false,
            Op::SavesFail { count } => self.coordinator.database.failing = count,
            Op::SavesDoubtful { count } => self.coordinator.database.doubtful = count,
            Op::FlipBlob { pick } => drop(self.coordinator.disk.flip(pick)),
            Op::FlipUpdate { site: at } => {
                let trained = self.sites[site(at)].workspace.trained.as_mut();
                if let Some(byte) = trained.and_then(|trained| trained.bytes.first_mut()) {
                    *byte ^= 1;
                }
            }
        }
    }

    fn command(&mut self, operator: &OperatorName, command: Command) {
        let run = self.run.clone();
        self.operate(Request::Command(operator.clone(), run, command));
    }

    /// Decides about the round in hand.
    fn verdict(&mut self, operator: &OperatorName, verdict: Verdict) {
        let newest = self.coordinator.database.rounds().last();
        let Some(round) = newest.map(|round| -> RoundId { round.id().clone() }) else { return };
        self.operate(Request::Verdict(operator.clone(), round, verdict));
    }

    /// All faults end: the run must finish or pause by itself, and finish once it is resumed with
    /// everybody let in, unless a model it stands on is damaged.
    fn come_to_an_end(&mut self, operator: &OperatorName, plan: &RoundPlan) {
        self.heal();
        self.wait(plan);
        if self.ledger.broken.is_some() || self.state() == Some(&State::Finished) {
            return;
        }
        for site in 0..SITES {
            self.enroll(operator, site);
        }
        self.command(operator, Command::Resume(None));
        self.wait(plan);
        let newest = self.coordinator.database.run().map(|run| run.newest.model.digest);
        let base_is_whole =
            newest.is_some_and(|digest| self.coordinator.disk.read_whole(&digest).is_some());
        if base_is_whole && self.state() != Some(&State::Finished) {
            let detail = format!("resumed with every site, the run is {:?}", self.state());
            self.ledger.broke(Invariant::Liveness, detail);
        }
    }

    fn heal(&mut self) {
        self.note(format_args!("# all faults end"));
        self.coordinator.disk.full = false;
        self.coordinator.database.failing = 0;
        self.coordinator.database.doubtful = 0;
        self.coordinator.dies = None;
        self.start();
        for site in 0..SITES {
            self.links[site] = Default::default();
            self.sites[site].workspace.full = false;
            self.sites[site].slow = 1;
            self.start_site(site);
        }
    }

    /// Waits until the run is not active any more, as long as its plan lets it take.
    fn wait(&mut self, plan: &RoundPlan) {
        let phases_s = plan.selection_s + plan.reporting_s + plan.stretch_s;
        let attempt_s = u64::from(phases_s) + REST_S;
        let bound_s = attempt_s * u64::from(ROUNDS * plan.failures_max);
        for _ in 0..bound_s * 1_000 / LOOK_MS {
            if self.ledger.broken.is_some() || self.state() != Some(&State::Active) {
                return;
            }
            self.pass(LOOK_MS);
        }
        let newest = self.coordinator.database.rounds().last();
        let detail = format!("after {bound_s} s without a fault: {:?}", newest.map(|r| r.phase()));
        self.ledger.broke(Invariant::Liveness, detail);
    }

    fn state(&self) -> Option<&State> {
        self.coordinator.database.run().map(|run| &run.state)
    }
}
