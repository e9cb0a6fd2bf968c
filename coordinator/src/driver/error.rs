//! Why the driver refuses or fails.

use fedpaint_proto::identity::Role;
use fedpaint_proto::names::{Digest, OperatorName, RoundId, RunName, SiteName};
use fedpaint_proto::reason::Reason;

use crate::check::Rejection;
use crate::evidence::Unsigned;
use crate::round::Refusal;
use crate::{blobs, store};

/// Why the driver refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The site is not enrolled, so it may not call.
    #[error("site {0} is not enrolled; ask an operator to enroll it")]
    NotEnrolled(SiteName),
    /// The site was revoked, so it may not call.
    #[error("site {0} was revoked")]
    Revoked(SiteName),
    /// An operator would let a site in that was revoked, and not when the operator saw it.
    #[error("site {0} was revoked; look when, and let it in again if it is to be")]
    RevokedSince(SiteName),
    /// What an operator would change is another than what the operator saw.
    #[error("{0} is not what it was when this was asked for: look, and ask again if it is to be")]
    Stale(String),
    /// The certificate's key was shut out, or is none of those that its holder joined with.
    #[error("the key of this certificate of {0} was revoked or replaced; ask for a new invitation")]
    KeyRevoked(Role),
    /// Others are listed as operators, and this one is not.
    #[error("operator {0} is not listed; an admin lists it by `fedctl operator set`")]
    NotListed(OperatorName),
    /// The token does not hold. Whoever shows it hears the same words whatever is wrong.
    #[error(
        "the join token does not hold: unknown, wrong, used, expired or burnt; ask for another one"
    )]
    JoinRefused(JoinRefusal),
    /// There is no such invitation.
    #[error("there is no open invitation for site {0}; `fedctl site invite` makes one")]
    InviteUnknown(SiteName),
    /// Nobody has shown the invitation's token yet.
    #[error("nobody has asked to join as site {0} yet")]
    NobodyAsks(SiteName),
    /// The words are not those of the keys that ask.
    #[error(
        "those are not the words of the keys that ask to join as site {0}: compare them with the site's \
         own; if they differ, somebody else has the token, and `fedctl site reject` ends it"
    )]
    WrongWords(SiteName),
    /// The key has or had a certificate.
    #[error("this key has or had a certificate already; make a fresh one")]
    KeyKnown,
    /// It takes two persons, and one has asked for it.
    #[error(
        "this takes two persons: another operator runs `fedctl proposal approve {id}`, then repeat it \
         ({what})"
    )]
    SecondPerson {
        /// In words.
        what: String,
        /// By which it is approved.
        id: Digest,
    },
    /// The second person is the first.
    #[error("who asked for it cannot be the second person")]
    SamePerson,
    /// Nobody has asked for this.
    #[error("there is no proposal {}; it may be more than a day old", .0.short())]
    ProposalUnknown(Digest),
    /// No admin would be left.
    #[error("one operator must be an admin: list one first, by `fedctl operator set NAME admin`")]
    NoAdmin,
    /// An operator named a site that was never enrolled.
    #[error("there is no site {0}")]
    SiteUnknown(SiteName),
    /// There is no such run.
    #[error("there is no run {0}")]
    RunUnknown(RunName),
    /// There is no such round, or no such attempt at it.
    #[error("there is no round {0}")]
    RoundUnknown(RoundId),
    /// A run of that name has another plan or model.
    #[error("a run {0} exists with another plan or initial model")]
    RunExists(RunName),
    /// The run is finished or stopped.
    #[error("run {0} is finished or stopped")]
    RunOver(RunName),
    /// The round refuses.
    #[error("round {round}: {refusal}")]
    Round {
        /// Which round.
        round: RoundId,
        /// Why.
        refusal: Refusal,
    },
    /// The update was trained from another model than the round's base.
    #[error(
        "round {round}: the update was trained from model {}, the base model is {}",
        found.short(), expected.short()
    )]
    WrongBaseModel {
        /// Which round.
        round: RoundId,
        /// What the update says.
        found: Digest,
        /// The round's base model.
        expected: Digest,
    },
    /// The update claims no examples, or more than anybody can have seen.
    #[error("round {round}: an update cannot have seen {examples} examples")]
    WrongExamples {
        /// Which round.
        round: RoundId,
        /// How many it claims.
        examples: u64,
    },
    /// The file is refused as an update.
    #[error("round {round}: the update is refused: {rejection}")]
    Update {
        /// Which round.
        round: RoundId,
        /// Why.
        rejection: Rejection,
    },
    /// The update is not signed by its site.
    #[error("round {round}: the update does not count: {why}")]
    Unsigned {
        /// Which round.
        round: RoundId,
        /// Why.
        why: Unsigned,
    },
    /// The file is refused as an initial model.
    #[error("the initial model is refused: {0}")]
    InitialModel(Rejection),
    /// The blob is not here, or not one that the caller may read.
    #[error("there is no blob {} to be had", .0.short())]
    BlobUnknown(Digest),
    /// A value of a request is out of its bounds.
    #[error("{what} must be {must}")]
    Invalid {
        /// Which value.
        what: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// A text of a request is too long.
    #[error("{what} must be at most {bytes_max} bytes long ({limit})")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// How long it may be.
        bytes_max: usize,
        /// The limit's name.
        limit: &'static str,
    },
    /// A bound on how many there may be is reached.
    #[error("there are {max} {what} already, which is the most there may be ({limit})")]
    TooMany {
        /// Sites, runs, ...
        what: &'static str,
        /// How many there may be.
        max: usize,
        /// The limit's name.
        limit: &'static str,
    },
    /// The directory of blobs fails.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// The database fails.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Work in the background ended without an answer.
    #[error("a check in the background ended without an answer")]
    Background,
    /// The coordinator has no key to sign with.
    #[error("this coordinator signs nothing; give it a key: `signing` in its config")]
    SignsNothing,
    /// The coordinator is about to stop.
    #[error("the coordinator is stopping")]
    Draining,
}

