//! How long to wait before trying again: twice as long every time, up to a limit, and never all sites
//! at once.

use std::time::Duration;

/// The wait before attempt `attempt` (0 is the first after a failure): `first` doubled `attempt`
/// times, at most `max`, of which between a half and all is taken. Which part follows from `key` and
/// `attempt`, so that sites that lost the coordinator together do not come back together.
pub fn delay(attempt: u32, first: Duration, max: Duration, key: &str) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(attempt)).min(max);
    let mut hasher = blake3::Hasher::new_derive_key("fedpaint backoff");
    hasher.update(key.as_bytes()).update(&attempt.to_le_bytes());
    let part = f64::from(hasher.finalize().as_bytes()[0]) / f64::from(u8::MAX);
    doubled.mul_f64(0.5 + 0.5 * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_doubles_to_its_limit_and_differs_between_sites() {
        let (first, max) = (Duration::from_secs(1), Duration::from_secs(60));
        for attempt in 0..100 {
            let found = delay(attempt, first, max, "mayo");
            let whole = Duration::from_secs(1 << attempt.min(6)).min(max);
            assert!(found <= whole && found >= whole / 2, "{attempt}: {found:?}");
        }
        assert_ne!(delay(3, first, max, "mayo"), delay(3, first, max, "ljubljana"));
    }
}
