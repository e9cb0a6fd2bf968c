//! What is written beside a painted scan, so that it can be painted again and never passes for an
//! acquired one. It names no patient and no path.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use fedpaint_proto::names::Digest;
use fedpaint_proto::note::ModelNote;
use serde::Serialize;

use super::names::Tissue;
use crate::data::layout::Contrast;
use crate::model::sampler::options::{SampleOptions, Sampler};

/// What is written beside a painted scan.
#[derive(Serialize)]
pub(super) struct Sidecar {
    pub(super) synthetic: bool,
    pub(super) program: &'static str,
    pub(super) version: &'static str,
    pub(super) model: Digest,
    /// Null if nobody told.
    pub(super) round: Option<u32>,
    /// The digest of the file that says where to paint, a mask or a map of labels.
    pub(super) mask: Digest,
    pub(super) contrast: Contrast,
    /// What was painted: one tissue under a mask, all that a map of labels has.
    pub(super) tissues: Vec<Tissue>,
    /// What the model drew in the map's boxes.
    pub(super) box_class: Option<Tissue>,
    pub(super) lesion_visible: bool,
    pub(super) sampling: Sampling,
}

/// How it was painted.
#[derive(Serialize)]
pub(super) struct Sampling {
    sampler: &'static str,
    steps: usize,
    spacing: &'static str,
    samples: usize,
    seed: u64,
    guidance: f64,
    guidance_rescale: f64,
    eta: f64,
    noise_share: f64,
    /// RePaint's jump length and how often it walks each stretch.
    jumps: Option<[usize; 2]>,
    precision: &'static str,
}

impl Sampling {
    pub(super) fn of(options: &SampleOptions) -> Sampling {
        let jumps = (options.sampler == Sampler::Repaint)
            .then_some([options.jumps.length, options.jumps.samples]);
        Sampling {
            sampler: options.sampler.name(),
            steps: options.steps,
            spacing: options.spacing.name(),
            samples: options.samples,
            seed: options.seed,
            guidance: options.guidance,
            guidance_rescale: options.rescale,
            eta: options.eta,
            noise_share: options.noise_share,
            jumps,
            precision: options.precision.name(),
        }
    }
}

impl Sidecar {
    /// How a DICOM series says that it was painted, and by what.
    pub(super) fn derivation(&self) -> String {
        let Sidecar { program, version, model, sampling, .. } = self;
        let Sampling { sampler, steps, samples, seed, .. } = sampling;
        format!(
            "SYNTHETIC: the tissue inside a mask was painted, not acquired, and is not for diagnosis. \
             {program} {version}, model {model}, seed {seed}, {sampler}, {steps} steps, \
             {samples} samples"
        )
    }
}

/// Where the sidecar of a painted scan lies.
pub(super) fn path(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".gz").unwrap_or(&name);
    let stem = stem.strip_suffix(".nii").unwrap_or(stem);
    out.with_file_name(format!("{stem}.json"))
}

/// The round that made the model at `path`: what was asked for, else what the note beside it says.
pub(super) fn round(asked: Option<u32>, path: &Path, model: Digest) -> Option<u32> {
    asked.or_else(|| ModelNote::beside(path, model).map(|note| note.round))
}

/// The digest of a file's bytes.
pub(super) fn digest_of_file(path: &Path) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::note::ModelKind;

    use super::*;

    #[test]
    fn the_round_is_what_was_typed_else_what_the_note_of_this_model_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let digest = Digest::of(b"m");
        assert_eq!(round(None, &path, digest), None);
        let kind = ModelKind::Raw;
        let note = ModelNote { run: "brain".parse().unwrap(), round: 12, kind, digest };
        std::fs::write(ModelNote::path_beside(&path), serde_json::to_vec(&note).unwrap()).unwrap();
        assert_eq!(round(None, &path, digest), Some(12));
        assert_eq!(round(Some(3), &path, digest), Some(3));
        assert_eq!(round(None, &path, Digest::of(b"another")), None);
    }

    #[test]
    fn the_sidecar_lies_beside_the_painted_scan() {
        assert_eq!(path(Path::new("a/x.nii.gz")), Path::new("a/x.json"));
        assert_eq!(path(Path::new("x.nii")), Path::new("x.json"));
    }
}
