//! What is signed round a job: the base model's manifest before it, the update's envelope and receipt after.

use fedpaint_proto::names::{Digest, RoundId};
use fedpaint_proto::signing::{Signed, Statement};
use fedpaint_proto::statement::Envelope;
use fedpaint_proto::v1;

use super::{Bench, Error, Task, again};
use crate::client;
use crate::lineage::{self, Asked, Last};
use crate::receipt;
use crate::workspace::Doubt;

/// Has this site believe what it is asked to train, by the base model's manifest and what it trained
/// before. What is to be noted before it is trained; nothing where this site does not sign.
pub(super) async fn agree(bench: &Bench, task: &Task, plan: Digest) -> Result<Option<Last>, Error> {
    let Some(trust) = bench.trust.now() else { return Ok(None) };
    let Task { round, base, .. } = task;
    let (run, version) = (&round.run, round.number.saturating_sub(1));
    let federation = trust.authority.federation();
    let manifest = || async { client::manifest(&bench.line.now(), federation, run, version).await };
    let manifest = again(bench, "the base model's manifest", manifest).await?;
    let last = bench.workspace.history()?.remove(run);
    let asked = Asked { round, base: *base, plan };
    lineage::judge(&trust.authority, last.as_ref(), &asked, &manifest, (trust.now)())?;
    Ok(Some(Last { number: round.number, base: base.digest, plan }))
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
pub(super) fn keep_receipt(
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
            if let Err(error) = bench.workspace.keep_receipt(round, &kept) {
                tracing::warn!(%round, "the receipt is not kept: {error}");
            }
        }
    }
}
