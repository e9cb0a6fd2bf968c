//! From a token to a site, by the two commands of a hospital's people.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use fedpaint_coordinator::config;
use fedpaint_coordinator::records::SiteRow;
use fedpaint_coordinator::roster::KeyRow;
use fedpaint_coordinator::store::Store;
use fedpaint_proto::identity::{KeyId, Role, Validity};
use fedpaint_proto::tls::certificates;
use fedpaint_site_agent::config::Config;
use fedpaint_tests::failpoints::Failpoints;
use fedpaint_tests::lab::{FEDERATION, Lab, LabOptions};
use fedpaint_tests::process::{ANSWER_TIMEOUT, Process, program, run};
use serde_json::Value;

use crate::agents::cohort;

/// The command by which `name` joins with a token and writes to `folder`.
pub(crate) fn command(lab: &Lab, token: &str, folder: &Path) -> Vec<String> {
    let out = folder.display().to_string();
    let scans = folder.join("scans").display().to_string();
    let args = ["join", token, "--coordinator", lab.address(), "--out", &out, "--data", &scans];
    args.map(str::to_owned).to_vec()
}

pub(crate) fn invited(lab: &Lab, name: &str) -> String {
    let invited = lab.fedctl_json(&["site", "invite", name, "--auto-approve"]).unwrap();
    invited["token"].as_str().unwrap().to_owned()
}

pub(crate) fn federation(folder: &Path) -> Lab {
    let options = LabOptions { leaf_s: Some(3_600), ..LabOptions::default() };
    let mut lab = Lab::prepare(&folder.join("lab"), options).unwrap();
    lab.start_coordinator().unwrap();
    lab
}

/// Whether a join that may die has come to its end, and what it said on stderr.
fn join(points: &Failpoints, command: &[String]) -> (bool, String) {
    let (variable, rules) = points.variable();
    let mut process = Command::new(program("fedpaint-site-agent").unwrap());
    let ended = process.args(command).env(variable, rules).output().unwrap();
    (ended.status.success(), String::from_utf8(ended.stderr).unwrap())
}

#[test]
fn a_join_that_dies_at_any_step_is_finished_by_the_same_command() {
    broken_off_at_every_step("kill");
}

#[test]
fn a_join_whose_disk_is_full_at_any_step_says_so_and_is_finished_by_the_same_command() {
    for said in broken_off_at_every_step("enospc") {
        assert!(said.contains("No space left on device"), "{said}");
    }
}

/// Has a join be broken off by a rule at every step, once each, and be finished by the same command; what those that
/// were broken off have said.
fn broken_off_at_every_step(by: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lab = federation(folder);
    let mut points = Failpoints::new(folder, "join").unwrap();
    let (done, said) =
        join(&points, &command(&lab, &invited(&lab, "whole"), &folder.join("whole")));
    assert!(done, "{said}");
    let places = points.reached().unwrap();
    let some = ["join.tls_key", "join.certificate", "credential.rename", "join.config_rename"];
    for place in some {
        assert!(places.iter().any(|reached| reached == place), "{place}: {places:?}");
    }
    let mut broken_off = Vec::new();
    for (n, place) in places.iter().enumerate() {
        let name = format!("site-{n}");
        let command = command(&lab, &invited(&lab, &name), &folder.join(&name));
        // Keys and certificates are written one after the other, each by way of the same places.
        let turn = places[..=n].iter().filter(|before| *before == place).count();
        points.arm(&format!("{place} {by}@{turn}")).unwrap();
        let (done, said) = join(&points, &command);
        assert!(!done, "{place}: it should have been broken off: {said}");
        broken_off.push(said);
        points.disarm().unwrap();
        let config = folder.join(&name).join("site-agent.toml");
        // The last place is after the last step.
        if !config.exists() {
            let (done, said) = join(&points, &command);
            assert!(done, "{place}: {said}");
        }
        let config = Config::load(&config).unwrap();
        // It reads only where key and certificate fit together.
        config.tls.client().unwrap();
        assert_eq!(config.site().unwrap().name.as_str(), name, "{place}");
    }
    let sites = lab.fedctl_json(&["site", "list"]).unwrap();
    assert_eq!(sites["sites"].as_array().unwrap().len(), places.len() + 1, "{sites}");
    broken_off
}

