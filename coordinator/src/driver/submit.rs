//! What an update has to pass before its round hears of it. It reads files, so it runs beside the
//! driver; what can be decided without them is decided in `core/review.rs`.

use fedpaint_proto::limits::DETAIL_BYTES_MAX;
use fedpaint_proto::names::SiteName;
use fedpaint_proto::text;

use super::core::{Request, Review, Submission, review};
use super::error::Error;
use super::handle::Handle;
use crate::blobs;
use crate::check::check_update;
use crate::round::{Member, Refusal, Update};

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
            handle.change(Request::Report(site.clone(), round.clone(), update)).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = &outcome
        // Where the coordinator itself failed, the update may yet be accepted.
        && !error.reason().is_the_coordinators()
    {
        // The error may quote the site's file.
        let detail = format!("round {round}: site {site}, {error}");
        let detail = text::line(&detail, DETAIL_BYTES_MAX);
        handle.change(Request::Refused(site.clone(), round, detail)).await?;
    }
    outcome
}

/// None if the round holds this very update already: the reply to an earlier call was lost.
async fn check(
    handle: &Handle,
    site: &SiteName,
    submission: Submission,
) -> Result<Option<Update>, Error> {
    let reviewed = {
        let state = handle.state.borrow();
        review(&state, site, &submission, handle.clock.now())?
    };
    let update = match reviewed {
        Review::Held => return Ok(None),
        Review::Past(over) => {
            let plan = handle.plan(&submission.round.run)?;
            let past = handle.store.round(&submission.round, &plan.round).await?;
            let Some(past) = past else { return Err(over) };
            let (id, update) = (&submission.round, submission.update());
            if past.holds(site, &update) || handle.store.counted_late(id, site, &update).await? {
                return Ok(None);
            }
            // It trained for this round, and came too late.
            let late = past.members().get(site) == Some(&Member::Joined);
            let refusal = Refusal::ReportingOver;
            return Err(if late { Error::Round { round: id.clone(), refusal } } else { over });
        }
        Review::Check(update) => update,
    };
    let Submission { round, base, weights, .. } = submission;
    if handle.blobs.find(&weights.digest).await? != Some(weights) {
        return Err(Error::BlobUnknown(weights.digest));
    }
    let paths = (handle.blobs.path(&weights.digest), handle.blobs.path(&base));
    let checked = handle.in_background(move || check_update(&paths.0, &paths.1));
    let checked = handle.while_arriving(site, &round, checked).await?;
    let Err(rejection) = checked else { return Ok(Some(update)) };
    // What is wrong may have come to the file since it was uploaded: then the site sends it again.
    let blobs = handle.blobs.clone();
    match handle.in_background(move || blobs.verify(&weights)).await? {
        Err(blobs::Error::Rotten(digest)) => Err(Error::BlobUnknown(digest)),
        _ => Err(Error::Update { round, rejection }),
    }
}
