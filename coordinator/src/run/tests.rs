//! Which round is next, and random histories of runs and of the rounds in them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fedpaint_proto::plan::LatePolicy;

use super::*;
use crate::round::{Member, Report, Withdrawal};
use crate::testing::{Dice, START, blob, plan};

fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

fn update(text: &str) -> Update {
    Update { weights: blob(text), examples: 10, report: Report::default() }
}

fn run(rounds: u32) -> Run {
    Run::create("brain".parse().unwrap(), plan(rounds, 1), blob("base"), START)
}

fn later(now: Timestamp, seconds: u64) -> Timestamp {
    now.checked_add(Duration::from_secs(seconds)).unwrap()
}

/// One site carries the round in hand to its end.
fn commit(run: &mut Run, model: &str, now: Timestamp) {
    run.apply(Event::Joined(site("a")), now).unwrap();
    run.apply(Event::Closed, now).unwrap();
    run.apply(Event::Reported(site("a"), update(model)), now).unwrap();
    assert!(matches!(run.duty(), Duty::Aggregate(_)));
    run.apply(Event::Aggregated(Aggregate::of(blob(model)).into()), now).unwrap();
}

fn fail(run: &mut Run) {
    let Duty::WaitUntil(time) = run.duty() else { panic!("{:?}", run.duty()) };
    run.tick(time);
}

#[test]
fn a_run_trains_every_round_from_the_model_of_the_last_and_finishes() {
    let mut run = run(2);
    assert_eq!(run.round().base(), blob("base"));
    commit(&mut run, "m1", START);
    assert_eq!(run.duty(), Duty::OpenRound);
    run.open_round(START);
    assert_eq!(run.round().id().to_string(), "brain/2.1");
    assert_eq!(run.round().base(), blob("m1"));
    commit(&mut run, "m2", START);
    assert_eq!((run.state(), run.model(), run.committed()), (&State::Finished, blob("m2"), 2));
    assert_eq!(run.duty(), Duty::Nothing);
    assert_eq!(run.pause(START), Err(RunOver));
    assert_eq!(run.stop(START), Err(RunOver));
}

#[test]
fn an_abandoned_round_is_tried_again_under_its_number_and_from_its_base() {
    let mut run = run(2);
    fail(&mut run);
    run.open_round(later(START, 100));
    assert_eq!(run.round().id().to_string(), "brain/1.2");
    assert_eq!(run.round().base(), blob("base"));
}

#[test]
fn a_run_pauses_after_too_many_failures_in_a_row_and_says_why() {
    let mut run = run(2);
    for _ in 0..2 {
        fail(&mut run);
        run.open_round(run.round().closed_at().unwrap());
    }
    let now = run.round().opened_at();
    commit(&mut run, "m1", now);
    assert_eq!(run.failures(), 0, "a success clears the count");
    for attempt in 1..=3 {
        run.open_round(START);
        assert_eq!(run.round().id().attempt, attempt);
        fail(&mut run);
    }
    let State::Paused { reason } = run.state() else { panic!("{:?}", run.state()) };
    assert_eq!(
        reason.to_string(),
        "3 attempts in a row were abandoned, the last because of too few sites: 0 joined, the plan \
         needs 1"
    );
    assert_eq!(run.duty(), Duty::Nothing);
    run.resume().unwrap();
    run.open_round(START);
    assert_eq!(run.round().id().to_string(), "brain/2.4");
}

#[test]
fn a_pause_gives_the_round_up_and_is_no_failure() {
    let mut run = run(1);
    run.pause(START).unwrap();
    run.pause(START).unwrap();
    assert!(matches!(run.round().phase(), Phase::Abandoned { .. }));
    assert_eq!(run.failures(), 0);
    run.open_round(START);
    assert_eq!(run.round().id().attempt, 1, "a paused run opens nothing");
    run.resume().unwrap();
    run.open_round(START);
    assert_eq!(run.round().id().attempt, 2);
}

#[test]
fn a_stopped_run_is_over_for_good() {
    let mut run = run(1);
    run.stop(START).unwrap();
    run.stop(START).unwrap();
    assert_eq!((run.resume(), run.duty()), (Err(RunOver), Duty::Nothing));
}

#[test]
fn a_site_is_never_called_away_from_a_round_it_is_in() {
    let (mut first, mut second) = (run(1), run(1));
    let joined = |run: &mut Run| run.apply(Event::Joined(site("a")), START).unwrap();
    let told =
        |first: &Run, second: &Run| directive([first, second].into_iter(), &site("a"), |_| false);
    assert!(matches!(told(&first, &second), Directive::Join { .. }));
    joined(&mut second);
    assert_eq!(told(&first, &second), Directive::Rest, "it waits for the second run");
    second.apply(Event::Closed, START).unwrap();
    assert!(matches!(told(&first, &second), Directive::Train { .. }), "though the first selects");
    joined(&mut first);
    first.apply(Event::Closed, START).unwrap();
    let Directive::Train { until, .. } = told(&first, &second) else { panic!() };
    assert_eq!(until, later(START, 1000));
    second.pause(START).unwrap();
    assert!(matches!(told(&first, &second), Directive::Train { .. }));
}

