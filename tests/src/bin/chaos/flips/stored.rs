//! Blobs of a coordinator that have lost a bit: a model that an operator asks for over the wire, and whatever a
//! round is computed from once more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fedpaint_coordinator::config::Config;
use fedpaint_coordinator::maintenance::{self, Verdict};
use fedpaint_proto::budget::Budget;
use fedpaint_proto::names::{Blob, Digest, RunName};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::statement::Manifest;
use fedpaint_proto::transfer;
use fedpaint_site_agent::client;
use tonic::transport::Channel;

use super::{Flip, Found, Tally, found};
use crate::federation::{Federation, RUN};

/// Puts each blob that loses a bit to every use that it has.
///
/// # Errors
/// If a use fails before a bit is turned, or the coordinator is gone.
pub(super) async fn used(
    federation: &Federation,
    flips: &[Flip],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let stored = Stored::of(federation).await?;
    stored.must_be_well().await?;
    for flip in flips {
        tally.note(flip, stored.uses(flip).await?);
    }
    Ok(())
}

/// What a blob is used for, once it is there.
#[derive(Default)]
struct Purpose {
    /// It is a model, which may be had.
    model: Option<Blob>,
    /// The rounds that are computed from it, and what it is called there.
    rounds: Vec<(u32, String)>,
}

/// A coordinator's blobs, and who uses them.
struct Stored {
    config: Config,
    channel: Channel,
    run: RunName,
    /// Where what is asked for goes.
    downloads: PathBuf,
    purposes: BTreeMap<Digest, Purpose>,
}

impl Stored {
    /// Those of a run, by the manifests of its models.
    async fn of(federation: &Federation) -> anyhow::Result<Stored> {
        let lab = &federation.lab;
        let config = Config::read(Path::new(&lab.path("coordinator.toml")))?;
        let channel = lab.channel("ada").await?;
        let run: RunName = RUN.parse()?;
        let rounds = federation.evidence().await?.run.rounds_committed;
        let mut purposes = BTreeMap::new();
        for version in 0..=rounds {
            let signed = client::manifest(&channel, &config.federation, &run, version).await??;
            add(&mut purposes, signed.statement, version < rounds);
        }
        let downloads = PathBuf::from(lab.path("downloads"));
        Ok(Stored { config, channel, run, downloads, purposes })
    }

    /// Finding a turned bit means something only where all is well without one.
    async fn must_be_well(&self) -> anyhow::Result<()> {
        for blob in self.purposes.values().filter_map(|purpose| purpose.model) {
            let (told, is_there) = self.downloaded(blob).await?;
            told?;
            anyhow::ensure!(is_there, "model {} was not delivered", blob.digest.short());
        }
        let replay = maintenance::replay(&self.config, &self.run, None).await?;
        let is_equal = replay.rounds.iter().all(|round| round.verdict == Verdict::Equal);
        anyhow::ensure!(is_equal && !replay.rounds.is_empty(), "before a bit is turned: {replay}");
        Ok(())
    }

    /// Turns a bit, has its blob be used, and turns it back. What came of it.
    async fn uses(&self, flip: &Flip) -> anyhow::Result<Vec<(&'static str, Found)>> {
        let (digest, mut uses): (Digest, _) = (flip.name().parse()?, Vec::new());
        let Some(purpose) = self.purposes.get(&digest) else { return Ok(uses) };
        flip.turn()?;
        for (round, what) in &purpose.rounds {
            uses.push(("replay", self.replayed(*round, what).await?));
        }
        if let Some(model) = purpose.model {
            uses.push(("download", self.asked_for(model).await?));
        }
        flip.turn_back()?;
        Ok(uses)
    }

    /// Has a round be computed again that follows from the blob called `what`.
    async fn replayed(&self, round: u32, what: &str) -> anyhow::Result<Found> {
        let replay = maintenance::replay(&self.config, &self.run, Some(round)).await?;
        let verdict = replay.rounds.into_iter().next().map(|replayed| replayed.verdict);
        let is_found = matches!(&verdict, Some(Verdict::Rotten { what: told }) if told == what);
        Ok(found(is_found, || format!("of round {round} it is said: {verdict:?}")))
    }

    /// Asks for a model, as `fedctl model export` and a site do.
    async fn asked_for(&self, model: Blob) -> anyhow::Result<Found> {
        let (told, is_there) = self.downloaded(model).await?;
        Ok(match told {
            Ok(()) => Err("it was delivered".into()),
            Err(error) => {
                let is_rotten = error.reason() == Some(Reason::BlobRotten);
                let is_named = error.to_string().contains(&model.digest.short());
                found(is_rotten && is_named && !is_there, || error.to_string())
            }
        })
    }

    /// What became of a download, and whether there was a file in the end.
    async fn downloaded(&self, model: Blob) -> anyhow::Result<(Result<(), transfer::Error>, bool)> {
        fs::create_dir_all(&self.downloads)?;
        let (file, budget) = (self.downloads.join("model"), Budget::default());
        let told = transfer::download(&self.channel, model, &file, &budget, &mut |_, _| ()).await;
        let is_there = file.exists();
        // A part that came before the bit was found is not to be gone on with.
        fs::remove_dir_all(&self.downloads)?;
        Ok((told, is_there))
    }
}

/// Notes what the blobs are used for that a manifest names; a model is trained from where it is not the last.
fn add(purposes: &mut BTreeMap<Digest, Purpose>, manifest: Manifest, is_trained_from: bool) {
    let Manifest { version, model, ema, contributors, .. } = manifest;
    let average = ema.map(|ema| (ema, "the last round's moving average"));
    for (blob, what) in [(model, "the base model")].into_iter().chain(average) {
        let purpose = purposes.entry(blob.digest).or_default();
        purpose.model = Some(blob);
        if is_trained_from {
            purpose.rounds.push((version + 1, what.to_owned()));
        }
    }
    for contributor in contributors {
        let what = format!("the update of site {}", contributor.site);
        purposes.entry(contributor.update).or_default().rounds.push((version, what));
    }
}
