//! How one patient's head differs from the template's: mirror, scale, rotation and a smooth
//! diffeomorphism.
//!
//! The map is backward: it takes a point of the patient to the point of the template that lies there.

use rand::{Rng, RngExt};

use crate::phantom::grid::{Grid, Point};
use crate::phantom::noise::Noise;

/// The middle of the template's head, about which it is mirrored, scaled and rotated.
const MIDDLE_MM: Point = [119.5, 129.5, 74.5];

/// The largest change of size along an axis.
const SCALE_MAX: f32 = 0.05;

/// The largest rotation about an axis, in degrees.
const ROTATION_MAX_DEG: f32 = 4.0;

/// The range of the largest displacement of the diffeomorphism.
const DISPLACEMENT_MM: std::ops::Range<f32> = 3.0..7.0;

/// The distance over which the velocity field changes.
const VELOCITY_STEP_MM: f32 = 28.0;

/// The grid on which the velocity is integrated: the BraTS frame with a margin.
const VELOCITY_GRID: Grid =
    Grid { dims: [33, 33, 23], edge_mm: 8.0, first_mm: [-8.0, -8.0, -12.0] };

/// 2 to this power is the number of small steps the velocity field is integrated in.
const SQUARINGS: usize = 4;

/// A backward map from a patient to the template.
#[derive(Clone, Debug)]
pub struct Warp {
    /// Rotation, scale and mirror, about [`MIDDLE_MM`].
    linear: [[f32; 3]; 3],
    /// Displacement on [`VELOCITY_GRID`].
    displacement: Vec<[f32; 3]>,
}

impl Warp {
    /// A random patient.
    pub fn new(rng: &mut impl Rng) -> Warp {
        let mirror = if rng.random_bool(0.5) { -1.0 } else { 1.0 };
        let mut linear = [[mirror, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        for row in &mut linear {
            let scale = 1.0 + rng.random_range(-SCALE_MAX..=SCALE_MAX);
            *row = row.map(|v| v * scale);
        }
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            let angle = rng.random_range(-ROTATION_MAX_DEG..=ROTATION_MAX_DEG).to_radians();
            let (sin, cos) = angle.sin_cos();
            let (ra, rb) = (linear[a], linear[b]);
            linear[a] = [0, 1, 2].map(|k: usize| cos * ra[k] - sin * rb[k]);
            linear[b] = [0, 1, 2].map(|k: usize| sin * ra[k] + cos * rb[k]);
        }
        Warp { linear, displacement: diffeomorphism(rng) }
    }

    /// The point of the template at a point of the patient.
    pub fn template_point(&self, point: Point) -> Point {
        let shift = VELOCITY_GRID.around(point).of_vectors(&self.displacement);
        let from_middle = [0, 1, 2].map(|a: usize| point[a] + shift[a] - MIDDLE_MM[a]);
        [0, 1, 2].map(|a: usize| {
            let row = self.linear[a];
            MIDDLE_MM[a] + (0..3).map(|k| row[k] * from_middle[k]).sum::<f32>()
        })
    }
}

/// The displacement of a stationary velocity field, by scaling and squaring (Arsigny et al. 2006:
/// exp(v) = exp(v / 2^n)^(2^n)), so that the map can be inverted and no tissue folds over.
fn diffeomorphism(rng: &mut impl Rng) -> Vec<[f32; 3]> {
    let extent = [0, 1, 2].map(|a: usize| VELOCITY_GRID.dims[a] as f32 * VELOCITY_GRID.edge_mm);
    let noises = [(); 3].map(|()| Noise::new(extent, VELOCITY_STEP_MM, rng));
    let mut field: Vec<[f32; 3]> = (0..VELOCITY_GRID.voxels())
        .map(|i| {
            let point = VELOCITY_GRID.voxel(i).map(|v| v as f32 * VELOCITY_GRID.edge_mm);
            [0, 1, 2].map(|a: usize| noises[a].at(point))
        })
        .collect();
    let squared = |v: &[f32; 3]| v.iter().map(|c| c * c).sum::<f32>();
    let largest = field.iter().map(squared).fold(f32::MIN_POSITIVE, f32::max).sqrt();
    let scale = rng.random_range(DISPLACEMENT_MM) / largest / (1_u32 << SQUARINGS) as f32;
    field.iter_mut().for_each(|v| *v = v.map(|c| c * scale));
    for _ in 0..SQUARINGS {
        field = (0..VELOCITY_GRID.voxels())
            .map(|i| {
                let (here, step) = (VELOCITY_GRID.centre(VELOCITY_GRID.voxel(i)), field[i]);
                let there = [0, 1, 2].map(|a: usize| here[a] + step[a]);
                let further = VELOCITY_GRID.around(there).of_vectors(&field);
                [0, 1, 2].map(|a: usize| step[a] + further[a])
            })
            .collect();
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phantom::seed::PatientSeed;

    #[test]
    fn a_head_is_moved_but_never_folded() {
        for patient in 0..4 {
            let seed = PatientSeed { cohort: 3, scanner: 'A', patient };
            let warp = Warp::new(&mut seed.stream("warp"));
            let mirrored = warp.linear[0][0] < 0.0;
            for i in 0..4000_usize {
                let p = [60.0 + (i % 17) as f32 * 7.0, 50.0 + (i / 17 % 17) as f32 * 9.0, 20.0]
                    .map(|v| v + (i / 289) as f32);
                let q = warp.template_point(p);
                let columns = [0, 1, 2].map(|a: usize| {
                    let mut next = p;
                    next[a] += 0.5;
                    let r = warp.template_point(next);
                    [0, 1, 2].map(|k: usize| (r[k] - q[k]) / 0.5)
                });
                let [a, b, c] = columns;
                let determinant = a[0] * (b[1] * c[2] - b[2] * c[1])
                    - a[1] * (b[0] * c[2] - b[2] * c[0])
                    + a[2] * (b[0] * c[1] - b[1] * c[0]);
                let stretched = if mirrored { -determinant } else { determinant };
                assert!((0.2..4.0).contains(&stretched), "{p:?}: {stretched}");
            }
        }
    }

    #[test]
    fn the_diffeomorphism_moves_no_point_further_than_7_mm() {
        let seed = PatientSeed { cohort: 4, scanner: 'B', patient: 9 };
        for shift in diffeomorphism(&mut seed.stream("warp")) {
            assert!(shift.iter().map(|c| c * c).sum::<f32>().sqrt() <= 7.05);
        }
    }
}