#[test]
fn a_round_that_a_site_declines_is_not_offered_to_it_and_another_runs_is() {
    let (first, second) = (
        run(1),
        Run::create("other".parse().unwrap(), run(1).plan().clone(), run(1).initial(), START),
    );
    let told = |declines: &dyn Fn(&RoundId) -> bool| match directive(
        [&first, &second].into_iter(),
        &site("a"),
        declines,
    ) {
        Directive::Join { round, .. } => Some(round),
        _ => None,
    };
    assert_eq!(told(&|_| false).as_ref(), Some(first.round().id()));
    assert_eq!(told(&|round| round == first.round().id()).as_ref(), Some(second.round().id()));
    assert_eq!(told(&|_| true), None);
}

fn rank(phase: &Phase) -> u8 {
    match phase {
        Phase::Selecting { .. } => 0,
        Phase::Reporting { .. } => 1,
        Phase::Aggregating => 2,
        Phase::Committed { .. } | Phase::Abandoned { .. } => 3,
    }
}

/// What holds of a round in every history.
fn assert_round(before: &Round, after: &Round, sites_min: usize, now: Timestamp) {
    assert!(rank(after.phase()) >= rank(before.phase()), "phases never run back");
    if before.is_over() {
        assert_eq!(after, before, "a round that is over never changes");
    }
    if let round::Duty::WaitUntil(until) = after.duty() {
        assert!(until > now, "no deadline is left behind");
    }
    if let round::Duty::Aggregate(reports) = after.duty() {
        assert!(reports.len() >= sites_min, "never an average of too few");
    }
    if rank(before.phase()) >= 2 {
        assert_eq!(after.members(), before.members(), "nothing joins what is being averaged");
    }
    for (name, member) in after.members() {
        if let (Some(Member::Reported(held)), Member::Reported(update)) =
            (before.members().get(name), member)
        {
            assert_eq!(update, held, "an accepted update never changes");
        }
        if let round::Directive::Train { .. } = after.directive(name) {
            assert_eq!(member, &Member::Joined, "only who has not settled trains");
        }
        if rank(after.phase()) == 0 {
            assert_eq!(member, &Member::Joined, "nobody reports during selection");
        }
    }
    assert_eq!(after.is_over(), after.closed_at().is_some(), "what is over has a time of its end");
}

fn random_event(dice: &mut Dice) -> Event {
    let name = site(["a", "b", "c", "d"][dice.roll(4) as usize]);
    let weights = ["u", "v"][dice.roll(2) as usize];
    match dice.roll(50) {
        0..=17 => Event::Joined(name),
        18..=33 => Event::Reported(name, update(weights)),
        34 => Event::Withdrew(name, Withdrawal::TrainerDied),
        35..=38 => Event::Aggregated(Aggregate::of(blob(weights)).into()),
        39 => Event::Closed,
        40 => Event::Revoked(name),
        44..=49 => Event::Arriving(name),
        41 if dice.roll(2) == 0 => Event::Abandoned("by hand".to_owned()),
        42 => Event::NoAverage("disk".to_owned()),
        _ => Event::AggregationFailed("disk".to_owned()),
    }
}

/// What an operator and time do to a run between two events.
fn random_step(run: &mut Run, dice: &mut Dice, now: Timestamp) {
    match dice.roll(200) {
        0 => run.pause(now).unwrap(),
        // A paused run is resumed sooner or later.
        1..=20 => run.resume().unwrap(),
        _ => {}
    }
    run.open_round(now);
}

#[test]
fn a_random_history_of_10_000_events_never_breaks_the_rounds_invariants() {
    let mut ends = BTreeMap::new();
    for seed in 0..40 {
        // The seed is told if an assertion fails.
        let told = std::panic::catch_unwind(|| random_history(seed));
        let Ok(counts) = told else { panic!("the history of seed {seed} breaks an invariant") };
        for (end, count) in counts {
            *ends.entry(end).or_insert(0) += count;
        }
    }
    println!("rounds by their end: {ends:?}");
    for end in [
        "committed",
        "too few sites",
        "too few reports",
        "aggregation failed",
        "no average in time",
        "operator",
    ] {
        assert!(ends.get(end).is_some_and(|count| *count >= 50), "{end}: {ends:?}");
    }
}

