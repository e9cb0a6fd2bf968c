use std::collections::BTreeSet;
use std::path::Path;

use rustix::io::Errno;

use super::{Cohort, Error, usable};
use crate::data::cache;
use crate::data::example::Example;
use crate::data::layout::Contrast;
use crate::data::mask::Mode;
use crate::data::pool::BatchKey;
use crate::data::problem::Kind;
use crate::data::scan::SliceOptions;
use crate::data::split::manifest::Part;
use crate::phantom::scanner::Scanner;
use crate::phantom::{CohortSpec, write_cohort};
use crate::pipe::Failure;
use crate::settings::{CACHE_MIB_DEFAULT, DataSettings};

#[test]
fn a_cache_whose_disk_is_full_is_gone_without_and_one_that_can_never_be_is_refused() {
    let opened =
        |errno: Errno| usable(Err(cache::Error { path: "cache".into(), source: errno.into() }));
    for errno in [Errno::NOSPC, Errno::IO, Errno::ROFS] {
        assert!(matches!(opened(errno), Ok(None)), "{errno}");
    }
    assert!(opened(Errno::ACCESS).is_err() && opened(Errno::NOTDIR).is_err());
}

fn cohort(cases: &[(&str, &[&str])]) -> (tempfile::TempDir, DataSettings) {
    let folder = tempfile::tempdir().unwrap();
    for (case, contrasts) in cases {
        std::fs::create_dir(folder.path().join(case)).unwrap();
        for contrast in *contrasts {
            let path = folder.path().join(case).join(format!("{case}-{contrast}.nii.gz"));
            std::fs::write(path, b"").unwrap();
        }
    }
    let path = folder.path().to_owned();
    let settings = DataSettings {
        path,
        label_scheme: None,
        contrasts: None,
        held_out: 0.34,
        split_salt: String::new(),
        split: None,
        cache: None,
        cache_mib_max: CACHE_MIB_DEFAULT,
    };
    (folder, settings)
}

#[test]
fn every_patient_either_trains_or_is_held_out() {
    let cases: &[(&str, &[&str])] = &[
        ("A-1-0", &["t1n"]),
        ("A-1-1", &["t1n", "t2f"]),
        ("A-2-0", &["t1n"]),
        ("A-3-0", &["t1c"]),
    ];
    let (_folder, settings) = cohort(cases);
    let found = Cohort::discover(&settings).unwrap();
    let patients = |held| -> BTreeSet<&str> {
        found.usable(held).map(|(_, case)| case.patient.as_str()).collect()
    };
    assert_eq!((patients(true).len(), patients(false).len()), (1, 2));
    assert!(patients(true).is_disjoint(&patients(false)));
    let summary = found.summary();
    assert_eq!((summary.cases, summary.patients, summary.patients_held_out), (4, 3, 1));
    let nobody = DataSettings { held_out: 0.0, ..settings };
    assert_eq!(Cohort::discover(&nobody).unwrap().usable(true).count(), 0);
}

/// The patients of each side that can be used: those that train, those held out.
fn parts(settings: &DataSettings) -> [BTreeSet<String>; 2] {
    let cohort = Cohort::discover(settings).unwrap();
    [false, true].map(|held| cohort.usable(held).map(|(_, case)| case.patient.clone()).collect())
}

#[test]
fn who_is_held_out_does_not_depend_on_the_contrasts_that_are_asked_for() {
    let names: Vec<String> = (1..=9).map(|patient| format!("A-{patient}-0")).collect();
    let contrasts = |i: usize| if i < 4 { &["t1n", "t2f"][..] } else { &["t1n"][..] };
    let cases: Vec<(&str, &[&str])> =
        names.iter().enumerate().map(|(i, name)| (name.as_str(), contrasts(i))).collect();
    let (_folder, settings) = cohort(&cases);
    for salt in ["a", "b", "c", "d", "e", "f"] {
        let all = DataSettings { split_salt: salt.into(), ..settings.clone() };
        let some = DataSettings { contrasts: Some(vec!["t2f".into()]), ..all.clone() };
        let (all, some) = (parts(&all), parts(&some));
        assert!(some[0].len() + some[1].len() == 4);
        assert!(some[0].is_subset(&all[0]) && some[1].is_subset(&all[1]), "{salt}");
    }
}

