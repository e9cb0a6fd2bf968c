//! The short forms of what `chaos` does to a federation of real processes; `tests/README.md` has the long
//! ones. A failure prints its seed and where the logs are.

use fedpaint_tests::process::run;
use serde_json::Value;

/// The fewest places at which a run that nobody disturbs may be ended; there are twice as many.
const PLACES_MIN: u64 = 40;

/// The figures of a run in which all was well; `chaos` fails otherwise, and says of what.
fn chaos(args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let text = run("chaos", &args).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn thirty_kills_of_any_process_anywhere_change_no_byte_and_lose_no_update() {
    let found = chaos(&["kills", "--count", "30", "--rounds", "5", "--sites", "3"]);
    assert!(found["kills"].as_u64().unwrap() >= 30, "{found}");
    assert_eq!(found["identical"], true, "{found}");
    for none in ["lost", "doubled", "manual_steps"] {
        assert_eq!(found[none], 0, "{found}");
    }
    for process in ["kills_coordinator", "kills_agents", "kills_trainers", "failpoints"] {
        assert!(found[process].as_u64().unwrap() > 0, "{process}: {found}");
    }
    // Too few kills to be at each; but each is there, or it would never be chosen.
    assert!(found["places"].as_u64().unwrap() >= PLACES_MIN, "{found}");
}

#[test]
fn twenty_kills_lose_nothing_of_what_updates_in_eight_bits_leave_out() {
    let short = ["kills", "--count", "20", "--rounds", "4", "--sites", "2", "--encoding", "int8"];
    let found = chaos(&short);
    assert!(found["kills"].as_u64().unwrap() >= 20, "{found}");
    assert_eq!((&found["identical"], &found["replay"]), (&true.into(), &true.into()), "{found}");
    for none in ["lost", "doubled", "manual_steps"] {
        assert_eq!(found[none], 0, "{found}");
    }
}

#[test]
fn connections_that_break_in_transfers_change_no_byte_and_a_lost_answer_sends_nothing_again() {
    let found = chaos(&["cuts", "--count", "30", "--sites", "3"]);
    assert!(found["cuts"].as_u64().unwrap() >= 30, "{found}");
    for some in ["corrupted", "cuts_up", "cuts_down"] {
        assert!(found[some].as_u64().unwrap() > 0, "{some}: {found}");
    }
    assert_eq!(found["digest_equal"], 1.0, "{found}");
    assert!(found["lost_replies"].as_u64().unwrap() > 0, "{found}");
    assert_eq!(found["reuploads_after_lost_reply"], 0, "{found}");
}

#[test]
fn a_bit_that_turns_in_any_file_of_either_side_is_found_before_the_file_is_used() {
    let found = chaos(&["flips", "--count", "40"]);
    assert_eq!((&found["flips"], &found["found"]), (&40.into(), &40.into()), "{found}");
    // In the coordinator's files, in the site's, and in rounds.
    assert_eq!(found["used"], 40 + 40 + 4, "{found}");
    assert_eq!(found["found_before_use"], found["used"], "{found}");
    let coordinators = ["replay", "download"];
    let rounds = ["upload", "submission", "average_of_update", "average_of_base_model"];
    let trainers = ["base_model", "update", "record", "checkpoint", "remainder"];
    let agents = ["fetched_base_model", "carried_remainder", "book_of_remainders"];
    let agents = agents.iter().chain(&["history", "head", "plan"]);
    for used in coordinators.iter().chain(&rounds).chain(&trainers).chain(agents) {
        assert!(found["by_use"][used]["used"].as_u64() > Some(0), "{used}: {found}");
    }
}
