//! The same linear map at every pixel: a 1x1 convolution, or attention's projections.
//!
//! Pixels are rows of a matrix where they lie, so these are plain matrix products; the weight is
//! packed per call, which is little beside the pixels it is used for.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::cpu::scratch;
use crate::cpu::tile::{self, Outer, Rows};

/// Pixels that are one piece of work.
const PIXELS: usize = 192;
/// How many sums of the weight's gradient are taken side by side, each over its share of pixels.
const SUMS: usize = 8;
/// Rows of the weight's gradient that are one piece of work.
const ROWS: usize = 48;

/// y = x weight^T + bias + residual for `x` `[pixels, in]`, `weight` `[out, in]`, `bias` `[out]`,
/// `residual` and `y` `[pixels, out]`.
///
/// # Panics
/// If a slice does not have the length that `[input, out]` and the others give it: that is a bug
/// of the caller.
pub fn forward(
    [input, out]: [usize; 2],
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
) {
    assert_eq!(weight.len(), out * input, "the weight has its shape's length");
    assert_eq!(bias.len(), out, "so has the bias");
    assert_eq!(x.len() * out, y.len() * input, "x and y have as many pixels");
    assert!(residual.is_none_or(|residual| residual.len() == y.len()), "so has the residual");
    product([input, out], x, (weight, [1, input]), Some(bias), residual, y);
}

/// dL/dx `[pixels, in]` = dy weight from dL/dy `[pixels, out]` and `weight` `[out, in]`.
///
/// # Panics
/// As [`forward`].
pub fn input_gradient([input, out]: [usize; 2], dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    assert_eq!(weight.len(), out * input, "the weight has its shape's length");
    assert_eq!(dx.len() * out, dy.len() * input, "dx and dy have as many pixels");
    product([out, input], dy, (weight, [input, 1]), None, None, dx);
}

/// dL/dweight `[out, in]` = dy^T x from `x` `[pixels, in]` and dL/dy `[pixels, out]`.
///
/// # Panics
/// As [`forward`].
pub fn weight_gradient([input, out]: [usize; 2], x: &[f32], dy: &[f32], dweight: &mut [f32]) {
    assert_eq!(dweight.len(), out * input, "the weight has its shape's length");
    assert_eq!(x.len() * out, dy.len() * input, "x and dy have as many pixels");
    let pixels = dy.len() / out;
    let share = pixels.div_ceil(SUMS).max(1);
    let shares = pixels.div_ceil(share);
    let arch = Arch::new();
    scratch::with(shares * dweight.len(), |sums| {
        sums.fill(0.0);
        let of_share = sums.par_chunks_mut(out * input).enumerate();
        let pieces = of_share.flat_map(|(at, sums)| {
            let pieces = sums.par_chunks_mut(ROWS * input).enumerate();
            pieces.map(move |(row, sums)| (at * share, row * ROWS, sums))
        });
        pieces.for_each(|(pixel, row, sums)| {
            let end = pixels.min(pixel + share);
            let (x, dy) = (&x[pixel * input..end * input], &dy[pixel * out + row..end * out]);
            arch.dispatch(Sum { input, out, x, dy, sums });
        });
        let parts = &*sums;
        dweight.par_chunks_mut(ROWS * input).enumerate().for_each(|(at, dweight)| {
            dweight.fill(0.0);
            for part in parts.chunks_exact(out * input) {
                let part = &part[at * ROWS * input..][..dweight.len()];
                for (total, value) in dweight.iter_mut().zip(part) {
                    *total += value;
                }
            }
        });
    });
}

/// c = a b + bias + residual, where b\[k, column\] is the weight at their inner product with the
/// steps.
fn product(
    [depth, columns]: [usize; 2],
    a: &[f32],
    (weight, steps): (&[f32], [usize; 2]),
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    c: &mut [f32],
) {
    let arch = Arch::new();
    scratch::with(tile::packed_len(depth, columns), |packed| {
        let firsts: Vec<usize> = (0..depth).map(|k| k * steps[0]).collect();
        tile::pack(weight, &firsts, steps[1], columns, packed);
        let packed = &*packed;
        c.par_chunks_mut(PIXELS * columns).enumerate().for_each(|(at, c)| {
            let rows = Rows {
                a: &a[at * PIXELS * depth..],
                pitch: depth,
                starts: &[0],
                run: depth,
                rows: c.len() / columns,
                bias,
                residual: residual.map(|residual| &residual[at * PIXELS * columns..]),
                columns,
                c_pitch: columns,
            };
            arch.dispatch(Product { rows, packed, c });
        });
    });
}

struct Product<'a> {
    rows: Rows<'a>,
    packed: &'a [f32],
    c: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.rows.write(simd, self.packed, self.c);
    }
}

/// Adds the pixels of one share to some rows of dw.
struct Sum<'a> {
    input: usize,
    out: usize,
    x: &'a [f32],
    /// From the first of the rows on.
    dy: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let outer = Outer {
            a: self.dy,
            a_pitch: self.out,
            b: self.x,
            b_pitch: self.input,
            starts: &[[0, 0]],
            run: self.x.len() / self.input,
            rows: self.sums.len() / self.input,
            columns: self.input,
        };
        outer.add(simd, self.sums);
    }
}
