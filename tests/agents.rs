//! Real agents on synthetic patients.

use std::path::Path;

use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::v1;
use fedpaint_tests::evidence::Evidence;
use fedpaint_tests::lab::{AgentOptions, Lab, LabOptions};
use fedpaint_tests::process::{children, run};

use crate::plan;

/// Small training that still draws masks, takes optimiser steps and spans rounds.
const TRAINING: &str = "\n[training]\nsteps = 3\nbatch = 2\nlearning_rate = 1e-3\nseed = 7\n";

/// A small cohort of `patients` from one scanner.
pub(crate) fn cohort(folder: &Path, name: &str, patients: u32, scanner: &str) {
    let (out, patients) = (folder.join(name).display().to_string(), patients.to_string());
    let seed = format!("{}", name.len() + 10);
    let args = ["--patients", &patients, "--scanner", scanner, "--seed", &seed, "--size", "4"];
    let all = [&["phantom", "--out", &out][..], &args].concat();
    run("fedpaint-site-agent", &all).unwrap();
}

/// An initial model that is small enough for tests.
pub(crate) fn initial_model(folder: &Path) -> Blob {
    let out = folder.join("initial.safetensors").display().to_string();
    let args =
        ["init-model", "--preset", "tiny", "--image-size", "16", "--seed", "3", "--out", &out];
    run("fedpaint-site-agent", &args).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_federated_site_makes_the_same_bytes_as_the_same_steps_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lab = Lab::start(&folder.join("lab")).unwrap();
    cohort(folder, "patients", 3, "A");
    let base = initial_model(folder);
    let model = folder.join("initial.safetensors");
    let plan = plan(2, 1, 1, TRAINING);
    lab.enroll("mayo").unwrap();
    lab.create_run("brain", &plan, &model, base).await.unwrap();
    let mut agent =
        lab.start_agent("mayo", &folder.join("patients"), &AgentOptions::default()).unwrap();
    let finished = lab.watch("brain", |run, _| run.state() == v1::RunState::Finished).await;
    let (run_done, round) = finished.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));
    assert_eq!((run_done.rounds_committed, round.members.len()), (2, 1));
    assert_eq!(round.members[0].examples, 6);
    assert!(agent.stop().unwrap().success(), "{}", agent.log().unwrap());

    std::fs::write(folder.join("plan.toml"), &plan).unwrap();
    let text = |name: &str| folder.join(name).display().to_string();
    let (plan, model, data, out) = (
        text("plan.toml"),
        text("initial.safetensors"),
        text("patients"),
        text("alone.safetensors"),
    );
    let args = ["train", "--plan", &plan, "--model", &model, "--data", &data, "--out", &out];
    let more =
        ["--site", "mayo", "--rounds", "2", "--device", "cpu", "--label-scheme", "brats2023"];
    run("fedpaint-site-agent", &[&args[..], &more].concat()).unwrap();
    let alone = Digest::of(&std::fs::read(folder.join("alone.safetensors")).unwrap());
    assert_ne!(alone, base.digest, "training changed the model");
    assert_eq!(Blob::try_from(&run_done.model.unwrap()).unwrap().digest, alone);
}

