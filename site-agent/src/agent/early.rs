//! The base model of a round that was joined, fetched while others join: they may take long, and a model may, too.
//!
//! Nothing depends on it. What it is is judged when the round is to be trained, as if it came then; a round's job
//! fetches what has not come, from where that broke off.

use std::panic::resume_unwind;

use fedpaint_proto::names::Blob;
use fedpaint_proto::transfer;
use tokio::task::JoinHandle;

use super::job::{Bench, on_workspace};
use crate::workspace::{Workspace, model_path};

/// A model on its way. Dropping it ends that, and leaves what has come.
#[derive(Debug)]
pub struct Early {
    base: Blob,
    /// Whether it has come whole.
    task: JoinHandle<bool>,
}

impl Early {
    /// Begins to fetch a model, in the place of those that are there.
    pub fn begin(bench: &Bench, base: Blob) -> Early {
        bench.workspace.want_model(base.digest);
        let bench = bench.clone();
        let task = tokio::spawn(async move {
            let dropping = on_workspace(&bench, Workspace::drop_models);
            let (dropped, fetched) = tokio::join!(dropping, fetch(&bench, base, None));
            if let Err(error) = dropped {
                tracing::debug!("older base models stay for now: {error}");
            }
            if let Err(error) = &fetched {
                tracing::debug!("the base model has not come early: {error}");
            }
            fetched.is_ok()
        });
        Early { base, task }
    }

    /// Whether it is this model.
    pub fn is_of(&self, base: Blob) -> bool {
        self.base == base
    }

    /// Waits for it; whether it has come whole.
    async fn has_come(mut self) -> bool {
        match (&mut self.task).await {
            Ok(has_come) => has_come,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => false,
        }
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Fetches a base model, unless it has come `early`.
///
/// # Errors
/// As [`transfer::fetch`].
pub(super) async fn fetch(
    bench: &Bench,
    base: Blob,
    early: Option<Early>,
) -> Result<(), transfer::Error> {
    if let Some(early) = early
        && early.has_come().await
    {
        return Ok(());
    }
    let path = model_path(bench.workspace.folder(), base.digest);
    transfer::fetch(&bench.line, base, &path, &bench.budget, &mut |_, _| {}).await
}
