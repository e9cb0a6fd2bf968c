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
use crate::model::spec::{ModelSpec, Prediction};

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

/// How it was painted. What had no part in it is null.
#[derive(Serialize)]
pub(super) struct Sampling {
    samples: usize,
    guidance: f64,
    guidance_rescale: Option<f64>,
    /// Null with all that follows where the model knows no noise and one call has painted it.
    sampler: Option<&'static str>,
    steps: Option<usize>,
    spacing: Option<&'static str>,
    seed: Option<u64>,
    noise_share: Option<f64>,
    /// Only of `ddim`.
    eta: Option<f64>,
    /// Only of `repaint`: the jump length and how often it walks each stretch.
    jumps: Option<[usize; 2]>,
    precision: &'static str,
}

impl Sampling {
    pub(super) fn of(options: &SampleOptions, spec: &ModelSpec) -> Sampling {
        let has_noise = spec.prediction != Prediction::Direct;
        let is = |sampler| has_noise && options.sampler == sampler;
        let jumps = [options.jumps.length, options.jumps.samples];
        Sampling {
            samples: options.samples,
            guidance: options.guidance,
            guidance_rescale: options.is_guided().then_some(options.rescale),
            sampler: has_noise.then_some(options.sampler.name()),
            steps: has_noise.then_some(options.steps),
            spacing: has_noise.then_some(options.spacing.name()),
            seed: has_noise.then_some(options.seed),
            noise_share: has_noise.then_some(options.noise_share),
            eta: is(Sampler::Ddim).then_some(options.eta),
            jumps: is(Sampler::Repaint).then_some(jumps),
            precision: options.precision.name(),
        }
    }

    /// The way in a few words.
    fn told(&self) -> String {
        match self {
            Sampling {
                samples, sampler: Some(name), steps: Some(steps), seed: Some(seed), ..
            } => {
                format!("seed {seed}, {name}, {steps} steps, {samples} samples")
            }
            _ => "one call without noise".into(),
        }
    }
}

impl Sidecar {
    /// How a DICOM series says that it was painted, and by what.
    pub(super) fn derivation(&self) -> String {
        let Sidecar { program, version, model, sampling, .. } = self;
        let sampling = sampling.told();
        format!(
            "SYNTHETIC: the tissue inside a mask was painted, not acquired, and is not for diagnosis. \
             {program} {version}, model {model}, {sampling}"
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
    use serde_json::{Value, json};

    use super::*;
    use crate::model::spec::Preset;

    #[test]
    fn what_had_no_part_in_a_painting_is_not_recorded_as_if_it_had() {
        let tiny = ModelSpec::preset(Preset::Tiny);
        let direct = ModelSpec { prediction: Prediction::Direct, ..tiny.clone() };
        let recorded = |options: &SampleOptions, spec| {
            let json = serde_json::to_value(Sampling::of(options, spec)).unwrap();
            let Value::Object(fields) = json else { panic!("{json}") };
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            let mut keys: Vec<String> = fields.map(|(key, _)| key).collect();
            keys.sort();
            keys
        };
        let noisy = "guidance noise_share precision sampler samples seed spacing steps";
        let noisy: Vec<&str> = noisy.split(' ').collect();
        assert_eq!(recorded(&SampleOptions::default(), &tiny), noisy);
        let ddim = SampleOptions { eta: 0.5, ..Sampler::Ddim.options() };
        let with = |more: &'static str| {
            let mut keys = [&noisy[..], &[more]].concat();
            keys.sort_unstable();
            keys
        };
        assert_eq!(recorded(&ddim, &tiny), with("eta"));
        assert_eq!(recorded(&Sampler::Repaint.options(), &tiny), with("jumps"));
        let guided = SampleOptions { guidance: 2.0, ..SampleOptions::default() };
        assert_eq!(recorded(&guided, &tiny), with("guidance_rescale"));

        let asked = SampleOptions { steps: 777, eta: 0.5, ..Sampler::Ddim.options() };
        assert_eq!(recorded(&asked, &direct), ["guidance", "precision", "samples"]);
        let sampling = Sampling::of(&asked, &direct);
        assert_eq!(serde_json::to_value(&sampling).unwrap()["samples"], json!(1));
        assert_eq!(sampling.told(), "one call without noise");
        let told = Sampling::of(&asked, &tiny).told();
        assert_eq!(told, "seed 1, ddim, 777 steps, 1 samples");
    }

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
