//! A heartbeat that is due or under way: when it is sent, and when it is given up for another.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::limits::HOLD_MAX;
use tonic::Status;

use super::Agent;
use crate::client::{self, Answer};

/// The next answer; none where there is something to tell before it comes.
pub(super) type Beat = Pin<Box<dyn Future<Output = Option<Result<Answer, Status>>> + Send>>;

impl Agent {
    /// A heartbeat after `wait` or when there is something to tell. It tells what is true when it is
    /// sent. The coordinator answers when it has news, so that none waits for the next heartbeat; what this
    /// site has to tell does not wait for the answer.
    pub(super) fn beat_after(&self, wait: Duration) -> Beat {
        let (line, hurry) = (self.bench.line.clone(), Arc::clone(&self.hurry));
        let activity = self.activity.subscribe();
        let (gate, declined) = (Arc::clone(&self.bench.gate), self.consent.declined());
        let trust = self.bench.trust.clone();
        let (size, doubt) = self.known_of_log();
        Box::pin(async move {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = hurry.notified() => {}
            }
            let activity = gate.told(activity.borrow().clone());
            let trust = trust.now();
            let asked = trust.as_deref().map(|trust| trust.asks(size, doubt));
            let channel = line.now();
            tokio::select! {
                biased;
                answer = client::heartbeat(&channel, &activity, &declined, asked, HOLD_MAX) => {
                    Some(answer)
                }
                () = hurry.notified() => {
                    // It is sent again at once.
                    None
                }
            }
        })
    }
}