#[test]
fn a_patient_keeps_its_side_when_others_come_whatever_the_salt_and_the_fraction() {
    let (folder, settings) = cohort(&[("A-1-0", &["t1n"]), ("A-2-0", &["t1n"])]);
    for salt in ["", "s"] {
        let split = folder.path().join(format!("split-{salt}.json"));
        let settings = DataSettings {
            split_salt: salt.into(),
            held_out: 0.5,
            split: Some(split.clone()),
            ..settings.clone()
        };
        let before = parts(&settings);
        Cohort::discover(&settings).unwrap().manifest().write(&split).unwrap();
        for patient in 3..40 {
            let case = folder.path().join(format!("A-{patient}-0"));
            std::fs::create_dir_all(&case).unwrap();
            std::fs::write(case.join(format!("A-{patient}-0-t1n.nii.gz")), b"").unwrap();
        }
        for (other, held_out) in [(salt, 0.5), (salt, 0.2), ("other", 0.5)] {
            let later = DataSettings { split_salt: other.into(), held_out, ..settings.clone() };
            let after = parts(&later);
            assert!(before[0].is_subset(&after[0]) && before[1].is_subset(&after[1]), "{other}");
            assert_eq!(after[1].len(), (39.0 * held_out).round() as usize);
        }
        for patient in 3..40 {
            std::fs::remove_dir_all(folder.path().join(format!("A-{patient}-0"))).unwrap();
        }
        std::fs::write(&split, "{").unwrap();
        let refused = Cohort::discover(&settings).unwrap_err();
        assert_eq!(refused.failure(), Failure::Disk);
    }
}

#[test]
fn only_the_contrasts_asked_for_are_used_and_unknown_words_are_refused() {
    let (_folder, settings) = cohort(&[("A-1", &["t1n", "t2f"]), ("A-2", &["t2f"])]);
    let with = |contrasts: &[&str], scheme: Option<&str>| {
        Cohort::discover(&DataSettings {
            contrasts: Some(contrasts.iter().map(ToString::to_string).collect()),
            label_scheme: scheme.map(str::to_owned),
            ..settings.clone()
        })
    };
    assert_eq!(with(&["t1n"], None).unwrap().summary().cases, 1);
    assert!(matches!(with(&["t1c"], None), Err(Error::NoContrast { .. })));
    let refused = with(&["T1"], None).unwrap_err().to_string();
    assert!(refused.contains("data.contrasts") && refused.contains("t1n"), "{refused}");
    let refused = with(&["t1n"], Some("brats")).unwrap_err().to_string();
    assert!(refused.contains("data.label_scheme"), "{refused}");
}

/// Four patients of which two are harmed: one has half a file, the other labels without meaning.
fn harmed(folder: &Path) -> DataSettings {
    let path = folder.join("scans");
    let spec =
        CohortSpec { out: path.clone(), patients: 4, scanner: Scanner::A, seed: 1, size_mm: 6.0 };
    write_cohort(&spec, &mut |_, _| {}).unwrap();
    let mut cases: Vec<_> =
        std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.is_dir());
    cases.sort();
    let file = |case: usize, kind: &str| {
        let name = cases[case].file_name().unwrap().to_str().unwrap();
        cases[case].join(format!("{name}-{kind}.nii.gz"))
    };
    let bytes = std::fs::read(file(1, "t2w")).unwrap();
    std::fs::write(file(1, "t2w"), &bytes[..bytes.len() / 2]).unwrap();
    std::fs::copy(file(2, "t1n"), file(2, "seg")).unwrap();
    DataSettings {
        path,
        label_scheme: Some("brats2023".into()),
        contrasts: None,
        held_out: 0.0,
        split_salt: String::new(),
        split: None,
        cache: Some(folder.join("cache")),
        cache_mib_max: CACHE_MIB_DEFAULT,
    }
}

fn draw(cohort: &Cohort) -> Result<Vec<Example>, Error> {
    let mode = Mode::Corrected;
    let options = SliceOptions { size: 16, masks: 2, seed: 1, round: 1, mode, augment: false };
    let key = BatchKey { seed: 1, round: 1, step: 0 };
    cohort.with_pool(options, &|| false, |pool| pool.batch(key, 12).unwrap())
}

