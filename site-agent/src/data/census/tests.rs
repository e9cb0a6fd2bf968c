//! What is said about cases made by hand, each wrong in one way.

use std::path::PathBuf;

use super::summary::Census;
use std::collections::BTreeMap;

use super::*;
use crate::data::layout::{Discovery, SetAside};
use crate::data::nifti::{Storage, write_new};
use crate::data::phantom_for_tests::{brain, tumour};

/// The labels of the tumour in `brain()`, as of 2023.
fn labels() -> Volume {
    let image = brain();
    let number = |region: &Option<Region>| region.map_or(0.0, |region| region as u8 as f32);
    image.with_voxels(tumour(&image).iter().map(number).collect())
}

/// Files of one case in a folder of its own.
struct Files {
    folder: tempfile::TempDir,
    case: Case,
}

impl Files {
    fn new(name: &str, patient: &str) -> Files {
        let case = Case {
            name: name.into(),
            patient: patient.into(),
            scans: BTreeMap::new(),
            segmentation: None,
            label_scheme: None,
            companions: BTreeMap::new(),
        };
        Files { folder: tempfile::tempdir().unwrap(), case }
    }

    fn write(&self, name: &str, volume: &Volume) -> PathBuf {
        let path = self.folder.path().join(name);
        write_new(&path, volume, Storage::F32, "").unwrap();
        path
    }

    fn scan(mut self, contrast: Contrast, volume: &Volume) -> Files {
        let path = self.write(&format!("{}.nii", contrast.name()), volume);
        self.case.scans.insert(contrast, path);
        self
    }

    fn labels(mut self, volume: &Volume) -> Files {
        self.case.segmentation = Some(self.write("seg.nii", volume));
        self
    }

    fn survey(&self) -> CaseReport {
        survey(&self.case, Some(LabelScheme::Brats2023))
    }
}

/// A case with two contrasts and nothing wrong.
fn good(name: &str, patient: &str) -> Files {
    let darker = |by: f32| brain().with_voxels(brain().voxels.iter().map(|v| v * by).collect());
    Files::new(name, patient)
        .scan(Contrast::T1n, &darker(0.5 + name.len() as f32 / 100.0))
        .scan(Contrast::T2f, &darker(0.3 + name.len() as f32 / 100.0))
}

fn changed(volume: &Volume, change: impl Fn(usize, f32) -> f32) -> Volume {
    volume.with_voxels(volume.voxels.iter().enumerate().map(|(i, &v)| change(i, v)).collect())
}

fn found(report: &CaseReport) -> Vec<(Severity, Kind)> {
    let worth = report.problems.iter().filter(|p| p.detail != NOT_BRATS);
    worth.map(|problem| (problem.severity, problem.kind)).collect()
}

const NOT_BRATS: &str = "not the grid of BraTS (240x240x155 at 1 mm)";

#[test]
fn a_good_case_is_described_in_millilitres_and_can_train_every_task() {
    let report = good("A", "A").labels(&labels()).survey();
    assert_eq!((found(&report), report.usable), (vec![], true));
    assert_eq!(report.contrasts, [Contrast::T1n, Contrast::T2f]);
    let grid = report.grid.unwrap();
    assert_eq!((grid.orientation.as_str(), grid.dims), ("LPS", [60, 72, 40]));
    assert!(grid.spacing_mm.iter().zip([2.4, 2.4, 3.0]).all(|(a, b)| (a - b).abs() < 1e-6));
    let voxel_ml = 2.4 * 2.4 * 3.0 / 1000.0;
    let brain_voxels = brain().voxels.iter().filter(|&&v| v > 0.0).count();
    assert!((report.brain_ml.unwrap() - brain_voxels as f64 * voxel_ml).abs() < 1e-3);
    let seen: Vec<_> = report.labels.iter().map(|l| (l.label, l.meaning.unwrap())).collect();
    assert_eq!(seen, [(1.0, "necrosis"), (2.0, "oedema"), (3.0, "enhancing")]);
    let voxels = tumour(&brain()).iter().filter(|r| **r == Some(Region::Oedema)).count();
    assert_eq!(report.labels[1].voxels, voxels);
    assert!((report.labels[1].ml - voxels as f64 * voxel_ml).abs() < 1e-3);
    assert_eq!(report.tasks, [Task::Heal, Task::Components, Task::Mixed, Task::Box]);
}

