//! `evaluate --prediction`: scores one scan that any tool has inpainted, by its files alone. It needs
//! no model and knows no cohort.
//!
//! The challenge's package takes voxels in the order in which the files store them, and so do SSIM's 2-D
//! windows here, in the order of the truth's file. It casts voxels to the type of the file first, so it
//! cuts off the fractions that a file of integers has by its slope; here a voxel is what its file says.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::output::{self, Format};
use crate::data::nifti;
use crate::metrics::{self, Reference, Scores};

/// Options of the files: all four, or none and a cohort instead.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A scan that any tool has inpainted, to be scored by itself.
    ///
    /// Scores are those of the BraTS inpainting challenge's package, with one difference: of a file of
    /// integers with a slope, such as a quarter per step, the package cuts every voxel down to a whole
    /// number before it scores; here a voxel is slope times what is stored plus the intercept. Files of
    /// floats score the same. Two-dimensional windows of SSIM lie, as the package's, over the second and
    /// the third axis in the order in which the truth's file stores them. A voxel that is not a finite
    /// number is refused wherever it lies: with one outside the mask the package's SSIM is none.
    #[arg(long, value_name = "FILE", requires_all = ["truth", "voided", "mask"])]
    #[arg(conflicts_with_all = ["data", "model", "twin", "baselines", "no_baselines"])]
    #[arg(conflicts_with_all = ["baselines_only", "site", "all", "steps", "samples", "seed"])]
    #[arg(conflicts_with_all = ["save", "device", "threads", "mask_seed", "sampler", "spacing"])]
    #[arg(conflicts_with_all = ["config", "precision"])]
    #[arg(conflicts_with_all = ["guidance", "guidance_rescale", "eta", "noise_share"])]
    #[arg(conflicts_with_all = ["jump_length", "jump_samples"])]
    prediction: Option<PathBuf>,
    /// The scan as it was; the other files must lie on its grid.
    #[arg(long, value_name = "FILE", requires = "prediction")]
    truth: Option<PathBuf>,
    /// The scan without what was hidden, which sets the scale of intensities.
    #[arg(long, value_name = "FILE", requires = "prediction")]
    voided: Option<PathBuf>,
    /// Where to score, 0.5 and more: the healthy part only, for a lesion has no truth.
    #[arg(long, value_name = "FILE", requires = "prediction")]
    mask: Option<PathBuf>,
}

/// The four files.
pub struct Chosen<'a> {
    prediction: &'a Path,
    truth: &'a Path,
    voided: &'a Path,
    mask: &'a Path,
}

impl Options {
    /// The files, if files are to be scored.
    pub fn chosen(&self) -> Option<Chosen<'_>> {
        let Options { prediction, truth, voided, mask } = self;
        Some(Chosen {
            prediction: prediction.as_deref()?,
            truth: truth.as_deref()?,
            voided: voided.as_deref()?,
            mask: mask.as_deref()?,
        })
    }
}

#[derive(Serialize)]
struct Scored {
    voxels: u64,
    #[serde(flatten)]
    scores: Scores,
}

/// Scores the prediction and prints it.
///
/// # Errors
/// If a file cannot be read, lies on another grid than the truth, or nothing can be scored.
pub fn run(files: &Chosen<'_>, format: Format) -> Result<ExitCode> {
    let scored = score(files)?;
    let text = match format {
        Format::Json => serde_json::to_string_pretty(&scored)?,
        Format::Table => table(&scored),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn score(files: &Chosen<'_>) -> Result<Scored> {
    let truth = nifti::read(files.truth)?;
    let voided = nifti::read_like(files.voided, &truth.geometry)?;
    let mask = nifti::read_mask(files.mask, &truth.geometry)?;
    let prediction = nifti::read_like(files.prediction, &truth.geometry)?;
    let reference = Reference::new(&truth.volume, &voided, &mask);
    let reference = reference.with_context(|| files.voided.display().to_string())?;
    let reference = reference.across(truth.geometry.first_axis());
    let scores = metrics::score(&reference, &prediction)
        .with_context(|| files.prediction.display().to_string())?;
    Ok(Scored { voxels: reference.voxels(), scores })
}

fn table(scored: &Scored) -> String {
    let Scored { voxels, scores } = scored;
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["metric", "score"]);
    for (name, value) in [
        ("voxels", voxels.to_string()),
        ("SSIM, 2-D windows", format!("{:.6}", scores.ssim)),
        ("SSIM, 3-D windows", format!("{:.6}", scores.ssim_3d)),
        ("MSE", format!("{:.6}", scores.mse)),
        ("RMSE", format!("{:.6}", scores.rmse)),
        ("MAE", format!("{:.6}", scores.mae)),
        ("MSLE", format!("{:.6}", scores.msle)),
        ("PSNR over the truth's range, dB", format!("{:.4}", scores.psnr)),
        ("PSNR over 0 to 1, dB", format!("{:.4}", scores.psnr_01)),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    table.to_string()
}