#[test]
fn a_site_is_let_in_by_the_words_that_its_people_read_out() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lab = federation(folder);
    let out = folder.join("mayo");
    cohort(&out, "scans", 3, "A");
    let began = Instant::now();
    let invited = lab.fedctl_json(&["site", "invite", "mayo"]).unwrap();
    let mut join = command(&lab, invited["token"].as_str().unwrap(), &out);
    join.extend(["--label-scheme", "brats2023"].map(str::to_owned));
    let mut join = Process::start("fedpaint-site-agent", &join, &folder.join("join.log")).unwrap();
    assert_eq!(join.line().unwrap(), "site   mayo");
    let words = join.line().unwrap();
    let words = words.strip_prefix("words  ").unwrap();
    assert_eq!(join.line().unwrap(), "read them to the operator, who lets you in by");
    assert_eq!(join.line().unwrap(), format!("  fedctl site approve mayo {words}"));

    // The same at the other end, where nobody is let in yet.
    let list = lab.fedctl_json(&["site", "list"]).unwrap();
    let asks = &list["invites"][0];
    assert_eq!((&asks["state"], &asks["words"]), (&"asks".into(), &words.into()), "{list}");
    assert_eq!(list["sites"].as_array().unwrap().len(), 0, "{list}");
    assert!(join.is_running().unwrap(), "it waits: {}", join.log().unwrap());
    let approved = lab.fedctl_json(&["site", "approve", "mayo", words]).unwrap();
    assert_eq!(approved["approved_by"], serde_json::json!(["ada"]), "{approved}");
    let joined = join.line().unwrap();
    assert!(joined.starts_with("joined; next: fedpaint-site-agent run --config "), "{joined}");
    assert!(join.wait().unwrap().success(), "{}", join.log().unwrap());

    let seen_at = || lab.fedctl_json(&["status"]).unwrap()["sites"][0]["seen_at"].clone();
    assert!(seen_at().is_null(), "it has joined and is not there yet");
    let config = out.join("site-agent.toml").display().to_string();
    let args = ["run", "--config", &config];
    let agent = Process::start("fedpaint-site-agent", &args, &folder.join("agent.log"));
    let mut agent = agent.unwrap();
    let started = Instant::now();
    while seen_at().is_null() {
        let waits = agent.is_running().unwrap() && started.elapsed() < ANSWER_TIMEOUT;
        assert!(waits, "no heartbeat: {}", agent.log().unwrap());
    }
    println!("from the invitation to the first heartbeat {:.2} s", began.elapsed().as_secs_f64());
    // What it signs with ends when it says, and not with what it connects by.
    let signing = certificates("signing certificate", &out.join("mayo.signing.pem")).unwrap();
    let end = Validity::of_certificate(&signing[0]).unwrap().not_after;
    let site = lab.fedctl_json(&["status"]).unwrap()["sites"][0].clone();
    assert_eq!(site["signing_until"], end.to_string(), "{site}");
    assert_ne!(site["certificate_until"], site["signing_until"], "{site}");
    assert!(agent.stop().unwrap().success(), "{}", agent.log().unwrap());
}

/// Every file of a site's folder, with its bytes. Left out is what a site is told of whatever happens in the
/// federation: the newest head of the coordinator's log (`workspace/head.json`), also while it is written.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let is_head = entry.file_name().to_string_lossy().starts_with("head.json");
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if !is_head {
            let bytes = std::fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
    files
}

/// The rows of a site and of its certificates, read beside the coordinator.
async fn rows(lab: &Lab, name: &str) -> (Option<SiteRow>, BTreeMap<KeyId, KeyRow>) {
    let config = config::Config::read(Path::new(&lab.path("coordinator.toml"))).unwrap();
    let store = Store::connect(&config.database()).await.unwrap();
    let loaded = store.load().await.unwrap();
    store.close().await;
    let site = loaded.sites.into_iter().find(|site| site.name.as_str() == name);
    let holder = Role::Site(name.parse().unwrap());
    let keys = loaded.roster.keys.into_iter().filter(|(_, key)| key.holder == holder);
    (site, keys.collect())
}

/// How many connections of a site the coordinator has taken, by its log.
fn connections(lab: &Lab, name: &str) -> usize {
    let holder = format!("spiffe://{FEDERATION}/site/{name}");
    let log = lab.log();
    log.lines().filter(|line| line.contains("connected") && line.contains(&holder)).count()
}