#[test]
fn a_bad_case_is_set_aside_with_its_reason_and_the_rest_train() {
    let folder = tempfile::tempdir().unwrap();
    let settings = harmed(folder.path());
    let cohort = Cohort::discover(&settings).unwrap();
    let drawn = draw(&cohort).unwrap();
    let aside = cohort.set_aside();
    assert_eq!(aside.len(), 2, "{aside:?}");
    assert_eq!(aside[0].problem.kind, Kind::Truncated);
    assert!(aside[0].problem.to_string().contains("t2w"), "{aside:?}");
    assert_eq!(aside[1].problem.kind, Kind::Labels);
    let summary = cohort.summary();
    assert_eq!((summary.cases, summary.cases_set_aside, summary.scans_training), (4, 2, 8));
    // Without the cache, or without the bad cases, the same is learnt.
    let plain = DataSettings { cache: None, ..settings.clone() };
    assert_eq!(draw(&Cohort::discover(&plain).unwrap()).unwrap(), drawn);
    for case in &aside {
        std::fs::remove_dir_all(settings.path.join(&case.case)).unwrap();
    }
    let rest = Cohort::discover(&settings).unwrap();
    assert_eq!(draw(&rest).unwrap(), drawn);
    assert!(rest.set_aside().is_empty());
}

#[test]
fn a_cohort_without_a_sound_case_says_how_many_there_were_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let settings = harmed(folder.path());
    for entry in std::fs::read_dir(&settings.path).unwrap().map(Result::unwrap) {
        for file in std::fs::read_dir(entry.path()).into_iter().flatten().map(Result::unwrap) {
            if file.path().is_file() {
                std::fs::write(file.path(), b"no scan").unwrap();
            }
        }
    }
    let error = draw(&Cohort::discover(&settings).unwrap()).unwrap_err();
    assert_eq!(error.failure(), Failure::NoData);
    let text = error.to_string();
    assert!(text.contains("none of the 4 cases") && text.contains("NIfTI"), "{text}");
}

#[test]
fn the_manifest_names_every_case_with_its_part_and_the_digests_of_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let settings = DataSettings { held_out: 0.25, ..harmed(folder.path()) };
    let cohort = Cohort::discover(&settings).unwrap();
    cohort.survey(&|| false, &mut |_, _| {}).unwrap();
    let manifest = cohort.manifest();
    assert_eq!(manifest.cases.len(), 4);
    assert_eq!(manifest.count(Part::SetAside), 2);
    for entry in &manifest.cases {
        assert_eq!(entry.reason.is_some(), entry.part == Part::SetAside);
        assert!(entry.files.keys().eq(&["seg", "t1c", "t1n", "t2f", "t2w"]));
        let path = settings.path.join(&entry.case).join(format!("{}-t1n.nii.gz", entry.case));
        let digest = blake3::hash(&std::fs::read(path).unwrap()).to_string();
        assert_eq!(entry.files["t1n"], digest);
        assert_eq!(
            entry.part == Part::HeldOut,
            cohort.usable(true).any(|(_, c)| c.name == entry.case)
        );
    }
}

#[test]
fn what_trains_is_known_by_its_cases_patients_labels_and_bytes_and_by_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let settings = DataSettings { held_out: 0.25, ..harmed(folder.path()) };
    let training = |settings: &DataSettings| {
        let cohort = Cohort::discover(settings).unwrap();
        cohort.survey(&|| false, &mut |_, _| {}).unwrap();
        cohort.training()
    };
    let before = training(&settings);
    assert_eq!(training(&DataSettings { cache: None, ..settings.clone() }), before);
    let contrasts = Some(vec!["t1n".to_owned()]);
    let others = [
        DataSettings { contrasts, ..settings.clone() },
        DataSettings { held_out: 0.0, ..settings.clone() },
    ];
    for other in &others {
        assert_ne!(training(other), before, "{other:?}");
    }
    let cohort = Cohort::discover(&settings).unwrap();
    cohort.survey(&|| false, &mut |_, _| {}).unwrap();
    let case = cohort.usable(false).next().unwrap().1.clone();
    let scan = &case.scans[&Contrast::T1n];
    let bytes = std::fs::read(scan).unwrap();
    std::fs::copy(&case.scans[&Contrast::T2f], scan).unwrap();
    assert_ne!(training(&settings), before);
    std::fs::write(scan, bytes).unwrap();
    assert_eq!(training(&settings), before);
    std::fs::remove_dir_all(settings.path.join(&case.name)).unwrap();
    assert_ne!(training(&settings), before);
}

#[test]
fn a_survey_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let cohort = Cohort::discover(&harmed(folder.path())).unwrap();
    let stopped = cohort.survey(&|| true, &mut |_, _| {});
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert!(cohort.set_aside().is_empty());
}
