//! Holding back the answer to a heartbeat while it would tell nothing new, so that a site hears of a round
//! when there is one and not when it next asks.

use std::time::Duration;

use fedpaint_proto::limits::HOLD_MAX;
use fedpaint_proto::names::SiteName;
use tonic::Status;

use crate::driver::{Activity, Answer};
use crate::run::Directive;
use crate::service::{Parts, status};

/// How long the caller lets its answer be held back; none from a caller who does not know of it.
pub(super) fn asked(hold: Option<prost_types::Duration>) -> Duration {
    hold.and_then(|hold| Duration::try_from(hold).ok()).unwrap_or_default().min(HOLD_MAX)
}

/// How long a site is held that lets itself be held for `hold`, and how long it then waits before it asks again. It
/// is held no longer than it would have waited, so that it is heard of as often; whoever was held for as long as
/// anybody may be asks again at once, so that news find it held whenever they come.
fn spans(hold: Duration, next_after: Duration) -> (Duration, Duration) {
    let hold = hold.min(next_after);
    let wait = if hold == HOLD_MAX { Duration::ZERO } else { next_after - hold };
    (hold, wait)
}

/// The answer for a site that does `activity`: what it was told first where that is news or becomes none
/// in time, and otherwise what has changed.
///
/// # Errors
/// If the database fails.
pub(super) async fn answer(
    parts: &Parts,
    site: &SiteName,
    activity: &Activity,
    heard: Answer,
    hold: Duration,
) -> Result<Answer, Status> {
    let (hold, wait) = spans(hold, heard.next_after);
    if hold.is_zero() {
        return Ok(heard);
    }
    if is_news(activity, &heard.directive) {
        // A site that is told to rest is idle at once, and can be held when it says so.
        let rests = heard.directive == Directive::Rest;
        let next_after = if rests { Duration::ZERO } else { heard.next_after };
        return Ok(Answer { next_after, ..heard });
    }
    tokio::select! {
        biased;
        news = parts.driver.news(site, &heard.directive) => news.map_err(status::of_driver),
        () = parts.stop.cancelled() => Ok(heard),
        () = parts.clock.sleep(hold) => Ok(Answer { next_after: wait, ..heard }),
    }
}

/// Whether a site that does `activity` would do anything else after hearing `directive`. Where it is not
/// clear the site is answered.
fn is_news(activity: &Activity, directive: &Directive) -> bool {
    match (activity, directive) {
        // Who has joined waits for the others.
        (Activity::Idle | Activity::Joining(_), Directive::Rest) => false,
        (Activity::Joining(round), Directive::Join { round: told, .. })
        | (
            Activity::Training(round, _) | Activity::Uploading(round),
            Directive::Train { round: told, .. },
        ) => round != told,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::names::{Blob, Digest, RoundId};
    use jiff::Timestamp;

    use super::*;
    use crate::driver::Progress;

    fn round(number: u32) -> RoundId {
        RoundId { run: "brain".parse().unwrap(), number, attempt: 1 }
    }

    fn base() -> Blob {
        Blob { digest: Digest::of(b"base"), size: 4 }
    }

    fn join(number: u32) -> Directive {
        Directive::Join { round: round(number), base: None, until: Timestamp::UNIX_EPOCH }
    }

    fn train(number: u32) -> Directive {
        let (round, until) = (round(number), Timestamp::UNIX_EPOCH);
        Directive::Train { round, base: base(), until, cohort: 2 }
    }

    #[test]
    fn what_a_site_does_already_is_no_news_and_anything_else_is() {
        let progress = Progress { step: 1, steps: 2, loss: None };
        let training = |number| Activity::Training(round(number), progress);
        for (activity, directive, expected) in [
            (Activity::Idle, Directive::Rest, false),
            (Activity::Idle, join(1), true),
            (Activity::Idle, train(1), true),
            (Activity::Joining(round(1)), join(1), false),
            (Activity::Joining(round(1)), join(2), true),
            (Activity::Joining(round(1)), train(1), true),
            (Activity::Joining(round(1)), Directive::Rest, false),
            (training(1), train(1), false),
            (training(1), train(2), true),
            (training(1), Directive::Rest, true),
            (Activity::Uploading(round(1)), train(1), false),
            (Activity::Uploading(round(1)), join(2), true),
        ] {
            assert_eq!(is_news(&activity, &directive), expected, "{activity:?}, {directive:?}");
        }
    }

    #[test]
    fn a_site_is_held_at_every_moment_or_as_long_as_it_lets_itself_be_and_no_longer_than_it_would_wait()
     {
        let span = Duration::from_secs;
        for (hold, next_after, expected) in [
            (20, 5, (5, 0)),
            (2, 5, (2, 3)),
            (0, 5, (0, 5)),
            (20, 20, (20, 0)),
            (20, 600, (20, 0)),
            (19, 600, (19, 581)),
        ] {
            let expected = (span(expected.0), span(expected.1));
            assert_eq!(spans(span(hold), span(next_after)), expected, "{hold}, {next_after}");
        }
        assert_eq!(HOLD_MAX, span(20));
    }

    #[test]
    fn nobody_is_held_who_does_not_ask_for_it_and_nobody_longer_than_the_limit() {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        assert_eq!(asked(None), Duration::ZERO);
        assert_eq!(asked(seconds(-3)), Duration::ZERO);
        assert_eq!(asked(seconds(3)), Duration::from_secs(3));
        assert_eq!(asked(seconds(i64::MAX)), HOLD_MAX);
    }
}
