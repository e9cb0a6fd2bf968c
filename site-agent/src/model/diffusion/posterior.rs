//! What is known of x_{t-1} once x_0 and x_t are: q(x_{t-1} | x_t, x_0), for neighbouring steps and for
//! steps far apart.
//!
//! Ho et al. 2020 (arXiv 2006.11239, eq. 7); the clipped variance and its learnt interpolation are those
//! of Nichol and Dhariwal 2021 (arXiv 2102.09672, eq. 15). It draws nothing.

use super::Diffusion;
use crate::model::spec::Prediction;

/// The Gaussian q(x_previous | x_t, x_0): mean c1 x_0 + c2 x_t.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// What the mean takes of x_0.
    pub c1: f64,
    /// What the mean takes of x_t.
    pub c2: f64,
    /// Its variance, the smallest a reverse step can have; 0 where the previous step is x_0 itself.
    pub variance: f64,
    /// ln of the variance; for the first step, whose variance is 0, that of the next trained step.
    pub log_variance_clipped: f64,
    /// ln of beta, the largest variance that a reverse step can have.
    pub log_beta: f64,
}

/// What a learnt variance at one step is measured with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// ln of the true posterior's variance, which is also the low end of the learnt one.
    pub log_variance: f64,
    /// ln of beta, the high end of the learnt one.
    pub log_beta: f64,
    /// Posterior mean of the truth minus that of the network, per unit of the network's error.
    pub gain: f64,
    /// Whether the step leads to x_0, whose grey levels are scored by their likelihood.
    pub is_first: bool,
}

impl Posterior {
    /// The standard deviation of a reverse step: the least, or, for a learnt v, the geometric mean of
    /// least and most that v weighs, -1 the least and 1 the most (arXiv 2102.09672, eq. 15).
    pub fn deviation(&self, v: Option<f64>) -> f64 {
        let most = v.map_or(0.0, |v| (v + 1.0) / 2.0);
        (0.5 * (most * self.log_beta + (1.0 - most) * self.log_variance_clipped)).exp()
    }
}

impl Diffusion {
    /// The posterior of the step from `t` to `previous`, an earlier step, or to x_0 where there is none.
    ///
    /// Between steps that are not neighbours beta is 1 - ab_t / ab_previous, as in guided-diffusion's
    /// respacing. `t` is less than [`Diffusion::timesteps`].
    pub fn posterior(&self, t: usize, previous: Option<usize>) -> Posterior {
        let here = self.alpha_bar[t];
        let before = previous.map_or(1.0, |previous| self.alpha_bar[previous]);
        // Between neighbours the ratio would give beta with fewer digits than the table has.
        let beta = if previous == t.checked_sub(1) { self.beta[t] } else { 1.0 - here / before };
        let variance = beta * (1.0 - before) / (1.0 - here);
        let later = || self.trained.iter().find(|&&later| later > t);
        let log_variance_clipped = match previous {
            Some(_) => variance.ln(),
            None => {
                later().map_or(beta.ln(), |&later| self.posterior(later, Some(t)).variance.ln())
            }
        };
        Posterior {
            c1: beta * before.sqrt() / (1.0 - here),
            c2: (1.0 - before) * (1.0 - beta).sqrt() / (1.0 - here),
            variance,
            log_variance_clipped,
            log_beta: beta.ln(),
        }
    }

