//! A site, as a model of the real agent's shell: heartbeats at their own pace, one round in hand, and
//! a workspace that outlives the process. What follows from a directive is the real agent's decision.

use std::time::Duration;

use anyhow::Context;
use fedpaint_coordinator::driver::Progress;
use fedpaint_coordinator::driver::core;
use fedpaint_coordinator::round::Withdrawal;
use fedpaint_coordinator::run;
use fedpaint_proto::limits::CALL_TIMEOUT;
use fedpaint_proto::names::{Blob, Digest, SiteName};
use fedpaint_proto::v1::WithdrawalReason;
use fedpaint_site_agent::agent::decide::{self, Next};
use fedpaint_site_agent::backoff;
use fedpaint_site_agent::client::{Activity, Directive};

use super::job::Job;
use super::network::{Ask, Failed, Heard};
use super::world::{Event, World};

/// The sites' names, in their order.
const NAMES: [&str; super::op::SITES] = ["aachen", "kyoto", "lagos", "mayo", "oslo"];

/// The wait after the first heartbeat that was not answered, and the longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// A site: what lasts, and the process if there is one.
#[derive(Debug)]
pub struct Site {
    pub(super) name: SiteName,
    pub(super) workspace: Workspace,
    /// How many times slower than usual it trains.
    pub(super) slow: u64,
    pub(super) process: Option<Agent>,
}

/// What outlives the process.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    /// Whether nothing can be written.
    pub(super) full: bool,
    /// The newest base model.
    pub(super) model: Option<(Digest, Vec<u8>)>,
    /// How far the training is: for which round's number, from which base.
    pub(super) checkpoint: Option<(u32, Digest, u64)>,
    /// The newest update.
    pub(super) trained: Option<Trained>,
}

/// An update: the same for every attempt at its round.
#[derive(Clone, Debug)]
pub(super) struct Trained {
    pub(super) number: u32,
    pub(super) base: Digest,
    pub(super) blob: Blob,
    pub(super) bytes: Vec<u8>,
}

/// What dies with the process.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) activity: Activity,
    pub(super) job: Option<Job>,
    /// Heartbeats in a row that were not answered.
    failures: u32,
    /// The heartbeat that waits for its answer.
    beat: Option<u64>,
    /// The heartbeat that is due next.
    turn: u64,
    /// Whether the next heartbeat is to be sent at once.
    hurry: bool,
}

impl Site {
    pub(super) fn new(place: usize) -> anyhow::Result<Site> {
        let name = NAMES.get(place).context("there is no such site")?.parse()?;
        Ok(Site { name, workspace: Workspace::default(), slow: 1, process: None })
    }

    /// The calls that wait for an answer.
    pub(super) fn waits_for(&self) -> Vec<u64> {
        let Some(agent) = &self.process else { return Vec::new() };
        let job = agent.job.as_ref().and_then(|job| job.call);
        agent.beat.into_iter().chain(job).collect()
    }
}

impl World {
    /// Starts a site's agent, if it does not run.
    pub(super) fn start_site(&mut self, site: usize) {
        if self.sites[site].process.is_some() {
            return;
        }
        let activity = Activity::Idle;
        let agent = Agent { activity, job: None, failures: 0, beat: None, turn: 0, hurry: false };
        self.sites[site].process = Some(agent);
        self.note(format_args!("site {site} starts"));
        self.beat_after(site, Duration::ZERO);
    }

    /// Kills a site's agent and its trainer.
    pub(super) fn kill_site(&mut self, site: usize) {
        if self.sites[site].process.take().is_some() {
            self.note(format_args!("site {site} dies"));
        }
    }

    fn beat_after(&mut self, site: usize, wait: Duration) {
        let turn = self.number();
        if let Some(agent) = &mut self.sites[site].process {
            agent.turn = turn;
            self.after(wait, Event::BeatDue { site, turn });
        }
    }

