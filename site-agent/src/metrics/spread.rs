//! How far a mean can be trusted: a standard deviation, and an interval from resampling patients.
//!
//! Patients are resampled and not scans, because two scans of one head are not two observations. It
//! reads no clock and draws from one seed.

use rand::RngExt;
use serde::Serialize;

use crate::data::stream::stream;

/// How often patients are drawn anew.
pub const RESAMPLES: usize = 1_000;

/// The part of the resampled means that the interval holds.
pub const CONFIDENCE: f64 = 0.95;

/// The fewest patients that have an interval: of two, resampling tells nothing.
pub const INTERVAL_PATIENTS_MIN: usize = 3;

/// Names the draws. It is a constant, so that the same scores have the same interval everywhere.
const SEED: u64 = 2026;

/// One metric over patients. What is not a number, or infinite, is null in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The mean over patients.
    pub mean: f64,
    /// The standard deviation over patients (of the population, as the challenge reports).
    pub sd: f64,
    /// The percentile bootstrap's 95 % interval of the mean (Efron 1979); none for fewer than
    /// [`INTERVAL_PATIENTS_MIN`] patients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_95: Option<[f64; 2]>,
}

/// Which patients each resample holds. One set of draws serves every metric and every method, so
/// that their intervals are of the same resamples.
pub struct Resamples {
    patients: usize,
    draws: Vec<Vec<usize>>,
}

impl Resamples {
    /// Draws as many patients as there are, with replacement, [`RESAMPLES`] times.
    pub fn of(patients: usize) -> Resamples {
        let count = if patients < INTERVAL_PATIENTS_MIN { 0 } else { RESAMPLES };
        let mut rng = stream("fedpaint 2026 bootstrap", &[&SEED.to_le_bytes()]);
        let draws = (0..count)
            .map(|_| (0..patients).map(|_| rng.random_range(0..patients)).collect())
            .collect();
        Resamples { patients, draws }
    }
}

/// The spread of one value per patient.
///
/// # Panics
/// If there are not as many values as the resamples were made for: that is a bug of the caller.
pub fn spread(values: &[f64], resamples: &Resamples) -> Spread {
    assert_eq!(values.len(), resamples.patients, "one value per patient");
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt();
    let mut means: Vec<f64> = resamples
        .draws
        .iter()
        .map(|draw| draw.iter().map(|&i| values[i]).sum::<f64>() / count)
        .collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let interval_95 =
        (!means.is_empty()).then(|| [tail, 1.0 - tail].map(|part| quantile(&means, part)));
    Spread { mean, sd, interval_95 }
}

/// The quantile of ascending values, interpolated linearly between ranks as numpy does.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let position = part * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    // Not interpolated where both are the same: two infinities have no difference.
    if sorted[below] == sorted[above] {
        return sorted[below];
    }
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use super::{RESAMPLES, Resamples, quantile, spread};

    #[test]
    fn quantiles_are_numpys() {
        let sorted = [1.0, 2.0, 4.0, 8.0, 16.0];
        for (part, expected) in [(0.0, 1.0), (0.025, 1.1), (0.4, 2.0 + 0.6 * 2.0), (1.0, 16.0)] {
            assert!((quantile(&sorted, part) - expected).abs() < 1e-12, "{part}");
        }
        assert_eq!(quantile(&[f64::INFINITY; 3], 0.3), f64::INFINITY);
    }

    #[test]
    fn the_interval_is_that_of_the_central_limit_theorem_where_patients_are_many() {
        // Uniform on [0, 1): mean 0.5, sd 1 / sqrt(12), so the mean of 400 has sd 0.01443.
        let values: Vec<f64> = (0..400).map(|i| (f64::from(i) + 0.5) / 400.0).collect();
        let found = spread(&values, &Resamples::of(400));
        assert!((found.mean - 0.5).abs() < 1e-12);
        assert!((found.sd - 12_f64.sqrt().recip()).abs() < 1e-5);
        let [low, high] = found.interval_95.unwrap();
        let expected = 1.96 * found.sd / 20.0;
        assert!((0.5 - low - expected).abs() < 0.1 * expected, "{low}");
        assert!((high - 0.5 - expected).abs() < 0.1 * expected, "{high}");
    }

    #[test]
    fn an_interval_lies_within_the_values_and_is_the_same_every_time() {
        let values = [3.0, 1.0, 7.0, 2.0];
        let found = spread(&values, &Resamples::of(4));
        let [low, high] = found.interval_95.unwrap();
        assert!(1.0 <= low && low < found.mean && found.mean < high && high <= 7.0);
        assert_eq!(spread(&values, &Resamples::of(4)), found);
    }

    #[test]
    fn two_patients_have_a_spread_but_no_interval() {
        let found = spread(&[1.0, 3.0], &Resamples::of(2));
        assert_eq!((found.mean, found.sd, found.interval_95), (2.0, 1.0, None));
        assert_eq!(Resamples::of(3).draws.len(), RESAMPLES);
    }
}
