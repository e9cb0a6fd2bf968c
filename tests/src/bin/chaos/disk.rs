//! `disk`: disks that are full, broken or read-only for a while at every place that uses one, and one
//! that is really full.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::federation::{Federation, Shape, undisturbed};
use crate::flips;
use crate::full_disk;
use crate::watch::Watch;
use crate::{Args, say};
use fedpaint_tests::outcome::{Outcome, quantile, rounded};

/// How soon the work must go on once the disk is well again.
const RESUME_S_MAX: f64 = 10.0;

/// How long a disk stays bad.
const HELD: Duration = Duration::from_millis(1_500);

/// How long a place may take to be reached.
const PLACE_MAX: Duration = Duration::from_secs(12);

/// How long after the disk is well the run may take to commit a round before it counts as stuck.
const STUCK: Duration = Duration::from_secs(60);

const LOOK: Duration = Duration::from_millis(10);

/// What a disk says, as a rule says it.
const FAULTS: [&str; 3] = ["enospc", "eio", "erofs"];

/// Runs the mode.
///
/// # Errors
/// If a program does not start, or a run gets stuck.
pub(crate) async fn disk(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let shape = Shape {
        sites: args.sites.unwrap_or(2),
        rounds: 1,
        steps: 8,
        steps_ms: 20,
        checkpoint_steps: 2,
        parameters: 1 << 16,
        round: None,
        more: String::new(),
    };
    let mut outcome = Outcome::default();
    outcome.set("seed", args.seed);
    places(args, work, &shape, &mut outcome).await?;
    full_disk::full_disk(work, &shape, &mut outcome).await?;
    flips::flips(args, work, &shape, &mut outcome).await?;
    Ok(outcome)
}

/// One place of one program whose disk is bad for a while.
struct Case {
    /// The site, or the coordinator.
    site: Option<usize>,
    place: String,
    fault: &'static str,
}

/// How a case went.
#[derive(Default)]
struct Tally {
    sites: u32,
    resumed: u32,
    /// Programs that stopped rather than trust what they could not write.
    stopped: BTreeSet<String>,
    missed: BTreeSet<String>,
    resume_s: Vec<f64>,
}

async fn places(
    args: &Args,
    work: &Path,
    shape: &Shape,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let probe = undisturbed(&work.join("probe"), shape).await?;
    let mut cases = Vec::new();
    for (i, place) in probe.coordinator_names().into_iter().enumerate() {
        cases.push(Case { site: None, place, fault: FAULTS[i % FAULTS.len()] });
    }
    for (i, place) in probe.site_names().into_iter().enumerate() {
        cases.push(Case { site: Some(0), place, fault: FAULTS[i % FAULTS.len()] });
    }
    // A full disk is what happens most, so every place sees one.
    let full = cases.iter().filter(|case| case.fault != FAULTS[0]);
    let full =
        full.map(|case| Case { site: case.site, place: case.place.clone(), fault: FAULTS[0] });
    let full: Vec<Case> = full.collect();
    cases.extend(full);
    cases.truncate(args.rounds.map_or(usize::MAX, |rounds| rounds as usize));
    // A round a case, and some in which nothing happens.
    let shape = Shape { rounds: 3 * cases.len() as u32 + 4, ..shape.clone() };
    say(&format!("{} cases of a bad disk", cases.len()));

    let mut federation = Federation::found(&work.join("bad-disk"), &shape).await?;
    federation.start_agents()?;
    let mut watch = federation.watch().await?;
    let mut tally = Tally::default();
    for case in &cases {
        let before = watch.seen().committed;
        one(case, &mut federation, &mut watch, &mut tally).await.with_context(|| {
            let Case { place, fault, .. } = case;
            format!("{fault} at {place} after round {before}")
        })?;
        if watch.seen().is_finished() {
            break;
        }
    }
    let done = watch.seen().committed;
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    drop(watch);
    federation.stop()?;

    say(&format!("the undisturbed run, {done} rounds"));
    let shape = Shape { rounds: done.max(1), ..shape };
    let calm = undisturbed(&work.join("undisturbed"), &shape).await?;
    let models = evidence.models();
    let count = models.len().min(done as usize);
    let identical = models[..count] == calm.evidence.models()[..count];
    let slowest = quantile(&tally.resume_s, 1.0);
    outcome.set("sites", tally.sites);
    outcome.set("resumed", tally.resumed);
    outcome.set("resume_max_s", rounded(slowest, 2));
    outcome.set("resume_p50_s", rounded(quantile(&tally.resume_s, 0.5), 2));
    outcome.set("stopped_at", tally.stopped.into_iter().collect::<Vec<_>>());
    outcome.set("not_reached", tally.missed.into_iter().collect::<Vec<_>>());
    outcome.set("rounds", done);
    outcome.set("identical", identical);
    outcome.require(identical, || {
        "the models are other ones than those of the undisturbed run".into()
    });
    outcome.require(findings == Default::default(), || format!("{findings:?}"));
    outcome.require(tally.resumed == tally.sites, || {
        format!("{} of {} did not go on in time", tally.sites - tally.resumed, tally.sites)
    });
    outcome.require(slowest <= RESUME_S_MAX, || format!("it took {slowest:.1} s to go on"));
    Ok(())
}