    /// Has the next heartbeat sent at once, or right after the one that is under way.
    pub(super) fn hurry(&mut self, site: usize) {
        let Some(agent) = &mut self.sites[site].process else { return };
        match agent.beat {
            Some(_) => agent.hurry = true,
            None => self.beat_after(site, Duration::ZERO),
        }
    }

    /// Sends a heartbeat, unless another took its place. It tells what is true now.
    pub(super) fn beat(&mut self, site: usize, turn: u64) {
        let agent = self.sites[site].process.as_ref();
        let Some(agent) = agent.filter(|agent| agent.turn == turn) else { return };
        let ask = Ask::Beat(agent.activity.clone());
        let call = self.ask(site, ask, CALL_TIMEOUT);
        if let Some(agent) = &mut self.sites[site].process {
            agent.beat = Some(call);
        }
    }

    /// An answer arrives, or none will any more.
    pub(super) fn heard(&mut self, site: usize, call: u64, answer: Result<Heard, Failed>) {
        let Some(agent) = &mut self.sites[site].process else { return };
        if agent.beat == Some(call) {
            agent.beat = None;
            let wait = self.heard_of_beat(site, answer);
            let Some(agent) = &mut self.sites[site].process else { return };
            let wait = if std::mem::take(&mut agent.hurry) { Duration::ZERO } else { wait };
            self.beat_after(site, wait);
        } else if let Some(job) = agent.job.as_mut().filter(|job| job.call == Some(call)) {
            job.call = None;
            self.heard_of_job(site, answer);
        }
    }

    /// Follows a directive. How long to wait before the next heartbeat.
    fn heard_of_beat(&mut self, site: usize, answer: Result<Heard, Failed>) -> Duration {
        let Site { name, process, .. } = &mut self.sites[site];
        let Some(agent) = process else { return RECONNECT.1 };
        // Whoever is told when to come again has not failed.
        if let Some(wait) = answer.as_ref().err().and_then(|failed| failed.retry_after()) {
            return wait;
        }
        let Ok(Heard::Directive(directive, next_after)) = answer else {
            let wait = backoff::delay(agent.failures, RECONNECT.0, RECONNECT.1, name.as_str());
            agent.failures = agent.failures.saturating_add(1);
            return wait;
        };
        agent.failures = 0;
        let next = decide::next(&agent.activity, &directive);
        if next != Next::GoOn {
            agent.job = None;
        }
        match next {
            Next::GoOn => {}
            Next::Rest => agent.activity = Activity::Idle,
            Next::Join(round, _) => {
                agent.activity = Activity::Joining(round);
                agent.hurry = true;
            }
            Next::Train(round, base, _) => self.begin(site, round, base),
        }
        next_after
    }
}

/// What a site says, as the coordinator hears it.
pub(super) fn to_coordinator(activity: &Activity) -> core::Activity {
    match activity {
        Activity::Idle => core::Activity::Idle,
        Activity::Joining(round) => core::Activity::Joining(round.clone()),
        Activity::Training(round, progress) => {
            let loss = progress.loss;
            let progress = Progress { step: progress.step, steps: progress.steps, loss };
            core::Activity::Training(round.clone(), progress)
        }
        Activity::Uploading(round) => core::Activity::Uploading(round.clone()),
        Activity::Withdrawing(round, why) => {
            let why = match why {
                WithdrawalReason::UpdateRefused => Withdrawal::UpdateRefused,
                WithdrawalReason::Disk => Withdrawal::Disk,
                _ => Withdrawal::Internal,
            };
            core::Activity::Withdrawing(round.clone(), why)
        }
        Activity::Refusing(round, rule) => {
            core::Activity::Withdrawing(round.clone(), Withdrawal::Policy(*rule))
        }
    }
}

/// What the coordinator says, as a site hears it.
pub(super) fn from_coordinator(directive: run::Directive) -> Directive {
    match directive {
        run::Directive::Rest => Directive::Rest,
        run::Directive::Join { round, base, .. } => Directive::Join(round, base),
        run::Directive::Train { round, base, cohort, .. } => Directive::Train(round, base, cohort),
    }
}
