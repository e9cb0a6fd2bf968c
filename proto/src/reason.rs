//! Why a call was refused: one small enum, to the wire and back.
//!
//! The server says [`Reason::status`], the client asks [`Reason::of`]; nobody matches on text.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::limits::{STATUS_BYTES_MAX, STORAGE_RETRY};
use crate::text;

/// The domain of our `google.rpc.ErrorInfo`.
const DOMAIN: &str = "fedpaint";

/// The key under which a refused offset's right value travels.
const COMMITTED_SIZE: &str = "committed_size";

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $text:literal, $code:ident;)*) => {
        /// Why a call was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Reason] = &[$(Reason::$reason,)*];

            /// The reason as it travels, such as `ROUND_OVER`.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$reason => $text,)* }
            }

            /// The gRPC code the reason travels under.
            pub fn code(self) -> Code {
                match self { $(Reason::$reason => Code::$code,)* }
            }
        }
    };
}

reasons! {
    /// A field of the request does not parse.
    InvalidRequest = "INVALID_REQUEST", InvalidArgument;
    /// The plan does not parse or is out of range.
    InvalidPlan = "INVALID_PLAN", InvalidArgument;
    /// The caller's certificate names nobody we know how to serve.
    NoIdentity = "NO_IDENTITY", Unauthenticated;
    /// The certificate's role may not call this.
    WrongRole = "WRONG_ROLE", PermissionDenied;
    /// The operator has not the role for this.
    NotPermitted = "NOT_PERMITTED", PermissionDenied;
    /// The join token does not hold: unknown, wrong, used, expired or burnt.
    JoinRefused = "JOIN_REFUSED", PermissionDenied;
    /// The coordinator has no authority to issue certificates with.
    NoIssuer = "NO_ISSUER", FailedPrecondition;
    /// Nobody asks to join as this site, or with other keys.
    InviteUnknown = "INVITE_UNKNOWN", NotFound;
    /// The fingerprint is not that of the keys which ask to join.
    WrongWords = "WRONG_WORDS", FailedPrecondition;
    /// The key has a certificate already; a fresh one is needed.
    KeyKnown = "KEY_KNOWN", FailedPrecondition;
    /// It takes a second person's approval.
    SecondPerson = "SECOND_PERSON", FailedPrecondition;
    /// No such proposal.
    ProposalUnknown = "PROPOSAL_UNKNOWN", NotFound;
    /// No operator would be left who may say what others may do.
    NoAdmin = "NO_ADMIN", FailedPrecondition;
    /// What the call would change is not what its caller saw: it was made before, and comes late.
    Stale = "STALE", FailedPrecondition;
    /// The caller asks too often.
    TooOften = "TOO_OFTEN", ResourceExhausted;
    /// The connection has as many calls under way as it may.
    TooManyCalls = "TOO_MANY_CALLS", ResourceExhausted;
    /// The call's headers, or a message of it, are longer than they may be.
    TooLong = "TOO_LONG", OutOfRange;
    /// What was to be sent, read or done took longer than it may.
    TooSlow = "TOO_SLOW", DeadlineExceeded;
    /// The site is not enrolled.
    NotEnrolled = "NOT_ENROLLED", PermissionDenied;
    /// The site was revoked.
    Revoked = "REVOKED", PermissionDenied;
    /// No such site.
    SiteUnknown = "SITE_UNKNOWN", NotFound;
    /// No such run.
    RunUnknown = "RUN_UNKNOWN", NotFound;
    /// No such round, or no such attempt at it.
    RoundUnknown = "ROUND_UNKNOWN", NotFound;
    /// No such blob, or none that the caller may read.
    BlobUnknown = "BLOB_UNKNOWN", NotFound;
    /// A run of that name exists with another plan or model.
    RunExists = "RUN_EXISTS", AlreadyExists;
    /// The run is finished or stopped.
    RunOver = "RUN_OVER", FailedPrecondition;
    /// The site's selection time is over.
    SelectionOver = "SELECTION_OVER", FailedPrecondition;
    /// The round was sealed without this update, and a late one does not count.
    ReportingOver = "REPORTING_OVER", FailedPrecondition;
    /// The round has not begun to take updates.
    NotReporting = "NOT_REPORTING", FailedPrecondition;
    /// The site has not joined the round.
    NotAMember = "NOT_A_MEMBER", FailedPrecondition;
    /// The site has reported another update, or has withdrawn.
    AlreadyReported = "ALREADY_REPORTED", FailedPrecondition;
    /// The operator may not close a round that too few sites are in.
    TooFewSites = "TOO_FEW_SITES", FailedPrecondition;
    /// The round is committed or abandoned.
    RoundOver = "ROUND_OVER", FailedPrecondition;
    /// The update was trained from another base model.
    WrongBaseModel = "WRONG_BASE_MODEL", FailedPrecondition;
    /// The file is not a model: no safetensors, or beyond the limits.
    NotAModel = "NOT_A_MODEL", FailedPrecondition;
    /// The update's tensors are not those of its base model.
    WrongTensors = "WRONG_TENSORS", FailedPrecondition;
    /// A tensor has another shape than the base model's.
    WrongShape = "WRONG_SHAPE", FailedPrecondition;
    /// A tensor has another element type than the base model's.
    WrongDtype = "WRONG_DTYPE", FailedPrecondition;
    /// The update travels in another form than the plan asks for.
    WrongForm = "WRONG_FORM", FailedPrecondition;
    /// A weight is not a finite number.
    NotFinite = "NOT_FINITE", FailedPrecondition;
    /// The update claims no examples, or more than anybody can have seen.
    WrongExamples = "WRONG_EXAMPLES", FailedPrecondition;
    /// The blob is larger than such a blob may be.
    TooLarge = "TOO_LARGE", FailedPrecondition;
    /// The upload begins elsewhere than where the coordinator's copy ends.
    WrongOffset = "WRONG_OFFSET", OutOfRange;
    /// The bytes are not what their digest says; the upload begins anew.
    WrongDigest = "WRONG_DIGEST", DataLoss;
    /// Another call is uploading the same blob, or too many uploads are under way.
    UploadBusy = "UPLOAD_BUSY", ResourceExhausted;
    /// The coordinator's copy of the blob is not what its digest says; it was set aside.
    BlobRotten = "BLOB_ROTTEN", DataLoss;
    /// The caller speaks a version of the protocol that the coordinator cannot serve.
    WireVersion = "WIRE_VERSION", FailedPrecondition;
    /// What was said or asked for needs a signature, and there is none.
    Unsigned = "UNSIGNED", FailedPrecondition;
    /// A signature is not the caller's over what it says.
    BadSignature = "BAD_SIGNATURE", FailedPrecondition;
    /// The coordinator is about to stop.
    Draining = "DRAINING", Unavailable;
    /// The coordinator's disk or database is full or fails; it goes on when that is over.
    Storage = "STORAGE", Unavailable;
    /// The coordinator failed; its log says how.
    Internal = "INTERNAL", Internal;
}

