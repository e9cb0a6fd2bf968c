//! A dry run: a round is trained to see what would leave. Every call that it makes is one that changes nothing, so
//! that at the coordinator nobody was there: it joins nothing, is not seen, and no certificate is renewed.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use fedpaint_proto::names::RoundId;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::rule::Rule;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::Stop;
use super::job::{self, Bench, Task, again};
use crate::client::{self, Open};
use crate::policy::Refusal;

/// How often the coordinator is asked while no round is open, and the policy while one is trained.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How many rounds may end before their base model has come, until the dry run gives up.
const ROUNDS_MISSED_MAX: u32 = 5;

/// Why a dry run has trained nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator is of before rounds could be looked at.
    #[error(
        "this coordinator tells a site what it would train only once it takes part, so that a dry run sends \
         nothing is not to be had: ask its operator for a newer one"
    )]
    TooOld,
    /// The site's own policy lets no open round be trained.
    #[error("no open round may be trained; of round {round}, {refusal}")]
    Refused {
        /// The first of them.
        round: RoundId,
        /// Why not.
        refusal: Refusal,
    },
    /// The round was not trained to its end.
    #[error(transparent)]
    Job(Box<job::Error>),
}

impl From<job::Error> for Error {
    fn from(error: job::Error) -> Error {
        Error::Job(Box::new(error))
    }
}

/// Waits for an open round that the policy lets be trained, trains it, and writes what would leave into
/// `folder`; nothing, if `stop` fires before.
///
/// # Errors
/// [`Error`].
pub async fn run(bench: &Bench, folder: &Path, stop: &Stop) -> Result<(), Error> {
    let mut missed = 0;
    loop {
        let Some(task) = stop.now.run_until_cancelled(open(bench)).await else { return Ok(()) };
        let task = task?;
        match train(bench, &task, folder, stop).await {
            Err(Error::Job(error)) if is_over(&error) && missed < ROUNDS_MISSED_MAX => {
                missed += 1;
                tracing::info!(round = %task.round, "the round is over; looking for another one");
            }
            Err(Error::Job(error)) if matches!(*error, job::Error::Cancelled) => return Ok(()),
            done => return done,
        }
    }
}

/// The first round that may be trained, as soon as one is open.
async fn open(bench: &Bench) -> Result<Task, Error> {
    let rounds = || async { client::open_rounds(&bench.line.now()).await };
    let mut waits = false;
    loop {
        let asked = again(bench, "which rounds are open", rounds).await;
        let found = asked.map_err(|error| match error {
            job::Error::Call { status, .. } if status.code() == Code::Unimplemented => {
                Error::TooOld
            }
            error => error.into(),
        })?;
        if let Some(task) = first_allowed(bench, found).await? {
            return Ok(task);
        }
        if !waits {
            tracing::info!("no round is open; waiting for one");
            waits = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The first of the open rounds that may be trained; none where none is open.
async fn first_allowed(bench: &Bench, rounds: Vec<Open>) -> Result<Option<Task>, Error> {
    let mut refused = None;
    for Open { round, base, cohort } in rounds {
        match judged(bench, &round).await? {
            Ok(()) => return Ok(Some(Task { round, base, cohort })),
            Err(refusal) => {
                let Refusal { rule, detail } = &refusal;
                tracing::warn!(%round, %rule, "refused by this site's policy: {detail}");
                refused = refused.or(Some(Error::Refused { round, refusal }));
            }
        }
    }
    refused.map_or(Ok(None), Err)
}

/// What the policy says of the plan of a round, which is kept for the site's people to look at and approve.
async fn judged(bench: &Bench, round: &RoundId) -> Result<Result<(), Refusal>, Error> {
    let plan = || async { client::run_plan(&bench.line.now(), &round.run).await };
    let Ok(plan) = again(bench, "the plan", plan).await?.read() else {
        let detail = "this version does not read the plan".to_owned();
        return Ok(Err(Refusal { rule: Rule::Plan, detail }));
    };
    if let Err(error) = bench.gate.keep(&round.run, &plan) {
        tracing::warn!(%round, "the plan cannot be kept: {error}");
    }
    Ok(bench.gate.plan(&plan))
}

/// Trains a round, unless the policy or `stop` ends it.
async fn train(bench: &Bench, task: &Task, folder: &Path, stop: &Stop) -> Result<(), Error> {
    let Task { round, base, cohort } = task;
    tracing::info!(%round, base = base.digest.short(), cohort, "training for a dry run");
    let cancel = CancellationToken::new();
    let mut training = pin!(job::rehearse(bench, task, folder, &cancel));
    let refused = loop {
        tokio::select! {
            biased;
            done = &mut training => return done.map_err(Error::from),
            () = stop.now.cancelled() => break None,
            () = tokio::time::sleep(LOOK_EVERY) => {
                if let Err(refusal) = bench.gate.now() {
                    break Some(refusal);
                }
            }
        }
    };
    cancel.cancel();
    let ended = training.await.map_err(Error::from);
    refused.map_or(ended, |refusal| Err(Error::Refused { round: round.clone(), refusal }))
}

/// Whether the round was over before its base model had come.
fn is_over(error: &job::Error) -> bool {
    matches!(error, job::Error::Download(error) if error.reason() == Some(Reason::BlobUnknown))
}
