//! Late updates, case by case. Random histories with them are in the tests of the run.

use fedpaint_proto::plan::RunPlan;

use super::*;
use crate::aggregate::Aggregate;
use crate::round::Event;
use crate::round::tests::{at, site, update};
use crate::run::{Directive, Duty, State, directive};
use crate::testing::{START, blob, plan};

fn folding(rounds: u32) -> RunPlan {
    let mut plan = plan(rounds, 1);
    plan.round.late = LatePolicy::Fold;
    plan.round.late_rounds_max = 2;
    plan
}

fn run(plan: RunPlan) -> Run {
    Run::create("brain".parse().unwrap(), plan, blob("base"), START)
}

/// `names` join the round in hand, and `reports` of them report before an operator closes it.
fn seal(run: &mut Run, names: &[&str], reports: &[&str]) {
    let now = run.round().opened_at();
    for name in names {
        run.apply(Event::Joined(site(name)), now).unwrap();
    }
    if matches!(run.round().phase(), Phase::Selecting { .. }) {
        run.apply(Event::Closed, now).unwrap();
    }
    for name in reports {
        let text = format!("{name}{}", run.round().id().number);
        run.apply(Event::Reported(site(name), update(&text)), now).unwrap();
    }
    if *run.round().phase() != Phase::Aggregating {
        run.apply(Event::Closed, now).unwrap();
    }
    assert_eq!(run.round().phase(), &Phase::Aggregating);
}

fn commit(run: &mut Run) {
    let model = format!("m{}", run.round().id().number);
    let now = run.round().opened_at();
    run.apply(Event::Aggregated(Aggregate::of(blob(&model)).into()), now).unwrap();
    run.open_round(now);
}

fn report_late(run: &mut Run, id: &RoundId, name: &str, text: &str) -> Result<(), Refusal> {
    let now = run.round().opened_at();
    run.apply_to(id, Event::Reported(site(name), update(text)), now)
}

fn told(run: &Run, name: &str) -> Directive {
    directive([run].into_iter(), &site(name), |_| false)
}

fn folded(run: &Run) -> Vec<(String, RoundId, u32)> {
    let number = run.round().id().number;
    let late = run.round().late().iter();
    late.map(|(site, l)| (site.to_string(), l.round.clone(), l.staleness(number))).collect()
}

#[test]
fn a_straggler_goes_on_and_its_update_counts_once_in_the_next_round_that_is_sealed() {
    let mut run = run(folding(4));
    seal(&mut run, &["a", "b", "c"], &["a", "b"]);
    let first = run.round().id().clone();
    // While the round aggregates and when the next one selects, c trains what it began.
    for _ in 0..2 {
        let Directive::Train { round, base, .. } = told(&run, "c") else { panic!("{run:?}") };
        assert_eq!((round, base), (first.clone(), blob("base")));
        if run.round().id() == &first {
            commit(&mut run);
        }
    }
    assert_eq!(run.apply(Event::Joined(site("c")), START), Err(Refusal::TrainsEarlierRound));
    assert_eq!(run.awaits(&first, &site("c"), START), Ok(blob("base")));
    report_late(&mut run, &first, "c", "c1").unwrap();
    report_late(&mut run, &first, "c", "c1").unwrap();
    assert!(run.holds(&first, &site("c"), &update("c1")));
    let other = report_late(&mut run, &first, "c", "x").unwrap_err();
    assert_eq!(other, Refusal::AlreadyReported);
    assert!(matches!(told(&run, "c"), Directive::Join { .. }), "it is free for the next round");

    // It reports in round 2 too, and counts as both.
    seal(&mut run, &["a", "b", "c"], &["a", "b", "c"]);
    assert_eq!(folded(&run), [("c".to_owned(), first.clone(), 1)]);
    assert!(matches!(run.duty(), Duty::Aggregate(reports) if reports.len() == 3));
    report_late(&mut run, &first, "c", "c1").unwrap();
    commit(&mut run);
    seal(&mut run, &["a", "b"], &["a", "b"]);
    assert_eq!(folded(&run), [], "it has counted");
    assert_eq!((run.tally().rounds_short, run.tally().absences[&site("c")].folded), (1, 1));
}

