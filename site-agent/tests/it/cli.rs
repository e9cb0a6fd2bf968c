//! Bad input on the command line: one line that names the thing, the right exit code, nothing left.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use fedpaint_site_agent::model::checkpoint;

use crate::site::{PLAN, PROGRAM, model, program, scans};

/// Runs the program, which must fail with `code` and one line that contains `named`.
fn refused(args: &[&str], code: i32, named: &str) {
    let output = program(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert!(error.contains(named), "{args:?}: {error}");
    assert!(output.stdout.is_empty(), "{args:?}");
    if code == 1 {
        assert_eq!(error.lines().count(), 1, "{args:?}: {error}");
        assert!(error.starts_with("error: "), "{args:?}: {error}");
    }
}

#[test]
fn misuse_exits_with_2_and_help_with_0() {
    refused(&[], 2, "Usage");
    refused(&["paint"], 2, "paint");
    refused(&["init-model", "--preset", "huge", "--out", "x"], 2, "huge");
    refused(&["phantom", "--out", "x", "--patients", "1", "--scanner", "E"], 2, "scanner");
    refused(&["train", "--site", "Mayo Clinic"], 2, "Mayo Clinic");
    refused(&["train", "--rounds", "0"], 2, "--rounds");
    refused(&["train", "--threads", "0"], 2, "--threads");
    refused(&["train", "--threads", "1025"], 2, "--threads");
    for args in [&["--help"][..], &["inpaint", "--help"], &["--version"], &["completions", "bash"]]
    {
        let output = program(args);
        assert!(output.status.success() && !output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_configuration_that_is_missing_malformed_or_without_keys_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let config = path.to_str().unwrap();
    for verb in ["run", "doctor"] {
        refused(&[verb, "--config", config], 1, "agent.toml");
    }
    std::fs::write(&path, "coordinator = 7").unwrap();
    refused(&["run", "--config", config], 1, "agent.toml");
    let text = "coordinator = \"https://localhost:1\"\nworkspace = \"w\"\n[data]\npath = \"d\"\n\
                [tls]\nca = \"ca.pem\"\ncertificate = \"c.pem\"\nkey = \"c.key\"\n";
    std::fs::write(&path, text).unwrap();
    refused(&["run", "--config", config], 1, "c.pem");
    assert!(!folder.path().join("w").exists(), "a workspace was made");
}

#[test]
fn doctor_prints_a_line_per_check_and_fails_where_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let text = format!(
        "coordinator = \"https://localhost:1\"\nworkspace = \"w\"\n[data]\npath = {:?}\n[tls]\n\
         ca = \"ca.pem\"\ncertificate = \"c.pem\"\nkey = \"c.key\"\n",
        scans()
    );
    std::fs::write(&path, text).unwrap();
    let config = path.to_str().unwrap();
    let output = program(&["doctor", "--config", config]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |name: &str| text.lines().find(|l| l.contains(name)).unwrap_or_default().to_owned();
    assert!(line("certificate").starts_with("FAIL"), "{text}");
    assert!(line("data").starts_with("OK") && line("data").contains("2 patients"), "{text}");
    assert!(line("device").starts_with("OK"), "{text}");
    let cryptography = line("cryptography");
    assert!(cryptography.starts_with("OK") && cryptography.contains("AWS-LC"), "{text}");
    // Which devices there are, with their memory.
    let devices = line("devices");
    assert!(devices.starts_with("OK") && devices.contains("cpu"), "{text}");
    assert!(devices.contains(" MiB of memory available"), "{text}");
    assert!(!line("disk").is_empty(), "{text}");

    let output = program(&["doctor", "--config", config, "--output", "json"]);
    let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(checks[0]["name"], "certificate");
    assert_eq!(checks[0]["verdict"], "FAIL");
}

#[test]
fn models_plans_and_cohorts_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (good, bad, plan, out) = (path("m"), path("bad"), path("plan.toml"), path("out"));
    std::fs::write(&good, model()).unwrap();
    std::fs::write(&bad, &model()[..1000]).unwrap();
    std::fs::write(&plan, PLAN).unwrap();
    let data = scans().to_str().unwrap();
    let train = |model: &str, plan: &str, data: &str, named: &str| {
        let args =
            ["train", "--model", model, "--plan", plan, "--data", data, "--out", out.as_str()];
        refused(&args, 1, named);
    };
    train("none", &plan, data, "none");
    train(&bad, &plan, data, "bad");
    train(&good, &bad, data, "bad");
    train(&good, "none.toml", data, "none.toml");
    train(&good, &plan, folder.path().to_str().unwrap(), "no cases found");
    let evaluate = ["evaluate", "--model", &good, "--data", data, "--held-out", "0"];
    refused(&evaluate, 1, "--held-out");
    refused(&["init-model", "--preset", "tiny", "--image-size", "33", "--out", &out], 1, "33");
    refused(&["phantom", "--out", data, "--patients", "1", "--scanner", "A"], 1, "not empty");
    assert!(!folder.path().join("out").exists(), "something was written");
}

/// `train` by a plan that does not end within a test, to `out`.
fn endless(folder: &Path, out: &Path) -> Vec<String> {
    let (plan, start) = (folder.join("plan.toml"), folder.join("start"));
    std::fs::write(&plan, PLAN.replace("rounds = 1", "rounds = 100000")).unwrap();
    std::fs::write(&start, model()).unwrap();
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let files = [("--plan", path(&plan)), ("--model", path(&start)), ("--out", path(out))];
    let files = files.into_iter().flat_map(|(option, path)| [option.to_owned(), path]);
    let data = ["--data", scans().to_str().unwrap(), "--label-scheme", "brats2023"];
    [words(&["train", "--device", "cpu", "--threads", "1"]), words(&data), files.collect()].concat()
}

#[test]
fn a_model_that_could_not_be_written_is_not_trained_at_all() {
    let folder = tempfile::tempdir().unwrap();
    for out in ["nowhere/model", "."] {
        let args = endless(folder.path(), &folder.path().join(out));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused(&args, 1, "cannot write the model");
    }
}

#[test]
fn a_training_that_is_killed_leaves_the_model_of_its_last_whole_round() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    let mut command = Command::new(PROGRAM);
    command.args(endless(folder.path(), &out)).env("RUST_LOG", "info");
    let mut training = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(training.stderr.take().unwrap());
    let told = log.lines().map(Result::unwrap).filter(|line| line.contains("trained")).nth(1);
    training.kill().unwrap();
    assert!(!training.wait().unwrap().success());
    assert!(told.is_some_and(|line| line.contains("round=2")));
    assert!(checkpoint::load(&out).is_ok());
    assert!(folder.path().join("model.split.json").exists());
}

#[test]
fn inpainting_keeps_to_the_mask_and_refuses_one_of_another_shape() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model_file = path("m");
    std::fs::write(&model_file, model()).unwrap();
    let data = scans().to_str().unwrap();
    let saved = path("saved");
    let evaluated = program(&[
        "evaluate",
        "--model",
        &model_file,
        "--data",
        data,
        "--label-scheme",
        "brats2023",
        "--held-out",
        "0.5",
        "--contrasts",
        "t1n",
        "--steps",
        "2",
        "--save",
        &saved,
        "--output",
        "json",
    ]);
    assert!(evaluated.status.success(), "{}", String::from_utf8_lossy(&evaluated.stderr));
    let scores: serde_json::Value = serde_json::from_slice(&evaluated.stdout).unwrap();
    let case = scores["scans"][0]["case"].as_str().unwrap();
    assert!(scores["mean"]["mse"].as_f64().unwrap() > 0.0);
    let says_synthetic = |file: &str| {
        let bytes = std::fs::read(folder.path().join(file)).unwrap();
        bytes.windows(9).any(|word| word == b"SYNTHETIC")
    };
    assert!(says_synthetic("saved/panel.png"));

    let image = format!("{data}/{case}/{case}-t1n.nii.gz");
    let mask = format!("{saved}/{case}-t1n-mask.nii.gz");
    let (out, panel) = (path("x.nii.gz"), path("x.png"));
    let painted = program(&[
        "inpaint",
        "--model",
        &model_file,
        "--image",
        &image,
        "--mask",
        &mask,
        "--out",
        &out,
        "--steps",
        "2",
        "--panel",
        &panel,
    ]);
    assert!(painted.status.success(), "{}", String::from_utf8_lossy(&painted.stderr));
    let sidecar = std::fs::read(folder.path().join("x.json")).unwrap();
    let sidecar: serde_json::Value = serde_json::from_slice(&sidecar).unwrap();
    assert_eq!(sidecar["synthetic"], true);
    use fedpaint_proto::names::Digest;
    let digest = |path: &str| Digest::of(&std::fs::read(path).unwrap()).to_string();
    assert_eq!(sidecar["model"], digest(&model_file));
    assert_eq!(sidecar["mask"], digest(&mask));
    assert_eq!(sidecar["round"], serde_json::Value::Null);
    let sampling = &sidecar["sampling"];
    assert_eq!((&sampling["seed"], &sampling["steps"]), (&1.into(), &2.into()));
    assert_eq!(sampling["sampler"], "dpm-solver");
    assert_eq!(sidecar["tissues"], serde_json::json!(["healthy"]));
    assert!(says_synthetic("x.png"));

    use fedpaint_site_agent::data::nifti;
    let read = |path: &str| nifti::read(path.as_ref()).unwrap().volume;
    let (before, after, hidden) = (read(&image), read(&out), read(&mask));
    let pairs = before.voxels.iter().zip(&after.voxels).zip(&hidden.voxels);
    assert!(pairs.clone().all(|((b, a), m)| *m != 0.0 || b == a), "painted outside the mask");
    assert!(pairs.clone().any(|((b, a), m)| *m != 0.0 && b != a), "nothing was painted");

    let other = path("other");
    let cohort =
        program(&["phantom", "--out", &other, "--patients", "1", "--scanner", "B", "--size", "5"]);
    let other_case = String::from_utf8(cohort.stdout).unwrap().trim().to_owned();
    let wrong = format!("{other}/{other_case}/{other_case}-seg.nii.gz");
    let out = path("y.nii.gz");
    let args =
        ["inpaint", "--model", &model_file, "--image", &image, "--mask", &wrong, "--out", &out];
    refused(&args, 1, "shape");
    assert!(!folder.path().join("y.nii.gz").exists());
}
