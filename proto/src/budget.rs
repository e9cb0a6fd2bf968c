//! A retry budget: what calls that are made again may cost the other side.
//!
//! Backoff spaces the retries of one failure. The budget bounds those of all failures together, so that
//! a network which fails often, a little each time, cannot turn retries into the greater part of the
//! load. It never refuses a retry: it has it wait its turn.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many retries may follow one another as fast as their backoff lets them.
pub const RETRIES_BURST: u32 = 30;

/// How long it takes until another retry is allowed.
pub const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A bucket of tokens, one for each retry, be it of a call or of a transfer. Clones are the same bucket: a process
/// has one.
#[derive(Clone, Debug)]
pub struct Budget {
    /// When the bucket is full again, if nothing more is taken.
    full_at: Arc<Mutex<Instant>>,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { full_at: Arc::new(Mutex::new(Instant::now())) }
    }
}

impl Budget {
    /// Waits until a retry may be made, and counts it.
    pub async fn take(&self) {
        tokio::time::sleep_until(self.reserve(Instant::now())).await;
    }

    /// Counts a retry and says when it may be made.
    pub(crate) fn reserve(&self, now: Instant) -> Instant {
        // A time is right after any panic.
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at = (*full_at).max(now) + RETRY_EVERY;
        // Each retry moves the time at which the bucket is full; more than a whole bucket ahead, there
        // is nothing in it now.
        full_at.checked_sub(RETRY_EVERY * RETRIES_BURST).unwrap_or(now).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_one_retry_is_made_each_second() {
        let budget = Budget::default();
        let start = Instant::now();
        for _ in 0..RETRIES_BURST {
            assert_eq!(budget.reserve(start), start);
        }
        for retry in 1..=5 {
            assert_eq!(budget.clone().reserve(start), start + retry * RETRY_EVERY);
        }
        let rested = start + RETRY_EVERY * (2 * RETRIES_BURST);
        for _ in 0..RETRIES_BURST {
            assert_eq!(budget.reserve(rested), rested);
        }
        assert_eq!(budget.reserve(rested), rested + RETRY_EVERY);
    }
}
