//! The study: it goes on where it was, says the same again, and its federated arm is a federation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::v1;
use fedpaint_tests::lab::{AgentOptions, Lab};
use fedpaint_tests::process::run;

const SMOKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/studies/smoke.toml");

/// Runs the smoke study in `out` and gives its summary.
fn study(out: &Path) -> String {
    let out = out.display().to_string();
    run("study", &["--plan", SMOKE, "--out", &out, "--jobs", "2", "--json"]).unwrap()
}

/// The files of a folder of the study, by name.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|p| p.is_file()).map(|p| (p.clone(), std::fs::read(p).unwrap())).collect()
}

/// The one file in `folder` whose name begins and ends so.
fn one(folder: &Path, begins: &str, ends: &str) -> PathBuf {
    let name = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().to_owned();
    let is_it = |p: &PathBuf| name(p).starts_with(begins) && name(p).ends_with(ends);
    let found: Vec<PathBuf> = files(folder).into_keys().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{begins}: {found:?}");
    found[0].clone()
}

#[test]
fn a_study_that_lost_results_makes_those_again_and_says_the_same_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (out, models) = (folder.path(), folder.path().join("models"));
    let first = study(out);
    let summary: serde_json::Value = serde_json::from_str(&first).unwrap();
    let arms = summary["arms"].as_array().unwrap();
    assert_eq!(
        arms.iter().map(|a| a["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["pooled", "fedavg", "fedadam", "int8", "int4-decoder", "alone", "twin", "fedtwin"]
    );
    for arm in arms {
        // The initial model and two rounds, at two sites.
        let curve = arm["curve"].as_array().unwrap();
        assert_eq!(curve.len(), 3, "{arm}");
        let scores = curve.iter().flat_map(|point| point[1]["mse"].as_array().unwrap());
        assert!(scores.map(|s| s.as_f64().unwrap()).filter(|s| *s > 0.0).count() == 6, "{arm}");
    }
    let beginning = |arm: usize| &arms[arm]["curve"][0][1]["mse"];
    assert_eq!(beginning(0), beginning(5));
    assert!(
        beginning(6) == beginning(7) && beginning(6) != beginning(0),
        "a twin begins as a twin"
    );
    let baselines = summary["baselines"].as_array().unwrap();
    assert_eq!(
        baselines.iter().map(|b| b["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["zero", "mean", "mirror", "harmonic", "biharmonic"]
    );
    let outputs = ["report.md", "scores.csv", "summary.json", "curves.png", "sites.png"];
    let before: Vec<Vec<u8>> =
        outputs.iter().map(|o| std::fs::read(out.join(o)).unwrap()).collect();
    assert!(before[3].starts_with(b"\x89PNG") && before[4].starts_with(b"\x89PNG"));
    // Two initial models, two of each model (pooled, federated in five ways, one per site, a twin), two
    // moving averages of each federated arm, two of Adam's moments for two rounds, and what both sites'
    // updates of two rounds left out in two arms.
    assert_eq!(files(&models).len(), 2 + 18 + 10 + 4 + 8);
    let up = |arm: usize| arms[arm]["bytes_up"].as_f64().unwrap();
    assert!(up(3) < 0.3 * up(1) && up(4) < 0.2 * up(1), "{} {} {}", up(1), up(3), up(4));
    // A file of baselines per site, however many models there are.
    let scores = files(&out.join("scores"));
    let is_of_baselines = |p: &&PathBuf| p.to_str().unwrap().contains("-baselines-");
    assert_eq!(scores.keys().filter(is_of_baselines).count(), 2);
    let report = String::from_utf8(before[0].clone()).unwrap();
    assert!(baselines.iter().all(|b| report.contains(b["name"].as_str().unwrap())), "{report}");
    assert!(files(&out.join("updates")).is_empty(), "an average's updates are removed");

    let all = files(&models);
    std::fs::remove_file(one(&models, "fedadam-r0001-", ".safetensors")).unwrap();
    std::fs::remove_file(one(&models, "alone-north-r0002-", ".safetensors")).unwrap();
    std::fs::remove_dir_all(out.join("scores")).unwrap();
    assert_eq!(study(out), first);
    assert_eq!(files(&models), all);
    for (output, before) in outputs.iter().zip(&before) {
        assert!(std::fs::read(out.join(output)).unwrap() == *before, "{output} has changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federated_arm_makes_the_bytes_of_a_federation_of_processes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    study(&out);
    let models = out.join("models");
    let initial = one(&models, "initial-", ".safetensors");
    let bytes = std::fs::read(&initial).unwrap();
    let base = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };

    let lab = Lab::start(&folder.path().join("lab")).unwrap();
    let data = "label_scheme = \"brats2023\"\ncontrasts = [\"t1n\"]\nheld_out = 0.0\n";
    let options = AgentOptions { data: data.into(), ..AgentOptions::default() };
    let folders = std::fs::read_dir(out.join("data")).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<PathBuf> = folders.collect();
    let mut agents = Vec::new();
    for site in ["north", "south"] {
        lab.enroll(site).unwrap();
        let begins = format!("{site}-training-");
        let is_its = |p: &&PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with(&begins);
        let patients = folders.iter().find(is_its).unwrap();
        agents.push(lab.start_agent(site, patients, &options).unwrap());
    }
    // The sites of the last two keep what their updates leave out, from one round to the next.
    for arm in ["fedavg", "fedadam", "int8", "int4-decoder"] {
        let plan = one(&out.join("plans"), &format!("{arm}-"), ".toml");
        let plan = std::fs::read_to_string(plan).unwrap();
        lab.create_run(arm, &plan, &initial, base).await.unwrap();
        let finished = lab.watch(arm, |run, _| run.state() == v1::RunState::Finished).await;
        let (done, _) = finished.unwrap_or_else(|e| panic!("{e}\n{}", agents[0].log().unwrap()));
        let published = Blob::try_from(&done.model.unwrap()).unwrap().digest;
        let studied = one(&models, &format!("{arm}-r0002-"), ".safetensors");
        assert_eq!(published, Digest::of(&std::fs::read(studied).unwrap()), "{arm}");
    }
}
