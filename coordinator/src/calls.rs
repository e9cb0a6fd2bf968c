//! The calls of one connection: how many there may be, and how many of them are worked on at once.
//!
//! They are counted and never looked into.

use std::sync::Arc;

use fedpaint_proto::limits::HTTP2_STREAMS_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::CALLS_PER_CONNECTION_MAX;

/// The calls of a connection. Clones are those of the same one.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Default for Calls {
    fn default() -> Calls {
        Calls {
            places: Arc::new(Semaphore::new(HTTP2_STREAMS_MAX as usize)),
            turns: Arc::new(Semaphore::new(CALLS_PER_CONNECTION_MAX)),
        }
    }
}

impl Calls {
    /// A place for one more call, until its answer is out; none where there are as many as there may be.
    pub(crate) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Waits until a call may be worked on.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed, so that there is always a turn in the end.
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_has_so_many_places_and_fewer_turns_and_each_is_given_back() {
        let calls = Calls::default();
        let mut places: Vec<_> =
            (0..HTTP2_STREAMS_MAX).map(|_| calls.clone().enter().unwrap()).collect();
        assert!(calls.enter().is_none());
        places.pop();
        places.push(calls.enter().unwrap());
        assert!(Calls::default().enter().is_some(), "another connection has its own");
        let mut turns = Vec::new();
        for _ in 0..CALLS_PER_CONNECTION_MAX {
            turns.push(calls.turn().await);
        }
        let mut next = Box::pin(calls.turn());
        let early = std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx)));
        assert!(early.await.is_pending());
        drop(turns.pop());
        assert!(next.await.is_some());
    }
}
