//! Coming again when the other side says so: `google.rpc.RetryInfo`, as its reader keeps to it.
//!
//! Whoever is told when to come again has not failed, so such a wait is no retry and costs no budget. Nobody
//! is believed without bound, though: not in one wait, and not in all of them together.

use std::time::Duration;

use tonic::Status;
use tonic_types::StatusExt;

use crate::limits::{PUT_OFF_MAX, RETRY_AFTER_MAX, RETRY_AFTER_MIN};

/// By how much a wait is longer than asked at most, in thousandths: those who were told the same do not all
/// come back in the same moment.
const SPREAD: u64 = 250;

/// How often a call was put off, and for how long it still may be.
#[derive(Clone, Debug)]
pub struct PutOff {
    key: blake3::Hasher,
    times: u32,
    left: Duration,
}

impl PutOff {
    /// Of a call that was not put off yet. Callers with other keys, and other processes, wait for other times.
    pub fn new(key: &[u8]) -> PutOff {
        let mut hasher = blake3::Hasher::new_derive_key("fedpaint put off v1");
        // It need not be secret or even random; machines that are told the same hardly share it.
        hasher.update(key).update(&std::process::id().to_le_bytes());
        PutOff { key: hasher, times: 0, left: PUT_OFF_MAX }
    }

    /// How long to wait before the same call is made again, if `status` says it. None if it does not, or if
    /// all such waits have come to [`PUT_OFF_MAX`]: then the call has failed like any other.
    pub fn wait(&mut self, status: &Status) -> Option<Duration> {
        let asked = status.get_details_retry_info()?.retry_delay?;
        let asked = asked.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
        let mut word = [0; 8];
        self.key.clone().update(&self.times.to_le_bytes()).finalize_xof().fill(&mut word);
        let spread = u64::from_le_bytes(word) % (SPREAD + 1);
        let wait = asked + asked * u32::try_from(spread).unwrap_or_default() / 1000;
        self.left = self.left.checked_sub(wait)?;
        self.times = self.times.saturating_add(1);
        Some(wait)
    }

    /// The call gets on: what was waited before is forgotten.
    pub fn renew(&mut self) {
        self.left = PUT_OFF_MAX;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    fn later(after: Duration) -> Status {
        Reason::UploadBusy.status_after("32 uploads are under way", after)
    }

    #[test]
    fn whoever_is_told_when_waits_that_long_and_at_most_a_quarter_longer() {
        let asked = Duration::from_secs(4);
        let waits = [b"mayo".as_slice(), b"oslo"].map(|key| {
            let mut put_off = PutOff::new(key);
            [(); 20].map(|()| put_off.wait(&later(asked)).unwrap())
        });
        for wait in waits.iter().flatten() {
            assert!((asked..=asked * 5 / 4).contains(wait), "{wait:?}");
        }
        assert_ne!(waits[0], waits[1], "they do not come back together");
        assert_eq!(PutOff::new(b"mayo").wait(&Reason::UploadBusy.status("busy")), None);
    }

    #[test]
    fn an_enormous_wait_and_none_at_all_are_bounded() {
        for asked in [Duration::MAX, Duration::from_secs(u64::from(u32::MAX)), RETRY_AFTER_MAX] {
            let wait = PutOff::new(b"mayo").wait(&later(asked)).unwrap();
            assert!((RETRY_AFTER_MAX..=RETRY_AFTER_MAX * 5 / 4).contains(&wait), "{wait:?}");
        }
        let wait = PutOff::new(b"mayo").wait(&later(Duration::ZERO)).unwrap();
        assert!(wait >= RETRY_AFTER_MIN, "{wait:?}");
    }

    #[test]
    fn waits_without_end_come_to_the_most_there_may_be_and_are_failures_then() {
        for asked in [Duration::ZERO, Duration::from_secs(1), Duration::MAX] {
            let mut put_off = PutOff::new(b"mayo");
            let mut all = Duration::ZERO;
            while let Some(wait) = put_off.wait(&later(asked)) {
                all += wait;
            }
            assert!(all <= PUT_OFF_MAX && all + 2 * RETRY_AFTER_MAX > PUT_OFF_MAX, "{all:?}");
            put_off.renew();
            assert!(put_off.wait(&later(asked)).is_some(), "it has got on meanwhile");
        }
    }
}
