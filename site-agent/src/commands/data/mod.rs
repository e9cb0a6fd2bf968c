//! `data`: what a site does with its scans before it takes part. What is printed here names cases and
//! files, for the site's own people; nothing of it leaves the site.

pub mod check;
pub mod import;
pub mod preview;
pub mod split;

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
    /// Say which cases train, are held out or are set aside, with the digests of their files.
    Split(split::Args),
    /// Read every scan and say what there is, what is wrong with it and what it can train.
    Check(check::Args),
    /// Draw a contact sheet of some cases with labels and masks.
    Preview(preview::Args),
    /// List the series of a DICOM export, and make cases of those whose contrast is certain.
    Import(import::Args),
}

/// Does what the command line says.
///
/// # Errors
/// If the data folder as a whole cannot be used.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Split(args) => split::run(args),
        Verb::Check(args) => check::run(args),
        Verb::Preview(args) => preview::run(args),
        Verb::Import(args) => import::run(args),
    }
}
