//! `inpaint`: paints what a mask hides in one scan and writes it over the scan's own grid.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use fedpaint_proto::names::Digest;
use fedpaint_proto::note::ModelNote;
use serde::{Deserialize, Serialize};

use super::evaluate::{DESCRIPTION, SLICES_PER_CALL};
use super::options::{ComputeOptions, load_model};
use super::output;
use crate::data::example::Region;
use crate::data::inpaint::{InpaintJob, Task};
use crate::data::layout::Contrast;
use crate::data::volume::Volume;
use crate::data::{dicom, image, nifti};
use crate::model::sampler::{self, Prompt, SampleOptions};
use crate::panel;

/// Rows of the panel.
const PANEL_ROWS: usize = 3;

/// Options of `inpaint`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The scan: .nii, .nii.gz, or a folder with one DICOM series.
    #[arg(long, value_name = "FILE|DIR")]
    image: PathBuf,
    /// The mask on the scan's own grid: 0.5 and more is painted.
    #[arg(long, value_name = "FILE")]
    mask: PathBuf,
    /// The painted scan, for a DICOM series a new folder; its settings go beside it as .json.
    #[arg(long, value_name = "FILE|DIR")]
    out: PathBuf,
    /// The scan's contrast. By default the image's name tells, as in `X-t1n.nii.gz`.
    #[arg(long, value_enum)]
    contrast: Option<ContrastName>,
    /// What to paint.
    #[arg(long, value_enum, default_value = "healthy")]
    tissue: Tissue,
    /// A lesion is visible outside the mask.
    #[arg(long)]
    lesion_visible: bool,
    /// Sampling steps.
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// Names the noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Samples that are averaged.
    #[arg(long, value_name = "K", default_value_t = 1)]
    samples: usize,
    /// The round that made the model, for the .json. By default the note beside the model tells, as
    /// `fedctl model export` writes it.
    #[arg(long, value_name = "N")]
    round: Option<u32>,
    /// Also draw original, voided, inpainted and difference.
    #[arg(long, value_name = "FILE.png")]
    panel: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeOptions,
}

/// A contrast as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ContrastName {
    T1n,
    T1c,
    T2w,
    T2f,
}

/// A tissue as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tissue {
    Healthy,
    Necrosis,
    Oedema,
    Enhancing,
    Mixed,
}

/// What is written beside the painted scan.
#[derive(Serialize)]
struct Sidecar {
    synthetic: bool,
    program: &'static str,
    version: &'static str,
    model: Digest,
    /// Null if nobody told.
    round: Option<u32>,
    /// The digest of the mask's file.
    mask: Digest,
    contrast: Contrast,
    tissue: Tissue,
    lesion_visible: bool,
    seed: u64,
    sampler: &'static str,
    steps: usize,
    samples: usize,
}

