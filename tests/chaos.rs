//! The short forms of what `chaos` does to a federation of real processes; `tests/README.md` has the long
//! ones. A failure prints its seed and where the logs are.

use fedpaint_tests::process::{output, run};
use serde_json::{Value, json};

/// The fewest places at which a run that nobody disturbs may be ended; there are more than twice as many.
const PLACES_MIN: u64 = 40;

/// Set where a small file system can be mounted, so that none is left unfilled in silence: `.ci/run` does.
const MOUNTS_REQUIRED: &str = "TEST_MOUNTS_REQUIRED";

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

#[test]
fn a_program_that_dies_at_any_of_some_places_comes_up_again_to_the_same_models() {
    let found = chaos(&["crash-points", "--encoding", "int8", "--count", "8"]);
    // A place may be passed less often than where nobody dies.
    let (points, beyond) = (found["points"].as_u64(), found["not_reached"].as_u64());
    assert_eq!(points.unwrap() + beyond.unwrap(), 8, "{found}");
    assert!(points.unwrap() >= 6 && found["recovered"] == found["points"], "{found}");
    let sides = ["places_coordinator", "places_agent", "places_trainer"];
    let sides = sides.map(|side| found[side].as_u64().unwrap());
    assert!(sides.iter().sum::<u64>() >= PLACES_MIN, "{found}");
}

#[test]
fn work_goes_on_within_ten_seconds_of_a_bad_or_a_full_disk_being_well_again() {
    let short = ["--encoding", "f32", "--cases", "2", "--count", "0", "--hold-s", "2"];
    let found = chaos(&[&["disk"][..], &short].concat());
    assert_eq!((&found["sites"], &found["resumed"]), (&2.into(), &2.into()), "{found}");
    assert_eq!((&found["identical"], &found["not_reached"]), (&true.into(), &json!([])), "{found}");
    assert!(found["resume_max_s"].as_f64().unwrap() <= 10.0, "{found}");
    let filled = found["full_file_systems"] == 2;
    assert!(filled || std::env::var_os(MOUNTS_REQUIRED).is_none(), "none was full: {found}");
    // Where no file system can be mounted, the disk was bad at places alone.
    if filled {
        assert!(found["full_resume_max_s"].as_f64().unwrap() <= 10.0, "{found}");
    }
}

#[test]
fn a_slow_site_and_one_that_comes_and_goes_keep_no_round_beyond_its_time_and_late_work_counts() {
    let found = chaos(&["stragglers", "--sites", "4", "--rounds", "4"]);
    assert_eq!(found["rounds"], 4, "{found}");
    let ratio = found["ratio"].as_f64().unwrap();
    assert!((0.8..=1.1).contains(&ratio), "{found}");
    for some in ["slow_site_counted", "restarts"] {
        assert!(found[some].as_u64().unwrap() > 0, "{some}: {found}");
    }
}

#[test]
fn a_soak_of_seconds_keeps_its_descriptors_and_has_every_figure_its_table_and_its_plot() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().display().to_string();
    let short = ["soak", "--minutes", "0.17", "--sites", "3", "--step-ms", "10", "--out", &folder];
    let found = chaos(&short);
    assert!(found["rounds"].as_u64().unwrap() > 1, "{found}");
    for program in ["coordinator", "agents"] {
        let at = |when: &str| found[format!("descriptors_{when}_{program}")].as_f64().unwrap();
        assert!(at("first") > 0.0 && at("last") <= at("first"), "{program}: {found}");
    }
    for program in ["coordinator", "agent", "trainer"] {
        for figure in ["slope_mib_per_h", "slope_mib_per_1000_rounds"] {
            assert!(found[format!("{figure}_{program}")].is_number(), "{program}: {found}");
        }
        assert!(found[format!("{program}_mib")].as_f64().unwrap() > 1.0, "{program}: {found}");
    }
    for file in ["soak.csv", "soak.png"] {
        assert!(out.path().join(file).metadata().unwrap().len() > 100, "{file}");
    }
}

#[test]
fn a_run_that_fails_says_why_in_json_and_an_option_that_is_not_heeded_is_a_reason() {
    let ended = output("chaos", &["stragglers", "--encoding", "int8", "--json"]).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let told = String::from_utf8(ended.stdout).unwrap();
    let told: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let error = told["error"].as_str().unwrap();
    assert!(error.contains("`stragglers`") && error.contains("--encoding"), "{error}");
    assert_eq!(told["broken"], json!([error]));
}
