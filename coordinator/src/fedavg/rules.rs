//! PURE: how the updates' values of a block become one, by the plan's rule. No file.
//!
//! The mean, the mean of clipped updates and the geometric median are means with other weights
//! ([`Share`]), so one kernel serves them; the median and the trimmed mean look at every coordinate by
//! itself. Updates are taken in their order and sums have one order, so that the bytes follow from the updates.

use pulp::{Arch, Simd, WithSimd};

use super::source::{Row, Rows};

/// How a block's rows become one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Combine {
    /// sum_k weight_k (base + scale_k (w_k - base)) / sum_k weight_k.
    Mean(Vec<Option<Share>>),
    /// The mean of what is left of each coordinate's values when `dropped` of the lowest and of the highest
    /// are left out; every update counts alike. With all but one or two dropped it is the median.
    Middle {
        /// Which updates count.
        counts: Vec<bool>,
        /// How many are left out at each end.
        dropped: usize,
    },
}

/// What an update is worth in a mean. One that does not count has none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    /// How much it counts.
    pub(super) weight: f64,
    /// What its difference to the base model is multiplied with.
    pub(super) scale: f64,
}

/// Coordinates whose sums stay in a first-level cache while updates are added.
const TILE: usize = 512;

/// Coordinates that are sorted side by side.
const LANES: usize = 8;

impl Combine {
    /// The block's new values, in f64.
    pub(super) fn of(&self, rows: &Rows) -> Vec<f64> {
        Arch::new().dispatch(Combining { combine: self, rows })
    }
}

/// A block's combination with the machine's vectors.
struct Combining<'a> {
    combine: &'a Combine,
    rows: &'a Rows,
}

impl WithSimd for Combining<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<f64> {
        match self.combine {
            Combine::Mean(shares) => mean(self.rows, shares),
            Combine::Middle { counts, dropped } => middle(self.rows, counts, *dropped),
        }
    }
}

/// Where no update is scaled it is sum_k (n_k w_k) / sum_k n_k as it stands, whose rounding the base model has no
/// part in.
#[inline(always)]
fn mean(rows: &Rows, shares: &[Option<Share>]) -> Vec<f64> {
    let mut all = vec![0.0; rows.base.len()];
    let total: f64 = shares.iter().flatten().map(|share| share.weight).sum();
    for (tile, sums) in all.chunks_mut(TILE).enumerate() {
        let range = tile * TILE..tile * TILE + sums.len();
        let base = &rows.base[range.clone()];
        let mut is_first = true;
        for (row, share) in rows.iter().zip(shares) {
            let Some(share) = share else { continue };
            match row {
                Row::Fresh(values) => add(sums, is_first, *share, &values[range.clone()], base),
                Row::Late(values) => add(sums, is_first, *share, &values[range.clone()], base),
            }
            is_first = false;
        }
        sums.iter_mut().for_each(|sum| *sum /= total);
    }
    all
}

/// The first update sets the sums rather than adding to zero, so that -0.0 stays itself.
#[inline(always)]
fn add<V: Copy + Into<f64>>(
    sums: &mut [f64],
    is_first: bool,
    Share { weight, scale }: Share,
    values: &[V],
    base: &[f32],
) {
    let plain = |value: &V| weight * (*value).into();
    let scaled = |value: &V, base: &f32| {
        let base = f64::from(*base);
        weight * (base + scale * ((*value).into() - base))
    };
    let all = sums.iter_mut().zip(values).zip(base);
    match (is_first, scale == 1.0) {
        (true, true) => all.for_each(|((sum, value), _)| *sum = plain(value)),
        (true, false) => all.for_each(|((sum, value), base)| *sum = scaled(value, base)),
        (false, true) => all.for_each(|((sum, value), _)| *sum += plain(value)),
        (false, false) => all.for_each(|((sum, value), base)| *sum += scaled(value, base)),
    }
}

/// The mean of the middle values of each coordinate. A value that is not a number makes the coordinate none.
#[inline(always)]
fn middle(rows: &Rows, counts: &[bool], dropped: usize) -> Vec<f64> {
    let rows_used: Vec<Row<'_>> =
        rows.iter().zip(counts).filter(|(_, counts)| **counts).map(|(row, _)| row).collect();
    let kept = dropped..rows_used.len().saturating_sub(dropped);
    let pairs = network(rows_used.len());
    let mut out = Vec::with_capacity(rows.base.len());
    let mut lanes = vec![[0.0_f64; LANES]; rows_used.len()];
    for first in (0..rows.base.len()).step_by(LANES) {
        let width = LANES.min(rows.base.len() - first);
        let mut numbers = [0.0; LANES];
        for (lane, row) in lanes.iter_mut().zip(&rows_used) {
            *lane = match row {
                Row::Fresh(values) => load(&values[first..first + width]),
                Row::Late(values) => load(&values[first..first + width]),
            };
            for (number, value) in numbers.iter_mut().zip(lane.iter()) {
                // 0 for every finite number, and not a number for all else.
                *number += value * 0.0;
            }
        }
        for (low, high) in &pairs {
            let (a, b) = (lanes[*low], lanes[*high]);
            for at in 0..LANES {
                let swap = b[at] < a[at];
                lanes[*low][at] = if swap { b[at] } else { a[at] };
                lanes[*high][at] = if swap { a[at] } else { b[at] };
            }
        }
        let mut sums = [0.0; LANES];
        for (place, lane) in lanes[kept.clone()].iter().enumerate() {
            for (sum, value) in sums.iter_mut().zip(lane) {
                *sum = if place == 0 { *value } else { *sum + value };
            }
        }
        let of = kept.len() as f64;
        out.extend(sums.iter().zip(numbers).take(width).map(|(sum, number)| sum / of + number));
    }
    out
}

#[inline(always)]
fn load<V: Copy + Into<f64>>(values: &[V]) -> [f64; LANES] {
    let mut lane = [0.0; LANES];
    for (to, value) in lane.iter_mut().zip(values) {
        *to = (*value).into();
    }
    lane
}

/// The pairs to compare, in their order, to sort so many values: Batcher's odd-even merge sort (1968), which
/// asks nothing of the values and so sorts coordinates side by side.
fn network(len: usize) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let full = len.next_power_of_two();
    let mut p = 1;
    while p < full {
        let mut k = p;
        while k >= 1 {
            for j in (k % p..full - k).step_by(2 * k) {
                for i in 0..k.min(full - j - k) {
                    let (low, high) = (i + j, i + j + k);
                    if low / (2 * p) == high / (2 * p) && high < len {
                        pairs.push((low, high));
                    }
                }
            }
            k /= 2;
        }
        p *= 2;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    #[test]
    fn the_network_sorts_every_sequence_of_noughts_and_ones_and_so_every_sequence() {
        for len in 0..=12 {
            let pairs = network(len);
            for bits in 0..1_u32 << len {
                let mut values: Vec<u32> = (0..len).map(|at| bits >> at & 1).collect();
                for (low, high) in &pairs {
                    if values[*high] < values[*low] {
                        values.swap(*low, *high);
                    }
                }
                assert!(values.is_sorted(), "{len}: {bits:b}");
            }
        }
        let mut dice = Dice(3);
        let mut values: Vec<u64> = (0..100).map(|_| dice.roll(50)).collect();
        for (low, high) in network(100) {
            if values[high] < values[low] {
                values.swap(low, high);
            }
        }
        assert!(values.is_sorted());
    }
}
