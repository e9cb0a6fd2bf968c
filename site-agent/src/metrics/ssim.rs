//! Structural similarity (Wang et al. 2004) of what lies in a mask, as torchmetrics computes it:
//! Gaussian windows, reflected borders, both volumes 0 outside the mask.
//!
//! The challenge's package hands torchmetrics a tensor `[1, i, j, k]` of voxels as they are stored, which
//! it takes for a batch of images with i channels: windows are 2-D, over the second and the third axis of
//! the file, (y, z) in a file of BraTS. The evaluation of 2023 handed it `[1, 1, i, j, k]`, and windows
//! were 3-D. Both are made here in one pass. Our volumes are RAS where BraTS files are LPS; that flips x
//! and y, which changes no window. It never looks outside the box of the mask.

use std::collections::VecDeque;

/// Half the width of the window: 11 voxels wide.
pub(super) const REACH: usize = 5;

/// The standard deviation of the window, in voxels.
const SIGMA: f64 = 1.5;

/// SSIM's constants (Wang et al. 2004).
const K1: f64 = 0.01;
/// See [`K1`].
const K2: f64 = 0.03;

/// The local means that SSIM is made of: p, g, p², g², pg.
type Moments = [f64; 5];

/// A prediction p and a truth g where the mask is, in the mask's box. What is called x here is the axis
/// that 2-D windows leave out.
pub(super) struct Pair {
    /// The volume's voxels along each axis.
    dims: [usize; 3],
    /// The first voxel of the box.
    first: [usize; 3],
    /// The box's voxels along each axis.
    size: [usize; 3],
    /// p and g, x fastest; none outside the mask.
    voxels: Vec<Option<[f64; 2]>>,
}

impl Pair {
    /// `inside` are the voxels of the mask in a volume of `dims`, ascending; `values` the prediction
    /// and the truth there; `across` the volume's axis, less than 3, that 2-D windows leave out.
    pub(super) fn new(
        mut dims: [usize; 3],
        inside: &[usize],
        values: [&[f64]; 2],
        across: usize,
    ) -> Pair {
        let [nx, ny, _] = dims;
        dims.swap(0, across);
        let place = |i: usize| {
            let mut at = [i % nx, i / nx % ny, i / nx / ny];
            at.swap(0, across);
            at
        };
        let (mut first, mut last) = (dims, [0; 3]);
        for at in inside.iter().map(|&i| place(i)) {
            first = [0, 1, 2].map(|axis| at[axis].min(first[axis]));
            last = [0, 1, 2].map(|axis| at[axis].max(last[axis]));
        }
        let size = [0, 1, 2].map(|axis| (last[axis] + 1).saturating_sub(first[axis]));
        let mut voxels = vec![None; size.iter().product()];
        for ((&i, &p), &g) in inside.iter().zip(values[0]).zip(values[1]) {
            let [x, y, z] = place(i);
            let at = [x - first[0], y - first[1], z - first[2]];
            voxels[at[0] + size[0] * (at[1] + size[1] * at[2])] = Some([p, g]);
        }
        Pair { dims, first, size, voxels }
    }
}

/// SSIM in 2-D and in 3-D windows, each averaged over the mask. Two volumes without any contrast are
/// equal, and score 1.
pub(super) fn ssim(pair: &Pair, data_range: f64) -> [f64; 2] {
    if data_range == 0.0 {
        return [1.0; 2];
    }
    let constants = [K1, K2].map(|k| (k * data_range).powi(2));
    let kernel = kernel();
    let [nx, ny, nz] = pair.size;
    let (mut totals, mut count) = ([0.0; 2], 0_u64);
    // The slices under the window, smoothed within themselves; the middle one is scored.
    let mut slices: VecDeque<Slice> = VecDeque::with_capacity(2 * REACH + 1);
    for padded in 0..nz + 2 * REACH {
        if slices.len() == 2 * REACH + 1 {
            slices.pop_front();
        }
        slices.push_back(Slice::at(pair, padded, &kernel));
        let Some(z) = padded.checked_sub(2 * REACH) else { continue };
        for i in (0..nx * ny).filter(|i| pair.voxels[i + nx * ny * z].is_some()) {
            totals[0] += ssim_at(blend(&kernel, slices.iter().map(|s| &s.flat[i])), constants);
            totals[1] += ssim_at(blend(&kernel, slices.iter().map(|s| &s.round[i])), constants);
            count += 1;
        }
    }
    totals.map(|total| total / count as f64)
}

