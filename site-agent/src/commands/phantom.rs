//! `phantom`: a synthetic cohort on the disk.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::output;
use crate::phantom::scanner::Scanner;
use crate::phantom::{CohortSpec, write_cohort};

/// Options of `phantom`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cohort's folder, absent or empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many patients.
    #[arg(long, value_name = "N")]
    patients: usize,
    /// Whose images: A (3 T, MPRAGE), B (1.5 T, 5 mm slices), C (3 T, 2-D), D (1.5 T, MPRAGE).
    #[arg(long)]
    scanner: Scanner,
    /// The same seed makes the same files.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The edge of a voxel in millimetres, 1 to 6.
    #[arg(long, value_name = "MM", default_value_t = 1.0)]
    size: f64,
}

/// Makes the cohort and prints its patients.
///
/// # Errors
/// If an option is out of its range or the disk fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    let spec = CohortSpec {
        out: args.out.clone(),
        patients: args.patients,
        scanner: args.scanner,
        seed: args.seed,
        size_mm: args.size,
    };
    let bar = output::bar("patients");
    let names = write_cohort(&spec, &mut |done, total| output::advance(&bar, done, total))?;
    bar.finish_and_clear();
    output::print(&names.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}
