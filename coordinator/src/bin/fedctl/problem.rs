//! What went wrong, in one line that names the thing and what to do.

use std::error::Error;

use fedpaint_proto::channel::told;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::text;
use tonic::{Code, Status};

/// Asked wrongly: the command cannot be carried out as it was given.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// The coordinator said no.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

/// What a failed call means to the operator.
pub(crate) fn of_status(status: &Status) -> anyhow::Error {
    let said = status.message();
    let text = match Reason::of(status) {
        Some(reason) => match fix(reason) {
            Some(fix) => format!("{said}; {fix}"),
            None => said.to_owned(),
        },
        None => match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => {
                "the coordinator did not answer in time; is it overloaded?".to_owned()
            }
            // A status with a cause was made on this side of the wire.
            code if code == Code::Unavailable || status.source().is_some() => {
                format!("the connection to the coordinator broke: {}; is it running?", told(status))
            }
            _ => format!("the coordinator failed: {}", told(status)),
        },
    };
    Refused(text).into()
}

/// The error and its causes in one line.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    text::line(&text, usize::MAX)
}

/// What the operator can do about a refusal.
fn fix(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::WrongRole => Some("use an operator's certificate"),
        Reason::NoIdentity => Some("use a certificate that `fedctl ca issue operator` made"),
        Reason::NotPermitted => Some("`fedctl operator list` shows who may do what"),
        Reason::InviteUnknown => Some("`fedctl site list` shows the invitations"),
        Reason::SiteUnknown => Some("`fedctl site list` shows the sites"),
        Reason::RunUnknown => Some("`fedctl run list` shows the runs"),
        Reason::RoundUnknown => Some("`fedctl round list RUN` shows the rounds"),
        Reason::BlobUnknown => Some("`fedctl model list RUN` shows the models"),
        Reason::RunExists => Some("choose another name"),
        Reason::TooFewSites => Some("wait for more sites, or abandon the round"),
        Reason::UploadBusy | Reason::Draining => Some("try again in a minute"),
        Reason::Internal => Some("the coordinator's log says more"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_and_what_to_do() {
        let error = of_status(&Reason::RunUnknown.status("there is no run t9"));
        assert_eq!(one_line(&error), "there is no run t9; `fedctl run list` shows the runs");
        let error = of_status(&Reason::RunOver.status("run t1 is finished"));
        assert_eq!(one_line(&error), "run t1 is finished");
        let error = of_status(&Reason::TooSlow.status("the call took too long (CALL_TIMEOUT)"));
        assert_eq!(one_line(&error), "the call took too long (CALL_TIMEOUT)");
    }

    #[test]
    fn a_broken_connection_is_told_from_a_coordinator_that_failed() {
        let broke = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "refused");
        let mut status = Status::unknown("transport error");
        status.set_source(std::sync::Arc::new(broke));
        let text = one_line(&of_status(&status));
        assert_eq!(text, "the connection to the coordinator broke: refused; is it running?");
        let text = one_line(&of_status(&Status::unknown("no disk")));
        assert_eq!(text, "the coordinator failed: no disk");
    }

    #[test]
    fn an_error_is_one_line_whatever_its_causes_say() {
        let error = anyhow::anyhow!("line\n  two").context("cannot read x");
        assert_eq!(one_line(&error), "cannot read x: line two");
    }
}