#[test]
fn a_tumour_is_painted_where_every_part_is_a_known_component_and_a_cavity_never() {
    let tasks_of = |scheme, labels: &[f32]| {
        let report = |&label| LabelReport { label, meaning: None, voxels: 1, ml: 1.0 };
        tasks(&labels.iter().map(report).collect::<Vec<_>>(), scheme)
    };
    assert_eq!(tasks_of(Some(LabelScheme::BratsPost), &[4.0]), [Task::Heal]);
    assert_eq!(tasks_of(Some(LabelScheme::BratsPost), &[1.0, 4.0]), [Task::Heal]);
    assert_eq!(tasks_of(Some(LabelScheme::BratsPost), &[1.0, 3.0]).len(), 4);
    assert_eq!(tasks_of(Some(LabelScheme::Brats2021), &[1.0, 4.0]).len(), 4);
    assert_eq!(tasks_of(Some(LabelScheme::Lesion), &[1.0, 4.0]), [Task::Heal]);
    assert_eq!(tasks_of(None, &[]), [Task::Heal]);
}

#[test]
fn a_file_of_another_shape_or_place_sets_the_case_aside() {
    let moved = Volume { origin_mm: [3.0, 0.0, 0.0], ..labels() };
    let report = good("A", "A").labels(&moved).survey();
    assert_eq!(found(&report), [(Severity::Error, Kind::Grid)]);
    assert_eq!((report.usable, report.tasks.len()), (false, 0));
    let mut small = labels();
    small.dims[2] -= 1;
    small.voxels.truncate(60 * 72 * 39);
    let report = good("A", "A").scan(Contrast::T1c, &small).survey();
    assert_eq!(found(&report), [(Severity::Error, Kind::Grid)]);
    assert!(report.problems[0].file.as_ref().unwrap().ends_with("t1c.nii"));
}

#[test]
fn every_bad_file_of_a_case_is_told_at_once() {
    let constant = changed(&brain(), |_, _| 7.0);
    let files = good("A", "A")
        .scan(Contrast::T1c, &constant)
        .labels(&changed(&labels(), |i, v| if i == 0 { 9.0 } else { v }));
    std::fs::write(files.folder.path().join("t1n.nii"), b"no scan at all").unwrap();
    let report = files.survey();
    let expected = [
        (Severity::Error, Kind::NotNifti),
        (Severity::Error, Kind::Empty),
        (Severity::Error, Kind::Labels),
    ];
    assert_eq!(found(&report), expected);
    assert!(report.problems[2].detail.contains("label 9 in 1 voxels"), "{report:?}");
}

#[test]
fn labels_without_a_scheme_set_the_case_aside_and_say_which_would_fit() {
    let files = good("A", "A").labels(&labels());
    let report = survey(&files.case, None);
    assert_eq!(found(&report), [(Severity::Error, Kind::LabelScheme)]);
    let detail = &report.problems[0].detail;
    assert!(detail.contains("brats2023, brats_post or lesion"), "{detail}");
}

#[test]
fn what_is_odd_and_what_is_worth_knowing_does_not_set_a_case_aside() {
    let one = |volume: &Volume| Files::new("A", "A").scan(Contrast::T1n, volume).survey();
    let lone = (Severity::Note, Kind::NoContrast);
    let with_skull = changed(&brain(), |_, v| v + 5.0);
    let report = one(&with_skull);
    let brain_warning = (Severity::Warning, Kind::Brain);
    assert_eq!(found(&report), [brain_warning, brain_warning, lone]);
    assert!(report.usable);
    let negative = changed(&brain(), |i, v| if i == 0 { -136.0 } else { v });
    assert_eq!(found(&one(&negative)), [(Severity::Note, Kind::Brain), lone]);

    let half = changed(&brain(), |i, v| if i % 60 < 30 { v } else { 0.0 });
    let report = good("A", "A").scan(Contrast::T2w, &half).survey();
    assert_eq!(found(&report), [(Severity::Note, Kind::Brain)]);

    let report = good("A", "A").labels(&changed(&labels(), |_, _| 0.0)).survey();
    assert_eq!((found(&report), report.tasks.len()), (vec![(Severity::Note, Kind::Labels)], 1));
    let report =
        good("A", "A").labels(&changed(&labels(), |i, _| f32::from(u8::from(i < 9)))).survey();
    assert_eq!(found(&report), [(Severity::Warning, Kind::Labels)]);
    assert!(report.problems[0].detail.starts_with("100 %"), "{report:?}");
}

