//! Puts what the federation promises of trust on trial: against a coordinator of its own, with as many
//! attempts as are asked for, and says what each came to. `tests/README.md` says what each mode proves.

mod access;
mod csr;
mod floods;
mod forge;
mod hostile;
mod link;
mod log;
mod plans;
mod poison;
mod renew;
mod revoke;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use fedpaint_tests::built;
use fedpaint_tests::outcome::{Outcome, tell_failure};

/// Puts what a federation promises on trial.
#[derive(Debug, Parser)]
#[command(name = "trials", version)]
struct Args {
    /// What is tried.
    mode: Mode,
    /// How many attempts. `access`: passes over the whole table, 1 unless given; `hostile-coordinator`: attacks, one
    /// kind after the other, each kind once unless given.
    #[arg(long)]
    count: Option<usize>,
    /// What is random follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// `poison`: these attacks alone, by every rule; all of them if not given.
    #[arg(long)]
    only: Vec<poison::Attack>,
    /// `link`: how both kernels find out how fast they may send, such as `cubic`, whatever a program asks for; what
    /// the programs ask for if not given.
    #[arg(long)]
    congestion: Option<String>,
    /// `link`: how much goes through the line each way, in Mbit/s; 30 unless given.
    #[arg(long, id = "mbit-s")]
    mbit_s: Option<f64>,
    /// `link`: the part of the packets that is lost; 0.01 unless given.
    #[arg(long)]
    loss: Option<f64>,
    /// A part of a trial, by the file that says which: how `link` and `floods` start themselves again.
    #[arg(long, hide = true)]
    part: Option<PathBuf>,
    /// Keep the working folder: configs, certificates, logs.
    #[arg(long)]
    keep: bool,
    /// End with one JSON object on the last line instead of a list.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// Every call, made by everybody: no certificate, a bad one, a good one of every role.
    Access,
    /// Hostile requests for certificates, and join tokens that are guessed, reused, burnt.
    Csr,
    /// Rounds of honest sites beside slow, many, resetting and oversized connections.
    Floods,
    /// A coordinator that turns on a site in nineteen ways.
    HostileCoordinator,
    /// A model over a line of 30 Mbit/s, 100 ms and 1 % loss, and heartbeats beside it; takes root and Linux.
    Link,
    /// An audit log that is edited, cut, reordered, forked, truncated, back-dated and forward-dated.
    Log,
    /// Certificates of a minute renewed under running rounds, and a root that takes over from another.
    Renew,
    /// Sites that are revoked in the middle of a transfer, and that try to come back.
    Revoke,
    /// Plans that a hospital's own policy does not allow.
    Plans,
    /// Two of ten sites that send what they should not to a federation that really trains.
    Poison,
}

/// The options that not every trial heeds.
const OPTIONS: [&str; 7] = ["count", "seed", "only", "congestion", "mbit-s", "loss", "part"];

impl Mode {
    /// Which of them this one does.
    fn heeds(self) -> &'static [&'static str] {
        match self {
            Mode::Access | Mode::HostileCoordinator | Mode::Renew => &["count"],
            Mode::Floods => &["count", "part"],
            Mode::Csr | Mode::Log | Mode::Revoke | Mode::Plans => &["count", "seed"],
            Mode::Poison => &["count", "seed", "only"],
            Mode::Link => &["count", "seed", "congestion", "mbit-s", "loss", "part"],
        }
    }
}

/// Reads a command line, of which nothing is left unheeded: whoever asks for another seed is not told of the same
/// attempts as if they were others.
fn read<T: Into<OsString> + Clone>(
    words: impl IntoIterator<Item = T>,
) -> Result<Args, clap::Error> {
    let mut command = Args::command();
    let matches = command.try_get_matches_from_mut(words)?;
    let args = Args::from_arg_matches(&matches)?;
    let heeded = args.mode.heeds();
    let given = |option: &str| matches.value_source(option) == Some(ValueSource::CommandLine);
    match OPTIONS.into_iter().find(|option| given(option) && !heeded.contains(option)) {
        None => Ok(args),
        Some(option) => {
            let told = format!("this trial does not heed --{option}: leave it out");
            Err(command.error(ErrorKind::ArgumentConflict, told))
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let done = match &args.part {
        Some(part) => self::part(args.mode, part).await.map(|()| true),
        None => trials(&args).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            tell_failure(&error, args.json);
            ExitCode::FAILURE
        }
    }
}

/// Does a part of a trial, in a process of its own.
async fn part(mode: Mode, part: &Path) -> anyhow::Result<()> {
    match mode {
        Mode::Link => {
            let told = link::part(part).await?;
            writeln!(std::io::stdout(), "{told}")?;
            Ok(())
        }
        Mode::Floods => floods::part(part).await,
        _ => anyhow::bail!("this trial has no parts"),
    }
}

/// Runs a mode; whether all is well.
async fn trials(args: &Args) -> anyhow::Result<bool> {
    built::programs()?;
    let mut work = tempfile::Builder::new().prefix("trials-").tempdir()?;
    // Kept whatever happens until all is known to be well.
    work.disable_cleanup(true);
    let kept = || format!("seed {}; the logs are in {}", args.seed, work.path().display());
    let outcome = run(args, work.path()).await.with_context(kept)?;
    let well = outcome.broken.is_empty();
    if !well || args.keep {
        eprintln!("{}", kept());
    }
    for broken in &outcome.broken {
        eprintln!("broken: {broken}");
    }
    work.disable_cleanup(!well || args.keep);
    // A reader that has seen enough has closed the pipe.
    let _ = writeln!(std::io::stdout(), "{}", outcome.text(args.json)?);
    Ok(well)
}

async fn run(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    match args.mode {
        Mode::Access => access::access(args, work).await,
        Mode::Csr => csr::csr(args, work).await,
        Mode::Floods => floods::floods(args, work).await,
        Mode::HostileCoordinator => hostile::hostile(args, work).await,
        Mode::Link => link::link(args, work).await,
        Mode::Log => log::log(args, work).await,
        Mode::Renew => renew::renew(args, work).await,
        Mode::Revoke => revoke::revoke(args, work).await,
        Mode::Plans => plans::plans(args, work).await,
        Mode::Poison => poison::poison(args, work).await,
    }
}

/// A line for who watches.
fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_a_trial_does_not_heed_is_refused_and_named() {
        for mode in Mode::value_variants() {
            let name = mode.to_possible_value().unwrap().get_name().to_owned();
            assert!(read(["trials", &name, "--keep", "--json"]).is_ok(), "{name}");
            for option in OPTIONS {
                let value = if option == "only" { "alie-far" } else { "1" };
                let told = read(["trials", &name, &format!("--{option}"), value]);
                assert_eq!(told.is_ok(), mode.heeds().contains(&option), "{name} --{option}");
                let text = told.err().map(|error| error.to_string()).unwrap_or_default();
                assert!(text.is_empty() || text.contains(&format!("--{option}")), "{text}");
            }
        }
        let access = read(["trials", "access", "--seed", "7"]).unwrap_err();
        assert_eq!(access.exit_code(), 2);
        for mode in ["access", "csr", "revoke", "renew", "hostile-coordinator", "plans", "log"] {
            let args = read(["trials", mode, "--count", "7", "--json"]).unwrap();
            assert_eq!((args.count, args.json), (Some(7), true), "{mode}");
        }
    }
}
