//! Whether the update that was accepted last is a part of a model, as the coordinator has signed it. An attempt
//! may be abandoned after it has accepted an update, and the next be made by others: then what that update had
//! carried of earlier ones is in no model either, and has to be carried on.

use fedpaint_proto::names::{Digest, RoundId, RunName, SiteName};
use fedpaint_proto::statement::Manifest;

use super::{Bench, Error, on_workspace, signed};
use crate::workspace::Open;

/// Settles it before round `round` is trained, if it is open. Where the coordinator does not say, the update
/// is taken for counted, which loses no more than one update's rounding; no round fails for it.
pub(super) async fn settle(bench: &Bench, round: &RoundId, plan: Digest) -> Result<(), Error> {
    let Some(trust) = bench.trust.now() else { return Ok(()) };
    let of = round.clone();
    let open = on_workspace(bench, move |w| w.open_update(&of.run, of.number, plan)).await?;
    let Some(open) = open else { return Ok(()) };
    let what = "the manifest of the last update's round";
    let told = signed::manifest(bench, &trust, (&round.run, open.number), what).await;
    let manifest = match told {
        Ok(manifest) => manifest,
        Err(error) => {
            tracing::warn!(%round, "whether the last update counts is not known: {error}");
            return Ok(());
        }
    };
    if let Err(error) = manifest.by_coordinator(&trust.authority, (trust.now)()) {
        tracing::warn!(%round, "whether the last update counts is not known: {error}");
        return Ok(());
    }
    let is_counted = is_counted(&manifest.statement, &round.run, &bench.site, open);
    if is_counted == Some(false) {
        tracing::info!(%round, number = open.number, "the last update is in no model");
    }
    let (run, is_counted) = (round.run.clone(), is_counted.unwrap_or(true));
    on_workspace(bench, move |w| w.close_update(&run, is_counted)).await
}

/// Whether a model is, or may yet be, made of an accepted update, by the manifest of its round's model; none
/// where the manifest is of another model. One that the very attempt has accepted which made the model, and
/// that is not in it, came late, and is folded into a later one, or is quarantined. Of an abandoned attempt
/// nothing is folded in later.
fn is_counted(manifest: &Manifest, run: &RunName, site: &SiteName, open: Open) -> Option<bool> {
    if manifest.run != *run || manifest.version != open.number {
        return None;
    }
    let has = manifest.contributors.iter().any(|c| c.site == *site && c.update == open.update);
    Some(has || manifest.attempt <= open.attempt)
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::names::Blob;
    use fedpaint_proto::statement::Contributor;

    use super::*;

    #[test]
    fn an_update_of_an_abandoned_attempt_counts_only_if_the_models_manifest_names_it() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let contributor = |site: &str, update: &str| Contributor {
            site: site.parse().unwrap(),
            number: 3,
            attempt: 2,
            update: digest(update),
            examples: 8,
        };
        let manifest = |attempt, contributors| Manifest {
            federation: "brain".parse().unwrap(),
            run: "t1".parse().unwrap(),
            version: 3,
            attempt,
            parent: None,
            plan: digest("plan"),
            model: Blob { digest: digest("model"), size: 5 },
            ema: None,
            contributors,
        };
        let open = Open { number: 3, attempt: 1, update: digest("mine") };
        let of = |manifest: &Manifest, open| {
            is_counted(manifest, &"t1".parse().unwrap(), &"mayo".parse().unwrap(), open)
        };
        let others = manifest(2, vec![contributor("oslo", "mine"), contributor("mayo", "else")]);
        assert_eq!(of(&others, open), Some(false), "made by others after it was abandoned");
        let again = manifest(2, vec![contributor("mayo", "mine")]);
        assert_eq!(of(&again, open), Some(true), "the next attempt was sent the same");
        assert_eq!(of(&manifest(1, Vec::new()), open), Some(true), "late, or quarantined");
        assert_eq!(of(&others, Open { number: 2, ..open }), None, "another round's manifest");
    }
}
