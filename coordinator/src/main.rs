//! `fedpaint-coordinator`: reads its configuration, builds the server, serves until it is told to
//! stop, and drains.
//!
//! One line on stdout says that it is ready; everything else goes to stderr.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use fedpaint_coordinator::clock::SystemClock;
use fedpaint_coordinator::config::{Config, LogFormat};
use fedpaint_coordinator::server::Server;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;

/// What is logged where `RUST_LOG` does not say otherwise.
const LOG_FILTER: &str = "info";

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
        /// The configuration; deploy/coordinator.toml is a sample.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
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

fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "fedpaint-coordinator", &mut script);
            std::io::stdout().write_all(&script).context("cannot write to stdout")
        }
        Command::Serve { config } => {
            let config = Config::read(&config)?;
            log(config.log)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.context("cannot start the runtime")?.block_on(serve(config))
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let stop = stop_on_signal().context("cannot listen for signals")?;
    let server = Server::start(config, Arc::new(SystemClock)).await?;
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
