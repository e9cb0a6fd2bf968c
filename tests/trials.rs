//! The short forms of what `trials` puts to the proof; `tests/README.md` has the long ones. A failure
//! prints its seed and where the logs are.

use fedpaint_proto::rule::Rule;
use fedpaint_tests::process::{LOG, output_with};
use serde_json::Value;

/// The figures of a trial in which all was well; `trials` fails otherwise, and says of what. It is asked to log
/// errors alone, as by whoever wants less to read: what it starts and reads the logs of is not.
fn trials(args: &[&str]) -> Value {
    let (is_well, found, said) = figures(args);
    assert!(is_well, "{said}");
    found
}

/// Whether all was well in a trial, its figures, and what it said.
fn figures(args: &[&str]) -> (bool, Value, String) {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let output = output_with("trials", &args, &[(LOG.to_owned(), "error".into())]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = String::from_utf8(output.stdout).unwrap();
    let found = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
    (output.status.success(), found.unwrap_or_else(|| panic!("no figures: {said}")), said)
}

#[test]
fn every_call_is_let_through_for_whom_the_table_says_and_for_nobody_else() {
    let found = trials(&["access", "--count", "2"]);
    assert_eq!(found["as_expected"], found["calls"], "{found}");
    assert!(found["calls"].as_u64().unwrap() > 2 * 500, "{found}");
    assert!(found["calls_made"].as_u64().unwrap() > 2 * 300, "{found}");
    assert_eq!(found["connections_refused"], 2 * 11, "{found}");
    assert!(found["kinds_of_answers"].as_u64().unwrap() >= 6, "{found}");
}

#[test]
fn nothing_but_a_key_is_taken_from_hostile_requests_and_a_token_holds_once_and_else_is_told() {
    let found = trials(&["csr", "--count", "30"]);
    assert_eq!((&found["honoured"], &found["requests"]), (&0.into(), &30.into()), "{found}");
    for some in ["refused", "only_the_key_taken"] {
        assert!(found[some].as_u64().unwrap() >= 10, "{some}: {found}");
    }
    assert_eq!((&found["tokens_refused"], &found["refusals_logged"]), (&10.into(), &10.into()));
    assert_eq!(found["wrong_pins_refused"], 1, "{found}");
}

#[test]
fn certificates_are_renewed_and_a_root_takes_over_under_running_rounds_and_no_call_fails() {
    let found = trials(&["renew", "--count", "2"]);
    for none in ["failed_calls", "rounds_abandoned"] {
        assert_eq!(found[none], 0, "{none}: {found}");
    }
    assert!(found["rounds_in_roll_over"].as_u64().unwrap() > 0, "{found}");
}

#[test]
fn a_site_that_is_revoked_in_a_transfer_is_cut_within_a_second_and_finds_no_way_back() {
    let found = trials(&["revoke", "--count", "6"]);
    assert!(found["cut_ms_max"].as_f64().unwrap() <= 1_000.0, "{found}");
    for all in ["idle_connections_cut", "reconnections_refused", "resumptions_refused"] {
        assert_eq!(found[all], 6, "{all}: {found}");
    }
}

#[test]
fn a_plan_that_a_hospitals_policy_does_not_allow_is_refused_by_its_rule_in_both_logs() {
    let found = trials(&["plans", "--count", "12"]);
    for all in ["refused", "in_site_log"] {
        assert_eq!(found[all], 12, "{all}: {found}");
    }
    assert_eq!(found["rules"], Rule::ALL.len(), "every rule that there is: {found}");
    assert_eq!((&found["updates_that_left"], &found["allowed_trained"]), (&0.into(), &true.into()));
}

#[test]
fn a_log_that_is_edited_cut_added_to_reordered_forked_or_dated_otherwise_is_found_by_everybody() {
    let found = trials(&["log", "--count", "200"]);
    for (tried, caught) in [
        ("offline_attacks", "offline_found"),
        ("offline_attacks", "offline_named_as_one_entry"),
        ("signed_anew_attacks", "signed_anew_found"),
        ("site_attacks", "site_found"),
        ("real_attacks", "real_caught_by_agent"),
        ("real_attacks", "real_found_by_fedctl"),
    ] {
        assert!(found[tried].as_u64().unwrap() >= 8, "{found}");
        assert_eq!(found[tried], found[caught], "{found}");
    }
    let [proof, answer] =
        ["proof_bytes_max", "proof_and_head_bytes_max"].map(|name| found[name].as_u64().unwrap());
    assert!(0 < proof && proof <= 1_024 && proof < answer, "{found}");
}

#[test]
fn nineteen_attacks_of_a_hostile_coordinator_are_refused_with_a_reason_and_an_honest_one_is_not() {
    // The first kind comes again, with nothing left of its first time.
    let found = trials(&["hostile-coordinator", "--count", "20"]);
    assert_eq!((&found["attacks"], &found["refused"]), (&20.into(), &20.into()), "{found}");
    assert_eq!(found["reasons"].as_object().unwrap().len(), 19, "{found}");
    assert!(found["honest_rounds"].as_u64().unwrap() >= 2, "{found}");
}

#[test]
fn of_ten_sites_two_that_poison_are_refused_or_do_not_move_a_geometric_median_far() {
    let found = trials(&["poison", "--count", "2"]);
    assert_eq!(
        (&found["malformed"], &found["malformed_refused"]),
        (&18.into(), &18.into()),
        "{found}"
    );
    assert_eq!((&found["honest_taken"], &found["honest_told_outliers"]), (&8.into(), &0.into()));
}

#[test]
fn rounds_go_on_beside_slow_many_resetting_and_oversized_connections_and_cost_little_memory_more() {
    // How much longer they take is the long form's: this one has other tests beside it.
    let (_, found, said) = figures(&["floods", "--count", "2"]);
    let broken = found["broken"].as_array().unwrap();
    let is_of_time = |what: &Value| what.as_str().unwrap().contains("times as long");
    assert!(broken.iter().all(is_of_time), "{found}: {said}");
    let attacks = [("slow", 64), ("handshakes", 5_000), ("resets", 100_000), ("oversized", 1_000)];
    for (attack, least) in attacks {
        let count = found[format!("{attack}_count")].as_u64().unwrap();
        assert!(count >= least, "{attack}: {found}");
    }
    assert!(found["grown_mib"].as_f64().unwrap() <= 64.0, "{found}");
}
