//! Files that nibabel wrote and nibabel's reading of them (`tests/reference/make_nifti.py`): one for
//! every fact that was met in real scans.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::data::nifti::affine::{Source, largest_distance_mm};
use crate::data::nifti::claims::Version;
use crate::data::nifti::fault::Fault;
use crate::data::nifti::{Scan, read, read_like, read_mask, write_like};
use crate::data::normalise::Window;

/// How far apart, in millimetres, two programs may place a voxel of these small files.
const ROUNDING_MM: f64 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    scans: BTreeMap<String, Seen>,
    refused: BTreeMap<String, String>,
}

/// What nibabel sees in a file.
#[derive(Deserialize)]
struct Seen {
    axes: String,
    dims: [usize; 3],
    spacing_mm: [f64; 3],
    affine: [[f64; 4]; 3],
    window: [f64; 2],
    voxels: Vec<f32>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nifti")
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn scan(name: &str) -> Scan {
    read(&folder().join(name)).unwrap()
}

/// The names of all readable fixtures that start so. There is at least one.
fn names(start: &str) -> Vec<String> {
    let names: Vec<String> =
        expected().scans.into_keys().filter(|n| n.starts_with(start)).collect();
    assert!(!names.is_empty(), "{start}");
    names
}

#[test]
fn what_nibabel_wrote_is_read_as_nibabel_reads_it() {
    let expected = expected();
    assert_eq!(expected.scans.len(), 32 + 48 + 21 + 3);
    for (name, seen) in expected.scans {
        let Scan { volume, geometry } = scan(&name);
        assert_eq!(volume.voxels, seen.voxels, "{name}");
        assert_eq!(geometry.axis_codes(), seen.axes, "{name}");
        assert_eq!(volume.dims, seen.dims, "{name}");
        let apart = largest_distance_mm(geometry.affine(), &seen.affine, seen.dims);
        assert!(apart < ROUNDING_MM, "{name}: {apart} mm");
        for axis in 0..3 {
            let spacing = volume.spacing_mm[axis] - seen.spacing_mm[axis];
            assert!(spacing.abs() < ROUNDING_MM, "{name}: {:?}", volume.spacing_mm);
            let origin = volume.origin_mm[axis] - seen.affine[axis][3];
            assert!(origin.abs() < ROUNDING_MM, "{name}: {:?}", volume.origin_mm);
        }
        if let Ok(window) = Window::of(volume.voxels) {
            let apart =
                (window.low - seen.window[0]).abs().max((window.high - seen.window[1]).abs());
            assert!(apart <= 1e-6 * seen.window[1], "{name}: {window:?}");
        }
    }
}

#[test]
fn what_a_header_lies_about_is_refused_by_its_fault() {
    for (name, fault) in expected().refused {
        let refused = read(&folder().join(&name)).unwrap_err().fault;
        let fits = match fault.as_str() {
            "affine" => matches!(refused, Fault::Affine),
            "bits_per_voxel" => matches!(refused, Fault::BitsPerVoxel { bits: 8, .. }),
            "data_type" => matches!(refused, Fault::DataType(32)),
            "not_finite" => matches!(refused, Fault::NotFinite(3)),
            "not_nifti" => matches!(refused, Fault::NotNifti),
            "not_three_dimensional" => matches!(refused, Fault::NotThreeDimensional(_)),
            "surplus" => matches!(refused, Fault::Surplus(80)),
            "too_many_voxels" => matches!(refused, Fault::TooManyVoxels(_)),
            "truncated" => matches!(refused, Fault::Truncated { .. }),
            "voxel_offset" => matches!(refused, Fault::VoxelOffset(-1.0)),
            other => panic!("{other}"),
        };
        assert!(fits, "{name}: {refused}");
    }
}

#[test]
fn brats_is_lps_with_the_patients_back_at_minus_239() {
    let brats = scan("affine-brats-lps.nii.gz");
    assert_eq!(brats.geometry.axis_codes(), "LPS");
    // The file's first voxel is at (0, 239, 0): the last one of x and y here.
    assert_eq!(brats.volume.at(4, 3, 0), 0.0);
    assert_eq!(brats.volume.origin_mm, [-4.0, 236.0, 0.0]);
}

#[test]
fn files_of_one_atlas_in_ras_and_las_are_told_apart_by_their_affines() {
    let (ras, las) = (scan("affine-ras.nii.gz"), scan("affine-las.nii.gz"));
    assert_eq!([ras.geometry.axis_codes(), las.geometry.axis_codes()], ["RAS", "LAS"]);
    for x in 0..5 {
        assert_eq!(ras.volume.at(x, 1, 2), las.volume.at(4 - x, 1, 2));
    }
}

#[test]
fn the_sform_counts_before_the_qform_and_the_qform_before_voxel_sizes() {
    for (name, source, axes) in [
        ("affine-sform-over-qform.nii.gz", Source::Sform, "RAS"),
        ("affine-qform-alone.nii.gz", Source::Qform, "LAS"),
        ("affine-qform-alone-nifti2.nii.gz", Source::Qform, "LAS"),
        ("affine-voxel-sizes-alone.nii.gz", Source::VoxelSizes, "RAS"),
    ] {
        let geometry = scan(name).geometry;
        assert_eq!((geometry.source(), geometry.axis_codes()), (source, axes.to_owned()), "{name}");
    }
    // Matrix and quaternion place one oblique head alike.
    let matrix = scan("affine-oblique.nii.gz").geometry;
    read_like(&folder().join("affine-qform-alone.nii.gz"), &matrix).unwrap();
}

#[test]
fn every_voxel_type_keeps_its_extremes_in_both_byte_orders_and_versions() {
    for (data_type, low, high) in [
        ("u1", 0.0, 255.0),
        ("i1", -128.0, 127.0),
        ("i2", -32768.0, 32767.0),
        ("u2", 0.0, 65535.0),
        ("i4", -2147483648.0, 2147483647.0),
        ("u4", 0.0, 4294967295.0),
        ("f4", -136.25, 1e6),
        ("f8", -136.25, 1e6),
    ] {
        let files = names(&format!("type-{data_type}"));
        assert_eq!(files.len(), 4);
        for name in files {
            let Scan { volume, geometry } = scan(&name);
            // The file's first and last voxel; x and y are turned round.
            assert_eq!([volume.at(4, 3, 0), volume.at(0, 0, 2)], [low, high], "{name}");
            let version = if name.contains("nifti2") { Version::Two } else { Version::One };
            assert_eq!(geometry.version, version, "{name}");
            assert_eq!(geometry.big_endian, name.contains("-be-"), "{name}");
        }
    }
}

#[test]
fn a_head_stored_in_any_of_48_axis_orders_is_one_volume() {
    let turns = names("turn-");
    assert_eq!(turns.len(), 48);
    let first = scan(&turns[0]).volume;
    assert_eq!(first.spacing_mm, [1.0, 2.0, 3.0]);
    for name in turns {
        let turned = scan(&name);
        assert_eq!(turned.volume, first, "{name}");
        assert_eq!(name, format!("turn-{}.nii.gz", turned.geometry.axis_codes()));
    }
}

#[test]
fn slope_and_intercept_scale_and_a_slope_of_zero_or_nan_does_not() {
    // The file's second voxel along its third axis holds 1; the last one of x and y here.
    for (name, value) in [
        ("scaled.nii.gz", -2.5),
        ("scaled-negative.nii.gz", 8.0),
        ("scaled-zero.nii.gz", 1.0),
        ("scaled-nan.nii.gz", 1.0),
        ("scaled-nifti2-be.nii.gz", 7.1),
    ] {
        assert_eq!(scan(name).volume.at(4, 3, 1), value, "{name}");
    }
}

#[test]
fn trailing_dimensions_of_one_and_header_extensions_do_not_move_a_voxel() {
    let plain = scan("affine-brats-lps.nii.gz").volume;
    for start in ["four-dimensional", "extension", "plain"] {
        for name in names(start) {
            assert_eq!(scan(&name).volume, plain, "{name}");
        }
    }
}

#[test]
fn negative_voxels_stay_negative_and_count_as_background() {
    let volume = scan("negative.nii.gz").volume;
    assert_eq!(volume.voxels.iter().copied().fold(0.0, f32::min), -136.0);
    assert!(matches!(Window::of(volume.voxels), Err(crate::data::normalise::Error::Flat { .. })));
}

#[test]
fn a_mask_may_be_stored_as_floats() {
    let image = scan("affine-brats-lps.nii.gz");
    let mask = read_mask(&folder().join("mask-f32.nii.gz"), &image.geometry).unwrap();
    assert_eq!(mask.voxels.iter().sum::<f32>(), 4.0);
    assert_eq!(mask.at(3, 2, 1), 1.0);
}

#[test]
fn one_bright_voxel_does_not_darken_the_brain() {
    let volume = scan("outlier-t1c.nii.gz").volume;
    assert_eq!(volume.voxels.iter().copied().fold(0.0, f32::max), 15_462.0);
    let window = Window::of(volume.voxels).unwrap();
    assert!((2000.0..2600.0).contains(&window.high), "{window:?}");
    assert_eq!(window.to_model(15_462.0), 1.0);
    assert!(window.to_model(1400.0) > 0.0);
}

#[test]
fn background_stays_exactly_0_and_contrasts_of_a_case_may_differ_in_it() {
    let one = scan("brain-t1n.nii.gz");
    let other = read_like(&folder().join("brain-t2f.nii.gz"), &one.geometry).unwrap();
    let brain = |voxels: &[f32]| voxels.iter().filter(|v| v.to_bits() != 0).count();
    assert_eq!((brain(&one.volume.voxels), brain(&other.voxels)), (18, 18));
    let differs = |(a, b): &(&f32, &f32)| (**a == 0.0) != (**b == 0.0);
    assert_eq!(one.volume.voxels.iter().zip(&other.voxels).filter(differs).count(), 2);
}

#[test]
fn a_result_lies_over_every_file_in_the_files_own_version_and_order() {
    let results = tempfile::tempdir().unwrap();
    for name in names("") {
        let before = scan(&name);
        let path = results.path().join(&name);
        write_like(&path, &before.volume, &before.geometry, "SYNTHETIC").unwrap();
        let after = read(&path).unwrap();
        assert_eq!(after.volume, before.volume, "{name}");
        assert_eq!(after.geometry.orientation, before.geometry.orientation, "{name}");
        let kept = |scan: &Scan| (scan.geometry.version, scan.geometry.big_endian);
        assert_eq!(kept(&after), kept(&before), "{name}");
        let description = if after.geometry.version == Version::One { 148 } else { 240 };
        assert!(after.geometry.raw[description..].starts_with(b"SYNTHETIC\0"), "{name}");
    }
}

#[test]
fn a_nifti_two_result_has_the_bytes_of_its_input_but_for_type_scaling_and_description() {
    let results = tempfile::tempdir().unwrap();
    let before = scan("plain-nifti2.nii");
    let path = results.path().join("result.nii");
    write_like(&path, &before.volume, &before.geometry, "SYNTHETIC").unwrap();
    let written = std::fs::read(&path).unwrap();
    let original = std::fs::read(folder().join("plain-nifti2.nii")).unwrap();
    assert_eq!(written.len(), 544 + 60 * 4);
    let may = |i: &usize| (12..16).contains(i) || (176..208).contains(i) || (240..320).contains(i);
    let changed: Vec<usize> = (0..544).filter(|&i| written[i] != original[i]).collect();
    assert!(changed.iter().all(may), "{changed:?}");
    let voxels: Vec<f32> =
        written[544..].as_chunks().0.iter().map(|&raw| f32::from_le_bytes(raw)).collect();
    assert_eq!(voxels, original[544..].iter().map(|&v| f32::from(v)).collect::<Vec<f32>>());
}
