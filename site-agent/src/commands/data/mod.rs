//! `data`: what a site does with its scans before it takes part. What is printed here names cases and
//! files, for the site's own people; nothing of it leaves the site.

pub mod import;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// Options of `data`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the series of a DICOM export, and make cases of those whose contrast is certain.
    Import(import::Args),
}

/// Does what the command line says.
///
/// # Errors
/// If the data folder as a whole cannot be used.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Import(args) => import::run(args),
    }
}