#[test]
fn what_an_abandoned_attempt_would_have_folded_in_waits_for_the_next_one() {
    let mut run = run(folding(4));
    seal(&mut run, &["a", "b"], &["a"]);
    let first = run.round().id().clone();
    commit(&mut run);
    report_late(&mut run, &first, "b", "b1").unwrap();
    // b is late in the second round as well, and reports that while it aggregates.
    seal(&mut run, &["a", "b"], &["a"]);
    let second = run.round().id().clone();
    report_late(&mut run, &second, "b", "b2").unwrap();
    assert_eq!(folded(&run).len(), 1);
    run.apply(Event::Abandoned("wait".to_owned()), START).unwrap();
    assert_eq!(folded(&run), []);
    let late = |run: &Run, id: &RoundId| run.straggler(id, &site("b")).map(|s| s.late.clone());
    assert_eq!(late(&run, &first), Some(Late::Reported(update("b1"))));
    let update = Some(update("b2"));
    let dropped = Late::Dropped { update, why: Drop::RoundAbandoned };
    assert_eq!(late(&run, &second), Some(dropped), "its next attempt makes the same bytes again");
    run.open_round(START);
    assert_eq!(late(&run, &second), None);
    seal(&mut run, &["a", "b"], &["a", "b"]);
    assert_eq!(folded(&run), [("b".to_owned(), first, 1)]);
}

#[test]
fn a_late_update_in_what_could_not_be_averaged_is_let_go_and_fails_no_other_attempt() {
    let mut run = run(folding(4));
    seal(&mut run, &["a", "b"], &["a"]);
    let first = run.round().id().clone();
    commit(&mut run);
    report_late(&mut run, &first, "b", "b1").unwrap();
    seal(&mut run, &["a"], &["a"]);
    run.apply(Event::AggregationFailed("blob b1 is damaged".to_owned()), START).unwrap();
    let dropped = Late::Dropped { update: Some(update("b1")), why: Drop::AggregationFailed };
    assert_eq!(run.straggler(&first, &site("b")).map(|s| s.late.clone()), Some(dropped));
    run.open_round(START);
    seal(&mut run, &["a", "b"], &["a", "b"]);
    assert_eq!(folded(&run), []);
}

#[test]
fn a_late_update_in_what_was_not_averaged_in_time_counts_in_the_next_attempt() {
    let mut run = run(folding(4));
    seal(&mut run, &["a", "b"], &["a"]);
    let first = run.round().id().clone();
    commit(&mut run);
    report_late(&mut run, &first, "b", "b1").unwrap();
    seal(&mut run, &["a"], &["a"]);
    assert_eq!(folded(&run).len(), 1);
    run.apply(Event::NoAverage("the disk was silent".to_owned()), START).unwrap();
    let reason = Abandonment::NoAverageInTime { reason: "the disk was silent".to_owned() };
    assert_eq!(run.round().phase(), &Phase::Abandoned { reason });
    assert_eq!((folded(&run).len(), run.failures()), (0, 1), "it counts as a failure");
    run.open_round(START);
    seal(&mut run, &["a"], &["a"]);
    assert_eq!(folded(&run), [("b".to_owned(), first, 1)]);
}

#[test]
fn an_update_may_be_so_many_rounds_late_and_no_more() {
    for late_by in [2, 3] {
        let mut run = run(folding(9));
        seal(&mut run, &["a", "b"], &["a"]);
        let first = run.round().id().clone();
        commit(&mut run);
        for _ in 1..late_by {
            seal(&mut run, &["a"], &["a"]);
            commit(&mut run);
        }
        let outcome = report_late(&mut run, &first, "b", "b1");
        if late_by == 2 {
            outcome.unwrap();
            seal(&mut run, &["a"], &["a"]);
            assert_eq!(folded(&run), [("b".to_owned(), first, 2)]);
        } else {
            assert!(outcome.is_err());
            assert!(matches!(told(&run, "b"), Directive::Join { .. }));
        }
    }
}