impl Reason {
    /// The reason as a status; `message` is for people and names the thing. It travels bounded, and with
    /// nothing in it that steers a terminal, whatever it quotes.
    pub fn status(self, message: impl AsRef<str>) -> Status {
        self.told(message.as_ref(), self.retry_after())
    }

    /// The same for a caller who is told to come again after so long.
    pub fn status_after(self, message: impl AsRef<str>, after: Duration) -> Status {
        self.told(message.as_ref(), Some(after))
    }

    fn told(self, message: &str, after: Option<Duration>) -> Status {
        let message = text::lines(message, STATUS_BYTES_MAX);
        let mut details = ErrorDetails::with_error_info(self.as_str(), DOMAIN, HashMap::new());
        if after.is_some() {
            details.set_retry_info(after);
        }
        Status::with_error_details(self.code(), message, details)
    }

    /// How long a caller waits before it calls again, where that is always the same; it travels as
    /// `google.rpc.RetryInfo`, which [`PutOff`](crate::put_off::PutOff) reads.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Reason::Storage => Some(STORAGE_RETRY),
            _ => None,
        }
    }

    /// Whether it is about what an update holds, so that the same bytes would be refused again. Any other
    /// refusal of an update is about its round, and another attempt may take it.
    pub fn is_about_the_bytes(self) -> bool {
        matches!(
            self,
            Reason::NotAModel
                | Reason::WrongTensors
                | Reason::WrongShape
                | Reason::WrongDtype
                | Reason::WrongForm
                | Reason::WrongBaseModel
                | Reason::WrongExamples
                | Reason::NotFinite
                | Reason::TooLarge
                | Reason::WrongDigest
        )
    }

    /// Whether the coordinator itself failed or stops, so that what it was given may yet be accepted.
    pub fn is_the_coordinators(self) -> bool {
        matches!(self, Reason::Internal | Reason::Draining | Reason::Storage)
    }

    /// [`Reason::WrongOffset`] with the offset that would have been right.
    pub fn wrong_offset(committed_size: u64) -> Status {
        let metadata = HashMap::from([(COMMITTED_SIZE.to_owned(), committed_size.to_string())]);
        let details = ErrorDetails::with_error_info(Self::WrongOffset.as_str(), DOMAIN, metadata);
        let message = format!("the upload must go on at byte {committed_size}");
        Status::with_error_details(Self::WrongOffset.code(), message, details)
    }

    /// The reason in `status`, if the other side gave one that this version knows.
    pub fn of(status: &Status) -> Option<Reason> {
        let info = status.get_details_error_info()?;
        if info.domain != DOMAIN {
            return None;
        }
        Self::ALL.iter().copied().find(|reason| reason.as_str() == info.reason)
    }
}

/// Whether the same call may succeed later without anything being changed.
pub fn is_transient(status: &Status) -> bool {
    match Reason::of(status) {
        Some(reason) => matches!(
            reason,
            Reason::UploadBusy
                | Reason::TooOften
                | Reason::TooManyCalls
                | Reason::TooSlow
                | Reason::Draining
                | Reason::Storage
                | Reason::WrongOffset
                | Reason::Internal
        ),
        None => matches!(
            status.code(),
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::Cancelled
                | Code::Unknown
                | Code::Internal
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for &reason in Reason::ALL {
            let status = reason.status("round brain/3.1 is over");
            assert_eq!(Reason::of(&status), Some(reason));
            assert_eq!(status.code(), reason.code());
        }
        assert_eq!(Reason::of(&Reason::wrong_offset(7)), Some(Reason::WrongOffset));
        assert_eq!(Reason::of(&Status::internal("x")), None);
    }

    #[test]
    fn what_a_status_quotes_is_bounded_and_steers_no_terminal() {
        let quoted = format!("tensor \u{1b}]0;{} is missing", "x".repeat(9_000));
        let status = Reason::WrongTensors.status(quoted);
        assert!(status.message().len() <= STATUS_BYTES_MAX, "{}", status.message().len());
        assert!(status.message().starts_with("tensor \u{fffd}]0;x"), "{}", status.message());
    }

    #[test]
    fn a_full_disk_says_when_to_call_again() {
        let status = Reason::Storage.status("the disk is full");
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(STORAGE_RETRY));
        assert!(is_transient(&status));
        assert!(Reason::RoundOver.status("x").get_details_retry_info().is_none());
    }
}
