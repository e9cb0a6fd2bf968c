//! What an update has to pass before its round hears of it. It reads files, so it runs beside the
//! driver; what can be decided without them is decided in `core/review.rs`. What comes when its round is sealed
//! and is dropped by the plan is refused, and kept.

use fedpaint_proto::limits::DETAIL_BYTES_MAX;
use fedpaint_proto::names::{Digest, RoundId, SiteName};
use fedpaint_proto::plan::Encoding;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::statement::Envelope;
use fedpaint_proto::text;

use super::core::{Request, Review, Submission, is_kept, review};
use super::error::Error;
use super::handle::Handle;
use crate::blobs;
use crate::check::{check_form, check_update};
use crate::evidence::plan_digest;
use crate::records::Document;
use crate::round::{Member, Phase, Refusal, Round, Update};
use crate::run::Straggler;

/// Checks and applies a submission; a refusal is noted in the audit log, and what comes too late is kept.
pub(super) async fn submit(
    handle: &Handle,
    site: &SiteName,
    submission: Submission,
) -> Result<Option<Digest>, Error> {
    let round = submission.round.clone();
    let outcome = take(handle, site, submission.clone()).await;
    if let Err(error) = &outcome
        // Where the coordinator itself failed, the update may yet be accepted.
        && !error.reason().is_the_coordinators()
    {
        note(handle, site, round, error).await?;
        if error.reason() == Reason::ReportingOver {
            keep(handle, site, &submission).await?;
        }
    }
    outcome
}

/// Keeps an update that was dropped before it came, if it is here whole: a row names it from then on.
async fn keep(handle: &Handle, site: &SiteName, submission: &Submission) -> Result<(), Error> {
    let Some(noted) = noted(handle, site, &submission.round).await? else { return Ok(()) };
    let weights = submission.weights;
    if !is_kept(&noted, submission) || handle.blobs.find(&weights.digest).await? != Some(weights) {
        return Ok(());
    }
    let (noted, update) = (Box::new(noted), submission.update());
    handle.change(Request::KeepDropped(site.clone(), noted, update)).await
}

/// A member that had not reported when its round was sealed, as it is in memory or in its row.
async fn noted(
    handle: &Handle,
    site: &SiteName,
    round: &RoundId,
) -> Result<Option<Straggler>, Error> {
    let held = {
        let state = handle.state.borrow();
        state.run(&round.run)?.straggler(round, site).cloned()
    };
    if held.is_some() {
        return Ok(held);
    }
    let late = handle.store.late(&round.run, round.number, round.number).await?;
    let is_it = |(name, held): &(SiteName, Straggler)| name == site && held.round == *round;
    Ok(late.into_iter().find(is_it).map(|(_, held)| held))
}

/// Notes in the audit log why an update was refused.
pub(super) async fn note(
    handle: &Handle,
    site: &SiteName,
    round: RoundId,
    error: &Error,
) -> Result<(), Error> {
    // The error may quote the site's file.
    let detail = format!("round {round}: site {site}, {error}");
    let detail = text::line(&detail, DETAIL_BYTES_MAX);
    handle.change(Request::Refused(site.clone(), round, detail)).await
}

/// Why a round that is over takes nothing of a site: one that it was sealed without comes too late.
pub(super) fn late_or(past: &Round, site: &SiteName, refused: Error) -> Error {
    let sealed = matches!(past.phase(), Phase::Aggregating | Phase::Committed(_));
    let missed = sealed && past.members().get(site) == Some(&Member::Joined);
    match refused {
        Error::Round { round, refusal: Refusal::RoundOver } if missed => {
            Error::Round { round, refusal: Refusal::ReportingOver }
        }
        other => other,
    }
}

/// The digest of the envelope of an update that is taken, or was before, where it is signed.
async fn take(
    handle: &Handle,
    site: &SiteName,
    submission: Submission,
) -> Result<Option<Digest>, Error> {
    let round = submission.round.clone();
    let document = envelope(handle, site, &submission)?;
    let digest = document.as_ref().map(|document| document.digest);
    let Some(update) = check(handle, site, submission).await? else { return Ok(digest) };
    let report = Request::Report(site.clone(), round, update);
    handle.change(vouched(report, document)).await?;
    Ok(digest)
}

/// A request, with the document that its entry vouches for.
pub(super) fn vouched(request: Request, document: Option<Document>) -> Request {
    match document {
        None => request,
        Some(document) => Request::Vouched(Box::new(request), document),
    }
}

/// The envelope of a submission as a document, if its site has signed it.
fn envelope(
    handle: &Handle,
    site: &SiteName,
    submission: &Submission,
) -> Result<Option<Document>, Error> {
    let Some(notary) = &handle.notary else { return Ok(None) };
    let Submission { round, base, weights, examples, signature, .. } = submission;
    let envelope = Envelope {
        federation: notary.federation().clone(),
        round: round.clone(),
        site: site.clone(),
        base: *base,
        plan: plan_digest(&handle.plan(&round.run)?),
        update: *weights,
        examples: *examples,
    };
    let key = handle.state.borrow().site(site).and_then(|site| site.signing_key);
    let judged = notary.judge((site, key), envelope, signature.as_ref(), handle.clock.now());
    judged.map_err(|why| Error::Unsigned { round: round.clone(), why })
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
            return Err(late_or(&past, site, over));
        }
        Review::Check(update) => update,
    };
    let Submission { round, base, weights, .. } = submission;
    if handle.blobs.find(&weights.digest).await? != Some(weights) {
        return Err(Error::BlobUnknown(weights.digest));
    }
    let paths = (handle.blobs.path(&weights.digest), handle.blobs.path(&base));
    let form = handle.plan(&round.run)?.exchange;
    // Its numbers were looked at as they came, unless they came in several goes or this process has begun since.
    let is_seen = form.encoding == Encoding::F32 && handle.blobs.came_finite(&weights.digest);
    let check = if is_seen { check_form } else { check_update };
    let checked = handle.in_background(move || check(&paths.0, &paths.1, form));
    let checked = handle.while_arriving(site, &round, checked).await?;
    let Err(rejection) = checked else { return Ok(Some(update)) };
    // What is wrong may have come to a file since it was written: to the update, which the site then sends
    // again, or to the base model, of which no update is guilty.
    let blobs = handle.blobs.clone();
    let verify = move || (blobs.verify(&weights.digest), blobs.verify(&base));
    match handle.in_background(verify).await? {
        (Err(blobs::Error::Rotten(digest)), _) => Err(Error::BlobUnknown(digest)),
        (_, Err(rotten @ blobs::Error::Rotten(_))) => Err(rotten.into()),
        _ => Err(Error::Update { round, rejection }),
    }
}