/// Has the disk be bad at one place for a while, and waits until the run goes on.
async fn one(
    case: &Case,
    federation: &mut Federation,
    watch: &mut Watch,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let Case { site, place, fault } = case;
    reached(*site, federation)?;
    arm(*site, federation, &format!("{place} {fault}"))?;
    let begin = Instant::now();
    while !reached(*site, federation)?.contains(place) {
        if begin.elapsed() > PLACE_MAX || watch.seen().is_finished() {
            tally.missed.insert(place.clone());
            return arm(*site, federation, "");
        }
        revive(case, federation, tally)?;
        tokio::time::sleep(LOOK).await;
    }
    let held = Instant::now();
    while held.elapsed() < HELD {
        revive(case, federation, tally)?;
        tokio::time::sleep(LOOK).await;
    }
    arm(*site, federation, "")?;
    let (well, committed) = (Instant::now(), watch.seen().committed);
    reached(*site, federation)?;
    tally.sites += 1;
    // Passing the same place again, or a round being committed, shows that the work goes on.
    loop {
        revive(case, federation, tally)?;
        let seen = watch.seen();
        if reached(*site, federation)?.contains(place) || seen.committed > committed {
            break;
        }
        anyhow::ensure!(well.elapsed() < STUCK, "nothing goes on");
        tokio::time::sleep(LOOK).await;
    }
    let resumed = well.elapsed().as_secs_f64();
    tally.resume_s.push(resumed);
    tally.resumed += u32::from(resumed <= RESUME_S_MAX);
    if resumed > 2.0 {
        say(&format!("{fault} at {place}: {resumed:.1} s until it went on"));
    }
    // The round in hand is to end before the next disk turns bad.
    while watch.seen().committed <= committed {
        revive(case, federation, tally)?;
        anyhow::ensure!(well.elapsed() < STUCK, "no round is committed");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn reached(site: Option<usize>, federation: &mut Federation) -> anyhow::Result<Vec<String>> {
    match site {
        None => federation.points.reached(),
        Some(site) => federation.sites[site].points.reached(),
    }
}

fn arm(site: Option<usize>, federation: &Federation, rule: &str) -> anyhow::Result<()> {
    match site {
        None => federation.points.arm(rule),
        Some(site) => federation.sites[site].points.arm(rule),
    }
}

/// Starts what has stopped, as a service manager does.
fn revive(case: &Case, federation: &mut Federation, tally: &mut Tally) -> anyhow::Result<()> {
    if federation.lab.coordinator()?.ended()?.is_some() {
        tally.stopped.insert(case.place.clone());
        federation.lab.launch_coordinator()?;
    }
    for site in 0..federation.sites.len() {
        let agent = federation.sites[site].agent.as_mut().context("an agent")?;
        if agent.ended()?.is_some() {
            tally.stopped.insert(case.place.clone());
            federation.start_agent(site)?;
        }
    }
    Ok(())
}
