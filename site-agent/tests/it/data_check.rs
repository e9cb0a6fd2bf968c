//! `data check` on whole data folders: what is damaged is set aside with the right reason, whatever is
//! beside it, and the rest can be used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use fedpaint_site_agent::phantom::scanner::Scanner;
use fedpaint_site_agent::phantom::{CohortSpec, write_cohort};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use rayon::prelude::*;
use serde_json::Value;

use crate::site::{PROGRAM, program, scans};

/// Cases of the damaged cohort.
const CASES: usize = 1910;

/// Damaged cases: four for each way.
const DAMAGED: usize = 48;

/// Heads that the cases are variations of, so that the cohort is made in seconds.
const HEADS: usize = 12;

/// The edge of a voxel.
const SIZE_MM: f64 = 6.0;

/// Bytes before the voxels of the files that are made here.
const VOXEL_OFFSET: usize = 352;

/// The ways to damage a case and what each is called.
const DAMAGES: [(Damage, &str); 12] = [
    (Damage::TruncatedGzip, "truncated"),
    (Damage::DimsLargerThanTheFile, "truncated"),
    (Damage::BillionVoxels, "too_large"),
    (Damage::NanAffine, "orientation"),
    (Damage::ZeroAffine, "orientation"),
    (Damage::MaskOnAnotherGrid, "grid"),
    (Damage::NanVoxels, "not_finite"),
    (Damage::UnexpectedLabel, "labels"),
    (Damage::NotNifti, "not_nifti"),
    (Damage::Unreadable, "unreadable"),
    (Damage::LinkOutside, "outside"),
    (Damage::OtherPatientsScan, "duplicate"),
];

#[derive(Clone, Copy)]
enum Damage {
    TruncatedGzip,
    DimsLargerThanTheFile,
    BillionVoxels,
    NanAffine,
    ZeroAffine,
    MaskOnAnotherGrid,
    NanVoxels,
    UnexpectedLabel,
    NotNifti,
    Unreadable,
    LinkOutside,
    OtherPatientsScan,
}

