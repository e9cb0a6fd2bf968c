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

#[test]
fn nobody_who_trained_at_the_site_is_judged_on_whatever_is_asked_to_be_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, split) = (path("agent.toml"), path("w/split.json"));
    std::fs::create_dir(path("w")).unwrap();
    let text = format!(
        "coordinator = \"https://localhost:1\"\nworkspace = \"w\"\n[data]\npath = {:?}\n\
         label_scheme = \"brats2023\"\ncontrasts = [\"t1n\"]\nheld_out = 0.5\n[tls]\n\
         ca = \"ca.pem\"\ncertificate = \"c.pem\"\nkey = \"c.key\"\n",
        scans()
    );
    std::fs::write(&config, text).unwrap();
    let cases = ["Phantom-A-00000-000", "Phantom-A-00001-000"];
    let judged = |more: &[&str]| -> Vec<String> {
        let common = ["evaluate", "--baselines-only", "--baselines", "zero", "--output", "json"];
        let report = json(&[&common[..], more].concat());
        let scans = report["scans"].as_array().unwrap().iter();
        scans.map(|scan| scan["case"].as_str().unwrap().to_owned()).collect()
    };
    let data = scans().to_str().unwrap();
    let by_hand = ["--data", data, "--label-scheme", "brats2023", "--contrasts", "t1n"];
    for [trained, held_out] in [[0, 1], [1, 0]] {
        let case = |case: usize, part: &str| serde_json::json!({"case": cases[case], "part": part});
        let cases_of = [case(trained, "training"), case(held_out, "held_out")];
        let manifest = serde_json::json!({"version": 2, "cases": cases_of});
        std::fs::write(&split, manifest.to_string()).unwrap();
        assert_eq!(judged(&["--config", &config]), [cases[held_out]]);
        for salt in ["", "a", "b"] {
            let more = ["--split", &split, "--split-salt", salt, "--held-out", "0.5"];
            assert_eq!(judged(&[&by_hand[..], &more].concat()), [cases[held_out]], "{salt}");
        }
        assert_eq!(judged(&["--config", &config, "--all"]).len(), 2);
    }
}

#[test]
fn a_scan_that_cannot_be_judged_is_set_aside_by_name_and_the_others_are_judged() {
    let folder = tempfile::tempdir().unwrap();
    let cases = ["Phantom-A-00000-000", "Phantom-A-00001-000"];
    let file = |case: &str, kind: &str| folder.path().join(format!("{case}-{kind}.nii.gz"));
    for case in cases {
        for kind in ["t1n", "seg"] {
            let from = scans().join(case).join(format!("{case}-{kind}.nii.gz"));
            std::fs::copy(from, file(case, kind)).unwrap();
        }
    }
    // All of the brain is lesion, so that there is no healthy tissue to hide.
    let fill = |case: &str| {
        let scan = nifti::read(&file(case, "t1n")).unwrap();
        let brain = scan.volume.voxels.iter().map(|&v| f32::from(u8::from(v > 0.0))).collect();
        let labels = scan.volume.with_voxels(brain);
        nifti::write_like(&file(case, "seg"), &labels, &scan.geometry, "labels").unwrap();
    };
    let data = folder.path().to_str().unwrap();
    let args = |output| {
        let common = ["evaluate", "--baselines-only", "--baselines", "zero", "--all"];
        let more = ["--data", data, "--label-scheme", "lesion", "--output", output];
        [&common[..], &more].concat()
    };
    fill(cases[0]);
    let report = json(&args("json"));
    let judged = report["scans"].as_array().unwrap();
    assert_eq!((judged.len(), &judged[0]["case"]), (1, &cases[1].into()));
    let aside = report["set_aside"].as_array().unwrap();
    assert_eq!((aside.len(), &aside[0]["case"]), (1, &cases[0].into()));
    assert_eq!(aside[0]["contrast"], "t1n");
    assert!(aside[0]["reason"].as_str().unwrap().contains("no healthy mask fits"), "{aside:?}");
    let table = String::from_utf8(program(&args("table")).stdout).unwrap();
    assert!(table.contains(&format!("Set aside: 1\n  {} t1n  no healthy", cases[0])), "{table}");
    fill(cases[1]);
    let refused = program(&args("json"));
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("no scan can be judged") && error.contains(cases[1]), "{error}");
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
    assert!(report.as_object().unwrap()["twin"].is_null(), "that there is no twin is said");
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
    assert!(alone["twin"].is_string());

    // In the picture the mean fill and the twin stand beside what the model painted.
    let beside = path("beside");
    json(&on_cohort(&["--model", &model_file, "--twin", &twin, "--save", &beside]));
    let tiles = |folder: &str| {
        let png = std::fs::read(format!("{folder}/panel.png")).unwrap();
        let [width, height] =
            [16, 20].map(|at| u32::from_be_bytes(png[at..][..4].try_into().unwrap()));
        (width - 12, height)
    };
    let ((five, height), (six, same)) = (tiles(&saved), tiles(&beside));
    assert_eq!((6 * five, height), (5 * six, same));
    assert!(alone.get("model").is_none() && alone.get("mean").is_none());
}

