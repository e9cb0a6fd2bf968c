//! How slow a transfer may be. Who moves a byte now and then keeps a call, a place among those of the
//! connection and a file open, and looks alive while doing so; so it is bytes in a time that count.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use fedpaint_proto::limits::{PIECE_BYTES, TRANSFER_STALL_TIMEOUT};

use crate::clock::{BoxFuture, Clock};

/// How many bytes must move in each [`PACE_TIME`]: a piece, which the programs' own transfers send and take
/// whole.
pub(crate) const PACE_BYTES_MIN: usize = PIECE_BYTES;

/// In which time.
pub(crate) const PACE_TIME: Duration = TRANSFER_STALL_TIMEOUT;

/// Too little was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the transfer is too slow: less than {PACE_BYTES_MIN} bytes in {} s, the least that must move \
     (PACE_BYTES_MIN, PACE_TIME)",
    PACE_TIME.as_secs()
)]
pub(crate) struct TooSlow;

/// The pace of one transfer.
pub(crate) struct Pace {
    clock: Arc<dyn Clock>,
    /// Over when the bytes that are due must have moved.
    late: BoxFuture,
    /// Bytes moved of those that are due.
    moved: usize,
}

impl Pace {
    /// The pace of a transfer that begins now.
    pub(crate) fn begin(clock: Arc<dyn Clock>) -> Pace {
        Pace { late: clock.sleep(PACE_TIME), clock, moved: 0 }
    }

    /// Waits for the next step of the transfer.
    ///
    /// # Errors
    /// If it does not come in time; then the transfer is over.
    pub(crate) async fn keep<T>(&mut self, step: impl Future<Output = T>) -> Result<T, TooSlow> {
        // What we took ourselves, between two steps, is not the other end's time.
        if poll_fn(|context| Poll::Ready(self.late.as_mut().poll(context).is_ready())).await {
            self.late = self.clock.sleep(PACE_TIME);
        }
        tokio::select! {
            biased;
            done = step => Ok(done),
            () = &mut self.late => Err(TooSlow),
        }
    }

    /// Counts bytes that have moved.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(bytes);
        if self.moved >= PACE_BYTES_MIN {
            (self.moved, self.late) = (0, self.clock.sleep(PACE_TIME));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use jiff::Timestamp;

    use super::*;
    use crate::clock::ManualClock;

    const SECOND: Duration = Duration::from_secs(1);

    fn begin() -> (ManualClock, Pace) {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        (clock.clone(), Pace::begin(Arc::new(clock)))
    }

    /// Whether the transfer is over after so long a wait for a step.
    async fn ends(pace: &mut Pace, clock: &ManualClock, wait: Duration) -> bool {
        let mut step = Box::pin(pace.keep(pending::<()>()));
        let mut poll = async || poll_fn(|cx| Poll::Ready(step.as_mut().poll(cx))).await;
        assert_eq!(poll().await, Poll::Pending);
        clock.advance(wait);
        poll().await == Poll::Ready(Err(TooSlow))
    }

    #[tokio::test]
    async fn a_transfer_goes_on_while_a_piece_moves_in_the_time_and_single_bytes_are_not_enough() {
        let (clock, mut pace) = begin();
        for _ in 0..3 {
            assert!(!ends(&mut pace, &clock, PACE_TIME - SECOND).await);
            assert_eq!(pace.keep(ready(7)).await, Ok(7));
            pace.moved(PACE_BYTES_MIN / 2);
            pace.moved(PACE_BYTES_MIN / 2);
        }
        for second in 1..=60 {
            assert_eq!(ends(&mut pace, &clock, SECOND).await, second == 60, "{second}");
            pace.moved(1);
        }
        let words = TooSlow.to_string();
        assert!(words.contains("65518 bytes in 60 s"), "{words}");
    }

    #[tokio::test]
    async fn time_that_is_our_own_does_not_count() {
        let (clock, mut pace) = begin();
        clock.advance(2 * PACE_TIME);
        assert!(!ends(&mut pace, &clock, PACE_TIME - SECOND).await);
        assert!(ends(&mut pace, &clock, SECOND).await);
    }
}
