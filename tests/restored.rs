//! A coordinator that was brought back from a backup, before the eyes of real agents: its log is shorter than the
//! one that they were shown, which they cannot tell from one that was cut. They stop, and go on when people at
//! the sites have taken the restored log's head by hand.

use std::path::Path;

use fedpaint_proto::v1;
use fedpaint_tests::lab::{AgentOptions, Lab};
use fedpaint_tests::models;
use fedpaint_tests::process::{Process, run};
use serde_json::Value;

use crate::plan;
use crate::storage::{coordinator, told};

/// The exit code of an agent that was shown two logs that do not fit together.
const CAUGHT: i32 = 70;

const SITES: [&str; 2] = ["alpha", "beta"];

/// Rounds that the run has: more than are done while a backup is made.
const ROUNDS: u32 = 40;

/// Rounds that are done after the backup, and are gone with what was not saved.
const ROUNDS_LOST: u32 = 3;

/// Starts the agents of both sites, also again. Their trainers rehearse.
fn start_agents(lab: &Lab, folder: &Path) -> Vec<Process> {
    let more = "[rehearsal]\nsteps_ms = 1\n".into();
    let options = AgentOptions { more, ..AgentOptions::default() };
    let start = |site: &&str| lab.start_agent(site, folder, &options).unwrap();
    SITES.iter().map(start).collect()
}

async fn committed(lab: &Lab, rounds: u32) -> u32 {
    let committed = |run: &v1::Run, _: &v1::Round| run.rounds_committed >= rounds;
    lab.watch("brain", committed).await.unwrap().0.rounds_committed
}

/// Waits until an agent has ended by itself, and how.
fn ended(agent: &mut Process) -> Option<i32> {
    // Its output ends when it does.
    tokio::task::block_in_place(|| while agent.line().is_ok() {});
    agent.stop().unwrap().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_stop_before_a_restored_coordinator_until_its_head_is_accepted_and_the_run_finishes()
{
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut lab = Lab::start(folder).unwrap();
    let file = folder.join("base.safetensors");
    let base = models::write(&file, models::specs(), |t, i| (t * 100 + i) as f32).unwrap();
    let training = "\n[training]\nsteps = 3\nbatch = 2\nseed = 7\n";
    for site in SITES {
        lab.enroll(site).unwrap();
    }
    lab.create_run("brain", &plan(ROUNDS, 2, 2, training), &file, base).await.unwrap();
    let mut agents = start_agents(&lab, folder);

    // While the run goes on; then it goes on, and all that is lost.
    committed(&lab, 1).await;
    let backup = lab.path("backup");
    told(coordinator(&lab, "backup", "coordinator.toml", &["--out", &backup]), 0);
    let saved = committed(&lab, 0).await;
    committed(&lab, saved + ROUNDS_LOST).await;
    lab.coordinator().unwrap().kill().unwrap();
    let config = std::fs::read_to_string(lab.path("coordinator.toml")).unwrap();
    let elsewhere = config.replace("\"coordinator\"", "\"elsewhere\"");
    std::fs::write(lab.path("coordinator.toml"), elsewhere).unwrap();
    told(coordinator(&lab, "restore", "coordinator.toml", &["--from", &backup]), 0);

    lab.start_coordinator().unwrap();
    for (site, agent) in SITES.into_iter().zip(&mut agents) {
        let code = ended(agent);
        let log = agent.log().unwrap();
        assert_eq!(code, Some(CAUGHT), "{site}: {log}");
        for words in ["restored from a backup", "`fedpaint-site-agent head accept`"] {
            assert!(log.contains(words), "{site}: {log}");
        }
    }
    let told_of = lab.fedctl(&["events"]).unwrap();
    assert_eq!(told_of.matches("the log was cut short, and the site has stopped").count(), 2);

    // One that is merely started again stops again.
    let mut stubborn = start_agents(&lab, folder);
    assert!(stubborn.iter_mut().all(|agent| ended(agent) == Some(CAUGHT)));
    let head = lab.path("head.json");
    lab.fedctl(&["audit", "head", "--out", &head]).unwrap();
    for site in SITES {
        let config = lab.path(&format!("{site}.toml"));
        let accept = ["head", "accept", "--config", &config, "--head", &head];
        let accepted = run("fedpaint-site-agent", &accept).unwrap();
        assert!(accepted.starts_with("accepted: "), "{accepted}");
    }
    let mut agents = start_agents(&lab, folder);
    assert_eq!(committed(&lab, ROUNDS).await, ROUNDS);
    for agent in &mut agents {
        assert!(agent.stop().unwrap().success(), "{}", agent.log().unwrap());
    }
    let found = told(coordinator(&lab, "fsck", "coordinator.toml", &[]), 0);
    assert_eq!((&found["clean"], &found["runs"]), (&true.into(), &1.into()), "{found}");
    let replayed = told(coordinator(&lab, "replay", "coordinator.toml", &["--run", "brain"]), 0);
    let rounds: &Vec<Value> = replayed["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), ROUNDS as usize);
    assert!(rounds.iter().all(|round| round["verdict"] == "equal"), "{replayed}");
}
