//! Reading and normalising one case of BraTS's size (240x240x155, four contrasts, `.nii.gz`), on one
//! thread, beside nibabel and numpy doing the same in turns (`tests/reference/bench_read.py`).
//!
//! The case is a phantom unless `--case` names a folder of `.nii.gz` files. Without a Python that has
//! nibabel it measures our half alone.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use fedpaint_site_agent::data::nifti;
use fedpaint_site_agent::data::normalise::Window;
use fedpaint_site_agent::phantom::scanner::Scanner;
use fedpaint_site_agent::phantom::{self, CohortSpec};
use serde_json::{Value, json};

/// How often both sides take their turn.
const REPETITIONS: usize = 8;

/// How far apart, as a fraction of the upper one, the two may put a window or a mean.
const AGREEMENT: f64 = 1e-3;

/// Measures, compares, and reports seconds per case.
pub(crate) fn run(args: &[String]) -> Value {
    let option = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let repetitions = option("--repetitions").map_or(REPETITIONS, |n| n.parse().expect("a number"));
    let python = option("--python").unwrap_or_else(|| "python3".into());
    let made = tempfile::tempdir().expect("a temporary folder");
    let case = option("--case").map_or_else(|| phantom_case(made.path()), PathBuf::from);
    let has_nibabel = Command::new(&python).args(["-c", "import nibabel"]).output();
    let has_nibabel = has_nibabel.is_ok_and(|output| output.status.success());

    let (mut ours, mut theirs, mut reference) = (Vec::new(), Vec::new(), None);
    for _ in 0..repetitions {
        let start = Instant::now();
        for file in files(&case) {
            black_box(normalised(&file));
        }
        ours.push(start.elapsed().as_secs_f64());
        if has_nibabel {
            let mut report = measured_by_nibabel(&python, &case);
            theirs.push(report["seconds"][0].as_f64().expect("seconds"));
            reference = Some(report["files"].take());
        }
    }
    let mut report = json!({
        "benchmark": "read and normalise one case",
        "files": files(&case).len(),
        "ours": summary(&ours),
    });
    if let Some(reference) = reference {
        check_agreement(&case, &reference);
        report["nibabel"] = summary(&theirs);
        let ratio = |key: &str| {
            report["nibabel"][key].as_f64().unwrap_or(0.0)
                / report["ours"][key].as_f64().unwrap_or(1.0)
        };
        report["times_faster"] = json!({ "min_s": ratio("min_s"), "median_s": ratio("median_s") });
    }
    report
}

/// The four contrasts of a phantom at BraTS's geometry.
fn phantom_case(folder: &Path) -> PathBuf {
    let out = folder.join("cohort");
    let spec =
        CohortSpec { out: out.clone(), patients: 1, scanner: Scanner::A, seed: 7, size_mm: 1.0 };
    let names = phantom::write_cohort(&spec, &mut |_, _| ()).expect("a phantom can be made");
    let case = out.join(&names[0]);
    let segmentation = case.join(format!("{}-seg.nii.gz", names[0]));
    std::fs::remove_file(segmentation).expect("a phantom has a segmentation");
    case
}

fn files(case: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(case).expect("the case is a folder").flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "gz")).collect();
    files.sort();
    files
}

/// One scan in the model's range, and its window.
fn normalised(file: &Path) -> (Vec<f32>, Window) {
    let mut voxels = nifti::read(file).expect("a scan").volume.voxels;
    let window = Window::of(voxels.iter().copied()).expect("a window");
    voxels.iter_mut().for_each(|voxel| *voxel = window.to_model(*voxel));
    (voxels, window)
}

fn measured_by_nibabel(python: &str, case: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/bench_read.py");
    let mut command = Command::new(python);
    for threads in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"] {
        command.env(threads, "1");
    }
    let output = command.arg(script).arg(case).arg("1").output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a report in JSON")
}

/// Panics if the two did not do the same work.
fn check_agreement(case: &Path, reference: &Value) {
    for file in files(case) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (voxels, window) = normalised(&file);
        let mean = voxels.iter().map(|&v| f64::from(v)).sum::<f64>() / voxels.len() as f64;
        let scale = BTreeMap::from([("low", window.high), ("high", window.high), ("mean", 1.0)]);
        for (key, value) in [("low", window.low), ("high", window.high), ("mean", mean)] {
            let theirs = reference[&name][key].as_f64().expect("a number for every file");
            assert!(
                (value - theirs).abs() <= AGREEMENT * scale[key],
                "{name}: {key} {value} {theirs}"
            );
        }
    }
}

fn summary(seconds: &[f64]) -> Value {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let first = sorted.first().copied().unwrap_or(f64::NAN);
    let middle = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
    json!({ "min_s": first, "median_s": middle, "repetitions": sorted.len() })
}
