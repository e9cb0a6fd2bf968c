//! Which files make which cases, and what sets a case aside.

use super::*;
use crate::data::problem::Severity;

fn cohort(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }
    folder
}

fn names(discovery: &Discovery) -> Vec<&str> {
    discovery.cases.iter().map(|case| case.name.as_str()).collect()
}

fn kinds(discovery: &Discovery) -> Vec<(&str, Kind)> {
    discovery.set_aside.iter().map(|aside| (aside.case.as_str(), aside.problem.kind)).collect()
}

#[test]
fn names_of_2021_and_of_2023_are_found_sorted_and_say_nothing_about_labels() {
    let folder = cohort(&[
        "BraTS2021_00002/BraTS2021_00002_t1.nii.gz",
        "BraTS2021_00002/BraTS2021_00002_t1ce.nii.gz",
        "BraTS2021_00002/BraTS2021_00002_t2.nii",
        "BraTS2021_00002/BraTS2021_00002_flair.nii.gz",
        "BraTS2021_00002/BraTS2021_00002_seg.nii.gz",
        "BraTS-GLI-00008-001/BraTS-GLI-00008-001-t2f.nii.gz",
        "BraTS-GLI-00008-001/BraTS-GLI-00008-001-t1c.nii.gz",
    ]);
    let found = discover(folder.path()).unwrap();
    assert_eq!(found.set_aside, []);
    let [new, old] = &found.cases[..] else { panic!("{found:?}") };
    assert_eq!(
        (new.name.as_str(), new.patient.as_str()),
        ("BraTS-GLI-00008-001", "BraTS-GLI-00008")
    );
    assert!(new.scans.keys().eq(&[Contrast::T1c, Contrast::T2f]));
    assert_eq!((new.segmentation.as_ref(), new.scheme(None)), (None, None));
    assert_eq!(new.scheme(Some(LabelScheme::Lesion)), Some(LabelScheme::Lesion));
    assert!(old.scans.keys().eq(&Contrast::ALL));
    assert!(old.scans[&Contrast::T2w].ends_with("BraTS2021_00002_t2.nii"));
    assert!(old.segmentation.is_some());
    assert_eq!(old.scheme(None), None);
}

#[test]
fn the_last_of_two_numeric_groups_is_a_timepoint() {
    for (case, patient) in [
        ("BraTS-GLI-00008-000", "BraTS-GLI-00008"),
        ("LJL-01-2", "LJL-01"),
        ("LJ-MS-07", "LJ-MS-07"),
        ("LJ-MS-26", "LJ-MS-26"),
        ("BraTS2021_00000", "BraTS2021_00000"),
        ("12-3", "12-3"),
        ("a--1", "a--1"),
        ("", ""),
    ] {
        assert_eq!(patient_of(case), patient, "{case}");
    }
}

#[test]
fn cases_are_found_in_folders_of_folders_and_side_by_side_in_one() {
    let folder = cohort(&[
        "2023/north/A-1/A-1-t1n.nii.gz",
        "2023/flat/B-1-t1n.nii.gz",
        "2023/flat/B-1-seg.nii.gz",
        "2023/flat/C-1-t2f.nii",
        "a/b/c/d/D-1-t1n.nii.gz",
        "a/b/c/d/deeper/E-1-t1n.nii.gz",
    ]);
    let found = discover(folder.path()).unwrap();
    assert_eq!(names(&found), ["A-1", "B-1", "C-1", "D-1"]);
    assert!(found.cases[1].segmentation.is_some());
}

#[test]
fn below_a_case_and_beside_its_own_files_there_are_no_cases() {
    let folder = cohort(&[
        "A-1/A-1-t1n.nii.gz",
        "A-1/B-1-t2w.nii.gz",
        "A-1/notes.txt",
        "A-1/healthy/A-1-t2w.nii.gz",
        ".hidden/H-1-t1n.nii.gz",
        "empty/readme",
        "atlas/colin27_gm.nii.gz",
    ]);
    let found = discover(folder.path()).unwrap();
    assert_eq!((names(&found), found.set_aside.len()), (vec!["A-1"], 0));
    assert!(found.cases[0].scans.keys().eq(&[Contrast::T1n]));
    assert_eq!(found.files_passed_over, 2);
}

