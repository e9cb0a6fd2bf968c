//! The one place that writes to stdout.

use std::io::{ErrorKind, IsTerminal, Write};

use clap::ValueEnum;
use fedpaint_proto::text;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

/// How the progress of a transfer is drawn.
const TRANSFER: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// What the output looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables for people; they may change
    #[default]
    Table,
    /// JSON for programs: field names are stable, times are RFC 3339, sizes are in bytes
    Json,
}

/// Whoever reads our output has closed it.
#[derive(Debug, thiserror::Error)]
#[error("the output was closed")]
pub(crate) struct Closed;

/// Something that can be shown.
pub(crate) trait Show: Serialize {
    /// For people, who care how long ago things were.
    fn table(&self, now: Timestamp) -> String;
}

/// Where the results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
    now: fn() -> Timestamp,
}

impl Output {
    /// Output of one format, with the clock that everything takes the time from.
    pub(crate) fn new(format: Format, now: fn() -> Timestamp) -> Output {
        Output { format, now }
    }

    /// What the time is.
    pub(crate) fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// What it looks like.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Shows a result: a table, or one JSON value.
    pub(crate) fn show(&self, shown: &impl Show) -> anyhow::Result<()> {
        match self.format {
            Format::Table => self.line(&shown.table(self.now())),
            Format::Json => {
                self.raw(format!("{}\n", serde_json::to_string_pretty(shown)?).as_bytes())
            }
        }
    }

    /// Writes one JSON value on a line of its own.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.raw(format!("{}\n", serde_json::to_string(value)?).as_bytes())
    }

    /// Writes a line, or several; what would steer the terminal is taken out of them.
    pub(crate) fn line(&self, text: &str) -> anyhow::Result<()> {
        self.raw(format!("{}\n", text::lines(text, usize::MAX)).as_bytes())
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
            Err(error) => Err(anyhow::Error::new(error).context("cannot write to stdout")),
        }
    }
}

/// Whether somebody looks at stderr, so that progress is worth drawing.
pub(crate) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// A bar on stderr for a transfer; nothing where nobody looks.
pub(crate) fn transfer_bar(what: &'static str, bytes: u64) -> ProgressBar {
    let target =
        if is_watched() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(bytes), target).with_message(what);
    let style = ProgressStyle::with_template(TRANSFER);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_of_a_transfer_is_drawn_as_written() {
        ProgressStyle::with_template(TRANSFER).unwrap();
    }
}
