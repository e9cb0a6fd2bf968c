//! The linear map of a few rows: the embedding's layers and every block's modulation.
//!
//! There are as many rows as images, so the weights are read once and everything else stays in the
//! first-level cache. Maps of whole images are the convolutions' matter.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::pieces::dispatch;
use super::product::{Extent, Left, product};

/// Outputs whose weights one thread takes at a time.
const OUTPUTS: usize = 32;
/// Rows of x that are multiplied with a weight while it is in a register.
const ROWS: usize = 4;

/// What the map is between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows.
    pub rows: usize,
    /// Values in.
    pub input: usize,
    /// Values out.
    pub out: usize,
}

/// y `[rows, out]` = x `[rows, in]` w^T + bias, w `[out, in]`.
///
/// # Panics
/// If a slice does not have the length that `shape` gives it: that is a bug of the caller.
pub fn forward(shape: &LinearShape, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
    shape.check(x, weight, y);
    assert_eq!(bias.len(), shape.out, "bias has its shape's length");
    let LinearShape { rows, input, out } = *shape;
    if y.is_empty() {
        return;
    }
    // [out, rows], so that every thread has a run to write to.
    let mut turned: Vec<f32> = bias.iter().flat_map(|&b| std::iter::repeat_n(b, rows)).collect();
    turned.par_chunks_mut(OUTPUTS * rows).enumerate().for_each(|(i, y)| {
        let weight = &weight[i * OUTPUTS * input..][..y.len() / rows * input];
        dispatch(input, Forward { x, weight, y, input });
    });
    for (n, y) in y.chunks_exact_mut(out).enumerate() {
        y.iter_mut().zip(turned[n..].iter().step_by(rows)).for_each(|(y, &value)| *y = value);
    }
}

/// Writes dx `[rows, in]`, dw `[out, in]` and db `[out]` from dy `[rows, out]`.
///
/// # Panics
/// If a slice does not have the length that `shape` gives it: that is a bug of the caller.
pub fn backward(
    shape: &LinearShape,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    [dw, db]: [&mut [f32]; 2],
) {
    shape.check(x, weight, dy);
    let LinearShape { input, out, .. } = *shape;
    assert!(
        dx.len() == x.len() && dw.len() == weight.len() && db.len() == out,
        "as what they are of"
    );
    if x.is_empty() || dy.is_empty() {
        for gradient in [dx, dw, db] {
            gradient.fill(0.0);
        }
        return;
    }
    let rows = dx.par_chunks_mut(ROWS * input).zip(dy.par_chunks(ROWS * out));
    rows.for_each(|(dx, dy)| {
        let extent = Extent { m: dx.len() / input, k: out, n: input };
        dispatch(
            input,
            Times { extent, a: Left::Rows { values: dy, stride: out }, b: weight, c: dx },
        );
    });
    dw.par_chunks_mut(OUTPUTS * input).enumerate().for_each(|(i, dw)| {
        let extent = Extent { m: dw.len() / input, k: shape.rows, n: input };
        let a = Left::Columns { values: &dy[i * OUTPUTS..], stride: out };
        dispatch(input, Times { extent, a, b: x, c: dw });
    });
    db.fill(0.0);
    for dy in dy.chunks_exact(out) {
        db.iter_mut().zip(dy).for_each(|(db, dy)| *db += dy);
    }
}

impl LinearShape {
    fn check(&self, x: &[f32], weight: &[f32], y: &[f32]) {
        assert_eq!(x.len(), self.rows * self.input, "x has its shape's length");
        assert_eq!(weight.len(), self.out * self.input, "so has the weight");
        assert_eq!(y.len(), self.rows * self.out, "so has y");
    }
}

/// Adds the products of all rows with some outputs' weights.
struct Forward<'a> {
    /// `[rows, in]`
    x: &'a [f32],
    /// `[outputs, in]`
    weight: &'a [f32],
    /// `[outputs, rows]`
    y: &'a mut [f32],
    input: usize,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.x.len() / self.input;
        for (y, weight) in self.y.chunks_exact_mut(rows).zip(self.weight.chunks_exact(self.input)) {
            let blocks = y.chunks_mut(ROWS).zip(self.x.chunks(ROWS * self.input));
            for (y, x) in blocks {
                if y.len() == ROWS {
                    dots::<S, ROWS>(simd, x, weight, y);
                } else {
                    for (y, x) in y.chunks_exact_mut(1).zip(x.chunks_exact(self.input)) {
                        dots::<S, 1>(simd, x, weight, y);
                    }
                }
            }
        }
    }
}

/// Adds the products of `N` rows with one output's weight.
#[inline(always)]
fn dots<S: Simd, const N: usize>(simd: S, x: &[f32], weight: &[f32], y: &mut [f32]) {
    let (weight, _) = S::as_simd_f32s(weight);
    let (x, _) = S::as_simd_f32s(x);
    let lanes = weight.len();
    let x: [&[S::f32s]; N] = std::array::from_fn(|n| &x[n * lanes..][..lanes]);
    let mut sums = [simd.splat_f32s(0.0); N];
    for i in 0..lanes {
        for (sum, x) in sums.iter_mut().zip(&x) {
            *sum = simd.mul_add_f32s(weight[i], x[i], *sum);
        }
    }
    for (y, sum) in y.iter_mut().zip(sums) {
        *y += simd.reduce_sum_f32s(sum);
    }
}

/// c = a b
struct Times<'a> {
    extent: Extent,
    a: Left<'a>,
    b: &'a [f32],
    c: &'a mut [f32],
}

impl WithSimd for Times<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        product(simd, self.extent, self.a, self.b, self.c, false);
    }
}

#[cfg(test)]
mod tests;