#[test]
fn other_noise_is_judged_on_the_same_masks_if_they_have_a_seed_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m").to_str().unwrap().to_owned();
    // Away from the zeros that a new model ends with, so that what it paints depends on its noise.
    let new = checkpoint::from_bytes(&model()).unwrap();
    let wave = |(i, v): (usize, &f32)| v + 0.1 * (0.7 * i as f32).sin();
    let moved = new.iter().map(|(_, v)| v.iter().enumerate().map(wave).collect()).collect();
    checkpoint::save(&new.with_values(moved).unwrap(), file.as_ref()).unwrap();
    let judged = |seeds: &[&str]| {
        let more = [&["--model", &file, "--baselines", "mean"], seeds].concat();
        let report = json(&on_cohort(&more));
        let scan = &report["scans"][0];
        let mse = |at: usize| scan["methods"][at]["mse"].clone();
        (mse(0), mse(1), scan["voxels"].clone())
    };
    let first = judged(&["--seed", "1"]);
    let other_noise = judged(&["--seed", "2", "--mask-seed", "1"]);
    assert_ne!(first.0, other_noise.0);
    assert_eq!((&first.1, &first.2), (&other_noise.1, &other_noise.2));
    let other_masks = judged(&["--seed", "2"]);
    assert_ne!(first.1, other_masks.1);
}

/// A NIfTI-1 file of f32 whose axes run to the head, to the right and to the front, which is no order of
/// the program's own. `voxel` is told (x, y, z).
fn stored_z_first(dims: [usize; 3], voxel: impl Fn([f64; 3]) -> f64) -> Vec<u8> {
    let [nx, ny, nz] = dims;
    let mut bytes = vec![0; 352];
    bytes[..4].copy_from_slice(&348_i32.to_le_bytes());
    for (i, dim) in [3, nz, nx, ny, 1, 1, 1, 1].into_iter().enumerate() {
        bytes[40 + 2 * i..][..2].copy_from_slice(&(dim as i16).to_le_bytes());
    }
    // Type f32, 32 bits, a pose by affine.
    for (at, word) in [(70, 16_i16), (72, 32), (254, 1)] {
        bytes[at..][..2].copy_from_slice(&word.to_le_bytes());
    }
    // Voxel sizes, where voxels start, and the rows of the affine: x is the file's second axis.
    let ones = (0..4).map(|i| 76 + 4 * i).chain([280 + 4, 296 + 8, 312]);
    for (at, value) in ones.map(|at| (at, 1.0_f32)).chain([(108, 352.0)]) {
        bytes[at..][..4].copy_from_slice(&value.to_le_bytes());
    }
    bytes[344..348].copy_from_slice(b"n+1\0");
    for i in 0..nx * ny * nz {
        let (z, x, y) = (i % nz, i / nz % nx, i / (nz * nx));
        let value = voxel([x, y, z].map(|v| v as f64)) as f32;
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

#[test]
fn a_file_that_stores_its_axes_in_another_order_scores_as_the_challenges_package_scores_it() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, voxel: &dyn Fn([f64; 3]) -> f64| {
        let path = folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(&path, stored_z_first([16, 15, 13], voxel)).unwrap();
        path
    };
    // The case `border` of `tests/reference/metrics.py`.
    let truth = |[x, y, z]: [f64; 3]| 100.0 + (5.0 * x + 3.0 * y + 7.0 * z) % 23.0 * 20.0 + x * y;
    let wrong = |[x, y, z]: [f64; 3]| (2.0 * x + 7.0 * y + z) % 5.0 * 15.0;
    let is_hidden = |[x, y, z]: [f64; 3]| x < 6.0 && y < 7.0 && z < 5.0;
    let prediction = write("p.nii", &|at| 0.9 * truth(at) + wrong(at));
    let voided = write("v.nii", &|at| if is_hidden(at) { 0.0 } else { truth(at) });
    let mask = write("m.nii", &|at| f64::from(u8::from(is_hidden(at))));
    let truth = write("t.nii", &truth);
    let files = ["evaluate", "--prediction", &prediction, "--truth", &truth, "--voided", &voided];
    let found = json(&[&files[..], &["--mask", &mask, "--output", "json"]].concat());
    let golden = include_str!("../fixtures/model/metrics.json");
    let expected = &serde_json::from_str::<Value>(golden).unwrap()["border"]["stored_z_first"];
    for key in KEYS {
        let [found, expected] = [&found[key], &expected[key]].map(|v| v.as_f64().unwrap());
        assert!(
            (found - expected).abs() < 1e-7 * expected.abs().max(1.0),
            "{key}: {found} {expected}"
        );
    }
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
    // A voxel that is no number is refused wherever it lies, here far from the mask.
    let mut voxels = image.voxels.clone();
    voxels[0] = f32::NAN;
    let (nan, mut mask) =
        (write("nan.nii", &image.with_voxels(voxels)), vec![0.0; image.voxels.len()]);
    mask[600] = 1.0;
    let mask = write("mask.nii", &image.with_voxels(mask));
    refused([&nan, &good, &good, &mask], ["nan.nii", "finite"]);

    let model_file = path("m");
    std::fs::write(&model_file, model()).unwrap();
    let output = program(&on_cohort(&["--baselines-only", "--twin", &model_file]));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("direct"));
}
