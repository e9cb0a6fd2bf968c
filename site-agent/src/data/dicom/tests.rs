//! Series written by pydicom against the same volumes written by nibabel (tests/reference/
//! make_dicom.py), and real files.

mod exports;
mod philips;
mod refusals;
mod results;

use std::path::{Path, PathBuf};

use dicom_object::{DefaultDicomObject, open_file};
use serde::Deserialize;

use super::*;
use crate::data::dicom::file::Opened;
use crate::data::dicom::folder::Passed;
use crate::data::nifti::affine::largest_distance_mm;

/// What the fixtures' headers say of their invented patients, in part. Nothing may repeat it.
const SECRETS: [&str; 12] = [
    "geheim",
    "fixture",
    "4711",
    "1.2.826",
    "19991231",
    "20010203",
    "20000101",
    "20020202",
    "19370401",
    "berweiser",
    "klinik",
    "mprage",
];

/// A fixture's path.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dicom").join(name)
}

/// That a text repeats nothing of the fixtures' headers.
fn assert_discreet(text: &str) {
    let text = text.to_lowercase();
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} in: {text}");
    }
}

/// That voxels are those of a reference, within rounding.
fn assert_alike(found: &[f32], expected: &[f32], name: &str) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let apart = (found - expected).abs();
        assert!(apart <= 1e-6 * expected.abs(), "{name}, voxel {index}: {found} {expected}");
    }
}

/// A copy of the fixture `plain` in which each file is changed; `change` is told which one it has.
fn altered(change: impl Fn(&mut DefaultDicomObject, usize)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..6 {
        let name = format!("IM{index:04}");
        let mut object = open_file(fixture("plain").join(&name)).unwrap();
        change(&mut object, index);
        object.write_to_file(folder.path().join(&name)).unwrap();
    }
    folder
}

#[test]
fn every_way_to_store_a_series_gives_the_volume_that_nibabel_wrote() {
    for (folder, reference) in [
        ("plain", "plain"),
        ("rle", "plain"),
        ("jpeg_lossless", "plain"),
        ("implicit", "plain"),
        ("big_endian", "plain"),
        ("monochrome1", "plain"),
        ("signed", "signed"),
        ("enhanced", "enhanced"),
        ("enhanced_rle", "enhanced"),
    ] {
        let found = read(&fixture(folder)).unwrap();
        let expected = nifti::read(&fixture(&format!("{reference}.nii.gz"))).unwrap();
        assert_eq!(found.volume.dims, expected.volume.dims, "{folder}");
        assert_eq!(found.geometry.axis_codes(), expected.geometry.axis_codes(), "{folder}");
        let (a, b) = (found.geometry.affine(), expected.geometry.affine());
        assert!(largest_distance_mm(a, b, found.volume.dims) < 1e-3, "{folder}");
        for (spacing, expected) in found.volume.spacing_mm.iter().zip(expected.volume.spacing_mm) {
            assert!((spacing - expected).abs() < 1e-4, "{folder}");
        }
        assert_eq!(found.volume.voxels, expected.volume.voxels, "{folder}");
    }
}

#[test]
fn files_that_are_no_images_are_passed_over_and_counted() {
    let found = folder::find(&fixture("plain"), &mut |_, _| {}).unwrap();
    assert_eq!(found.passed, Passed { not_dicom: 1, dicomdir: 1, ..Passed::default() });
    assert_eq!(found.series.len(), 1);
}

#[test]
fn a_link_is_not_followed_and_a_file_of_another_name_is_found_below() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::copy(fixture("plain/IM0000"), below.join("anything.txt")).unwrap();
    std::os::unix::fs::symlink(fixture("rle"), folder.path().join("link")).unwrap();
    std::os::unix::fs::symlink(fixture("rle/IM0000"), below.join("IM0000")).unwrap();
    let found = folder::find(folder.path(), &mut |_, _| {}).unwrap();
    assert_eq!(found.passed, Passed { links: 2, ..Passed::default() });
    assert_eq!((found.series.len(), found.series[0].frames()), (1, 1));
}

/// What pydicom reads in the real files.
#[derive(Deserialize)]
struct Expected {
    mr: Mr,
    ct: Ct,
}

#[derive(Deserialize)]
struct Mr {
    sum: i64,
    row_10: Vec<f32>,
}

#[derive(Deserialize)]
struct Ct {
    sum: f64,
    heights_mm: Vec<f64>,
    pixel_spacing_mm: Vec<f64>,
    slice_1_row_7: Vec<f32>,
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(fixture("real/expected.json")).unwrap()).unwrap()
}

#[test]
fn a_real_mr_slice_has_the_pixels_that_pydicom_reads_in_four_transfer_syntaxes() {
    let Expected { mr, .. } = expected();
    for name in ["MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_implicit"] {
        let path = fixture(&format!("real/{name}.dcm"));
        let Opened::Image(instance) = file::open(&path).unwrap() else { panic!("{name}") };
        let image = instance.image.unwrap();
        let raw = pixels::bytes(&file::whole(&path).unwrap(), &image.storage, 64 * 64).unwrap();
        let mut values = vec![0.0; 64 * 64];
        pixels::scale_into(&raw, &image.storage, image.frames[0].scale, &mut values);
        assert_eq!(values.iter().map(|&value| value as i64).sum::<i64>(), mr.sum, "{name}");
        assert_eq!(values[640..704], mr.row_10, "{name}");
        let class = class::class(&instance.facts);
        assert!(matches!(class, class::Class::Doubtful(why) if why.contains("derived")));
    }
}

#[test]
fn a_real_series_is_stacked_as_pydicom_says() {
    let Expected { ct, .. } = expected();
    let found = folder::find(&fixture("real/CT5N"), &mut |_, _| {}).unwrap();
    let voxels = series::read(&found.series[0]).unwrap();
    assert_eq!(voxels.grid.dims, [16, 16, 5]);
    let [x, y, z] = voxels.grid.spacing_mm();
    assert!((z - (ct.heights_mm[1] - ct.heights_mm[0])).abs() < 1e-6);
    assert!((y - ct.pixel_spacing_mm[0]).abs() + (x - ct.pixel_spacing_mm[1]).abs() < 1e-9);
    assert!((voxels.grid.affine[2][3] - ct.heights_mm[0]).abs() < 1e-9);
    assert_eq!(voxels.values[256 + 7 * 16..256 + 8 * 16], ct.slice_1_row_7);
    let sum: f64 = voxels.values.iter().map(|&value| f64::from(value)).sum();
    assert_eq!(sum, ct.sum);
    // It is no MR, so it is no scan of ours.
    assert_eq!(read(&fixture("real/CT5N")).unwrap_err().refusal, Refusal::NotMr);
}

#[test]
fn a_real_mr_series_loads_whole_as_numpy_and_nibabel_put_it_together() {
    for folder in ["hitachi", "anisotropic"] {
        let found = read(&fixture(&format!("real/{folder}"))).unwrap();
        let expected = nifti::read(&fixture(&format!("real/{folder}.nii.gz"))).unwrap();
        assert_eq!(found.volume.dims, expected.volume.dims, "{folder}");
        assert_eq!(found.geometry.axis_codes(), expected.geometry.axis_codes(), "{folder}");
        let (a, b) = (found.geometry.affine(), expected.geometry.affine());
        assert!(largest_distance_mm(a, b, found.volume.dims) < 1e-3, "{folder}");
        assert_alike(&found.volume.voxels, &expected.volume.voxels, folder);
    }
}
