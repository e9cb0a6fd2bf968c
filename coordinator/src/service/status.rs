//! Every error of the core to the status a client gets. There is no other place that does it.
//!
//! What failed inside the coordinator is told to the log; the client hears only that it did, for the
//! text may hold a path.

use fedpaint_proto::plan;
use fedpaint_proto::reason::Reason;
use tonic::Status;
use tracing::error;

use crate::slots::UPLOAD_TURN;
use crate::{blobs, ca, driver};

/// The status of an error of the driver.
pub(crate) fn of_driver(error: driver::Error) -> Status {
    match error {
        driver::Error::Blobs(error) => of_blobs(error),
        error => status(error.reason(), &error),
    }
}

/// The status of an error of the blobs.
pub(crate) fn of_blobs(error: blobs::Error) -> Status {
    match error {
        blobs::Error::WrongOffset { committed_size } => Reason::wrong_offset(committed_size),
        crowded @ blobs::Error::Crowded => {
            crowded.reason().status_after(crowded.to_string(), UPLOAD_TURN)
        }
        error => status(error.reason(), &error),
    }
}

/// The status of a certificate that is not issued.
pub(crate) fn of_issuer(error: &ca::Error) -> Status {
    status(Reason::Internal, error)
}

/// The status of a plan that is refused.
pub(crate) fn of_plan(error: &plan::Error) -> Status {
    // The parser's message has several lines and shows the place.
    Reason::InvalidPlan.status(error.to_string())
}

fn status(reason: Reason, error: &dyn std::error::Error) -> Status {
    let told = match reason {
        Reason::Internal => "the coordinator failed; its log says how",
        Reason::Storage => "the coordinator's disk or database fails; its log says how, call again",
        _ => return reason.status(error.to_string()),
    };
    let causes = causes(error);
    error!(causes, "a call failed");
    reason.status(told)
}

/// The error and what lies beneath it, for the log.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        // Many errors repeat their cause.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use fedpaint_proto::names::Digest;

    use super::*;

    #[test]
    fn what_failed_inside_is_not_told_to_a_client() {
        let error = blobs::Error::Io {
            what: "write",
            path: "/srv/secret".into(),
            source: io::ErrorKind::StorageFull.into(),
        };
        let status = of_driver(driver::Error::Blobs(error));
        assert_eq!(Reason::of(&status), Some(Reason::Storage));
        assert!(!status.message().contains("secret"), "{status:?}");
    }

    #[test]
    fn a_refusal_keeps_its_reason_and_its_words() {
        let digest = Digest::of(b"x");
        let status = of_driver(driver::Error::BlobUnknown(digest));
        assert_eq!(Reason::of(&status), Some(Reason::BlobUnknown));
        assert!(status.message().contains(&digest.short()));
        let status = of_driver(blobs::Error::WrongOffset { committed_size: 7 }.into());
        assert_eq!(Reason::of(&status), Some(Reason::WrongOffset));
        assert_eq!(status.message(), Reason::wrong_offset(7).message());
    }
}
