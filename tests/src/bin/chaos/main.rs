//! Breaks a federation of real processes on purpose, and says what it took and what it made of it.
//!
//! Most modes run a federation undisturbed too, and compare the bytes; `flips`, `stragglers` and `soak` have nothing
//! to compare with. What is random follows from `--seed`; when things happen also depends on the machine. The sites
//! rehearse, but for `upgrade` and one kind of federation of `crash-points` and `disk`, where they really train: they
//! compute updates that follow from their inputs alone, without a scan or a network, and everything
//! else about them is real. `tests/README.md` says what each mode proves.

mod bad_disk;
mod crash;
mod crash_points;
mod cuts;
mod disk;
mod due;
mod federation;
mod flips;
mod full_disk;
mod kills;
mod lanes;
mod leftovers;
mod material;
mod once;
mod options;
mod probe;
mod scenario;
mod soak;
mod storm;
mod stragglers;
mod tally;
mod upgrade;
mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};

use fedpaint_tests::built;
use fedpaint_tests::outcome::{Outcome, tell_failure};

/// Breaks a federation on purpose and checks that nothing was lost.
#[derive(Debug, Parser)]
#[command(name = "chaos", version)]
struct Args {
    /// What is done to it.
    mode: Mode,
    /// How many: `kills`, `cuts` or (`disk`, `flips`) flipped bits, none for 0; `crash-points`: crashes at most, spread
    /// over all there are, by default one for every time that a place is passed; `stragglers`: restarts of the site
    /// that comes and goes, by default until the end; `soak`: samples at least, over its minutes.
    #[arg(long)]
    count: Option<u32>,
    /// How many sites every federation of the mode has.
    #[arg(long)]
    sites: Option<usize>,
    /// How many rounds every federation of the mode has; `disk`: but for those that go on from one bad disk to the
    /// next, and a full file system takes 4; `soak`: it ends with the first sample after so many, if its minutes are
    /// not over before.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// `disk`: how many bad disks at most, spread over all there are, by default one or two for every place.
    #[arg(long)]
    cases: Option<usize>,
    /// How the numbers of updates are written, such as `int8`; then each site keeps what its update leaves out for
    /// its next one. `crash-points` and `disk` try that alone; by default they try f32, then what int8, a real
    /// training, certificates that are renewed and an old coordinator pass beside it.
    #[arg(long)]
    encoding: Option<String>,
    /// For how many seconds file systems are really full; 0 fills none.
    #[arg(long, default_value_t = 90)]
    hold_s: u64,
    /// What is random follows from this: when and where is killed, cut and turned; which of all crashes and bad disks
    /// there are, where fewer are asked for; `soak`: what is trained.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long to soak.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Milliseconds of a step of the soak; a round has ten. Fewer make more rounds in the same time.
    #[arg(long, default_value_t = 100)]
    step_ms: u32,
    /// Where the soak's table and plot go.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The programs of an older version, to upgrade from.
    #[arg(long, value_name = "DIR")]
    old: Option<PathBuf>,
    /// The folder to work in; by default a new one that is deleted if all is well.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Keep the working folder: configs, logs, every model.
    #[arg(long)]
    keep: bool,
    /// End with one JSON object on the last line instead of a list.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// SIGKILL of coordinator, agents and trainers, at random instants and at named places.
    Kills,
    /// Connections cut, corrupted and stalled in the middle of transfers, and answers that get lost.
    Cuts,
    /// A crash at every place that is passed, in federations of their own.
    CrashPoints,
    /// Full, broken and read-only disks at every place that uses one, full ones for minutes, and bits that turn at
    /// rest.
    Disk,
    /// The last part of `disk` alone: bits that turn at rest, in files of either side.
    Flips,
    /// One site far slower than the others, and one that comes and goes.
    Stragglers,
    /// Many small sites for a long time: memory, descriptors, progress.
    Soak,
    /// Older programs with those of this version.
    Upgrade,
}

#[tokio::main]
async fn main() -> ExitCode {
    let given = Args::command().get_matches();
    let args = Args::from_arg_matches(&given).unwrap_or_else(|error| error.exit());
    let done = match options::check(&given, args.mode) {
        Ok(()) => chaos(&args).await,
        Err(error) => Err(error),
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

/// Runs a mode; whether all is well.
async fn chaos(args: &Args) -> anyhow::Result<bool> {
    built::programs()?;
    let base = args.work.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&base)?;
    let mut work = tempfile::Builder::new().prefix("chaos-").tempdir_in(base)?;
    // Kept whatever happens until all is known to be well.
    work.disable_cleanup(true);
    // Whichever ends first; dropping the other kills every process it has started.
    let outcome = tokio::select! {
        outcome = run(args, work.path()) => outcome,
        signal = interrupted() => signal.and_then(|name| anyhow::bail!("ended by {name}")),
    };
    let kept = || format!("seed {}; the logs are in {}", args.seed, work.path().display());
    if outcome.is_err() {
        full_disk::unmount(work.path());
    }
    let outcome = outcome.with_context(kept)?;
    let well = outcome.broken.is_empty();
    if well && !args.keep {
        work.disable_cleanup(false);
    } else {
        eprintln!("{}", kept());
    }
    for broken in &outcome.broken {
        eprintln!("broken: {broken}");
    }
    // A reader that has seen enough has closed the pipe.
    let _ = writeln!(std::io::stdout(), "{}", outcome.text(args.json)?);
    Ok(well)
}

async fn run(args: &Args, work: &std::path::Path) -> anyhow::Result<Outcome> {
    match args.mode {
        Mode::Kills => kills::kills(args, work).await,
        Mode::Cuts => cuts::cuts(args, work).await,
        Mode::CrashPoints => crash_points::crash_points(args, work).await,
        Mode::Disk => disk::disk(args, work).await,
        Mode::Flips => flips::flips(args, work).await,
        Mode::Stragglers => stragglers::stragglers(args, work).await,
        Mode::Soak => soak::soak(args, work).await,
        Mode::Upgrade => upgrade::upgrade(args, work).await,
    }
}

/// The signal that ends everything before its time.
async fn interrupted() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done.map(|()| "Ctrl-C").map_err(Into::into),
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = hang_up.recv() => Ok("SIGHUP"),
    }
}

/// A line for who watches.
fn say(text: &str) {
    eprintln!("{text}");
}
