//! `inpaint`: paints what a mask hides in one scan, or what a map of labels asks for, and writes it over
//! the scan's own grid.

mod files;
mod names;
mod sidecar;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use self::names::{ContrastName, Tissue, guess};
use self::sidecar::{Sampling, Sidecar, digest_of_file};
use super::evaluate::DESCRIPTION;
use super::options::{ComputeOptions, load_model};
use super::output;
use super::sampling::SamplingArgs;
use crate::data::inpaint::paint_map::PaintMap;
use crate::data::inpaint::spread::Spread;
use crate::data::inpaint::{InpaintJob, View};
use crate::data::layout::Contrast;
use crate::data::nifti::header::FileGeometry;
use crate::data::volume::Volume;
use crate::data::{dicom, image, nifti};
use crate::model::sampler;
use crate::model::sampler::prompt::Prompt;
use crate::panel;

/// Rows of the panel.
const PANEL_ROWS: usize = 3;

/// What goes into the header of a file of standard deviations.
const STD_DESCRIPTION: &str = "SYNTHETIC standard deviation, fedpaint";

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
    #[arg(long, value_name = "FILE", required_unless_present = "labels")]
    mask: Option<PathBuf>,
    /// What to paint where, on the scan's own grid: 0 nothing, 1 healthy, 2 necrosis, 3 oedema,
    /// 4 enhancing, 5 mixed, 6 a box in which the model draws the contour of --box-class itself.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mask", "tissue"])]
    labels: Option<PathBuf>,
    /// The painted scan, for a DICOM series a new folder; its settings go beside it as .json.
    #[arg(long, value_name = "FILE|DIR")]
    out: PathBuf,
    /// Also write the standard deviation between the samples, voxel by voxel, in the scan's own units.
    #[arg(long, value_name = "FILE")]
    std: Option<PathBuf>,
    /// The scan's contrast. By default the image's name tells, as in `X-t1n.nii.gz`.
    #[arg(long, value_enum)]
    contrast: Option<ContrastName>,
    /// What to paint under the mask.
    #[arg(long, value_enum, default_value = "healthy")]
    tissue: Tissue,
    /// What the model draws in boxes. Models see boxes of one component in training, never of mixed.
    #[arg(long, value_name = "TISSUE", value_enum, conflicts_with_all = ["mask", "tissue"])]
    box_class: Option<Tissue>,
    /// A lesion is visible outside the mask.
    #[arg(long)]
    lesion_visible: bool,
    /// The round that made the model, for the .json. By default the note beside the model tells, as
    /// `fedctl model export` writes it.
    #[arg(long, value_name = "N")]
    round: Option<u32>,
    /// Also draw original, voided, inpainted and difference.
    #[arg(long, value_name = "FILE.png")]
    panel: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compute: ComputeOptions,
}