/// What is wrong with a join token, for the log alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// There is no invitation for the site.
    #[error("there is no invitation")]
    NotInvited,
    /// The invitation has ended.
    #[error("the invitation has expired")]
    Expired,
    /// The secret is not the invitation's.
    #[error("a wrong secret")]
    WrongSecret,
    /// The secret was shown before with other keys.
    #[error("a token that was used before, with other keys")]
    Used,
}

impl Error {
    /// The reason as it travels. For [`Reason::Internal`] and [`Reason::Storage`] the text is for the log and not the wire.
    pub fn reason(&self) -> Reason {
        match self {
            Error::NotEnrolled(_) => Reason::NotEnrolled,
            Error::Revoked(_) | Error::RevokedSince(_) => Reason::Revoked,
            Error::Stale(_) => Reason::Stale,
            Error::KeyRevoked(_) => Reason::Revoked,
            Error::NotListed(_) => Reason::NotPermitted,
            Error::JoinRefused(_) => Reason::JoinRefused,
            Error::InviteUnknown(_) | Error::NobodyAsks(_) => Reason::InviteUnknown,
            Error::WrongWords(_) => Reason::WrongWords,
            Error::KeyKnown => Reason::KeyKnown,
            Error::SecondPerson { .. } | Error::SamePerson => Reason::SecondPerson,
            Error::ProposalUnknown(_) => Reason::ProposalUnknown,
            Error::NoAdmin => Reason::NoAdmin,
            Error::SiteUnknown(_) => Reason::SiteUnknown,
            Error::RunUnknown(_) => Reason::RunUnknown,
            Error::RoundUnknown(_) => Reason::RoundUnknown,
            Error::RunExists(_) => Reason::RunExists,
            Error::RunOver(_) => Reason::RunOver,
            Error::Round { refusal, .. } => match refusal {
                Refusal::SelectionOver | Refusal::TrainsEarlierRound => Reason::SelectionOver,
                Refusal::ReportingOver => Reason::ReportingOver,
                Refusal::NotReporting => Reason::NotReporting,
                Refusal::NotAMember => Reason::NotAMember,
                Refusal::AlreadyReported => Reason::AlreadyReported,
                Refusal::TooFewSites { .. } => Reason::TooFewSites,
                Refusal::RoundOver => Reason::RoundOver,
                // Only the coordinator itself can be refused so.
                Refusal::NotAggregating => Reason::Internal,
            },
            Error::WrongBaseModel { .. } => Reason::WrongBaseModel,
            Error::WrongExamples { .. } => Reason::WrongExamples,
            Error::Update { rejection, .. } | Error::InitialModel(rejection) => rejection.reason(),
            Error::Unsigned { why: Unsigned::Absent, .. } => Reason::Unsigned,
            Error::Unsigned { .. } => Reason::BadSignature,
            Error::BlobUnknown(_) => Reason::BlobUnknown,
            Error::Invalid { .. } | Error::TooLong { .. } | Error::TooMany { .. } => {
                Reason::InvalidRequest
            }
            Error::Blobs(error) => error.reason(),
            Error::Store(error) => error.reason(),
            Error::Background => Reason::Internal,
            Error::SignsNothing => Reason::Unsigned,
            Error::Draining => Reason::Draining,
        }
    }
}
