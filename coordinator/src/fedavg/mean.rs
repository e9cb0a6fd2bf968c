//! PURE: the weighted mean of a block over the updates, in f64. No file, no plan.

use super::source::{Row, Rows};

/// sum_k (n_k w_k) / sum_k n_k, over the updates in their order.
pub(super) fn weighted(rows: &Rows, weights: &[f64]) -> Vec<f64> {
    let mut sums: Vec<f64> = Vec::with_capacity(rows.base.len());
    for (row, weight) in rows.iter().zip(weights) {
        match row {
            Row::Fresh(values) => add(&mut sums, *weight, values),
            Row::Late(values) => add(&mut sums, *weight, values),
        }
    }
    let total: f64 = weights.iter().sum();
    sums.iter_mut().for_each(|sum| *sum /= total);
    sums
}

/// The first update sets the sums rather than adding to zero, so that -0.0 stays itself.
fn add<V: Copy + Into<f64>>(sums: &mut Vec<f64>, weight: f64, values: &[V]) {
    if sums.is_empty() {
        sums.extend(values.iter().map(|value| weight * (*value).into()));
        return;
    }
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += weight * (*value).into();
    }
}