/// Paints and writes the scan, its sidecar, the deviation and the panel.
///
/// # Errors
/// If a file cannot be used, the model cannot paint so, or mask or map do not lie on the scan's grid.
pub fn run(args: &Args) -> Result<ExitCode> {
    let contrast = contrast(args)?;
    let is_series = args.image.is_dir();
    let beside = sidecar::path(&args.out);
    check_outputs(args, &beside, is_series)?;
    let scan = image::read(&args.image)?;
    let (map, mask_path) = paint_map(args, &scan.geometry)?;
    let tissues = map.regions().into_iter().filter_map(Tissue::of).collect();
    let (weights, model) = load_model(&args.model)?;
    let options = args.sampling.options(Some(weights.spec()));
    options.check(weights.spec())?;
    let device = args.compute.open()?;
    let view = View {
        contrast: contrast as usize,
        is_lesion_visible: args.lesion_visible,
        size: weights.spec().image_size,
    };
    let job =
        InpaintJob::of_map(&scan.volume, map, &view).context("the scan cannot be inpainted")?;
    let key = job.key();
    let prompts = job.slices().iter().zip(job.examples());
    let prompts: Vec<Prompt<'_>> =
        prompts.map(|(&z, example)| Prompt::of(example, key, z as u64)).collect();
    let bar = output::bar("painting");
    let mut progress = |done, total| {
        output::advance(&bar, done, total);
        ControlFlow::Continue(())
    };
    let mask = job.mask();
    let mut spread = Spread::under(&mask);
    let mut add = |_, slices: Vec<Vec<f32>>| -> Result<()> {
        spread.add(&job.paste(&slices)?);
        Ok(())
    };
    sampler::sample_each(&weights, &device, &prompts, &options, &mut progress, &mut add)?;
    bar.finish_and_clear();
    let painted = spread.mean(&scan.volume);
    let sidecar = Sidecar {
        synthetic: true,
        program: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        model,
        round: sidecar::round(args.round, &args.model, model),
        mask: digest_of_file(mask_path).with_context(|| mask_path.display().to_string())?,
        contrast,
        tissues,
        box_class: args.box_class,
        lesion_visible: args.lesion_visible,
        sampling: Sampling::of(&options, weights.spec()),
    };
    if is_series {
        dicom::derived::write(&args.out, &args.image, &painted, &sidecar.derivation())?;
    } else {
        nifti::write_like(&args.out, &painted, &scan.geometry, DESCRIPTION)?;
    }
    output::write_file(&beside, &serde_json::to_vec_pretty(&sidecar)?)
        .with_context(|| beside.display().to_string())?;
    if let Some(path) = &args.std {
        let deviation = spread.deviation(&scan.volume);
        nifti::write_like(path, &deviation, &scan.geometry, STD_DESCRIPTION)?;
    }
    if let Some(path) = &args.panel {
        draw(path, &scan.volume, &painted, &mask)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether what is to be written overwrites nothing that is read, and says something.
fn check_outputs(args: &Args, beside: &Path, is_series: bool) -> Result<()> {
    let out = &args.out;
    ensure!(!is_series || !out.exists(), "{} exists: name a new folder", out.display());
    ensure!(is_series || !out.is_dir(), "{} is a folder: name a file", out.display());
    let inputs = [
        ("--image", Some(&args.image)),
        ("--mask", args.mask.as_ref()),
        ("--labels", args.labels.as_ref()),
        ("--model", Some(&args.model)),
    ];
    let outputs =
        [("--out", Some(out)), ("--std", args.std.as_ref()), ("--panel", args.panel.as_ref())];
    files::check(&given(&inputs), &given(&outputs), [out, beside])?;
    ensure!(
        args.std.is_none() || args.sampling.samples > 1,
        "one sample has no standard deviation: give --samples 2 or more"
    );
    Ok(())
}

/// The files that were named.
fn given<'a>(files: &[(&'a str, Option<&'a PathBuf>)]) -> Vec<(&'a str, &'a Path)> {
    files.iter().filter_map(|&(name, path)| Some((name, path?.as_path()))).collect()
}

/// What to paint, and the file that says it.
fn paint_map<'a>(args: &'a Args, geometry: &FileGeometry) -> Result<(PaintMap, &'a Path)> {
    match (&args.labels, &args.mask) {
        (Some(path), _) => {
            let labels = nifti::read_like(path, geometry)?;
            let map = PaintMap::of_labels(&labels, args.box_class.map(Tissue::region));
            Ok((map.with_context(|| path.display().to_string())?, path))
        }
        (None, Some(path)) => {
            let mask = nifti::read_mask(path, geometry)?;
            Ok((PaintMap::under(&mask, args.tissue.region()), path))
        }
        (None, None) => bail!("nothing says where to paint: give --mask or --labels"),
    }
}

fn draw(path: &Path, original: &Volume, inpainted: &Volume, mask: &Volume) -> Result<()> {
    let masked: Vec<usize> =
        (0..mask.dims[2]).filter(|&z| mask.slice(z).iter().any(|&m| m != 0.0)).collect();
    let mut shown: Vec<usize> =
        (1..=PANEL_ROWS).map(|row| masked[row * masked.len() / (PANEL_ROWS + 1)]).collect();
    shown.dedup();
    let row = |z| {
        let label = format!("slice {z}");
        panel::Row { label, original, inpainted, mask, z, beside: &[] }
    };
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
