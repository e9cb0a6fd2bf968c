//! What people at a site do by a command, and what their agent makes room for, on a disk that is full once: it is told,
//! and the same step again succeeds. The programs are the real ones; their disks fail at named places.

use std::path::Path;
use std::time::Instant;

use fedpaint_proto::plan::RunPlan;
use fedpaint_site_agent::plans::{PLANS_MAX, Plans};
use fedpaint_tests::failpoints::Failpoints;
use fedpaint_tests::lab::{AgentOptions, Lab, OPEN_POLICY};
use fedpaint_tests::models;
use fedpaint_tests::process::{ANSWER_TIMEOUT, output_with, run};
use jiff::Timestamp;
use serde_json::Value;

use crate::plan;

const SITE: &str = "mayo";
const AGENT: &str = "fedpaint-site-agent";

/// A file that is written whole is written in these steps.
const STEPS: [&str; 5] = ["create", "write", "sync", "rename", "folder"];

/// What a full disk is told by.
const FULL: &str = "No space left on device";

/// Runs a command on a disk that is full at `place`, which it tells, and again on one that has room, where it is done.
fn done_again(points: &Failpoints, place: &str, arguments: &[&str]) {
    points.arm(&format!("{place} enospc@1")).unwrap();
    let ended = output_with(AGENT, arguments, &[points.variable()]).unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && said.contains(FULL), "{place}: {said}");
    points.disarm().unwrap();
    run(AGENT, arguments).unwrap_or_else(|error| panic!("{place}: {error}"));
}

/// The plans that the site was shown in a run.
fn shown(config: &str, run_name: &str) -> Vec<Value> {
    let told = run(AGENT, &["plan", "show", "--output", "json", "--config", config]).unwrap();
    let plans: Vec<Value> = serde_json::from_str(&told).unwrap();
    plans.into_iter().filter(|plan| plan["run"] == run_name).collect()
}

/// Keeps as many plans at the site as there may be.
fn keep_all_there_may_be(workspace: &Path) {
    let plans = Plans::of(workspace);
    for rounds in 1..=PLANS_MAX {
        let other = RunPlan::from_toml(&format!("version = 1\nrounds = {rounds}")).unwrap();
        plans.keep(&"other".parse().unwrap(), &other.into(), Timestamp::UNIX_EPOCH).unwrap();
    }
}

/// A site whose agent was shown the plan of run `brain`, for which it had to make room, and has ended.
async fn shown_a_plan(folder: &Path, points: &mut Failpoints) -> Lab {
    let lab = Lab::start(folder).unwrap();
    lab.enroll(SITE).unwrap();
    let file = folder.join("base.safetensors");
    let base = models::write(&file, models::specs(), |t, i| (t * 100 + i) as f32).unwrap();
    lab.create_run("brain", &plan(1, 1, 1, ""), &file, base).await.unwrap();
    keep_all_there_may_be(&folder.join(format!("workspace-{SITE}")));
    let options = AgentOptions {
        policy: OPEN_POLICY.replace("approval = \"none\"", "approval = \"each_plan\""),
        more: "[rehearsal]\nsteps_ms = 0\n".into(),
        environment: vec![points.variable()],
        ..AgentOptions::default()
    };
    points.arm("workspace.plan_drop enospc@1").unwrap();
    let mut agent = lab.start_agent(SITE, folder, &options).unwrap();
    let (config, started) = (lab.path(&format!("{SITE}.toml")), Instant::now());
    while shown(&config, "brain").is_empty() {
        let waits = agent.is_running().unwrap() && started.elapsed() < ANSWER_TIMEOUT;
        assert!(waits, "the plan is never kept: {}", agent.log().unwrap());
    }
    assert!(agent.stop().unwrap().success(), "{}", agent.log().unwrap());
    assert!(agent.log().unwrap().contains("the plan cannot be kept"), "{}", agent.log().unwrap());
    let dropped = points.reached().unwrap();
    let dropped = dropped.iter().filter(|place| *place == "workspace.plan_drop").count();
    assert_eq!((dropped, shown(&config, "other").len()), (2, PLANS_MAX - 1));
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_a_sites_people_that_finds_the_disk_full_is_done_by_the_same_command_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut points = Failpoints::new(folder, "people").unwrap();
    let lab = shown_a_plan(folder, &mut points).await;
    let config = lab.path(&format!("{SITE}.toml"));
    let digest = shown(&config, "brain")[0]["digest"].as_str().unwrap().to_owned();
    let approve = ["plan", "approve", "--config", &config, &digest];
    let take_back = ["plan", "take-back", "--config", &config, &digest];
    let is_approved = || !shown(&config, "brain")[0]["approved"].is_null();
    for step in STEPS {
        done_again(&points, &format!("workspace.approval_{step}"), &approve);
        assert!(is_approved(), "{step}");
        run(AGENT, &take_back).unwrap();
        assert!(!is_approved(), "{step}");
    }
    run(AGENT, &approve).unwrap();
    done_again(&points, "workspace.approval_drop", &take_back);
    assert!(!is_approved());

    let head = lab.path("head.json");
    lab.fedctl(&["audit", "head", "--out", &head]).unwrap();
    let accept = ["head", "accept", "--config", &config, "--head", &head];
    let evidence = STEPS.map(|step| format!("workspace.evidence_{step}"));
    let others = ["workspace.evidence", "workspace.history_drop"].map(str::to_owned);
    for place in evidence.iter().chain(&others) {
        done_again(&points, place, &accept);
    }
}
