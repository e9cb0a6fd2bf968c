//! What an archive's export becomes: which series are certain, and which files are planned.

use std::collections::BTreeMap;

use super::*;
use crate::data::dicom::class::Class;
use crate::data::dicom::folder::Found;
use crate::data::dicom::intake::{Listed, Planned};
use crate::data::layout::{Contrast, patient_of};

const SALT: [u8; 32] = [3; 32];

fn study() -> (Found, Vec<Listed>) {
    let found = folder::find(&fixture("study"), &mut |_, _| {}).unwrap();
    let listed = intake::list(&found);
    (found, listed)
}

/// The contrast and the series' number in the list, of each file of each case.
fn files(planned: &[Planned]) -> Vec<Vec<(Contrast, usize)>> {
    let files = |case: &Planned| case.series.iter().map(|(&c, &index)| (c, index + 1)).collect();
    planned.iter().map(files).collect()
}

#[test]
fn an_export_is_listed_by_numbers_with_class_and_reason() {
    let (_, listed) = study();
    let seen: Vec<(usize, usize, Option<usize>, &str)> = listed
        .iter()
        .map(|entry| {
            let class = match &entry.class {
                Class::Certain(contrast) => contrast.name(),
                Class::Doubtful(_) => "doubtful",
                Class::Excluded(why) => why,
            };
            (entry.patient, entry.exam, entry.scanner_number, class)
        })
        .collect();
    let expected = [
        // The earlier exam comes first, whatever its UID is.
        (1, 1, Some(2), "t2w"),
        (1, 2, Some(1), "a localiser"),
        (1, 2, Some(2), "t1n"),
        (1, 2, Some(3), "t1c"),
        (1, 2, Some(4), "t2w"),
        (1, 2, Some(5), "t2f"),
        (1, 2, Some(6), "diffusion"),
        (1, 2, Some(7), "t2w"),
        (2, 1, Some(2), "doubtful"),
        (2, 1, Some(3), "doubtful"),
        (2, 1, Some(4), "doubtful"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(listed[7].problem, Some(Refusal::BurnedIn));
    assert!(listed.iter().enumerate().all(|(i, e)| (e.problem.is_some()) == (i == 7)));
    let Class::Doubtful(why) = &listed[9].class else { panic!() };
    assert_eq!(why, "series 10 and 11 are all t2w");
    assert_eq!(listed[4].dims, Some([5, 4, 3]));
}

#[test]
fn certain_and_assigned_series_become_cases_named_by_a_salted_key() {
    let (found, listed) = study();
    let certain = intake::plan(&found, &listed, &BTreeMap::new(), &SALT).unwrap();
    use Contrast::{T1c, T1n, T2f, T2w};
    let expected = vec![vec![(T2w, 1)], vec![(T1n, 3), (T1c, 4), (T2w, 5), (T2f, 6)]];
    assert_eq!(files(&certain), expected);
    assert!(certain[0].name.ends_with("-001") && certain[1].name.ends_with("-002"));
    assert_eq!(patient_of(&certain[0].name), patient_of(&certain[1].name));
    assert!(certain.iter().all(|case| !case.name.contains("GEHEIM")));
    let assigned = BTreeMap::from([(9, T1c), (11, T2w), (2, T1n)]);
    let planned = intake::plan(&found, &listed, &assigned, &SALT).unwrap();
    let mut all = files(&planned);
    all.sort();
    // A human's word goes before the rules', also for what they exclude.
    let with_localiser = vec![(T1n, 2), (T1c, 4), (T2w, 5), (T2f, 6)];
    assert_eq!(all, [with_localiser, vec![(T1c, 9), (T2w, 11)], vec![(T2w, 1)]]);
}

#[test]
fn assignments_that_cannot_be_carried_out_are_errors() {
    let (found, listed) = study();
    let error = |pairs: &[(usize, Contrast)]| {
        let assigned = pairs.iter().copied().collect();
        intake::plan(&found, &listed, &assigned, &SALT).unwrap_err()
    };
    assert_eq!(error(&[(12, Contrast::T1n)]), intake::Error::NoSuchSeries(12));
    assert_eq!(error(&[(0, Contrast::T1n)]), intake::Error::NoSuchSeries(0));
    assert_eq!(error(&[(8, Contrast::T2w)]), intake::Error::Unusable(8));
    let twice = error(&[(10, Contrast::T2w), (11, Contrast::T2w)]);
    assert_eq!(twice, intake::Error::Twice(10, 11));
}

#[test]
fn a_patient_without_an_id_is_set_aside() {
    let folder = altered(|object, _| {
        object.remove_element(dicom_dictionary_std::tags::PATIENT_ID);
    });
    let found = folder::find(folder.path(), &mut |_, _| {}).unwrap();
    let listed = intake::list(&found);
    assert_eq!(listed[0].problem, Some(Refusal::Attribute("PatientID")));
    assert_eq!(intake::plan(&found, &listed, &BTreeMap::new(), &SALT), Ok(vec![]));
}

#[test]
fn a_list_repeats_nothing_of_what_headers_say_of_a_patient() {
    let (_, listed) = study();
    assert_discreet(&serde_json::to_string(&listed).unwrap());
}

#[test]
fn a_case_is_written_whole_under_the_names_that_are_found_again_or_not_at_all() {
    let (mut found, listed) = study();
    let planned = intake::plan(&found, &listed, &BTreeMap::new(), &SALT).unwrap();
    let out = tempfile::tempdir().unwrap();
    for case in &planned {
        cases::write(out.path(), &found, case).unwrap();
    }
    let four = out.path().join(&planned[1].name);
    for contrast in Contrast::ALL {
        let path = four.join(format!("{}-{}.nii.gz", planned[1].name, contrast.name()));
        assert_eq!(nifti::read(&path).unwrap().volume.dims.iter().product::<usize>(), 60);
    }
    let again = cases::write(out.path(), &found, &planned[0]).unwrap_err();
    assert_eq!(again, cases::Error::Exists(planned[0].name.clone()));
    // One series that cannot be read takes its case with it.
    let elsewhere = tempfile::tempdir().unwrap();
    found.series[5].instances[1].path = elsewhere.path().join("gone");
    let error = cases::write(elsewhere.path(), &found, &planned[1]).unwrap_err();
    assert!(matches!(error, cases::Error::Series { number: 6, contrast: Contrast::T2f, .. }));
    assert_discreet(&error.to_string());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn an_imported_file_is_the_series_and_holds_nothing_of_its_patient() {
    let found = folder::find(&fixture("signed"), &mut |_, _| {}).unwrap();
    let voxels = series::read(&found.series[0]).unwrap();
    let scan = nifti::decode(convert::nifti_gz(&voxels).unwrap().as_slice()).unwrap();
    assert_eq!(scan, read(&fixture("signed")).unwrap());
    let plain = folder::find(&fixture("plain"), &mut |_, _| {}).unwrap();
    let bytes = convert::nifti_bytes(&series::read(&plain.series[0]).unwrap());
    // Whole numbers are stored as such: type 4 is i16.
    assert_eq!((bytes[70], bytes.len()), (4, 352 + 2 * 720));
    let header: String = bytes[..352].iter().map(|&byte| char::from(byte)).collect();
    assert_discreet(&header);
}

#[test]
fn a_real_series_is_imported_once_a_human_says_what_it_is() {
    let found = folder::find(&fixture("real/hitachi"), &mut |_, _| {}).unwrap();
    let listed = intake::list(&found);
    assert_eq!((listed.len(), &listed[0].problem), (1, &None));
    let assigned = BTreeMap::from([(1, Contrast::T2w)]);
    let planned = intake::plan(&found, &listed, &assigned, &SALT).unwrap();
    let out = tempfile::tempdir().unwrap();
    let case = cases::write(out.path(), &found, &planned[0]).unwrap();
    let imported = nifti::read(&case.join(format!("{}-t2w.nii.gz", planned[0].name))).unwrap();
    let expected = nifti::read(&fixture("real/hitachi.nii.gz")).unwrap();
    assert_eq!(imported.volume.voxels, expected.volume.voxels);
}