/// Paints and writes the scan, its sidecar and the panel.
///
/// # Errors
/// If a file cannot be used or the mask does not lie on the scan's grid.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.out != args.image, "--out is the image itself: choose another name");
    let contrast = contrast(args)?;
    let is_series = args.image.is_dir();
    ensure!(!is_series || !args.out.exists(), "{} exists: name a new folder", args.out.display());
    let scan = image::read(&args.image)?;
    let mask = nifti::read_mask(&args.mask, &scan.geometry)?;
    let (weights, model) = load_model(&args.model)?;
    let device = args.compute.open()?;
    let task = Task {
        contrast: contrast as usize,
        region: args.tissue.region(),
        is_lesion_visible: args.lesion_visible,
        size: weights.spec().image_size,
    };
    let job =
        InpaintJob::new(&scan.volume, &mask, &task).context("the scan cannot be inpainted")?;
    let prompts = job.slices().iter().zip(job.examples());
    let prompts: Vec<Prompt<'_>> =
        prompts.map(|(&z, example)| Prompt::of(example, z as u64)).collect();
    let &Args { steps, samples, seed, .. } = args;
    let options = SampleOptions { steps, samples, seed, batch: SLICES_PER_CALL };
    let bar = output::bar("painting");
    let mut progress = |done, total| {
        output::advance(&bar, done, total);
        ControlFlow::Continue(())
    };
    let slices = sampler::sample(&weights, &device, &prompts, &options, &mut progress)?;
    bar.finish_and_clear();
    let painted = job.paste(&slices)?;
    let sidecar = Sidecar {
        synthetic: true,
        program: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        model,
        round: round(args.round, &args.model, model),
        mask: digest_of_file(&args.mask).with_context(|| args.mask.display().to_string())?,
        contrast,
        tissue: args.tissue,
        lesion_visible: args.lesion_visible,
        seed,
        sampler: "ddim, eta 0",
        steps,
        samples,
    };
    let beside = sidecar_path(&args.out);
    output::write_file(&beside, &serde_json::to_vec_pretty(&sidecar)?)
        .with_context(|| beside.display().to_string())?;
    if is_series {
        let derivation = derivation(&sidecar);
        dicom::derived::write(&args.out, &args.image, &painted, &derivation)?;
    } else {
        nifti::write_like(&args.out, &painted, &scan.geometry, DESCRIPTION)?;
    }
    if let Some(path) = &args.panel {
        draw(path, &scan.volume, &painted, &mask)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How a DICOM series says that it was painted, and by what.
fn derivation(sidecar: &Sidecar) -> String {
    let Sidecar { program, version, model, seed, steps, samples, .. } = sidecar;
    format!(
        "SYNTHETIC: the tissue inside a mask was painted, not acquired, and is not for diagnosis. \
         {program} {version}, model {model}, seed {seed}, {steps} steps, {samples} samples"
    )
}

fn draw(path: &Path, original: &Volume, inpainted: &Volume, mask: &Volume) -> Result<()> {
    let masked: Vec<usize> =
        (0..mask.dims[2]).filter(|&z| mask.slice(z).iter().any(|&m| m != 0.0)).collect();
    let mut shown: Vec<usize> =
        (1..=PANEL_ROWS).map(|row| masked[row * masked.len() / (PANEL_ROWS + 1)]).collect();
    shown.dedup();
    let row = |z| panel::Row { label: format!("slice {z}"), original, inpainted, mask, z };
    let rows: Vec<panel::Row<'_>> = shown.into_iter().map(row).collect();
    Ok(panel::write(path, &rows)?)
}

fn contrast(args: &Args) -> Result<Contrast> {
    let name = args.image.file_name().unwrap_or_default().to_string_lossy();
    match args.contrast.map(ContrastName::contrast).or_else(|| guess(&name)) {
        Some(contrast) => Ok(contrast),
        None => bail!(
            "the name of {} does not tell its contrast: give --contrast",
            args.image.display()
        ),
    }
}

/// The contrast that a file's name ends in.
fn guess(name: &str) -> Option<Contrast> {
    let stem = name.strip_suffix(".gz").unwrap_or(name).strip_suffix(".nii")?;
    match stem.rsplit(['-', '_']).next()?.to_ascii_lowercase().as_str() {
        "t1n" | "t1" => Some(Contrast::T1n),
        "t1c" | "t1ce" => Some(Contrast::T1c),
        "t2w" | "t2" => Some(Contrast::T2w),
        "t2f" | "flair" => Some(Contrast::T2f),
        _ => None,
    }
}

/// The round that made the model at `path`: what was asked for, else what the note beside it says.
fn round(asked: Option<u32>, path: &Path, model: Digest) -> Option<u32> {
    asked.or_else(|| ModelNote::beside(path, model).map(|note| note.round))
}

/// The digest of a file's bytes.
fn digest_of_file(path: &Path) -> std::io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().into())
}

fn sidecar_path(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".gz").unwrap_or(&name);
    let stem = stem.strip_suffix(".nii").unwrap_or(stem);
    out.with_file_name(format!("{stem}.json"))
}

impl ContrastName {
    fn contrast(self) -> Contrast {
        Contrast::ALL[self as usize]
    }
}

impl Tissue {
    fn region(self) -> Region {
        match self {
            Tissue::Healthy => Region::Healthy,
            Tissue::Necrosis => Region::Necrosis,
            Tissue::Oedema => Region::Oedema,
            Tissue::Enhancing => Region::Enhancing,
            Tissue::Mixed => Region::Mixed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contrast_is_guessed_from_the_end_of_the_name_alone() {
        for (name, contrast) in [
            ("BraTS-GLI-00008-000-t1c.nii.gz", Some(Contrast::T1c)),
            ("BraTS2021_00002_flair.nii.gz", Some(Contrast::T2f)),
            ("x_T1.nii", Some(Contrast::T1n)),
            ("t2w.nii", Some(Contrast::T2w)),
            ("t1n-mask.nii.gz", None),
            ("scan.nii.gz", None),
            ("x-t1n.png", None),
        ] {
            assert_eq!(guess(name), contrast, "{name}");
        }
    }

    #[test]
    fn the_round_is_what_was_typed_else_what_the_note_of_this_model_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let digest = Digest::of(b"m");
        assert_eq!(round(None, &path, digest), None);
        let kind = fedpaint_proto::note::ModelKind::Raw;
        let note = ModelNote { run: "brain".parse().unwrap(), round: 12, kind, digest };
        std::fs::write(ModelNote::path_beside(&path), serde_json::to_vec(&note).unwrap()).unwrap();
        assert_eq!(round(None, &path, digest), Some(12));
        assert_eq!(round(Some(3), &path, digest), Some(3));
        assert_eq!(round(None, &path, Digest::of(b"another")), None);
    }

    #[test]
    fn the_sidecar_lies_beside_the_painted_scan() {
        assert_eq!(sidecar_path(Path::new("a/x.nii.gz")), Path::new("a/x.json"));
        assert_eq!(sidecar_path(Path::new("x.nii")), Path::new("x.json"));
    }
}
