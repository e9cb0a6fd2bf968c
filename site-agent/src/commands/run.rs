//! `run`: the agent's process. It never opens a scan; the trainer, its child, does.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use fedpaint_proto::heap::keep_room;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};

use super::output;
use crate::agent::{self, Start, Stop, dry_run};
use crate::config::{self, Config};

/// Threads of the runtime: it only moves bytes.
const RUNTIME_THREADS: usize = 2;

/// The exit code of an agent that the coordinator has shown two logs which do not fit together. Starting
/// it again does not help.
pub const EXIT_LOG: u8 = 70;

/// Threads for work on files, of which an agent has three at a time at most: an update is read to be sent
/// while it is remembered and a head of the log is kept. Every thread costs an
/// allocator's arena, which is never given back, so that more of them let memory creep up for hours.
const FILE_THREADS: usize = 3;

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Train one round, write what would leave into this folder with a report, send nothing of it, and end.
    #[arg(long, value_name = "DIR")]
    dry_run: Option<PathBuf>,
}

/// Takes part until told to stop.
///
/// # Errors
/// If the site cannot take part as configured.
pub fn run(args: &Args) -> Result<ExitCode> {
    let config = Config::load(&args.config)?;
    if let Some(folder) = &args.dry_run {
        let path = folder.join(dry_run::TEXT);
        ensure!(!path.exists(), "{} is of another dry run: name a new folder", path.display());
    }
    let program = std::env::current_exe().context("cannot find this program on the disk")?;
    keep_room();
    runtime()?.block_on(async {
        let stop = stop_on_signal()?;
        // What a crash has left of the replacement of a certificate waits for its disk like all of a start.
        let found = agent::patient(|| config.valid_site(now()), config::Error::may_pass);
        let Some(site) = stop.now.run_until_cancelled(found).await else {
            return Ok(ExitCode::SUCCESS);
        };
        let site = site?;
        let start = Start { program, now, dry_run: args.dry_run.clone() };
        match agent::run(&config, site, start, stop).await {
            Err(error @ agent::Error::Log { .. }) => {
                output::failed(&error.into());
                return Ok(ExitCode::from(EXIT_LOG));
            }
            ended => ended?,
        }
        if let Some(folder) = &args.dry_run {
            let path = folder.join(dry_run::TEXT);
            let text = std::fs::read_to_string(&path);
            let text = text.with_context(|| {
                format!("no round was trained, so there is no {}", path.display())
            })?;
            output::print(text.trim_end())?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// A runtime for the agent's half.
///
/// # Errors
/// If the system has no threads left.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .max_blocking_threads(FILE_THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// The time: the program's one clock.
#[expect(clippy::disallowed_methods, reason = "the edge: passed on as the clock")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// SIGTERM and SIGINT keep the round in hand for an agent that is started again, SIGUSR1 withdraws from it.
fn stop_on_signal() -> Result<Stop> {
    let stop = Stop::default();
    let fired = stop.clone();
    let mut terminate = signal(SignalKind::terminate()).context("cannot hear SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot hear SIGINT")?;
    let mut withdraw = signal(SignalKind::user_defined1()).context("cannot hear SIGUSR1")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = withdraw.recv() => fired.withdraw.cancel(),
        }
        let withdraw = fired.withdraw.is_cancelled();
        tracing::info!(withdraw, "stopping");
        fired.now.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn a_signal_to_end_keeps_the_round_and_a_signal_to_withdraw_does_not() {
        for (signal, withdraws) in
            [(Signal::TERM, false), (Signal::INT, false), (Signal::USR1, true)]
        {
            let stop = stop_on_signal().unwrap();
            kill_process(getpid(), signal).unwrap();
            stop.now.cancelled().await;
            assert_eq!(stop.withdraw.is_cancelled(), withdraws, "{signal:?}");
        }
    }
}
