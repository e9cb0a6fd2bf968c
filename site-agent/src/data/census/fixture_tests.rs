//! The layouts of BraTS on files written by nibabel (`tests/reference/make_nifti.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Severity, mark_duplicates, survey};
use crate::data::exam;
use crate::data::example::Region;
use crate::data::labels::LabelScheme;
use crate::data::layout::{Case, Companion, Contrast, discover};
use crate::data::problem::{Kind, Problem};

fn cohort() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cohort")
}

fn case(name: &str) -> Case {
    let found = discover(&cohort().join(name)).unwrap();
    assert_eq!((found.cases.len(), found.set_aside.len()), (1, 0), "{name}");
    found.cases[0].clone()
}

/// How many voxels are of which component.
fn components(case: &Case, scheme: Option<LabelScheme>) -> BTreeMap<Region, usize> {
    let mut counts = BTreeMap::new();
    for region in exam::read(case, case.scheme(scheme)).unwrap().lesion.unwrap() {
        region.into_iter().for_each(|region| *counts.entry(region).or_default() += 1);
    }
    counts
}

#[test]
fn file_names_of_2021_of_2023_and_of_the_inpainting_set_make_cases_and_patients() {
    let found = discover(&cohort()).unwrap();
    let seen: Vec<(&str, &str, usize)> = found
        .cases
        .iter()
        .map(|case| (case.name.as_str(), case.patient.as_str(), case.scans.len()))
        .collect();
    let expected = [
        ("BraTS-GLI-00000-000", "BraTS-GLI-00000", 4),
        ("BraTS-GLI-00001-000", "BraTS-GLI-00001", 4),
        ("BraTS-GLI-00002-000", "BraTS-GLI-00002", 1),
        ("BraTS2021_00000", "BraTS2021_00000", 4),
    ];
    assert_eq!(seen, expected);
    assert_eq!(found.cases[2].companions.len(), 3);
    // Each file is the contrast that its name says: they differ by 1 from one to the next.
    for name in ["BraTS2021_00000", "BraTS-GLI-00000-000"] {
        let exam = exam::read(&case(name), Some(LabelScheme::BratsPost)).unwrap();
        let at = exam.images[&Contrast::T1n].voxels.iter().position(|&v| v > 0.0).unwrap();
        let seen = exam.images.values().map(|image| image.voxels[at]);
        let first = exam.images[&Contrast::T1n].voxels[at];
        assert_eq!(seen.collect::<Vec<_>>(), [0.0, 1.0, 2.0, 3.0].map(|i| first + i), "{name}");
    }
}

#[test]
fn enhancing_tumour_is_4_in_2021_and_3_since_2023_and_may_be_absent() {
    use Region::{Enhancing, Mixed, Necrosis, Oedema};
    let all = BTreeMap::from([(Necrosis, 1), (Oedema, 1), (Enhancing, 1)]);
    let old = case("BraTS2021_00000");
    assert_eq!(components(&old, Some(LabelScheme::Brats2021)), all);
    assert!(exam::read(&old, Some(LabelScheme::Brats2023)).is_err(), "4 has no meaning in 2023");
    let new = case("BraTS-GLI-00000-000");
    assert_eq!(components(&new, Some(LabelScheme::Brats2023)), all);
    assert!(exam::read(&new, Some(LabelScheme::Brats2021)).is_err(), "3 has no meaning in 2021");
    let lacking = case("BraTS-GLI-00001-000");
    let found = components(&lacking, Some(LabelScheme::Brats2023));
    assert_eq!(found, BTreeMap::from([(Necrosis, 1), (Oedema, 1)]));
    let inpainting = components(&case("BraTS-GLI-00002-000"), None);
    assert_eq!(inpainting, BTreeMap::from([(Mixed, 3)]));
}

/// The warnings about a case of the inpainting set after `edit` in a copy of its folder.
fn warnings(edit: impl Fn(&Path)) -> Vec<(Kind, String)> {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(cohort().join("BraTS-GLI-00002-000")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    edit(copy.path());
    let case = &discover(copy.path()).unwrap().cases[0];
    let mut report = [survey(case, case.scheme(None))];
    mark_duplicates(&mut report);
    assert!(report[0].usable, "{report:?}");
    let wanted = |p: &&Problem| {
        let file = p.file.as_deref().and_then(Path::file_name).unwrap_or_default();
        let file = file.to_string_lossy();
        p.severity == Severity::Warning && (file.contains("mask") || file.contains("voided"))
    };
    let problems = report[0].problems.iter().filter(wanted);
    problems.map(|problem| (problem.kind, problem.detail.clone())).collect()
}

#[test]
fn the_voided_scan_is_0_in_the_mask_which_covers_tumour_and_healthy_part() {
    assert_eq!(warnings(|_| ()), []);
    let file = |ending: &str| format!("BraTS-GLI-00002-000-{ending}.nii.gz");
    let put = |from: &str, to: &str| {
        let (from, to) = (file(from), file(to));
        warnings(move |folder| {
            std::fs::copy(folder.join(&from), folder.join(&to)).unwrap();
        })
    };
    let found = put("mask-unhealthy", "mask");
    assert_eq!(found[0].0, Kind::Mask);
    assert!(found[0].1.starts_with("8 voxels are not those of mask-healthy"), "{found:?}");
    assert!(found[1].1.ends_with("outside the mask are not those of the scan"), "{found:?}");
    let found = put("t1n", "t1n-voided");
    assert!(found[0].1.ends_with("voxels inside the mask are not 0"), "{found:?}");
}

#[test]
fn a_companion_that_does_not_read_is_a_warning_and_the_case_stays() {
    for companion in ["mask", "mask-healthy", "t1n-voided"] {
        let found = warnings(|folder| {
            let path = folder.join(format!("BraTS-GLI-00002-000-{companion}.nii.gz"));
            std::fs::write(path, b"no scan").unwrap();
        });
        assert_eq!(found.len(), 1, "{companion}: {found:?}");
        assert!(found[0].0 == Kind::NotNifti && found[0].1.contains("does not read it"));
    }
    assert!(case("BraTS-GLI-00002-000").companions.contains_key(&Companion::Voided));
}
