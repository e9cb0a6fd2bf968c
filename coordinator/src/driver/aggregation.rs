//! The average of a round's updates, and what the plan keeps beside it, made off the runtime. It
//! reads and writes files and decides nothing: its outcome is an event like any other.
//!
//! What it makes follows from the round's own files and from what the run kept of its last round
//! ([`Sealed`]), so beginning again after a crash makes the same bytes. Every file it reads is compared
//! with its digest first, and every file it writes has its name among the blobs before a row names it.

use std::future::pending;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::{Blob, RoundId};
use tokio::task::JoinHandle;
use tracing::info;

use crate::aggregate::Aggregate;
use crate::blobs::{self, Blobs};
use crate::fedavg;
use crate::run::Run;
use crate::sealed::Sealed;

/// An average in the making.
#[derive(Debug)]
pub(super) struct Aggregation {
    round: RoundId,
    task: JoinHandle<Result<Aggregate<Blob>, Failure>>,
}

/// Which round's aggregation has ended, and how.
pub(super) type Ended = (RoundId, Result<Aggregate<Blob>, Failure>);

/// Why there is no average.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The disk does not take what is written, as when it is full: the round is none the worse.
    Write(String),
    /// The disk does not give what it holds. It may yet.
    Read(String),
    /// These files have no average.
    Round(String),
}

impl Aggregation {
    /// Begins the average of the sealed updates of the run's round in hand.
    pub(super) fn begin(blobs: &Blobs, run: &Run) -> Aggregation {
        let sealed = Sealed::of(run.round(), run.plan(), run.committed(), run.newest());
        let (id, blobs) = (run.round().id().clone(), blobs.clone());
        info!(round = %id, updates = sealed.updates.len(), "aggregation begins");
        let scratch = format!("{}-{}-{}.safetensors", id.run, id.number, id.attempt);
        let task = tokio::task::spawn_blocking(move || aggregate(&blobs, &sealed, &scratch));
        Aggregation { round: id, task }
    }

    /// The end of the aggregation that is there, which then is no longer; never if there is none.
    /// Dropping the future loses nothing.
    pub(super) async fn end(slot: &mut Option<Aggregation>) -> Ended {
        let Some(Aggregation { round, task }) = slot else { return pending().await };
        let outcome = task.await.unwrap_or_else(|panic| Err(Failure::Round(panic.to_string())));
        let round = round.clone();
        *slot = None;
        (round, outcome)
    }
}

fn aggregate(blobs: &Blobs, sealed: &Sealed, scratch: &str) -> Result<Aggregate<Blob>, Failure> {
    let io = |what: &str, error: std::io::Error| Failure::Write(format!("cannot {what}: {error}"));
    reach("aggregate.verify").map_err(|error| io("verify", error))?;
    for (whose, blob) in sealed.inputs() {
        blobs.verify(&blob).map_err(|error| unusable(&whose, error))?;
    }
    reach("aggregate.begin").map_err(|error| io("begin", error))?;
    let job = sealed.job(|digest| blobs.path(digest));
    let made = fedavg::aggregate(&job, &blobs.scratch(scratch));
    let made = made.map_err(|error| not_made(blobs, error))?;
    for file in made.parts() {
        reach("aggregate.adopt").map_err(|error| io("adopt", error))?;
        let adopted = blobs.adopt(&file.path, &file.blob);
        adopted.map_err(|error| Failure::Write(error.to_string()))?;
    }
    Ok(made.map(|file| file.blob))
}

fn unusable(whose: &str, error: blobs::Error) -> Failure {
    let told = format!("{whose} cannot be used: {error}");
    match error {
        blobs::Error::Io { .. } => Failure::Read(told),
        _ => Failure::Round(told),
    }
}

fn not_made(blobs: &Blobs, error: fedavg::Error) -> Failure {
    let told = error.to_string();
    match error {
        fedavg::Error::Weights(error) if error.is_failed_write() => {
            if error.is_failed_sync() {
                blobs.halt().call(error.to_string());
            }
            Failure::Write(told)
        }
        _ => Failure::Round(told),
    }
}
