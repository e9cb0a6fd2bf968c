//! `fedpaint-coordinator`: reads its configuration, builds the server, serves until it is told to
//! stop, and drains. Its other verbs check, save, bring back and compute again what it has written.
//!
//! One line on stdout says that it is ready; everything else goes to stderr. What the other verbs find
//! goes to stdout.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use fedpaint_coordinator::clock::{Clock, SystemClock};
use fedpaint_coordinator::config::{self, Config, LogFormat};
use fedpaint_coordinator::heap;
use fedpaint_coordinator::limits;
use fedpaint_coordinator::maintenance;
use fedpaint_coordinator::server::Server;
use fedpaint_proto::names::RunName;
use fedpaint_proto::tls;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// What is logged where `RUST_LOG` does not say otherwise.
const LOG_FILTER: &str = "info";

/// The configuration where none is named.
const CONFIG_FILE: &str = "coordinator.toml";

/// The variable that names it where no flag does.
const CONFIG_VARIABLE: &str = "FEDPAINT_CONFIG";

/// Threads for work on files: an aggregation, two checks, and the rest for transfers, which wait for the
/// same disk anyway. Every thread keeps memory for itself, which is never given back: without a bound it
/// creeps up for hours, whenever more sites than ever send a piece at the same moment.
const FILE_THREADS: usize = 8;

