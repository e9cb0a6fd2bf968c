//! Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): past the prediction with a
//! condition, away from the one without. It changes the prediction alone, never a learnt variance.

/// u + w (c - u) for every pixel, each sample's spread drawn back to that of its c by the part
/// `rescale` (Lin et al. 2024, arXiv 2305.08891, eq. 15 and 16).
///
/// The spread is taken sample by sample, so that a slice is painted alike alone and in company, and over
/// the pixels under its mask, since outside it a prediction is not used and often not learnt. All planes
/// are `[batch, area]`.
pub(super) fn guided(
    conditional: &[f32],
    unconditional: &[f32],
    mask: &[f32],
    area: usize,
    scale: f64,
    rescale: f64,
) -> Vec<f32> {
    let pairs = conditional.iter().zip(unconditional);
    let mut guided: Vec<f32> = pairs
        .map(|(&c, &u)| (f64::from(u) + scale * (f64::from(c) - f64::from(u))) as f32)
        .collect();
    if rescale == 0.0 {
        return guided;
    }
    let samples = guided.chunks_mut(area).zip(conditional.chunks(area)).zip(mask.chunks(area));
    for ((guided, conditional), mask) in samples {
        let (before, after) = (deviation(conditional, mask), deviation(guided, mask));
        // A flat prediction has no spread to give or to draw back.
        if before > 0.0 && after > 0.0 {
            let factor = (rescale * before / after + 1.0 - rescale) as f32;
            guided.iter_mut().for_each(|g| *g *= factor);
        }
    }
    guided
}

/// The standard deviation under the mask; 0 for an empty one.
fn deviation(values: &[f32], mask: &[f32]) -> f64 {
    let inside = || values.iter().zip(mask).filter(|(_, m)| **m >= 0.5).map(|(&v, _)| f64::from(v));
    let count = inside().count().max(1) as f64;
    let mean = inside().sum::<f64>() / count;
    (inside().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: [f32; 8] = [0.1, 0.5, -0.3, 9.0, 0.2, 0.6, 0.1, -7.0];
    const U: [f32; 8] = [0.0, 0.1, 0.4, 1.0, 0.1, 0.3, 0.2, 3.0];
    const MASK: [f32; 8] = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0];

    #[test]
    fn scale_1_is_the_condition_and_scale_0_its_absence() {
        for (scale, expected) in [(1.0, C), (0.0, U)] {
            for (g, e) in guided(&C, &U, &MASK, 4, scale, 0.0).iter().zip(expected) {
                assert!((g - e).abs() < 1e-6);
            }
        }
        assert!((guided(&C, &U, &MASK, 4, 3.0, 0.0)[1] - 1.3).abs() < 1e-6);
    }

    #[test]
    fn a_full_rescale_gives_each_sample_its_own_spread_under_the_mask() {
        let full = guided(&C, &U, &MASK, 4, 4.0, 1.0);
        let before = deviation(&C[..4], &MASK[..4]);
        assert!((deviation(&full[..4], &MASK[..4]) - before).abs() < 1e-6);
        // The second sample is the same whatever stands beside it.
        let alone = guided(&C[4..], &U[4..], &MASK[4..], 4, 4.0, 1.0);
        assert_eq!(full[4..], alone);
    }

    #[test]
    fn what_lies_outside_the_mask_does_not_count() {
        let mut other = C;
        other[3] = -100.0;
        let (a, b) = (guided(&C, &U, &MASK, 4, 4.0, 0.7), guided(&other, &U, &MASK, 4, 4.0, 0.7));
        assert_eq!((a[..3].to_vec(), &a[4..]), (b[..3].to_vec(), &b[4..]));
    }

    #[test]
    fn a_flat_or_empty_sample_stays_finite() {
        let flat = guided(&[0.5; 4], &[0.5; 4], &[1.0; 4], 4, 4.0, 0.7);
        assert_eq!(flat, [0.5; 4]);
        assert!(guided(&C, &U, &[0.0; 8], 4, 4.0, 0.7).iter().all(|v| v.is_finite()));
    }
}
