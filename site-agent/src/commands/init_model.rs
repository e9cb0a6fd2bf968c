//! `init-model`: a model with random weights, for a run to begin from.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::model::choices::Choices;
use super::options::digest_of;
use super::output;
use crate::model::checkpoint;
use crate::model::spec::Preset;
use crate::model::weights::Weights;

/// Options of `init-model`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The size of the model: tiny, small, base or mayo.
    #[arg(long)]
    preset: Preset,
    #[command(flatten)]
    choices: Choices,
    /// The same seed gives the same weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The model's file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Writes the model and prints its digest.
///
/// # Errors
/// If the choices do not go together or the file cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let weights = Weights::init(&args.choices.spec(args.preset)?, args.seed)?;
    checkpoint::save(&weights, &args.out)?;
    let (digest, parameters) = (digest_of(&weights)?, weights.parameters());
    tracing::info!(parameters, image_size = weights.spec().image_size, "{}", args.out.display());
    output::print(&digest.to_string())?;
    Ok(ExitCode::SUCCESS)
}
