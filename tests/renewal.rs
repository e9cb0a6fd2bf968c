//! An operator's certificate, renewed by whatever `fedctl` does next.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fedpaint_coordinator::ca::{self, Issued};
use fedpaint_proto::identity::{KeyId, Role, Validity};
use fedpaint_proto::tls::TlsFiles;
use fedpaint_tests::lab::{Lab, LabOptions};
use fedpaint_tests::process::program;
use jiff::{SignedDuration, Timestamp};

const DAY: SignedDuration = SignedDuration::from_hours(24);

#[expect(
    clippy::disallowed_methods,
    reason = "the edge: the programs that are run here live by the same clock"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

/// A federation whose coordinator may issue certificates, or may not.
fn federation(folder: &Path, issues: bool) -> Lab {
    let leaf_s = issues.then_some(3_600);
    let mut lab = Lab::prepare(folder, LabOptions { leaf_s, ..LabOptions::default() }).unwrap();
    lab.start_coordinator().unwrap();
    lab
}

/// The certificate of an operator: of a week, of which `days` are left.
fn operator(lab: &Lab, name: &str, days: i32) -> TlsFiles {
    let read = |file: &str| std::fs::read_to_string(lab.path(file)).unwrap();
    let authority =
        Issued { certificate_pem: read("ca/issuing.pem"), key_pem: read("ca/issuing.key") };
    let not_after = now() + DAY * days;
    let validity = ca::Validity { not_before: not_after - DAY * 7, not_after };
    let role = Role::Operator(name.parse().unwrap());
    let issued = ca::issue(&authority, &role, &[], validity).unwrap();
    let files = lab.tls(name);
    std::fs::write(&files.certificate, issued.certificate_pem).unwrap();
    fedpaint_proto::credential::write_key(&files.key, &issued.key_pem).unwrap();
    files
}

fn fedctl(lab: &Lab, files: &TlsFiles) -> Command {
    let mut command = Command::new(program("fedctl").unwrap());
    command
        .env("FEDCTL_COORDINATOR", lab.address())
        .env("FEDCTL_CA", &files.ca)
        .env("FEDCTL_CERT", &files.certificate)
        .env("FEDCTL_KEY", &files.key)
        .stdin(Stdio::null());
    command
}

/// What a command that succeeds says on stderr.
fn stderr(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.success(), "{stderr}");
    stderr
}

fn key(files: &TlsFiles) -> KeyId {
    // It reads only where key and certificate fit together.
    files.client().unwrap();
    KeyId::of_certificate(&files.own_certificate().unwrap()).unwrap()
}

fn days_left(files: &TlsFiles) -> i64 {
    let validity = Validity::of_certificate(&files.own_certificate().unwrap()).unwrap();
    let left: SignedDuration = validity.not_after - now();
    // To the next hour, because some seconds of it are over.
    (left.as_secs() + 3_600) / 86_400
}

#[test]
fn the_next_command_renews_an_operators_certificate_once_a_third_of_its_life_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let lab = federation(folder.path(), true);
    let bob = operator(&lab, "bob", 5);
    let old = key(&bob);
    let status = || fedctl(&lab, &bob).args(["--output", "json", "status"]).output().unwrap();
    assert_eq!(stderr(&status()), "", "some hours before it is due");
    assert_eq!(key(&bob), old);

    let carol = operator(&lab, "carol", 4);
    let old = key(&carol);
    let list = || fedctl(&lab, &carol).args(["--output", "json", "site", "list"]).output().unwrap();
    let output = list();
    let told = stderr(&output);
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.starts_with("renewed ") && told.contains("carol.pem"), "{told}");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(shown["sites"].is_array(), "the command did its own work too: {shown}");
    let fresh = key(&carol);
    assert_ne!(fresh, old);
    assert_eq!(days_left(&carol), 7);
    assert_eq!(days_left(&lab.tls("ada")), 7, "one from `fedctl ca issue`");
    let mode = std::fs::metadata(&carol.key).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert_eq!(stderr(&list()), "", "renewed once");
    assert_eq!(key(&carol), fresh);

    // At any time, for who asks for that.
    let renew = |more: &[&str]| {
        let all = [&["--output", "json", "renew"][..], more].concat();
        let output = fedctl(&lab, &carol).args(all).output().unwrap();
        assert_eq!(stderr(&output), "");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let shown = renew(&[]);
    assert!(shown["identity"].as_str().unwrap().ends_with("/operator/carol"), "{shown}");
    assert_eq!(key(&carol), fresh, "it is not due");
    renew(&["--now"]);
    assert_ne!(key(&carol), fresh);
    let events = lab.fedctl(&["--output", "json", "events"]).unwrap();
    let renewals = events.lines().filter(|line| line.contains("certificate_renewed"));
    let (all, hers) = renewals.fold((0, 0), |(all, hers), line| {
        (all + 1, hers + i32::from(line.contains("operator/carol")))
    });
    assert_eq!((all, hers), (2, 2), "{events}");
}

#[test]
fn commands_that_renew_at_once_all_work_and_leave_a_key_that_fits_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let lab = federation(folder.path(), true);
    let bob = operator(&lab, "bob", 4);
    let old = key(&bob);
    let start = |_| {
        let mut command = fedctl(&lab, &bob);
        command.arg("status").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = (0..6).map(start).collect();
    let told: Vec<String> =
        running.into_iter().map(|child| stderr(&child.wait_with_output().unwrap())).collect();
    assert!(told.iter().any(|told| told.starts_with("renewed ")), "{told:?}");
    assert!(!told.iter().any(|told| told.contains("warning")), "{told:?}");
    assert_ne!(key(&bob), old);
    assert_eq!(stderr(&fedctl(&lab, &bob).arg("status").output().unwrap()), "");
    let left = std::fs::read_dir(bob.key.parent().unwrap()).unwrap();
    let waiting =
        left.filter(|file| file.as_ref().unwrap().path().extension() == Some("next".as_ref()));
    assert_eq!(waiting.count(), 0);
}

#[test]
fn a_certificate_that_nobody_can_renew_is_told_of_and_keeps_no_command_from_its_work() {
    let folder = tempfile::tempdir().unwrap();
    let lab = federation(folder.path(), false);
    let bob = operator(&lab, "bob", 4);
    let old = key(&bob);
    let told = stderr(&fedctl(&lab, &bob).arg("status").output().unwrap());
    assert_eq!(told.lines().count(), 1, "{told}");
    for part in ["warning: ", "bob.pem", "fedctl ca issue operator"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(key(&bob), old);
    let output = fedctl(&lab, &bob).arg("renew").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
