//! What the handle asks the driver: one enum, each with the way back for the answer.

use fedpaint_proto::names::{Blob, OperatorName, RoundId, RunName, SiteName};
use fedpaint_proto::plan::RunPlan;
use tokio::sync::oneshot;

use super::error::Error;
use super::view::Progress;
use crate::round::{Update, Withdrawal};
use crate::run::Directive;

/// "This is what I am doing."
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    /// The agent's version, such as "0.1.0".
    pub agent_version: String,
    /// What the site is doing.
    pub activity: Activity,
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
}

/// What an operator does to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Pause,
    Resume,
    Stop,
}

/// What an operator does to a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Close,
    Abandon(String),
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

#[derive(Debug)]
pub(super) enum Message {
    Beat(SiteName, Beat, Reply<Answer>),
    /// An update that was checked and may be applied.
    Report(SiteName, RoundId, Update, Reply<()>),
    /// An update that was refused: for the audit log only.
    Refused(SiteName, RoundId, String, Reply<()>),
    Enroll(OperatorName, SiteName, Reply<()>),
    Revoke(OperatorName, SiteName, Reply<()>),
    Create(OperatorName, RunName, Box<RunPlan>, Blob, Reply<()>),
    Command(OperatorName, RunName, Command, Reply<()>),
    Verdict(OperatorName, RoundId, Verdict, Reply<()>),
}
