//! `devices`: what this build can compute on, here.

use std::process::ExitCode;

use anyhow::Result;

use super::output;
use crate::model::device;

/// Prints one line per device: what to write as `trainer.device` or `--device`, and what it is.
///
/// # Errors
/// If nothing can be printed.
pub fn run() -> Result<ExitCode> {
    let lines = device::list().into_iter().map(|(choice, is)| format!("{choice:<8}  {is}"));
    output::print(&lines.collect::<Vec<_>>().join("\n"))?;
    Ok(ExitCode::SUCCESS)
}
