//! What the driver's core is asked to change, and what a site hears: plain values.

use fedpaint_proto::names::{Blob, Digest, OperatorName, RoundId, RunName, SiteName};
use fedpaint_proto::plan::SignedPlan;
use fedpaint_proto::rule::Rule;
use jiff::Timestamp;

use super::members::{Asking, Renewal};
use crate::aggregate::Made;
use crate::audit::sweep::Sweep;
use crate::driver::view::Progress;
use crate::records::{Document, Log};
use crate::roster::Roles;
use crate::round::{Update, Withdrawal};
use crate::run::{Directive, Straggler};

/// A change that is asked for. Each may be asked for again: what holds already changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// A site says what it is doing.
    Beat(SiteName, Beat),
    /// Bytes of a site's update have come, at a moment that its round takes note of
    /// ([`crate::round::Round::notes_arrival`]).
    Arriving(SiteName, RoundId),
    /// A site's update, which was checked and may be applied.
    Report(SiteName, RoundId, Update),
    /// A site's update was refused, with the reason in words: for the audit log only.
    Refused(SiteName, RoundId, String),
    /// What a site brought after its plan had dropped it, for the round and as it was noted then: it is kept.
    KeepDropped(SiteName, Box<Straggler>, Update),
    /// An operator lets a site in; one that was revoked, if it was at the time that is named.
    Enroll(OperatorName, SiteName, Option<Timestamp>),
    /// An operator shuts a site out that was let in when it saw.
    Revoke(OperatorName, SiteName, Sight),
    /// An operator invites a site to join: the digest of the token's secret, and whether nobody has to
    /// approve. The invitation that it saw is replaced.
    Invite(OperatorName, SiteName, (Digest, bool), Sight),
    /// An operator approves who asks to join by the invitation that it saw, by the words of its keys.
    Approve(OperatorName, SiteName, String, Sight),
    /// An operator ends the invitation that it saw.
    Reject(OperatorName, SiteName, Sight),
    /// Whoever holds a token asks to join.
    Join(Asking),
    /// Whoever would ask to join does not believe the coordinator, and says so by this alert: for the audit log only.
    Distrusted(String),
    /// A member asks for a certificate for its next key.
    Renew(Renewal),
    /// An operator says what an operator may do, who may do since then what it may.
    SetOperator(OperatorName, OperatorName, Roles, Sight),
    /// An operator agrees with what another one has asked for then.
    ApproveProposal(OperatorName, Digest, Sight),
    /// An operator would take a model out, its bytes from this one on.
    Export(OperatorName, Digest, u64),
    /// An operator creates a run from a model that is here and was checked.
    Create(OperatorName, RunName, Box<SignedPlan>, Blob),
    /// An operator changes a run.
    Command(OperatorName, RunName, Command),
    /// An operator changes a round.
    Verdict(OperatorName, RoundId, Verdict),
    /// A request whose entry in the log vouches for a document.
    Vouched(Box<Request>, Document),
    /// The aggregation that was owed has ended: with files that have their names, or with the
    /// reason why there are none.
    Aggregated(RoundId, Result<Made<Blob>, String>),
    /// The aggregation that was owed is waited for no longer, for this reason.
    NoAverage(RoundId, String),
    /// These blobs have changed on the disk and were set aside: for the audit log only.
    Rotten(Vec<Digest>),
    /// Updates of rounds more than so many behind the newest model of their run are let go.
    LetGo(u32),
    /// These blobs are about to be deleted: for the audit log only.
    Sweep(Sweep),
}

/// What an operator saw of what a call is to change. A call that comes late does not find it any more, and
/// undoes nothing that was done since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It does not say, as an older `fedctl`: whatever is there is changed.
    Unsaid,
    /// There was none.
    None,
    /// One that is as it is since then, or lasts until then.
    Of(Timestamp),
}

impl Sight {
    /// Whether what is there now is what was seen.
    pub fn is_of(self, held: Option<Timestamp>) -> bool {
        match self {
            Sight::Unsaid => true,
            Sight::None => held.is_none(),
            Sight::Of(seen) => held == Some(seen),
        }
    }
}

/// "This is what I am doing."
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    /// The agent's version, such as "0.1.0".
    pub agent_version: String,
    /// The protocol's version that it speaks.
    pub wire_version: u32,
    /// What the site is doing.
    pub activity: Activity,
    /// The rounds that its own policy refuses now, and by which rule.
    pub declined: Vec<(RoundId, Rule)>,
    /// What it does not believe of what it was last told of the audit log.
    pub doubt: Option<Doubt>,
    /// When the certificate ends that it showed, where there was one.
    pub shown_until: Option<Timestamp>,
    /// When the one ends that it says it signs with, where it signs.
    pub signing_until: Option<Timestamp>,
}

/// Why a site does not believe what it is told of the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Doubt {
    /// Nothing is signed.
    #[error("the coordinator signs no head of its log")]
    Unsigned,
    /// Nobody signed whom it believes.
    #[error("the head of the log is signed by nobody whom the site believes")]
    Signature,
    /// The clocks differ.
    #[error("the coordinator's clock and the site's differ")]
    Clock,
    /// Entries are gone.
    #[error("the log was cut short, and the site has stopped")]
    CutShort,
    /// Entries are others.
    #[error("the log is a fork of what the site was shown, and the site has stopped")]
    Fork,
}

/// What a site is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// Asking to take part in a round.
    Joining(RoundId),
    /// Training for a round.
    Training(RoundId, Progress),
    /// Uploading its update for a round.
    Uploading(RoundId),
    /// Giving a round up.
    Withdrawing(RoundId, Withdrawal),
}

/// What a site should be doing, and when to ask again.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What it should be doing.
    pub directive: Directive,
    /// When to ask again.
    pub next_after: std::time::Duration,
    /// The audit log as it is now.
    pub log: Log,
}

/// What an operator does to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Give the round in hand up and begin nothing new; where a round is named, only if the run was not
    /// resumed since it was the newest.
    Pause(Option<RoundId>),
    /// Go on after a pause; where a round is named, only if the run has had none since.
    Resume(Option<RoundId>),
    /// End the run early and for good.
    Stop,
    /// Count what a site sends, whatever it is: no quarantine leaves it out any more.
    Readmit(SiteName),
}

/// What an operator does to a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// End selection or reporting now, if enough sites are there.
    Close,
    /// The same for one of the two; a round that has left it stays as it is.
    End(Stage),
    /// Give the round up, in the operator's own words.
    Abandon(String),
}

/// A phase of a round that an operator may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Sites join.
    Selection,
    /// The members train and report.
    Reporting,
}
