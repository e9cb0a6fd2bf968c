//! The one place that prints: data to standard output, the log and progress to standard error.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Prints data. A reader that has seen enough and closed the pipe is no failure.
///
/// # Errors
/// If standard output fails.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Tells why nothing was done, on one line.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    let line = format!("error: {}", told(error)).replace('\n', " ");
    // If even this cannot be said, the exit code still says it.
    let _ = writeln!(io::stderr(), "{line}");
    ExitCode::FAILURE
}

/// The error and its causes, but for a cause that the error before it has told already.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match line {
        line if line.is_empty() => cause,
        line if line.ends_with(&cause) => line,
        line => format!("{line}: {cause}"),
    })
}

/// The crates that read DICOM quote the files in what they log, so nothing of theirs is told unless
/// `RUST_LOG` asks for one of them by its name.
const SILENT: &str = "dicom_=off";

/// Has the log go to standard error; `RUST_LOG` says which lines.
pub fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let filter =
        SILENT.parse().map_or(EnvFilter::new("off"), |silent| filter.add_directive(silent));
    let ansi = io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .init();
}

/// A bar for long work, seen only on a terminal.
pub fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(what);
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Moves a bar.
pub fn advance(bar: &ProgressBar, done: usize, total: usize) {
    bar.set_length(total as u64);
    bar.set_position(done as u64);
}

/// Writes a whole file or none.
///
/// # Errors
/// If the disk fails.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fedpaint_proto::weights::sync_folder(path)
}
