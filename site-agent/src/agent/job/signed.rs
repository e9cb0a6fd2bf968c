//! What is signed round a job: the base model's manifest before it, the update's envelope and receipt after.

use std::sync::Arc;

use fedpaint_proto::names::{Digest, RoundId, RunName};
use fedpaint_proto::signing::{Signed, Statement};
use fedpaint_proto::statement::{Envelope, Manifest};
use fedpaint_proto::v1;
use jiff::{SignedDuration, Timestamp};

use super::{Bench, Error, Task, again, on_workspace};
use crate::agent::Trust;
use crate::client;
use crate::lineage::{self, Asked, Descent, Last, Refusal};
use crate::receipt;
use crate::workspace::Doubt;

/// After how many missed rounds a site notes how far it has followed a run, so that it goes on from there if the
/// round is over before it has come to the end.
const FOLLOWED_BEFORE_NOTED: u32 = 100;

/// For how long a site follows a run in one go, over however many rounds: a coordinator that takes its time with each
/// answer does not keep it at that for ever. What was followed by then is noted, so that no run is too long.
pub(super) const LINEAGE_TIMEOUT: SignedDuration = SignedDuration::from_mins(30);

/// What a site was told that the base model of a task is made of, not yet believed, and by what it judges that.
pub(super) struct Told {
    trust: Arc<Trust>,
    manifest: Signed<Manifest>,
}

/// Asks what the base model of a task is made of; nothing where this site does not sign.
pub(super) async fn ask(bench: &Bench, task: &Task) -> Result<Option<Told>, Error> {
    let Some(trust) = bench.trust.now() else { return Ok(None) };
    let version = (&task.round.run, task.round.number.saturating_sub(1));
    let manifest = manifest(bench, &trust, version, "the base model's manifest").await?;
    Ok(Some(Told { trust, manifest }))
}

/// Has this site believe what it is asked to train, by what it was told of the base model and what it trained
/// before. What is to be noted before anything leaves; nothing where this site does not sign.
pub(super) async fn agree(
    bench: &Bench,
    task: &Task,
    told: Option<Told>,
    plan: Digest,
) -> Result<Option<Last>, Error> {
    let Some(Told { trust, manifest }) = told else { return Ok(None) };
    let Task { round, base, .. } = task;
    let asked = Asked { round, base: *base, plan };
    let judged = |last: Option<&Last>| {
        lineage::judge(&trust.authority, last, &asked, &manifest, (trust.now)())
    };
    let last = bench.workspace.history()?.remove(&round.run);
    judged(last.as_ref())?;
    if let Some(last) = last {
        judged(Some(&follow(bench, &trust, last, asked).await?))?;
    }
    Ok(Some(Last { number: round.number, base: base.digest, plan }))
}

/// Follows a run from what this site trained last, over the models of the rounds that it missed: as many as the
/// run has, for each vouches for the one before it alone. How far that leads; an error where it does not lead there
/// within [`LINEAGE_TIMEOUT`].
async fn follow(bench: &Bench, trust: &Trust, last: Last, asked: Asked<'_>) -> Result<Last, Error> {
    let (run, trained) = (&asked.round.run, last.number);
    let mut descent = Descent::new(last, asked);
    if descent.version().is_some() {
        let round = asked.round;
        tracing::info!(%round, trained, "rounds were missed; asking what their models are made of");
    }
    let until = (trust.now)().checked_add(LINEAGE_TIMEOUT).unwrap_or(Timestamp::MAX);
    while let Some(version) = descent.version() {
        let told = manifest(bench, trust, (run, version), "a missed round's manifest").await?;
        let now = (trust.now)();
        descent.step(&trust.authority, &told, now)?;
        let (reached, is_late) = (descent.reached(), until <= now && descent.version().is_some());
        let is_due = is_late || version.is_multiple_of(FOLLOWED_BEFORE_NOTED);
        // Nobody follows a run by looking at it.
        if is_due && !bench.gate.is_for_dry_run() {
            let (run, reached) = (run.clone(), reached.clone());
            on_workspace(bench, move |w| w.note(&run, reached)).await?;
        }
        if is_late {
            let reached = reached.number;
            return Err(match bench.gate.is_for_dry_run() {
                true => Error::TooFar { reached },
                false => Error::Far { reached },
            });
        }
    }
    Ok(descent.reached().clone())
}

/// What the coordinator says that a version's model is made of, not yet believed.
pub(super) async fn manifest(
    bench: &Bench,
    trust: &Trust,
    (run, version): (&RunName, u32),
    what: &'static str,
) -> Result<Signed<Manifest>, Error> {
    let federation = trust.authority.federation();
    let told = || async { client::manifest(&bench.line.now(), federation, run, version).await };
    Ok(again(bench, what, told).await?.map_err(Refusal::from)?)
}

/// What this site says of its update, where it signs.
pub(super) fn envelope(
    bench: &Bench,
    Doubt { round, plan, base, trained }: &Doubt,
) -> Option<Envelope> {
    let trust = bench.trust.now()?;
    Some(Envelope {
        federation: trust.authority.federation().clone(),
        round: round.clone(),
        site: bench.site.clone(),
        base: base.digest,
        plan: *plan,
        update: trained.update,
        examples: trained.examples,
    })
}

/// The signature over it.
pub(super) fn signature(bench: &Bench, envelope: Option<&Envelope>) -> Option<v1::Signature> {
    let trust = bench.trust.now()?;
    Some(Signed::by(&trust.signer, envelope?.clone()).signature_to_wire())
}

/// Keeps the receipt for an update. The update is taken with or without one, so what is wrong with it is
/// told to the site's people and changes nothing.
pub(super) async fn keep_receipt(
    bench: &Bench,
    round: &RoundId,
    envelope: Option<&Envelope>,
    told: Option<v1::Receipt>,
) {
    let (Some(trust), Some(envelope)) = (bench.trust.now(), envelope) else { return };
    let digest = Digest::of(&envelope.to_bytes());
    match receipt::judge(&trust.authority, digest, told, (trust.now)()) {
        Err(refusal) => tracing::warn!(%round, "the update has no receipt: {refusal}"),
        Ok(kept) => {
            let of = round.clone();
            let keeping = on_workspace(bench, move |w| w.keep_receipt(&of, &kept));
            if let Err(error) = keeping.await {
                tracing::warn!(%round, "the receipt is not kept: {error}");
            }
        }
    }
}