/// Plays 10,000 events on one run of many rounds; counts how rounds ended.
fn random_history(seed: u64) -> BTreeMap<&'static str, u32> {
    let mut dice = Dice(seed);
    let mut now = START;
    let sites_min = 2;
    let mut plan = plan(100_000, sites_min);
    if seed % 2 == 1 {
        plan.round.late = LatePolicy::Fold;
    }
    let mut run = Run::create("brain".parse().unwrap(), plan, blob("base"), now);
    let mut ends = BTreeMap::new();
    let mut counted = BTreeSet::new();
    let mut watch = |before: &Run, after: &Run, now| {
        assert_eq!(after.round().id(), before.round().id(), "only opening opens a round");
        assert_round(before.round(), after.round(), sites_min as usize, now);
        assert_run(before, after);
        assert_late(before, after, &mut counted);
        if !before.round().is_over() && after.round().is_over() {
            *ends.entry(end(after.round())).or_insert(0) += 1;
        }
    };
    for _ in 0..10_000 {
        now = later(now, if dice.roll(10) == 0 { dice.roll(400) } else { dice.roll(8) });
        let before = run.clone();
        run.tick(now);
        watch(&before, &run, now);
        random_step(&mut run, &mut dice, now);
        let before = run.clone();
        let event = random_event(&mut dice);
        // Now and then it is about a round that somebody may be late for.
        let late = run.stragglers().map(|(_, s)| s.round.clone()).nth(dice.roll(3) as usize);
        let outcome = match late {
            Some(id) => run.apply_to(&id, event, now),
            None => run.apply(event, now),
        };
        watch(&before, &run, now);
        if outcome.is_err() {
            assert_eq!(run, before, "a refused event changes nothing");
        }
    }
    // Time, and the average that is owed, end every round.
    for _ in 0..3 {
        match run.duty() {
            Duty::WaitUntil(time) => run.tick(time),
            Duty::Aggregate(_) => {
                run.apply(Event::Aggregated(Aggregate::of(blob("m")).into()), now).unwrap();
            }
            Duty::OpenRound | Duty::Nothing => break,
        }
    }
    assert!(run.round().is_over(), "every round ends");
    ends
}

/// What holds of late updates in every history; `counted` are those that have counted.
fn assert_late(before: &Run, after: &Run, counted: &mut BTreeSet<(RoundId, SiteName)>) {
    let plan = &after.plan().round;
    let number = after.round().id().number;
    for (site, straggler) in after.stragglers() {
        let held = before.straggler(&straggler.round, site).map(|held| &held.late);
        if let (Some(held), Some(now)) = (held.and_then(Late::update), straggler.late.update()) {
            assert_eq!(held, now, "an accepted update never changes");
        }
        let sealed = after.round().late().get(site).filter(|late| late.round == straggler.round);
        let counts = matches!(straggler.late, Late::Sealed(_) | Late::Folded(_));
        assert_eq!(sealed.is_some(), counts, "what is sealed is in the round, and nothing else");
        if straggler.late == Late::Training {
            let awaited = after.awaits(&straggler.round, site, after.round().opened_at());
            assert!(awaited.is_ok(), "who trains late may report");
        }
    }
    for (site, held) in before.stragglers().filter(|(_, held)| !held.late.is_settled()) {
        let still = after.straggler(&held.round, site).is_some();
        assert!(still, "no straggler is forgotten before it is settled");
    }
    for (site, late) in after.round().late() {
        assert!(late.staleness(number) >= 1 && late.staleness(number) <= plan.late_rounds_max);
        let committed = matches!(after.round().phase(), Phase::Committed(_));
        if committed && !before.round().is_over() {
            assert!(counted.insert((late.round.clone(), site.clone())), "each counts once");
        }
    }
}

/// What holds of a run in every history.
fn assert_run(before: &Run, after: &Run) {
    assert!(after.committed() >= before.committed(), "what is committed stays");
    if let Phase::Committed(made) = after.round().phase() {
        assert_eq!((after.newest(), after.committed()), (*made, after.round().id().number));
    } else {
        assert_eq!(after.round().base(), after.model(), "a round trains from the newest model");
        assert_eq!(after.committed() + 1, after.round().id().number);
    }
    assert!(after.failures() <= after.plan().round.failures_max);
    let live = !after.round().is_over();
    assert!(!live || *after.state() == State::Active, "only an active run has a live round");
}

fn end(round: &Round) -> &'static str {
    match round.phase() {
        Phase::Abandoned { reason } => match reason {
            Abandonment::TooFewSites { .. } => "too few sites",
            Abandonment::TooFewReports { .. } => "too few reports",
            Abandonment::AggregationFailed { .. } => "aggregation failed",
            Abandonment::NoAverageInTime { .. } => "no average in time",
            Abandonment::ByOperator { .. } => "operator",
        },
        _ => "committed",
    }
}