/// Waits for a heartbeat of a site that comes after the one at `before`. When it came.
fn heard(lab: &Lab, agent: &mut Process, name: &str, before: &Value) -> Value {
    let began = Instant::now();
    loop {
        let status = lab.fedctl_json(&["status"]).unwrap();
        let sites = status["sites"].as_array().unwrap();
        let site = sites.iter().find(|site| site["name"] == name).unwrap();
        if site["seen_at"] != *before {
            return site["seen_at"].clone();
        }
        let waits = agent.is_running().unwrap() && began.elapsed() < ANSWER_TIMEOUT;
        assert!(waits, "no heartbeat: {}", agent.log().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_joins_touches_no_file_row_or_connection_of_one_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Connections that are taken are told at this level.
    let environment = vec![("RUST_LOG".into(), "info,fedpaint_coordinator=debug".into())];
    let options = LabOptions { leaf_s: Some(3_600), environment, ..LabOptions::default() };
    let mut lab = Lab::prepare(&folder.join("lab"), options).unwrap();
    lab.start_coordinator().unwrap();
    let mayo = folder.join("mayo");
    cohort(&mayo, "scans", 3, "A");
    let mut join = command(&lab, &invited(&lab, "mayo"), &mayo);
    join.extend(["--label-scheme", "brats2023"].map(str::to_owned));
    run("fedpaint-site-agent", &join).unwrap();
    let config = mayo.join("site-agent.toml").display().to_string();
    let args = ["run", "--config", &config];
    let log = folder.join("agent.log");
    let mut agent = Process::start("fedpaint-site-agent", &args, &log).unwrap();
    heard(&lab, &mut agent, "mayo", &Value::Null);
    let files_before = files(&mayo);
    let rows_before = rows(&lab, "mayo").await;
    assert!(rows_before.0.is_some() && !rows_before.1.is_empty(), "{rows_before:?}");
    assert!(files_before.contains_key(&mayo.join("workspace/lock")), "the agent runs there");
    assert_eq!(connections(&lab, "mayo"), 2, "{}", lab.log());

    let invited = lab.fedctl_json(&["site", "invite", "oslo"]).unwrap();
    let join = command(&lab, invited["token"].as_str().unwrap(), &folder.join("oslo"));
    let mut join = Process::start("fedpaint-site-agent", &join, &folder.join("join.log")).unwrap();
    assert_eq!(join.line().unwrap(), "site   oslo");
    let words = join.line().unwrap();
    lab.fedctl(&["site", "approve", "oslo", words.strip_prefix("words  ").unwrap()]).unwrap();
    assert!(join.wait().unwrap().success(), "{}", join.log().unwrap());
    assert!(rows(&lab, "oslo").await.0.is_some(), "it is in");

    // Two heartbeats later the first site has been told of everything.
    let mut seen = Value::Null;
    for _ in 0..3 {
        seen = heard(&lab, &mut agent, "mayo", &seen);
    }
    assert!(files(&mayo) == files_before, "a file of the site has changed");
    assert_eq!(rows(&lab, "mayo").await, rows_before);
    assert_eq!(connections(&lab, "mayo"), 2, "{}", lab.log());
    assert!(agent.stop().unwrap().success(), "{}", agent.log().unwrap());
}

#[test]
fn a_join_goes_on_in_no_folder_of_another_site_or_root() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lab = federation(folder);
    let token = invited(&lab, "mayo");
    let out = folder.join("mayo");
    run("fedpaint-site-agent", &command(&lab, &token, &out)).unwrap();
    let again = run("fedpaint-site-agent", &command(&lab, &token, &out)).unwrap_err();
    assert!(again.to_string().contains("this site has joined"), "{again}");
    std::fs::remove_file(out.join("site-agent.toml")).unwrap();
    // The certificate of another site, under the name of this one's.
    std::fs::rename(out.join("mayo.pem"), out.join("oslo.pem")).unwrap();
    let oslo = command(&lab, &invited(&lab, "oslo"), &out);
    let other = run("fedpaint-site-agent", &oslo).unwrap_err().to_string();
    assert!(other.contains("not site oslo's") && other.contains("another folder"), "{other}");
    assert!(!out.join("site-agent.toml").exists());
    std::fs::rename(out.join("oslo.pem"), out.join("mayo.pem")).unwrap();
    std::fs::write(out.join("ca.pem"), foreign_root(folder)).unwrap();
    let root = run("fedpaint-site-agent", &command(&lab, &token, &out)).unwrap_err().to_string();
    assert!(root.contains("under the root that the token names"), "{root}");
}

/// The root of another federation of the same name, PEM.
fn foreign_root(folder: &Path) -> String {
    let out = folder.join("foreign").display().to_string();
    let federation = fedpaint_tests::lab::FEDERATION;
    run("fedctl", &["ca", "init", "--federation", federation, "--out", &out]).unwrap();
    std::fs::read_to_string(folder.join("foreign/ca.pem")).unwrap()
}
