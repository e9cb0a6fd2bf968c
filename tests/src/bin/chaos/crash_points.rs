//! `crash-points`: a crash at every single place that a federation passes, one after the other: a place is tried in
//! the first of the scenarios that pass it, each time that it is passed there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::crash::{Crash, Program, crash};
use crate::lanes::{side_by_side, spread};
use crate::probe::{self, Passed, Tried, times};
use crate::scenario::{ENROLMENT, Moment, Scenario, lanes};
use crate::{Args, say};
use fedpaint_tests::outcome::{Outcome, rounded};

/// The turn at which a place is passed at all.
const FIRST_TURN: u32 = 1;

/// How many times in a row a place may be passed less often than is tried until it is not tried any more.
const BEYOND_MAX: u32 = 2;

/// A place that one program passes at one moment of one scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    /// Which of the scenarios.
    scenario: usize,
    program: Program,
    moment: Moment,
    place: String,
    /// How often it is passed where nobody disturbs it. It may be more often then.
    passed: u32,
}

/// One crash: a target by its number, and the time that it is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    target: usize,
    turn: u32,
}

/// Runs the mode.
///
/// # Errors
/// If a program does not start, or even an undisturbed run fails.
pub(crate) async fn crash_points(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    say("what is passed where nobody dies");
    let shapes = Scenario::shapes(args, work)?;
    let tried = probe::all(work, shapes).await?;
    let targets = targets(&tried);
    let mut tally = Tally::default();
    for Tried { scenario, probe, .. } in &tried {
        let (coordinator, site) = (probe.coordinator.all.len(), probe.site.all.len());
        say(&format!("{scenario}: {coordinator} places of the coordinator, {site} of the site"));
        tally.by_scenario.insert(scenario.to_string(), 0);
    }
    let ground = Arc::new(Ground { work: work.to_owned(), tried, targets });
    let numbered = ground.targets.iter().enumerate();
    let all = numbered
        .flat_map(|(target, of)| (FIRST_TURN..=of.passed).map(move |turn| Case { target, turn }));
    let count = args.count.map(|count| count as usize);
    let all = spread(all.collect(), count, args.seed);
    say(&format!("{} crashes", all.len()));
    for waits in [false, true] {
        let mut cases = all.clone();
        cases.retain(|case| ground.scenario(*case).waits() == waits);
        while !cases.is_empty() {
            let before = tally.reached.clone();
            Ground::try_all(&ground, cases.clone(), waits, &mut tally).await?;
            cases = match count {
                Some(_) => Vec::new(),
                None => beyond(&cases, &tally.reached, &before),
            };
        }
    }
    let mut outcome = tally.outcome(&ground.tried, start);
    outcome.set("seed", args.seed);
    outcome.broken.extend(probe::unlisted(&ground.tried, args.encoding.is_none()));
    Ok(outcome)
}

/// What all cases stand on.
struct Ground {
    work: PathBuf,
    tried: Vec<Tried>,
    targets: Vec<Target>,
}

impl Ground {
    fn scenario(&self, case: Case) -> &Scenario {
        &self.tried[self.targets[case.target].scenario].scenario
    }

    /// Tries every case, and tells how each went.
    async fn try_all(
        ground: &Arc<Ground>,
        cases: Vec<Case>,
        waits: bool,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        let shared = Arc::clone(ground);
        let one = async move |case: Case| (case, shared.try_one(case).await);
        let told = |(case, result): (Case, anyhow::Result<bool>)| {
            let name = Name { ground, case };
            let scenario = ground.scenario(case).to_string();
            tally.note(case, &name, scenario, result);
        };
        side_by_side(cases, lanes(waits), one, told).await
    }

    /// Whether the program died where the case says, and all went well after it.
    async fn try_one(&self, case: Case) -> anyhow::Result<bool> {
        let Target { scenario, program, moment, place, .. } = &self.targets[case.target];
        let Tried { scenario: kind, shape, probe } = &self.tried[*scenario];
        let folder = format!("{kind}-{program}-{moment}-{place}-{}", case.turn);
        let folder = self.work.join(folder);
        let (program, moment, place) = (*program, *moment, place.clone());
        let struck = Crash { program, moment, place, turn: case.turn };
        let died = crash(&folder, shape, &struck, &probe.models).await?;
        // Kept where something is wrong.
        std::fs::remove_dir_all(&folder)?;
        Ok(died)
    }
}

/// A case in words.
struct Name<'a> {
    ground: &'a Ground,
    case: Case,
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Target { program, moment, place, .. } = &self.ground.targets[self.case.target];
        let (scenario, turn) = (self.ground.scenario(self.case), self.case.turn);
        write!(f, "{scenario}: {program} at {place} {turn}")?;
        match moment {
            Moment::FirstStart | Moment::Enrolment => write!(f, " ({moment})"),
            Moment::Start | Moment::Round => Ok(()),
        }
    }
}

/// How the cases went.
#[derive(Default)]
struct Tally {
    points: u32,
    recovered: u32,
    beyond: u32,
    by_scenario: BTreeMap<String, u32>,
    /// The cases that were reached, by target.
    reached: BTreeMap<usize, u32>,
    broken: Vec<String>,
}

