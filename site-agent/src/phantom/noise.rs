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
    pub fn at(&self, point: Point) -> f32 {
        let mut low = [0; 3];
        let mut weights = [[0.0; 4]; 3];
        for a in 0..3 {
            let last = (self.dims[a] - 4) as f32;
            let place = (point[a] / self.step_mm).clamp(0.0, last);
            low[a] = place as usize;
            if low[a] + 4 > self.dims[a] {
                low[a] = self.dims[a] - 4;
            }
            weights[a] = spline(place - low[a] as f32);
        }
        let mut sum = 0.0;
        for (dz, wz) in weights[2].iter().enumerate() {
            for (dy, wy) in weights[1].iter().enumerate() {
                let start = low[0] + self.dims[0] * (low[1] + dy + self.dims[1] * (low[2] + dz));
                let row = &self.knots[start..start + 4];
                let along: f32 = row.iter().zip(&weights[0]).map(|(k, w)| k * w).sum();
                sum += wz * wy * along;
            }
        }
        sum
    }
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
