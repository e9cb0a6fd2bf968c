//! The wall in the source: the half that holds keys does not reach the half that holds scans.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The half with keys and network, and what both halves share.
const AGENT: &[&str] = &[
    "agent",
    "client",
    "config",
    "doctor",
    "gate",
    "join",
    "keys",
    "lineage",
    "plans",
    "policy",
    "receipt",
    "renewal",
    "supervisor",
    "witness",
];
const SHARED: &[&str] = &["backoff", "disk", "pipe", "seal", "settings", "workspace"];

/// The half with scans and device.
const TRAINER: &[&str] = &[
    "baselines",
    "checkpoints",
    "cohort",
    "cpu",
    "data",
    "evaluate",
    "local_round",
    "metrics",
    "model",
    "panel",
    "phantom",
    "rehearsal",
    "train",
    "trainer",
];

/// The command line, which reaches both.
const EDGE: &[&str] = &["commands", "lib", "main"];

fn sources(module: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![src.join(format!("{module}.rs"))];
    let mut folders = vec![src.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.retain(|path| path.extension().is_some_and(|e| e == "rs") && path.exists());
    assert!(!found.is_empty(), "module {module} has no source");
    found
}

fn assert_never_named(modules: &[&str], forbidden: &[String]) {
    for path in modules.iter().flat_map(|module| sources(module)) {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for word in forbidden {
                assert!(!line.contains(word.as_str()), "{} names {word}: {line}", path.display());
            }
        }
    }
}

#[test]
fn the_agents_half_never_names_a_module_of_the_trainers() {
    let reach = |module: &&str| [format!("crate::{module}::"), format!("crate::{module};")];
    let mut forbidden: Vec<String> = TRAINER.iter().flat_map(reach).collect();
    forbidden.extend(["burn::", "nifti::", "rayon::"].map(str::to_owned));
    assert_never_named(AGENT, &forbidden);
    assert_never_named(SHARED, &forbidden);
}

#[test]
fn the_trainers_half_never_names_keys_network_or_the_agents_half() {
    let reach = |module: &&str| [format!("crate::{module}::"), format!("crate::{module};")];
    let mut forbidden: Vec<String> = AGENT.iter().flat_map(reach).collect();
    let words = [
        "tonic",
        "rustls",
        "tokio",
        "std::net",
        "fedpaint_proto::tls",
        "fedpaint_proto::channel",
        "fedpaint_proto::transfer",
        "fedpaint_proto::v1",
        "fedpaint_proto::identity",
    ];
    forbidden.extend(words.map(str::to_owned));
    assert_never_named(TRAINER, &forbidden);
}

#[test]
fn every_module_is_on_one_side_of_the_wall() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.trim_end_matches(".rs").to_owned()
    };
    let found: BTreeSet<String> = std::fs::read_dir(src).unwrap().map(name).collect();
    let known = [AGENT, SHARED, TRAINER, EDGE].concat();
    for module in &found {
        // A module's tests are on its side.
        let module = module.strip_suffix("_tests").unwrap_or(module);
        assert!(known.contains(&module), "module {module} is on neither side of the wall");
    }
}

#[test]
fn noise_and_steps_are_drawn_on_the_host_so_that_a_seed_means_the_same_on_every_device() {
    let words = ["Tensor::random", "random_like(", "tensor::Distribution", "device.seed("];
    assert_never_named(TRAINER, &words.map(str::to_owned));
}
