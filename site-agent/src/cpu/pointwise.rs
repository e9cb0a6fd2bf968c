//! What moves or adds activations and computes next to nothing: sums, SiLU, joins, upsampling.
//!
//! All of it runs at the speed of the memory; channels-last makes every copy a run of whole pixels.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::math;
use super::pieces::{PIECE, dispatch, piece};

/// sum = a + b
///
/// # Panics
/// If the lengths differ: that is a bug of the caller. So for all of this file.
pub fn add(a: &[f32], b: &[f32], sum: &mut [f32]) {
    assert!(a.len() == sum.len() && b.len() == sum.len(), "a sum has the length of its terms");
    zip(a, b, sum, Add);
}

/// y = silu(x)
pub fn silu(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "y has the length of x");
    zip(x, x, y, Silu);
}

/// dx = dy silu'(x)
pub fn silu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert!(x.len() == dx.len() && dy.len() == dx.len(), "dx and dy have the length of x");
    zip(x, dy, dx, SiluBackward);
}

/// Puts images side by side along the channels: `[rows, a]` and `[rows, b]` to `[rows, a + b]`.
pub fn join(parts: [&[f32]; 2], widths: [usize; 2], joined: &mut [f32]) {
    let channels = widths[0] + widths[1];
    assert_eq!(parts[0].len() + parts[1].len(), joined.len(), "no channel is lost");
    assert_eq!(parts[0].len() * channels, joined.len() * widths[0], "rows are alike");
    let rows = PIECE / channels.max(1) + 1;
    joined.par_chunks_mut(rows * channels).enumerate().for_each(|(i, joined)| {
        let [a, b] = [0, 1].map(|k| piece(parts[k], rows * widths[k], i));
        for (r, row) in joined.chunks_exact_mut(channels).enumerate() {
            let (to_a, to_b) = row.split_at_mut(widths[0]);
            to_a.copy_from_slice(&a[r * widths[0]..][..widths[0]]);
            to_b.copy_from_slice(&b[r * widths[1]..][..widths[1]]);
        }
    });
}

/// The gradient of [`join`]: the channels from `first` on, `[rows, channels]` to `[rows, width]`.
pub fn split(joined: &[f32], channels: usize, first: usize, width: usize, part: &mut [f32]) {
    assert!(first + width <= channels && width > 0, "a part is among the channels");
    assert_eq!(part.len() * channels, joined.len() * width, "rows are alike");
    let rows = PIECE / width + 1;
    part.par_chunks_mut(rows * width).enumerate().for_each(|(i, part)| {
        let joined = piece(joined, rows * channels, i).chunks_exact(channels);
        for (to, row) in part.chunks_exact_mut(width).zip(joined) {
            to.copy_from_slice(&row[first..first + width]);
        }
    });
}

/// Nearest neighbour times two: `[images, height, width, channels]` to
/// `[images, 2 height, 2 width, channels]`; `rows` is images times height.
pub fn upsample([rows, width, channels]: [usize; 3], x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), rows * width * channels, "x has its shape's length");
    assert_eq!(y.len(), 4 * x.len(), "y has four values for one");
    if x.is_empty() {
        return;
    }
    let rows =
        x.par_chunks_exact(width * channels).zip(y.par_chunks_exact_mut(4 * width * channels));
    rows.for_each(|(x, y)| {
        let (upper, lower) = y.split_at_mut(2 * width * channels);
        for (x, y) in x.chunks_exact(channels).zip(upper.chunks_exact_mut(2 * channels)) {
            let (left, right) = y.split_at_mut(channels);
            left.copy_from_slice(x);
            right.copy_from_slice(x);
        }
        lower.copy_from_slice(upper);
    });
}

/// The gradient of [`upsample`]: every value of dx is the sum of four of dy.
pub fn upsample_backward([rows, width, channels]: [usize; 3], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(dx.len(), rows * width * channels, "dx has its shape's length");
    assert_eq!(dy.len(), 4 * dx.len(), "dy has four values for one");
    if dx.is_empty() {
        return;
    }
    let rows =
        dx.par_chunks_exact_mut(width * channels).zip(dy.par_chunks_exact(4 * width * channels));
    rows.for_each(|(dx, dy)| dispatch(channels, Fold { dx, dy, channels }));
}

/// One row of dx from two of dy.
struct Fold<'a> {
    dx: &'a mut [f32],
    dy: &'a [f32],
    channels: usize,
}

impl WithSimd for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (upper, lower) = self.dy.split_at(self.dy.len() / 2);
        let [upper, lower] = [upper, lower].map(|row| row.chunks_exact(2 * self.channels));
        let rows = self.dx.chunks_exact_mut(self.channels).zip(upper.zip(lower));
        for (dx, (upper, lower)) in rows {
            let (dx, _) = S::as_mut_simd_f32s(dx);
            let lanes = dx.len();
            let [upper, lower] = [upper, lower].map(|row| &S::as_simd_f32s(row).0[..2 * lanes]);
            for i in 0..lanes {
                let above = simd.add_f32s(upper[i], upper[lanes + i]);
                let below = simd.add_f32s(lower[i], lower[lanes + i]);
                dx[i] = simd.add_f32s(above, below);
            }
        }
    }
}

/// A value from two others.
trait Map: Copy + Send + Sync {
    fn map<S: Simd>(self, simd: S, a: S::f32s, b: S::f32s) -> S::f32s;
}

#[derive(Clone, Copy)]
struct Add;

impl Map for Add {
    #[inline(always)]
    fn map<S: Simd>(self, simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.add_f32s(a, b)
    }
}

#[derive(Clone, Copy)]
struct Silu;

impl Map for Silu {
    #[inline(always)]
    fn map<S: Simd>(self, simd: S, a: S::f32s, _: S::f32s) -> S::f32s {
        math::silu(simd, a)
    }
}

#[derive(Clone, Copy)]
struct SiluBackward;

impl Map for SiluBackward {
    #[inline(always)]
    fn map<S: Simd>(self, simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.mul_f32s(b, math::silu_slope(simd, a))
    }
}

/// Maps two slices into a third, piece by piece.
fn zip(a: &[f32], b: &[f32], out: &mut [f32], map: impl Map) {
    let pieces = a.par_chunks(PIECE).zip(b.par_chunks(PIECE)).zip(out.par_chunks_mut(PIECE));
    pieces.for_each(|((a, b), out)| {
        // The whole vectors, and then what is left one value at a time.
        let whole = out.len() / 16 * 16;
        let (out, out_rest) = out.split_at_mut(whole);
        dispatch(whole, Zip { a: &a[..whole], b: &b[..whole], out, map });
        dispatch(1, Zip { a: &a[whole..], b: &b[whole..], out: out_rest, map });
    });
}

struct Zip<'a, M> {
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
    map: M,
}

impl<M: Map> WithSimd for Zip<'_, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [(a, _), (b, _)] = [self.a, self.b].map(|x| S::as_simd_f32s(x));
        for ((out, &a), &b) in S::as_mut_simd_f32s(self.out).0.iter_mut().zip(a).zip(b) {
            *out = self.map.map(simd, a, b);
        }
    }
}

#[cfg(test)]
mod tests;
