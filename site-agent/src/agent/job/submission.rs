//! The call that ends a round, and whether an earlier one was heard.
//!
//! Where an update leaves something out, what is left out counts once the update is accepted. Who submits and
//! hears no answer is in doubt about that, and asks again, by the same call, before anything else is trained:
//! an update that a round holds is accepted as often as it is submitted, also when the round is over.

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::RoundId;
use fedpaint_proto::reason::Reason;

use super::{Bench, Error, again, on_workspace, signed};
use crate::client;
use crate::pipe::Trained;
use crate::policy::judge;
use crate::workspace::Doubt;

/// What the call is called.
pub(super) const SUBMISSION: &str = "the update";

/// Submits an update that was uploaded, and settles whether it is accepted.
pub(super) async fn submit(bench: &Bench, update: &Doubt) -> Result<(), Error> {
    let Doubt { round, base, trained, .. } = update;
    let report = judge::report(bench.gate.policy(), trained.report);
    let told = Trained { report, ..*trained };
    let envelope = signed::envelope(bench, update);
    let signature = || signed::signature(bench, envelope.as_ref());
    let submit = || async {
        // A rule can only end the process here: a submission touches no disk of this side.
        let _ = reach("submit.send");
        let submitted =
            client::submit_update(&bench.line.now(), round, *base, &told, signature()).await;
        let _ = reach("submit.reply");
        submitted
    };
    let receipt = again(bench, SUBMISSION, submit).await?;
    signed::keep_receipt(bench, round, envelope.as_ref(), receipt).await;
    if trained.remainder.is_some() {
        on_workspace(bench, |workspace| workspace.settle(true)).await?;
    }
    Ok(())
}

/// Settles whether the last update was accepted, if that is in doubt and `next` is not its own round, in
/// which it is submitted once more anyway.
pub(super) async fn settle(bench: &Bench, next: &RoundId) -> Result<(), Error> {
    let Some(doubt) = on_workspace(bench, |workspace| workspace.doubt()).await? else {
        return Ok(());
    };
    if (&doubt.round.run, doubt.round.number) == (&next.run, next.number) {
        return Ok(());
    }
    match submit(bench, &doubt).await {
        Ok(()) => {
            tracing::info!(round = %doubt.round, "the last update was accepted after all");
            Ok(())
        }
        Err(error) if is_told(&error) => {
            tracing::info!(round = %doubt.round, "the last update was not accepted: {error}");
            on_workspace(bench, |workspace| workspace.settle(false)).await
        }
        Err(error) => Err(error),
    }
}

/// That nothing is in doubt: what settles it is no call that a dry run makes.
pub(super) async fn no_doubt(bench: &Bench) -> Result<(), Error> {
    match on_workspace(bench, |workspace| workspace.doubt()).await? {
        None => Ok(()),
        Some(doubt) => Err(Error::InDoubt(doubt.round)),
    }
}

/// Whether the coordinator says that it has not taken an update, and not only that it does not say.
fn is_told(error: &Error) -> bool {
    let Error::Call { status, .. } = error else { return false };
    let about_the_round = |reason| {
        matches!(
            reason,
            Reason::RunUnknown
                | Reason::RoundUnknown
                | Reason::BlobUnknown
                | Reason::RunOver
                | Reason::SelectionOver
                | Reason::ReportingOver
                | Reason::NotReporting
                | Reason::NotAMember
                | Reason::AlreadyReported
                | Reason::RoundOver
        )
    };
    Reason::of(status).is_some_and(|told| about_the_round(told) || told.is_about_the_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_not_let_in_has_not_been_told_that_its_update_was_not_taken() {
        let told = |reason: Reason| {
            is_told(&Error::Call { what: SUBMISSION, status: Box::new(reason.status("x")) })
        };
        for reason in [Reason::RoundOver, Reason::ReportingOver, Reason::NotFinite] {
            assert!(told(reason), "{reason:?}");
        }
        for reason in [Reason::Revoked, Reason::NoIdentity, Reason::Unsigned, Reason::Storage] {
            assert!(!told(reason), "{reason:?}");
        }
        assert!(!is_told(&Error::Cancelled));
    }
}
