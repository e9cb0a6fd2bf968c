//! PURE: inner products of the updates' differences to the base model, over a block. No file.
//!
//! The sums are in f64, in [`LANES`] parts that are added in one order, so that the machine's vectors change
//! their speed and no bit of them: products are rounded before they are added, on every machine.

use pulp::{Arch, Simd, WithSimd};

use super::robust::Gram;
use super::source::{Row, Rows};

/// Sums that run side by side.
const LANES: usize = 16;

/// Coordinates whose differences are held at a time.
const TILE: usize = 256;

/// How each update lies to the mean of all of them, every one counting alike.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Along {
    /// |d_k|^2.
    pub(super) squares: Vec<f64>,
    /// <d_k, sum_j d_j>.
    pub(super) along: Vec<f64>,
}

impl Along {
    /// All zero.
    pub(super) fn zero(len: usize) -> Along {
        Along { squares: vec![0.0; len], along: vec![0.0; len] }
    }

    /// Adds a further block's.
    pub(super) fn add(&mut self, block: &Along) {
        for (sum, part) in self.squares.iter_mut().zip(&block.squares) {
            *sum += part;
        }
        for (sum, part) in self.along.iter_mut().zip(&block.along) {
            *sum += part;
        }
    }

    /// The same of updates whose products are all known, where only those that `counts` are summed up.
    pub(super) fn of(gram: &Gram, counts: &[bool]) -> Along {
        let along = |k: usize| {
            let counted = (0..gram.len()).filter(|j| counts[*j]);
            counted.map(|j| gram.product(k, j)).sum()
        };
        Along {
            squares: (0..gram.len()).map(|k| gram.product(k, k)).collect(),
            along: (0..gram.len()).map(along).collect(),
        }
    }
}

/// [`Along`] over a block.
pub(super) fn along(rows: &Rows, updates: usize) -> Along {
    let mut sums = Along::zero(updates);
    Arch::new().dispatch(SumAlong { rows, sums: &mut sums });
    sums
}

/// [`Gram`] over a block.
pub(super) fn gram(rows: &Rows, updates: usize) -> Gram {
    let mut gram = Gram::zero(updates);
    Arch::new().dispatch(SumProducts { rows, gram: &mut gram });
    gram
}

/// [`sum_along`] with the machine's vectors.
struct SumAlong<'a> {
    rows: &'a Rows,
    sums: &'a mut Along,
}

impl WithSimd for SumAlong<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        sum_along(self.rows, self.sums);
    }
}

/// [`sum_products`] with the machine's vectors.
struct SumProducts<'a> {
    rows: &'a Rows,
    gram: &'a mut Gram,
}

impl WithSimd for SumProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        sum_products(self.rows, self.gram);
    }
}

#[inline(always)]
fn sum_along(rows: &Rows, sums: &mut Along) {
    let mut own = [0.0; TILE];
    for first in (0..rows.base.len()).step_by(TILE) {
        let mut whole = [0.0; TILE];
        for row in rows.iter() {
            differences(row, &rows.base, first, &mut own);
            whole.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
        for ((row, square), along) in rows.iter().zip(&mut sums.squares).zip(&mut sums.along) {
            differences(row, &rows.base, first, &mut own);
            *square += product(&own, &own);
            *along += product(&own, &whole);
        }
    }
}

#[inline(always)]
fn sum_products(rows: &Rows, gram: &mut Gram) {
    let mut held = vec![[0.0; TILE]; gram.len()];
    for first in (0..rows.base.len()).step_by(TILE) {
        for (row, held) in rows.iter().zip(&mut held) {
            differences(row, &rows.base, first, held);
        }
        for i in 0..held.len() {
            for (j, sum) in gram.row_mut(i).iter_mut().enumerate() {
                *sum += product(&held[i], &held[j]);
            }
        }
    }
}

/// A tile of w - base from its `first` value on, and zeros behind its end.
#[inline(always)]
fn differences(row: Row<'_>, base: &[f32], first: usize, out: &mut [f64; TILE]) {
    let last = base.len().min(first + TILE);
    let base = &base[first..last];
    match row {
        Row::Fresh(values) => {
            for ((out, value), base) in out.iter_mut().zip(&values[first..last]).zip(base) {
                *out = f64::from(*value) - f64::from(*base);
            }
        }
        Row::Late(values) => {
            for ((out, value), base) in out.iter_mut().zip(&values[first..last]).zip(base) {
                *out = *value - f64::from(*base);
            }
        }
    }
    out[last - first..].fill(0.0);
}

#[inline(always)]
fn product(a: &[f64; TILE], b: &[f64; TILE]) -> f64 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for at in 0..LANES {
            sums[at] += a[at] * b[at];
        }
    }
    added(sums)
}

/// The lanes' sum, in their order.
#[inline(always)]
fn added(lanes: [f64; LANES]) -> f64 {
    lanes.iter().fold(0.0, |sum, lane| sum + lane)
}
