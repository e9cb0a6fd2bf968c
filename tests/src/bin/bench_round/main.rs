//! How long a round takes where training takes no time, and how far that is from what the machine can do.
//!
//! A coordinator and agents, real processes over mutual TLS on loopback, whose trainers rehearse: an update
//! costs what it takes to read, change and write a model. Beside it the floor is measured in the same run:
//! the same bytes through bare gRPC streams, and every file that a round writes written and synced once.

mod federation;
mod floor;
mod limit;
mod machine;
mod phases;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use fedpaint_tests::built;
use fedpaint_tests::outcome::tell_failure;

use self::federation::{Federation, Shape};
use self::report::Report;

/// Times rounds of a federation on this machine, and the machine itself.
#[derive(Debug, Parser)]
#[command(name = "bench-round", version)]
struct Args {
    /// How many sites.
    #[arg(long, default_value_t = 2)]
    sites: usize,
    /// Parameters of the model, of four bytes each.
    #[arg(long, default_value_t = 25_000_000)]
    params: usize,
    /// How many rounds; the first one is cold and is not counted.
    #[arg(long, default_value_t = 4)]
    rounds: u32,
    /// The most memory that the coordinator may have, in MiB, all of it: beyond it the system ends it.
    #[arg(long, value_name = "MIB")]
    coordinator_memory_mib: Option<u64>,
    /// The folder to work in; by default a new one that is deleted.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// End with one JSON object on the last line instead of a table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-round: {error:#}");
            tell_failure(&error, args.json);
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(args.rounds >= 2, "the first round is not counted: --rounds must be 2 or more");
    anyhow::ensure!(args.sites >= 1, "--sites must be 1 or more");
    built::programs()?;
    let temporary = tempfile::Builder::new().prefix("bench-round-").tempdir()?;
    let work = args.work.clone().unwrap_or_else(|| temporary.path().to_owned());
    let shape = Shape {
        sites: args.sites,
        parameters: args.params,
        rounds: args.rounds,
        memory_mib: args.coordinator_memory_mib,
    };
    let federation = Federation::found(&work, &shape).await?;
    let bytes = usize::try_from(federation.model().size)?;
    say(&format!("{} sites, a model of {:.1} MB", args.sites, bytes as f64 / 1e6));
    let (server, client) = federation.ends()?;
    let machine = machine::measure(&work, bytes, server.clone(), client.clone())
        .context("measuring the machine")?;
    let (rounds, processes) = federation.run(&mut |line| say(line)).await?;
    // The floor comes last, when every file of the rounds has been written: the disk is as busy as then.
    let floor = floor::measure(&work, bytes, args.sites, server, client)
        .await
        .context("measuring the floor")?;
    let report = Report { sites: args.sites, bytes, rounds, processes, floor, machine };
    let text = if args.json { report.json()? } else { report.table() };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// Tells people how far it is; the result alone goes to stdout.
fn say(text: &str) {
    eprintln!("{text}");
}
