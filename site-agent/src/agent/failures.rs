//! What keeps a site from its coordinator: told once, and when the next attempt is made.

use std::time::Duration;

use fedpaint_proto::put_off::PutOff;
use tonic::Status;

use crate::backoff;

/// The wait after the first failed attempt to reach the coordinator.
const RECONNECT_FIRST: Duration = Duration::from_millis(500);

/// The longest wait between attempts to reach the coordinator.
const RECONNECT_MAX: Duration = Duration::from_secs(60);

/// Failures in a row, told once per kind and not once per attempt.
#[derive(Debug)]
pub(super) struct Failures {
    key: String,
    count: u32,
    told: String,
    put_off: PutOff,
}

impl Failures {
    /// None yet. Sites with other names wait for other times.
    pub(super) fn new(site: &str) -> Failures {
        let put_off = PutOff::new(site.as_bytes());
        Failures { key: site.to_owned(), count: 0, told: String::new(), put_off }
    }

    /// Takes note of a failure; how long to wait before the next attempt.
    pub(super) fn count(&mut self, what: String) -> Duration {
        self.tell(what);
        let wait = backoff::delay(self.count, RECONNECT_FIRST, RECONNECT_MAX, &self.key);
        self.count = self.count.saturating_add(1);
        wait
    }

    /// The same for an attempt that was answered by a refusal. Whoever is told when to come again has not
    /// failed, and is there soon after the coordinator has room.
    pub(super) fn refused(&mut self, what: String, status: &Status) -> Duration {
        // Heartbeats go on for ever, so only each wait is bounded, and not all of them together.
        self.put_off.renew();
        match self.put_off.wait(status) {
            Some(wait) => {
                self.tell(what);
                wait
            }
            None => self.count(what),
        }
    }

    /// The coordinator answers.
    pub(super) fn over(&mut self) {
        if !self.told.is_empty() {
            tracing::info!("the coordinator answers again");
        }
        self.count = 0;
        self.told.clear();
    }

    fn tell(&mut self, what: String) {
        if self.told != what {
            tracing::warn!("{what}; trying again until it works");
            self.told = what;
        }
    }
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::limits::STORAGE_RETRY;
    use fedpaint_proto::reason::Reason;

    use super::*;

    fn full(failures: &mut Failures) -> Duration {
        failures.refused("full".to_owned(), &Reason::Storage.status("the database is full"))
    }

    fn down(failures: &mut Failures) -> Duration {
        failures.refused("down".to_owned(), &Status::unavailable("down"))
    }

    #[test]
    fn a_full_coordinator_is_asked_again_when_it_says_however_long_it_is_full() {
        let mut failures = Failures::new("mayo");
        for _ in 0..10_000 {
            let wait = full(&mut failures);
            assert!((STORAGE_RETRY..=STORAGE_RETRY * 5 / 4).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn whoever_is_put_off_has_not_failed_and_what_does_fail_waits_longer_each_time() {
        let (mut failures, mut others) = (Failures::new("mayo"), Failures::new("mayo"));
        for _ in 0..100 {
            full(&mut failures);
        }
        let waits = [(); 20].map(|()| down(&mut failures));
        assert_eq!(waits, [(); 20].map(|()| down(&mut others)));
        assert!(waits[0] <= RECONNECT_FIRST, "{waits:?}");
        assert!((RECONNECT_MAX / 2..=RECONNECT_MAX).contains(&waits[19]), "{waits:?}");
        failures.over();
        assert_eq!(down(&mut failures), waits[0]);
    }
}
