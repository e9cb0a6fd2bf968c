//! The rules of the house that a reader cannot check by eye: what is deliberately absent.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The longest file without a word in its head about why it is longer.
const FILE_LINES_MAX: usize = 500;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust source below a folder.
pub(crate) fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// What is built for a package (`-p NAME`) or for all of them (`--workspace`), one crate a line.
fn dependencies(of: &[&str]) -> String {
    let args = ["tree", "--locked", "--offline", "--edges", "normal,build", "--prefix", "none"];
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| env!("CARGO").into());
    let output = Command::new(cargo).args(args).args(of).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_coordinator_and_the_protocol_know_no_burn_and_no_scan_format() {
    for package in ["fedpaint-coordinator", "fedpaint-proto"] {
        let tree = dependencies(&["-p", package]);
        assert!(tree.contains("tonic v"), "{tree}");
        for banned in ["burn", "nifti", "dicom"] {
            assert!(!tree.lines().any(|line| line.starts_with(banned)), "{package}: {banned}");
        }
    }
}

#[test]
fn no_crate_reads_pickles_or_brings_a_second_tls() {
    let tree = dependencies(&["--workspace"]);
    assert!(tree.contains("aws-lc-rs v"), "{tree}");
    for banned in ["serde-pickle", "tch", "openssl", "openssl-sys", "ring", "native-tls"] {
        let is_banned = |line: &str| line.strip_prefix(banned).is_some_and(|l| l.starts_with(" v"));
        assert!(!tree.lines().any(is_banned), "{banned}");
    }
}

#[test]
fn no_file_is_longer_than_one_idea() {
    for path in sources(&root()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        let excused = text.lines().take(20).any(|line| line.contains("This file is long because"));
        assert!(lines <= FILE_LINES_MAX || excused, "{}: {lines} lines", path.display());
    }
}

#[test]
fn the_pure_core_imports_no_runtime_no_database_and_no_wire() {
    let core = root().join("coordinator/src");
    let pure = |path: &Path| {
        let name = path.strip_prefix(&core).unwrap().display().to_string();
        let first = name.split(['/', '.']).next().unwrap_or_default().to_owned();
        name.starts_with("driver/core")
            || ["round", "run", "fedavg", "aggregate", "audit", "records", "roster"]
                .contains(&first.as_str())
    };
    let files: Vec<PathBuf> = sources(&core).into_iter().filter(|p| pure(p)).collect();
    let has = |end: &str| files.iter().any(|path| path.ends_with(end));
    assert!(has("round.rs") && has("run.rs") && has("fedavg.rs"), "{files:?}");
    assert!(has("driver/core.rs") && has("driver/core/apply.rs"), "{files:?}");
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut banned = vec!["tokio", "sqlx", "tonic", "Timestamp::now", "crate::store"];
        // The driver's core may name the driver's words, such as its error, and nothing that acts.
        let own = path.starts_with(core.join("driver"));
        banned.push(if own { "crate::blobs" } else { "crate::driver" });
        for banned in banned {
            let uses = text.lines().filter(|l| !l.trim_start().starts_with("//"));
            assert!(!uses.clone().any(|l| l.contains(banned)), "{}: {banned}", path.display());
        }
    }
}

#[test]
fn no_message_of_a_site_names_its_sender_or_can_carry_a_scan() {
    let text = std::fs::read_to_string(root().join("proto/fedpaint/v1/federation.proto")).unwrap();
    let blob = std::fs::read_to_string(root().join("proto/fedpaint/v1/blob.proto")).unwrap();
    let fields = text.lines().chain(blob.lines()).filter(|l| !l.trim_start().starts_with("//"));
    for line in fields {
        for banned in ["site", "sender", "patient", "path", "scan", "image"] {
            assert!(!line.contains(banned), "{line}");
        }
    }
}

#[test]
fn fedctl_reaches_a_coordinator_by_grpc_alone() {
    for path in sources(&root().join("coordinator/src/bin/fedctl")) {
        let text = std::fs::read_to_string(&path).unwrap();
        for banned in ["fedpaint_coordinator::store", "fedpaint_coordinator::driver", "sqlx"] {
            assert!(!text.contains(banned), "{}: {banned}", path.display());
        }
    }
}

#[test]
fn the_tree_names_no_path_of_the_machine_it_was_written_on() {
    let home = ["/ro", "ot/"].concat();
    let work = ["/wo", "rk/"].concat();
    for path in sources(&root()) {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&home) && !text.contains(&work), "{}", path.display());
    }
}

#[test]
fn the_systems_randomness_is_drawn_by_one_command_and_by_what_says_so() {
    // What AWS-LC draws is banned by clippy.toml, beside the generators of rand; a type cannot be banned so.
    for folder in ["coordinator/src", "site-agent/src", "proto/src"] {
        for path in sources(&root().join(folder)) {
            let text = std::fs::read_to_string(&path).unwrap();
            let draws = ["SysRng", "OsRng", "getrandom"].iter().any(|name| text.contains(name));
            // The salt of names that an import makes up, which nobody may foresee.
            let is_import = path.ends_with("commands/data/import.rs");
            assert_eq!(draws, is_import, "{}", path.display());
        }
    }
}
