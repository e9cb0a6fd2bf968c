//! A trainer that dies costs its round some time, and nothing else.

use std::path::Path;

use fedpaint_proto::v1;
use fedpaint_tests::lab::{AgentOptions, Lab};
use fedpaint_tests::process::{Process, children, pid};

use crate::agents::{cohort, initial_model};
use crate::plan;

async fn lab_with_agent(folder: &Path, training: &str, trainer: &str) -> (Lab, Process) {
    let lab = Lab::start(&folder.join("lab")).unwrap();
    cohort(folder, "patients", 2, "C");
    let base = initial_model(folder);
    lab.enroll("mayo").unwrap();
    let plan = plan(1, 1, 1, training);
    lab.create_run("brain", &plan, &folder.join("initial.safetensors"), base).await.unwrap();
    let options = AgentOptions { trainer: trainer.into(), ..AgentOptions::default() };
    let agent = lab.start_agent("mayo", &folder.join("patients"), &options).unwrap();
    (lab, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_trainer_leaves_the_agent_running_and_the_round_goes_on_with_another() {
    let folder = tempfile::tempdir().unwrap();
    let training = "\n[training]\nsteps = 150\nbatch = 2\n";
    let (lab, mut agent) = lab_with_agent(folder.path(), training, "").await;
    let is_training = |_: &v1::Run, round: &v1::Round| {
        round.members.iter().any(|m| m.progress.as_ref().is_some_and(|p| p.step > 0))
    };
    lab.watch("brain", is_training).await.unwrap();
    let trainers = children(agent.id());
    assert_eq!(trainers.len(), 1, "{}", agent.log().unwrap());
    rustix::process::kill_process(pid(trainers[0]).unwrap(), rustix::process::Signal::KILL)
        .unwrap();

    let finished = lab.watch("brain", |run, _| run.state() == v1::RunState::Finished).await;
    let (_, round) = finished.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));
    assert_eq!(round.r#ref.unwrap().attempt, 1);
    assert!(agent.is_running().unwrap());
    let log = agent.log().unwrap();
    assert!(log.contains("the round goes on with another trainer"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_too_large_for_the_memory_is_refused_with_both_numbers_and_the_agent_lives() {
    let folder = tempfile::tempdir().unwrap();
    // A batch that no 700 MiB can hold.
    let training = "\n[training]\nsteps = 2\nbatch = 1024\n";
    let (lab, mut agent) = lab_with_agent(folder.path(), training, "memory_mib_max = 700\n").await;
    let paused = lab.watch("brain", |run, _| run.state() == v1::RunState::Paused).await;
    let (run, round) = paused.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));
    assert!(run.reason.contains("3"), "the run says after how many attempts: {}", run.reason);
    let why = round.members.iter().map(|m| m.reason.as_str()).collect::<String>() + &round.reason;
    assert!(why.contains("memory"), "{why}");
    let log = agent.log().unwrap();
    let refusal = log.lines().find(|line| line.contains("bytes of memory")).unwrap_or_default();
    assert!(refusal.contains("it needs about") && refusal.contains("are available"), "{log}");
    assert_eq!(round.r#ref.unwrap().attempt, 3, "retried until failures_max");
    assert!(agent.is_running().unwrap(), "{}", agent.log().unwrap());
    assert!(agent.stop().unwrap().success());
}
