//! How a kernel finds its vectors and its share of the work.
//!
//! Pieces are cut by the shape of the data and never by the number of threads. Everything that a
//! kernel does to a vector is in functions marked `#[inline(always)]` and never in a closure: what
//! the compiler does not inline it compiles without the machine's vectors, fifty times slower.

use pulp::{Arch, Scalar, Simd, WithSimd};

/// The values of one piece of work on flat data: 64 KiB, several of which fit a second-level cache.
pub const PIECE: usize = 1 << 14;

/// Runs `op` with the machine's vectors if rows of `width` values are whole vectors, and one value
/// at a time if not, so that a kernel on rows has no tail to treat.
#[inline]
pub fn dispatch<Op: WithSimd>(width: usize, op: Op) -> Op::Output {
    Arch::new().dispatch(Rows { width, op })
}

struct Rows<Op> {
    width: usize,
    op: Op,
}

impl<Op: WithSimd> WithSimd for Rows<Op> {
    type Output = Op::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Op::Output {
        if self.width.is_multiple_of(S::F32_LANES) {
            self.op.with_simd(simd)
        } else {
            self.op.with_simd(Scalar::new())
        }
    }
}

/// `values` as `count` pieces of `len` values, the last ones shorter or empty.
pub fn cut(mut values: &mut [f32], len: usize, count: usize) -> Vec<&mut [f32]> {
    let piece = |_| {
        let at = len.min(values.len());
        values.split_off_mut(..at).unwrap_or_default()
    };
    (0..count).map(piece).collect()
}

/// The `index`th piece of `len` values, the last one shorter or empty.
pub fn piece(values: &[f32], len: usize, index: usize) -> &[f32] {
    let start = (index * len).min(values.len());
    &values[start..(start + len).min(values.len())]
}
