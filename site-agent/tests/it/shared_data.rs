//! `data check` on the real scans that lie beside the project, where they do: `.ci/run` asks for these tests
//! there, and nowhere else do they pass.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::site::{PROGRAM, program, scans};

/// The folder of real scans.
fn shared() -> PathBuf {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    assert!(shared.is_dir(), "../shared/data is absent");
    shared
}

fn census(data: &Path, more: &[&str]) -> Value {
    let args = ["data", "check", data.to_str().unwrap(), "--output", "json"];
    let output = program(&[&args[..], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Cases with their patients and contrasts.
fn seen(census: &Value) -> Vec<(String, String, usize)> {
    let text = |case: &Value, key: &str| case[key].as_str().unwrap().to_owned();
    let cases = census["cases"].as_array().unwrap().iter().filter(|case| case["usable"] == true);
    let contrasts = |case: &Value| case["contrasts"].as_array().unwrap().len();
    cases.map(|case| (text(case, "case"), text(case, "patient"), contrasts(case))).collect()
}

fn expected(cases: &[(&str, &str, usize)]) -> Vec<(String, String, usize)> {
    cases.iter().map(|&(case, patient, n)| (case.into(), patient.into(), n)).collect()
}

#[test]
#[ignore = "reads ../shared/data"]
fn every_patient_and_exam_of_the_real_studies_is_reported() {
    let shared = shared();
    let ms = census(&shared.join("ljms"), &["--label-scheme", "lesion"]);
    let patients = [("LJ-MS-07", "LJ-MS-07", 4), ("LJ-MS-26", "LJ-MS-26", 4)];
    assert_eq!(seen(&ms), expected(&patients));
    assert_eq!(ms["summary"]["segmented"], 2);
    assert_eq!(ms["summary"]["orientations"]["LAS"], 2);
    let ljl = census(&shared.join("ljl"), &[]);
    let exams = [
        ("LJL-01-1", "LJL-01", 3),
        ("LJL-01-2", "LJL-01", 3),
        ("LJL-03-2", "LJL-03", 3),
        ("LJL-04-1", "LJL-04", 3),
    ];
    assert_eq!(seen(&ljl), expected(&exams));
    let summary = &ljl["summary"];
    assert_eq!((&summary["patients"], &summary["exams"]), (&3.into(), &4.into()));
    assert_eq!((&summary["segmented"], &summary["orientations"]["RAS"]), (&0.into(), &4.into()));
}

#[test]
#[ignore = "reads ../shared/data"]
fn a_manifest_tells_what_names_cannot_whose_crop_it_is_and_that_colin_is_a_t1() {
    let shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        std::fs::copy(shared.join(from), folder.path().join(to)).unwrap();
    };
    copy("colin27/colin27_ch2bet.nii.gz", "colin.nii.gz");
    copy("tiny/LJ-MS-26-crop-t1n.nii.gz", "crop-t1n.nii.gz");
    copy("tiny/LJ-MS-26-crop-seg.nii.gz", "crop-seg.nii.gz");
    copy("ljms/LJ-MS-26/LJ-MS-26-t1n.nii.gz", "whole-t1n.nii.gz");
    let table = "case,patient,t1n,seg,labels\ncolin,Colin27,colin.nii.gz,,\n\
                 crop,LJ-MS-26,crop-t1n.nii.gz,crop-seg.nii.gz,lesion\n\
                 whole,LJ-MS-26,whole-t1n.nii.gz,,\n";
    std::fs::write(folder.path().join("manifest.csv"), table).unwrap();
    let census = census(folder.path(), &[]);
    let cases = [("colin", "Colin27", 1), ("crop", "LJ-MS-26", 1), ("whole", "LJ-MS-26", 1)];
    assert_eq!(seen(&census), expected(&cases));
    assert_eq!(census["summary"]["patients"], 2);
}

#[test]
fn a_file_that_this_user_may_not_read_sets_its_case_aside() {
    // The system's user "nobody". Whoever runs this test may read everything if it is root.
    const NOBODY: u32 = 65_534;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for case in
        std::fs::read_dir(scans()).unwrap().map(Result::unwrap).filter(|e| e.path().is_dir())
    {
        let name = case.file_name().into_string().unwrap();
        let from = case.path().join(format!("{name}-t1n.nii.gz"));
        std::fs::copy(from, data.join(format!("{name}-t1n.nii.gz"))).unwrap();
    }
    let program = folder.path().join("program");
    std::fs::copy(PROGRAM, &program).unwrap();
    let mode = |path: &Path, mode: u32| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, permissions).unwrap();
    };
    for path in [folder.path(), &data, &program] {
        mode(path, 0o755);
    }
    let closed = "Phantom-A-00001-000";
    for entry in std::fs::read_dir(&data).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        mode(&entry.path(), if name.starts_with(closed) { 0o000 } else { 0o644 });
    }
    let mut command = Command::new(&program);
    command.args(["data", "check", data.to_str().unwrap(), "--output", "json"]);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let census: Value = serde_json::from_slice(&output.stdout).unwrap();
    let aside = census["set_aside"].as_array().unwrap();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!((&aside[0]["case"], &aside[0]["kind"]), (&closed.into(), &"permission".into()));
    assert_eq!(census["summary"]["exams"], 1);
}
