//! `soak`: many small sites for a long time. Memory stays, descriptors stay, and rounds go on.

mod plot;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use fedpaint_tests::process::{children, descriptors, rss_bytes};

use crate::federation::{Federation, RUN, Shape};
use crate::{Args, say};
use fedpaint_tests::outcome::{Outcome, quantile, rounded};

/// The most that the memory of a program may grow, in MiB an hour.
const SLOPE_MAX: f64 = 1.0;

/// The most that the memory of any one agent or trainer may grow, in MiB an hour. It is more than what their
/// mean may: an allocator takes memory in steps, and one step of half a MiB late in half an hour is a slope
/// of a MiB an hour or two of that one process, while it is hardly seen in the mean of twenty.
const SLOPE_MAX_OF_ONE: f64 = 4.0;

/// The part of the samples in which a process must be for a slope of its own: a trainer may be replaced.
const PRESENCE_MIN: f64 = 0.5;

/// How often everything is measured: this often, and more often where there are less than two minutes, so that there
/// are so many samples, or as many as were asked for.
const PERIOD: Duration = Duration::from_secs(5);
const SAMPLES_MIN: u32 = 24;

/// The part of the time that is left out of slopes, in which what is bounded fills up: SQLite's cache of
/// pages (2 MB, about 200 rounds of 20 sites) and the allocator's arenas.
const WARM_UP: f64 = 0.25;

/// From how many minutes on a slope means something.
const MINUTES_FOR_SLOPES: f64 = 10.0;

/// How long no round may be committed.
const STUCK: Duration = Duration::from_secs(60);

const MIB: f64 = (1 << 20) as f64;

/// The memory of processes, in MiB, by their ids.
type Each = Vec<(u32, f64)>;

/// Everything at a moment.
#[derive(Clone, Debug)]
struct Sample {
    /// Since the beginning.
    hours: f64,
    /// Rounds committed.
    rounds: u32,
    /// Memory of the coordinator, and the mean of an agent and of a trainer, in MiB.
    coordinator_mib: f64,
    agent_mib: f64,
    trainer_mib: f64,
    /// Memory of every agent and of every trainer.
    each_agent: Each,
    each_trainer: Each,
    /// File descriptors of the coordinator, and of all agents together.
    coordinator_fds: usize,
    agents_fds: usize,
}

