//! The exact Euclidean distance transform: from every voxel to the nearest voxel of a set. Time is
//! linear in the number of voxels, whatever the set.
//!
//! Felzenszwalb and Huttenlocher (2012), Distance transforms of sampled functions, Theory of
//! Computing 8:415-428: one lower envelope of parabolas per line and axis.

use super::bits::{Bits, runs};

/// Lines along z taken at a time, so that a line of cache is used whole.
const LANES: usize = 16;

/// The squared distance of each voxel of the grid, x fastest, to the nearest voxel of `set`, in the
/// unit of `spacing`; infinite if the set is empty.
pub(crate) fn squared(set: &Bits, spacing: [f64; 3]) -> Vec<f32> {
    let [nx, ny, nz] = set.dims();
    let mut field = vec![f32::INFINITY; nx * ny * nz];
    if nx == 0 {
        return field;
    }
    for ((_, row), line) in set.rows().zip(field.chunks_exact_mut(nx)) {
        along_x(row, spacing[0], line);
    }
    let mut envelope = Envelope::new(ny.max(nz));
    for plane in field.chunks_exact_mut((nx * ny).max(1)) {
        lines(plane, nx, ny, &mut |line| envelope.lower(line, spacing[1]));
    }
    lines(&mut field, nx * ny, nz, &mut |line| envelope.lower(line, spacing[2]));
    field
}

/// The squared distances along one row.
fn along_x(row: &[u64], spacing: f64, line: &mut [f32]) {
    let square = |steps: usize| (steps as f64 * spacing).powi(2) as f32;
    let mut before = None;
    for (first, last) in runs(row) {
        let gap = before.map_or(0, |b: usize| b + 1);
        for (x, value) in line.iter_mut().enumerate().take(first).skip(gap) {
            *value = square(before.map_or(first - x, |b| (x - b).min(first - x)));
        }
        line[first..=last].fill(0.0);
        before = Some(last);
    }
    if let Some(last) = before {
        line.iter_mut().enumerate().skip(last + 1).for_each(|(x, value)| *value = square(x - last));
    }
}

/// Gives `transform` every line of `length` values that lie `step` apart, and puts it back.
fn lines(field: &mut [f32], step: usize, length: usize, transform: &mut impl FnMut(&mut [f32])) {
    let mut block = vec![0.0; LANES * length];
    for first in (0..step).step_by(LANES) {
        let lanes = LANES.min(step - first);
        for i in 0..length {
            let from = &field[first + i * step..][..lanes];
            from.iter().enumerate().for_each(|(lane, &value)| block[lane * length + i] = value);
        }
        block[..lanes * length].chunks_exact_mut(length.max(1)).for_each(&mut *transform);
        for i in 0..length {
            let to = &mut field[first + i * step..][..lanes];
            to.iter_mut().enumerate().for_each(|(lane, value)| *value = block[lane * length + i]);
        }
    }
}

/// The lower envelope of the parabolas of one line; it keeps its memory between lines.
struct Envelope {
    /// The vertices of the parabolas in it, by index.
    vertices: Vec<usize>,
    /// Where each begins to be the lowest.
    begins: Vec<f64>,
    values: Vec<f32>,
}

impl Envelope {
    fn new(length: usize) -> Envelope {
        Envelope {
            vertices: Vec::with_capacity(length),
            begins: Vec::with_capacity(length),
            values: Vec::with_capacity(length),
        }
    }

    /// min over q of line(q) + (spacing (x - q))², at every x.
    fn lower(&mut self, line: &mut [f32], spacing: f64) {
        let square = spacing * spacing;
        self.vertices.clear();
        self.begins.clear();
        for (q, &value) in line.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            let crossing = |v: usize| {
                let rise = (f64::from(value) - f64::from(line[v])) / square;
                // Written so that no large square is subtracted from another.
                (rise / (q - v) as f64 + (q + v) as f64) / 2.0
            };
            let mut begin = f64::NEG_INFINITY;
            while let (Some(&last), Some(&since)) = (self.vertices.last(), self.begins.last()) {
                begin = crossing(last);
                if begin > since {
                    break;
                }
                self.vertices.pop();
                self.begins.pop();
                begin = f64::NEG_INFINITY;
            }
            self.vertices.push(q);
            self.begins.push(begin);
        }
        if self.vertices.is_empty() {
            return;
        }
        self.values.clear();
        self.values.extend_from_slice(line);
        let mut at = 0;
        for (x, value) in line.iter_mut().enumerate() {
            while self.begins.get(at + 1).is_some_and(|&begin| begin < x as f64) {
                at += 1;
            }
            let q = self.vertices[at];
            *value = (f64::from(self.values[q]) + square * (x.abs_diff(q) as f64).powi(2)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::squared;
    use crate::data::mask::bits::Bits;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_transform_is_the_least_of_all_distances(
            dims in [1usize..20, 1usize..20, 1usize..8],
            spacing in [0.3f64..4.0, 0.3f64..4.0, 0.3f64..4.0],
            seed in any::<u64>(), sparse in 1u32..12,
        ) {
            let [nx, ny, _] = dims;
            let is_set = |i: usize| {
                (seed ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - sparse) == 0
            };
            let at = |i: usize| [i % nx, i / nx % ny, i / nx / ny];
            let field = squared(&Bits::from_fn(dims, is_set), spacing);
            prop_assert_eq!(field.len(), dims.iter().product::<usize>());
            for (i, &value) in field.iter().enumerate() {
                let to = |j: usize| -> f64 {
                    let steps = |a: usize| at(i)[a].abs_diff(at(j)[a]) as f64;
                    (0..3).map(|a| (steps(a) * spacing[a]).powi(2)).sum()
                };
                let least = (0..field.len()).filter(|&j| is_set(j)).map(to).fold(f64::MAX, f64::min);
                if least == f64::MAX {
                    prop_assert_eq!(value, f32::INFINITY);
                } else {
                    prop_assert!((f64::from(value) - least).abs() <= 1e-5 * least, "{} {}", value, least);
                }
            }
        }
    }
}
