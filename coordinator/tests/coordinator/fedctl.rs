//! `fedctl` as a program, against a coordinator over real TLS: data on stdout, one line on stderr
//! when it fails, and the exit code that says which.

use std::path::Path;
use std::process::{Output, Stdio};

use fedpaint_proto::identity::Validity;
use fedpaint_proto::tls::TlsFiles;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::{HeartbeatRequest, Idle};
use jiff::Timestamp;
use serde_json::Value;
use time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::access::metrics;
use crate::federation::Federation;
use crate::pki::{Authority, Leaf};
use crate::rounds::model;

pub(crate) const OPERATOR: &str = "spiffe://brain/operator/ada";

/// fedctl with the certificate in `files`, and nothing from the machine it runs on.
fn program(federation: &Federation, files: &TlsFiles) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fedctl"));
    command
        .env_clear()
        .env("FEDCTL_COORDINATOR", format!("https://{}", federation.address))
        .env("FEDCTL_CA", &files.ca)
        .env("FEDCTL_CERT", &files.certificate)
        .env("FEDCTL_KEY", &files.key)
        .current_dir(federation.folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

pub(crate) struct Desk<'a> {
    federation: &'a Federation,
    files: TlsFiles,
}

impl<'a> Desk<'a> {
    pub(crate) fn new(
        federation: &'a Federation,
        authority: &Authority,
        leaf: &Leaf<'_>,
    ) -> Desk<'a> {
        Desk { federation, files: federation.certificate(authority, leaf) }
    }

    async fn run(&self, line: &str) -> Output {
        program(self.federation, &self.files).args(line.split(' ')).output().await.unwrap()
    }

    /// What a command prints that succeeds.
    pub(crate) async fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("--output json {line}")).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{line}: {stderr}");
        assert!(stderr.is_empty(), "{line}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The one line of a command that fails.
    pub(crate) async fn failure(&self, line: &str) -> String {
        let output = self.run(line).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
        assert!(output.stdout.is_empty(), "{line}");
        assert_eq!(stderr.lines().count(), 1, "{line}: {stderr}");
        stderr
    }
}

pub(crate) fn write_run(folder: &Path) -> Vec<u8> {
    let plan = "version = 1\nrounds = 1\n[round]\nsites_min = 2\nsites_goal = 2\n";
    std::fs::write(folder.join("run.toml"), plan).unwrap();
    let bytes = model(&[1.0, 2.0]);
    std::fs::write(folder.join("initial.safetensors"), &bytes).unwrap();
    bytes
}