/// Runs the mode.
///
/// # Errors
/// If a program does not start, or the run gets stuck.
pub(crate) async fn soak(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let sites = args.sites.unwrap_or(20);
    let shape = Shape {
        sites,
        rounds: 100_000,
        steps: 10,
        steps_ms: args.step_ms,
        checkpoint_steps: 5,
        parameters: 1 << 10,
        seed: args.seed,
        ..Shape::default()
    };
    let mut federation = Federation::found(&work.join("soak"), &shape).await?;
    federation.start_agents()?;
    let watch = federation.watch().await?;
    let time = Duration::from_secs_f64(args.minutes * 60.0);
    let period = PERIOD.min(time / args.count.unwrap_or(SAMPLES_MIN).max(1));
    let rounds_max = args.rounds.unwrap_or(u32::MAX);
    let (start, mut samples) = (Instant::now(), Vec::new());
    let (mut last, mut since, mut longest) = (0, Instant::now(), Duration::ZERO);
    while start.elapsed() < time && last < rounds_max {
        tokio::time::sleep(period).await;
        let seen = watch.seen();
        if seen.committed > last {
            (last, since) = (seen.committed, Instant::now());
        }
        longest = longest.max(since.elapsed());
        anyhow::ensure!(since.elapsed() < STUCK, "no round since {last} was committed");
        samples.push(measure(&mut federation, start, last)?);
        if samples.len() % 12 == 0
            && let Some(Sample { coordinator_mib, agent_mib, .. }) = samples.last()
        {
            say(&format!(
                "round {last}: coordinator {coordinator_mib:.1} MiB, agent {agent_mib:.1}"
            ));
        }
    }
    drop(watch);
    federation.lab.fedctl(&["run", "stop", RUN])?;
    let evidence = federation.evidence().await?;
    federation.stop()?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("."));
    fs::create_dir_all(&out)?;
    fs::write(out.join("soak.csv"), table(&samples)?)?;
    fs::write(out.join("soak.png"), plot::plot(&samples)?)?;

    let warm = &samples[(samples.len() as f64 * WARM_UP) as usize..];
    let hours: fn(&Sample) -> f64 = |s| s.hours;
    let thousands: fn(&Sample) -> f64 = |s| f64::from(s.rounds) / 1000.0;
    let slope = |along: fn(&Sample) -> f64, value: fn(&Sample) -> f64| {
        slope(&warm.iter().map(|s| (along(s), value(s))).collect::<Vec<_>>())
    };
    // It may have ended earlier, by its rounds.
    let matters = start.elapsed().as_secs_f64() >= MINUTES_FOR_SLOPES * 60.0;
    let mut outcome = Outcome::default();
    outcome.set("sites", sites);
    outcome.set("minutes", rounded(start.elapsed().as_secs_f64() / 60.0, 1));
    outcome.set("rounds", last);
    outcome.set("samples", samples.len());
    outcome.set("seed", args.seed);
    outcome.set("attempts_abandoned", evidence.abandoned());
    outcome.set("longest_without_round_s", rounded(longest.as_secs_f64(), 1));
    for (name, value) in [
        ("coordinator", (|s| s.coordinator_mib) as fn(&Sample) -> f64),
        ("agent", |s| s.agent_mib),
        ("trainer", |s| s.trainer_mib),
    ] {
        let (per_hour, per_rounds) = (slope(hours, value), slope(thousands, value));
        outcome.set(&format!("slope_mib_per_h_{name}"), rounded(per_hour, 3));
        outcome.set(&format!("slope_mib_per_1000_rounds_{name}"), rounded(per_rounds, 3));
        outcome.require(!matters || per_hour <= SLOPE_MAX, || {
            format!("{name} grows {per_hour:.2} MiB/h")
        });
    }
    steepest("agent", &slopes(warm, |s| &s.each_agent), matters, &mut outcome);
    steepest("trainer", &slopes(warm, |s| &s.each_trainer), matters, &mut outcome);
    for (name, value) in [
        ("coordinator", (|s| s.coordinator_fds as f64) as fn(&Sample) -> f64),
        ("agents", |s| s.agents_fds as f64),
    ] {
        let (first, end) = ends(warm, value);
        outcome.set(&format!("descriptors_first_{name}"), first);
        outcome.set(&format!("descriptors_last_{name}"), end);
        outcome.require(first >= end, || format!("{name}: {first} descriptors, then {end}"));
    }
    if let Some(end) = samples.last() {
        outcome.set("coordinator_mib", rounded(end.coordinator_mib, 1));
        outcome.set("agent_mib", rounded(end.agent_mib, 1));
        outcome.set("trainer_mib", rounded(end.trainer_mib, 1));
    }
    say(&format!("soak.csv and soak.png are in {}", out.display()));
    Ok(outcome)
}

/// Notes which of the processes called `name` grows most: one of twenty is hidden in their mean.
fn steepest(name: &str, slopes: &[f64], matters: bool, outcome: &mut Outcome) {
    let steepest = quantile(slopes, 1.0);
    outcome.set(&format!("slope_max_mib_per_h_{name}"), rounded(steepest, 3));
    outcome.set(&format!("slopes_{name}"), slopes.len());
    outcome.require(!matters || !slopes.is_empty(), || format!("no {name} lived for long enough"));
    outcome.require(!matters || steepest <= SLOPE_MAX_OF_ONE, || {
        format!("one {name} grows {steepest:.2} MiB/h")
    });
}

