//! From a token to a site, by the two commands of a hospital's people.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use fedpaint_site_agent::config::Config;
use fedpaint_tests::failpoints::Failpoints;
use fedpaint_tests::lab::{Lab, LabOptions};
use fedpaint_tests::process::{ANSWER_TIMEOUT, Process, program, run};

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
    for (n, place) in places.iter().enumerate() {
        let name = format!("site-{n}");
        let command = command(&lab, &invited(&lab, &name), &folder.join(&name));
        // Keys and certificates are written one after the other, each by way of the same places.
        let turn = places[..=n].iter().filter(|before| *before == place).count();
        points.arm(&format!("{place} kill@{turn}")).unwrap();
        let (done, said) = join(&points, &command);
        assert!(!done, "{place}: it should have died: {said}");
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
