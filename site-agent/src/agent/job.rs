//! One round at one site: plan, base model, training, upload, submission.
//!
//! Every step can be repeated. What was downloaded is not downloaded again, what was trained is not
//! trained again, what was uploaded goes on where it broke off. So a disk that is full for a while and
//! a trainer that dies cost the round time and nothing else, within [`patience`]'s bounds.

mod calls;
mod counted;
mod delivery;
mod error;
mod leaving;
mod patience;
mod signed;
mod submission;

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::budget::Budget;
use fedpaint_proto::names::{Blob, Digest, RoundId, SiteName};
use fedpaint_proto::plan::SignedPlan;
use fedpaint_proto::transfer;
use fedpaint_proto::v1::UploadPurpose;
use fedpaint_proto::v1::upload_purpose::Purpose;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

pub(super) use self::calls::again;
pub use self::delivery::Delivery;
pub use self::error::Error;
use self::leaving::{leaving, rehearsed};
use self::patience::Patience;
use super::Trusted;
use super::early::{self, Early};
use super::line::Line;
use crate::client::{self, Activity};
use crate::gate::Gate;
use crate::lineage::Last;
use crate::pipe::{Assignment, Progress, Trained};
use crate::policy::judge;
use crate::supervisor::Supervisor;
use crate::workspace::{self, Doubt, Workspace, model_path, update_path};

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
    /// What is signed with, and believed.
    pub trust: Trusted,
    /// How updates are delivered.
    pub delivery: Delivery,
}

/// What a round is trained by.
#[derive(Clone, Debug)]
struct Prepared {
    /// The plan, and who stands behind it.
    plan: SignedPlan,
    /// The same for the trainer.
    assignment: Assignment,
}

/// An update that is not remembered yet. The trainer is kept from the next round meanwhile, because
/// remembering drops every other update, also one that it might be writing.
struct Fresh {
    update: Trained,
    _trainer: OwnedMutexGuard<Supervisor>,
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

/// Does one round, telling `activity` how far it is, until it is submitted or `cancel` fires. Of its base model
/// what has come `early` is there.
///
/// # Errors
/// [`Error`]; the round is then to be withdrawn from, unless it was given up.
pub async fn run(
    bench: &Bench,
    task: &Task,
    early: Option<Early>,
    cancel: &CancellationToken,
    activity: &watch::Sender<Activity>,
) -> Result<(), Error> {
    let (prepared, trained) = patiently(bench, task, early, cancel, activity).await?;
    tell(activity, cancel, Activity::Uploading(task.round.clone()));
    let delivered = deliver(bench, task, &prepared, trained, cancel).await;
    // What is refused, not why it cannot be forgotten, is what the coordinator and the log are told.
    if delivered.as_ref().is_err_and(Error::is_update_refused)
        && !cancel.is_cancelled()
        && let Err(error) = bench.workspace.forget()
    {
        tracing::warn!("the refused update cannot be forgotten: {error}");
    }
    delivered
}

/// Trains a round and writes what would leave into `folder`, until it is done or `cancel` fires. Nothing of it
/// leaves, and the coordinator is asked nothing that changes anything there.
///
/// # Errors
/// [`Error`].
pub async fn rehearse(
    bench: &Bench,
    task: &Task,
    folder: &Path,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let unheard = watch::Sender::new(Activity::Idle);
    let (prepared, trained) = patiently(bench, task, None, cancel, &unheard).await?;
    remember(bench, &prepared.assignment, &trained, cancel).await?;
    rehearsed(bench, task, &prepared, trained.update, folder).await
}

/// Has a round trained, however often what may pass by itself has it be begun again.
async fn patiently(
    bench: &Bench,
    task: &Task,
    mut early: Option<Early>,
    cancel: &CancellationToken,
    activity: &watch::Sender<Activity>,
) -> Result<(Prepared, Fresh), Error> {
    let mut patience = Patience::default();
    loop {
        match prepare_and_train(bench, task, early.take(), cancel, activity).await {
            Ok(done) => return Ok(done),
            Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
            Err(error) => pause(cancel, patience.bear(error)?).await?,
        }
    }
}

async fn prepare_and_train(
    bench: &Bench,
    task: &Task,
    early: Option<Early>,
    cancel: &CancellationToken,
    activity: &watch::Sender<Activity>,
) -> Result<(Prepared, Fresh), Error> {
    let (prepared, last) = until(cancel, prepare(bench, task, early)).await?;
    let (run, stop) = (task.round.run.clone(), cancel.child_token());
    // It is on the disk before anything leaves, and need not be before that.
    let noting = async {
        let noted = on_workspace(bench, move |w| last.map_or(Ok(()), |last| w.note(&run, last)));
        noted.await.inspect_err(|_| stop.cancel())
    };
    let training = train(bench, &task.round, &prepared.assignment, &stop, activity);
    let (noted, trained) = tokio::join!(noting, training);
    noted?;
    Ok((prepared, trained?))
}

async fn until<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    cancel.run_until_cancelled(work).await.unwrap_or(Err(Error::Cancelled))
}