/// Coordinates a federation: opens rounds, averages the sites' updates, publishes models.
#[derive(Parser)]
#[command(name = "fedpaint-coordinator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a federation until SIGTERM or SIGINT.
    Serve {
        #[command(flatten)]
        config: Configured,
    },
    /// Check every row and every blob; exit 1 if anything is damaged. Works beside a coordinator that
    /// runs.
    Fsck {
        #[command(flatten)]
        config: Configured,
        /// How the result is told.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Save the whole state as it is now. Works beside a coordinator that runs.
    ///
    /// Blobs become hard links where the folder is on the same file system, so that a backup of a day
    /// costs no room; --copy makes copies of them.
    Backup {
        #[command(flatten)]
        config: Configured,
        /// The folder to make.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Copy every blob.
        #[arg(long)]
        copy: bool,
        /// How the result is told.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Bring a backup back into an empty data folder and an empty database, as the configuration of the
    /// coordinator that is to be names them, and check it.
    ///
    /// Sites that have seen more of the log than the backup has stop with exit code 70, because they cannot
    /// tell it from a log that was cut, until somebody at each takes the restored one: `fedctl audit head`
    /// writes its head to a file, `fedpaint-site-agent head accept` takes that.
    Restore {
        #[command(flatten)]
        config: Configured,
        /// What `backup` made.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// How the result is told.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Compute a run's committed rounds again from the updates that were kept, and compare; exit 1 if
    /// anything comes out otherwise. Works beside a coordinator that runs.
    Replay {
        #[command(flatten)]
        config: Configured,
        /// Which run.
        #[arg(long, value_name = "NAME")]
        run: RunName,
        /// Only this round.
        #[arg(long, value_name = "NUMBER")]
        round: Option<u32>,
        /// How the result is told.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Where the configuration is: whoever names none means the one in the folder that they are in.
#[derive(clap::Args, Debug)]
struct Configured {
    /// The coordinator's configuration; deploy/coordinator.toml is a sample [default: ./coordinator.toml]
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
}

impl Configured {
    fn read(&self) -> anyhow::Result<Config> {
        if let Some(path) = &self.config {
            return Ok(Config::read(path)?);
        }
        let path =
            std::path::absolute(CONFIG_FILE).context("cannot tell the folder this runs in")?;
        match Config::read(&path) {
            Err(error @ config::Error::Read { .. }) => {
                let told = format!("neither --config nor {CONFIG_VARIABLE} names a config");
                Err(anyhow::Error::new(error).context(told))
            }
            read => Ok(read?),
        }
    }
}

/// How a result is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

fn main() -> ExitCode {
    heap::share_one_arena();
    let arguments = Arguments::parse();
    if matches!(arguments.command, Command::Serve { .. }) {
        heap::begin_with_small_caches();
    }
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line, each cause once: many errors repeat theirs.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Lets the process have as many files open as its user may: an average has every site's update open, and
/// each caller's connection is one more. How many those are.
fn open_files_max() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // A system that refuses leaves what there was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let done = ExitCode::SUCCESS;
    let files = open_files_max();
    match arguments.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "fedpaint-coordinator", &mut script);
            std::io::stdout().write_all(&script).context("cannot write to stdout")?;
            Ok(done)
        }
        Command::Serve { config } => {
            let config = config.read()?;
            log(config.log)?;
            block_on(serve(config, files)).map(|()| done)
        }
        Command::Fsck { config, output } => {
            let found = block_on(maintenance::fsck(&config.read()?))?;
            tell(output, &found, found.to_string())?;
            Ok(if found.clean { done } else { ExitCode::FAILURE })
        }
        Command::Backup { config, out, copy, output } => {
            let (config, now) = (config.read()?, SystemClock.now());
            let saved = block_on(maintenance::backup(&config, &out, copy, now))?;
            let maintenance::Backup { blobs, bytes, linked } = saved;
            let text = format!("saved {blobs} blobs, {bytes} bytes, {linked} of them as links\n");
            tell(output, &saved, text).map(|()| done)
        }
        Command::Restore { config, from, output } => {
            let restored = block_on(maintenance::restore(&config.read()?, &from))?;
            let maintenance::Restored { blobs, bytes, fsck } = &restored;
            tell(output, &restored, format!("restored {blobs} blobs, {bytes} bytes\n{fsck}"))?;
            Ok(if fsck.clean { done } else { ExitCode::FAILURE })
        }
        Command::Replay { config, run, round, output } => {
            let replayed = block_on(maintenance::replay(&config.read()?, &run, round))?;
            tell(output, &replayed, replayed.to_string())?;
            Ok(if replayed.equal { done } else { ExitCode::FAILURE })
        }
    }
}

/// Runs `work` to its end. What still runs beside it then, work on files, is begun anew by the next
/// start and not waited for.
fn block_on<T, E: Into<anyhow::Error>>(
    work: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.max_blocking_threads(FILE_THREADS).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome.map_err(Into::into)
}

/// Writes a result to stdout.
fn tell(output: Output, result: &impl Serialize, text: String) -> anyhow::Result<()> {
    let text = match output {
        Output::Text => text,
        Output::Json => serde_json::to_string(result)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}

/// Serves, with so many files that may be open.
async fn serve(config: Config, files: u64) -> anyhow::Result<()> {
    let stop = stop_on_signal().context("cannot listen for signals")?;
    // A start may wait long for its disk.
    let server = tokio::select! {
        biased;
        () = stop.cancelled() => {
            info!("stopped before the start was done");
            return Ok(());
        }
        server = Server::start(config, Arc::new(SystemClock)) => server?,
    };
    let (version, sending) = (env!("CARGO_PKG_VERSION"), server.sending());
    info!(version, cryptography = tls::cryptography(), sending, "started");
    if let Some(told) = limits::too_few_files(files) {
        warn!("{told}");
    }
    let ready = format!(
        "listening on https://{}, status on http://{}\n",
        server.address(),
        server.status_address()
    );
    // Whoever started us may have closed stdout; that is no reason to stop.
    let mut stdout = std::io::stdout();
    if stdout.write_all(ready.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        info!("stdout is closed");
    }
    server.serve(stop).await?;
    info!("stopped");
    Ok(())
}

/// A token that SIGTERM or SIGINT cancels.
fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: draining"),
            _ = interrupt.recv() => info!("SIGINT: draining"),
        }
        token.cancel();
    });
    Ok(stop)
}

fn log(format: LogFormat) -> anyhow::Result<()> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(text) => EnvFilter::try_new(&text).with_context(|| {
            format!("RUST_LOG is {text:?}, it must be a filter such as `debug`")
        })?,
        Err(_) => EnvFilter::new(LOG_FILTER),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
