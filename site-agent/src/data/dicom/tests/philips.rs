//! Philips' private scale: one volume, however a file stores the scale of its slices.

use std::collections::BTreeMap;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::FileMetaTableBuilder;

use super::*;

const CREATOR: Tag = Tag(0x2005, 0x0010);
const SLOPE: Tag = Tag(0x2005, 0x100E);

#[test]
fn the_scale_of_philips_gives_one_volume_in_every_way_to_store_it() {
    let expected = nifti::read(&fixture("philips.nii.gz")).unwrap();
    for folder in [
        "philips_explicit",
        "philips_implicit",
        "philips_un",
        "philips_enhanced_explicit",
        "philips_enhanced_implicit",
        "philips_enhanced_undefined",
        "philips_enhanced_un",
    ] {
        let found = read(&fixture(folder)).unwrap();
        assert_eq!(found.geometry.axis_codes(), expected.geometry.axis_codes(), "{folder}");
        assert_alike(&found.volume.voxels, &expected.volume.voxels, folder);
    }
}

/// Why the series is refused once `change` was made to each of its files, which are told apart by the
/// order of their names.
fn refused(folder: &str, change: impl Fn(&mut DefaultDicomObject, usize)) -> Refusal {
    let copy = changed(folder, change);
    let refusal = read(copy.path()).unwrap_err().refusal;
    assert_discreet(&refusal.to_string());
    refusal
}

fn changed(folder: &str, change: impl Fn(&mut DefaultDicomObject, usize)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let entries = std::fs::read_dir(fixture(folder)).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeMap<_, _> =
        entries.map(|path| (path.file_name().unwrap().to_owned(), path)).collect();
    let images = files.iter().filter(|(name, _)| name.to_string_lossy().starts_with("IM"));
    for (index, (name, path)) in images.enumerate() {
        let mut object = open_file(path).unwrap();
        change(&mut object, index);
        object.write_to_file(copy.path().join(name)).unwrap();
    }
    copy
}

fn bytes(value: &[u8]) -> PrimitiveValue {
    PrimitiveValue::U8(value.into())
}

#[test]
fn a_scale_that_cannot_be_understood_is_refused_by_name_and_never_passed_over() {
    let named = Refusal::Attribute("Philips' scale slope (2005,100E)");
    let with = |vr, value: PrimitiveValue| {
        refused("philips_explicit", |object, _| {
            object.put(DataElement::new(SLOPE, vr, value.clone()));
        })
    };
    assert_eq!(with(VR::UN, bytes(&[0, 0])), named);
    assert_eq!(with(VR::UN, bytes(b"0.000400")), named);
    assert_eq!(with(VR::LO, PrimitiveValue::from("geheim")), named);
    assert_eq!(with(VR::FL, PrimitiveValue::from(-1.0_f32)), named);
    // Whose the element is must be said, for others may use its number.
    let unowned = refused("philips_explicit", |object, _| {
        object.remove_element(CREATOR);
        object.put_str(tags::MANUFACTURER, VR::LO, "Philips Medical Systems");
    });
    assert_eq!(unowned, named);
    let some = refused("philips_explicit", |object, index| {
        if index == 2 {
            object.remove_element(SLOPE);
        }
    });
    assert_eq!(some, Refusal::MixedScales);
}

#[test]
fn a_sequence_of_philips_that_cannot_be_read_is_refused_by_name() {
    let raw = |value: &'static [u8]| {
        refused("philips_enhanced_un", |object, _| {
            let mut frames = object
                .get(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)
                .and_then(|frames| frames.items())
                .unwrap()
                .to_vec();
            frames[3].put(DataElement::new(Tag(0x2005, 0x140F), VR::UN, bytes(value)));
            object.put(DataElement::new(
                tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
                VR::SQ,
                dicom_core::value::DataSetSequence::from(frames),
            ));
        })
    };
    let named = Refusal::Attribute("Philips' sequence (2005,140F)");
    assert_eq!(raw(b"geheim"), named);
    assert_eq!(raw(&[0xFE, 0xFF, 0, 0xE0, 255, 255, 255, 0x7F]), named);
    // An item with nothing in it has no scale, which the other frames have.
    assert_eq!(raw(&[0xFE, 0xFF, 0, 0xE0, 0, 0, 0, 0]), Refusal::MixedScales);
}

#[test]
fn an_element_of_the_same_number_that_is_not_of_philips_scales_nothing() {
    let plain = read(&fixture("plain")).unwrap();
    for creator in [Some("SOMEBODY ELSE"), None] {
        let other = changed("plain", |object, _| {
            if let Some(creator) = creator {
                object.put_str(CREATOR, VR::LO, creator);
            }
            object.put(DataElement::new(SLOPE, VR::FL, PrimitiveValue::from(3.0_f32)));
        });
        assert_eq!(read(other.path()).unwrap(), plain);
    }
}

#[test]
fn a_scale_of_unknown_representation_is_little_endian_in_a_big_endian_file() {
    let moved = changed("philips_un", |object, _| {
        let meta = object.meta().clone();
        *object = object.clone().into_inner().with_exact_meta(
            FileMetaTableBuilder::new()
                .transfer_syntax("1.2.840.10008.1.2.2")
                .media_storage_sop_class_uid(meta.media_storage_sop_class_uid())
                .media_storage_sop_instance_uid(meta.media_storage_sop_instance_uid())
                .build()
                .unwrap(),
        );
    });
    let expected = nifti::read(&fixture("philips.nii.gz")).unwrap();
    assert_alike(&read(moved.path()).unwrap().volume.voxels, &expected.volume.voxels, "moved");
}

/// What pydicom reads in a real Enhanced file of Philips.
#[derive(Deserialize)]
struct Mprage {
    frames: usize,
    first_position_mm: [f64; 3],
    last_position_mm: [f64; 3],
    scale_slopes: Vec<f64>,
}

#[test]
fn a_real_enhanced_file_of_philips_loads_with_its_private_scale() {
    let expected = std::fs::read(fixture("real/philips_mprage.json")).unwrap();
    let expected: Mprage = serde_json::from_slice(&expected).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let packed = std::fs::File::open(fixture("real/philips_mprage.dcm.gz")).unwrap();
    let mut file = std::fs::File::create(folder.path().join("a")).unwrap();
    std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut file).unwrap();
    let found = folder::find(folder.path(), &mut |_, _| {}).unwrap();
    let voxels = series::read(&found.series[0]).unwrap();
    assert_eq!(voxels.grid.dims, [256, 256, expected.frames]);
    let [slope] = expected.scale_slopes[..] else { panic!("{:?}", expected.scale_slopes) };
    assert_eq!(voxels.scale.unwrap().slope, 1.0 / slope);
    // RAS from LPS; the frames run along their normal.
    let end = (expected.frames - 1) as f64;
    let place = |slice: f64| voxels.grid.affine.map(|row| row[3] + slice * row[2]);
    for (slice, [x, y, z]) in [(0.0, expected.first_position_mm), (end, expected.last_position_mm)]
    {
        for (found, expected) in place(slice).into_iter().zip([-x, -y, z]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
    assert!(voxels.values.iter().all(|&value| value == 0.0));
}
