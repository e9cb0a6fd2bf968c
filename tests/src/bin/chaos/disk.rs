//! `disk`: disks that are full, broken or read-only for a while at every place that uses one, and file systems that
//! are really full.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fedpaint_proto::names::Digest;

use crate::bad_disk::{Stretch, stretch};
use crate::federation::{Shape, undisturbed};
use crate::flips;
use crate::full_disk;
use crate::lanes::{side_by_side, spread};
use crate::once::once;
use crate::probe::{self, Tried};
use crate::scenario::{ENROLMENT, Moment, Scenario, lanes};
use crate::tally::Tally;
use crate::{Args, say};
use fedpaint_tests::outcome::Outcome;

/// How long a disk stays bad.
pub(crate) const HELD: Duration = Duration::from_millis(1_500);

/// How long after the disk is well the run may take to commit a round before it counts as stuck.
pub(crate) const STUCK: Duration = Duration::from_secs(60);

/// How often is looked.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// How many sites rehearse.
const SITES_REHEARSING: usize = 2;

/// Rounds in which is seen which places are passed in every one.
const ROUNDS_PROBED: u32 = 3;

/// How many cases follow one another in one federation.
const CASES_PER_FEDERATION: usize = 24;

/// What a disk says, as a rule says it.
const FAULTS: [&str; 3] = ["enospc", "eio", "erofs"];

/// Runs the mode.
///
/// # Errors
/// If a program does not start, or an undisturbed run fails.
pub(crate) async fn disk(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    outcome.set("seed", args.seed);
    let hold = Duration::from_secs(args.hold_s);
    let rounds = args.rounds.unwrap_or(full_disk::ROUNDS);
    let shape = rehearsed(Shape { rounds, ..Shape::default() }, args);
    // A full disk is waited for, most of the time.
    let (bad, full) = tokio::join!(places(args, work), full_disk::full_disk(work, hold, &shape));
    outcome.add(bad?);
    outcome.add(full?);
    if args.count != Some(0) {
        flips::turned(args, work, &mut outcome).await?;
    }
    Ok(outcome)
}

/// The shape of a federation that rehearses for longer than it takes to see where it is.
fn rehearsed(shape: Shape, args: &Args) -> Shape {
    let sites = args.sites.unwrap_or(SITES_REHEARSING);
    Shape { sites, steps: 8, steps_ms: 20, parameters: 1 << 16, ..shape }
}

/// One place of one program whose disk is bad for a while.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Which of the scenarios.
    scenario: usize,
    /// The site, or the coordinator.
    pub(crate) site: Option<usize>,
    pub(crate) moment: Moment,
    pub(crate) place: String,
    /// What its disk says there.
    pub(crate) fault: &'static str,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = self.site.map_or("coordinator", |_| "site");
        write!(f, "{} at {} of the {program}", self.fault, self.place)
    }
}

/// What all cases stand on.
struct Ground {
    work: PathBuf,
    tried: Vec<Tried>,
    /// Rounds of a federation that has one bad disk alone.
    rounds: u32,
}

/// Cases that are tried together.
enum Job {
    /// One after the other in one federation, which goes on from round to round.
    Stretch { number: usize, scenario: usize, cases: Vec<Case> },
    /// In a federation of its own.
    Once(Case),
}

/// What they came to.
enum Done {
    Stretch { scenario: usize, result: anyhow::Result<Stretch> },
    Once { case: Case, tally: Tally, result: anyhow::Result<()> },
}

/// Has the disk be bad at every place, by itself.
async fn places(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let mut shapes = Scenario::shapes(args, work)?;
    for (scenario, shape) in &mut shapes {
        if matches!(scenario, Scenario::Rehearsed(_)) {
            *shape = rehearsed(shape.clone(), args);
        }
        if !scenario.waits() {
            shape.rounds = args.rounds.unwrap_or(ROUNDS_PROBED);
        }
    }
    say("what is passed where no disk is bad");
    let tried = probe::all(work, shapes).await?;
    let cases = spread(cases(&tried), args.cases, args.seed);
    say(&format!("{} cases of a bad disk", cases.len()));
    // One round passes what is passed once.
    let rounds = args.rounds.unwrap_or(1);
    let ground = Arc::new(Ground { work: work.to_owned(), tried, rounds });
    let (mut tally, mut stretches) = (Tally::default(), Vec::new());
    let mut broken = Vec::new();
    for waits in [false, true] {
        let mut jobs = jobs(cases.iter().filter(|case| ground.waits(case) == waits));
        while !jobs.is_empty() {
            let mut elsewhere = Vec::new();
            let told = |done: Done| match done {
                Done::Once { case, tally: one, result } => {
                    one.tell();
                    tally.add(one);
                    broken.extend(result.err().map(|error| format!("{case}: {error:#}")));
                }
                Done::Stretch { scenario, result: Ok(mut stretch) } => {
                    stretch.tally.tell();
                    tally.add(std::mem::take(&mut stretch.tally));
                    broken.append(&mut stretch.broken);
                    elsewhere.append(&mut stretch.elsewhere);
                    stretches.push((scenario, stretch));
                }
                Done::Stretch { result: Err(error), .. } => broken.push(format!("{error:#}")),
            };
            let shared = Arc::clone(&ground);
            let one = async move |job: Job| shared.try_one(job).await;
            side_by_side(jobs, lanes(waits), one, told).await?;
            jobs = elsewhere.into_iter().map(Job::Once).collect();
        }
    }
    say("the undisturbed runs");
    let identical = ground.is_identical(&stretches, &mut broken).await?;
    let mut outcome = Outcome::default();
    outcome.set("identical", identical);
    outcome.set("rounds", stretches.iter().map(|(_, stretch)| stretch.rounds).sum::<u32>());
    outcome.require(identical, || {
        "the models are other ones than those of the undisturbed run".into()
    });
    outcome.broken.append(&mut broken);
    outcome.broken.extend(probe::unlisted(&ground.tried, args.encoding.is_none()));
    tally.outcome(&mut outcome);
    Ok(outcome)
}