#[test]
fn in_the_inpainting_set_the_unhealthy_mask_is_a_lesion_unless_there_is_a_segmentation() {
    let set = |name: &str, kinds: &[&str]| -> Vec<String> {
        kinds.iter().map(|kind| format!("{name}/{name}-{kind}.nii.gz")).collect()
    };
    let training = ["t1n", "t1n-voided", "mask", "mask-healthy", "mask-unhealthy"];
    let files = [
        set("A-1", &training),
        set("B-1", &[&training[..], &["seg"]].concat()),
        set("V-1", &["t1n-voided", "mask"]),
    ]
    .concat();
    let folder = cohort(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let found = discover(folder.path()).unwrap();
    let [a, b] = &found.cases[..] else { panic!("{found:?}") };
    assert!(a.segmentation.as_ref().unwrap().ends_with("A-1-mask-unhealthy.nii.gz"));
    assert_eq!(a.scheme(Some(LabelScheme::Brats2023)), Some(LabelScheme::Lesion));
    assert!(a.scans.keys().eq(&[Contrast::T1n]));
    assert!(b.segmentation.as_ref().unwrap().ends_with("B-1-seg.nii.gz"));
    assert_eq!(b.scheme(Some(LabelScheme::Brats2023)), Some(LabelScheme::Brats2023));
    assert_eq!(kinds(&found), [("V-1", Kind::NoContrast)]);
    assert_eq!(found.set_aside[0].problem.severity, Severity::Note);
}

#[test]
fn what_is_wrong_with_a_case_sets_it_aside_and_leaves_the_others() {
    let folder = cohort(&[
        "good/G-1-t1n.nii.gz",
        "A-1/A-1-t1n.nii.gz",
        "A-1/A-1-t1n.nii",
        "B-1/B-1-t1n.nii.gz",
        "B-1/B-1_t1.nii.gz",
        "C-1/C-1-seg.nii.gz",
        "D-1/D-1-t1n.nii.gz/inside",
        "here/E-1/E-1-t1n.nii.gz",
        "there/E-1-t2f.nii.gz",
        "F\n1/F\n1-t1n.nii.gz",
    ]);
    let found = discover(folder.path()).unwrap();
    assert_eq!(names(&found), ["G-1"]);
    assert_eq!(
        kinds(&found),
        [
            ("A-1", Kind::Duplicate),
            ("B-1", Kind::Duplicate),
            ("C-1", Kind::NoContrast),
            ("D-1", Kind::Unreadable),
            ("E-1", Kind::Duplicate),
            ("E-1", Kind::Duplicate),
            ("F\n1", Kind::Name),
        ]
    );
    let twice = &found.set_aside[4].problem.detail;
    assert!(twice.contains("here/E-1") && twice.contains("there"), "{twice}");
}

#[test]
fn a_folder_without_cases_says_what_was_expected() {
    let folder = cohort(&["x/picture.nii.gz", "x/x-mask.nii.gz"]);
    let refused = discover(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("no cases found") && refused.contains("t1ce"), "{refused}");
    assert!(matches!(discover(&folder.path().join("absent")), Err(Error::Io { .. })));
    let file = folder.path().join("x/picture.nii.gz");
    assert!(matches!(discover(&file), Err(Error::NotAFolder { .. })));
}

#[test]
fn a_folder_of_more_than_100_000_files_is_refused_without_reading_on() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("0");
    std::fs::write(&first, b"").unwrap();
    // Links to one file, as they take no block of the disk.
    for i in 1..=ENTRIES_MAX {
        std::fs::hard_link(&first, folder.path().join(i.to_string()))
            .or_else(|_| std::fs::write(folder.path().join(i.to_string()), b""))
            .unwrap();
    }
    assert!(matches!(discover(folder.path()), Err(Error::TooMany { .. })));
}

#[cfg(unix)]
mod links {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_out_of_the_folder_sets_its_case_aside_and_a_link_within_it_does_not() {
        let elsewhere = cohort(&["O-1/O-1-t1n.nii.gz"]);
        let folder = cohort(&["A-1/other.nii.gz", "A-2/A-2-t1n.nii.gz", "A-3/A-3-t1n.nii.gz"]);
        let at = |path: &str| folder.path().join(path);
        symlink("other.nii.gz", at("A-1/A-1-t1n.nii.gz")).unwrap();
        let outside = elsewhere.path().join("O-1/O-1-t1n.nii.gz");
        symlink(&outside, at("A-2/A-2-t2f.nii.gz")).unwrap();
        symlink(at("nowhere"), at("A-3/A-3-t2f.nii.gz")).unwrap();
        symlink(elsewhere.path().join("O-1"), at("O-1")).unwrap();
        let found = discover(folder.path()).unwrap();
        assert_eq!(names(&found), ["A-1"]);
        let expected = [("A-2", Kind::Outside), ("A-3", Kind::Unreadable), ("O-1", Kind::Outside)];
        assert_eq!(kinds(&found), expected);
        // The data folder itself may be reached by a link.
        let link = elsewhere.path().join("link");
        symlink(folder.path(), &link).unwrap();
        assert_eq!(names(&discover(&link).unwrap()), ["A-1"]);
    }

    #[test]
    fn a_loop_of_links_ends() {
        let folder = cohort(&["A-1/A-1-t1n.nii.gz"]);
        symlink(folder.path(), folder.path().join("A-2")).unwrap();
        symlink("A-3-t1n.nii", folder.path().join("A-3-t1n.nii")).unwrap();
        let found = discover(folder.path()).unwrap();
        // What lies beside files of cases is no folder of cases.
        assert_eq!(kinds(&found), [("A-3", Kind::Unreadable)]);
        std::fs::remove_file(folder.path().join("A-3-t1n.nii")).unwrap();
        assert_eq!(names(&discover(folder.path()).unwrap()), ["A-1"]);
    }

