//! `model import`: a PyTorch state dict becomes a model that describes itself.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::choices::Choices;
use super::read_file;
use crate::commands::options::digest_of;
use crate::commands::output;
use crate::model::checkpoint;
use crate::model::spec::Preset;
use crate::model::state_dict::{MAX_STATE_BYTES, adopt};

/// Options of `model import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The state dict: a safetensors file with guided-diffusion's tensor names, of type f32, f16, bf16 or
    /// f64. A pickle (.pt, .pth) is not read.
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// The size of the model: tiny, small, base or mayo.
    #[arg(long)]
    preset: Preset,
    #[command(flatten)]
    choices: Choices,
    /// Names the start of a null condition that the state dict lacks.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The model's file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Writes the model and prints its digest.
///
/// # Errors
/// If the choices do not go together, the state dict is not one of that model, or a file fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    let spec = args.choices.spec(args.preset)?;
    let bytes = read_file(&args.state, MAX_STATE_BYTES)?;
    let weights =
        adopt(&bytes, &spec, args.seed).with_context(|| args.state.display().to_string())?;
    checkpoint::save(&weights, &args.out)?;
    tracing::info!(parameters = weights.parameters(), "{}", args.out.display());
    output::print(&digest_of(&weights)?.to_string())?;
    Ok(ExitCode::SUCCESS)
}
