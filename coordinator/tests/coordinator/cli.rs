//! Every bad input to the program is one line that names it and says what to do, and a failing exit
//! code; and nothing is written.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use tempfile::TempDir;
use time::Duration;

use crate::pki::{Authority, Leaf};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fedpaint-coordinator"));
    command.env_remove("RUST_LOG").env_remove("FEDPAINT_CONFIG");
    command
}

/// A folder with a coordinator's certificate and a configuration that works.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let leaf = Leaf::server("spiffe://brain/coordinator/main");
    Authority::new().issue(folder.path(), "own", &leaf);
    write_config(folder.path(), |text| text);
    folder
}

fn write_config(folder: &Path, edit: impl Fn(String) -> String) {
    let text = "federation = \"brain\"\nlisten = \"127.0.0.1:0\"\nstatus_listen = \"127.0.0.1:0\"\n\
                data = \"data\"\n[tls]\nca = \"ca.pem\"\ncertificate = \"own.pem\"\n\
                key = \"own.key\"\n";
    std::fs::write(folder.join("c.toml"), edit(text.to_owned())).unwrap();
}

fn serve(folder: &Path) -> Output {
    program().args(["serve", "--config"]).arg(folder.join("c.toml")).output().unwrap()
}

/// The one line on stderr of a failed start that has written nothing.
fn failure(folder: &Path) -> String {
    let line = one_line(folder);
    assert!(!folder.join("data").exists(), "{line}");
    line
}

/// The one line on stderr of a failed start.
fn one_line(folder: &Path) -> String {
    let output = serve(folder);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(stderr.starts_with("error: "), "{stderr}");
    stderr
}

#[test]
fn a_missing_or_malformed_config_is_one_line_that_names_it() {
    let folder = folder();
    write_config(folder.path(), |text| text.replace("brain", "Brain"));
    assert!(failure(folder.path()).contains("c.toml"));
    write_config(folder.path(), |text| format!("color = 1\n{text}"));
    assert!(failure(folder.path()).contains("color"));
    std::fs::remove_file(folder.path().join("c.toml")).unwrap();
    assert!(failure(folder.path()).contains("c.toml"));
}

#[test]
fn every_verb_takes_the_config_of_its_flag_then_of_the_variable_then_of_the_folder_it_is_run_in() {
    let folder = TempDir::new().unwrap();
    let verbs = [
        "serve",
        "fsck",
        "backup --out o",
        "restore --from f",
        "replay --run r",
        "replay --run r --round 1",
    ];
    let told = |verb: &str, variable: Option<&str>, flag: Option<&str>| {
        let mut command = program();
        command.args(verb.split(' ')).current_dir(folder.path());
        command.envs(variable.map(|file| ("FEDPAINT_CONFIG", file)));
        command.args(flag.into_iter().flat_map(|file| ["--config", file]));
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{verb}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{verb}: {stderr}");
        stderr
    };
    // Each says whose it is: none of them parses.
    let write = |file: &str, field: &str| {
        std::fs::write(folder.path().join(file), format!("{field} = 1\n")).unwrap();
    };
    for verb in verbs {
        let none = told(verb, None, None);
        for named in ["/coordinator.toml", "--config", "FEDPAINT_CONFIG"] {
            assert!(none.contains(named), "{verb}: {none}");
        }
    }
    write("coordinator.toml", "here");
    write("variable.toml", "variable");
    write("flag.toml", "flag");
    for verb in verbs {
        assert!(told(verb, None, None).contains("unknown field `here`"), "{verb}");
        assert!(
            told(verb, Some("variable.toml"), None).contains("unknown field `variable`"),
            "{verb}"
        );
        let both = told(verb, Some("variable.toml"), Some("flag.toml"));
        assert!(both.contains("unknown field `flag`"), "{verb}: {both}");
    }
}

#[test]
fn a_missing_or_malformed_certificate_is_one_line_that_names_the_file() {
    for file in ["ca.pem", "own.pem", "own.key"] {
        let folder = folder();
        std::fs::write(folder.path().join(file), "garbage").unwrap();
        assert!(failure(folder.path()).contains(file));
        std::fs::remove_file(folder.path().join(file)).unwrap();
        assert!(failure(folder.path()).contains(file));
    }
}

#[test]
fn a_key_of_another_certificate_is_one_line_that_names_the_certificate() {
    let folder = folder();
    let other = Leaf::server("spiffe://brain/coordinator/main");
    Authority::new().issue(folder.path(), "other", &other);
    std::fs::rename(folder.path().join("other.key"), folder.path().join("own.key")).unwrap();
    assert!(failure(folder.path()).contains("own.pem"));
}

#[test]
fn a_certificate_that_is_not_a_coordinators_of_the_federation_is_refused() {
    for uri in ["spiffe://brain/site/mayo", "spiffe://heart/coordinator/main", "https://brain"] {
        let folder = folder();
        Authority::new().issue(folder.path(), "own", &Leaf::server(uri));
        let line = failure(folder.path());
        assert!(line.contains("own.pem") && line.contains("fedctl ca issue"), "{line}");
    }
}