#[tokio::test]
async fn an_operator_takes_a_run_from_its_plan_to_an_exported_model() {
    let federation = Federation::start().await;
    let folder = federation.folder.path();
    let desk = Desk::new(&federation, &federation.authority, &Leaf::client(OPERATOR));
    for name in ["a", "b"] {
        let site = desk.json(&format!("site enroll {name}")).await;
        assert_eq!((&site["name"], &site["state"]), (&name.into(), &"enrolled".into()));
    }
    let initial = write_run(folder);
    let create = "run create t1 --plan run.toml --model initial.safetensors";
    let run = desk.json(create).await;
    assert_eq!((&run["state"], &run["rounds_planned"]), (&"active".into(), &1.into()));
    assert_eq!(desk.json(create).await["created_at"], run["created_at"], "repeated, not redone");

    let mut watching = program(&federation, &desk.files);
    watching.args(["--output", "json", "run", "watch", "t1"]).stdout(Stdio::piped());
    let mut watching = watching.spawn().unwrap();
    let mut seen = BufReader::new(watching.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&seen.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(first["round"]["phase"], "selecting");

    let mut sites = [
        federation.client("spiffe://brain/site/a").await,
        federation.client("spiffe://brain/site/b").await,
    ];
    for site in &mut sites {
        site.join().await;
    }
    for site in &mut sites {
        let train = site.train().await;
        site.report(&train, &[3.0, 4.0], 10).await.unwrap();
    }
    let mut last = first;
    while let Some(line) = seen.next_line().await.unwrap() {
        last = serde_json::from_str(&line).unwrap();
    }
    assert_eq!(last["run"]["state"], "finished");
    assert_eq!(watching.wait().await.unwrap().code(), Some(0));

    let rounds = desk.json("round list t1").await;
    assert_eq!(rounds["rounds"][0]["phase"], "committed");
    assert_eq!(rounds["rounds"][0]["members"][1]["examples"], 10);
    let models = desk.json("model list t1").await["models"].clone();
    assert_eq!((models.as_array().unwrap().len(), &models[0]["ema"]), (2, &Value::Null));
    let exported = desk.json("model export t1 --out new.safetensors").await;
    assert_eq!((&exported["round"], &exported["kind"]), (&1.into(), &"raw".into()));
    assert_eq!(std::fs::read(folder.join("new.safetensors")).unwrap(), model(&[3.0, 4.0]));
    let note = std::fs::read(folder.join("new.safetensors.json")).unwrap();
    let note: serde_json::Value = serde_json::from_slice(&note).unwrap();
    let digest = fedpaint_proto::names::Digest::of(&model(&[3.0, 4.0]));
    let expected = serde_json::json!({ "run": "t1", "round": 1, "kind": "raw", "digest": digest });
    assert_eq!(note, expected);
    moving_average_is_exported(&desk, &models[1]["ema"]).await;
    desk.json("model export t1 --round 0 --out old.safetensors").await;
    assert_eq!(std::fs::read(folder.join("old.safetensors")).unwrap(), initial);
    let status = desk.json("status").await;
    assert_eq!(
        (&status["federation"], status["rounds"].as_array().unwrap().len()),
        (&"brain".into(), 0)
    );
    let events = desk.run("--output json events").await.stdout;
    let kinds = String::from_utf8(events).unwrap();
    assert!(kinds.lines().all(|line| line.starts_with("{\"seq\":")), "{kinds}");
    federation.stop().await;
}

/// Exports the moving average of round 1, which the list names as `listed`.
async fn moving_average_is_exported(desk: &Desk<'_>, listed: &Value) {
    let folder = desk.federation.folder.path();
    let exported = desk.json("model export t1 --round 1 --ema --out ema.safetensors").await;
    // A tenth of the initial model and nine tenths of the first round's.
    assert_eq!(std::fs::read(folder.join("ema.safetensors")).unwrap(), model(&[2.8, 3.8]));
    assert_eq!((&exported["kind"], &exported["digest"]), (&"ema".into(), &listed["digest"]));
    let note: Value =
        serde_json::from_slice(&std::fs::read(folder.join("ema.safetensors.json")).unwrap())
            .unwrap();
    assert_eq!((&note["kind"], &note["digest"]), (&"ema".into(), &listed["digest"]));
    let error = desk.failure("model export t1 --round 0 --ema --out none.safetensors").await;
    assert!(error.contains("round 0 of run t1 has no moving average"), "{error}");
    assert!(!folder.join("none.safetensors").exists());
}

#[tokio::test]
async fn of_a_site_that_was_let_in_by_name_the_end_of_the_certificate_that_it_shows_is_told() {
    let federation = Federation::start().await;
    let desk = Desk::new(&federation, &federation.authority, &Leaf::client(OPERATOR));
    let site = desk.json("site enroll a").await;
    assert_eq!(site["certificate_until"], Value::Null, "it has shown none");
    let leaf = Leaf::client("spiffe://brain/site/a");
    // The one shown last counts, though it ends before the other.
    for hours in [72, 5] {
        let leaf = Leaf { holds: Duration::hours(hours), ..leaf.clone() };
        let files = federation.certificate(&federation.authority, &leaf);
        federation.connect(&files).await.unwrap().beat().await.unwrap();
        let shown = Validity::of_certificate(&files.own_certificate().unwrap()).unwrap();
        let (end, second) = (shown.not_after.to_string(), shown.not_after.as_second());
        for page in ["status", "site list"] {
            let reply = desk.json(page).await;
            let site = &reply["sites"][0];
            assert_eq!(site["certificate_until"], end.as_str(), "{page}: {site}");
        }
        let metric = "fedpaint_certificate_end_timestamp_seconds{holder=\"site/a\"}";
        let text = metrics(&federation).await;
        assert!(text.contains(&format!("{metric} {second}")), "{text}");
    }
    let table = String::from_utf8(desk.run("status").await.stdout).unwrap();
    let row = table.lines().find(|line| line.starts_with("a "));
    let told = row.and_then(|row| row.strip_suffix('-')).map(str::trim_end);
    assert!(told.is_some_and(|row| row.ends_with(" h, ENDS SOON")), "{table}");
    federation.stop().await;
}

#[tokio::test]
async fn the_end_of_what_a_site_signs_with_is_told_as_its_agent_says_it() {
    let federation = Federation::start().await;
    let desk = Desk::new(&federation, &federation.authority, &Leaf::client(OPERATOR));
    desk.json("site enroll a").await;
    let files =
        federation.certificate(&federation.authority, &Leaf::client("spiffe://brain/site/a"));
    let mut site = federation.connect(&files).await.unwrap();
    let metric = "fedpaint_certificate_end_timestamp_seconds{holder=\"site/a, signing\"}";
    // An agent that signs nothing, or is from before it was told.
    site.beat().await.unwrap();
    assert_eq!(desk.json("status").await["sites"][0]["signing_until"], Value::Null);
    assert!(!metrics(&federation).await.contains(metric));
    for second in [1_900_000_000, 1_800_000_000] {
        let beat = HeartbeatRequest {
            agent_version: "0.1.0".into(),
            activity: Some(Activity::Idle(Idle {})),
            signing_until: Some(prost_types::Timestamp { seconds: second, nanos: 0 }),
            ..HeartbeatRequest::default()
        };
        site.federation.heartbeat(beat).await.unwrap();
        let end = Timestamp::from_second(second).unwrap().to_string();
        for page in ["status", "site list"] {
            let reply = desk.json(page).await;
            assert_eq!(reply["sites"][0]["signing_until"], end.as_str(), "{page}: {reply}");
        }
        let text = metrics(&federation).await;
        assert!(text.contains(&format!("{metric} {second}")), "{text}");
    }
    desk.json("site revoke a").await;
    assert_eq!(desk.json("status").await["sites"][0]["signing_until"], Value::Null);
    assert!(!metrics(&federation).await.contains(metric), "nobody waits for one who is out");
    federation.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_one_line_that_names_it_and_nothing_is_written() {
    let federation = Federation::start().await;
    let folder = federation.folder.path();
    let desk = Desk::new(&federation, &federation.authority, &Leaf::client(OPERATOR));
    write_run(folder);
    std::fs::write(folder.join("bad.toml"), "version = 1\nrounds = 0").unwrap();
    let before = std::fs::read_dir(folder).unwrap().count();
    for (line, names) in [
        ("run show t9", "t9"),
        ("run watch t9", "t9"),
        ("round show t9", "t9"),
        ("round close t9", "t9"),
        ("site revoke nobody", "nobody"),
        ("model export t9 --out x.safetensors", "t9"),
        ("model export t9 --out run.toml", "t9"),
        ("run create t1 --plan none.toml --model initial.safetensors", "none.toml"),
        ("run create t1 --plan bad.toml --model initial.safetensors", "rounds"),
        ("run create t1 --plan run.toml --model run.toml", "run.toml"),
        ("run list --coordinator https://127.0.0.1:1", "https://127.0.0.1:1"),
        ("run list --cert none.pem", "none.pem"),
        ("run list --config none.toml", "none.toml"),
    ] {
        let error = desk.failure(line).await;
        assert!(error.contains(names), "{line}: {error}");
    }
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), before);
    let output = desk.run("run list --coordinator fed:8443").await;
    assert_eq!(output.status.code(), Some(2));
    federation.stop().await;
}

#[tokio::test]
async fn a_certificate_that_will_not_do_is_one_line_that_says_why() {
    let federation = Federation::start().await;
    let (own, foreign) = (&federation.authority, Authority::new());
    let late = Leaf { holds: Duration::hours(-1), ..Leaf::client(OPERATOR) };
    for (authority, leaf, names) in [
        (own, Leaf::client("spiffe://brain/site/a"), "operator"),
        (own, Leaf::client("spiffe://heart/operator/ada"), "heart"),
        (own, late, "expired"),
        (&foreign, Leaf::client(OPERATOR), "do not trust each other"),
    ] {
        let error = Desk::new(&federation, authority, &leaf).failure("site list").await;
        assert!(error.contains(names), "{error}");
    }
    federation.stop().await;
}