/// The box's part of one axial slice, smoothed. `[ny * nx]`
struct Slice {
    /// Along y.
    flat: Vec<Moments>,
    /// Along y and x.
    round: Vec<Moments>,
}

impl Slice {
    /// The slice at height `padded` of the box, [`REACH`] being its lowest.
    fn at(pair: &Pair, padded: usize, kernel: &[f64; 2 * REACH + 1]) -> Slice {
        let [nx, ny, _] = pair.size;
        let wide = nx + 2 * REACH;
        // Columns of the padded box, each smoothed along y. `[ny * wide]`
        let mut columns = vec![[0.0; 5]; ny * wide];
        for x in 0..wide {
            let raw: Vec<Moments> =
                (0..ny + 2 * REACH).map(|y| pair.moments([x, y, padded])).collect();
            for y in 0..ny {
                columns[x + wide * y] = blend(kernel, &raw[y..]);
            }
        }
        let rows = columns.chunks_exact(wide);
        let flat = rows.clone().flat_map(|row| &row[REACH..REACH + nx]).copied().collect();
        let round = rows.flat_map(|row| (0..nx).map(|x| blend(kernel, &row[x..]))).collect();
        Slice { flat, round }
    }
}

impl Pair {
    /// p, g and their products at a place of the padded box.
    fn moments(&self, padded: [usize; 3]) -> Moments {
        let mut index = 0;
        for axis in [2, 1, 0] {
            let at = reflected(padded[axis] + self.first[axis], self.dims[axis]);
            match at.checked_sub(self.first[axis]) {
                Some(at) if at < self.size[axis] => index = index * self.size[axis] + at,
                _ => return [0.0; 5],
            }
        }
        let Some([p, g]) = self.voxels[index] else { return [0.0; 5] };
        [p, g, p * p, g * g, p * g]
    }
}

/// The mean of what lies under the window.
fn blend<'a>(
    kernel: &[f64; 2 * REACH + 1],
    under: impl IntoIterator<Item = &'a Moments>,
) -> Moments {
    let mut mean = [0.0; 5];
    for (weight, moments) in kernel.iter().zip(under) {
        for (mean, value) in mean.iter_mut().zip(moments) {
            *mean += weight * value;
        }
    }
    mean
}

/// SSIM from local means (Wang et al. 2004, eq. 13), variances clamped at 0 as torchmetrics does.
fn ssim_at([p, g, pp, gg, pg]: Moments, [c1, c2]: [f64; 2]) -> f64 {
    let (var_p, var_g) = ((pp - p * p).max(0.0), (gg - g * g).max(0.0));
    let covariance = pg - p * g;
    ((2.0 * p * g + c1) * (2.0 * covariance + c2)) / ((p * p + g * g + c1) * (var_p + var_g + c2))
}

/// The index that padded position `i` (0 lies [`REACH`] before the first) mirrors, the border itself
/// not repeated.
fn reflected(i: usize, n: usize) -> usize {
    let i = i.abs_diff(REACH);
    if i < n { i } else { 2 * (n - 1) - i }
}

/// A normalised Gaussian of 11 taps.
fn kernel() -> [f64; 2 * REACH + 1] {
    let raw: [f64; 2 * REACH + 1] = std::array::from_fn(|i| {
        let distance = i.abs_diff(REACH) as f64 / SIGMA;
        (-distance * distance / 2.0).exp()
    });
    let sum: f64 = raw.iter().sum();
    raw.map(|weight| weight / sum)
}

#[cfg(test)]
mod tests {
    use super::{REACH, reflected};

    #[test]
    fn the_border_is_mirrored_without_being_repeated() {
        let padded: Vec<usize> = (0..7 + 2 * REACH).map(|i| reflected(i, 7)).collect();
        assert_eq!(padded, [5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1]);
    }
}
