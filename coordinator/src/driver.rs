//! The one task that changes runs. It takes one message at a time, has the pure [`core`] decide what
//! follows, saves that with its audit entries in one transaction, and only then shows it to anybody:
//! memory is never ahead of the disk.
//!
//! What it owes is asked from the state again and again, so a start after a crash is no special case:
//! an aggregation that was under way is begun anew.

mod aggregation;
pub mod core;
mod error;
mod handle;
mod members;
mod patience;
mod proofs;
mod rounds;
mod submit;
mod troubles;
mod uploads;
mod view;
mod watch;
mod work;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::aggregation::BESIDE_MAX;
pub use self::core::{
    Activity, Answer, Asking, Beat, Doubt, Open, RUNS_MAX, Renewal, SITES_MAX, Sight, Stage,
    Standing, Submission, UPDATE_SLACK_BYTES,
};
pub use self::error::{Error, JoinRefusal};
pub use self::handle::{AGENT_VERSION_BYTES_MAX, EVENTS_MAX, Handle};
pub use self::members::Joining;
pub use self::proofs::{Export, Taken};
pub use self::rounds::{MODELS_MAX, ROUNDS_MAX};
pub use self::troubles::Owed;
pub use self::uploads::UPLOADS_MAX;
use self::uploads::Uploads;
pub use self::view::{
    LateView, MemberView, MissingView, ModelView, Progress, RoundView, RunView, SiteView, Upload,
    Why,
};
pub use self::watch::Watch;
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::evidence::Notary;
use crate::roster::TwoPersons;
use crate::store::{self, Store};

/// The most messages that wait for the driver; who comes later waits to be heard.
const MAILBOX_MAX: usize = 1_024;

/// The most models that are checked at once.
const CHECKS_MAX: usize = 2;

/// After how many heartbeats that did not come a site is called silent.
const SILENT_BEATS: u32 = 3;

/// The shortest time after which a site is called silent, however often it is to be heard of.
const SILENT_MIN: Duration = Duration::from_secs(5);

/// What the driver is told from outside.
#[derive(Clone, Debug)]
pub struct Options {
    /// How soon a site is told to ask again.
    pub heartbeat: Duration,
    /// What takes two persons.
    pub rules: TwoPersons,
    /// Who signs for the coordinator, if anybody does.
    pub notary: Option<Arc<Notary>>,
}

/// Loads what the store holds and starts the driver; it ends when `shutdown` is cancelled.
///
/// # Errors
/// If the store does not load.
pub async fn start(
    options: Options,
    store: Store,
    blobs: Blobs,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) -> Result<(Handle, JoinHandle<()>), store::Error> {
    let (mailbox, messages) = mpsc::channel(MAILBOX_MAX);
    let parts = (store.clone(), blobs.clone(), Arc::clone(&clock));
    let started_at = clock.now();
    let silent_after = (options.heartbeat * SILENT_BEATS).max(SILENT_MIN);
    let notary = options.notary.clone();
    let (driver, (state, troubles)) = work::Driver::load(options, parts).await?;
    let checks = Arc::new(Semaphore::new(CHECKS_MAX));
    let uploads = Uploads::default();
    let handle = Handle {
        mailbox,
        state,
        troubles,
        store,
        blobs,
        clock,
        notary,
        checks,
        uploads,
        silent_after,
        started_at,
    };
    let task = tokio::spawn(driver.run(messages, shutdown));
    Ok((handle, task))
}

#[cfg(test)]
mod tests;