/// One head as the bytes of `.nii` files.
struct Head {
    scan: Vec<u8>,
    seg: Vec<u8>,
    /// Where the brain's voxels lie in `scan`.
    brain: Vec<usize>,
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn gunzip(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn heads(folder: &Path) -> Vec<Head> {
    let out = folder.join("heads");
    let spec = CohortSpec {
        out: out.clone(),
        patients: HEADS,
        scanner: Scanner::A,
        seed: 5,
        size_mm: SIZE_MM,
    };
    let names = write_cohort(&spec, &mut |_, _| {}).unwrap();
    let head = |name: &String| {
        let file = |kind: &str| gunzip(&out.join(name).join(format!("{name}-{kind}.nii.gz")));
        let (scan, seg) = (file("t1n"), file("seg"));
        let (voxels, _) = scan[VOXEL_OFFSET..].as_chunks::<2>();
        let is_brain = |(i, voxel): (usize, &[u8; 2])| (*voxel != [0, 0]).then_some(i);
        let brain = voxels.iter().enumerate().filter_map(is_brain);
        let brain = brain.map(|i| VOXEL_OFFSET + 2 * i).collect();
        Head { scan, seg, brain }
    };
    names.iter().map(head).collect()
}

fn case_name(index: usize) -> String {
    format!("North-{index:05}-000")
}

/// The scan of a case: a head's, but for one voxel, which is another for every case.
fn scan_of(heads: &[Head], index: usize) -> Vec<u8> {
    let head = &heads[index % HEADS];
    let mut scan = head.scan.clone();
    let voxel = head.brain[index / HEADS];
    scan[voxel] ^= 1;
    scan
}

fn set(bytes: &mut [u8], offset: usize, field: &[u8]) {
    bytes[offset..offset + field.len()].copy_from_slice(field);
}

/// Writes a case, damaged or not. `elsewhere` is no part of the cohort.
fn write_case(data: &Path, elsewhere: &Path, heads: &[Head], index: usize, damage: Option<Damage>) {
    let name = case_name(index);
    let folder = data.join(&name);
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join(format!("{name}-t1n.nii.gz"));
    let mut scan = scan_of(heads, index);
    let mut seg = heads[index % HEADS].seg.clone();
    let affine = |scan: &mut Vec<u8>, value: f32| {
        set(scan, 280, &value.to_le_bytes().repeat(12));
        // No qform to fall back to.
        set(scan, 252, &0_i16.to_le_bytes());
    };
    match damage {
        Some(Damage::DimsLargerThanTheFile) => set(&mut scan, 42, &400_i16.to_le_bytes()),
        Some(Damage::BillionVoxels) => set(&mut scan, 42, &1000_i16.to_le_bytes().repeat(3)),
        Some(Damage::NanAffine) => affine(&mut scan, f32::NAN),
        Some(Damage::ZeroAffine) => affine(&mut scan, 0.0),
        Some(Damage::MaskOnAnotherGrid) => set(&mut seg, 292, &20_f32.to_le_bytes()),
        Some(Damage::NanVoxels) => {
            set(&mut scan, 70, &[16, 0, 32, 0]);
            let voxels = scan.split_off(VOXEL_OFFSET);
            let (voxels, _) = voxels.as_chunks::<2>();
            let floats =
                voxels.iter().flat_map(|v| f32::from(i16::from_le_bytes(*v)).to_le_bytes());
            scan.extend(floats);
            set(&mut scan, VOXEL_OFFSET + 4000, &f32::NAN.to_le_bytes());
        }
        Some(Damage::UnexpectedLabel) => seg[VOXEL_OFFSET + 1000] = 9,
        Some(Damage::NotNifti) => scan = b"The scan is on the other disk.".to_vec(),
        Some(Damage::OtherPatientsScan) => scan = scan_of(heads, 0),
        Some(Damage::TruncatedGzip | Damage::Unreadable | Damage::LinkOutside) | None => {}
    }
    let mut file = gzip(&scan);
    match damage {
        Some(Damage::TruncatedGzip) => file.truncate(file.len() / 2),
        Some(Damage::NotNifti) => file = scan,
        _ => {}
    }
    std::fs::write(folder.join(format!("{name}-seg.nii.gz")), gzip(&seg)).unwrap();
    match damage {
        Some(Damage::Unreadable) if index.is_multiple_of(2) => std::fs::create_dir(path).unwrap(),
        Some(Damage::Unreadable) => std::os::unix::fs::symlink("nothing", path).unwrap(),
        Some(Damage::LinkOutside) => {
            let outside = elsewhere.join(format!("{name}-t1n.nii.gz"));
            std::fs::write(&outside, file).unwrap();
            std::os::unix::fs::symlink(outside, path).unwrap();
        }
        _ => std::fs::write(path, file).unwrap(),
    }
}

/// Makes the cohort and says which cases are damaged and how.
fn damaged_cohort(data: &Path, elsewhere: &Path) -> BTreeMap<String, &'static str> {
    let heads = heads(elsewhere);
    let damage_of = |index: usize| {
        let (turn, rest) = (index / (CASES / DAMAGED), index % (CASES / DAMAGED));
        (rest == 7 && turn < DAMAGED).then(|| DAMAGES[turn % DAMAGES.len()])
    };
    (0..CASES).into_par_iter().for_each(|index| {
        let damage = damage_of(index).map(|(damage, _)| damage);
        write_case(data, elsewhere, &heads, index, damage);
    });
    (0..CASES).filter_map(|i| damage_of(i).map(|(_, kind)| (case_name(i), kind))).collect()
}

#[test]
fn of_1910_cases_exactly_the_48_damaged_ones_are_set_aside_each_for_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (data, elsewhere) = (folder.path().join("data"), folder.path().join("elsewhere"));
    std::fs::create_dir(&data).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    let damaged = damaged_cohort(&data, &elsewhere);
    assert_eq!(damaged.len(), DAMAGED);
    let data = data.to_str().unwrap();
    let output =
        program(&["data", "check", data, "--label-scheme", "brats2023", "--output", "json"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.as_str()), (Some(0), ""));
    let census: Value = serde_json::from_slice(&output.stdout).unwrap();
    let seen: Vec<(&str, &str)> = census["set_aside"]
        .as_array()
        .unwrap()
        .iter()
        .map(|aside| (aside["case"].as_str().unwrap(), aside["kind"].as_str().unwrap()))
        .collect();
    let expected: Vec<(&str, &str)> = damaged.iter().map(|(c, k)| (c.as_str(), *k)).collect();
    assert_eq!(seen, expected);
    let summary = &census["summary"];
    assert_eq!(summary["exams"], CASES - DAMAGED);
    assert_eq!(summary["patients"], CASES - DAMAGED);
    assert_eq!(summary["tasks"]["heal"], CASES - DAMAGED);
    assert_eq!(summary["problems"]["error"], DAMAGED);
    assert_training_goes_on(folder.path(), data, &damaged);
}

