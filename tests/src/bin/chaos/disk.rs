//! `disk`: disks that are full, broken or read-only for a while at every place that uses one, and one
//! that is really full.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::federation::{Federation, Shape, undisturbed};
use crate::flips;
use crate::full_disk;
use crate::once;
use crate::watch::Watch;
use crate::{Args, say};
use fedpaint_tests::outcome::{Outcome, quantile, rounded};

/// How soon the work must go on once the disk is well again.
const RESUME_S_MAX: f64 = 10.0;

/// How long a disk stays bad.
pub(crate) const HELD: Duration = Duration::from_millis(1_500);

/// How long a place may take to be reached; then it is one that is passed once. The lease is renewed more
/// often than that.
const PLACE_MAX: Duration = Duration::from_secs(7);

/// More rounds than a case can take, so that the run does not end before the cases.
const ROUNDS_PER_CASE: u32 = 50;

/// How long after the disk is well the run may take to commit a round before it counts as stuck.
pub(crate) const STUCK: Duration = Duration::from_secs(60);

/// How often is looked.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// What a disk says, as a rule says it.
const FAULTS: [&str; 3] = ["enospc", "eio", "erofs"];

/// Runs the mode.
///
/// # Errors
/// If a program does not start, or a run gets stuck.
pub(crate) async fn disk(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    anyhow::ensure!(
        args.rounds.is_none(),
        "`disk` makes as many rounds as its cases take; use --cases in place of --rounds"
    );
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
    flips::turned(args, work, &mut outcome).await?;
    Ok(outcome)
}

/// One place of one program whose disk is bad for a while.
pub(crate) struct Case {
    /// The site, or the coordinator.
    pub(crate) site: Option<usize>,
    /// The place.
    pub(crate) place: String,
    /// What its disk says there.
    pub(crate) fault: &'static str,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.fault, self.place)
    }
}

/// How the cases went.
#[derive(Default)]
pub(crate) struct Tally {
    sites: u32,
    resumed: u32,
    /// Programs that stopped rather than trust what they could not write.
    stopped: BTreeSet<String>,
    missed: BTreeSet<String>,
    resume_s: Vec<f64>,
}

impl Tally {
    /// Notes whether a program had stopped and was started again.
    pub(crate) fn look(&mut self, case: &Case, stopped: bool) {
        if stopped {
            self.stopped.insert(case.place.clone());
        }
    }

    /// Notes how soon the work went on.
    fn went_on(&mut self, case: &Case, took: Duration) {
        let took = took.as_secs_f64();
        self.sites += 1;
        self.resume_s.push(took);
        self.resumed += u32::from(took <= RESUME_S_MAX);
        if took > 2.0 {
            say(&format!("{case}: {took:.1} s until it went on"));
        }
    }
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
    cases.truncate(args.cases.unwrap_or(usize::MAX));
    let expected = probe.evidence.models();
    let one_round = shape;
    let shape = Shape { rounds: ROUNDS_PER_CASE * (cases.len() as u32 + 1), ..shape.clone() };
    say(&format!("{} cases of a bad disk", cases.len()));

    let mut federation = Federation::found(&work.join("bad-disk"), &shape).await?;
    federation.start_agents()?;
    let mut watch = federation.watch().await?;
    let mut tally = Tally::default();
    let mut elsewhere = Vec::new();
    for case in &cases {
        let before = watch.seen().committed;
        let again = one(case, &mut federation, &mut watch, &mut tally).await;
        if !again.with_context(|| format!("{case} after round {before}"))? {
            elsewhere.push(case);
        }
    }
    let done = watch.seen().committed;
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    drop(watch);
    federation.stop()?;

    say(&format!("{} places that are passed once", elsewhere.len()));
    for case in elsewhere {
        let folder = work.join(once::folder_name(case));
        let took = once::once(case, &folder, one_round, &expected, &mut tally).await;
        match took.with_context(|| case.to_string())? {
            Some(took) => tally.went_on(case, took),
            None => drop(tally.missed.insert(case.place.clone())),
        }
    }

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
    let unasked: Vec<String> =
        tally.stopped.iter().filter(|place| !is_of_a_sync(place)).cloned().collect();
    outcome.set("stopped_at", tally.stopped.into_iter().collect::<Vec<_>>());
    let not_reached: Vec<String> = tally.missed.into_iter().collect();
    outcome.set("not_reached", not_reached.clone());
    outcome.set("rounds", done);
    outcome.set("identical", identical);
    outcome.require(identical, || {
        "the models are other ones than those of the undisturbed run".into()
    });
    outcome.require(findings == Default::default(), || format!("{findings:?}"));
    outcome.require(unasked.is_empty(), || {
        format!("a program stopped where no sync failed, at {unasked:?}")
    });
    outcome.require(not_reached.is_empty(), || format!("no disk was bad at {not_reached:?}"));
    outcome.require(tally.resumed == tally.sites, || {
        format!("{} of {} did not go on in time", tally.sites - tally.resumed, tally.sites)
    });
    outcome.require(slowest <= RESUME_S_MAX, || format!("it took {slowest:.1} s to go on"));
    Ok(())
}

/// Whether a program may stop at a place: only where it does not know any more what the disk holds.
fn is_of_a_sync(place: &str) -> bool {
    place.ends_with("sync") || place.ends_with("folder")
}

/// Has the disk be bad at one place for a while, and waits until the run goes on. Whether the place was
/// reached at all.
async fn one(
    case: &Case,
    federation: &mut Federation,
    watch: &mut Watch,
    tally: &mut Tally,
) -> anyhow::Result<bool> {
    let Case { site, place, fault } = case;
    reached(*site, federation)?;
    arm(*site, federation, &format!("{place} {fault}"))?;
    let begin = Instant::now();
    while !reached(*site, federation)?.contains(place) {
        if begin.elapsed() > PLACE_MAX {
            arm(*site, federation, "")?;
            return Ok(false);
        }
        tally.look(case, federation.revive()?);
        tokio::time::sleep(LOOK).await;
    }
    let held = Instant::now();
    while held.elapsed() < HELD {
        tally.look(case, federation.revive()?);
        tokio::time::sleep(LOOK).await;
    }
    arm(*site, federation, "")?;
    let (well, committed) = (Instant::now(), watch.seen().committed);
    reached(*site, federation)?;
    // Passing the same place again, or a round being committed, shows that the work goes on.
    loop {
        tally.look(case, federation.revive()?);
        let seen = watch.seen();
        if reached(*site, federation)?.contains(place) || seen.committed > committed {
            break;
        }
        anyhow::ensure!(well.elapsed() < STUCK, "nothing goes on");
        tokio::time::sleep(LOOK).await;
    }
    tally.went_on(case, well.elapsed());
    // The round in hand is to end before the next disk turns bad.
    while watch.seen().committed <= committed {
        tally.look(case, federation.revive()?);
        anyhow::ensure!(well.elapsed() < STUCK, "no round is committed");
        tokio::time::sleep(LOOK).await;
    }
    Ok(true)
}

/// The places that the program has reached since this was last asked.
pub(crate) fn reached(
    site: Option<usize>,
    federation: &mut Federation,
) -> anyhow::Result<Vec<String>> {
    match site {
        None => federation.points.reached(),
        Some(site) => federation.sites[site].points.reached(),
    }
}

/// Has the program obey the rule from the next place on.
pub(crate) fn arm(site: Option<usize>, federation: &Federation, rule: &str) -> anyhow::Result<()> {
    match site {
        None => federation.points.arm(rule),
        Some(site) => federation.sites[site].points.arm(rule),
    }
}
