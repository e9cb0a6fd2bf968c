//! The short forms of what `trials` puts to the proof; `tests/README.md` has the long ones. A failure
//! prints its seed and where the logs are.

use fedpaint_tests::process::run;
use serde_json::Value;

/// The figures of a trial in which all was well; `trials` fails otherwise, and says of what.
fn trials(args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let text = run("trials", &args).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn a_site_that_is_revoked_in_a_transfer_is_cut_within_a_second_and_finds_no_way_back() {
    let found = trials(&["revoke", "--count", "6"]);
    assert!(found["cut_ms_max"].as_f64().unwrap() <= 1_000.0, "{found}");
    for all in ["idle_connections_cut", "reconnections_refused", "resumptions_refused"] {
        assert_eq!(found[all], 6, "{all}: {found}");
    }
}
