//! The simulated federation: what must hold holds, and a bug that is brought back is found.

use fedpaint_tests::sim::history::play;
use fedpaint_tests::sim::ledger::Invariant;
use fedpaint_tests::sim::op::of_seed;
use fedpaint_tests::sim::shrink::{read, shrink, write};
use fedpaint_tests::sim::world::Bug;

/// How many seeds are played.
const SEEDS: u64 = 200;

/// Within how many seeds a bug is found.
const SEEDS_TO_FIND: u64 = 300;

#[test]
fn no_history_of_200_seeds_breaks_an_invariant_and_each_is_the_same_a_second_time() {
    let (mut rounds, mut attempts) = (0, 0);
    for seed in 0..SEEDS {
        let ops = of_seed(seed);
        let outcome = play(seed, &ops, None, false).unwrap();
        let history = || write(seed, &ops);
        assert_eq!(outcome.broken, None, "{}", history());
        assert_eq!(play(seed, &ops, None, false).unwrap(), outcome, "{}", history());
        rounds += outcome.rounds;
        attempts += outcome.attempts;
    }
    assert!(rounds > SEEDS * 8, "the runs get on: {rounds} rounds");
    assert!(attempts > rounds + SEEDS, "there is something to get over: {attempts} attempts");
}

#[test]
fn acting_on_a_message_before_a_deadline_that_has_come_is_found() {
    found(Bug::SkipTimeFirst, Invariant::TimeFirst);
}

#[test]
fn giving_a_receipt_before_the_bytes_are_synced_is_found() {
    found(Bug::AckBeforeFsync, Invariant::NamedBlobs);
}

#[test]
fn giving_a_receipt_for_what_was_not_saved_is_found() {
    found(Bug::AckBeforeSave, Invariant::Acknowledged);
}

#[test]
fn leaving_a_damaged_update_out_of_its_average_is_found() {
    found(Bug::LeaveOutDamaged, Invariant::CountedOnce);
}

#[test]
fn beginning_a_round_from_another_model_than_the_newest_is_found() {
    found(Bug::ForgetModel, Invariant::OneChain);
}

#[test]
fn sealing_the_update_of_a_site_that_was_revoked_is_found() {
    found(Bug::ForgetRevoked, Invariant::LetIn);
}

#[test]
fn showing_what_was_not_saved_is_found() {
    found(Bug::ShowUnsaved, Invariant::Heads);
}

#[test]
fn never_beginning_an_average_again_is_found() {
    found(Bug::GiveUpFullDisk, Invariant::Liveness);
}

/// The bug breaks the invariant within some seeds; a shorter history, read back, does it too, and
/// without the bug it does not.
fn found(bug: Bug, invariant: Invariant) {
    let breaks = |seed: &u64| {
        let broken = play(*seed, &of_seed(*seed), Some(bug), false).unwrap().broken;
        broken.is_some_and(|broken| broken.invariant == invariant)
    };
    let seed = (0..SEEDS_TO_FIND).find(breaks).expect("some seed finds it");
    let ops = of_seed(seed);
    let shortest = shrink(seed, &ops, Some(bug), invariant).unwrap();
    assert!(shortest.len() < ops.len() && shortest.len() <= 12, "{}", write(seed, &shortest));
    let (seed, shortest) = read(&write(seed, &shortest)).unwrap();
    let broken = play(seed, &shortest, Some(bug), false).unwrap().broken;
    assert_eq!(broken.map(|broken| broken.invariant), Some(invariant));
    assert_eq!(play(seed, &shortest, None, false).unwrap().broken, None);
}
