//! `model`: a network without a diffusion or a scan, for those who have it in PyTorch too.

pub mod choices;
pub mod export;
pub mod forward;
pub mod import;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;

/// Options of `model`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a model of a PyTorch state dict in a safetensors file.
    Import(import::Args),
    /// Write a model as a state dict that PyTorch loads.
    Export(export::Args),
    /// Run the bare network once on tensors of a safetensors file.
    Forward(forward::Args),
}

/// Does what the command line says.
///
/// # Errors
/// If a file cannot be used or the network does not fit it.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Import(args) => import::run(args),
        Verb::Export(args) => export::run(args),
        Verb::Forward(args) => forward::run(args),
    }
}

/// A whole file of at most `bytes_max` bytes.
fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let named = || path.display().to_string();
    let mut bytes = Vec::new();
    // One byte more than may be there, so that a file which grows while it is read is seen.
    let file = File::open(path).with_context(named)?;
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).with_context(named)?;
    let fits = bytes.len() as u64 <= bytes_max;
    ensure!(fits, "{} has more than the {bytes_max} bytes that are read", path.display());
    Ok(bytes)
}
