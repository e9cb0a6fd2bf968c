//! `evaluate`: prints how good a model is ([`crate::evaluate`]), what the trivial methods score, or
//! how good a scan is that any tool has inpainted ([`files`]).

pub mod files;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use fedpaint_proto::names::{Digest, SiteName};
use serde::Serialize;

use super::options::{ComputeOptions, DataOptions, load_model};
use super::output::{self, Format};
use super::sampling::SamplingArgs;
use crate::baselines::Baseline;
use crate::cohort::Cohort;
use crate::config::Config;
use crate::data::nifti::{self};
use crate::data::volume::Volume;
use crate::evaluate::report::{
    self, MeanScores, NotJudged, OverallScores, PatientScores, ScanScores,
};
use crate::evaluate::{Found, Options, Painted, Painters, evaluate};
use crate::model::weights::Weights;
use crate::panel::{self, Beside};

/// What goes into the header of a painted file.
pub const DESCRIPTION: &str = "SYNTHETIC in the mask, fedpaint";

const USAGE: &str = "\
fedpaint-site-agent evaluate --model FILE --data DIR [--twin FILE] [OPTIONS]
       fedpaint-site-agent evaluate --model FILE --config FILE [OPTIONS]
       fedpaint-site-agent evaluate --baselines-only --data DIR [OPTIONS]
       fedpaint-site-agent evaluate --prediction FILE --truth FILE --voided FILE --mask FILE";

/// Options of `evaluate`.
#[derive(Debug, clap::Args)]
#[command(override_usage = USAGE)]
pub struct Args {
    /// The model.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["baselines_only", "prediction"])]
    model: Option<PathBuf>,
    /// A model that predicts the tissue itself, without diffusion; listed as baseline `regression`.
    #[arg(long, value_name = "FILE")]
    twin: Option<PathBuf>,
    /// What the model is compared with.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    #[arg(default_value = "zero,mean,mirror,harmonic,biharmonic")]
    baselines: Vec<Baseline>,
    /// Compare with nothing but the twin.
    #[arg(long, conflicts_with = "baselines")]
    no_baselines: bool,
    /// Score the baselines without a model.
    #[arg(long, conflicts_with_all = ["model", "no_baselines", "save"])]
    baselines_only: bool,
    /// A label for the report, so that reports of several sites can be joined.
    #[arg(long, value_name = "NAME")]
    site: Option<SiteName>,
    /// Judge at a site by its agent's configuration: on its scans, and on nobody whom it trained on.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    config: Option<PathBuf>,
    /// Judge on every patient, also on those that train.
    #[arg(long)]
    all: bool,
    /// Names the masks, so that other noise can be judged on the same masks. By default --seed does.
    #[arg(long, value_name = "SEED")]
    mask_seed: Option<u64>,
    /// Also write every inpainted scan, its mask, and `panel.png` into this folder.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    #[command(flatten)]
    files: files::Options,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
    #[command(flatten)]
    data: Option<DataOptions>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compute: ComputeOptions,
}

/// What is printed. The rows of scans and patients name cases of the site, those of `overall` do
/// not.
#[derive(Serialize)]
struct Evaluation<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<&'a SiteName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Digest>,
    /// Always there, so that a report that lacks the comparison says so.
    twin: Option<Digest>,
    scans: &'a [ScanScores],
    patients: &'a [PatientScores],
    overall: &'a [OverallScores],
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<MeanScores>,
    /// What was not judged, and why.
    set_aside: &'a [NotJudged],
}

impl Args {
    /// Of the noise, of the masks.
    fn seeds(&self) -> [u64; 2] {
        let seed = self.sampling.seed;
        [seed, self.mask_seed.unwrap_or(seed)]
    }
}

/// Judges what was asked for and prints the scores.
///
/// # Errors
/// If the model, the data or the files cannot be used.
pub fn run(args: &Args) -> Result<ExitCode> {
    match args.files.chosen() {
        Some(files) => files::run(&files, args.output),
        None => run_on_cohort(args),
    }
}

fn run_on_cohort(args: &Args) -> Result<ExitCode> {
    let data = match (&args.config, &args.data) {
        (Some(config), _) => Config::load(config)?.data,
        (None, Some(data)) => data.settings()?,
        (None, None) => anyhow::bail!("give --data, the folder of scans to judge on, or --config"),
    };
    let cohort = Cohort::discover(&data)?;
    let model = args.model.as_deref().map(load_model).transpose()?;
    let twin = args.twin.as_deref().map(load_model).transpose()?;
    let device = args.compute.open()?;
    let painters = Painters {
        device: &device,
        model: model.as_ref().map(|(weights, _)| weights),
        twin: twin.as_ref().map(|(weights, _)| weights),
    };
    let baselines = if args.no_baselines { Vec::new() } else { args.baselines.clone() };
    let sampling = args.sampling.options(painters.model.map(Weights::spec));
    let [_, mask_seed] = args.seeds();
    let options = Options { sampling, mask_seed, all: args.all, baselines };
    let Found { scans, set_aside } = judge(&painters, &cohort, &options, args.save.as_deref())?;
    let patients = report::patients(&scans);
    let evaluation = Evaluation {
        site: args.site.as_ref(),
        model: model.as_ref().map(|&(_, digest)| digest),
        twin: twin.as_ref().map(|&(_, digest)| digest),
        scans: &scans,
        patients: &patients,
        overall: &report::overall(&patients),
        mean: report::in_a_line(&scans),
        set_aside: &set_aside,
    };
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&evaluation)?,
        Format::Table => table::of(&evaluation),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Judges, shows progress, and keeps what was painted in the folder `save`.
fn judge(
    painters: &Painters<'_>,
    cohort: &Cohort,
    options: &Options,
    save_in: Option<&Path>,
) -> Result<Found> {
    let bar = output::bar("cases");
    cohort.survey(&|| false, &mut |done, total| output::advance(&bar, done, total))?;
    bar.finish_and_clear();
    let bar = output::bar("scans");
    let mut tiles = Vec::new();
    if let Some(folder) = save_in {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut painted = |painted: &Painted<'_>| -> Result<()> {
        if let Some(folder) = save_in {
            tiles.extend(save(folder, painted, tiles.len() < panel::ROWS_MAX)?);
        }
        Ok(())
    };
    let mut progress = |done, total| output::advance(&bar, done, total);
    let found = evaluate(painters, cohort, options, &mut painted, &mut progress)?;
    bar.finish_and_clear();
    if let Some(folder) = save_in {
        let rows: Vec<panel::Row<'_>> = tiles.iter().map(Tile::row).collect();
        panel::write(&folder.join("panel.png"), &rows)?;
    }
    Ok(found)
}

/// A row of the panel, kept until all are there.
struct Tile {
    label: String,
    original: Volume,
    inpainted: Volume,
    mask: Volume,
    z: usize,
    beside: Vec<Beside>,
}

impl Tile {
    fn row(&self) -> panel::Row<'_> {
        let Tile { label, original, inpainted, mask, z, beside } = self;
        panel::Row { label: label.clone(), original, inpainted, mask, z: *z, beside }
    }
}

fn save(folder: &Path, painted: &Painted<'_>, show: bool) -> Result<Option<Tile>> {
    let Painted { case, contrast, image, geometry, masks, result, beside } = painted;
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
        beside: beside
            .iter()
            .map(|(title, volume)| Beside { title, slice: volume.slice(z).to_vec() })
            .collect(),
    }))
}

#[cfg(test)]
mod tests;
