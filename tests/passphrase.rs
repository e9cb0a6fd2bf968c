//! Private keys under a passphrase, in the real programs: who has it works, and who has another one starts nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;

use fedpaint_proto::passphrase::{Passphrase, VARIABLE};
use fedpaint_proto::v1;
use fedpaint_tests::lab::{FEDERATION, Lab, LabOptions, OPEN_POLICY};
use fedpaint_tests::models;
use fedpaint_tests::process::{ANSWER_TIMEOUT, Process, kill, program};

use crate::joining::{command, invited};
use crate::plan;

const AGENT: &str = "fedpaint-site-agent";
const COORDINATOR: &str = "fedpaint-coordinator";

/// The keys of a coordinator: what it issues certificates with, its own, and what it signs with.
const COORDINATORS: [&str; 3] =
    ["ca/issuing.key", "certificates/main.key", "certificates/main.signing.key"];

/// How long certificates last, in seconds; they are renewed when two thirds of that are over.
const LEAF_S: u32 = 60;

/// The site makes its updates up, half a second each.
const REHEARSAL: &str = "\n[rehearsal]\nsteps_ms = 100\n";
const TRAINING: &str = "\n[training]\nsteps = 5\nbatch = 2\n";

/// How the file of an encrypted key begins.
const LOCKED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";

/// A file with a passphrase.
fn passphrase(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("{text}\n")).unwrap();
    path
}

