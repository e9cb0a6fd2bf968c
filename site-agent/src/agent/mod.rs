//! The agent: ask the coordinator again and again what to do, and do it.
//!
//! One loop. Heartbeats keep their own pace and never wait for a round's work, which runs beside them.
//! The agent holds the keys and the network, never a scan, and it outlives its trainer and its
//! coordinator.

mod beat;
pub mod consent;
pub mod decide;
pub mod dry_run;
pub mod early;
mod failures;
pub mod job;
mod keeper;
pub mod line;
mod log;
pub mod preview;
mod takes_part;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::budget::Budget;
use fedpaint_proto::channel::{self, Route};
use fedpaint_proto::log::SignedHead;
use fedpaint_proto::names::RoundId;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::tls;
use fedpaint_proto::v1::{LogDoubt, WithdrawalReason};
use jiff::Timestamp;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::consent::Consent;
use self::decide::Next;
use self::early::Early;
use self::failures::Failures;
use self::job::{Bench, Delivery, Task};
use self::keeper::Keeper;
use self::line::{Channels, Line};
pub use self::log::{Trust, Trusted};
use self::takes_part::{Inquiry, shown};
use crate::client::{Activity, Answer, Coordinator};
use crate::config::{self, Config, Site};
use crate::disk;
use crate::gate::Gate;
use crate::pipe::Progress;
use crate::policy::{self, Policy};
use crate::renewal::{self, Contents, Shown};
use crate::supervisor::{self, Death, Hello, Supervisor};
use crate::witness::Doubt;
use crate::workspace::{self, Workspace};

