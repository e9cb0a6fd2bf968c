//! Multi-head self-attention without the matrix of all pixels by all pixels, forward and backward.
//!
//! softmax(q k^T / sqrt(dim)) v (Vaswani et al. 2017, arXiv 1706.03762), for a block of queries at a
//! time. Of the weights only the logarithm of every query's sum is kept, from which the backward
//! pass takes them again (as Dao et al. 2022, arXiv 2205.14135). Queries stand in the lanes of the
//! vectors: keys and values are then read where they lie, and the softmax needs no sum across
//! lanes.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::math;
use super::pieces::dispatch;
use super::product::{Extent, Left, product};

mod backward;

pub use backward::backward;

/// Queries of a block; whole vectors on every machine.
const QUERIES: usize = 64;
/// What the backward pass pads a head's width to; a whole vector on every machine.
const PADDING: usize = 16;

/// What attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Images.
    pub batch: usize,
    /// Height times width.
    pub pixels: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head's query, key and value each.
    pub dim: usize,
}

/// Writes `out` `[batch, pixels, heads * dim]` and `log_sums` `[batch, heads, pixels]`, the logarithm
/// of every query's sum of exponentials.
///
/// `qkv` is `[batch, pixels, heads * 3 * dim]`: heads first, then query, key and value in each.
///
/// # Panics
/// If a slice does not have the length that `shape` gives it: that is a bug of the caller.
pub fn forward(shape: &AttentionShape, qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
    shape.check(qkv, log_sums);
    assert_eq!(out.len() * 3, qkv.len(), "out has a third of qkv's length");
    let AttentionShape { pixels, heads, dim, .. } = *shape;
    if out.is_empty() {
        return;
    }
    // [batch, heads, pixels, dim], so that every head has a place of its own to write to.
    let mut by_head = vec![0.0; out.len()];
    let places = by_head.par_chunks_exact_mut(pixels * dim);
    places.zip(log_sums.par_chunks_exact_mut(pixels)).enumerate().for_each(|(at, (out, sums))| {
        let head = Head::new(shape, qkv, at);
        let blocks = out.par_chunks_mut(QUERIES * dim).zip(sums.par_chunks_mut(QUERIES));
        blocks.enumerate().for_each_init(Vec::new, |scratch, (block, (out, log_sums))| {
            let op = Forward { head, first: block * QUERIES, out, log_sums, scratch };
            dispatch(QUERIES, op);
        });
    });
    out.par_chunks_exact_mut(pixels * heads * dim).enumerate().for_each(|(n, out)| {
        let image = &by_head[n * out.len()..][..out.len()];
        for (pixel, row) in out.chunks_exact_mut(heads * dim).enumerate() {
            for (head, to) in row.chunks_exact_mut(dim).enumerate() {
                to.copy_from_slice(&image[(head * pixels + pixel) * dim..][..dim]);
            }
        }
    });
}

impl AttentionShape {
    fn check(&self, qkv: &[f32], log_sums: &[f32]) {
        let rows = self.batch * self.pixels;
        assert!(self.heads > 0 && self.dim > 0, "there are heads and channels");
        assert_eq!(qkv.len(), rows * self.heads * 3 * self.dim, "qkv has its shape's length");
        assert_eq!(log_sums.len(), rows * self.heads, "so have the log sums");
    }
}

/// Query, key and value of one head of one image, where they lie.
#[derive(Clone, Copy)]
struct Head<'a> {
    /// From the first query on; rows lie `stride` apart.
    qkv: &'a [f32],
    stride: usize,
    pixels: usize,
    dim: usize,
}

impl<'a> Head<'a> {
    /// Head `at` of `[batch, heads]`.
    fn new(shape: &AttentionShape, qkv: &'a [f32], at: usize) -> Head<'a> {
        let AttentionShape { pixels, heads, dim, .. } = *shape;
        let stride = heads * 3 * dim;
        let image = &qkv[at / heads * pixels * stride..][..pixels * stride];
        Head { qkv: &image[at % heads * 3 * dim..], stride, pixels, dim }
    }

    /// 1 / sqrt(dim)
    fn scale(&self) -> f32 {
        (self.dim as f32).sqrt().recip()
    }

    fn query(&self, pixel: usize) -> &'a [f32] {
        &self.qkv[pixel * self.stride..][..self.dim]
    }