#[test]
fn who_comes_too_late_is_let_go_when_the_last_round_that_could_take_it_is_sealed() {
    let mut run = run(folding(9));
    seal(&mut run, &["a", "b"], &["a"]);
    let first = run.round().id().clone();
    commit(&mut run);
    seal(&mut run, &["a"], &["a"]);
    commit(&mut run);
    assert!(matches!(told(&run, "b"), Directive::Train { .. }));
    seal(&mut run, &["a"], &["a"]);
    let dropped = Late::Dropped { update: None, why: Drop::TooLate };
    assert_eq!(run.straggler(&first, &site("b")).unwrap().late, dropped);
    assert_eq!(told(&run, "b"), Directive::Rest);
    assert_eq!(report_late(&mut run, &first, "b", "b1"), Err(Refusal::ReportingOver));
}

#[test]
fn who_misses_the_last_round_or_one_of_a_plan_that_drops_is_noted_as_dropped_and_why() {
    let noted = |run: &Run| {
        let noted = run.stragglers().map(|(site, s)| (site.to_string(), s.late.clone()));
        noted.collect::<Vec<_>>()
    };
    let dropped = |why| [("b".to_owned(), Late::Dropped { update: None, why })];
    let mut last = run(folding(1));
    seal(&mut last, &["a", "b"], &["a"]);
    assert_eq!(noted(&last), dropped(Drop::TooLate));
    assert_eq!(told(&last, "b"), Directive::Rest);

    let mut dropping = run(plan(4, 1));
    seal(&mut dropping, &["a", "b"], &["a"]);
    let id = dropping.round().id().clone();
    assert_eq!(noted(&dropping), dropped(Drop::ByPlan));
    assert_eq!(told(&dropping, "b"), Directive::Rest);
    assert_eq!(report_late(&mut dropping, &id, "b", "b1"), Err(Refusal::ReportingOver));
    assert_eq!(dropping.awaits(&id, &site("b"), START), Err(Refusal::ReportingOver));
    commit(&mut dropping);
    assert_eq!(noted(&dropping), [], "its row has it");
    assert!(
        matches!(told(&dropping, "b"), Directive::Join { .. }),
        "it is free for the next round"
    );
}

#[test]
fn what_is_brought_after_the_plan_has_dropped_it_is_kept_and_neither_accepted_nor_counted() {
    let late = |run: &Run, id: &RoundId| run.straggler(id, &site("b")).map(|s| s.late.clone());
    let kept = |why| Some(Late::Dropped { update: Some(update("b1")), why });
    for (plan, why) in [(plan(4, 1), Drop::ByPlan), (folding(1), Drop::TooLate)] {
        let mut run = run(plan);
        seal(&mut run, &["a", "b"], &["a"]);
        let id = run.round().id().clone();
        let noted = run.straggler(&id, &site("b")).unwrap().clone();
        for text in ["b1", "b1", "x"] {
            run.keep_dropped(&site("b"), noted.clone(), update(text));
            assert_eq!(late(&run, &id), kept(why), "the first one stays");
        }
        assert!(!run.holds(&id, &site("b"), &update("b1")), "it is not accepted");
        assert!(!run.has_file(&id, &site("b"), &blob("b1")));
        assert_eq!(report_late(&mut run, &id, "b", "b1"), Err(Refusal::ReportingOver));
        assert_eq!(run.awaits(&id, &site("b"), START), Err(Refusal::ReportingOver));
        assert!(matches!(run.duty(), Duty::Aggregate(reports) if reports.len() == 1));
        commit(&mut run);
        assert_eq!(folded(&run), []);
    }
}