/// Milliseconds from each moment at which `from` happened to the next at which `to` did.
fn spans_ms(events: &[v1::Event], from: &str, to: &str) -> Vec<i64> {
    let ms = |event: &v1::Event| {
        let at = event.at.unwrap();
        at.seconds * 1_000 + i64::from(at.nanos / 1_000_000)
    };
    let mut since = None;
    let mut spans = Vec::new();
    for event in events {
        if event.kind == to
            && let Some(since) = since.take()
        {
            spans.push(ms(event) - since);
        }
        if event.kind == from {
            since = Some(ms(event));
        }
    }
    spans
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sites_are_in_the_next_round_at_once_though_they_ask_once_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = LabOptions { heartbeat_ms: 60_000, ..LabOptions::default() };
    let mut lab = Lab::prepare(&folder.join("lab"), options).unwrap();
    lab.start_coordinator().unwrap();
    cohort(folder, "patients", 2, "A");
    let base = initial_model(folder);
    let agents = ["mayo", "ucsf"].map(|site| {
        lab.enroll(site).unwrap();
        lab.start_agent(site, &folder.join("patients"), &AgentOptions::default()).unwrap()
    });
    let plan = plan(4, 2, 2, TRAINING);
    lab.create_run("brain", &plan, &folder.join("initial.safetensors"), base).await.unwrap();
    lab.watch("brain", |run, _| run.state() == v1::RunState::Finished).await.unwrap();
    drop(agents);
    let evidence = Evidence::gather(&mut lab.operator().await.unwrap(), "brain").await.unwrap();
    // From the moment at which the last site's update was accepted to that at which both are in the next round.
    let spans = spans_ms(&evidence.events, "round_aggregating", "round_reporting");
    assert_eq!(spans.len(), 3, "{spans:?}");
    assert!(spans.iter().all(|span| (0..5_000).contains(span)), "{spans:?}");
    // From there to the next such moment they have heard that they are to train, and have trained.
    let spans = spans_ms(&evidence.events, "round_reporting", "round_aggregating");
    assert_eq!(spans.len(), 4, "{spans:?}");
    assert!(spans.iter().all(|span| (0..30_000).contains(span)), "{spans:?}");
}

/// Where a process waits for others to connect, of the sockets among its open files.
fn listening(id: u32, open: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let table = std::fs::read_to_string(format!("/proc/{id}/net/{table}")).unwrap();
        for line in table.lines().skip(1) {
            // The place, the state (0A is LISTEN), and last but some, the socket's number.
            let words: Vec<&str> = line.split_whitespace().collect();
            if words[3] == "0A" && open.contains(&format!("socket:[{}]", words[9])) {
                found.push(words[1].to_owned());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_with_the_keys_opens_no_scan_and_the_one_with_the_scans_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut lab = Lab::start(&folder.join("lab")).unwrap();
    cohort(folder, "patients", 2, "B");
    let base = initial_model(folder);
    lab.enroll("mayo").unwrap();
    let long = plan(1, 1, 1, &TRAINING.replace("steps = 3", "steps = 1000000"));
    lab.create_run("brain", &long, &folder.join("initial.safetensors"), base).await.unwrap();
    let mut agent =
        lab.start_agent("mayo", &folder.join("patients"), &AgentOptions::default()).unwrap();
    let training = |_: &v1::Run, round: &v1::Round| {
        round.members.iter().any(|m| m.progress.as_ref().is_some_and(|p| p.step > 0))
    };
    lab.watch("brain", training).await.unwrap();

    let open = |id: u32| -> Vec<String> {
        let fds = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().flatten();
        let links = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links.map(|link| link.display().to_string()).collect()
    };
    let trainers = children(agent.id());
    assert_eq!(trainers.len(), 1, "{}", agent.log().unwrap());
    let (keys, scans) = (open(agent.id()), open(trainers[0]));
    assert!(keys.iter().any(|f| f.starts_with("socket:")), "the agent talks: {keys:?}");
    assert!(!keys.iter().any(|f| f.contains("patients")), "{keys:?}");
    assert!(!scans.iter().any(|f| f.starts_with("socket:")), "{scans:?}");
    let coordinator = lab.coordinator().unwrap().id();
    assert!(!listening(coordinator, &open(coordinator)).is_empty(), "the coordinator listens");
    let heard = listening(agent.id(), &keys);
    assert!(heard.is_empty(), "the agent only ever dials out: {heard:?}");
    let environment = std::fs::read(format!("/proc/{}/environ", trainers[0])).unwrap();
    let command = std::fs::read(format!("/proc/{}/cmdline", trainers[0])).unwrap();
    for told in [environment, command] {
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(!told.contains("mayo.key") && !told.contains("mayo.toml"), "{told}");
    }

    // Ended in the middle of training, the agent ends cleanly and leaves no trainer behind.
    assert!(agent.stop().unwrap().success(), "{}", agent.log().unwrap());
    assert!(!Path::new(&format!("/proc/{}", trainers[0])).exists());
}
