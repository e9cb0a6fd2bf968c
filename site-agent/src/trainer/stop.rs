//! The agent's word that a round is no longer wanted, which whoever waits hears at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whether the round in hand is to be given up.
#[derive(Debug, Default)]
pub(super) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Gives the word, or takes it back for the next round.
    pub(super) fn set(&self, stopped: bool) {
        *self.lock() = stopped;
        self.changed.notify_all();
    }

    /// Whether the word was given.
    pub(super) fn is_set(&self) -> bool {
        *self.lock()
    }

    /// Waits, but not longer than until the word is given. Whether it was.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), time, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// A bool is right after any panic, so a poisoned lock is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
