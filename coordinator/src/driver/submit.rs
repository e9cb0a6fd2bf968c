//! What an update has to pass before its round hears of it. It reads files, so it runs beside the
//! driver; whatever has changed meanwhile is decided again when the event is applied.

use fedpaint_proto::limits::EXAMPLES_MAX;
use fedpaint_proto::names::{Blob, Digest, RoundId, SiteName};
use fedpaint_proto::reason::Reason;

use super::error::Error;
use super::handle::Handle;
use super::message::Message;
use crate::check::check_update;
use crate::round::{Report, Update};

/// "This blob, which I have uploaded, is my update."
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// For which round.
    pub round: RoundId,
    /// The model the training began from.
    pub base: Digest,
    /// The trained model.
    pub weights: Blob,
    /// Training examples seen.
    pub examples: u64,
    /// What the site tells of its training.
    pub report: Report,
}

/// Checks and applies a submission; a refusal is noted in the audit log.
pub(super) async fn submit(
    handle: &Handle,
    site: &SiteName,
    submission: Submission,
) -> Result<(), Error> {
    let round = submission.round.clone();
    let outcome = match check(handle, site, submission).await {
        Ok(None) => return Ok(()),
        Ok(Some(update)) => {
            let (site, round) = (site.clone(), round.clone());
            handle.ask(|reply| Message::Report(site, round, update, reply)).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = &outcome
        // Where the coordinator itself failed, the update may yet be accepted.
        && !matches!(error.reason(), Reason::Internal | Reason::Draining)
    {
        let detail = format!("round {round}: site {site}, {error}");
        let site = site.clone();
        handle.ask(|reply| Message::Refused(site, round, detail, reply)).await?;
    }
    outcome
}

/// None if the round holds this very update already: the reply to an earlier call was lost.
async fn check(
    handle: &Handle,
    site: &SiteName,
    submission: Submission,
) -> Result<Option<Update>, Error> {
    let Submission { round, base, weights, examples, report } = submission;
    let update = Update { weights, examples, report };
    let found = {
        let state = handle.state.borrow();
        state.access(site)?;
        state.round(&round).cloned()
    };
    let current = match found {
        Ok(current) => current,
        // The update may have been the last one that a round waited for.
        Err(over @ Error::Round { .. }) => {
            let plan = handle.plan(&round.run)?;
            let past = handle.store.round(&round, &plan.round).await?;
            let held = past.is_some_and(|past| past.holds(site, &update));
            return if held { Ok(None) } else { Err(over) };
        }
        Err(other) => return Err(other),
    };
    if current.holds(site, &update) {
        return Ok(None);
    }
    let refused = |refusal| Error::Round { round: round.clone(), refusal };
    current.awaits(site, handle.clock.now()).map_err(refused)?;
    let expected = current.base().digest;
    if base != expected {
        return Err(Error::WrongBaseModel { round, found: base, expected });
    }
    if !(1..=EXAMPLES_MAX).contains(&examples) {
        return Err(Error::WrongExamples { round, examples });
    }
    if !report.is_finite() {
        return Err(Error::Invalid { what: "report", must: "made of finite numbers" });
    }
    if handle.blobs.find(&weights.digest).await? != Some(weights) {
        return Err(Error::BlobUnknown(weights.digest));
    }
    let paths = (handle.blobs.path(&weights.digest), handle.blobs.path(&base));
    let checked = handle.in_background(move || check_update(&paths.0, &paths.1)).await?;
    checked.map_err(|rejection| Error::Update { round, rejection })?;
    Ok(Some(update))
}
