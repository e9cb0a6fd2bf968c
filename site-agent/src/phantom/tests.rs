//! What a cohort promises: the same files for the same seed, a healthy twin that differs by the
//! tumour alone, and the layout that the loader finds.

use std::collections::BTreeSet;

use super::*;
use crate::data::labels::{LabelScheme, regions};
use crate::data::layout;
use crate::phantom::tumour::Tumour;
use crate::phantom::warp::Warp;

/// Coarse voxels keep these tests fast; the recipe is the same.
const SIZE: f64 = 4.0;

fn seed(patient: u64) -> PatientSeed {
    PatientSeed { cohort: 11, scanner: 'A', patient }
}

fn spec(out: &Path, patients: usize) -> CohortSpec {
    CohortSpec { out: out.to_path_buf(), patients, scanner: Scanner::B, seed: 7, size_mm: SIZE }
}

/// Every file below a folder with its bytes.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn the_same_seed_makes_the_same_files_whatever_is_made_beside_them() {
    let files = |patients: usize| {
        let folder = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        let made = write_cohort(&spec(folder.path(), patients), &mut |done, total| {
            seen.push((done, total));
        });
        assert_eq!(made.unwrap()[0], "Phantom-B-00000-000");
        assert_eq!(seen, (1..=patients).map(|done| (done, patients)).collect::<Vec<_>>());
        let strip = |(path, bytes): (PathBuf, Vec<u8>)| {
            (path.strip_prefix(folder.path()).unwrap().to_path_buf(), bytes)
        };
        contents(folder.path()).into_iter().map(strip).collect::<Vec<_>>()
    };
    let (alone, crowded) = (files(1), files(3));
    assert_eq!((alone.len(), crowded.len()), (10, 28));
    assert!(alone[..9] == crowded[..9], "files of the first patient differ");
}

#[test]
fn a_cohort_is_found_by_the_loader_with_its_labels() {
    let folder = tempfile::tempdir().unwrap();
    write_cohort(&spec(folder.path(), 2), &mut |_, _| {}).unwrap();
    let cases = layout::discover(folder.path()).unwrap().cases;
    assert_eq!(cases.len(), 2);
    let patients: BTreeSet<&str> = cases.iter().map(|c| c.patient.as_str()).collect();
    assert_eq!(patients.len(), 2);
    for case in &cases {
        assert!(case.scans.keys().eq(&Contrast::ALL));
        let scan = nifti::read(&case.scans[&Contrast::T1n]).unwrap();
        assert_eq!(scan.volume.dims, [60, 60, 39]);
        assert_eq!(scan.geometry.axis_codes(), "LPS");
        let labels = case.segmentation.as_ref().unwrap();
        let labels = nifti::read_like(labels, &scan.geometry).unwrap();
        assert_eq!(case.label_scheme, Some(LabelScheme::Brats2023));
        regions(&labels, case.label_scheme, &case.name).unwrap();
    }
}

#[test]
fn at_1_mm_the_grid_is_that_of_brats() {
    assert_eq!(image_grid(1.0), Grid { dims: [240, 240, 155], edge_mm: 1.0, first_mm: [0.0; 3] });
}

#[test]
fn a_grid_of_coarse_voxels_covers_the_whole_frame() {
    assert_eq!(image_grid(2.0).dims, [120, 120, 78]);
    assert_eq!(image_grid(8.0).dims, [30, 30, 20]);
}

#[test]
fn a_brain_has_the_volume_of_a_brain_and_the_files_origin_is_that_of_brats() {
    let template = Template::new().unwrap();
    let images = patient_images(&template, &Scanner::A.protocol(), SIZE, &seed(0));
    // The file's first voxel is the canonical one at the far right and front: (0, 236, 0).
    assert_eq!(images.segmentation.origin_mm, [-236.0, 0.0, 0.0]);
    let brain = images.contrasts[0].voxels.iter().filter(|&&v| v != 0.0).count();
    let brain_l = brain as f64 * SIZE.powi(3) / 1e6;
    assert!((1.0..2.2).contains(&brain_l), "{brain_l} l");
}

#[test]
fn the_healthy_twin_differs_only_near_the_tumour() {
    let template = Template::new().unwrap();
    for scanner in [Scanner::A, Scanner::B] {
        let images = patient_images(&template, &scanner.protocol(), SIZE, &seed(1));
        let labels = &images.segmentation;
        let tumour: Vec<[usize; 3]> = voxels_where(labels, |label| label > 0.0);
        assert!(!tumour.is_empty());
        for (ill, well) in images.contrasts.iter().zip(&images.healthy) {
            let same_brain =
                ill.voxels.iter().zip(&well.voxels).all(|(a, b)| (*a > 0.0) == (*b > 0.0));
            assert!(same_brain, "the brain masks differ");
            let changed = ill.voxels.iter().zip(&well.voxels).filter(|(a, b)| a != b).count();
            assert!(changed >= tumour.len(), "the tumour is not seen");
            for (i, _) in
                ill.voxels.iter().zip(&well.voxels).enumerate().filter(|(_, (a, b))| a != b)
            {
                let at = voxel(labels, i);
                let near = tumour.iter().any(|t| {
                    let squared: f64 =
                        (0..3).map(|a| (SIZE * t[a].abs_diff(at[a]) as f64).powi(2)).sum();
                    squared.sqrt() <= 45.0
                });
                assert!(near, "{at:?} of {scanner:?} has changed far from the tumour");
            }
        }
    }
}

