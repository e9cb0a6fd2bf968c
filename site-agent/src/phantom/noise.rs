//! Smooth random functions of space: textures, bias fields, velocity fields.
//!
//! Normal numbers on a lattice, joined by cubic B-splines: continuous to the second derivative,
//! about unit variance, correlated over one lattice step.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use crate::phantom::grid::Point;

/// One over the standard deviation of a cubic B-spline sum of unit normals in three dimensions: the
/// mean over a cell of the sum of squared weights is 151/315 along each.
const UNIT: f32 = 3.012_936; // (315 / 151)^1.5

/// A random function with mean 0 and about unit variance.
#[derive(Clone, Debug)]
pub struct Noise {
    dims: [usize; 3],
    step_mm: f32,
    knots: Vec<f32>,
}

impl Noise {
    /// A function on the box from 0 to `extent_mm` (and constant beyond it) that changes over about
    /// `step_mm`.
    pub fn new(extent_mm: Point, step_mm: f32, rng: &mut impl Rng) -> Noise {
        // Four knots support every point of a cell.
        let dims = extent_mm.map(|extent| (extent / step_mm).ceil() as usize + 4);
        let count = dims.iter().product();
        let knots = (0..count).map(|_| UNIT * rng.sample::<f32, _>(StandardNormal)).collect();
        Noise { dims, step_mm, knots }
    }

    /// The value at a point.
    pub fn at(&self, [x_mm, y_mm, z_mm]: Point) -> f32 {
        let (first, [a, b, c, d]) = support(x_mm, self.step_mm, self.dims[0]);
        let mut knots = [0.0; 4];
        self.add_rows(y_mm, z_mm, first, &mut knots);
        a * knots[0] + b * knots[1] + c * knots[2] + d * knots[3]
    }

    /// The function along x at the given y and z: many points of one row cost little more than one.
    pub fn row(&self, y_mm: f32, z_mm: f32) -> Row {
        let mut knots = vec![0.0; self.dims[0]];
        self.add_rows(y_mm, z_mm, 0, &mut knots);
        Row { step_mm: self.step_mm, knots }
    }

    /// Adds the knots along x, from `first` on, of the sixteen rows that support (y, z).
    fn add_rows(&self, y_mm: f32, z_mm: f32, first: usize, sums: &mut [f32]) {
        let (low_y, weights_y) = support(y_mm, self.step_mm, self.dims[1]);
        let (low_z, weights_z) = support(z_mm, self.step_mm, self.dims[2]);
        for (dz, wz) in weights_z.iter().enumerate() {
            for (dy, wy) in weights_y.iter().enumerate() {
                let start = first + self.dims[0] * (low_y + dy + self.dims[1] * (low_z + dz));
                let weight = wz * wy;
                let row = &self.knots[start..start + sums.len()];
                sums.iter_mut().zip(row).for_each(|(sum, knot)| *sum += weight * knot);
            }
        }
    }
}

/// A random function along x.
#[derive(Clone, Debug)]
pub struct Row {
    step_mm: f32,
    knots: Vec<f32>,
}

impl Row {
    /// The value at x.
    pub fn at(&self, x_mm: f32) -> f32 {
        let (first, [a, b, c, d]) = support(x_mm, self.step_mm, self.knots.len());
        let knots = &self.knots[first..first + 4];
        a * knots[0] + b * knots[1] + c * knots[2] + d * knots[3]
    }
}

/// The first of the four knots out of `count` that support a place, and their weights.
fn support(at_mm: f32, step_mm: f32, count: usize) -> (usize, [f32; 4]) {
    let place = (at_mm / step_mm).clamp(0.0, (count - 4) as f32);
    // A conversion to an integer cuts towards zero, which is down here.
    let first = place as i32 as usize;
    (first, spline(place - first as f32))
}

/// The four cubic B-spline weights at `t` in [0, 1] of a cell.
fn spline(t: f32) -> [f32; 4] {
    let u = 1.0 - t;
    [
        u * u * u / 6.0,
        (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0,
        (3.0 * u * u * u - 6.0 * u * u + 4.0) / 6.0,
        t * t * t / 6.0,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phantom::seed::PatientSeed;

    fn noise(step_mm: f32) -> Noise {
        let seed = PatientSeed { cohort: 1, scanner: 'A', patient: 0 };
        Noise::new([100.0; 3], step_mm, &mut seed.stream("test"))
    }

    #[test]
    fn a_noise_has_mean_0_and_unit_variance() {
        let noise = noise(4.0);
        let values: Vec<f32> = (0..30_000)
            .map(|i| {
                noise.at([
                    (i % 31) as f32 * 3.2,
                    (i / 31 % 31) as f32 * 3.1,
                    (i / 961) as f32 * 3.0,
                ])
            })
            .collect();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.1, "{mean} {variance}");
    }

    #[test]
    fn a_row_of_a_noise_is_the_noise() {
        let noise = noise(7.0);
        for (y, z) in [(0.0, 0.0), (33.3, 71.0), (100.0, 250.0), (-4.0, 12.5)] {
            let row = noise.row(y, z);
            for x in [-3.0, 0.0, 0.1, 48.7, 99.9, 100.0, 140.0] {
                assert_eq!(row.at(x), noise.at([x, y, z]));
            }
        }
    }

    #[test]
    fn a_noise_changes_little_over_a_tenth_of_its_step_and_ends_nowhere() {
        let noise = noise(10.0);
        for i in 0..1000 {
            let p = [i as f32 * 0.1, 37.0, 50.0 - i as f32 * 0.05];
            let q = [p[0] + 1.0, p[1], p[2]];
            assert!((noise.at(p) - noise.at(q)).abs() < 0.5);
        }
        assert!(noise.at([-50.0, 0.0, 1e6]).is_finite());
    }
}