    /// What a variance learnt at the trained step `t` is measured with.
    pub fn bound(&self, t: usize) -> Bound {
        let previous = self.trained.iter().rev().find(|&&previous| previous < t).copied();
        let posterior = self.posterior(t, previous);
        let (a, s) = self.mix(t);
        // The true x_0 minus the network's, per unit of the network's error.
        let of_sample = match self.prediction {
            Prediction::V => s,
            Prediction::Epsilon => s / a,
            Prediction::Sample | Prediction::Direct => -1.0,
        };
        Bound {
            log_variance: posterior.log_variance_clipped,
            log_beta: posterior.log_beta,
            gain: posterior.c1 * of_sample,
            is_first: previous.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::super::spec::{ModelSpec, Preset, Schedule};
    use super::*;

    /// One table of `tests/reference/schedules.py`.
    #[derive(Deserialize)]
    struct Reference {
        schedule: Schedule,
        zero_terminal_snr: bool,
        timesteps: usize,
        trained: usize,
        /// t, beta, alpha_bar, variance, clipped log variance, c1, c2.
        rows: Vec<(usize, f64, f64, f64, f64, f64, f64)>,
    }

    #[test]
    fn every_schedule_and_posterior_equals_the_reference() {
        let text = include_str!("../../../tests/fixtures/model/schedules.json");
        let tables: Vec<Reference> = serde_json::from_str(text).unwrap();
        assert_eq!(tables.len(), 24);
        for table in tables {
            let diffusion = Diffusion::new(&ModelSpec {
                schedule: table.schedule,
                zero_terminal_snr: table.zero_terminal_snr,
                timesteps: table.timesteps,
                trained_timesteps: table.trained,
                ..ModelSpec::preset(Preset::Tiny)
            });
            for (t, beta, alpha_bar, variance, clipped, c1, c2) in table.rows {
                let place = diffusion.trained().iter().position(|&step| step == t).unwrap();
                let previous = place.checked_sub(1).map(|place| diffusion.trained()[place]);
                let posterior = diffusion.posterior(t, previous);
                for (name, found, expected) in [
                    ("beta", posterior.log_beta.exp(), beta),
                    ("log beta", posterior.log_beta, beta.ln()),
                    ("alpha_bar", diffusion.alpha_bar(t), alpha_bar),
                    ("variance", posterior.variance, variance),
                    ("clipped", posterior.log_variance_clipped, clipped),
                    ("c1", posterior.c1, c1),
                    ("c2", posterior.c2, c2),
                ] {
                    let what = (table.schedule, table.zero_terminal_snr, table.timesteps, t, name);
                    assert!((found - expected).abs() < 1e-12, "{what:?} {found} {expected}");
                    // Small values must agree in their digits too; a logarithm near 0 has none.
                    let close = (found - expected).abs() <= 1e-9 * expected.abs();
                    assert!(close || name == "log beta", "{what:?} {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn the_posterior_of_a_noisy_image_has_the_marginal_of_the_previous_step() {
        // q(x_p) from q(x_t) and the posterior: c1 + c2 sqrt(ab_t) = sqrt(ab_p) and
        // variance + c2^2 (1 - ab_t) = 1 - ab_p.
        for zero in [false, true] {
            let diffusion = Diffusion::new(&ModelSpec {
                zero_terminal_snr: zero,
                ..ModelSpec::preset(Preset::Tiny)
            });
            for (t, previous) in [(999, 998), (999, 0), (500, 250), (41, 40), (1, 0)] {
                let posterior = diffusion.posterior(t, Some(previous));
                let (here, before) = (diffusion.mix(t), diffusion.mix(previous));
                assert!((posterior.c1 + posterior.c2 * here.0 - before.0).abs() < 1e-9);
                let variance = posterior.variance + posterior.c2.powi(2) * here.1.powi(2);
                assert!((variance - before.1.powi(2)).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn the_gain_is_how_far_an_error_of_the_network_moves_the_posterior_mean() {
        for prediction in [Prediction::V, Prediction::Epsilon, Prediction::Sample] {
            let spec = ModelSpec { prediction, ..ModelSpec::preset(Preset::Tiny) };
            let diffusion = Diffusion::new(&ModelSpec { trained_timesteps: 10, ..spec });
            let (x, e, error) = (0.4, -1.1, 0.03);
            for (i, &t) in diffusion.trained().iter().enumerate() {
                let (a, s) = diffusion.mix(t);
                let x_t = a * x + s * e;
                let painted = diffusion.sample(x_t, diffusion.target(x, e, t) + error, t);
                let previous = i.checked_sub(1).map(|i| diffusion.trained()[i]);
                let bound = diffusion.bound(t);
                let moved = diffusion.posterior(t, previous).c1 * (x - painted);
                assert!((moved - bound.gain * error).abs() < 1e-9 * moved.abs().max(1.0));
                assert_eq!(bound.is_first, i == 0);
            }
        }
    }

    #[test]
    fn a_long_step_has_the_variance_that_bayes_gives_it_and_a_learnt_one_goes_up_to_beta() {
        // For data of one value x_0, x_t is Gaussian at every step, so that p given t is too.
        let diffusion = Diffusion::new(&ModelSpec::preset(Preset::Tiny));
        let ((a, s), (a_p, s_p)) = (diffusion.mix(700), diffusion.mix(300));
        let step = diffusion.posterior(700, Some(300));
        let gain = (a / a_p) * s_p * s_p / (s * s);
        assert!((step.c2 - gain).abs() < 1e-12);
        assert!((step.c1 - (a_p - gain * a)).abs() < 1e-12);
        let variance = s_p * s_p - gain * gain * s * s;
        for v in [None, Some(-1.0)] {
            assert!((step.deviation(v).powi(2) - variance).abs() < 1e-12);
        }
        assert!((step.deviation(Some(1.0)).powi(2) - step.log_beta.exp()).abs() < 1e-12);
    }
}
