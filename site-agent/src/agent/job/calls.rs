//! The calls of a job that move no model: made again, as long as that may help.

use std::time::Duration;

use fedpaint_proto::put_off::PutOff;
use fedpaint_proto::reason::{self, Reason};
use tonic::Status;

use super::{Bench, Error};
use crate::backoff;

/// The wait before a call that failed is made again.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(500);

/// The longest wait before a call that failed is made again.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(30);

/// How often a call of a job is made again before [`Patience`](super::patience::Patience) is asked; with the
/// waits, a minute and a half.
pub(super) const CALL_RETRIES_MAX: u32 = 9;

/// Makes a call until it succeeds, is refused for good, or has failed too often in a row. A wait that the
/// coordinator asks for is no failure.
pub(in crate::agent) async fn again<T, F: Future<Output = Result<T, Status>>>(
    bench: &Bench,
    what: &'static str,
    mut call: impl FnMut() -> F,
) -> Result<T, Error> {
    let mut attempt = 0;
    let mut put_off = PutOff::new(bench.site.as_str().as_bytes());
    loop {
        let answer = call().await;
        if let Err(status) = &answer
            && reason::is_transient(status)
            && let Some(wait) = put_off.wait(status)
        {
            tokio::time::sleep(wait).await;
            continue;
        }
        match answer {
            Ok(answer) => return Ok(answer),
            Err(status) if attempt == CALL_RETRIES_MAX || !reason::is_transient(&status) => {
                if let Some(reason) = Reason::of(&status) {
                    tracing::warn!(reason = reason.as_str(), "the coordinator refuses {what}");
                }
                return Err(Error::Call { what, status: Box::new(status) });
            }
            Err(status) => {
                let reason = Reason::of(&status).map(Reason::as_str);
                tracing::info!(what, code = ?status.code(), reason, "a call broke and is made again");
                let wait = backoff::delay(attempt, RETRY_FIRST, RETRY_MAX, bench.site.as_str());
                tokio::time::sleep(wait).await;
                bench.budget.take().await;
                attempt += 1;
            }
        }
    }
}
