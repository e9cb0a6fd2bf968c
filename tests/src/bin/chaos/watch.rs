//! Follows the run from beside, over every restart of the coordinator.

use std::time::Duration;

use fedpaint_proto::v1;
use fedpaint_proto::v1::admin_service_client::AdminServiceClient;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic::Request;
use tonic::transport::Channel;

use crate::federation::RUN;

/// How often the coordinator is asked.
const PERIOD: Duration = Duration::from_millis(40);

/// How long it may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The run as it was last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Rounds committed.
    pub(crate) committed: u32,
    /// Rounds planned.
    planned: u32,
    /// Why the run is paused, if it is.
    pub(crate) paused: Option<String>,
}

impl Seen {
    /// Whether every planned round is committed.
    pub(crate) fn is_finished(&self) -> bool {
        self.planned > 0 && self.committed >= self.planned
    }
}

/// A task that asks again and again.
pub(crate) struct Watch {
    seen: watch::Receiver<Seen>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Begins to ask.
    pub(crate) fn start(admin: AdminServiceClient<Channel>) -> Watch {
        let (sender, seen) = watch::channel(Seen::default());
        let task = tokio::spawn(ask(admin, sender)).abort_handle();
        Watch { seen, task }
    }

    /// The run as it was last seen.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until something is seen to change, but not longer than `most`.
    pub(crate) async fn changed(&mut self, most: Duration) {
        // Whether it changed or time is up, the caller looks.
        let _ = tokio::time::timeout(most, self.seen.changed()).await;
    }
}

async fn ask(mut admin: AdminServiceClient<Channel>, sender: watch::Sender<Seen>) {
    loop {
        let mut request = Request::new(v1::GetRunRequest { name: RUN.into() });
        request.set_timeout(ANSWER_MAX);
        // A coordinator that is dead answers later.
        if let Ok(answer) = admin.get_run(request).await
            && let Some(run) = answer.into_inner().run
        {
            let paused = (run.state() == v1::RunState::Paused).then(|| run.reason.clone());
            let seen =
                Seen { committed: run.rounds_committed, planned: run.rounds_planned, paused };
            sender.send_if_modified(|old| {
                let new = *old != seen;
                *old = seen;
                new
            });
        }
        tokio::time::sleep(PERIOD).await;
    }
}
