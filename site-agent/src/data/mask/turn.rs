//! Turning shapes: any rotation in millimetres, and the in-plane rotations of the official masks.

use std::f64::consts::TAU;

use rand::{Rng, RngExt};

use super::bits::Bits;

/// A rotation, row by row.
pub(crate) type Matrix = [[f64; 3]; 3];

/// No rotation.
pub(crate) const IDENTITY: Matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

/// The most voxels along an axis of a turned shape; a larger one fits no brain.
pub(crate) const TURNED_VOXELS_MAX: usize = 512;

/// The dot product.
pub(crate) fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// A uniformly random rotation from a random unit quaternion (Shoemake 1992, Graphics Gems III,
/// p. 124): u1, u2, u3 uniform, q = (√(1-u1) sin 2πu2, √(1-u1) cos 2πu2, √u1 sin 2πu3, √u1 cos 2πu3).
pub(crate) fn rotation(rng: &mut impl Rng) -> Matrix {
    let (u1, u2, u3) = (rng.random::<f64>(), rng.random::<f64>(), rng.random::<f64>());
    let (s2, c2) = (TAU * u2).sin_cos();
    let (s3, c3) = (TAU * u3).sin_cos();
    let (low, high) = ((1.0 - u1).sqrt(), u1.sqrt());
    let (x, y, z, w) = (low * s2, low * c2, high * s3, high * c3);
    [
        [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - z * w), 2.0 * (x * z + y * w)],
        [2.0 * (x * y + z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - x * w)],
        [2.0 * (x * z - y * w), 2.0 * (y * z + x * w), 1.0 - 2.0 * (x * x + y * y)],
    ]
}

/// A shape of voxels of `from_mm` turned about its middle by the inverse of `to_source`, scaled, and
/// sampled in voxels of `to_mm` by the nearest; none if it would be too large.
///
/// `to_source` takes an offset in the new grid to one in the old; a mirror is a row negated. The old
/// grid is read at every new voxel, so the shape gets no holes, and its box is all of it.
pub(crate) fn turned(
    body: &Bits,
    from_mm: [f64; 3],
    to_source: &Matrix,
    scale: f64,
    to_mm: [f64; 3],
) -> Option<Bits> {
    let old = body.dims();
    let half_mm = [0, 1, 2].map(|axis: usize| old[axis] as f64 * from_mm[axis] / 2.0);
    let reach = [0, 1, 2].map(|axis: usize| {
        let extent: f64 = (0..3).map(|i| to_source[i][axis].abs() * half_mm[i]).sum();
        extent * scale / to_mm[axis]
    });
    if reach.iter().any(|&voxels| voxels >= (TURNED_VOXELS_MAX / 2) as f64) {
        return None;
    }
    let reach = reach.map(|voxels| voxels.floor() as usize);
    let mut new = Bits::empty(reach.map(|voxels| 2 * voxels + 1));
    let dims = new.dims();
    // Old voxels per new voxel along each new axis.
    let step = [0, 1, 2]
        .map(|i: usize| [0, 1, 2].map(|j: usize| to_source[i][j] * to_mm[j] / scale / from_mm[i]));
    for z in 0..dims[2] {
        for y in 0..dims[1] {
            let offset = [0.0, y as f64 - reach[1] as f64, z as f64 - reach[2] as f64];
            // Shifted by a half, so that cutting the fraction off rounds to the nearest.
            let start = [0, 1, 2].map(|i: usize| dot(step[i], offset) + old[i] as f64 / 2.0);
            let row = new.row_mut(y, z);
            for x in overlap(start, [0, 1, 2].map(|i: usize| step[i][0]), old, reach[0]) {
                let right = x as f64 - reach[0] as f64;
                let at = [0, 1, 2].map(|i: usize| (start[i] + step[i][0] * right) as usize);
                row[x / 64] |= u64::from(body.get(at)) << (x % 64);
            }
        }
    }
    Some(new)
}

