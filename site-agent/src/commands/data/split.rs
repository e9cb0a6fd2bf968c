//! `data split`: writes down which cases train, which are held out and which are set aside, as a
//! training with the same options would have it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cohort::Cohort;
use crate::commands::output;
use crate::data::split::manifest::Part;
use crate::settings::{DataSettings, HELD_OUT_DEFAULT};

/// Options of `data split`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cohort's folder.
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// The manifest's file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The part of the patients that never trains.
    #[arg(long, value_name = "FRACTION", default_value_t = HELD_OUT_DEFAULT)]
    held_out: f64,
    /// Another salt holds out other patients.
    #[arg(long, value_name = "TEXT", default_value = "")]
    salt: String,
    /// An earlier manifest, whose patients stay on their sides.
    #[arg(long, value_name = "FILE")]
    split: Option<PathBuf>,
    /// What labels mean, as for `train`.
    #[arg(long, value_name = "SCHEME")]
    label_scheme: Option<String>,
    /// The contrasts to use, such as `t1n,t2f`. By default every one that is there.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    contrasts: Option<Vec<String>>,
}

/// Reads every case, writes the manifest and prints how many cases each part has.
///
/// # Errors
/// If the folder has no cases or the manifest cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let settings = DataSettings {
        path: args.data.clone(),
        label_scheme: args.label_scheme.clone(),
        contrasts: args.contrasts.clone(),
        held_out: args.held_out,
        split_salt: args.salt.clone(),
        split: args.split.clone(),
        cache: None,
        cache_mib_max: 0,
    };
    settings.validate()?;
    let cohort = Cohort::discover(&settings)?;
    let bar = output::bar("cases");
    cohort.survey(&|| false, &mut |done, total| output::advance(&bar, done, total))?;
    bar.finish_and_clear();
    let manifest = cohort.manifest();
    manifest.write(&args.out).with_context(|| args.out.display().to_string())?;
    let [training, held_out, set_aside] =
        [Part::Training, Part::HeldOut, Part::SetAside].map(|part| manifest.count(part));
    output::print(&format!("{training} training, {held_out} held out, {set_aside} set aside"))?;
    Ok(if training + held_out > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