fn measure(federation: &mut Federation, start: Instant, rounds: u32) -> anyhow::Result<Sample> {
    let coordinator = federation.lab.coordinator()?;
    anyhow::ensure!(coordinator.is_running()?, "the coordinator has ended");
    let id = coordinator.id();
    let (mut agents, mut trainers) = (Vec::new(), Vec::new());
    for site in &mut federation.sites {
        let agent = site.agent.as_mut().context("an agent")?;
        anyhow::ensure!(agent.is_running()?, "the agent of {} has ended", site.name);
        agents.push(agent.id());
        trainers.extend(children(agent.id()));
    }
    let mib = |id: u32| Some(rss_bytes(id)? as f64 / MIB);
    // One that has just ended holds nothing, and is none of those that are measured.
    let each =
        |ids: &[u32]| -> Each { ids.iter().filter_map(|id| Some((*id, mib(*id)?))).collect() };
    let mean =
        |each: &Each| each.iter().map(|(_, mib)| mib).sum::<f64>() / each.len().max(1) as f64;
    let (each_agent, each_trainer) = (each(&agents), each(&trainers));
    Ok(Sample {
        hours: start.elapsed().as_secs_f64() / 3600.0,
        rounds,
        coordinator_mib: mib(id).unwrap_or(0.0),
        agent_mib: mean(&each_agent),
        trainer_mib: mean(&each_trainer),
        each_agent,
        each_trainer,
        coordinator_fds: descriptors(id).unwrap_or(0),
        agents_fds: agents.iter().filter_map(|id| descriptors(*id)).sum(),
    })
}

fn table(samples: &[Sample]) -> anyhow::Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record([
        "hours",
        "rounds",
        "coordinator_mib",
        "agent_mib",
        "trainer_mib",
        "coordinator_fds",
        "agents_fds",
    ])?;
    for s in samples {
        csv.write_record([
            format!("{:.5}", s.hours),
            s.rounds.to_string(),
            format!("{:.3}", s.coordinator_mib),
            format!("{:.3}", s.agent_mib),
            format!("{:.3}", s.trainer_mib),
            s.coordinator_fds.to_string(),
            s.agents_fds.to_string(),
        ])?;
    }
    Ok(csv.into_inner()?)
}

/// The slope of the line with the least squares of errors.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let along: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let square: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    if square > 0.0 { along / square } else { 0.0 }
}

/// The slopes of single processes in MiB an hour, of those that were there for long enough.
fn slopes(samples: &[Sample], each: fn(&Sample) -> &Each) -> Vec<f64> {
    let mut points: BTreeMap<u32, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in samples {
        for (id, mib) in each(sample) {
            points.entry(*id).or_default().push((sample.hours, *mib));
        }
    }
    let enough = samples.len() as f64 * PRESENCE_MIN;
    let long = points.values().filter(|points| points.len() as f64 >= enough);
    long.map(|points| slope(points)).collect()
}

/// The medians of the first and of the last quarter: one connection more or less at a moment is no leak.
fn ends(samples: &[Sample], value: fn(&Sample) -> f64) -> (f64, f64) {
    let quarter = samples.len().div_ceil(4);
    let median = |part: &[Sample]| quantile(&part.iter().map(value).collect::<Vec<_>>(), 0.5);
    (median(&samples[..quarter]), median(&samples[samples.len() - quarter..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_own_slope_and_noise_that_is_balanced_none() {
        let line: Vec<_> = (0..9).map(|i| (f64::from(i), 3.0 - 0.5 * f64::from(i))).collect();
        assert!((slope(&line) + 0.5).abs() < 1e-12);
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 2.0), (2.0, 1.0)]), 0.0);
        assert_eq!(slope(&[]), 0.0);
    }

    /// Twenty agents, of which one grows by 5 MiB an hour, and for two hours one that grows by much more.
    fn sample(i: u32) -> Sample {
        let hours = f64::from(i);
        let mut each_agent: Each = (1..20).map(|id| (id, 19.0)).collect();
        each_agent.push((20, 19.0 + 5.0 * hours));
        if i < 2 {
            each_agent.push((21, 100.0 * hours));
        }
        Sample {
            hours,
            rounds: i,
            coordinator_mib: 25.0,
            agent_mib: 19.0,
            trainer_mib: 13.0,
            each_agent,
            each_trainer: Each::new(),
            coordinator_fds: 65,
            agents_fds: 360,
        }
    }

    #[test]
    fn one_process_of_twenty_that_grows_is_seen_and_one_that_was_there_for_a_moment_is_not() {
        let samples: Vec<Sample> = (0..8).map(sample).collect();
        let each = slopes(&samples, |s| &s.each_agent);
        assert_eq!(each.len(), 20);
        let mut outcome = Outcome::default();
        steepest("agent", &each, true, &mut outcome);
        assert_eq!(outcome.broken, ["one agent grows 5.00 MiB/h"]);
        assert!(slopes(&samples, |s| &s.each_trainer).is_empty());
    }
}
