//! The average of a round's updates, made off the runtime. It reads and writes files and decides
//! nothing: its outcome is an event like any other.

use std::future::pending;

use fedpaint_proto::names::{Blob, RoundId, SiteName};
use tokio::task::JoinHandle;
use tracing::info;

use crate::blobs::{self, Blobs};
use crate::fedavg::{self, Contribution};
use crate::round::{Round, Update};

/// An average in the making.
#[derive(Debug)]
pub(super) struct Aggregation {
    round: RoundId,
    task: JoinHandle<Result<Blob, String>>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Average(#[from] fedavg::Error),
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
}

impl Aggregation {
    /// Begins the average of `reports`.
    pub(super) fn begin(
        blobs: &Blobs,
        round: &Round,
        reports: Vec<(&SiteName, &Update)>,
    ) -> Aggregation {
        let contribution = |(site, update): (&SiteName, &Update)| Contribution {
            site: site.clone(),
            weights: blobs.path(&update.weights.digest),
            examples: update.examples,
        };
        let contributions: Vec<Contribution> = reports.into_iter().map(contribution).collect();
        let (id, base, blobs) = (round.id().clone(), round.base(), blobs.clone());
        info!(round = %id, updates = contributions.len(), "aggregation begins");
        let scratch = format!("{}-{}-{}.safetensors", id.run, id.number, id.attempt);
        let task = tokio::task::spawn_blocking(move || {
            aggregate(&blobs, &base, &contributions, &scratch).map_err(|error| error.to_string())
        });
        Aggregation { round: id, task }
    }

    /// The end of the aggregation that is there, which then is no longer; never if there is none.
    /// Dropping the future loses nothing.
    pub(super) async fn end(slot: &mut Option<Aggregation>) -> (RoundId, Result<Blob, String>) {
        let Some(Aggregation { round, task }) = slot else { return pending().await };
        let outcome = task.await.unwrap_or_else(|panic| Err(panic.to_string()));
        let round = round.clone();
        *slot = None;
        (round, outcome)
    }
}

fn aggregate(
    blobs: &Blobs,
    base: &Blob,
    contributions: &[Contribution],
    scratch: &str,
) -> Result<Blob, Error> {
    let scratch = blobs.scratch(scratch);
    let model = fedavg::average(&blobs.path(&base.digest), contributions, &scratch)?;
    blobs.adopt(&scratch, &model)?;
    Ok(model)
}
