//! The cache of prepared scans and the manifest of a split, as the command line has them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use fedpaint_proto::failpoint;

use crate::resume::trained_on;
use crate::site::{PLAN, PROGRAM, model, program, scans, setup};

/// Trains alone and gives the model's digest.
fn trained(folder: &Path, name: &str, more: &[&str]) -> String {
    trained_by(program, folder, name, more)
}

/// The same by another way to run the program.
fn trained_by(
    program: impl Fn(&[&str]) -> Output,
    folder: &Path,
    name: &str,
    more: &[&str],
) -> String {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("plan.toml"), PLAN).unwrap();
    std::fs::write(path("model.safetensors"), model()).unwrap();
    let (plan, start, out) = (path("plan.toml"), path("model.safetensors"), path(name));
    let data = scans().to_str().unwrap();
    let mut args = vec!["train", "--plan", &plan, "--model", &start, "--out", &out, "--data", data];
    args.extend(["--device", "cpu", "--label-scheme", "brats2023"]);
    args.extend(more);
    let output = program(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_model_is_the_same_bit_for_bit_cold_or_warm_with_one_thread_that_makes_batches_or_four() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache").to_str().unwrap().to_owned();
    let expected = trained(folder.path(), "a.safetensors", &["--threads", "1"]);
    for (name, threads) in [("b.safetensors", "16"), ("c.safetensors", "1")] {
        let more = ["--threads", threads, "--cache", &cache];
        assert_eq!(trained(folder.path(), name, &more), expected, "{threads} threads");
    }
    assert!(Path::new(&cache).join("prepared-v1").read_dir().unwrap().count() > 0);
}

#[test]
fn a_damaged_entry_of_the_cache_that_cannot_be_removed_is_made_again_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let cache = folder.join("cache");
    let more = ["--cache", cache.to_str().unwrap()];
    let expected = trained(folder, "a.safetensors", &more);
    let entries = cache.join("prepared-v1").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let entries: Vec<_> = entries.map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    assert!(!entries.is_empty());
    let (rules, trace) = (folder.join("rules"), folder.join("trace"));
    let full = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(args).env("RUST_LOG", "error").env(failpoint::VARIABLE, &rules);
        command.output().unwrap()
    };
    std::fs::write(&rules, format!("trace {}\ncache.remove enospc", trace.display())).unwrap();
    for (whole, path) in &entries {
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(path, damaged).unwrap();
    }
    assert_eq!(trained_by(full, folder, "b.safetensors", &more), expected);
    assert!(std::fs::read_to_string(&trace).unwrap().contains("cache.remove "));
    for (whole, path) in &entries {
        assert_eq!(&std::fs::read(path).unwrap(), whole, "{}", path.display());
    }
    // With room again there is nothing left to remove.
    assert_eq!(trained(folder, "c.safetensors", &more), expected);
}

#[test]
fn an_entry_that_the_disk_keeps_costs_others_their_place_in_a_full_cache_until_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, trace) = (folder.path().join("cache"), folder.path().join("trace"));
    let trained = |rules: &str| {
        let workspace = tempfile::tempdir().unwrap();
        let mut setup = setup(workspace.path());
        (setup.data.cache, setup.data.cache_mib_max) = (Some(cache.clone()), 1);
        trained_on(rules, PLAN, setup)
    };
    let inner = cache.join("prepared-v1");
    let entries = || {
        let names = inner.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect::<BTreeSet<String>>()
    };
    let expected = trained("");
    let kept = entries();
    assert!(!kept.is_empty());
    for name in &kept {
        std::fs::remove_file(inner.join(name)).unwrap();
    }
    // All the room there is, and not used for long.
    let old = inner.join("old.case");
    std::fs::write(&old, vec![0; 1 << 20]).unwrap();
    let file = std::fs::File::options().write(true).open(&old).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)).unwrap();
    for trouble in ["enospc", "eio", "erofs"] {
        let rules = format!("trace {}\ncache.drop {trouble}", trace.display());
        assert_eq!(trained(&rules), expected, "{trouble}");
        assert_eq!(entries(), BTreeSet::from(["old.case".to_owned()]), "{trouble}");
    }
    assert!(std::fs::read_to_string(&trace).unwrap().contains("cache.drop "));
    assert_eq!(trained(""), expected);
    assert_eq!(entries(), kept);
}

#[test]
fn a_training_and_data_split_write_the_same_manifest() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path(), "a.safetensors", &["--held-out", "0.5", "--split-salt", "x"]);
    let out = folder.path().join("split.json");
    let (data, out) = (scans().to_str().unwrap(), out.to_str().unwrap());
    let options = ["--held-out", "0.5", "--salt", "x", "--label-scheme", "brats2023"];
    let output = program(&[&["data", "split", data, "--out", out], &options[..]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim(), "1 training, 1 held out, 0 set aside");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let split = read(Path::new(out));
    assert_eq!(read(&folder.path().join("a.split.json")), split);
    let manifest: serde_json::Value = serde_json::from_str(&split).unwrap();
    let case = &manifest["cases"][0];
    let name = case["case"].as_str().unwrap();
    let file = scans().join(name).join(format!("{name}-t1n.nii.gz"));
    let digest = fedpaint_proto::names::Digest::of(&std::fs::read(file).unwrap()).to_string();
    assert!(digest.ends_with(case["files"]["t1n"].as_str().unwrap()), "{digest}");
}
