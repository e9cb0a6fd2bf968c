//! Plays many histories of a simulated federation, each twice, and says whether anything that must
//! hold was broken; the first history that breaks it is made short and printed. What is simulated and
//! what must hold is said in `tests/src/sim/mod.rs`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use fedpaint_tests::outcome::tell_failure;
use fedpaint_tests::sim::history::{Outcome, play};
use fedpaint_tests::sim::ledger::Broken;
use fedpaint_tests::sim::op::{Op, of_seed};
use fedpaint_tests::sim::shrink::{self, shrink};
use fedpaint_tests::sim::world::Bug;

/// The fewest rounds a second of wall time, of a release build.
const ROUNDS_PER_S_MIN: f64 = 200.0;

/// From how many seeds on that is asked: fewer are over before the machine has got going.
const SEEDS_FOR_RATE: u64 = 1_000;

/// Simulates federations on virtual time, with faults drawn from seeds.
#[derive(Debug, Parser)]
#[command(name = "simulate", version)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// End with one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// Bring a known bug back, which is to be found.
    #[arg(long)]
    bug: Option<Bug>,
    /// Play the history in this file, as it was printed, and tell every line of it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "first", "json"])]
    replay: Option<PathBuf>,
}

/// What many histories came to.
#[derive(Debug, Default, serde::Serialize)]
struct Summary {
    seeds: u64,
    first: u64,
    /// Histories that broke an invariant, or that were not the same a second time; and one more where all was
    /// well but took too long.
    broken: u64,
    /// Rounds committed, each seed counted once although it is played twice.
    rounds: u64,
    /// Attempts at rounds, counted likewise.
    attempts: u64,
    virtual_hours: f64,
    wall_s: f64,
    /// What this thread had of the processor meanwhile; nothing where the system does not tell.
    cpu_s: Option<f64>,
    /// By the wall clock.
    rounds_per_s: f64,
    /// Of everything that happened.
    digest: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.replay {
        Some(file) => replay(file, args.bug),
        None => simulate(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Whoever reads neither stream learns it from the exit code.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            tell_failure(&error, args.json);
            ExitCode::FAILURE
        }
    }
}

/// Plays the seeds; whether nothing was broken.
fn simulate(args: &Args) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let mut summary = Summary { seeds: args.seeds, first: args.first, ..Summary::default() };
    let mut digest = blake3::Hasher::new();
    let mut seconds = 0;
    for seed in args.first..args.first.saturating_add(args.seeds) {
        let ops = of_seed(seed);
        let outcome = play(seed, &ops, args.bug, false)?;
        let again = play(seed, &ops, args.bug, false)?;
        digest.update(outcome.digest.as_bytes());
        summary.rounds += outcome.rounds;
        summary.attempts += outcome.attempts;
        seconds += outcome.seconds;
        if again != outcome {
            summary.broken += 1;
            say(&format!("seed {seed}: a second time it is another history"))?;
        }
        if let Some(broken) = &outcome.broken {
            summary.broken += 1;
            tell(seed, &ops, args.bug, broken, summary.broken == 1)?;
        }
    }
    summary.wall_s = begun.elapsed().as_secs_f64();
    summary.cpu_s = cpu_s();
    summary.rounds_per_s = summary.rounds as f64 / summary.wall_s;
    if is_too_slow(&summary) {
        let rate = summary.rounds_per_s;
        summary.broken += 1;
        say(&format!("{rate:.0} rounds per second, there must be {ROUNDS_PER_S_MIN:.0}"))?;
    }
    summary.virtual_hours = seconds as f64 / 3600.0;
    summary.digest = digest.finalize().to_hex().to_string();
    if args.json {
        say(&serde_json::to_string(&summary)?)?;
    } else {
        let Summary { seeds, rounds, attempts, rounds_per_s, broken, .. } = &summary;
        say(&format!(
            "{seeds} seeds, each twice: {rounds} rounds in {attempts} attempts, \
             {rounds_per_s:.0} rounds per second, {broken} broken"
        ))?;
    }
    Ok(summary.broken == 0)
}

/// Whether so many seeds took too long. Where something is broken the time went into making it short.
fn is_too_slow(summary: &Summary) -> bool {
    let Summary { seeds, broken, rounds_per_s, .. } = *summary;
    seeds >= SEEDS_FOR_RATE && broken == 0 && rounds_per_s < ROUNDS_PER_S_MIN
}

/// Tells what a seed broke; the first time with the shortest history that does.
fn tell(
    seed: u64,
    ops: &[Op],
    bug: Option<Bug>,
    broken: &Broken,
    first: bool,
) -> anyhow::Result<()> {
    say(&format!("seed {seed} breaks {:?}: {}", broken.invariant, broken.detail))?;
    if !first {
        return Ok(());
    }
    let shortest = shrink(seed, ops, bug, broken.invariant)?;
    let played = play(seed, &shortest, bug, false)?;
    let detail = played.broken.map(|broken| broken.detail).unwrap_or_default();
    say(&format!(
        "its shortest history breaks it so: {detail}\n\
         play it again with `simulate --replay FILE`, the file being\n\n{}",
        shrink::write(seed, &shortest)
    ))
}

/// Plays one history and tells every line of it; whether nothing was broken.
fn replay(file: &PathBuf, bug: Option<Bug>) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    let (seed, ops) = shrink::read(&text)?;
    let Outcome { broken, log, rounds, digest, .. } = play(seed, &ops, bug, true)?;
    for line in &log {
        say(line)?;
    }
    say(&match &broken {
        Some(broken) => format!("breaks {:?}: {}", broken.invariant, broken.detail),
        None => format!("{rounds} rounds, nothing broken, digest {digest}"),
    })?;
    Ok(broken.is_none())
}

/// The seconds that this thread, which is the only one, has had of the processor.
fn cpu_s() -> Option<f64> {
    let told = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    let nanoseconds: u64 = told.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds as f64 / 1e9)
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_seeds_that_took_too_long_are_too_slow_and_few_or_broken_ones_are_not() {
        let one = |seeds, broken, rounds_per_s| Summary {
            seeds,
            broken,
            rounds_per_s,
            ..Summary::default()
        };
        assert!(is_too_slow(&one(SEEDS_FOR_RATE, 0, 199.0)));
        assert!(!is_too_slow(&one(SEEDS_FOR_RATE, 0, 200.0)));
        assert!(!is_too_slow(&one(SEEDS_FOR_RATE - 1, 0, 1.0)));
        assert!(!is_too_slow(&one(SEEDS_FOR_RATE, 1, 1.0)));
    }
}
