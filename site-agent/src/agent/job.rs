//! One round at one site: plan, base model, training, upload, submission.
//!
//! Every step can be repeated. What was downloaded is not downloaded again, what was trained is not
//! trained again, what was uploaded goes on where it broke off. So a disk that is full for a while and
//! a trainer that dies cost the round time and nothing else, within [`patience`]'s bounds.

mod leaving;
mod patience;
mod signed;
mod submission;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::budget::Budget;
use fedpaint_proto::names::{Blob, Digest, RoundId, SiteName};
use fedpaint_proto::plan::SignedPlan;
use fedpaint_proto::reason::{self, Reason};
use fedpaint_proto::transfer;
use fedpaint_proto::v1::upload_purpose::Purpose;
use fedpaint_proto::v1::{UploadPurpose, WithdrawalReason};
use fedpaint_proto::weights;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::leaving::{leaving, rehearsed};
use self::patience::Patience;
use self::submission::SUBMISSION;
use super::Trust;
use super::dry_run;
use super::line::Line;
use crate::backoff;
use crate::client::{self, Activity};
use crate::disk;
use crate::gate::Gate;
use crate::lineage;
use crate::pipe::{Assignment, Failure, Progress, Trained};
use crate::policy::Refusal;
use crate::policy::judge;
use crate::supervisor::{self, Death, Supervisor};
use crate::workspace::{self, Doubt, Workspace, model_path, update_path};

/// The wait before a call that failed is made again.
const RETRY_FIRST: Duration = Duration::from_millis(500);

/// The longest wait before a call that failed is made again.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How often a call of a job is made again before [`Patience`] is asked; with the waits, a minute and a half.
const CALL_RETRIES_MAX: u32 = 9;

/// What a job works with.
#[derive(Clone)]
pub struct Bench {
    /// The coordinator.
    pub line: Line,
    /// This site.
    pub site: SiteName,
    /// The shared folder.
    pub workspace: Arc<Workspace>,
    /// The trainer.
    pub supervisor: Arc<Mutex<Supervisor>>,
    /// What calls that are made again may cost the coordinator.
    pub budget: Budget,
    /// What this site's policy lets out.
    pub gate: Arc<Gate>,
    /// Where an update goes instead, if it is not to leave.
    pub dry_run: Option<PathBuf>,
    /// What is signed, and believed; none at a site without a signing key.
    pub trust: Option<Arc<Trust>>,
}

/// What a round is trained by.
#[derive(Clone, Debug)]
struct Prepared {
    /// The plan, and who stands behind it.
    plan: SignedPlan,
    /// The same for the trainer.
    assignment: Assignment,
}

/// A round to do.
#[derive(Clone, Debug)]
pub struct Task {
    /// Which one.
    pub round: RoundId,
    /// The model to begin from.
    pub base: Blob,
    /// How many sites are in it, as the coordinator says; 0 is not said.
    pub cohort: u32,
}

