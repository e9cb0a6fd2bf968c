//! The end of the process, asked for from inside: after a failed sync nobody knows what is on the disk,
//! and after the loss of its lease a coordinator is one too many. Either way the only right step is to
//! stop at once, acknowledge nothing more, and begin again from what the disk really holds.
//!
//! Nothing here ends the process: whoever serves waits for [`Halt::reached`] and does.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tracing::error;

/// Whether the process has to end, and why. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Halt {
    why: Arc<OnceLock<String>>,
    token: CancellationToken,
}

impl Halt {
    /// Asks for the end. The first reason is the one that is told.
    pub fn call(&self, why: impl Into<String>) {
        let why = why.into();
        if self.why.set(why.clone()).is_ok() {
            error!(why, "the coordinator has to stop");
        }
        self.token.cancel();
    }

    /// Why the process has to end, if it has to.
    pub fn why(&self) -> Option<&str> {
        self.why.get().map(String::as_str)
    }

    /// Waits until the process has to end; says why.
    pub async fn reached(&self) -> String {
        self.token.cancelled().await;
        self.why().unwrap_or("it was asked to").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_is_the_one_that_is_told() {
        let halt = Halt::default();
        assert_eq!(halt.why(), None);
        let other = halt.clone();
        other.call("a sync failed");
        halt.call("another");
        assert_eq!(halt.reached().await, "a sync failed");
    }
}
