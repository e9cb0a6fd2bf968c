//! Why a round was not finished, what the coordinator is told of it, and what may pass by itself.

use fedpaint_proto::disk::may_pass;
use fedpaint_proto::names::RoundId;
use fedpaint_proto::reason::{self, Reason};
use fedpaint_proto::transfer;
use fedpaint_proto::v1::WithdrawalReason;
use fedpaint_proto::weights;
use tonic::Status;

use super::signed::LINEAGE_TIMEOUT;
use super::submission::SUBMISSION;
use crate::agent::dry_run;
use crate::lineage;
use crate::pipe::Failure;
use crate::policy::Refusal;
use crate::supervisor::{self, Death};
use crate::workspace;

/// Why a round was not finished.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The round is no longer wanted.
    #[error("the round was given up")]
    Cancelled,
    /// The coordinator refuses a call, or cannot be reached any more.
    #[error("the coordinator refuses {what}: {}", fedpaint_proto::channel::told(status))]
    Call {
        /// Which call.
        what: &'static str,
        /// Its answer.
        status: Box<Status>,
    },
    /// The plan is not one that this version reads.
    #[error(transparent)]
    Plan(#[from] fedpaint_proto::plan::Error),
    /// What the coordinator has signed does not fit what this site knows.
    #[error("this site does not train that: {0}")]
    Disbelieved(#[from] lineage::Refusal),
    /// More rounds were missed than can be followed in one go.
    #[error(
        "the missed rounds were followed as far as round {reached} in {} s (LINEAGE_TIMEOUT): the agent goes on \
         from there in the next round",
        LINEAGE_TIMEOUT.as_secs()
    )]
    Far {
        /// As if this site had trained that round.
        reached: u32,
    },
    /// Nor does a dry run follow more of them in another go.
    #[error(
        "the missed rounds were followed as far as round {reached} in {} s (LINEAGE_TIMEOUT), and a dry run notes \
         nothing of that: let the agent run until it has trained a round, then try again",
        LINEAGE_TIMEOUT.as_secs()
    )]
    TooFar {
        /// As if this site had trained that round.
        reached: u32,
    },
    /// The base model does not arrive.
    #[error("cannot download the base model: {0}")]
    Download(transfer::Error),
    /// The update does not reach the coordinator.
    #[error("cannot upload the update: {0}")]
    Upload(transfer::Error),
    /// The trainer has no update.
    #[error(transparent)]
    Trainer(#[from] supervisor::Error),
    /// The shared folder fails.
    #[error(transparent)]
    Workspace(#[from] workspace::Error),
    /// The base model or the update does not read.
    #[error(transparent)]
    Model(#[from] weights::Error),
    /// This site's policy forbids it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The dry run's folder fails.
    #[error(transparent)]
    DryRun(#[from] dry_run::Error),
    /// What a dry run would train depends on what nobody here knows yet.
    #[error(
        "whether the update of round {0} was accepted is not known, and a dry run does not ask: let the \
         agent run until it has asked"
    )]
    InDoubt(RoundId),
}

impl Error {
    /// What the coordinator is told, or nothing where it knows.
    pub fn withdrawal(&self) -> Option<WithdrawalReason> {
        Some(match self {
            Error::Cancelled => return None,
            error if error.is_update_refused() => WithdrawalReason::UpdateRefused,
            Error::Download(transfer::Error::File { .. })
            | Error::Upload(transfer::Error::File { .. })
            | Error::Workspace(_)
            | Error::Model(weights::Error::Io { .. }) => WithdrawalReason::Disk,
            Error::Model(_) | Error::Download(transfer::Error::Digest { .. }) => {
                WithdrawalReason::BaseModel
            }
            Error::Refused(_) => WithdrawalReason::Policy,
            Error::DryRun(_) => WithdrawalReason::DryRun,
            Error::Call { .. }
            | Error::Far { .. }
            | Error::TooFar { .. }
            | Error::Download(_)
            | Error::Upload(_)
            | Error::InDoubt(_) => WithdrawalReason::Internal,
            Error::Plan(_) => WithdrawalReason::Plan,
            Error::Disbelieved(_) => WithdrawalReason::Model,
            Error::Trainer(error) => trainer_withdrawal(error)?,
        })
    }

    /// Whether it is a disk's trouble that may pass by itself.
    pub(super) fn is_disk(&self) -> bool {
        match self {
            Error::Download(transfer::Error::File { source, .. })
            | Error::Upload(transfer::Error::File { source, .. }) => may_pass(source),
            Error::Workspace(error) => error.may_pass(),
            Error::Model(weights::Error::Io { source, .. }) => may_pass(source),
            _ => false,
        }
    }

    /// Whether a transfer or a call does not get on, which it may when the network is back.
    pub(super) fn is_network(&self) -> bool {
        match self {
            Error::Download(error) | Error::Upload(error) => error.is_transient(),
            Error::Call { status, .. } => reason::is_transient(status),
            _ => false,
        }
    }

    /// Whether the coordinator refuses the update for good, and not only in this attempt at its round.
    pub(super) fn is_update_refused(&self) -> bool {
        let reason = match self {
            Error::Call { what: SUBMISSION, status } => Reason::of(status),
            Error::Upload(error) => error.reason(),
            _ => None,
        };
        reason.is_some_and(Reason::is_about_the_bytes)
    }

    /// Whether another trainer, or a base model that is fetched anew, may do what this one could not.
    pub(super) fn is_trainers(&self) -> bool {
        use supervisor::Error as E;
        let Error::Trainer(error) = self else { return false };
        match error {
            E::Died(death) => matches!(death, Death::Other(_)),
            E::Start(_) | E::Silent | E::Protocol(_) => true,
            E::Failed { failure, .. } => matches!(failure, Failure::Disk | Failure::Device),
        }
    }
}

fn trainer_withdrawal(error: &supervisor::Error) -> Option<WithdrawalReason> {
    use supervisor::Error as E;
    Some(match error {
        E::Failed { failure, .. } => match failure {
            Failure::Cancelled => return None,
            Failure::NotFinite => WithdrawalReason::NotFinite,
            Failure::NoData => WithdrawalReason::NoData,
            Failure::BaseModel => WithdrawalReason::BaseModel,
            Failure::Plan => WithdrawalReason::Plan,
            Failure::Device => WithdrawalReason::Device,
            Failure::Memory => WithdrawalReason::OutOfMemory,
            Failure::Disk => WithdrawalReason::Disk,
            Failure::Internal => WithdrawalReason::Internal,
        },
        E::Died(Death::OutOfMemory) => WithdrawalReason::OutOfMemory,
        E::Died(Death::Other(_)) | E::Start(_) | E::Silent | E::Protocol(_) => {
            WithdrawalReason::TrainerDied
        }
    })
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::names::Digest;

    use super::*;

    #[test]
    fn every_end_of_a_trainer_has_its_reason_on_the_wire() {
        use supervisor::Error as E;
        let died = |death| Error::Trainer(E::Died(death)).withdrawal();
        assert_eq!(died(Death::OutOfMemory), Some(WithdrawalReason::OutOfMemory));
        assert_eq!(died(Death::Other("signal 9".into())), Some(WithdrawalReason::TrainerDied));
        let failed = |failure| {
            Error::Trainer(E::Failed { failure, detail: "scan /x of y".into() }).withdrawal()
        };
        assert_eq!(failed(Failure::Memory), Some(WithdrawalReason::OutOfMemory));
        assert_eq!(failed(Failure::NotFinite), Some(WithdrawalReason::NotFinite));
        assert_eq!(failed(Failure::Cancelled), None);
        assert_eq!(Error::Cancelled.withdrawal(), None);
    }

    fn refused(what: &'static str, reason: Reason) -> Error {
        Error::Call { what, status: Box::new(reason.status("tensor x")) }
    }

    #[test]
    fn an_update_is_refused_by_a_reason_about_its_bytes_and_by_no_other() {
        let about_the_bytes = [
            Reason::NotAModel,
            Reason::WrongTensors,
            Reason::WrongShape,
            Reason::WrongDtype,
            Reason::WrongForm,
            Reason::WrongBaseModel,
            Reason::WrongExamples,
            Reason::NotFinite,
            Reason::TooLarge,
            Reason::WrongDigest,
        ];
        let digest = Digest::of(b"update");
        for &reason in Reason::ALL {
            let status = reason.status("x");
            let upload = match reason::is_transient(&status) {
                true => transfer::Error::Broken { digest, retries: 8, status },
                false => transfer::Error::Refused { what: "take", digest, status },
            };
            let expected = match about_the_bytes.contains(&reason) {
                true => WithdrawalReason::UpdateRefused,
                false => WithdrawalReason::Internal,
            };
            for error in [refused(SUBMISSION, reason), Error::Upload(upload)] {
                assert_eq!(error.withdrawal(), Some(expected), "{reason:?}");
            }
            assert_eq!(refused("the plan", reason).withdrawal(), Some(WithdrawalReason::Internal));
        }
    }
}