#[test]
fn a_scan_of_another_patient_sets_the_later_case_aside_and_one_of_the_same_patient_warns() {
    let same = good("A", "A");
    let of = |name: &str, patient: &str| {
        let (name, patient) = (name.to_string(), patient.to_string());
        CaseReport { case: name, patient, ..same.survey() }
    };
    let other = good("another", "X").survey();
    let mut reports = vec![of("C", "C"), of("A-2", "A"), other, of("A-1", "A")];
    mark_duplicates(&mut reports);
    let usable: Vec<_> = reports.iter().map(|r| (r.case.as_str(), r.usable)).collect();
    assert_eq!(usable, [("C", false), ("A-2", true), ("another", true), ("A-1", true)]);
    assert_eq!(found(&reports[0]), [(Severity::Error, Kind::Duplicate)]);
    assert!(reports[0].problems[0].detail.contains("t1n is that of A-1"), "{reports:?}");
    assert_eq!(found(&reports[1]), [(Severity::Warning, Kind::Duplicate)]);
}

#[test]
fn a_census_counts_usable_cases_and_gives_the_others_with_their_first_reason() {
    let bad = good("B", "B").scan(Contrast::T1c, &changed(&brain(), |_, _| 0.0)).survey();
    let cases = vec![
        good("A-01-1", "A-01").labels(&labels()).survey(),
        good("A-01-22", "A-01").survey(),
        bad,
    ];
    // A name that is not UTF-8 must not keep the rest from being printed.
    let problem = Problem::error(Kind::Name, "x").in_file(Path::new("\u{fffd}"));
    let set_aside = vec![SetAside { case: "0".into(), problem }];
    let discovery = Discovery { set_aside, files_passed_over: 3, ..Discovery::default() };
    let census = Census::new(&discovery, cases);
    let summary = &census.summary;
    assert_eq!((summary.patients, summary.exams, summary.set_aside), (1, 2, 2));
    assert_eq!((summary.segmented, summary.files_passed_over), (1, 3));
    assert_eq!(summary.contrasts, BTreeMap::from([(Contrast::T1n, 2), (Contrast::T2f, 2)]));
    assert_eq!(summary.grids, BTreeMap::from([("60x72x40 at 2.4x2.4x3 mm".to_owned(), 2)]));
    assert_eq!(summary.tasks[&Task::Heal], 2);
    assert_eq!(summary.tasks[&Task::Box], 1);
    assert_eq!(summary.labels["2"].cases, 1);
    assert_eq!(summary.labels["2"].meaning, Some("oedema"));
    assert_eq!((summary.problems.error, summary.problems.warning), (2, 0));
    assert_eq!(summary.notes, BTreeMap::from([(NOT_BRATS.to_owned(), 2)]));
    assert_eq!(summary.set_aside_by_kind, BTreeMap::from([("empty", 1), ("name", 1)]));
    let aside: Vec<_> =
        census.set_aside.iter().map(|a| (a.case.as_str(), a.problem.kind)).collect();
    assert_eq!(aside, [("0", Kind::Name), ("B", Kind::Empty)]);
    let json = serde_json::to_value(&census).unwrap();
    assert_eq!(json["set_aside"][1]["kind"], "empty");
    assert_eq!(json["set_aside"][1]["severity"], "error");
    assert_eq!(json["cases"][0]["tasks"][1], "components");
    assert_eq!(json["cases"][0]["contrasts"][1], "t2f");
    assert_eq!(json["summary"]["contrasts"]["t2f"], 2);
    assert_eq!(json["summary"]["tasks"]["box"], 1);
    assert!(json["cases"][0].get("digests").is_none());
}