    /// The keys as a left factor by rows. `[pixels, dim]`
    fn key_rows(&self) -> Left<'a> {
        Left::Rows { values: &self.qkv[self.dim..], stride: self.stride }
    }

    /// The keys as a left factor by columns. `[dim, pixels]`
    fn key_columns(&self) -> Left<'a> {
        Left::Columns { values: &self.qkv[self.dim..], stride: self.stride }
    }

    /// The values as a left factor by rows. `[pixels, dim]`
    fn value_rows(&self) -> Left<'a> {
        Left::Rows { values: &self.qkv[2 * self.dim..], stride: self.stride }
    }

    /// The values as a left factor by columns. `[dim, pixels]`
    fn value_columns(&self) -> Left<'a> {
        Left::Columns { values: &self.qkv[2 * self.dim..], stride: self.stride }
    }

    /// From a row per pixel to a row per query of a block.
    fn by_keys(&self) -> Extent {
        Extent { m: self.pixels, k: self.dim, n: QUERIES }
    }

    /// From a row per query of a block to a row per channel.
    fn by_channels(&self) -> Extent {
        Extent { m: self.dim, k: self.pixels, n: QUERIES }
    }

    /// Writes the transposed, scaled queries of a block, zero beyond its last. `[dim, QUERIES]`
    fn transposed_queries(&self, first: usize, count: usize, to: &mut [f32]) {
        let scale = self.scale();
        to.fill(0.0);
        for r in 0..count {
            for (to, &value) in to[r..].iter_mut().step_by(QUERIES).zip(self.query(first + r)) {
                *to = value * scale;
            }
        }
    }
}

/// A block of queries of one head.
struct Forward<'a> {
    head: Head<'a>,
    /// The block's first query.
    first: usize,
    /// `[at most QUERIES, dim]`
    out: &'a mut [f32],
    /// `[at most QUERIES]`
    log_sums: &'a mut [f32],
    scratch: &'a mut Vec<f32>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (pixels, dim) = (self.head.pixels, self.head.dim);
        self.scratch.resize((pixels + 2 * dim) * QUERIES, 0.0);
        let (weights, rest) = self.scratch.split_at_mut(pixels * QUERIES);
        let (queries, mixed) = rest.split_at_mut(dim * QUERIES);
        self.head.transposed_queries(self.first, self.log_sums.len(), queries);
        // [pixels, QUERIES]
        product(simd, self.head.by_keys(), self.head.key_rows(), queries, weights, false);
        let (mut top, mut sum) = ([0.0; QUERIES], [0.0; QUERIES]);
        softmax(simd, weights, &mut top, &mut sum);
        // [dim, QUERIES]
        product(simd, self.head.by_channels(), self.head.value_columns(), weights, mixed, false);
        let rows = self.out.chunks_exact_mut(dim).zip(self.log_sums);
        for (r, (out, log_sum)) in rows.enumerate() {
            let share = sum[r].recip();
            for (out, &value) in out.iter_mut().zip(mixed[r..].iter().step_by(QUERIES)) {
                *out = value * share;
            }
            *log_sum = top[r] + sum[r].ln();
        }
    }
}

/// Turns `[keys, QUERIES]` into exp(value - top), with the largest value and the sum of every query.
#[inline(always)]
fn softmax<S: Simd>(simd: S, values: &mut [f32], top: &mut [f32], sum: &mut [f32]) {
    let (values, _) = S::as_mut_simd_f32s(values);
    let (top, _) = S::as_mut_simd_f32s(top);
    let (sum, _) = S::as_mut_simd_f32s(sum);
    top.fill(simd.splat_f32s(f32::NEG_INFINITY));
    for row in values.chunks_exact(top.len()) {
        for (top, &value) in top.iter_mut().zip(row) {
            *top = simd.max_f32s(*top, value);
        }
    }
    for row in values.chunks_exact_mut(top.len()) {
        for ((value, &top), sum) in row.iter_mut().zip(&*top).zip(sum.iter_mut()) {
            *value = math::exp(simd, simd.sub_f32s(*value, top));
            *sum = simd.add_f32s(*sum, *value);
        }
    }
}

#[cfg(test)]
mod tests;
