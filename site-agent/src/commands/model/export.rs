//! `model export`: a model as the state dict that PyTorch knows, without what makes it ours.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::commands::options::load_model;
use crate::commands::output;
use crate::model::state_dict;

/// Options of `model export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model's file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The state dict's file, for safetensors.torch.load_file. A network that has no null condition loads
    /// it with strict=False.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Writes the state dict and prints the spec that `model import` has to be told.
///
/// # Errors
/// If the model cannot be read or the file cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let (weights, _) = load_model(&args.model)?;
    let bytes = state_dict::to_bytes(&weights)?;
    output::write_file(&args.out, &bytes).with_context(|| args.out.display().to_string())?;
    output::print(&weights.spec().to_json())?;
    Ok(ExitCode::SUCCESS)
}
