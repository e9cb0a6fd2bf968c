//! A site to test with: scans, a model, a plan, and this program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use fedpaint_proto::failpoint;
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_site_agent::model::checkpoint;
use fedpaint_site_agent::model::spec::{ModelSpec, Preset};
use fedpaint_site_agent::model::weights::Weights;
use fedpaint_site_agent::phantom::scanner::Scanner;
use fedpaint_site_agent::phantom::{CohortSpec, write_cohort};
use fedpaint_site_agent::pipe::Setup;
use fedpaint_site_agent::settings::{CACHE_MIB_DEFAULT, ComputeSettings, DataSettings};
use tempfile::TempDir;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_fedpaint-site-agent");

/// A plan of a short round.
pub(crate) const PLAN: &str = "version = 1\nrounds = 1\n[round]\nsites_min = 1\nsites_goal = 1\n\
                        [training]\nsteps = 3\nbatch = 2\nseed = 7\n";

/// A plan of a round that does not end by itself within a test.
pub(crate) const ENDLESS: &str = "version = 1\nrounds = 1\n[round]\nsites_min = 1\nsites_goal = 1\n\
                           [training]\nsteps = 1000000\nbatch = 1\nseed = 7\n";

/// The scans of a small site, made once for all tests.
pub(crate) fn scans() -> &'static Path {
    static SCANS: OnceLock<TempDir> = OnceLock::new();
    let folder = SCANS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("scans");
        let spec = CohortSpec { out, patients: 2, scanner: Scanner::A, seed: 1, size_mm: 6.0 };
        write_cohort(&spec, &mut |_, _| {}).unwrap();
        folder
    });
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| folder.path().join("scans"))
}

/// A small model's file.
pub(crate) fn model() -> Vec<u8> {
    let spec = ModelSpec::preset(Preset::Tiny).with_image_size(16).unwrap();
    checkpoint::to_bytes(&Weights::init(&spec, 1).unwrap()).unwrap()
}

/// What some bytes are.
pub(crate) fn blob(bytes: &[u8]) -> Blob {
    Blob { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

/// What a trainer over `workspace` is told.
pub(crate) fn setup(workspace: &Path) -> Setup {
    Setup {
        workspace: workspace.to_owned(),
        data: DataSettings {
            path: scans().to_owned(),
            label_scheme: Some("brats2023".into()),
            contrasts: Some(vec!["t1n".into()]),
            held_out: 0.5,
            split_salt: String::new(),
            split: Some(workspace.join("split.json")),
            cache: None,
            cache_mib_max: CACHE_MIB_DEFAULT,
        },
        compute: ComputeSettings {
            device: "cpu".into(),
            threads: Some(1),
            ..ComputeSettings::default()
        },
        rehearsal: None,
    }
}

/// Runs the program with some arguments.
pub(crate) fn program(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).env("RUST_LOG", "error").output().unwrap()
}

/// Whether this process's disk fails by the one `rule`. A process obeys what it was started with, so that the test
/// called `name` is run once more in one of its own, where it has to pass, and to come to the place.
pub(crate) fn obeys(rule: &str, name: &str) -> bool {
    if std::env::var_os(failpoint::VARIABLE).is_some() {
        return true;
    }
    let folder = tempfile::tempdir().unwrap();
    let (rules, trace) = (folder.path().join("rules"), folder.path().join("trace"));
    std::fs::write(&rules, format!("trace {}\n{rule}\n", trace.display())).unwrap();
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", name, "--nocapture"]).env(failpoint::VARIABLE, &rules);
    let Output { status, stdout, stderr } = again.output().unwrap();
    let said = [stdout, stderr].concat();
    assert!(status.success(), "{}", String::from_utf8_lossy(&said));
    let place = rule.split(' ').next().unwrap();
    let trace = std::fs::read_to_string(&trace).unwrap_or_default();
    let passed = trace.lines().any(|line| line.split(' ').next() == Some(place));
    assert!(passed, "{name} does not come to {place}");
    false
}

/// The trainers whose working folder is `workspace`.
pub(crate) fn trainers(workspace: &Path) -> Vec<i32> {
    let workspace = workspace.canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|id: &i32| {
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let folder = std::fs::read_link(format!("/proc/{id}/cwd"));
            line.ends_with(b"trainer\0") && folder.is_ok_and(|folder| folder == workspace)
        })
        .collect()
}
