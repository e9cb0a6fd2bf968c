//! `phantom`: a synthetic cohort, or a federation of them, on the disk.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use indicatif::ProgressBar;

use super::output;
use crate::phantom::scanner::Scanner;
use crate::phantom::sites::{FederationSpec, write_federation};
use crate::phantom::{CohortSpec, write_cohort};

/// Options of `phantom`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cohort's folder, absent or empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many patients.
    #[arg(long, value_name = "N", required_unless_present = "sites")]
    patients: Option<usize>,
    /// Whose images: A (3 T, MPRAGE), B (1.5 T, 5 mm slices), C (3 T, 2-D), D (1.5 T, MPRAGE).
    #[arg(long, required_unless_present = "sites")]
    scanner: Option<Scanner>,
    /// Make a cohort for each site of a federation, in folders site-01, site-02, …, sized as those
    /// of a real one; the four scanners go round, each site's a little different.
    #[arg(long, value_name = "FEDERATION", conflicts_with_all = ["patients", "scanner"])]
    sites: Option<Federation>,
    /// The sites' patients relative to the real federation's, at least 2 each.
    #[arg(long, value_name = "FACTOR", default_value_t = 0.05,
          conflicts_with_all = ["patients", "scanner"])]
    scale: f64,
    /// The same seed makes the same files.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The edge of a voxel in millimetres, 1 to 8.
    #[arg(long, value_name = "MM", default_value_t = 1.0)]
    size: f64,
}

/// A federation whose sizes are known.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Federation {
    /// The 23 institutions of the FeTS challenge 2022: 511, 382, 47, … 4 cases.
    Fets,
}

/// Makes the cohort and prints its patients, or the federation and prints its sites.
///
/// # Errors
/// If an option is out of its range or the disk fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    let bar = output::bar("patients");
    let text = match (args.sites, args.patients, args.scanner) {
        (Some(Federation::Fets), _, _) => federation(args, &bar)?,
        (None, Some(patients), Some(scanner)) => {
            let (out, size_mm) = (args.out.clone(), args.size);
            let spec = CohortSpec { out, patients, scanner, seed: args.seed, size_mm };
            write_cohort(&spec, &mut |done, total| output::advance(&bar, done, total))?.join("\n")
        }
        // The command line is parsed so that this cannot be; if it could, it would be misuse.
        (None, _, _) => anyhow::bail!("give --patients and --scanner, or --sites"),
    };
    bar.finish_and_clear();
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes a federation; a line per site, then one for all.
fn federation(args: &Args, bar: &ProgressBar) -> Result<String> {
    let (out, size_mm) = (args.out.clone(), args.size);
    let spec = FederationSpec { out, scale: args.scale, seed: args.seed, size_mm };
    let sites = write_federation(&spec, &mut |done, total| output::advance(bar, done, total))?;
    let mut lines: Vec<String> = sites
        .iter()
        .map(|s| format!("{}  scanner {}  {} patients", s.name, s.scanner.letter(), s.patients))
        .collect();
    let patients: usize = sites.iter().map(|site| site.patients).sum();
    lines.push(format!("{} sites, {patients} patients", sites.len()));
    Ok(lines.join("\n"))
}
