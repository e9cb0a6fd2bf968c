//! PURE: which updates are unlike the others, by their length and their direction. It excludes nobody.
//!
//! Sites' scans differ, and so do honest updates: an outlier is told by how far the others lie apart, through the
//! median and the median absolute deviation, which up to half of the updates cannot move at will. Where they lie
//! close together a least spread stands for theirs, so that nobody is flagged for being a little different.

use super::robust::median;

/// The fewest updates of which one can be told to be unlike the others.
pub(super) const UPDATES_MIN: usize = 5;

/// How many spreads from the median an outlier is. A tenth or less of a percent of honest updates lies beyond
/// where their lengths' logarithms and cosines are normally distributed, below one percent where their tails are
/// as heavy as Student's t with 4 degrees of freedom (at most 20 updates of a spread of at most 0.5).
const SPREADS_MAX: f64 = 6.0;

/// The least spread of the logarithm of the lengths: an outlier is at least e^1.5, 4.5 times, off.
const LENGTH_SPREAD_MIN: f64 = 0.25;

/// The least spread of the cosines: an outlier's is at least 0.6 less.
const COSINE_SPREAD_MIN: f64 = 0.1;

/// The standard deviation of a normal distribution whose median absolute deviation is 1.
const DEVIATION: f64 = 1.482_602_218_505_602;

/// Which lengths are unlike the others', too long or too short; none of fewer than [`UPDATES_MIN`].
pub(super) fn lengths(norms: &[f64]) -> Vec<bool> {
    // A length of 0 has a logarithm that is below every other; where most are 0 none is an outlier.
    let logarithms: Vec<f64> = norms.iter().map(|norm| rounded(norm.ln())).collect();
    let enough = norms.len() >= UPDATES_MIN;
    spreads(&logarithms, LENGTH_SPREAD_MIN).map(|z| enough && z.abs() > SPREADS_MAX).collect()
}

/// Which directions are unlike the others', by their cosines: too small ones; none of fewer than
/// [`UPDATES_MIN`].
pub(super) fn directions(cosines: &[f64]) -> Vec<bool> {
    let enough = cosines.len() >= UPDATES_MIN;
    spreads(cosines, COSINE_SPREAD_MIN).map(|z| enough && z < -SPREADS_MAX).collect()
}

/// To 20 binary digits, so that the last digit of a processor's logarithm excludes nobody.
fn rounded(value: f64) -> f64 {
    const SCALE: f64 = (1 << 20) as f64;
    (value * SCALE).round() / SCALE
}

/// How many spreads each value is from the median.
fn spreads(values: &[f64], least: f64) -> impl Iterator<Item = f64> {
    let middle = median(values.to_vec());
    let apart = |value: &f64| if *value == middle { 0.0 } else { value - middle };
    let spread = median(values.iter().map(|value| apart(value).abs()).collect());
    let spread = (DEVIATION * spread).max(least);
    values.iter().map(move |value| apart(value) / spread).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    /// Approximately normal: twelve uniform numbers.
    fn normal(dice: &mut Dice) -> f64 {
        (0..12).map(|_| dice.roll(1 << 20) as f64 / f64::from(1 << 20)).sum::<f64>() - 6.0
    }

    /// Student's t with four degrees of freedom.
    fn heavy(dice: &mut Dice) -> f64 {
        let square: f64 = (0..4).map(|_| normal(dice).powi(2)).sum();
        normal(dice) / (square / 4.0).sqrt()
    }

    #[test]
    fn of_ten_updates_the_two_that_are_unlike_are_told_and_no_other() {
        let honest = [1.0, 1.3, 0.8, 1.1, 0.9, 2.0, 0.6, 1.2];
        for bad in [0.0, 100.0, 1e-3, f64::INFINITY] {
            let found = lengths(&[&honest[..], &[bad, bad]].concat());
            assert_eq!(found, [[false; 8].as_slice(), &[true; 2]].concat(), "{bad}");
        }
        let honest = [0.5, 0.4, 0.6, 0.55, 0.35, 0.45, 0.5, 0.62];
        for bad in [-0.5, -1.0] {
            let found = directions(&[&honest[..], &[bad, bad]].concat());
            assert_eq!(found, [[false; 8].as_slice(), &[true; 2]].concat(), "{bad}");
        }
        assert_eq!(lengths(&[1.0, 1.0, 1.0, 100.0]), [false; 4], "of four nobody can tell");
        assert_eq!(lengths(&[0.0; 6]), [false; 6]);
        assert!(directions(&[]).is_empty());
    }

    #[test]
    fn at_most_one_in_a_hundred_honest_updates_is_told_to_be_unlike_the_others() {
        let mut dice = Dice(5);
        for updates in [8, 10, 20] {
            for spread in [0.05, 0.1, 0.2, 0.3, 0.5] {
                for draw in [normal, heavy] {
                    let (mut told, mut all) = (0, 0);
                    for _ in 0..300 {
                        let values: Vec<f64> =
                            (0..updates).map(|_| draw(&mut dice) * spread).collect();
                        let norms: Vec<f64> = values.iter().map(|value| value.exp()).collect();
                        told += lengths(&norms).into_iter().filter(|told| *told).count();
                        all += updates;
                    }
                    assert!(told * 100 <= all, "{told} of {all}, {updates} of spread {spread}");
                }
            }
        }
    }
}
