//! `evaluate`: prints what [`crate::evaluate`] finds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use fedpaint_proto::names::Digest;
use serde::Serialize;

use super::options::{ComputeOptions, DataOptions, load_model};
use super::output::{self, Format};
use super::sampling::SamplingArgs;
use crate::cohort::Cohort;
use crate::data::nifti::{self};
use crate::data::volume::Volume;
use crate::evaluate::{CaseScores, MeanScores, Options, Painted, evaluate};
use crate::panel;

/// What goes into the header of a painted file.
pub const DESCRIPTION: &str = "SYNTHETIC in the mask, fedpaint";

/// Options of `evaluate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Judge on every patient, also on those that train.
    #[arg(long)]
    all: bool,
    /// Also write every inpainted scan, its mask, and `panel.png` into this folder.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compute: ComputeOptions,
}

#[derive(Serialize)]
struct Evaluation<'a> {
    model: Digest,
    scans: &'a [CaseScores],
    mean: MeanScores,
}

/// Judges the model and prints the scores.
///
/// # Errors
/// If the model or the data cannot be used.
pub fn run(args: &Args) -> Result<ExitCode> {
    let cohort = Cohort::discover(&args.data.settings()?)?;
    let (weights, model) = load_model(&args.model)?;
    let device = args.compute.open()?;
    let options = Options { sampling: args.sampling.options(weights.spec()), all: args.all };
    let bar = output::bar("cases");
    cohort.survey(&|| false, &mut |done, total| output::advance(&bar, done, total))?;
    bar.finish_and_clear();
    let bar = output::bar("scans");
    let mut tiles = Vec::new();
    if let Some(folder) = &args.save {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut painted = |painted: &Painted<'_>| -> Result<()> {
        if let Some(folder) = &args.save {
            tiles.extend(save(folder, painted, tiles.len() < panel::ROWS_MAX)?);
        }
        Ok(())
    };
    let mut progress = |done, total| output::advance(&bar, done, total);
    let scans = evaluate(&weights, &device, &cohort, &options, &mut painted, &mut progress)?;
    bar.finish_and_clear();
    if let Some(folder) = &args.save {
        let rows: Vec<panel::Row<'_>> = tiles.iter().map(Tile::row).collect();
        panel::write(&folder.join("panel.png"), &rows)?;
    }
    let evaluation = Evaluation { model, mean: MeanScores::of(&scans), scans: &scans };
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&evaluation)?,
        Format::Table => table(&evaluation),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A row of the panel, kept until all are there.
struct Tile {
    label: String,
    original: Volume,
    inpainted: Volume,
    mask: Volume,
    z: usize,
}

impl Tile {
    fn row(&self) -> panel::Row<'_> {
        let Tile { label, original, inpainted, mask, z } = self;
        panel::Row { label: label.clone(), original, inpainted, mask, z: *z }
    }
}

fn save(folder: &Path, painted: &Painted<'_>, show: bool) -> Result<Option<Tile>> {
    let Painted { case, contrast, image, geometry, masks, result } = painted;
    let stem = format!("{}-{}", case.name, contrast.name());
    let write = |kind: &str, volume: &Volume, description: &str| {
        let path = folder.join(format!("{stem}-{kind}.nii.gz"));
        nifti::write_like(&path, volume, geometry, description)
    };
    write("inpainted", result, DESCRIPTION)?;
    write("mask", &masks.void, "fedpaint evaluation mask")?;
    write("mask-healthy", &masks.healthy, "fedpaint evaluation mask")?;
    let z = panel::fullest_slice(&masks.healthy).filter(|_| show);
    Ok(z.map(|z| Tile {
        label: stem,
        original: (*image).clone(),
        inpainted: (*result).clone(),
        mask: masks.void.clone(),
        z,
    }))
}

fn table(evaluation: &Evaluation<'_>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["case", "contrast", "SSIM", "PSNR dB", "MSE", "MSE of mean fill"]);
    let row = |case: &str, contrast: &str, [ssim, psnr, mse, fill]: [f64; 4]| {
        [
            case.to_owned(),
            contrast.to_owned(),
            format!("{ssim:.4}"),
            format!("{psnr:.2}"),
            format!("{mse:.5}"),
            format!("{fill:.5}"),
        ]
    };
    for s in evaluation.scans {
        let values = [s.ssim, s.psnr_db, s.mse, s.mse_mean_fill];
        table.add_row(row(&s.case, s.contrast.name(), values));
    }
    let m = evaluation.mean;
    table.add_row(row("mean", "", [m.ssim, m.psnr_db, m.mse, m.mse_mean_fill]));
    table.to_string()
}