#[test]
fn of_past_rounds_one_update_of_a_site_is_kept_while_a_round_is_in_hand() {
    let mut run = run(plan(9, 1));
    let mut noted = Vec::new();
    for _ in 0..3 {
        seal(&mut run, &["a", "b", "c"], &["a"]);
        let id = run.round().id().clone();
        noted.push(["b", "c"].map(|name| run.straggler(&id, &site(name)).unwrap().clone()));
        commit(&mut run);
    }
    assert_eq!(run.stragglers().count(), 0);
    let held = |run: &Run| {
        let held = run.stragglers().map(|(site, s)| (site.to_string(), s.round.number));
        held.collect::<Vec<_>>()
    };
    let one = |name: &str, number| (name.to_owned(), number);
    for [b, c] in &noted {
        run.keep_dropped(&site("b"), b.clone(), update("late"));
        run.keep_dropped(&site("c"), c.clone(), update("late"));
    }
    assert_eq!(held(&run), [one("b", 1), one("c", 1)]);
    // What is brought for the round in hand is kept beside it.
    seal(&mut run, &["a", "b"], &["a"]);
    let fourth = run.straggler(run.round().id(), &site("b")).unwrap().clone();
    run.keep_dropped(&site("b"), fourth.clone(), update("b4"));
    let late = run.straggler(&fourth.round, &site("b")).unwrap().late.clone();
    assert_eq!(late.update(), Some(&update("b4")));
    commit(&mut run);
    assert_eq!(held(&run), [], "their rows have them");
    run.keep_dropped(&site("b"), noted[1][0].clone(), update("late"));
    assert_eq!(held(&run), [one("b", 2)]);
}

#[test]
fn of_another_attempt_at_the_number_in_hand_nothing_is_kept() {
    let mut run = run(plan(4, 1));
    seal(&mut run, &["a", "b"], &["a"]);
    let first = run.straggler(run.round().id(), &site("b")).unwrap().clone();
    run.apply(Event::Abandoned("again".to_owned()), START).unwrap();
    run.open_round(START);
    run.keep_dropped(&site("b"), first, update("b1"));
    assert_eq!(run.stragglers().count(), 0);
}

#[test]
fn a_straggler_that_withdraws_or_is_revoked_counts_no_more() {
    let mut run = run(folding(4));
    seal(&mut run, &["a", "b", "c"], &["a"]);
    let id = run.round().id().clone();
    commit(&mut run);
    let gone = Event::Withdrew(site("b"), Withdrawal::OutOfMemory);
    run.apply_to(&id, gone.clone(), START).unwrap();
    run.apply_to(&id, gone, START).unwrap();
    assert!(matches!(told(&run, "b"), Directive::Join { .. }));
    report_late(&mut run, &id, "c", "c1").unwrap();
    for _ in 0..2 {
        run.drop_stragglers(Drop::Revoked, |name| name.as_str() == "c");
        let update = Some(update("c1"));
        let dropped = Late::Dropped { update, why: Drop::Revoked };
        assert_eq!(run.straggler(&id, &site("c")).unwrap().late, dropped);
    }
    seal(&mut run, &["a"], &["a"]);
    assert_eq!(folded(&run), []);
}

#[test]
fn the_end_of_a_run_lets_go_of_everybody_and_a_pause_of_nobody() {
    let mut run = run(folding(4));
    seal(&mut run, &["a", "b"], &["a"]);
    commit(&mut run);
    run.pause(START).unwrap();
    assert_eq!(told(&run, "b"), Directive::Rest);
    run.resume().unwrap();
    assert!(matches!(told(&run, "b"), Directive::Train { .. }));
    run.stop(START).unwrap();
    assert_eq!(run.state(), &State::Stopped);
    let late: Vec<_> = run.stragglers().map(|(_, straggler)| straggler.late.clone()).collect();
    assert_eq!(late, [Late::Dropped { update: None, why: Drop::RunOver }]);
}

#[test]
fn selection_does_not_wait_for_a_site_that_still_trains_an_earlier_round() {
    let mut run = run(folding(4));
    seal(&mut run, &["a", "b", "c"], &["a", "b"]);
    commit(&mut run);
    run.apply(Event::Joined(site("a")), START).unwrap();
    assert!(matches!(run.round().phase(), Phase::Selecting { .. }));
    run.apply(Event::Joined(site("b")), START).unwrap();
    assert!(matches!(run.round().phase(), Phase::Reporting { .. }), "the goal is 3, and c is busy");
    let Directive::Train { until, .. } = told(&run, "c") else { panic!() };
    assert_eq!(until, at(2 * 1100), "two rounds of 100 s and 1,000 s by the plan");
}
