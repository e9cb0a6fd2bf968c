//! A result as a series: what it keeps, what it changes, and that nothing is half-written.

use dicom_dictionary_std::{tags, uids};

use super::*;
use crate::data::volume::Volume;

const DERIVATION: &str = "SYNTHETIC: painted by a test";

/// The fixture's volume with a box painted, and where it was.
fn painted(folder: &str) -> (Volume, Vec<bool>) {
    let scan = read(&fixture(folder)).unwrap();
    let mut volume = scan.volume.clone();
    let mut inside = vec![false; volume.voxels.len()];
    for z in 2..4 {
        for y in 3..5 {
            for x in 4..8 {
                let index = volume.index(x, y, z);
                volume.voxels[index] = 700.3 + x as f32;
                inside[index] = true;
            }
        }
    }
    (volume, inside)
}

#[test]
fn a_result_read_back_is_the_source_outside_the_mask_and_the_paint_inside() {
    for (folder, tolerance) in
        [("plain", 0.5), ("rle", 0.5), ("signed", 0.25), ("monochrome1", 0.5), ("enhanced", 0.2)]
    {
        let source = read(&fixture(folder)).unwrap();
        let (volume, inside) = painted(folder);
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("result");
        derived::write(&out, &fixture(folder), &volume, DERIVATION).unwrap();
        let found = read(&out).unwrap();
        let apart =
            largest_distance_mm(found.geometry.affine(), source.geometry.affine(), volume.dims);
        assert!(apart < 1e-3, "{folder}: {apart}");
        for (index, &painted) in inside.iter().enumerate() {
            let apart = (found.volume.voxels[index] - volume.voxels[index]).abs();
            // The frames of the Enhanced series have no common scale; the others keep theirs.
            let exact = !painted && folder != "enhanced";
            assert!(apart <= if exact { 0.0 } else { tolerance }, "{folder}: {apart}");
        }
    }
}

#[test]
fn a_result_is_marked_as_synthetic_and_belongs_to_the_patient_and_study_of_its_source() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("result");
    let private = dicom_core::Tag(0x2005, 0x0010);
    let source = altered(|object, _| {
        object.put_str(private, dicom_core::VR::LO, "PRIVATE CREATOR");
    });
    let volume = painted("plain").0;
    derived::write(&out, source.path(), &volume, DERIVATION).unwrap();
    let before = open_file(fixture("plain/IM0000")).unwrap();
    let text = |object: &DefaultDicomObject, tag| {
        object.get(tag).unwrap().to_str().unwrap().trim_end_matches('\0').to_string()
    };
    let mut objects = std::collections::BTreeSet::new();
    for slice in 1..=6 {
        let after = open_file(out.join(format!("{slice:04}.dcm"))).unwrap();
        for tag in [
            tags::PATIENT_NAME,
            tags::PATIENT_ID,
            tags::STUDY_INSTANCE_UID,
            tags::FRAME_OF_REFERENCE_UID,
            tags::REFERRING_PHYSICIAN_NAME,
            tags::STUDY_DATE,
            tags::ECHO_TIME,
        ] {
            assert_eq!(text(&before, tag), text(&after, tag), "{tag}");
        }
        assert_eq!(text(&after, tags::IMAGE_TYPE), "DERIVED\\SECONDARY\\OTHER\\SYNTHETIC");
        assert!(text(&after, tags::SERIES_DESCRIPTION).starts_with("SYNTHETIC"));
        assert_eq!(text(&after, tags::DERIVATION_DESCRIPTION), DERIVATION);
        assert_eq!(text(&after, tags::BURNED_IN_ANNOTATION), "NO");
        assert_eq!(after.meta().transfer_syntax(), uids::EXPLICIT_VR_LITTLE_ENDIAN);
        let fresh = |tag| {
            let uid = text(&after, tag);
            assert!(uid.starts_with("2.25.") && uid != text(&before, tag), "{uid}");
            uid
        };
        fresh(tags::SERIES_INSTANCE_UID);
        objects.insert(fresh(tags::SOP_INSTANCE_UID));
        assert!(after.iter().all(|element| element.header().tag.group() % 2 == 0));
    }
    assert_eq!(objects.len(), 6);
    // Nobody learns from it by mistake.
    let found = folder::find(&out, &mut |_, _| {}).unwrap();
    let class = class::class(&found.series[0].first().facts);
    assert_eq!(class, class::Class::Excluded("synthetic, never to be learnt from"));
}

#[test]
fn the_same_result_has_the_same_bytes_and_another_has_other_uids() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, volume: &Volume| {
        let out = folder.path().join(name);
        derived::write(&out, &fixture("plain"), volume, DERIVATION).unwrap();
        std::fs::read(out.join("0003.dcm")).unwrap()
    };
    let (mut volume, _) = painted("plain");
    let first = write("a", &volume);
    assert_eq!(first, write("b", &volume));
    volume.voxels[0] += 1.0;
    let other = write("c", &volume);
    let uid = |bytes: &[u8]| {
        let object = dicom_object::from_reader(bytes).unwrap();
        object.get(tags::SOP_INSTANCE_UID).unwrap().to_str().unwrap().to_string()
    };
    assert_ne!(uid(&first), uid(&other));
}

#[test]
fn a_result_of_another_shape_or_into_a_folder_that_is_there_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (volume, _) = painted("plain");
    let mut smaller = volume.clone();
    smaller.dims[2] -= 1;
    smaller.voxels.truncate(smaller.dims.iter().product());
    let out = folder.path().join("out");
    let refused = |volume: &Volume| {
        derived::write(&out, &fixture("plain"), volume, DERIVATION).unwrap_err().refusal
    };
    assert!(matches!(refused(&smaller), Refusal::Shape { .. }));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    std::fs::create_dir(&out).unwrap();
    assert_eq!(refused(&volume), Refusal::Exists);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