    #[test]
    fn a_name_that_is_not_utf_8_sets_its_case_aside() {
        let folder = cohort(&["A-1/A-1-t1n.nii.gz", "B/readme"]);
        let bad = |bytes: &[u8]| folder.path().join("B").join(std::ffi::OsStr::from_bytes(bytes));
        std::fs::write(bad(b"\xff-1-t1n.nii"), b"").unwrap();
        let found = discover(folder.path()).unwrap();
        assert_eq!((names(&found), kinds(&found)), (vec!["A-1"], vec![("\u{fffd}-1", Kind::Name)]));
    }
}

mod manifests {
    use super::*;

    fn listed(table: &str) -> (tempfile::TempDir, Result<Discovery, Error>) {
        let folder = cohort(&["data/x/1.nii.gz", "data/x/2.nii", "data/y/A-1-t1n.nii", "z.nii"]);
        std::fs::create_dir(folder.path().join("data/series")).unwrap();
        std::fs::write(folder.path().join("data/manifest.csv"), table).unwrap();
        let found = discover(&folder.path().join("data"));
        (folder, found)
    }

    #[test]
    fn a_folder_with_a_manifest_holds_what_is_listed_and_nothing_else() {
        let (folder, found) = listed(
            "case,patient,t1n,t2f,seg,labels\nB-1-2,,x/1.nii.gz,series,x/2.nii,brats_post\n\
             C,B-1,y/A-1-t1n.nii,,,\n",
        );
        let found = found.unwrap();
        assert_eq!((names(&found), found.set_aside.len()), (vec!["B-1-2", "C"], 0));
        assert!(found.cases.iter().all(|case| case.patient == "B-1"));
        assert!(found.cases[0].scans[&Contrast::T2f].ends_with("series"));
        let own = found.cases[0].scheme(Some(LabelScheme::Lesion));
        assert_eq!(own, Some(LabelScheme::BratsPost));
        let named = discover(&folder.path().join("data/manifest.csv")).unwrap();
        assert_eq!(named, found);
    }

    #[test]
    fn a_manifest_without_cases_says_what_the_labels_of_all_in_its_folder_mean() {
        let folder =
            cohort(&["a/A-t1n.nii", "a/A-seg.nii", "b/B-t1n.nii", "b/B-mask-unhealthy.nii"]);
        let manifest = folder.path().join("manifest.toml");
        std::fs::write(&manifest, "labels = \"brats2021\"\n").unwrap();
        let found = discover(folder.path()).unwrap();
        let schemes: Vec<_> = found.cases.iter().map(|case| case.label_scheme).collect();
        assert_eq!(schemes, [Some(LabelScheme::Brats2021), Some(LabelScheme::Lesion)]);
        assert_eq!(discover(&manifest).unwrap(), found);
        std::fs::write(&manifest, "").unwrap();
        assert!(matches!(discover(folder.path()), Err(Error::NoCases { .. })));
    }

    #[test]
    fn a_row_that_leads_out_to_nothing_or_twice_sets_its_case_aside() {
        let (_folder, found) = listed(
            "case,t1n,seg\nA,x/1.nii.gz,\nB,../z.nii,\nC,none.nii,\nD,,x/2.nii\nE,x/2.nii,\n\
             E,x/2.nii,\nF,x/2.nii,series\n",
        );
        let found = found.unwrap();
        assert_eq!(names(&found), ["A"]);
        let expected = [
            ("B", Kind::Outside),
            ("C", Kind::Unreadable),
            ("D", Kind::NoContrast),
            ("E", Kind::Duplicate),
            ("E", Kind::Duplicate),
            ("F", Kind::Unreadable),
        ];
        assert_eq!(kinds(&found), expected);
        assert!(found.set_aside[3].problem.detail.contains("line 6 of the manifest"));
    }

    #[test]
    fn a_manifest_that_does_not_parse_is_an_error_with_its_name_and_line() {
        let (folder, found) = listed("case,t1n\nA,x,y\n");
        let text = found.unwrap_err().to_string();
        assert!(text.contains("manifest.csv: line 2: 3 fields"), "{text}");
        std::fs::write(folder.path().join("data/manifest.toml"), "").unwrap();
        let both = discover(&folder.path().join("data"));
        assert!(matches!(both, Err(Error::TwoManifests { .. })), "{both:?}");
    }
}

#[test]
#[ignore = "reads ../shared/data"]
fn real_cohorts_are_found_with_their_patients() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let found = discover(&shared).unwrap();
    let seen: Vec<(&str, &str, bool)> = found
        .cases
        .iter()
        .map(|case| (case.name.as_str(), case.patient.as_str(), case.segmentation.is_some()))
        .collect();
    let expected = [
        ("LJ-MS-07", "LJ-MS-07", true),
        ("LJ-MS-26", "LJ-MS-26", true),
        ("LJ-MS-26-crop", "LJ-MS-26-crop", true),
        ("LJL-01-1", "LJL-01", false),
        ("LJL-01-2", "LJL-01", false),
        ("LJL-03-2", "LJL-03", false),
        ("LJL-04-1", "LJL-04", false),
    ];
    assert_eq!(seen, expected);
    assert_eq!((found.set_aside.len(), found.files_passed_over), (0, 4));
}