impl Ground {
    fn waits(&self, case: &Case) -> bool {
        self.tried[case.scenario].scenario.waits()
    }

    async fn try_one(&self, job: Job) -> Done {
        match job {
            Job::Stretch { number, scenario, cases } => {
                let Tried { scenario: kind, shape, .. } = &self.tried[scenario];
                let folder = self.work.join(format!("bad-disk-{kind}-{number}"));
                let result = stretch(&folder, shape, cases).await;
                let result = result.with_context(|| format!("bad disks, {kind}"));
                Done::Stretch { scenario, result }
            }
            Job::Once(case) => {
                let Tried { scenario: kind, shape, probe } = &self.tried[case.scenario];
                let Case { site, moment, place, fault, .. } = &case;
                let program = site.map_or("coordinator", |_| "site");
                let folder = format!("once-{kind}-{program}-{moment}-{place}-{fault}");
                // Of a run's models the first ones are the same, however many follow.
                let rounds = if kind.waits() { shape.rounds } else { self.rounds };
                let shape = Shape { rounds, ..shape.clone() };
                let expected = &probe.models[..probe.models.len().min(rounds as usize)];
                let mut tally = Tally::default();
                let result =
                    once(&case, &self.work.join(folder), &shape, expected, &mut tally).await;
                Done::Once { case, tally, result }
            }
        }
    }

    /// Whether every stretch has made the models of a run that nobody disturbed.
    async fn is_identical(
        &self,
        stretches: &[(usize, Stretch)],
        broken: &mut Vec<String>,
    ) -> anyhow::Result<bool> {
        let scenarios: BTreeSet<usize> = stretches.iter().map(|(scenario, _)| *scenario).collect();
        let mut runs = Vec::new();
        for scenario in scenarios {
            let of = stretches.iter().filter(|(of, _)| *of == scenario);
            let rounds = of.map(|(_, stretch)| stretch.rounds).max().unwrap_or_default().max(1);
            let Tried { scenario: kind, shape, .. } = &self.tried[scenario];
            let folder = self.work.join(format!("calm-{kind}"));
            runs.push((scenario, folder, Shape { rounds, leftovers: None, ..shape.clone() }));
        }
        let calm = async |(scenario, folder, shape): (usize, PathBuf, Shape)| {
            let run = undisturbed(&folder, &shape).await;
            (scenario, run.map(|run| run.evidence.models()))
        };
        let mut identical = true;
        let told = |(scenario, models): (usize, anyhow::Result<Vec<Digest>>)| match models {
            Ok(models) => {
                let mut of = stretches.iter().filter(|(of, _)| *of == scenario);
                identical &= of.all(|(_, stretch)| models.starts_with(&stretch.models));
            }
            Err(error) => broken.push(format!("{error:#}")),
        };
        side_by_side(runs, lanes(false), calm, told).await?;
        Ok(identical)
    }
}

/// A full, a broken or a read-only disk at every place, and a full one at each.
fn cases(tried: &[Tried]) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut known: [BTreeSet<String>; 2] = Default::default();
    for (scenario, Tried { scenario: kind, probe, .. }) in tried.iter().enumerate() {
        for (i, site) in [None, Some(0)].into_iter().enumerate() {
            let passed = if site.is_none() { &probe.coordinator } else { &probe.site };
            let moment = |place: &String| match passed.again.contains(place) && !kind.waits() {
                true => Moment::Round,
                false => Moment::Start,
            };
            let places: Vec<(Moment, String)> =
                passed.names().into_iter().map(|place| (moment(&place), place)).collect();
            let early = |place: &String| match place == ENROLMENT {
                true => Some(Moment::Enrolment),
                false => probe.first.contains(place).then_some(Moment::FirstStart),
            };
            let first = probe.first.iter().chain(&probe.founding).collect::<BTreeSet<_>>();
            let first = first.into_iter().filter(|_| scenario == 0 && site.is_none());
            let first = first.filter_map(|place| Some((early(place)?, place.clone())));
            for (moment, place) in places.into_iter().chain(first) {
                if known[i].insert(place.clone()) {
                    let fault = FAULTS[cases.len() % FAULTS.len()];
                    cases.push(Case { scenario, site, moment, place, fault });
                }
            }
        }
    }
    // A full disk is what happens most, so every place sees one.
    let full = cases.iter().filter(|case| case.fault != FAULTS[0]);
    let full: Vec<Case> = full.map(|case| Case { fault: FAULTS[0], ..case.clone() }).collect();
    cases.extend(full);
    cases
}

/// Cases put together to what is tried together.
fn jobs<'a>(cases: impl Iterator<Item = &'a Case>) -> Vec<Job> {
    let (rounds, once): (Vec<&Case>, Vec<&Case>) =
        cases.partition(|case| case.moment == Moment::Round);
    let mut jobs = Vec::new();
    let scenarios: BTreeSet<usize> = rounds.iter().map(|case| case.scenario).collect();
    for scenario in scenarios {
        let of = rounds.iter().filter(|case| case.scenario == scenario);
        let of: Vec<Case> = of.map(|case| (*case).clone()).collect();
        for (number, some) in of.chunks(CASES_PER_FEDERATION).enumerate() {
            jobs.push(Job::Stretch { number, scenario, cases: some.to_vec() });
        }
    }
    jobs.extend(once.into_iter().cloned().map(Job::Once));
    jobs
}
