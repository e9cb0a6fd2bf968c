//! The time as something that is handed in: the system's, or one that a test moves by hand.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

/// The longest stretch of sleep between two looks at the system's clock, so that a clock that is
/// set while we sleep is noticed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A boxed future that may move between threads.
pub type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells the time and waits for it.
pub trait Clock: Send + Sync + 'static {
    /// The time, in whole microseconds as rows hold it.
    fn now(&self) -> Timestamp;
    /// Completes once `time` has come.
    fn sleep_until(&self, time: Timestamp) -> BoxFuture;
    /// Completes after so long, from this call on.
    fn sleep(&self, time: Duration) -> BoxFuture {
        self.sleep_until(self.now().checked_add(time).unwrap_or(Timestamp::MAX))
    }
}

/// Waits for `work` for so long at most; nothing if it is not done by then.
pub async fn within<T>(
    clock: &dyn Clock,
    time: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let over = clock.sleep(time);
    tokio::select! {
        biased;
        done = work => Some(done),
        () = over => None,
    }
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
        let now = Timestamp::now();
        // Unwrap safety: a time that was just represented is in range without its nanoseconds.
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    fn sleep_until(&self, time: Timestamp) -> BoxFuture {
        let clock = *self;
        Box::pin(async move {
            loop {
                let left = clock.now().duration_until(time);
                match Duration::try_from(left) {
                    Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(LOOK_AGAIN)).await,
                    // Negative: the time has passed.
                    Ok(_) | Err(_) => return,
                }
            }
        })
    }

    // A span stays what it is when the clock is set meanwhile.
    fn sleep(&self, time: Duration) -> BoxFuture {
        Box::pin(tokio::time::sleep(time))
    }
}

/// A clock that stands still until it is moved. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct ManualClock {
    now: watch::Sender<Timestamp>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: Timestamp) -> ManualClock {
        ManualClock { now: watch::Sender::new(now) }
    }

    /// Moves the clock on and wakes whoever waited for a time that has now come.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now = now.checked_add(by).unwrap_or(Timestamp::MAX));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.borrow()
    }

    fn sleep_until(&self, time: Timestamp) -> BoxFuture {
        let mut now = self.now.subscribe();
        // The clock lives in the future too, so that waiting cannot end by the clock's being dropped.
        let clock = self.clone();
        Box::pin(async move {
            let came = now.wait_for(|now| *now >= time).await.is_ok();
            drop(clock);
            debug_assert!(came, "a clock that is held is not gone");
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_when_its_time_has_come_and_not_before() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let mut sleeper = clock.sleep_until(Timestamp::from_second(10).unwrap());
        clock.advance(Duration::from_secs(9));
        let early = std::future::poll_fn(|cx| std::task::Poll::Ready(sleeper.as_mut().poll(cx)));
        assert!(early.await.is_pending());
        clock.advance(Duration::from_secs(1));
        sleeper.await;
    }

    #[tokio::test]
    async fn work_has_its_time_and_no_more() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let second = Duration::from_secs(1);
        assert_eq!(within(&clock, second, async { 7 }).await, Some(7));
        let mut waiting = Box::pin(within(&clock, second, std::future::pending::<()>()));
        let early = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx)));
        assert!(early.await.is_pending());
        clock.advance(second);
        assert_eq!(waiting.await, None);
        let never = std::future::pending::<()>();
        assert_eq!(within(&SystemClock, Duration::ZERO, never).await, None);
    }

    #[tokio::test]
    async fn the_system_clock_does_not_wait_for_the_past() {
        SystemClock.sleep_until(Timestamp::UNIX_EPOCH).await;
        let now = SystemClock.now();
        assert_eq!(now.subsec_nanosecond() % 1_000, 0, "whole microseconds");
    }
}
