//! One reverse step between any two steps of the diffusion: its mean and its variance.

use super::super::diffusion::Diffusion;

/// q(x_p | x_t, x_0), the Gaussian of a cleaner step p (Ho et al. 2020, arXiv 2006.11239, eq. 7), for
/// the respaced beta = 1 - ab_t / ab_p of Nichol and Dhariwal 2021 (arXiv 2102.09672, eq. 19).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Posterior {
    /// What the mean takes of x_0.
    pub(super) c1: f64,
    /// What the mean takes of x_t.
    pub(super) c2: f64,
    /// The logarithm of its variance, the least that a reverse step has; negative infinity where
    /// there is no cleaner step.
    pub(super) log_variance: f64,
    /// The logarithm of beta, the most.
    pub(super) log_beta: f64,
}

/// The posterior from step `t` to the cleaner `previous`, or to x_0 itself.
pub(super) fn posterior(diffusion: &Diffusion, t: usize, previous: Option<usize>) -> Posterior {
    let (a, s) = diffusion.mix(t);
    let (a_prev, s_prev) = previous.map_or((1.0, 0.0), |previous| diffusion.mix(previous));
    let kept = (a / a_prev).powi(2);
    let beta = 1.0 - kept;
    Posterior {
        c1: beta * a_prev / (s * s),
        c2: s_prev * s_prev * kept.sqrt() / (s * s),
        log_variance: (beta * s_prev * s_prev / (s * s)).ln(),
        log_beta: beta.ln(),
    }
}

impl Posterior {
    /// The standard deviation of the step: the least, or, for a learnt v, the geometric mean of least
    /// and most that v weighs, -1 the least and 1 the most (arXiv 2102.09672, eq. 15).
    pub(super) fn deviation(&self, v: Option<f64>) -> f64 {
        let most = v.map_or(0.0, |v| (v + 1.0) / 2.0);
        (0.5 * (most * self.log_beta + (1.0 - most) * self.log_variance)).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::{ModelSpec, Preset, Schedule};
    use super::*;

    #[test]
    fn the_posterior_has_the_published_coefficients() {
        let spec = ModelSpec { schedule: Schedule::Linear, ..ModelSpec::preset(Preset::Tiny) };
        let diffusion = Diffusion::new(&spec);
        for (t, variance, c1, c2) in [
            (1, 5.453_187_661_3e-5, 0.545_291_499_51, 0.454_708_498_99),
            (250, 5.051_719_844_1e-3, 7.684_422_330_5e-3, 0.991_907_883_27),
            (500, 1.005_133_577_9e-2, 3.058_057_075_6e-3, 0.994_104_350_76),
            (999, 1.999_998_352_7e-2, 1.283_514_871_7e-4, 0.989_948_678_27),
        ] {
            let step = posterior(&diffusion, t, Some(t - 1));
            let close = |a: f64, b: f64| ((a - b) / b).abs() < 1e-8;
            assert!(close(step.c1, c1) && close(step.c2, c2), "{t}: {step:?}");
            assert!(close(step.log_variance.exp(), variance), "{t}: {step:?}");
            assert!(close(step.deviation(None), variance.sqrt()));
            assert!(close(step.deviation(Some(-1.0)), variance.sqrt()));
            assert!(close(step.deviation(Some(1.0)).powi(2), step.log_beta.exp()));
        }
        let last = posterior(&diffusion, 0, None);
        assert!((last.c1 - 1.0).abs() < 1e-12 && last.c2 == 0.0);
    }

    #[test]
    fn a_long_step_has_the_variance_that_bayes_gives_it() {
        // For data of one value x_0, x_t is Gaussian at every step, so that p given t is too.
        let diffusion = Diffusion::new(&ModelSpec::preset(Preset::Tiny));
        let ((a, s), (a_p, s_p)) = (diffusion.mix(700), diffusion.mix(300));
        let step = posterior(&diffusion, 700, Some(300));
        let gain = (a / a_p) * s_p * s_p / (s * s);
        assert!((step.c2 - gain).abs() < 1e-12);
        assert!((step.c1 - (a_p - gain * a)).abs() < 1e-12);
        let variance = s_p * s_p - gain * gain * s * s;
        assert!((step.log_variance.exp() - variance).abs() < 1e-12);
    }
}
