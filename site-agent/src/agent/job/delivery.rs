//! The delivery of updates, over the rounds: who waits for whose, and for how long.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// How long an update that is being submitted when its round is given up is waited for: the time of a call.
const SUBMISSION_GRACE: Duration = Duration::from_secs(30);

/// What the jobs of an agent know of each other's deliveries.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// Held while an update that leaves something out is delivered.
    under_way: Arc<Mutex<()>>,
    /// Fires when the agent ends.
    stopping: CancellationToken,
}

impl Delivery {
    /// Has no answer be waited for any more.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Waits for the delivery of an update that leaves something out, if one is under way, and keeps the next from
    /// beginning: whether such an update was accepted is settled once, before anything follows from it.
    pub(super) async fn one(&self) -> MutexGuard<'_, ()> {
        self.under_way.lock().await
    }

    /// Fires once the answer to an update whose round was given up has been waited for.
    pub(super) async fn over(&self, cancel: &CancellationToken) {
        cancel.cancelled().await;
        self.stopping.run_until_cancelled(tokio::time::sleep(SUBMISSION_GRACE)).await;
    }
}
