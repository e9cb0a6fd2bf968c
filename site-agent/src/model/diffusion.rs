//! Gaussian diffusion on the host: how an image becomes noise, and back.
//!
//! Every table is f64. Nothing here draws a number: [`lesson`] does, from a stream that the caller
//! names, so that a step of training is a function of its seed and its examples. No tensor library, no
//! network.

pub mod lesson;
pub mod posterior;
pub mod schedule;
pub mod weight;

use super::batch::Batch;
use super::spec::{ModelSpec, NoiseRegion, Prediction};

/// What the background and every voided pixel are.
pub const VOID: f32 = -1.0;

/// The noise schedule of a model, with what its network predicts.
#[derive(Clone, Debug)]
pub struct Diffusion {
    beta: Vec<f64>,
    alpha_bar: Vec<f64>,
    trained: Vec<usize>,
    prediction: Prediction,
    region: NoiseRegion,
    learn_sigma: bool,
    null_condition: bool,
}

impl Diffusion {
    /// The diffusion that a model of this spec is trained for.
    pub fn new(spec: &ModelSpec) -> Diffusion {
        let table = schedule::table(spec.schedule, spec.timesteps, spec.zero_terminal_snr);
        Diffusion {
            beta: table.beta,
            alpha_bar: table.alpha_bar,
            trained: schedule::spaced(spec.trained_timesteps, spec.timesteps),
            prediction: spec.prediction,
            region: spec.noise_region,
            learn_sigma: spec.learn_sigma,
            null_condition: spec.null_condition,
        }
    }

    /// The number of steps T.
    pub fn timesteps(&self) -> usize {
        self.alpha_bar.len()
    }

    /// The steps that are trained and may be sampled at, ascending.
    pub fn trained(&self) -> &[usize] {
        &self.trained
    }

    /// Where x_t carries noise.
    pub fn region(&self) -> NoiseRegion {
        self.region
    }

    /// ab_t: the share of x_0's variance that is left in x_t.
    pub fn alpha_bar(&self, t: usize) -> f64 {
        self.alpha_bar[t]
    }

    /// (sqrt(ab_t), sqrt(1 - ab_t)): how much signal and how much noise x_t has.
    pub fn mix(&self, t: usize) -> (f64, f64) {
        let alpha_bar = self.alpha_bar[t];
        (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt())
    }

    /// What the network should predict for x_0 and the noise e at step `t`.
    pub fn target(&self, sample: f64, noise: f64, t: usize) -> f64 {
        let (a, s) = self.mix(t);
        match self.prediction {
            Prediction::V => a * noise - s * sample,
            Prediction::Epsilon => noise,
            Prediction::Sample | Prediction::Direct => sample,
        }
    }

    /// x_0 from x_t and the network's prediction, neither clipped.
    pub fn sample(&self, x_t: f64, predicted: f64, t: usize) -> f64 {
        let (a, s) = self.mix(t);
        match self.prediction {
            Prediction::V => a * x_t - s * predicted,
            Prediction::Epsilon => (x_t - s * predicted) / a,
            Prediction::Sample | Prediction::Direct => predicted,
        }
    }

    /// The noise e that makes x_t out of x_0. Finite at every step: the first of any schedule has noise,
    /// and only signal, which is not divided by, may be wholly gone.
    pub fn noise(&self, x_t: f64, sample: f64, t: usize) -> f64 {
        let (a, s) = self.mix(t);
        (x_t - a * sample) / s
    }
}

/// Adds the planes that do not depend on the step: the voided image, the mask, the regions.
pub fn push_context(batch: &mut Batch, image: &[f32], mask: &[f32], regions: &[f32]) {
    let voided = image.iter().zip(mask).map(|(&x, &m)| if m < 0.5 { x } else { VOID });
    batch.planes.extend(voided);
    batch.planes.extend(mask);
    batch.planes.extend(regions);
}

#[cfg(test)]
mod tests {
    use super::super::spec::{Preset, Schedule};
    use super::*;

    #[test]
    fn every_prediction_gives_back_the_sample_and_the_noise() {
        for (prediction, zero) in [
            (Prediction::V, false),
            (Prediction::V, true),
            (Prediction::Epsilon, false),
            (Prediction::Sample, false),
            (Prediction::Sample, true),
        ] {
            for schedule in [Schedule::Cosine, Schedule::Linear] {
                let preset = ModelSpec::preset(Preset::Tiny);
                let spec = ModelSpec { schedule, prediction, zero_terminal_snr: zero, ..preset };
                let diffusion = Diffusion::new(&spec);
                // At the last step of a cosine the noise says nothing in f64 of the image below it.
                let last = if prediction == Prediction::Epsilon { 899 } else { 999 };
                for t in [0, 1, 10, 500, last] {
                    let (a, s) = diffusion.mix(t);
                    let (x, e) = (0.37, -1.2);
                    let x_t = a * x + s * e;
                    let sample = diffusion.sample(x_t, diffusion.target(x, e, t), t);
                    assert!((sample - x).abs() < 1e-9, "{prediction:?} {t}");
                    let noise = diffusion.noise(x_t, sample, t);
                    assert!((noise - e).abs() < 1e-9, "{prediction:?} {t}");
                }
            }
        }
    }

    #[test]
    fn noise_is_finite_where_there_is_next_to_none_and_where_there_is_nothing_else() {
        for timesteps in [2, 1000, 10_000] {
            let preset = ModelSpec::preset(Preset::Tiny);
            let spec = ModelSpec { timesteps, zero_terminal_snr: true, ..preset };
            let diffusion = Diffusion::new(&spec);
            assert!(diffusion.noise(1.0, -1.0, 0).is_finite());
            assert_eq!(diffusion.noise(0.7, -1.0, timesteps - 1), 0.7);
        }
    }
}
