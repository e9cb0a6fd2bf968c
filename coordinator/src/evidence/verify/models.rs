//! The models that a log tells of: each follows from the one before it and from updates that were taken.

use std::collections::{BTreeMap, BTreeSet};

use fedpaint_proto::names::{Digest, RoundId, RunName, SiteName};
use fedpaint_proto::signing::Statement;
use fedpaint_proto::statement::{Contributor, Envelope, Manifest};

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Models {
    /// The update of a site for an attempt at a round, and its examples.
    updates: BTreeMap<(RoundId, SiteName), (Digest, u64)>,
    /// The newest version of each run, and the model.
    newest: BTreeMap<RunName, (u32, Digest)>,
    /// Every manifest, by its digest.
    manifests: BTreeSet<Digest>,
}

impl Models {
    pub(super) fn updates(&self) -> u64 {
        self.updates.len() as u64
    }

    pub(super) fn count(&self) -> u64 {
        self.manifests.len() as u64
    }

    pub(super) fn holds(&self, manifest: &Manifest) -> bool {
        self.manifests.contains(&Digest::of(&manifest.to_bytes()))
    }

    /// Takes note of an update.
    pub(super) fn update(&mut self, envelope: Envelope) {
        let Envelope { round, site, update, examples, .. } = envelope;
        self.updates.insert((round, site), (update.digest, examples));
    }

    /// Takes note of a model, unless it does not follow. A site's update that nobody signed is not known
    /// here, and a federation may take such ones; one that is signed must be the one that counts.
    pub(super) fn manifest(&mut self, manifest: Manifest) -> Result<(), String> {
        let Manifest { run, version, parent, model, contributors, .. } = &manifest;
        if let Some((newest, base)) = self.newest.get(run) {
            if *version != newest + 1 {
                return Err(format!("version {version} of run {run} comes after {newest}"));
            }
            if *parent != Some(*base) {
                return Err(format!("version {version} of run {run} has another parent"));
            }
        }
        for Contributor { site, number, attempt, update, examples } in contributors {
            let round = RoundId { run: run.clone(), number: *number, attempt: *attempt };
            let told = self.updates.get(&(round.clone(), site.clone()));
            if told.is_some_and(|told| *told != (*update, *examples)) {
                return Err(format!("it counts another update of site {site} for {round}"));
            }
        }
        self.newest.insert(run.clone(), (*version, model.digest));
        self.manifests.insert(Digest::of(&manifest.to_bytes()));
        Ok(())
    }
}