/// Why a round was not finished.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The round is no longer wanted.
    #[error("the round was given up")]
    Cancelled,
    /// The coordinator refuses a call, or cannot be reached any more.
    #[error("the coordinator refuses {what}: {}", status.message())]
    Call {
        /// Which call.
        what: &'static str,
        /// Its answer.
        status: Box<Status>,
    },
    /// The plan is not one that this version reads.
    #[error(transparent)]
    Plan(#[from] fedpaint_proto::plan::Error),
    /// What the coordinator has signed does not fit what this site knows.
    #[error("this site does not train that: {0}")]
    Disbelieved(#[from] lineage::Refusal),
    /// The base model does not arrive.
    #[error("cannot download the base model: {0}")]
    Download(transfer::Error),
    /// The update does not reach the coordinator.
    #[error("cannot upload the update: {0}")]
    Upload(transfer::Error),
    /// The trainer has no update.
    #[error(transparent)]
    Trainer(#[from] supervisor::Error),
    /// The shared folder fails.
    #[error(transparent)]
    Workspace(#[from] workspace::Error),
    /// The base model or the update does not read.
    #[error(transparent)]
    Model(#[from] weights::Error),
    /// This site's policy forbids it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The dry run's folder fails.
    #[error(transparent)]
    DryRun(#[from] dry_run::Error),
    /// Not an error: the round was trained to be looked at.
    #[error("the dry run is in {}", .0.display())]
    Rehearsed(PathBuf),
}

impl Error {
    /// What the coordinator is told, or nothing where it knows.
    pub fn withdrawal(&self) -> Option<WithdrawalReason> {
        Some(match self {
            Error::Cancelled => return None,
            error if error.is_update_refused() => WithdrawalReason::UpdateRefused,
            Error::Download(transfer::Error::File { .. })
            | Error::Upload(transfer::Error::File { .. })
            | Error::Workspace(_)
            | Error::Model(weights::Error::Io { .. }) => WithdrawalReason::Disk,
            Error::Model(_) | Error::Download(transfer::Error::Digest { .. }) => {
                WithdrawalReason::BaseModel
            }
            Error::Refused(_) => WithdrawalReason::Policy,
            Error::DryRun(_) | Error::Rehearsed(_) => WithdrawalReason::DryRun,
            Error::Call { .. } | Error::Download(_) | Error::Upload(_) => {
                WithdrawalReason::Internal
            }
            Error::Plan(_) => WithdrawalReason::Plan,
            Error::Disbelieved(_) => WithdrawalReason::Model,
            Error::Trainer(error) => trainer_withdrawal(error)?,
        })
    }

    /// Whether it is a disk's trouble that may pass by itself.
    fn is_disk(&self) -> bool {
        match self {
            Error::Download(transfer::Error::File { source, .. })
            | Error::Upload(transfer::Error::File { source, .. }) => disk::may_pass(source),
            Error::Workspace(error) => error.may_pass(),
            Error::Model(weights::Error::Io { source, .. }) => disk::may_pass(source),
            _ => false,
        }
    }

    /// Whether a transfer or a call does not get on, which it may when the network is back.
    fn is_network(&self) -> bool {
        match self {
            Error::Download(error) | Error::Upload(error) => error.is_transient(),
            Error::Call { status, .. } => reason::is_transient(status),
            _ => false,
        }
    }

    /// Whether the coordinator refuses the update for good, and not only in this attempt at its round.
    fn is_update_refused(&self) -> bool {
        let reason = match self {
            Error::Call { what: SUBMISSION, status } => Reason::of(status),
            Error::Upload(error) => error.reason(),
            _ => None,
        };
        reason.is_some_and(Reason::is_about_the_bytes)
    }

    /// Whether another trainer, or a base model that is fetched anew, may do what this one could not.
    fn is_trainers(&self) -> bool {
        use supervisor::Error as E;
        let Error::Trainer(error) = self else { return false };
        match error {
            E::Died(death) => matches!(death, Death::Other(_)),
            E::Start(_) | E::Silent | E::Protocol(_) => true,
            E::Failed { failure, .. } => matches!(failure, Failure::Disk | Failure::Device),
        }
    }
}

fn trainer_withdrawal(error: &supervisor::Error) -> Option<WithdrawalReason> {
    use supervisor::Error as E;
    Some(match error {
        E::Failed { failure, .. } => match failure {
            Failure::Cancelled => return None,
            Failure::NotFinite => WithdrawalReason::NotFinite,
            Failure::NoData => WithdrawalReason::NoData,
            Failure::BaseModel => WithdrawalReason::BaseModel,
            Failure::Plan => WithdrawalReason::Plan,
            Failure::Device => WithdrawalReason::Device,
            Failure::Memory => WithdrawalReason::OutOfMemory,
            Failure::Disk => WithdrawalReason::Disk,
            Failure::Internal => WithdrawalReason::Internal,
        },
        E::Died(Death::OutOfMemory) => WithdrawalReason::OutOfMemory,
        E::Died(Death::Other(_)) | E::Start(_) | E::Silent | E::Protocol(_) => {
            WithdrawalReason::TrainerDied
        }
    })
}

/// Does one round, telling `activity` how far it is, until it is submitted or `cancel` fires.
///
/// # Errors
/// [`Error`]; the round is then to be withdrawn from, unless it was given up.
pub async fn run(
    bench: &Bench,
    task: &Task,
    cancel: &CancellationToken,
    activity: &watch::Sender<Activity>,
) -> Result<(), Error> {
    let mut patience = Patience::default();
    let (prepared, trained) = loop {
        match prepare_and_train(bench, task, cancel, activity).await {
            Ok(trained) => break trained,
            Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
            Err(error) => pause(cancel, patience.bear(error)?).await?,
        }
    };
    if let Some(folder) = &bench.dry_run {
        return Err(rehearsed(bench, task, &prepared, trained, folder).await?);
    }
    tell(activity, cancel, Activity::Uploading(task.round.clone()));
    let mut patience = Patience::default();
    let delivered = loop {
        match until(cancel, deliver(bench, task, &prepared, &trained)).await {
            Ok(()) => break Ok(()),
            Err(error) => match patience.bear(error) {
                Ok(wait) => pause(cancel, wait).await?,
                Err(error) => break Err(error),
            },
        }
    };
    // What is refused, not why it cannot be forgotten, is what the coordinator and the log are told.
    if delivered.as_ref().is_err_and(Error::is_update_refused)
        && let Err(error) = bench.workspace.forget()
    {
        tracing::warn!("the refused update cannot be forgotten: {error}");
    }
    delivered
}

async fn prepare_and_train(
    bench: &Bench,
    task: &Task,
    cancel: &CancellationToken,
    activity: &watch::Sender<Activity>,
) -> Result<(Prepared, Trained), Error> {
    let prepared = until(cancel, prepare(bench, task)).await?;
    let trained = train(bench, &task.round, &prepared.assignment, cancel, activity).await?;
    Ok((prepared, trained))
}

async fn until<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    cancel.run_until_cancelled(work).await.unwrap_or(Err(Error::Cancelled))
}

async fn pause(cancel: &CancellationToken, wait: Duration) -> Result<(), Error> {
    until(cancel, async {
        tokio::time::sleep(wait).await;
        Ok(())
    })
    .await
}

/// Fetches what the round needs, its plan and its base model, as far as the policy lets it be trained.
async fn prepare(bench: &Bench, task: &Task) -> Result<Prepared, Error> {
    let Task { round, base, cohort } = task;
    let plan = || async { client::run_plan(&bench.line.now(), &round.run).await };
    let told = again(bench, "the plan", plan).await?;
    let plan = told.read()?;
    // The plan that is followed is judged, whatever was shown before the round was joined.
    bench.gate.plan(&plan)?;
    submission::settle(bench, round).await?;
    let form = plan.plan.exchange;
    // A whole model is as large as its base model, which need not be here to see that it is too large.
    let bytes = if form.is_whole_model() { base.size } else { 0 };
    judge::all(judge::round(bench.gate.policy(), *cohort, bytes, []))?;
    signed::agree(bench, task, Digest::of(told.plan_toml.as_bytes())).await?;
    bench.workspace.keep_model(base.digest)?;
    let path = model_path(bench.workspace.folder(), base.digest);
    transfer::fetch(&bench.line.blobs(), *base, &path, &mut |_, _| {})
        .await
        .map_err(Error::Download)?;
    judge::all(bench.gate.round(*cohort, form, &path)?)?;
    let remainder = match form.encoding.is_lossless() {
        true => None,
        false => {
            let (round, plan) = (round.clone(), Digest::of(told.plan_toml.as_bytes()));
            on_workspace(bench, move |w| w.carried(&round.run, round.number, plan)).await?
        }
    };
    let assignment = Assignment {
        run: round.run.clone(),
        number: round.number,
        site: bench.site.clone(),
        plan_toml: told.plan_toml,
        base: *base,
        remainder,
    };
    Ok(Prepared { plan, assignment })
}

/// Runs file work beside the runtime.
async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It is never aborted, so it can only have panicked; that is this task's panic.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Works on the workspace beside the runtime.
async fn on_workspace<T: Send + 'static>(
    bench: &Bench,
    work: impl FnOnce(&Workspace) -> Result<T, workspace::Error> + Send + 'static,
) -> Result<T, Error> {
    let workspace = Arc::clone(&bench.workspace);
    Ok(in_background(move || work(&workspace)).await?)
}

/// Has the trainer train the round, or find that it is trained already, and remembers the update.
async fn train(
    bench: &Bench,
    round: &RoundId,
    assignment: &Assignment,
    cancel: &CancellationToken,
    activity: &watch::Sender<Activity>,
) -> Result<Trained, Error> {
    let mut report = |progress: Progress| {
        tell(activity, cancel, Activity::Training(round.clone(), progress));
    };
    // The trainer stays locked until the update is remembered, because remembering drops every other
    // update, also one that the trainer might be writing.
    let mut supervisor = bench.supervisor.lock().await;
    let trained = supervisor.train(assignment, cancel, &mut report).await?;
    let mut patience = Patience::default();
    loop {
        let assignment = assignment.clone();
        match on_workspace(bench, move |w| w.remember(&assignment, trained)).await {
            Ok(()) => return Ok(trained),
            Err(error) => pause(cancel, patience.bear(error)?).await?,
        }
    }
}

/// Tells what the site does, unless the job was cancelled: then it is for the next one to tell.
fn tell(activity: &watch::Sender<Activity>, cancel: &CancellationToken, now: Activity) {
    activity.send_if_modified(|told| {
        let mine = !cancel.is_cancelled();
        if mine {
            *told = now;
        }
        mine
    });
}

/// Lets an update out, if the policy does.
async fn deliver(
    bench: &Bench,
    task: &Task,
    prepared: &Prepared,
    trained: &Trained,
) -> Result<(), Error> {
    let Task { round, base, .. } = task;
    judge::all(leaving(bench, task, prepared, trained).await?)?;
    let report = judge::report(bench.gate.policy(), trained.report);
    let trained = &Trained { report, ..*trained };
    let purpose = UploadPurpose { purpose: Some(Purpose::Update(round.into())) };
    let path = update_path(bench.workspace.folder(), trained.update.digest);
    transfer::upload(&bench.line.blobs(), purpose, trained.update, &path, &mut |_, _| {})
        .await
        .map_err(Error::Upload)?;
    let assignment = &prepared.assignment;
    if trained.remainder.is_some() {
        let (assignment, trained, attempt) = (assignment.clone(), *trained, round.attempt);
        on_workspace(bench, move |w| w.submitting(&assignment, trained, attempt)).await?;
    }
    let plan = Digest::of(assignment.plan_toml.as_bytes());
    let submission = Doubt { round: round.clone(), plan, base: *base, trained: *trained };
    submission::submit(bench, &submission).await
}

/// Makes a call until it succeeds, is refused for good, or has failed too often in a row.
async fn again<T, F: Future<Output = Result<T, Status>>>(
    bench: &Bench,
    what: &'static str,
    mut call: impl FnMut() -> F,
) -> Result<T, Error> {
    let mut attempt = 0;
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) if attempt == CALL_RETRIES_MAX || !reason::is_transient(&status) => {
                if let Some(reason) = Reason::of(&status) {
                    tracing::warn!(reason = reason.as_str(), "the coordinator refuses {what}");
                }
                return Err(Error::Call { what, status: Box::new(status) });
            }
            Err(_) => {
                let wait = backoff::delay(attempt, RETRY_FIRST, RETRY_MAX, bench.site.as_str());
                tokio::time::sleep(wait).await;
                bench.budget.take().await;
                attempt += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::names::Digest;

    use super::*;

    #[test]
    fn every_end_of_a_trainer_has_its_reason_on_the_wire() {
        use supervisor::Error as E;
        let died = |death| Error::Trainer(E::Died(death)).withdrawal();
        assert_eq!(died(Death::OutOfMemory), Some(WithdrawalReason::OutOfMemory));
        assert_eq!(died(Death::Other("signal 9".into())), Some(WithdrawalReason::TrainerDied));
        let failed = |failure| {
            Error::Trainer(E::Failed { failure, detail: "scan /x of y".into() }).withdrawal()
        };
        assert_eq!(failed(Failure::Memory), Some(WithdrawalReason::OutOfMemory));
        assert_eq!(failed(Failure::NotFinite), Some(WithdrawalReason::NotFinite));
        assert_eq!(failed(Failure::Cancelled), None);
        assert_eq!(Error::Cancelled.withdrawal(), None);
    }

    fn refused(what: &'static str, reason: Reason) -> Error {
        Error::Call { what, status: Box::new(reason.status("tensor x")) }
    }

    #[test]
    fn an_update_is_refused_by_a_reason_about_its_bytes_and_by_no_other() {
        let about_the_bytes = [
            Reason::NotAModel,
            Reason::WrongTensors,
            Reason::WrongShape,
            Reason::WrongDtype,
            Reason::WrongForm,
            Reason::WrongBaseModel,
            Reason::WrongExamples,
            Reason::NotFinite,
            Reason::TooLarge,
            Reason::WrongDigest,
        ];
        let digest = Digest::of(b"update");
        for &reason in Reason::ALL {
            let status = reason.status("x");
            let upload = match reason::is_transient(&status) {
                true => transfer::Error::Broken { digest, retries: 8, status },
                false => transfer::Error::Refused { what: "take", digest, status },
            };
            let expected = match about_the_bytes.contains(&reason) {
                true => WithdrawalReason::UpdateRefused,
                false => WithdrawalReason::Internal,
            };
            for error in [refused(SUBMISSION, reason), Error::Upload(upload)] {
                assert_eq!(error.withdrawal(), Some(expected), "{reason:?}");
            }
            assert_eq!(refused("the plan", reason).withdrawal(), Some(WithdrawalReason::Internal));
        }
    }
}
