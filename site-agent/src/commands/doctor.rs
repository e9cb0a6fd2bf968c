//! `doctor`: prints what [`crate::doctor`] finds.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::output::{self, Format};
use super::run::{now, runtime};
use crate::config::Config;
use crate::doctor::{self, Check, Verdict};

/// Options of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Checks everything and prints one line per check; fails if a check does.
///
/// # Errors
/// If the configuration does not parse.
pub fn run(args: &Args) -> Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let program = std::env::current_exe().context("cannot find this program on the disk")?;
    let checks = runtime()?.block_on(doctor::examine(&config, now(), program));
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&checks)?,
        Format::Table => checks.iter().map(line).collect::<Vec<_>>().join("\n"),
    };
    output::print(&text)?;
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(Check { name, verdict, detail }: &Check) -> String {
    let verdict = match verdict {
        Verdict::Ok => "OK",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
    };
    format!("{verdict:<4}  {name:<11}  {detail}")
}