impl Tally {
    fn note(
        &mut self,
        case: Case,
        name: &impl fmt::Display,
        scenario: String,
        result: anyhow::Result<bool>,
    ) {
        match result {
            Ok(false) if case.turn == FIRST_TURN => {
                say(&format!("{name}: not reached"));
                self.broken.push(format!("{name}: not reached, though it is where nobody dies"));
                return;
            }
            Ok(false) => {
                self.beyond += 1;
                return;
            }
            Ok(true) | Err(_) => {}
        }
        self.points += 1;
        *self.by_scenario.entry(scenario).or_default() += 1;
        let last = self.reached.entry(case.target).or_default();
        *last = case.turn.max(*last);
        match result {
            Ok(_) => {
                self.recovered += 1;
                say(&format!("{name}: recovered"));
            }
            Err(error) => {
                say(&format!("{name}: {error:#}"));
                self.broken.push(format!("{name}: {error:#}"));
            }
        }
    }

    fn outcome(self, tried: &[Tried], start: Instant) -> Outcome {
        let Tally { points, recovered, beyond, by_scenario, broken, .. } = self;
        let mut outcome = Outcome::default();
        outcome.set("points", points);
        outcome.set("recovered", recovered);
        // Places are passed a little more or less often each time, but once at least.
        outcome.set("not_reached", beyond);
        outcome.set("points_by_scenario", serde_json::json!(by_scenario));
        for program in Program::ALL {
            let of = tried.iter().flat_map(|tried| passed(tried, program).names_of(program));
            let names: BTreeSet<String> = of.collect();
            outcome.set(&format!("places_{program}"), names.len());
        }
        outcome.set("wall_s", rounded(start.elapsed().as_secs_f64(), 1));
        outcome.broken = broken;
        outcome.require(points > 0, || "no place was reached".into());
        outcome
    }
}

/// Every place, in the first scenario in which a program passes it, with all that the first scenario has of a first
/// start.
fn targets(tried: &[Tried]) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut known: [BTreeSet<String>; Program::ALL.len()] = Default::default();
    for (scenario, of) in tried.iter().enumerate() {
        let probe = &of.probe;
        let mut add = |program, moment, place: String, passed| {
            targets.push(Target { scenario, program, moment, place, passed });
        };
        if scenario == 0 {
            for place in probe.first.iter().cloned().collect::<BTreeSet<_>>() {
                let passed = times(&probe.first, &place);
                add(Program::Coordinator, Moment::FirstStart, place, passed);
            }
            if probe.founding.iter().any(|place| place == ENROLMENT) {
                add(Program::Coordinator, Moment::Enrolment, ENROLMENT.to_owned(), 1);
            }
        }
        for (program, known) in Program::ALL.into_iter().zip(&mut known) {
            let passed = passed(of, program);
            for place in passed.names_of(program) {
                if known.insert(place.clone()) {
                    let times = passed.times(program, &place);
                    add(program, Moment::Round, place, times);
                }
            }
        }
    }
    targets
}

/// Where it was noted what a program passes.
fn passed(tried: &Tried, program: Program) -> &Passed {
    match program {
        Program::Coordinator => &tried.probe.coordinator,
        Program::Agent | Program::Trainer => &tried.probe.site,
    }
}

/// What comes behind the cases that were tried: where the last of a target was reached, the next ones of it.
fn beyond(
    tried: &[Case],
    reached: &BTreeMap<usize, u32>,
    before: &BTreeMap<usize, u32>,
) -> Vec<Case> {
    let mut last: BTreeMap<usize, u32> = BTreeMap::new();
    for Case { target, turn } in tried {
        let turns = last.entry(*target).or_default();
        *turns = (*turns).max(*turn);
    }
    let goes_on = |(target, last): &(usize, u32)| {
        let now = reached.get(target).copied().unwrap_or_default();
        now > before.get(target).copied().unwrap_or_default() && now + BEYOND_MAX > *last
    };
    let ahead = last.into_iter().filter(goes_on);
    ahead
        .flat_map(|(target, last)| {
            (last + 1..=last + BEYOND_MAX).map(move |turn| Case { target, turn })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(target: usize, turn: u32) -> Case {
        Case { target, turn }
    }

    #[test]
    fn a_place_whose_first_turn_is_not_reached_is_broken_and_named_and_a_later_turn_is_counted() {
        let mut tally = Tally::default();
        tally.note(case(0, 2), &"f32: agent at a.b 2", "f32".into(), Ok(false));
        assert_eq!((tally.beyond, tally.broken.len()), (1, 0));
        tally.note(case(0, 1), &"f32: agent at a.b 1", "f32".into(), Ok(false));
        assert_eq!((tally.beyond, tally.points), (1, 0));
        assert!(tally.broken[0].starts_with("f32: agent at a.b 1: not reached"));
        tally.note(case(0, 1), &"f32: agent at a.b 1", "f32".into(), Ok(true));
        assert_eq!((tally.points, tally.recovered, tally.broken.len()), (1, 1, 1));
    }

    #[test]
    fn a_place_is_tried_on_until_it_is_not_reached_twice_in_a_row() {
        let none = BTreeMap::new();
        let tried = [case(0, 1), case(0, 2), case(0, 3), case(1, 1), case(2, 1)];
        // The first one's last two were not reached, the second one's only one was, the third one's was not.
        let reached = BTreeMap::from([(0, 1), (1, 1)]);
        assert_eq!(beyond(&tried, &reached, &none), [case(1, 2), case(1, 3)]);
        // Of two beyond the last the first was reached: they go on.
        let again = BTreeMap::from([(0, 1), (1, 2)]);
        let ahead = beyond(&[case(1, 2), case(1, 3)], &again, &reached);
        assert_eq!(ahead, [case(1, 4), case(1, 5)]);
        // None of them was.
        assert_eq!(beyond(&ahead, &again, &again), []);
    }
}
