//! The average of a round's updates, and what the plan keeps beside it, made off the runtime. It
//! reads and writes files and decides nothing: its outcome is an event like any other.
//!
//! What it makes follows from the round's own files and from what the run kept of its last round, so
//! beginning again after a crash makes the same bytes. Every file has its name among the blobs before
//! a row names it.

use std::future::pending;

use fedpaint_proto::names::{Blob, RoundId, SiteName};
use tokio::task::JoinHandle;
use tracing::info;

use crate::aggregate::Aggregate;
use crate::blobs::{self, Blobs};
use crate::fedavg::{self, Contribution, Job};
use crate::round::Update;
use crate::run::Run;

/// An average in the making.
#[derive(Debug)]
pub(super) struct Aggregation {
    round: RoundId,
    task: JoinHandle<Result<Aggregate<Blob>, String>>,
}

/// Which round's aggregation has ended, and how.
pub(super) type Ended = (RoundId, Result<Aggregate<Blob>, String>);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Average(#[from] fedavg::Error),
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
}

impl Aggregation {
    /// Begins the average of `reports` of the run's round in hand.
    pub(super) fn begin(
        blobs: &Blobs,
        run: &Run,
        reports: Vec<(&SiteName, &Update)>,
    ) -> Aggregation {
        let contribution = |(site, update): (&SiteName, &Update)| Contribution {
            site: site.clone(),
            weights: blobs.path(&update.weights.digest),
            examples: update.examples,
        };
        let job = Job {
            plan: run.plan().aggregation.clone(),
            committed: run.committed(),
            previous: run.newest().map(|blob| blobs.path(&blob.digest)),
            contributions: reports.into_iter().map(contribution).collect(),
        };
        let (id, blobs) = (run.round().id().clone(), blobs.clone());
        info!(round = %id, updates = job.contributions.len(), "aggregation begins");
        let scratch = format!("{}-{}-{}.safetensors", id.run, id.number, id.attempt);
        let task = tokio::task::spawn_blocking(move || {
            aggregate(&blobs, &job, &scratch).map_err(|error| error.to_string())
        });
        Aggregation { round: id, task }
    }

    /// The end of the aggregation that is there, which then is no longer; never if there is none.
    /// Dropping the future loses nothing.
    pub(super) async fn end(slot: &mut Option<Aggregation>) -> Ended {
        let Some(Aggregation { round, task }) = slot else { return pending().await };
        let outcome = task.await.unwrap_or_else(|panic| Err(panic.to_string()));
        let round = round.clone();
        *slot = None;
        (round, outcome)
    }
}

fn aggregate(blobs: &Blobs, job: &Job, scratch: &str) -> Result<Aggregate<Blob>, Error> {
    let made = fedavg::aggregate(job, &blobs.scratch(scratch))?;
    for file in made.parts() {
        blobs.adopt(&file.path, &file.blob)?;
    }
    Ok(made.map(|file| file.blob))
}