/// Runs a program that is to end by itself, with the passphrase in this file or with none.
fn by(file: Option<&Path>, name: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program(name).unwrap());
    command.args(args).env_remove(VARIABLE).envs(file.map(|file| (VARIABLE, file)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let (id, (sender, ended)) = (child.id(), channel());
    // Its only listener may have given it up.
    std::thread::spawn(move || drop(sender.send(child.wait_with_output().unwrap())));
    ended.recv_timeout(ANSWER_TIMEOUT).unwrap_or_else(|_| {
        kill(id);
        panic!("{name} goes on")
    })
}

/// The keys in a folder, each of which must be encrypted and its owner's alone.
fn locked_keys(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let keys: Vec<_> = files.filter(|path| path.extension() == Some("key".as_ref())).collect();
    for key in &keys {
        let text = fs::read_to_string(key).unwrap();
        assert!(text.starts_with(LOCKED), "{}: {text}", key.display());
        let mode = fs::metadata(key).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", key.display());
    }
    keys
}

/// Encrypts a key where it lies.
fn lock(key: &Path, with: &Path) {
    let open = fs::read_to_string(key).unwrap();
    fs::write(key, Passphrase::of_path(with).unwrap().lock(&open).unwrap()).unwrap();
}

/// That a program ends with code 1 and a line that names the key and says this.
fn refuses(ended: &Output, key: &str, why: &str) {
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    let line = said.lines().find(|line| line.contains(key)).unwrap_or_default();
    assert!(line.starts_with("error: ") && line.contains(why), "{key}, {why}: {said}");
}

/// A federation whose coordinator's keys are under a passphrase, in the folder `lab`, and is not started.
fn federation(folder: &Path, with: &Path) -> Lab {
    let environment = vec![(VARIABLE.to_owned(), with.to_owned())];
    let options = LabOptions { environment, leaf_s: Some(LEAF_S), ..LabOptions::default() };
    Lab::prepare(&folder.join("lab"), options).unwrap()
}

#[test]
fn an_authoritys_keys_are_encrypted_and_a_coordinator_starts_by_their_passphrase_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let own = passphrase(folder, "passphrase", "correct horse");
    let other = passphrase(folder, "other", "battery staple");
    let out = folder.join("authority");
    let text = out.display().to_string();
    let init = ["ca", "init", "--federation", FEDERATION, "--out", &text];
    let made = by(Some(own.as_path()), "fedctl", &init);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(locked_keys(&out).len(), 2, "the root's and the issuing one");

    let mut lab = federation(folder, &own);
    let config = lab.path("coordinator.toml");
    let serve = |file: Option<&Path>| by(file, COORDINATOR, &["serve", "--config", &config]);
    for key in COORDINATORS {
        let path = PathBuf::from(lab.path(key));
        let open = fs::read_to_string(&path).unwrap();
        lock(&path, &own);
        refuses(&serve(None), key, &format!("set {VARIABLE}"));
        refuses(&serve(Some(other.as_path())), key, "the passphrase is not this key's");
        fs::write(&path, open).unwrap();
    }
    for key in COORDINATORS {
        lock(Path::new(&lab.path(key)), &own);
    }
    lab.start_coordinator().unwrap();
    // It issues, so that it has opened the authority's key too.
    let token = invited(&lab, "oslo");
    let join = command(&lab, &token, &folder.join("oslo"));
    let join: Vec<&str> = join.iter().map(String::as_str).collect();
    let joined = by(None, AGENT, &join);
    assert!(joined.status.success(), "{joined:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_joins_trains_and_renews_with_encrypted_keys_and_stops_by_another_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let own = passphrase(folder, "passphrase", "correct horse");
    let other = passphrase(folder, "other", "battery staple");
    let mut lab = federation(folder, &own);
    lock(Path::new(&lab.path("ca/issuing.key")), &own);
    lab.start_coordinator().unwrap();
    let model = folder.join("base.safetensors");
    let base = models::write(&model, models::specs(), |_, _| 0.5).unwrap();
    lab.create_run("brain", &plan(10_000, 1, 1, TRAINING), &model, base).await.unwrap();

    let out = folder.join("mayo");
    fs::create_dir_all(out.join("scans")).unwrap();
    let join = command(&lab, &invited(&lab, "mayo"), &out);
    let join: Vec<&str> = join.iter().map(String::as_str).collect();
    let joined = by(Some(own.as_path()), AGENT, &join);
    assert!(joined.status.success(), "{joined:?}");
    assert_eq!(locked_keys(&out).len(), 2, "for TLS and for signing");

    let config = out.join("site-agent.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("policy = \"policy.toml\"\n{text}{REHEARSAL}")).unwrap();
    fs::write(out.join("policy.toml"), OPEN_POLICY).unwrap();
    let config = config.display().to_string();
    let run = ["run", "--config", &config];
    refuses(&by(None, AGENT, &run), "mayo/mayo.key", &format!("set {VARIABLE}"));
    let another = "the passphrase is not this key's";
    refuses(&by(Some(other.as_path()), AGENT, &run), "mayo/mayo.key", another);

    let environment = [(VARIABLE.to_owned(), own.clone())];
    let agent = program(AGENT).unwrap();
    let log = folder.join("mayo.log");
    let mut agent = Process::start_with(&agent, &run, &log, &environment).unwrap();
    let key = out.join("mayo.key");
    let first = fs::read_to_string(&key).unwrap();
    let is_renewed = |run: &v1::Run, _: &v1::Round| {
        run.rounds_committed > 0 && fs::read_to_string(&key).is_ok_and(|text| text != first)
    };
    let seen = tokio::time::timeout(ANSWER_TIMEOUT, lab.watch("brain", is_renewed)).await;
    let seen = seen.unwrap_or_else(|_| panic!("no renewal: {}", agent.log().unwrap()));
    let (seen, _) = seen.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));
    assert_eq!(locked_keys(&out).len(), 2);
    // And rounds go on, over a connection that the new key makes.
    let goes_on = |run: &v1::Run, _: &v1::Round| {
        let log = agent.log().unwrap();
        let connected = ["the certificate is renewed", "a new connection is made"];
        connected.iter().all(|words| log.contains(words))
            && run.rounds_committed >= seen.rounds_committed + 3
    };
    let done = tokio::time::timeout(ANSWER_TIMEOUT, lab.watch("brain", goes_on)).await;
    done.unwrap_or_else(|_| panic!("no round goes on: {}", agent.log().unwrap())).unwrap();
    assert!(agent.stop().unwrap().success(), "{}", agent.log().unwrap());
}
