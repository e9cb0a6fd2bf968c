//! A dry run as a hospital does it: what it writes is what a round then sends, and at the coordinator nobody was
//! there.

use std::collections::BTreeSet;

use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::v1;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_tests::failpoints::Failpoints;
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::{AgentOptions, Lab, LabOptions};

use crate::agents::{cohort, initial_model};
use crate::canaries::get;
use crate::plan;

/// Few steps.
const TRAINING: &str = "\n[training]\nsteps = 3\nbatch = 2\nseed = 7\n";

/// What the coordinator logs: every call too.
const FILTER: &str = "info,fedpaint_coordinator::service::access=debug";

/// The calls that a dry run makes, none of which changes anything.
const READS: [&str; 4] = [
    "BlobService/Download",
    "BlobService/GetManifest",
    "FederationService/GetRunPlan",
    "FederationService/PreviewWork",
];

/// The calls of the site that a part of the coordinator's log tells of.
fn calls(log: &str) -> BTreeSet<&str> {
    let calls = log.lines().filter(|line| line.contains("call caller=site/mayo path="));
    calls.map(|line| line.split("/fedpaint.v1.").nth(1).unwrap().trim_end_matches('"')).collect()
}

/// All by which a site's taking part would show: the audit log, when it was last seen, how many heartbeats came.
fn traces(lab: &Lab) -> (String, serde_json::Value, String) {
    let events = lab.fedctl(&["--output", "json", "events"]).unwrap();
    let sites = lab.fedctl_json(&["status"]).unwrap()["sites"].clone();
    let metrics = String::from_utf8(get(lab.status_address(), "/metrics")).unwrap();
    let beats = metrics.lines().find(|line| line.starts_with("fedpaint_heartbeats_total"));
    (events, sites, beats.unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_leaves_no_trace_and_its_bytes_are_those_that_a_round_then_sends() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let environment = vec![("RUST_LOG".to_owned(), FILTER.into())];
    let options = LabOptions { environment, ..LabOptions::default() };
    let mut lab = Lab::prepare(&folder.join("lab"), options).unwrap();
    lab.start_coordinator().unwrap();
    cohort(folder, "patients", 3, "A");
    let base = initial_model(folder);
    // It was heard of once, so that another time shows.
    let mut mayo = FakeSite::enroll(&lab, "mayo").await.unwrap();
    mayo.beat(Activity::Idle(v1::Idle {})).await.unwrap();
    drop(mayo);
    let (plan, model) = (plan(1, 1, 1, TRAINING), folder.join("initial.safetensors"));
    lab.create_run("brain", &plan, &model, base).await.unwrap();
    let before = traces(&lab);
    assert!(before.1[0]["seen_at"].is_string() && before.2.ends_with(" 1"), "{before:?}");
    let logged = lab.log().len();

    let (patients, out) = (folder.join("patients"), folder.join("what-would-leave"));
    let arguments = vec!["--dry-run".to_owned(), out.display().to_string()];
    let options = AgentOptions { arguments, ..AgentOptions::default() };
    let mut dry = lab.start_agent("mayo", &patients, &options).unwrap();
    assert!(dry.wait().unwrap().success(), "{}", dry.log().unwrap());
    assert_eq!(traces(&lab), before);
    let log = lab.log();
    assert_eq!(calls(&log[logged..]), BTreeSet::from(READS));

    // In another workspace, so that it is trained anew.
    std::fs::remove_dir_all(lab.path("workspace-mayo")).unwrap();
    let logged = log.len();
    let mut agent = lab.start_agent("mayo", &patients, &AgentOptions::default()).unwrap();
    let finished = lab.watch("brain", |run, _| run.state() == v1::RunState::Finished).await;
    let (_, round) = finished.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));
    assert!(agent.stop().unwrap().success(), "{}", agent.log().unwrap());
    let sent = Blob::try_from(round.members[0].update.as_ref().unwrap()).unwrap();
    let written = std::fs::read(out.join("update.safetensors")).unwrap();
    assert_eq!(Digest::of(&written), sent.digest);
    assert_ne!(sent.digest, base.digest);
    let report = std::fs::read(out.join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["update"]["blake3"], sent.digest.to_string());
    assert_eq!((&report["would_leave"], &report["examples"]), (&true.into(), &6.into()));
    assert_eq!(round.members[0].examples, 6);
    // The same eyes see what a site says that takes part.
    let log = lab.log();
    for said in ["FederationService/Heartbeat", "FederationService/SubmitUpdate"] {
        assert!(calls(&log[logged..]).contains(said), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_that_finds_the_disk_full_leaves_whole_files_alone_and_is_done_by_the_same_command()
 {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lab = Lab::start(&folder.join("lab")).unwrap();
    cohort(folder, "patients", 3, "A");
    let base = initial_model(folder);
    drop(FakeSite::enroll(&lab, "mayo").await.unwrap());
    let (plan, model) = (plan(1, 1, 1, TRAINING), folder.join("initial.safetensors"));
    lab.create_run("brain", &plan, &model, base).await.unwrap();

    let points = Failpoints::new(folder, "dry-run").unwrap();
    let (patients, out) = (folder.join("patients"), folder.join("what-would-leave"));
    let options = AgentOptions {
        arguments: vec!["--dry-run".to_owned(), out.display().to_string()],
        environment: vec![points.variable()],
        ..AgentOptions::default()
    };
    let all = ["report.json", "report.txt", "update.safetensors"];
    for (rule, left) in [
        ("dry_run.update enospc@1", vec![]),
        ("dry_run.report enospc@1", vec![all[2]]),
        ("dry_run.report enospc@2", vec![all[0], all[2]]),
        ("", all.to_vec()),
    ] {
        points.arm(rule).unwrap();
        let mut dry = lab.start_agent("mayo", &patients, &options).unwrap();
        let (ended, log) = (dry.wait().unwrap(), dry.log().unwrap());
        assert_eq!(ended.success(), rule.is_empty(), "{log}");
        if !rule.is_empty() {
            let is_told = log.contains("No space left on device");
            assert!(is_told && log.contains("cannot write the dry run's"), "{log}");
        }
        let entries = std::fs::read_dir(&out).unwrap().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, left, "{rule}");
    }
}