/// Does two things at once. What is wrong with the first goes before, and then the other is not waited for.
async fn beside<T, U>(
    first: impl Future<Output = Result<T, Error>>,
    other: impl Future<Output = U>,
) -> Result<(T, U), Error> {
    let mut first = pin!(first);
    let mut other = pin!(other);
    tokio::select! {
        biased;
        done = &mut first => Ok((done?, other.await)),
        done = &mut other => Ok((first.await?, done)),
    }
}

async fn pause(cancel: &CancellationToken, wait: Duration) -> Result<(), Error> {
    until(cancel, async {
        tokio::time::sleep(wait).await;
        Ok(())
    })
    .await
}

/// Fetches what the round needs, its plan and its base model, as far as the policy lets it be trained. And what is to
/// be noted of it before anything leaves.
async fn prepare(
    bench: &Bench,
    task: &Task,
    early: Option<Early>,
) -> Result<(Prepared, Option<Last>), Error> {
    let Task { round, base, cohort } = task;
    let plan = || async { client::run_plan(&bench.line.now(), &round.run).await };
    let judging = async {
        let told = again(bench, "the plan", plan).await?;
        let plan = told.read()?;
        // The plan that is followed is judged, whatever was shown before the round was joined.
        bench.gate.plan(&plan)?;
        Ok::<_, Error>((told, plan))
    };
    // Neither answer depends on the other's.
    let ((told, plan), of_base) = beside(judging, signed::ask(bench, task)).await?;
    {
        let _one = bench.delivery.one().await;
        match bench.gate.is_for_dry_run() {
            true => submission::no_doubt(bench).await?,
            false => submission::settle(bench, round).await?,
        }
    }
    let form = plan.plan.exchange;
    // A whole model is as large as its base model, which need not be here to see that it is too large.
    let bytes = if form.is_whole_model() { base.size } else { 0 };
    judge::all(judge::round(bench.gate.policy(), *cohort, bytes, []))?;
    let last = signed::agree(bench, task, of_base?, Digest::of(told.plan_toml.as_bytes())).await?;
    // Nobody trains a round by looking at it.
    let last = last.filter(|_| !bench.gate.is_for_dry_run());
    bench.workspace.want_model(base.digest);
    let path = model_path(bench.workspace.folder(), base.digest);
    // Other models go while this one comes.
    let dropping = on_workspace(bench, Workspace::drop_models);
    let (dropped, fetched) = tokio::join!(dropping, early::fetch(bench, *base, early));
    dropped?;
    fetched.map_err(Error::Download)?;
    judge::all(bench.gate.round(*cohort, form, &path)?)?;
    let remainder = match form.encoding.is_lossless() {
        true => None,
        false => {
            let (round, plan) = (round.clone(), Digest::of(told.plan_toml.as_bytes()));
            counted::settle(bench, &round, plan).await?;
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
    Ok((Prepared { plan, assignment }, last))
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
pub(super) async fn on_workspace<T: Send + 'static>(
    bench: &Bench,
    work: impl FnOnce(&Workspace) -> Result<T, workspace::Error> + Send + 'static,
) -> Result<T, Error> {
    let workspace = Arc::clone(&bench.workspace);
    Ok(in_background(move || work(&workspace)).await?)
}

/// Has the trainer train the round, or find that it is trained already.
async fn train(
    bench: &Bench,
    round: &RoundId,
    assignment: &Assignment,
    cancel: &CancellationToken,
    activity: &watch::Sender<Activity>,
) -> Result<Fresh, Error> {
    let mut report = |progress: Progress| {
        tell(activity, cancel, Activity::Training(round.clone(), progress));
    };
    let mut trainer = Arc::clone(&bench.supervisor).lock_owned().await;
    let update = trainer.train(assignment, cancel, &mut report).await?;
    Ok(Fresh { update, _trainer: trainer })
}

/// Remembers an update, however long the disk takes to let it.
async fn remember(
    bench: &Bench,
    assignment: &Assignment,
    Fresh { update, .. }: &Fresh,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let mut patience = Patience::default();
    loop {
        let (assignment, update) = (assignment.clone(), *update);
        match on_workspace(bench, move |w| w.remember(&assignment, update)).await {
            Ok(()) => return Ok(()),
            Err(error) => pause(stop, patience.bear(error)?).await?,
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

/// Lets an update out, if the policy does, and remembers it meanwhile; then submits it.
async fn deliver(
    bench: &Bench,
    task: &Task,
    prepared: &Prepared,
    fresh: Fresh,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let (trained, stop) = (fresh.update, cancel.child_token());
    let _one = match trained.remainder {
        Some(_) => Some(bench.delivery.one().await),
        None => None,
    };
    let sending = async {
        let sent = borne(&stop, || send(bench, task, prepared, &trained)).await;
        // What is not taken need not be remembered.
        sent.inspect_err(|_| stop.cancel())
    };
    let remembering = async {
        let remembered = remember(bench, &prepared.assignment, &fresh, &stop).await;
        drop(fresh);
        remembered.inspect_err(|_| stop.cancel())
    };
    // Both end before anything else happens to the workspace.
    match tokio::join!(remembering, sending) {
        (Ok(()), Ok(())) => {}
        // The one has ended because of the other.
        (Err(Error::Cancelled), Err(error)) | (Err(error), _) | (_, Err(error)) => {
            return Err(error);
        }
    }
    // That the coordinator has the update may be why the round is given up, so that its receipt is waited for.
    let never = CancellationToken::new();
    let submitting = borne(&never, || submit(bench, task, prepared, &trained));
    tokio::select! {
        biased;
        submitted = submitting => {
            if submitted.is_ok() && cancel.is_cancelled() {
                // Nobody asks this job any more how it ended.
                tracing::info!(round = %task.round, "the update is delivered");
            }
            submitted
        }
        () = bench.delivery.over(cancel) => Err(Error::Cancelled),
    }
}

/// Does work until it succeeds or is not borne any more.
async fn borne<F: Future<Output = Result<(), Error>>>(
    stop: &CancellationToken,
    mut work: impl FnMut() -> F,
) -> Result<(), Error> {
    let mut patience = Patience::default();
    loop {
        match until(stop, work()).await {
            Ok(()) => return Ok(()),
            Err(error) => pause(stop, patience.bear(error)?).await?,
        }
    }
}

async fn send(
    bench: &Bench,
    task: &Task,
    prepared: &Prepared,
    trained: &Trained,
) -> Result<(), Error> {
    judge::all(leaving(bench, task, prepared, trained).await?)?;
    let purpose = UploadPurpose { purpose: Some(Purpose::Update((&task.round).into())) };
    let path = update_path(bench.workspace.folder(), trained.update.digest);
    let (line, budget) = (&bench.line, &bench.budget);
    transfer::upload(line, purpose, trained.update, &path, budget, &mut |_, _| {})
        .await
        .map_err(Error::Upload)
}

async fn submit(
    bench: &Bench,
    Task { round, base, .. }: &Task,
    prepared: &Prepared,
    trained: &Trained,
) -> Result<(), Error> {
    let report = judge::report(bench.gate.policy(), trained.report);
    let trained = Trained { report, ..*trained };
    let assignment = &prepared.assignment;
    if trained.remainder.is_some() {
        let (assignment, attempt) = (assignment.clone(), round.attempt);
        on_workspace(bench, move |w| w.submitting(&assignment, trained, attempt)).await?;
    }
    let plan = Digest::of(assignment.plan_toml.as_bytes());
    submission::submit(bench, &Doubt { round: round.clone(), plan, base: *base, trained }).await
}
