//! `evaluate` by files and on a cohort: both say the same of the same scan, and refuse what is not
//! a scan of this grid.

use fedpaint_site_agent::data::nifti;
use fedpaint_site_agent::data::volume::Volume;
use fedpaint_site_agent::model::checkpoint;
use fedpaint_site_agent::model::spec::{ModelSpec, Prediction, Preset};
use fedpaint_site_agent::model::weights::Weights;
use serde_json::Value;

use crate::site::{model, program, scans};

/// What the program prints as JSON.
fn json(args: &[&str]) -> Value {
    let output = program(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A model that predicts the tissue itself.
fn regression_model() -> Vec<u8> {
    let mut spec = ModelSpec::preset(Preset::Tiny).with_image_size(16).unwrap();
    spec.prediction = Prediction::Direct;
    checkpoint::to_bytes(&Weights::init(&spec, 1).unwrap()).unwrap()
}

/// The arguments of an evaluation of the held-out patient's one scan.
fn on_cohort<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let data = scans().to_str().unwrap();
    let common = ["evaluate", "--data", data, "--label-scheme", "brats2023", "--held-out", "0.5"];
    [&common[..], &["--contrasts", "t1n", "--steps", "2", "--output", "json"], more].concat()
}

const KEYS: [&str; 8] = ["ssim", "ssim_3d", "mse", "rmse", "mae", "msle", "psnr", "psnr_01"];

#[test]
fn a_scan_scores_the_same_by_its_files_as_on_its_cohort_and_baselines_the_same_without_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model_file, saved) = (path("m"), path("saved"));
    std::fs::write(&model_file, model()).unwrap();
    let more = ["--model", &model_file, "--site", "mayo", "--save", &saved];
    let report = json(&on_cohort(&more));
    assert_eq!(report["site"], "mayo");
    let scan = &report["scans"][0];
    let methods = scan["methods"].as_array().unwrap();
    let names: Vec<&str> = methods.iter().map(|m| m["method"].as_str().unwrap()).collect();
    assert_eq!(names, ["model", "zero", "mean", "mirror", "harmonic", "biharmonic"]);
    assert_eq!(report["mean"]["mse"], methods[0]["mse"]);
    assert_eq!(report["mean"]["mse_mean_fill"], methods[2]["mse"]);
    assert_eq!(report["overall"][4]["ssim_3d"]["mean"], methods[4]["ssim_3d"]);

    let case = scan["case"].as_str().unwrap();
    let truth = format!("{}/{case}/{case}-t1n.nii.gz", scans().to_str().unwrap());
    let file = |kind: &str| format!("{saved}/{case}-t1n-{kind}.nii.gz");
    let (voided, mask) = (path("voided.nii.gz"), file("mask-healthy"));
    let image = nifti::read(truth.as_ref()).unwrap();
    let hidden = nifti::read(file("mask").as_ref()).unwrap().volume;
    let voxels = image.volume.voxels.iter().zip(&hidden.voxels);
    let voxels = voxels.map(|(&v, &h)| if h == 0.0 { v.max(0.0) } else { 0.0 }).collect();
    let void = image.volume.with_voxels(voxels);
    nifti::write_like(voided.as_ref(), &void, &image.geometry, "voided").unwrap();
    let score = |prediction: &str| {
        let prediction = ["evaluate", "--prediction", prediction, "--truth", &truth];
        let rest = ["--voided", &voided, "--mask", &mask, "--output", "json"];
        json(&[&prediction[..], &rest].concat())
    };
    let scores = score(&file("inpainted"));
    assert_eq!(scores.as_object().unwrap().len(), KEYS.len() + 1);
    assert_eq!(scores["voxels"], scan["voxels"]);
    for key in KEYS {
        assert_eq!(scores[key], methods[0][key], "{key}");
        assert!(scores[key].is_f64(), "{key}");
    }
    // A voided scan is the zero fill.
    assert_eq!(score(&voided)["mse"], methods[1]["mse"]);

    let twin = path("twin");
    std::fs::write(&twin, regression_model()).unwrap();
    let more = ["--baselines-only", "--baselines", "harmonic,mirror", "--twin", &twin];
    let alone = json(&on_cohort(&more));
    let found = &alone["scans"][0]["methods"];
    assert_eq!((&found[0], &found[1]), (&methods[4], &methods[3]));
    assert_eq!(found[2]["method"], "regression");
    assert!(alone.get("model").is_none() && alone.get("mean").is_none());
}

#[test]
fn files_of_another_grid_an_empty_mask_and_a_twin_with_noise_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let voxels: Vec<f32> = (0..12 * 11 * 10).map(|i| (i % 97) as f32).collect();
    let image = Volume { dims: [12, 11, 10], spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels };
    let write = |name: &str, volume: &Volume| {
        let path = path(name);
        nifti::write_new(path.as_ref(), volume, nifti::Storage::F32, "").unwrap();
        path
    };
    let good = write("good.nii.gz", &image);
    let moved = write("moved.nii", &Volume { origin_mm: [3.0, 0.0, 0.0], ..image.clone() });
    let empty = write("empty.nii", &image.with_voxels(vec![0.2; image.voxels.len()]));
    let refused = |[prediction, truth, voided, mask]: [&str; 4], named: [&str; 2]| {
        let args = ["--prediction", prediction, "--truth", truth, "--voided", voided];
        let output = program(&[&["evaluate", "--mask", mask], &args[..]].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(named.iter().all(|named| error.contains(named)), "{error}");
        assert!(output.stdout.is_empty());
    };
    refused([&moved, &good, &good, &good], ["moved.nii", "affine"]);
    refused([&good, &good, &good, &moved], ["moved.nii", "affine"]);
    refused([&good, &good, &good, &empty], ["empty.nii", "mask is empty"]);
    refused([&good, &good, &empty, &good], ["empty.nii", "no contrast"]);
    refused([&good, "none.nii", &good, &good], ["none.nii", ""]);

    let model_file = path("m");
    std::fs::write(&model_file, model()).unwrap();
    let output = program(&on_cohort(&["--baselines-only", "--twin", &model_file]));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("direct"));
}
