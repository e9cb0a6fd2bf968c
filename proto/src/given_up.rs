//! When a caller has given a call up: one that comes later than that is not done. What an operator asked for
//! and took back is not undone by a call that lay in a network for long.

use http::HeaderMap;
use jiff::Timestamp;
use tonic::Request;

use crate::limits::{CALL_TIMEOUT, CLOCK_SKEW_MAX};

/// The header that says so, as RFC 3339 has times.
pub const HEADER: &str = "fedpaint-given-up-at";

/// Says in a call that is made `now` when its caller will have given it up.
pub fn mark<T>(request: &mut Request<T>, now: Timestamp) {
    let at = now.checked_add(CALL_TIMEOUT).unwrap_or(Timestamp::MAX);
    // A time is written in ASCII.
    if let Ok(value) = at.to_string().parse() {
        request.metadata_mut().insert(HEADER, value);
    }
}

/// That a call has come too late to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLate {
    /// Its caller waits for it no longer.
    #[error(
        "its caller has given this call up at {at}, and here it is {now}: it is not done; if it was made just \
         now, one of the two clocks is wrong"
    )]
    GivenUp {
        /// When that was.
        at: Timestamp,
        /// And now.
        now: Timestamp,
    },
    /// Nobody can tell.
    #[error("{HEADER} is no time: it must be as in 2026-11-29T12:00:00Z")]
    NoTime,
}

/// Whether a call of these headers may still be done `now`; one that does not say may be. The two clocks may
/// differ by [`CLOCK_SKEW_MAX`].
///
/// # Errors
/// If its caller has given it up, or the time does not read.
pub fn judge(headers: &HeaderMap, now: Timestamp) -> Result<(), TooLate> {
    let Some(said) = headers.get(HEADER) else { return Ok(()) };
    let at: Option<Timestamp> = said.to_str().ok().and_then(|said| said.parse().ok());
    let at = at.ok_or(TooLate::NoTime)?;
    let last = at.checked_add(CLOCK_SKEW_MAX).unwrap_or(Timestamp::MAX);
    if now <= last { Ok(()) } else { Err(TooLate::GivenUp { at, now }) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_call_is_done_until_its_caller_has_given_it_up_and_clocks_may_differ_a_little() {
        let made = Timestamp::from_second(1_000_000).unwrap();
        let mut request = Request::new(());
        mark(&mut request, made);
        let headers = request.metadata().clone().into_headers();
        let after = |wait: Duration| judge(&headers, made.checked_add(wait).unwrap());
        assert_eq!(judge(&headers, made - CLOCK_SKEW_MAX), Ok(()));
        assert_eq!(after(CALL_TIMEOUT + CLOCK_SKEW_MAX), Ok(()));
        let late = after(CALL_TIMEOUT + CLOCK_SKEW_MAX + Duration::from_nanos(1)).unwrap_err();
        assert!(matches!(late, TooLate::GivenUp { .. }), "{late}");
        assert_eq!(judge(&HeaderMap::new(), made), Ok(()), "who does not say is from before");
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, "yesterday".parse().unwrap());
        assert_eq!(judge(&headers, made), Err(TooLate::NoTime));
    }
}