/// Trains on the cohort: the same cases are set aside.
fn assert_training_goes_on(folder: &Path, data: &str, damaged: &BTreeMap<String, &'static str>) {
    let path = |name: &str| folder.join(name).display().to_string();
    let (model, plan, out) = (path("m.safetensors"), path("plan.toml"), path("out.safetensors"));
    let size = ["--image-size", "16", "--seed", "3", "--out", &model];
    assert!(program(&[&["init-model", "--preset", "tiny"][..], &size].concat()).status.success());
    std::fs::write(&plan, "version = 1\nrounds = 1\n[training]\nsteps = 2\nbatch = 2\n").unwrap();
    let args = ["train", "--plan", &plan, "--model", &model, "--out", &out, "--data", data];
    let output = program(&[&args[..], &["--label-scheme", "brats2023"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let split = std::fs::read(folder.join("out.split.json")).unwrap();
    let split: Value = serde_json::from_slice(&split).unwrap();
    let cases = split["cases"].as_array().unwrap().iter();
    let aside = cases.filter(|case| case["part"] == "set_aside");
    let aside: Vec<&str> = aside.map(|case| case["case"].as_str().unwrap()).collect();
    let expected: Vec<&str> = damaged.keys().map(String::as_str).collect();
    assert_eq!(aside, expected);
}

#[test]
fn a_folder_without_a_usable_case_exits_with_1_and_a_wrong_scheme_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let code =
        |args: &[&str]| program(&[&["data", "check", path][..], args].concat()).status.code();
    let output = program(&["data", "check", path]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.contains("no cases found"), "{error}");
    let absent = String::from_utf8(program(&["data", "check", "/absent"]).stderr).unwrap();
    assert_eq!(absent.matches("No such file").count(), 1, "{absent}");
    std::fs::write(folder.path().join("A-1-t1n.nii.gz"), b"no scan").unwrap();
    let output = program(&["data", "check", path]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("Set aside: 1") && text.contains("not_nifti"), "{text}");
    assert_eq!(code(&["--label-scheme", "brats"]), Some(2));
    assert_eq!(code(&["--contrasts", "t1"]), Some(2));
}

#[test]
fn the_report_is_the_same_for_any_number_of_threads_and_says_what_people_ask() {
    let data = scans().to_str().unwrap();
    let check = |threads: &str, more: &[&str]| {
        let args = [&["data", "check", data, "--label-scheme", "brats2023"][..], more].concat();
        let mut command = Command::new(PROGRAM);
        let output = command.args(args).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = ["--output", "json"];
    assert_eq!(check("1", &json), check("3", &json));
    let text = check("2", &[]);
    for said in ["Phantom-A-00001-000", "t1n t1c t2w t2f", "LPS", "2 exams of 2 patients", "2 heal"]
    {
        assert!(text.contains(said), "{said}: {text}");
    }
    // The cohort says itself what its labels mean; without that, nobody has.
    assert_eq!(program(&["data", "check", data]).status.code(), Some(0));
    let folder = tempfile::tempdir().unwrap();
    for case in std::fs::read_dir(data).unwrap().map(Result::unwrap).filter(|e| e.path().is_dir()) {
        let copy = folder.path().join(case.file_name());
        std::fs::create_dir(&copy).unwrap();
        for file in std::fs::read_dir(case.path()).unwrap().map(Result::unwrap) {
            if file.path().is_file() {
                std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
            }
        }
    }
    let without = program(&["data", "check", folder.path().to_str().unwrap()]);
    let text = String::from_utf8(without.stdout).unwrap();
    assert_eq!(without.status.code(), Some(1));
    assert!(text.contains("set `label_scheme` (its labels would fit brats2023,"), "{text}");
}