#[test]
fn an_expired_certificate_is_refused_at_the_start() {
    let folder = folder();
    let leaf = Leaf::server("spiffe://brain/coordinator/main");
    let leaf = Leaf { holds: Duration::hours(-1), ..leaf };
    Authority::new().issue(folder.path(), "own", &leaf);
    assert!(failure(folder.path()).contains("expired"));
}

#[test]
fn a_busy_port_is_one_line_that_names_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for field in ["listen", "status_listen"] {
        let folder = folder();
        let line = format!("{field} = \"127.0.0.1:0\"");
        write_config(folder.path(), |text| {
            let line = format!("\n{line}");
            text.replace(&line, &format!("\n{field} = \"{address}\""))
        });
        let line = failure(folder.path());
        assert!(line.contains(&address) && line.contains(field), "{line}");
    }
}

#[test]
fn a_database_that_cannot_be_used_is_one_line_that_names_it_but_no_password() {
    let folder = folder();
    std::fs::write(folder.path().join("bad.db"), "this is no database, however long it is")
        .unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let postgres = format!("postgres://fed:secret@{closed}/fed");
    for (url, names) in [("sqlite:bad.db", "bad.db"), (&postgres, &closed.to_string())] {
        write_config(folder.path(), |text| format!("database = \"{url}\"\n{text}"));
        let line = one_line(folder.path());
        assert!(line.contains(names) && !line.contains("secret"), "{line}");
    }
}

#[test]
fn a_data_folder_that_cannot_be_made_is_one_line_that_names_it() {
    let folder = folder();
    write_config(folder.path(), |text| text.replace("\"data\"", "\"own.pem/x\""));
    assert!(failure(folder.path()).contains("own.pem/x"));
}

#[test]
fn wrong_usage_exits_with_2_and_version_and_completions_with_0() {
    for arguments in [&["replay"][..], &["fly"], &["serve", "--config", "a", "b"], &[]] {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    let version = program().arg("--version").output().unwrap();
    assert!(version.status.success());
    let text = String::from_utf8(version.stdout).unwrap();
    assert_eq!(text, concat!("fedpaint-coordinator ", env!("CARGO_PKG_VERSION"), "\n"));
    let completions = program().args(["completions", "bash"]).output().unwrap();
    assert!(completions.status.success() && !completions.stdout.is_empty());
}

#[test]
fn too_few_files_are_told_with_what_to_do_and_enough_of_them_are_not() {
    for (files, told) in [(900, true), (4_000, false)] {
        let folder = folder();
        // Some systems let nobody have so many.
        let limits = getrlimit(Resource::Nofile).maximum;
        if limits.is_some_and(|maximum| maximum < files) {
            continue;
        }
        let log = folder.path().join("log");
        let mut child = Command::new("sh")
            .args(["-c", &format!("ulimit -Sn 100; ulimit -Hn {files}; exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_fedpaint-coordinator"))
            .args(["serve", "--config"])
            .arg(folder.path().join("c.toml"))
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let ready = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap();
        assert!(ready.unwrap().starts_with("listening"));
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert!(line.split_whitespace().nth(3) == Some(&files.to_string()), "{line}");
        let log = std::fs::read_to_string(&log).unwrap();
        let warned =
            log.contains(&format!("may have {files} files open")) && log.contains("LimitNOFILE");
        assert_eq!(warned, told, "{log}");
        assert!(log.contains("AWS-LC"), "what computes is told: {log}");
    }
}

#[test]
fn it_says_one_line_when_it_is_ready_and_stops_cleanly_on_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = folder();
        let mut child = program()
            .args(["serve", "--config"])
            .arg(folder.path().join("c.toml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next().unwrap().unwrap();
        let (grpc, status) = ready.split_once(", status on http://127.0.0.1:").unwrap();
        let ports = [grpc.strip_prefix("listening on https://127.0.0.1:").unwrap(), status];
        assert!(ports.iter().all(|port| port.parse::<u16>().unwrap() > 0));

        // A second one over the same data hears who has it, with ports of its own and with the same ones.
        let who = format!("the coordinator with process id {} on ", child.id());
        for field_ports in [["0", "0"], ports] {
            write_config(folder.path(), |text| {
                let [grpc, status] = field_ports;
                let text = text
                    .replace("\nlisten = \"127.0.0.1:0", &format!("\nlisten = \"127.0.0.1:{grpc}"));
                text.replace(
                    "status_listen = \"127.0.0.1:0",
                    &format!("status_listen = \"127.0.0.1:{status}"),
                )
            });
            let line = one_line(folder.path());
            assert!(line.contains(&who) && line.contains("the data folder"), "{line}");
        }

        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(lines.next().is_none());
    }
}
