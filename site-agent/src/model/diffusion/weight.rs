//! How much a step's error counts, by how much signal its x_t has.

use super::super::spec::Prediction;
use super::Diffusion;

/// Beyond this ratio of signal to noise a step's error counts no more (Hang et al. 2023, arXiv
/// 2303.09556, section 3.4).
const SNR_MAX: f64 = 5.0;
/// Where no trained step's error counts this much, next to nothing is learnt: the gradient falls below
/// what an optimiser adds against division by zero.
pub const WEIGHT_MIN: f64 = 1e-3;

/// How much a step's error counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossWeight {
    /// Every step alike.
    #[default]
    Uniform,
    /// As the error of x_0 would count at min(SNR, 5) (Hang et al. 2023, arXiv 2303.09556, eq. 6).
    MinSnr,
}

impl LossWeight {
    /// The factor of a squared error of `prediction` where x_t keeps the share `alpha_bar` of x_0.
    ///
    /// With SNR = ab / (1 - ab): min(SNR, 5) for x_0, min(SNR, 5) / SNR for the noise,
    /// min(SNR, 5) / (SNR + 1) for v; so a step of noise alone counts nothing for x_0 and v.
    pub fn factor(self, prediction: Prediction, alpha_bar: f64) -> f64 {
        let snr = alpha_bar / (1.0 - alpha_bar);
        match (self, prediction) {
            (LossWeight::Uniform, _) | (LossWeight::MinSnr, Prediction::Direct) => 1.0,
            (LossWeight::MinSnr, Prediction::Sample) => snr.min(SNR_MAX),
            // Not a quotient of two zeros where there is no signal.
            (LossWeight::MinSnr, Prediction::Epsilon) => (SNR_MAX / snr).min(1.0),
            (LossWeight::MinSnr, Prediction::V) => snr.min(SNR_MAX) / (snr + 1.0),
        }
    }
}

impl Diffusion {
    /// How much an error counts at that trained step where it counts most.
    pub fn weight_max(&self, loss_weight: LossWeight) -> f64 {
        let factor = |&t: &usize| loss_weight.factor(self.prediction, self.alpha_bar[t]);
        self.trained.iter().map(factor).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::{ModelSpec, Preset, Schedule};
    use super::super::schedule;
    use super::*;

    #[test]
    fn min_snr_has_the_published_factors() {
        let table = schedule::table(Schedule::Linear, 1000, false);
        for (t, epsilon, v) in
            [(10, 0.010_991, 0.010_967), (250, 1.0, 0.521_423), (500, 1.0, 0.077_797)]
        {
            let kept = table.alpha_bar[t];
            let factor = |prediction| LossWeight::MinSnr.factor(prediction, kept);
            assert!((factor(Prediction::Epsilon) - epsilon).abs() < 5e-7, "{t}");
            assert!((factor(Prediction::V) - v).abs() < 5e-7, "{t}");
            // One error of x_0, told in three ways, counts alike in all of them.
            let of_sample = factor(Prediction::Sample);
            assert!((factor(Prediction::V) / of_sample - (1.0 - kept)).abs() < 1e-12);
            assert!((factor(Prediction::Epsilon) / of_sample - (1.0 - kept) / kept).abs() < 1e-9);
            assert_eq!(LossWeight::Uniform.factor(Prediction::V, kept), 1.0);
        }
        for prediction in [Prediction::V, Prediction::Sample, Prediction::Epsilon] {
            assert!(LossWeight::MinSnr.factor(prediction, 0.0).is_finite());
        }
    }

    #[test]
    fn one_trained_step_of_noise_alone_counts_next_to_nothing_and_a_few_steps_count() {
        let counts = |prediction, zero_terminal_snr, trained_timesteps, weight| {
            let tiny = ModelSpec::preset(Preset::Tiny);
            let spec = ModelSpec { prediction, zero_terminal_snr, trained_timesteps, ..tiny };
            Diffusion::new(&spec).weight_max(weight)
        };
        for prediction in [Prediction::V, Prediction::Sample] {
            assert!(counts(prediction, false, 1, LossWeight::MinSnr) < WEIGHT_MIN);
            assert_eq!(counts(prediction, true, 1, LossWeight::MinSnr), 0.0);
            assert_eq!(counts(prediction, true, 1, LossWeight::Uniform), 1.0);
            assert!(counts(prediction, true, 4, LossWeight::MinSnr) > 0.1);
        }
        assert_eq!(counts(Prediction::Epsilon, false, 1, LossWeight::MinSnr), 1.0);
        assert_eq!(counts(Prediction::Direct, false, 1, LossWeight::MinSnr), 1.0);
    }
}
