//! `fedctl`: manages a federation from an operator's desk.
//!
//! Data goes to stdout and everything else to stderr; it exits with 0 when the work is done, 1 when it
//! failed, and 2 when it was asked wrongly. It speaks to the coordinator over the wire alone and never
//! opens its database.

use std::process::ExitCode;

use clap::Parser;
use jiff::Timestamp;

mod audit;
mod ca;
mod cli;
mod connect;
mod event;
mod human;
mod model;
mod operator;
mod output;
mod pages;
mod plan;
mod problem;
mod proposal;
mod renewal;
mod round;
mod run;
mod save;
mod site;
mod status;
mod table;
mod view;
mod watch;

use cli::{Arguments, Command};
use output::Output;
use problem::Usage;

/// The exit code of a command that was asked wrongly, the same as clap's.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.output, now);
    match run(arguments, &output) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has had enough of it.
        Err(error) if error.is::<output::Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", problem::one_line(&error));
            if error.is::<Usage>() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(arguments: Arguments, output: &Output) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let settings = &arguments.connection;
    match arguments.command {
        Command::Ca { verb } => ca::run(verb, settings, output),
        Command::Completions { shell } => cli::completions(shell, output),
        Command::Site { verb } => runtime.block_on(site::run(verb, settings, output)),
        Command::Operator { verb } => runtime.block_on(operator::run(verb, settings, output)),
        Command::Proposal { verb } => runtime.block_on(proposal::run(verb, settings, output)),
        Command::Plan { verb } => plan::run(verb, output),
        Command::Run { verb } => runtime.block_on(run::run(verb, settings, output)),
        Command::Round { verb } => runtime.block_on(round::run(verb, settings, output)),
        Command::Model { verb } => runtime.block_on(model::run(verb, settings, output)),
        Command::Events(asked) => runtime.block_on(event::run(asked, settings, output)),
        Command::Audit { verb } => runtime.block_on(audit::run(verb, settings, output)),
        Command::Status => runtime.block_on(status::run(settings, output)),
        Command::Renew { now } => runtime.block_on(renewal::run(now, settings, output)),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the edge: everything below takes the time from here"
)]
fn now() -> Timestamp {
    Timestamp::now()
}