/// The x of a row whose old coordinates `start + step * (x - reach)` lie within the old grid.
fn overlap(
    start: [f64; 3],
    step: [f64; 3],
    old: [usize; 3],
    reach: usize,
) -> std::ops::Range<usize> {
    let (mut low, mut high) = (-(reach as f64), reach as f64);
    for axis in 0..3 {
        let ends = [-start[axis], old[axis] as f64 - start[axis]].map(|end| end / step[axis]);
        // A row that does not move along an axis is inside all along or nowhere.
        if step[axis] == 0.0 {
            if start[axis] < 0.0 || start[axis] >= old[axis] as f64 {
                high = f64::NEG_INFINITY;
            }
        } else {
            low = low.max(ends[0].min(ends[1]));
            high = high.min(ends[0].max(ends[1]));
        }
    }
    if low > high {
        return 0..0;
    }
    // A cast saturates at 0, and nothing lies between a `low` and a `high` within one voxel.
    let [first, end] = [low.ceil(), high.floor() + 1.0].map(|x| (x + reach as f64) as usize);
    first..end
}

/// A turn of an array in the plane of two of its axes: scipy's `ndimage.rotate` with `order=0,
/// reshape=True, mode="grid-constant"`. The array grows to hold the turned box, to the nearest voxel.
/// What comes from exactly between two voxels may be the other one in scipy, which rounds a sum of
/// other terms.
pub(crate) struct PlaneTurn {
    axes: (usize, usize),
    /// The array before.
    old: [usize; 3],
    /// The array after.
    new: [usize; 3],
    sin: f64,
    cos: f64,
}

impl PlaneTurn {
    /// The turn by `degrees` of an array of `old` in the plane of `axes` (ascending).
    pub(crate) fn new(old: [usize; 3], axes: (usize, usize), degrees: f64) -> PlaneTurn {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let (n, m) = (old[axes.0] as f64, old[axes.1] as f64);
        let spread = |corners: [f64; 4]| {
            let high = corners.into_iter().fold(f64::MIN, f64::max);
            let low = corners.into_iter().fold(f64::MAX, f64::min);
            ((high - low + 0.5) as usize).max(1)
        };
        let mut new = old;
        new[axes.0] = spread([0.0, sin * m, cos * n, cos * n + sin * m]);
        new[axes.1] = spread([0.0, cos * m, -sin * n, cos * m - sin * n]);
        PlaneTurn { axes, old, new, sin, cos }
    }

    /// The size of the array after the turn.
    pub(crate) fn dims(&self) -> [usize; 3] {
        self.new
    }

    /// `body` turned.
    pub(crate) fn of(&self, body: &Bits) -> Bits {
        let (a, b) = self.axes;
        let third = 3 - a - b;
        let mut new = Bits::empty(self.new);
        for q in 0..self.new[b] {
            for p in 0..self.new[a] {
                let Some(from) = self.source(p, q) else { continue };
                for r in 0..self.new[third] {
                    let (mut old, mut at) = ([r; 3], [r; 3]);
                    (old[a], old[b]) = from;
                    (at[a], at[b]) = (p, q);
                    if body.get(old) {
                        new.set(at);
                    }
                }
            }
        }
        new
    }

    /// Where in the old plane the value at (p, q) of the new one comes from.
    fn source(&self, p: usize, q: usize) -> Option<(usize, usize)> {
        let middle = |n: usize| (n as f64 - 1.0) / 2.0;
        let (a, b) = self.axes;
        let (p, q) = (p as f64 - middle(self.new[a]), q as f64 - middle(self.new[b]));
        let u = self.cos * p + self.sin * q + middle(self.old[a]);
        let v = self.cos * q - self.sin * p + middle(self.old[b]);
        // Shifted by a half, so that cutting the fraction off rounds to the nearest.
        let (u, v) = (u + 0.5, v + 0.5);
        let is_within = u >= 0.0 && v >= 0.0 && u < self.old[a] as f64 && v < self.old[b] as f64;
        is_within.then_some((u as usize, v as usize))
    }
}

/// `body` mirrored along the axes that are to be.
pub(crate) fn mirrored(body: &Bits, is_mirrored: [bool; 3]) -> Bits {
    let dims = body.dims();
    let mut mirror = Bits::empty(dims);
    for ((y, z), row) in body.rows() {
        for (first, last) in super::bits::runs(row) {
            for x in first..=last {
                let at = [x, y, z];
                mirror.set([0, 1, 2].map(|axis: usize| {
                    if is_mirrored[axis] { dims[axis] - 1 - at[axis] } else { at[axis] }
                }));
            }
        }
    }
    mirror
}
