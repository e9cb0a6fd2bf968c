//! What a round does, case by case. Random histories are in the tests of the run.

use super::*;
use crate::testing::{START, blob, plan};

pub(crate) fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

pub(crate) fn update(text: &str) -> Update {
    Update { weights: blob(text), examples: 10, report: Report::default() }
}

/// At least two sites, at most three; 100 s to join, 1,000 s to report.
fn open() -> Round {
    let id = RoundId { run: "brain".parse().unwrap(), number: 1, attempt: 1 };
    Round::open(id, blob("base"), plan(1, 2).round, START)
}

pub(crate) fn reporting(sites: &[&str]) -> Round {
    let mut round = open();
    for name in sites {
        round.apply(Event::Joined(site(name)), at(10)).unwrap();
    }
    round.tick(at(100));
    assert!(matches!(round.phase(), Phase::Reporting { .. }));
    round
}

#[test]
fn three_sites_commit_a_model() {
    let mut round = open();
    for name in ["a", "b", "c"] {
        assert_eq!(round.directive(&site(name)), Directive::Join { until: at(100) });
        round.apply(Event::Joined(site(name)), at(10)).unwrap();
    }
    let train = Directive::Train { base: blob("base"), until: at(1010), cohort: 3 };
    assert_eq!(round.directive(&site("a")), train);
    for name in ["c", "a", "b"] {
        round.apply(Event::Reported(site(name), update(name)), at(20)).unwrap();
        assert_eq!(round.directive(&site(name)), Directive::Rest);
    }
    let Duty::Aggregate(reports) = round.duty() else { panic!("{:?}", round.duty()) };
    let order: Vec<&str> = reports.iter().map(|(site, _)| site.as_str()).collect();
    assert_eq!(order, ["a", "b", "c"], "in the order of the names, not of arrival");
    round.apply(Event::Aggregated(Aggregate::of(blob("next")).into()), at(30)).unwrap();
    assert_eq!(round.phase(), &Phase::Committed(Aggregate::of(blob("next"))));
    assert_eq!(round.closed_at(), Some(at(30)));
}

#[test]
fn a_site_that_never_reports_does_not_stop_a_round_with_quorum() {
    let mut round = reporting(&["a", "b", "c"]);
    round.apply(Event::Reported(site("a"), update("a")), at(101)).unwrap();
    round.apply(Event::Reported(site("b"), update("b")), at(102)).unwrap();
    assert!(matches!(round.phase(), Phase::Reporting { .. }));
    round.tick(at(1010));
    assert_eq!(round.phase(), &Phase::Aggregating);
}

#[test]
fn a_late_update_is_refused_but_a_repeated_one_is_no_error() {
    let mut round = reporting(&["a", "b", "c"]);
    round.apply(Event::Reported(site("a"), update("a")), at(101)).unwrap();
    round.apply(Event::Reported(site("b"), update("b")), at(102)).unwrap();
    let late = round.apply(Event::Reported(site("c"), update("c")), at(1010));
    assert_eq!(late, Err(Refusal::ReportingOver));
    round.apply(Event::Reported(site("a"), update("a")), at(1011)).unwrap();
    let other = round.apply(Event::Reported(site("a"), update("x")), at(1011));
    assert_eq!(other, Err(Refusal::ReportingOver));
}

#[test]
fn a_site_cannot_change_its_update() {
    let mut round = reporting(&["a", "b"]);
    round.apply(Event::Reported(site("a"), update("a")), at(101)).unwrap();
    let other = round.apply(Event::Reported(site("a"), update("x")), at(102));
    assert_eq!(other, Err(Refusal::AlreadyReported));
}

#[test]
fn a_round_is_abandoned_as_soon_as_its_minimum_is_out_of_reach() {
    let mut round = reporting(&["a", "b", "c"]);
    round.apply(Event::Withdrew(site("a"), Withdrawal::OutOfMemory), at(101)).unwrap();
    assert!(matches!(round.phase(), Phase::Reporting { .. }), "two can still report");
    round.apply(Event::Withdrew(site("b"), Withdrawal::TrainerDied), at(102)).unwrap();
    let missing = ["a", "b", "c"].map(site).into();
    let reason = Abandonment::TooFewReports { reported: 0, need: 2, missing };
    assert_eq!(round.phase(), &Phase::Abandoned { reason }, "though c still trains");
}

#[test]
fn a_round_without_enough_sites_is_abandoned_and_says_so() {
    let mut round = open();
    round.apply(Event::Joined(site("a")), at(99)).unwrap();
    let early = round.apply(Event::Closed, at(99));
    assert_eq!(early, Err(Refusal::TooFewSites { have: 1, need: 2 }));
    let late = round.apply(Event::Joined(site("b")), at(100));
    assert_eq!(late, Err(Refusal::RoundOver));
    let Phase::Abandoned { reason } = round.phase() else { panic!() };
    assert_eq!(reason.to_string(), "too few sites: 1 joined, the plan needs 2");
}

#[test]
fn a_revoked_site_counts_as_withdrawn_even_after_it_reported() {
    let mut round = reporting(&["a", "b", "c"]);
    round.apply(Event::Reported(site("a"), update("a")), at(101)).unwrap();
    round.apply(Event::Revoked(site("a")), at(102)).unwrap();
    assert_eq!(round.members()[&site("a")], Member::Withdrawn(Withdrawal::Revoked));
    round.apply(Event::Reported(site("b"), update("b")), at(103)).unwrap();
    round.apply(Event::Reported(site("c"), update("c")), at(104)).unwrap();
    assert!(matches!(round.duty(), Duty::Aggregate(reports) if reports.len() == 2));
}

#[test]
fn a_site_that_leaves_during_selection_may_come_again_but_not_during_reporting() {
    let mut round = open();
    round.apply(Event::Joined(site("a")), at(1)).unwrap();
    round.apply(Event::Withdrew(site("a"), Withdrawal::Stopping), at(2)).unwrap();
    assert_eq!(round.directive(&site("a")), Directive::Join { until: at(100) });

    let mut round = reporting(&["a", "b", "c"]);
    round.apply(Event::Withdrew(site("a"), Withdrawal::Stopping), at(101)).unwrap();
    assert_eq!(round.directive(&site("a")), Directive::Rest);
    assert_eq!(round.apply(Event::Joined(site("a")), at(102)), Err(Refusal::SelectionOver));
    assert_eq!(round.awaits(&site("a"), at(102)), Err(Refusal::AlreadyReported));
}

#[test]
fn an_update_is_awaited_only_from_a_member_that_has_not_settled_and_only_in_time() {
    assert_eq!(open().awaits(&site("a"), at(1)), Err(Refusal::NotReporting));
    let round = reporting(&["a", "b"]);
    assert_eq!(round.awaits(&site("a"), at(101)), Ok(()));
    assert_eq!(round.awaits(&site("d"), at(101)), Err(Refusal::NotAMember));
    assert_eq!(round.awaits(&site("a"), at(1_100)), Err(Refusal::RoundOver));
}
