//! Blobs and the room they are laid into.

use proptest::prelude::*;

use super::{
    DIAMETER_OF_BRAIN_MAX, EVALUATION_DIAMETER_MM, Error, INSIDE_MIN, LESION_MARGIN_MM, Room,
    TRAINING_DIAMETER_MM,
};
use crate::data::stream::stream;
use crate::data::volume::Volume;

/// A ball of brain in the middle of the volume.
fn brain(dims: [usize; 3], spacing_mm: [f64; 3], radius_mm: f64) -> Volume {
    let mut voxels = Vec::new();
    for z in 0..dims[2] {
        for y in 0..dims[1] {
            for x in 0..dims[0] {
                let mm = distance_mm([x, y, z], dims.map(|n| n / 2), spacing_mm);
                voxels.push(if mm <= radius_mm { 1.0 } else { 0.0 });
            }
        }
    }
    Volume { dims, spacing_mm, origin_mm: [0.0; 3], voxels }
}

fn distance_mm(a: [usize; 3], b: [usize; 3], spacing_mm: [f64; 3]) -> f64 {
    let part = |i: usize| ((a[i] as f64 - b[i] as f64) * spacing_mm[i]).powi(2);
    (part(0) + part(1) + part(2)).sqrt()
}

fn at(index: usize, dims: [usize; 3]) -> [usize; 3] {
    [index % dims[0], index / dims[0] % dims[1], index / dims[0] / dims[1]]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_mask_lies_in_the_brain_and_keeps_its_distance_from_the_lesion(
        seed in any::<u64>(), thickness in 1.5f64..4.0, lesion_at in 8usize..30,
    ) {
        let (dims, spacing_mm) = ([40, 36, 24], [2.0, 2.0, thickness]);
        let image = brain(dims, spacing_mm, 32.0);
        let lesion: Vec<usize> = (0..image.voxels.len())
            .filter(|&i| {
                distance_mm(at(i, dims), [lesion_at, 18, 12], spacing_mm) < 9.0
            })
            .collect();
        let is_lesion = |i: usize| lesion.binary_search(&i).is_ok();
        let room = Room::new(&image, is_lesion).unwrap();
        let mut rng = stream("test", &[&seed.to_le_bytes()]);
        let mask = room.draw(TRAINING_DIAMETER_MM, &mut rng).unwrap();
        let inside = mask.voxels.iter().filter(|&&v| image.voxels[v as usize] > 0.0).count();
        prop_assert!(inside as f64 >= INSIDE_MIN * mask.voxels.len() as f64);
        prop_assert!(mask.voxels.is_sorted());
        for &voxel in &mask.voxels {
            for &other in &lesion {
                let mm = distance_mm(at(voxel as usize, dims), at(other, dims), spacing_mm);
                prop_assert!(mm > LESION_MARGIN_MM, "{} mm", mm);
            }
        }
        let mut again = stream("test", &[&seed.to_le_bytes()]);
        prop_assert_eq!(room.draw(TRAINING_DIAMETER_MM, &mut again).unwrap(), mask);
    }
}

#[test]
fn masks_have_the_sizes_asked_for_and_differ() {
    let image = brain([96, 96, 64], [2.0; 3], 66.0);
    let room = Room::new(&image, |_| false).unwrap();
    let mut rng = stream("test", &[b"sizes"]);
    let mut equivalents_mm: Vec<f64> = (0..60)
        .map(|_| room.draw(EVALUATION_DIAMETER_MM, &mut rng).unwrap().voxels.len() as f64)
        .map(|voxels| 2.0 * (voxels * 8.0 * 3.0 / (4.0 * std::f64::consts::PI)).cbrt())
        .collect();
    equivalents_mm.sort_by(f64::total_cmp);
    let (smallest, median, largest) = (equivalents_mm[0], equivalents_mm[30], equivalents_mm[59]);
    assert!(smallest > 10.0 && (18.0..40.0).contains(&median), "{smallest} {median}");
    assert!(largest < 60.0 && largest > 1.3 * smallest, "{smallest} {largest}");
}

#[test]
fn a_small_brain_gets_a_small_mask() {
    let image = brain([40, 40, 40], [1.0; 3], 15.0);
    let room = Room::new(&image, |_| false).unwrap();
    assert!((room.diameter_max_mm - DIAMETER_OF_BRAIN_MAX * 30.0).abs() < 0.2);
    let mask = room.draw(TRAINING_DIAMETER_MM, &mut stream("test", &[])).unwrap();
    assert!(mask.voxels.len() < 14_000 / 4, "{}", mask.voxels.len());
}

#[test]
fn where_nothing_fits_the_search_ends() {
    let image = brain([30, 30, 30], [1.0; 3], 12.0);
    let everywhere = Room::new(&image, |_| true).unwrap();
    let mut rng = stream("test", &[]);
    assert_eq!(everywhere.draw(TRAINING_DIAMETER_MM, &mut rng), Err(Error::NoRoom));
    let empty = image.with_voxels(vec![0.0; image.voxels.len()]);
    assert!(matches!(Room::new(&empty, |_| false), Err(Error::NoRoom)));
    // The balls round a lesion would fill the memory.
    let fine = Volume { spacing_mm: [1e-9; 3], ..image };
    assert!(matches!(Room::new(&fine, |_| true), Err(Error::Geometry(_))));
}