/// How many trainers may die before one is ready until the agent gives up.
const FIRST_DEATHS_MAX: u32 = 4;

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration or a certificate is bad.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The policy is bad.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] fedpaint_proto::tls::Error),
    /// The shared folder fails.
    #[error(transparent)]
    Workspace(#[from] workspace::Error),
    /// The trainer cannot work with the configuration.
    #[error(transparent)]
    Trainer(#[from] supervisor::Error),
    /// The coordinator and this site do not trust each other's certificates.
    #[error(transparent)]
    Channel(#[from] channel::Error),
    /// This site's signing key cannot be used.
    #[error(transparent)]
    Signing(#[from] fedpaint_proto::signing::Error),
    /// The coordinator's log was changed where it must not be.
    #[error("the coordinator is not to be trusted any more: {doubt}; the proof is in {proof}")]
    Log {
        /// What is wrong with it.
        doubt: Doubt,
        /// Where both heads lie, or why they could not be kept.
        proof: String,
    },
    /// A dry run has trained nothing.
    #[error(transparent)]
    DryRun(#[from] preview::Error),
    /// The coordinator does not know this certificate's role.
    #[error("the coordinator refuses this certificate: {0}")]
    Refused(String),
}

/// How the agent is told to end.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Fires when it is to end. The round in hand is kept, and an agent that is started again goes on
    /// with it.
    pub now: CancellationToken,
    /// Fires before `now` if the round in hand is not to wait for this site.
    pub withdraw: CancellationToken,
}

/// What the agent is started with.
#[derive(Debug)]
pub struct Start {
    /// This program, to start the trainer with.
    pub program: PathBuf,
    /// The time, by which certificates are renewed, the policy's hours kept and the coordinator's word judged.
    pub now: fn() -> Timestamp,
    /// Where a round's update goes instead of the coordinator, which is only asked what it says to who looks;
    /// the agent ends with it.
    pub dry_run: Option<PathBuf>,
}

/// Runs the agent until `stop` fires.
///
/// # Errors
/// For what does not heal by itself: at the start a bad configuration, workspace, setup of the trainer or
/// certificate, and at any time a log of the coordinator's that was changed. Beside that the agent goes on
/// whatever happens.
pub async fn run(config: &Config, site: Site, start: Start, stop: Stop) -> Result<(), Error> {
    let Start { program, now, dry_run } = start;
    let gate = gate(config, now)?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, cryptography = tls::cryptography(), "starting");
    let gate = Arc::new(if dry_run.is_some() { gate.for_dry_run() } else { gate });
    let opening = patient(|| Workspace::open(&config.workspace), workspace::Error::may_pass);
    let Some(workspace) = stop.now.run_until_cancelled(opening).await else { return Ok(()) };
    let workspace = Arc::new(workspace?);
    // Before they are read: what is replaced while the coordinator is waited for is taken up then.
    let seen = Contents::of(config);
    let trust = Trust::load(config, &site, now)?;
    let mut supervisor = Supervisor::new(program, config.setup());
    let Some(hello) = stop.now.run_until_cancelled(first_hello(&mut supervisor)).await else {
        return Ok(());
    };
    tell_ready(&supervisor, &hello?);
    let supervisor = Arc::new(Mutex::new(supervisor));
    let connected = stop.now.run_until_cancelled(connect(config, &site)).await;
    let outcome = match connected {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok((channels, route))) => {
            let supervisor = Arc::clone(&supervisor);
            let (channels, line) = Line::new(channels);
            let (trust, trusted) = Trusted::new(trust);
            let (name, budget) = (site.name.clone(), Budget::default());
            let bench = Bench {
                line,
                site: name,
                workspace,
                supervisor,
                budget,
                gate,
                trust: trusted,
                delivery: Delivery::default(),
            };
            match dry_run {
                // It renews no certificate either.
                Some(folder) => preview::run(&bench, &folder, &stop).await.map_err(Error::DryRun),
                None => {
                    let shown = (Shown { channels, trust }, seen);
                    let renewing = renewal::keep(config.clone(), route, site.clone(), shown, now);
                    let renewing = tokio::spawn(renewing);
                    let served = serve(bench, &stop).await;
                    renewing.abort();
                    served
                }
            }
        }
    };
    // A job that was given up has the trainer for a while yet.
    supervisor.lock().await.stop().await;
    tracing::info!("stopped");
    outcome
}

/// The site's policy and what it is asked of. Without a file a human approves each plan.
///
/// # Errors
/// If there is a file and it does not read.
pub fn gate(config: &Config, now: fn() -> Timestamp) -> Result<Gate, policy::Error> {
    let policy = match &config.policy {
        Some(path) => {
            let (policy, digest) = Policy::load(path)?;
            tracing::info!(path = %path.display(), %digest, "the policy");
            policy
        }
        None => {
            tracing::info!(
                "no policy file: a human approves each plan, `plan show`, `plan approve`"
            );
            Policy::approved_by_a_human()
        }
    };
    Ok(Gate::new(policy, &config.workspace, now))
}

/// Starts the first trainer. One that was killed before it was ready says nothing about the setup, so
/// that another is started.
async fn first_hello(supervisor: &mut Supervisor) -> Result<Hello, supervisor::Error> {
    let mut deaths = 0;
    loop {
        match supervisor.start().await {
            Err(supervisor::Error::Died(Death::Other(why))) if deaths < FIRST_DEATHS_MAX => {
                tracing::warn!("the trainer died before it was ready: {why}; starting another");
                deaths += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Tells what the trainer has found.
fn tell_ready(supervisor: &Supervisor, Hello { device, cohort }: &Hello) {
    tracing::info!(
        device,
        cases = cohort.cases,
        patients = cohort.patients,
        held_out = cohort.patients_held_out,
        set_aside = cohort.cases_set_aside,
        scans = cohort.scans_training,
        trainer = supervisor.process_id(),
        "the trainer is ready"
    );
}

/// Serves the coordinator at the other end of the bench's channel until `stop` fires.
///
/// # Errors
/// [`Error::Refused`] if the coordinator refuses this certificate the first time it is asked, and
/// [`Error::Log`] if its log was changed.
pub async fn serve(bench: Bench, stop: &Stop) -> Result<(), Error> {
    let reading = patient(|| remembered(&bench), workspace::Error::may_pass);
    let Some(kept) = stop.now.run_until_cancelled(reading).await else { return Ok(()) };
    let kept = kept?;
    Agent::new(bench, kept).serve(stop).await
}

/// Does what a start needs of a disk as soon as that lets it: a failure that `may_pass` is no end.
///
/// # Errors
/// Any other failure, and the last one where the disk does not come back.
pub async fn patient<T, E: std::fmt::Display>(
    step: impl Fn() -> Result<T, E>,
    may_pass: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut retries = 0;
    loop {
        match step() {
            Err(error) if may_pass(&error) && retries < disk::RETRIES_MAX => {
                if retries == 0 {
                    tracing::warn!("{error}; trying again until there is room");
                }
                retries += 1;
                tokio::time::sleep(disk::RETRY_WAIT).await;
            }
            done => return done,
        }
    }
}

/// Reaches the coordinator, however long it takes.
async fn connect(config: &Config, site: &Site) -> Result<(Channels, Route), Error> {
    let mut failures = Failures::new(site.name.as_str());
    let route = config.route(|name| std::env::var(name).ok())?;
    if let Some(proxy) = &route.proxy {
        tracing::info!(%proxy, "the coordinator is reached through a proxy");
    }
    loop {
        let tls = config.tls.client()?;
        match Channels::open(config, &route, site, tls).await {
            Ok(channels) => {
                let coordinator = &config.coordinator;
                tracing::info!(%coordinator, site = %site.name, "connected");
                return Ok((channels, route));
            }
            Err(error @ channel::Error::Connect { .. }) => {
                let wait = failures.count(error.to_string());
                tokio::time::sleep(wait).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A round in hand.
struct Job {
    round: RoundId,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), job::Error>>,
}

struct Agent {
    bench: Bench,
    /// What the site does; the job changes it as it goes on, heartbeats tell it.
    activity: watch::Sender<Activity>,
    /// Has the next heartbeat sent at once.
    hurry: Arc<Notify>,
    job: Option<Job>,
    /// What it takes part in, by its own policy.
    consent: Consent,
    inquiry: Option<Inquiry>,
    /// The base model of the round that was joined.
    early: Option<Early>,
    failures: Failures,
    /// Which coordinator last answered, if one ever has.
    known: Option<Coordinator>,
    /// The coordinator's log, as it was last believed.
    kept: Option<SignedHead>,
    /// Brings it to the disk.
    keeper: Keeper,
    /// What of its last answer was not believed.
    doubt: LogDoubt,
}

impl Agent {
    fn new(bench: Bench, kept: Option<SignedHead>) -> Agent {
        Agent {
            consent: Consent::new(Arc::clone(&bench.gate)),
            keeper: Keeper::begin(Arc::clone(&bench.workspace)),
            failures: Failures::new(bench.site.as_str()),
            bench,
            kept,
            doubt: LogDoubt::Unspecified,
            activity: watch::Sender::new(Activity::Idle),
            hurry: Arc::new(Notify::new()),
            job: None,
            inquiry: None,
            early: None,
            known: None,
        }
    }

    async fn serve(mut self, stop: &Stop) -> Result<(), Error> {
        let served = self.beat_and_work(stop).await;
        self.keeper.end().await;
        served
    }

    async fn beat_and_work(&mut self, stop: &Stop) -> Result<(), Error> {
        let mut beat = self.beat_after(Duration::ZERO);
        loop {
            tokio::select! {
                biased;
                () = stop.now.cancelled() => break,
                ended = ended(&mut self.job) => {
                    self.job_ended(ended);
                    // What is on its way is the answer to a site that still had this round in hand.
                    beat = self.beat_after(Duration::ZERO);
                }
                (round, plan) = shown(&mut self.inquiry) => self.plan_shown(&round, plan),
                answer = &mut beat => {
                    let wait = match answer {
                        Some(Ok(answer)) => self.weigh(answer).await?,
                        Some(Err(status)) => self.not_heard(&status)?,
                        None => Duration::ZERO,
                    };
                    beat = self.beat_after(wait);
                }
            }
        }
        drop(beat);
        self.give_up();
        self.bench.delivery.stop();
        if stop.withdraw.is_cancelled() {
            self.leave(WithdrawalReason::Stopping).await;
        }
        Ok(())
    }

    fn heard(&mut self, answer: Answer) -> Duration {
        let Answer { next_after, directive, coordinator, .. } = answer;
        self.failures.over();
        self.meet(coordinator);
        self.consent.review();
        self.keep_to_the_policy();
        let activity = self.activity.borrow().clone();
        let next = decide::next(&activity, &directive);
        if next != Next::GoOn {
            self.give_up();
        }
        match next {
            Next::GoOn => {}
            Next::Rest => {
                self.activity.send_replace(Activity::Idle);
            }
            Next::Join(round, base) => self.consider(round, base),
            Next::Train(round, base, cohort) => self.begin(Task { round, base, cohort }),
        }
        next_after
    }

    /// Tells which coordinator answers, the first time and when it is another.
    fn meet(&mut self, coordinator: Coordinator) {
        if self.known.as_ref() != Some(&coordinator) {
            let Coordinator { version, wire_version } = &coordinator;
            tracing::info!(version, wire_version, "the coordinator answers");
            self.known = Some(coordinator);
        }
    }

    fn not_heard(&mut self, status: &Status) -> Result<Duration, Error> {
        let never = self.known.is_none();
        let reason = Reason::of(status);
        if never && matches!(reason, Some(Reason::WrongRole | Reason::NoIdentity)) {
            return Err(Error::Refused(status.message().to_owned()));
        }
        if let Some(reason) = channel::distrust(status).filter(|_| never) {
            return Err(Error::Refused(reason));
        }
        let distrust = channel::distrust(status);
        let what = match reason {
            None if distrust.as_ref().is_some_and(|why| why.contains("CertificateRevoked")) => {
                "the coordinator has shut this site out: its certificate is revoked".to_owned()
            }
            Some(_) => format!("the coordinator says: {}", status.message()),
            None => format!("the coordinator does not answer: {}", channel::told(status)),
        };
        Ok(self.failures.refused(what, status))
    }

    fn begin(&mut self, task: Task) {
        let Task { round, base, cohort } = task.clone();
        tracing::info!(%round, base = base.digest.short(), cohort, "training");
        self.activity.send_replace(Activity::Training(round.clone(), Progress::default()));
        let (bench, activity) = (self.bench.clone(), self.activity.clone());
        let cancel = CancellationToken::new();
        let early = self.early.take().filter(|early| early.is_of(base));
        let task = tokio::spawn({
            let cancel = cancel.clone();
            async move { job::run(&bench, &task, early, &cancel, &activity).await }
        });
        self.job = Some(Job { round, cancel, task });
    }

    fn job_ended(&mut self, (round, result): (RoundId, Result<(), job::Error>)) {
        let activity = match result {
            Ok(()) => {
                tracing::info!(%round, "the update is delivered");
                Activity::Idle
            }
            Err(job::Error::Refused(refusal)) => {
                let rule = refusal.rule;
                self.consent.refused(&round, refusal);
                Activity::Refusing(round, rule)
            }
            Err(error) => match error.withdrawal() {
                Some(reason) => {
                    tracing::warn!(%round, "withdrawing: {error}");
                    Activity::Withdrawing(round, reason)
                }
                None => Activity::Idle,
            },
        };
        self.activity.send_replace(activity);
    }

    /// Ends the job in hand, if there is one. It may go on for the supervisor's grace, but it tells
    /// nothing any more, and the next job waits for the trainer.
    fn give_up(&mut self) {
        if let Some(Job { round, cancel, .. }) = self.job.take() {
            cancel.cancel();
            tracing::info!(%round, "the round is given up");
        }
    }
}

/// The head that was believed last, once it and what was trained are known to be what was written: by others this
/// site would accuse the coordinator, or train what it must not.
fn remembered(bench: &Bench) -> Result<Option<SignedHead>, workspace::Error> {
    let Some(trust) = bench.trust.now() else { return bench.workspace.head() };
    bench.workspace.history()?;
    bench.workspace.head_of(&trust.authority)
}

/// The end of the job in hand; never, where there is none.
async fn ended(job: &mut Option<Job>) -> (RoundId, Result<(), job::Error>) {
    let Some(Job { round, task, .. }) = job else { return std::future::pending().await };
    let round = round.clone();
    let result = task.await;
    *job = None;
    match result {
        Ok(result) => (round, result),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
