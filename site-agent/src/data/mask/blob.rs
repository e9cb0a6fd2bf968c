//! Smooth random blobs: a generator of our own in the spirit of the BraTS inpainting masks, for sites
//! that have no tumour to take shapes from. It knows no brain.

use std::f64::consts::TAU;

use rand::{Rng, RngExt};

use super::bits::Bits;
use super::stencil::Stencil;
use super::turn::{dot, rotation};

/// Waves of the field that roughens a blob's surface.
const WAVES: usize = 6;

/// The amplitude of the roughness relative to the radius.
const ROUGHNESS: f64 = 0.18;

/// The centre of the second and third lobe, relative to the radius.
const LOBE_AWAY: f64 = 0.7;

/// A union of a few ellipsoids whose surface is roughened by long waves.
pub(crate) struct Blob {
    lobes: Vec<Lobe>,
    /// The wave vectors in radians per millimetre, and their phases.
    waves: Vec<([f64; 3], f64)>,
}

struct Lobe {
    centre_mm: [f64; 3],
    /// Rows that take an offset in millimetres to the unit ball.
    to_ball: [[f64; 3]; 3],
    /// How far the lobe reaches from its centre along each axis, with its roughness.
    reach_mm: [f64; 3],
}

impl Blob {
    /// A random blob of about `radius_mm`, to be drawn in voxels of `spacing_mm`.
    pub(crate) fn draw(radius_mm: f64, spacing_mm: [f64; 3], rng: &mut impl Rng) -> Blob {
        let mut lobes = Vec::new();
        for lobe in 0..rng.random_range(1..=3) {
            let axes = rotation(rng);
            let semi_mm = [0, 1, 2].map(|axis: usize| {
                // A blob thinner than a voxel would fall between slices.
                (radius_mm * rng.random_range(0.6..1.1)).max(0.6 * spacing_mm[axis])
            });
            let away = if lobe == 0 { 0.0 } else { LOBE_AWAY * radius_mm };
            let centre_mm = rotation(rng)[0].map(|part| part * away);
            let to_ball = [0, 1, 2].map(|i: usize| axes[i].map(|part| part / semi_mm[i]));
            let reach_mm = [0, 1, 2].map(|axis: usize| {
                let parts = [0, 1, 2].map(|i: usize| axes[i][axis] * semi_mm[i]);
                (1.0 + ROUGHNESS) * dot(parts, parts).sqrt()
            });
            lobes.push(Lobe { centre_mm, to_ball, reach_mm });
        }
        let waves = (0..WAVES)
            .map(|_| {
                let turns = rng.random_range(0.4..1.0) * TAU / (2.0 * radius_mm);
                (rotation(rng)[0].map(|part| part * turns), rng.random_range(0.0..TAU))
            })
            .collect();
        Blob { lobes, waves }
    }

    /// The voxels of `spacing_mm` that the blob covers, its middle on the centre of one; none if they
    /// are too few for a mask.
    pub(crate) fn stencil(&self, spacing_mm: [f64; 3]) -> Option<Stencil> {
        let reach = [0, 1, 2].map(|axis: usize| {
            let ends = self.lobes.iter().map(|l| l.centre_mm[axis].abs() + l.reach_mm[axis]);
            (ends.fold(0.0, f64::max) / spacing_mm[axis]).ceil() as usize
        });
        let mut body = Bits::empty(reach.map(|voxels| 2 * voxels + 1));
        let dims = body.dims();
        let mm = |axis: usize, i: usize| (i as f64 - reach[axis] as f64) * spacing_mm[axis];
        let waves = [0, 1, 2].map(|axis: usize| self.wave_table(axis, dims[axis], |i| mm(axis, i)));
        for z in 0..dims[2] {
            for y in 0..dims[1] {
                // sin(a + b) = sin a cos b + cos a sin b: no sine is taken per voxel.
                let row: Vec<(f64, f64)> = (0..WAVES)
                    .map(|w| product(waves[1][y * WAVES + w], waves[2][z * WAVES + w]))
                    .collect();
                for x in 0..dims[0] {
                    let radius = self.radius([mm(0, x), mm(1, y), mm(2, z)]);
                    // The waves add up to ROUGHNESS at most, so most voxels need none.
                    let is_in = if (radius - 1.0).abs() >= ROUGHNESS {
                        radius < 1.0
                    } else {
                        let across = &waves[0][x * WAVES..][..WAVES];
                        let height: f64 =
                            across.iter().zip(&row).map(|(&a, &b)| product(a, b).0).sum();
                        radius + ROUGHNESS * height / WAVES as f64 <= 1.0
                    };
                    if is_in {
                        body.set([x, y, z]);
                    }
                }
            }
        }
        Stencil::anchored(&body, reach)
    }

    /// Sine and cosine of each wave's part along one axis, at each index; z carries the phase.
    fn wave_table(&self, axis: usize, count: usize, mm: impl Fn(usize) -> f64) -> Vec<(f64, f64)> {
        let angle = |i: usize, (k, phase): &([f64; 3], f64)| {
            let phase = if axis == 2 { *phase } else { 0.0 };
            (k[axis] * mm(i) + phase).sin_cos()
        };
        (0..count).flat_map(|i| self.waves.iter().map(move |wave| angle(i, wave))).collect()
    }

    /// The distance from the nearest lobe's centre, where 1 is its surface.
    fn radius(&self, at_mm: [f64; 3]) -> f64 {
        let squares = self.lobes.iter().map(|lobe| lobe.squared(at_mm));
        squares.fold(f64::MAX, f64::min).sqrt()
    }
}

impl Lobe {
    fn squared(&self, at_mm: [f64; 3]) -> f64 {
        let offset = [0, 1, 2].map(|axis| at_mm[axis] - self.centre_mm[axis]);
        self.to_ball.iter().map(|&row| dot(row, offset).powi(2)).sum()
    }
}

/// Sine and cosine of the sum of two angles.
fn product((s1, c1): (f64, f64), (s2, c2): (f64, f64)) -> (f64, f64) {
    (s1 * c2 + c1 * s2, c1 * c2 - s1 * s2)
}