#[test]
fn a_tumour_pushes_tissue_by_at_most_7_mm_and_leaves_what_is_far_away() {
    let template = Template::new().unwrap();
    let grid = anatomy::growth_grid(SIZE as f32);
    let mut large = 0;
    for patient in 0..6 {
        let seed = seed(patient);
        let warp = Warp::new(&mut seed.stream("warp"));
        let tissue = anatomy::fractions(&template, &warp, &grid);
        let tumour = Tumour::new(&tissue, &grid, &mut seed.stream("tumour")).unwrap();
        let push = |i: usize| {
            let point = grid.centre(grid.voxel(i));
            let origin = tumour.before_push(point);
            (0..3).map(|a| (origin[a] - point[a]).powi(2)).sum::<f32>().sqrt()
        };
        let pushes: Vec<f32> = (0..grid.voxels()).map(push).collect();
        let largest = pushes.iter().copied().fold(0.0, f32::max);
        assert!((0.5..=7.01).contains(&largest), "{patient}: {largest} mm");
        large += usize::from(largest >= 3.5);
        let still = pushes.iter().filter(|&&mm| mm == 0.0).count();
        assert!(still * 2 > pushes.len(), "{patient}: most of the frame has moved");
    }
    assert!(large >= 3, "only {large} of 6 push by 3.5 mm or more");
}

#[test]
fn nearly_every_tumour_has_oedema_a_rim_and_necrosis_of_plausible_size() {
    let template = Template::new().unwrap();
    let mut complete = 0;
    for patient in 0..8 {
        let labels = Head::new(&template, &image_grid(SIZE), &seed(patient)).labels;
        let cm3 = |wanted: u8| {
            labels.iter().filter(|&&l| l == wanted).count() as f64 * SIZE.powi(3) / 1000.0
        };
        let (necrosis, oedema, rim) = (cm3(1), cm3(2), cm3(3));
        let total = necrosis + oedema + rim;
        assert!((3.0..260.0).contains(&total), "{patient}: {total} cm3");
        complete += usize::from(necrosis > 0.1 && oedema > 1.0 && rim > 1.0);
    }
    assert!(complete >= 5, "only {complete} of 8 have all three parts");
}

#[test]
fn each_part_of_the_tumour_looks_as_it_should() {
    let template = Template::new().unwrap();
    for scanner in Scanner::ALL {
        let images = patient_images(&template, &scanner.protocol(), SIZE, &seed(2));
        let mean = |contrast: Contrast, wanted: &dyn Fn(usize) -> bool, ill: bool| {
            let from = if ill { &images.contrasts } else { &images.healthy };
            let voxels = &from[contrast as usize].voxels;
            let chosen: Vec<f32> =
                (0..voxels.len()).filter(|&i| wanted(i)).map(|i| voxels[i]).collect();
            assert!(!chosen.is_empty());
            chosen.iter().sum::<f32>() / chosen.len() as f32
        };
        let labels = &images.segmentation.voxels;
        let oedema = |i: usize| labels[i] == 2.0;
        let rim = |i: usize| labels[i] == 3.0;
        let t2f = |ill| mean(Contrast::T2f, &oedema, ill);
        assert!(t2f(true) > 1.2 * t2f(false), "oedema in FLAIR of {scanner:?}");
        let t1c = |ill| mean(Contrast::T1c, &rim, ill);
        assert!(t1c(true) > 1.15 * t1c(false), "rim in T1c of {scanner:?}");
        // Oedema lies in white matter, the brightest tissue of T1; a rim may replace darker ones.
        let t1n = |ill| mean(Contrast::T1n, &oedema, ill);
        assert!(t1n(true) < t1n(false), "oedema in T1 of {scanner:?}");
    }
}

#[test]
fn a_full_folder_a_wrong_size_and_no_patients_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = |change: fn(&mut CohortSpec)| {
        let mut spec = spec(&folder.path().join("out"), 1);
        change(&mut spec);
        write_cohort(&spec, &mut |_, _| {}).unwrap_err()
    };
    assert!(matches!(wrong(|s| s.patients = 0), Error::Patients(0)));
    assert!(matches!(wrong(|s| s.size_mm = 0.1), Error::Size(_)));
    assert!(matches!(wrong(|s| s.size_mm = f64::NAN), Error::Size(_)));
    assert!(!folder.path().join("out").exists());
    std::fs::write(folder.path().join("mine"), b"x").unwrap();
    let refused = write_cohort(&spec(folder.path(), 1), &mut |_, _| {}).unwrap_err();
    assert!(matches!(refused, Error::NotEmpty { .. }), "{refused}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn voxel(volume: &Volume, i: usize) -> [usize; 3] {
    let [nx, ny, _] = volume.dims;
    [i % nx, i / nx % ny, i / (nx * ny)]
}

fn voxels_where(volume: &Volume, wanted: impl Fn(f32) -> bool) -> Vec<[usize; 3]> {
    let chosen = (0..volume.voxels.len()).filter(|&i| wanted(volume.voxels[i]));
    chosen.map(|i| voxel(volume, i)).collect()
}
