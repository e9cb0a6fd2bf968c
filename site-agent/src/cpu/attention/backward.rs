//! The gradients of attention, with the weights taken again block by block.
//!
//! With s = q k^T / sqrt(dim), p = exp(s - log sum), dp = do v^T: dv = p^T do, ds = p (dp - sum p dp),
//! dq = ds k / sqrt(dim), dk = ds^T q / sqrt(dim). One head is one piece of work, since all blocks of
//! its queries add to the same dk and dv.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{AttentionShape, Head, PADDING, QUERIES};
use crate::cpu::math;
use crate::cpu::pieces::dispatch;
use crate::cpu::product::{Extent, Left, product};

/// Writes `dqkv` in the layout of `qkv` from `d_out`, the gradient of [`super::forward`]'s `out`, and
/// the `log_sums` that it wrote.
///
/// # Panics
/// If a slice does not have the length that `shape` gives it: that is a bug of the caller.
pub fn backward(
    shape: &AttentionShape,
    qkv: &[f32],
    log_sums: &[f32],
    d_out: &[f32],
    dqkv: &mut [f32],
) {
    shape.check(qkv, log_sums);
    assert_eq!(d_out.len() * 3, qkv.len(), "d_out has a third of qkv's length");
    assert_eq!(dqkv.len(), qkv.len(), "dqkv has qkv's length");
    let AttentionShape { batch, pixels, heads, dim } = *shape;
    if qkv.is_empty() {
        return;
    }
    let wide = dim.next_multiple_of(PADDING);
    // [batch, heads, query | key | value, pixels, wide]
    let mut by_head = vec![0.0; batch * heads * 3 * pixels * wide];
    let places = by_head.par_chunks_exact_mut(3 * pixels * wide);
    places.enumerate().for_each_init(Vec::new, |scratch, (at, gradient)| {
        let d_out = &d_out[at / heads * pixels * heads * dim..][..pixels * heads * dim];
        let d_out = &d_out[at % heads * dim..];
        let log_sums = &log_sums[at * pixels..][..pixels];
        let head = Head::new(shape, qkv, at);
        let op = Backward { head, log_sums, d_out, stride: heads * dim, gradient, scratch };
        dispatch(QUERIES, op);
    });
    dqkv.par_chunks_exact_mut(pixels * heads * 3 * dim).enumerate().for_each(|(n, dqkv)| {
        let image = &by_head[n * heads * 3 * pixels * wide..][..heads * 3 * pixels * wide];
        for (pixel, row) in dqkv.chunks_exact_mut(heads * 3 * dim).enumerate() {
            for (part, to) in row.chunks_exact_mut(dim).enumerate() {
                to.copy_from_slice(&image[(part * pixels + pixel) * wide..][..dim]);
            }
        }
    });
}

/// All queries of one head.
struct Backward<'a> {
    head: Head<'a>,
    /// `[pixels]`
    log_sums: &'a [f32],
    /// From the head's first channel on; rows lie `stride` apart.
    d_out: &'a [f32],
    stride: usize,
    /// Query, key and value `[3, pixels, wide]`, zero before.
    gradient: &'a mut [f32],
    scratch: &'a mut Vec<f32>,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Backward { head, log_sums, d_out, stride, gradient, scratch } = self;
        let (pixels, dim) = (head.pixels, head.dim);
        let wide = dim.next_multiple_of(PADDING);
        let lengths = [pixels, pixels, dim, dim, dim, wide, wide].map(|rows| rows * QUERIES);
        scratch.resize(lengths.iter().sum(), 0.0);
        let mut rest = &mut scratch[..];
        let [p, ds, qt, dot, dqt, q, d_o] =
            lengths.map(|len| rest.split_off_mut(..len).unwrap_or_default());
        let (d_query, d_rest) = gradient.split_at_mut(pixels * wide);
        let (d_key, d_value) = d_rest.split_at_mut(pixels * wide);
        let onto_keys = Extent { m: pixels, k: QUERIES, n: wide };
        for first in (0..pixels).step_by(QUERIES) {
            let count = QUERIES.min(pixels - first);
            let mut sums = [0.0; QUERIES];
            sums[..count].copy_from_slice(&log_sums[first..][..count]);
            head.transposed_queries(first, count, qt);
            transpose(qt, q, wide);
            let d_rows = d_out[first * stride..].chunks(stride).take(count);
            dot.fill(0.0);
            for (r, row) in d_rows.enumerate() {
                for (to, &value) in dot[r..].iter_mut().step_by(QUERIES).zip(&row[..dim]) {
                    *to = value;
                }
            }
            transpose(dot, d_o, wide);
            product(simd, head.by_keys(), head.key_rows(), qt, p, false); // s^T
            product(simd, head.by_keys(), head.value_rows(), dot, ds, false); // dp^T
            differentiate(simd, p, ds, &sums);
            product(simd, head.by_channels(), head.key_columns(), ds, dqt, false);
            let rows = d_query[first * wide..].chunks_exact_mut(wide).take(count);
            for (r, row) in rows.enumerate() {
                for (to, &value) in row[..dim].iter_mut().zip(dqt[r..].iter().step_by(QUERIES)) {
                    *to = value * head.scale();
                }
            }
            let by_rows = |values| Left::Rows { values, stride: QUERIES };
            product(simd, onto_keys, by_rows(p), d_o, d_value, true);
            product(simd, onto_keys, by_rows(ds), q, d_key, true);
        }
    }
}

/// `[dim, QUERIES]` to `[QUERIES, wide]`, zero beyond dim.
fn transpose(from: &[f32], to: &mut [f32], wide: usize) {
    to.fill(0.0);
    for (i, row) in from.chunks_exact(QUERIES).enumerate() {
        for (to, &value) in to[i..].iter_mut().step_by(wide).zip(row) {
            *to = value;
        }
    }
}

/// Turns s^T into p^T and dp^T into ds^T, both `[pixels, QUERIES]`.
///
/// The weights of a query are divided by their own sum: a rounded `log_sum` leaves it off 1 by more than
/// the small differences of ds can bear.
#[inline(always)]
fn differentiate<S: Simd>(simd: S, p: &mut [f32], ds: &mut [f32], log_sums: &[f32; QUERIES]) {
    let (p, _) = S::as_mut_simd_f32s(p);
    let (ds, _) = S::as_mut_simd_f32s(ds);
    let (log_sums, _) = S::as_simd_f32s(log_sums);
    let (mut total, mut inner) = ([0.0; QUERIES], [0.0; QUERIES]);
    let (total, _) = S::as_mut_simd_f32s(&mut total);
    let (inner, _) = S::as_mut_simd_f32s(&mut inner);
    let lanes = log_sums.len();
    for (p, ds) in p.chunks_exact_mut(lanes).zip(ds.chunks_exact(lanes)) {
        for at in 0..lanes {
            p[at] = math::exp(simd, simd.sub_f32s(p[at], log_sums[at]));
            total[at] = simd.add_f32s(total[at], p[at]);
            inner[at] = simd.mul_add_f32s(p[at], ds[at], inner[at]);
        }
    }
    let one = simd.splat_f32s(1.0);
    for (total, inner) in total.iter_mut().zip(&mut *inner) {
        *total = simd.div_f32s(one, *total);
        *inner = simd.mul_f32s(*inner, *total);
    }
    for (p, ds) in p.chunks_exact_mut(lanes).zip(ds.chunks_exact_mut(lanes)) {
        for at in 0..lanes {
            p[at] = simd.mul_f32s(p[at], total[at]);
            ds[at] = simd.mul_f32s(p[at], simd.sub_f32s(ds[at], inner[at]));
        }
    }
}
