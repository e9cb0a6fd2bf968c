//! Gaussian diffusion on the host: the schedule, the forward process, and what is learnt from it.
//!
//! Every table is f64 and every draw comes from a stream that the caller names, so that a step of
//! training is a function of its seed and its examples. No tensor library, no network.

use std::f64::consts::FRAC_PI_2;

use rand::RngExt;
use rand_chacha::ChaCha12Rng;

use super::batch::Batch;
use super::noise;
use super::spec::{ModelSpec, NoiseRegion, Prediction, Schedule};
use crate::data::example::{Example, REGIONS};

/// The offset s of the cosine schedule (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17).
const COSINE_OFFSET: f64 = 0.008;
/// The largest beta of the cosine schedule (same paper, section 3.2).
const MAX_BETA: f64 = 0.999;
/// What the background and every voided pixel are.
pub const VOID: f32 = -1.0;

/// The noise schedule of a model, with what its network predicts.
#[derive(Clone, Debug)]
pub struct Diffusion {
    alpha_bar: Vec<f64>,
    prediction: Prediction,
    region: NoiseRegion,
}

/// A batch to learn from.
#[derive(Clone, Debug)]
pub struct Lesson {
    /// What the network reads.
    pub batch: Batch,
    /// What it should predict. `[batch, 1, size, size]`
    pub target: Vec<f32>,
    /// How much each pixel's squared error counts; the loss is the weighted sum of the squared
    /// errors. Sums to 1 where only the inside of masks is learnt. `[batch, 1, size, size]`
    pub weight: Vec<f32>,
}

/// Why examples cannot be learnt from.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExampleError {
    /// There is no example.
    #[error("a batch has no examples, give it at least one")]
    Empty,
    /// A plane has another number of pixels than the model's slices.
    #[error("example {index}: its {plane} has {found} pixels, the model's slices have {expected}")]
    Size {
        /// Which example of the batch.
        index: usize,
        /// Which plane.
        plane: &'static str,
        /// Its pixels.
        found: usize,
        /// The pixels it must have.
        expected: usize,
    },
    /// A value is NaN, infinite, or outside its range.
    #[error("example {index}: its {plane} has a value outside {range}, normalise the slice")]
    Value {
        /// Which example of the batch.
        index: usize,
        /// Which plane.
        plane: &'static str,
        /// The values that are allowed.
        range: &'static str,
    },
    /// No pixel of the whole batch counts.
    #[error("no example of the batch has a pixel inside its loss mask, give it one that has")]
    NothingToLearn,
}

impl Diffusion {
    /// The diffusion that a model of this spec is trained for.
    pub fn new(spec: &ModelSpec) -> Diffusion {
        let product = |kept: &mut f64, beta: f64| {
            *kept *= 1.0 - beta;
            Some(*kept)
        };
        let alpha_bar = betas(spec.schedule, spec.timesteps).into_iter().scan(1.0, product);
        let mut alpha_bar: Vec<f64> = alpha_bar.collect();
        if spec.zero_terminal_snr {
            end_in_noise(&mut alpha_bar);
        }
        Diffusion { alpha_bar, prediction: spec.prediction, region: spec.noise_region }
    }

    /// The number of steps T.
    pub fn timesteps(&self) -> usize {
        self.alpha_bar.len()
    }

    /// Where x_t carries noise.
    pub fn region(&self) -> NoiseRegion {
        self.region
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

    /// The noise e that makes x_t out of x_0.
    pub fn noise(&self, x_t: f64, sample: f64, t: usize) -> f64 {
        let (a, s) = self.mix(t);
        (x_t - a * sample) / s
    }

    /// One batch to learn from: steps stratified over the batch, noise from the same stream.
    ///
    /// # Errors
    /// [`ExampleError`] if an example does not fit `size` pixels squared or there is nothing to
    /// learn.
    pub fn lesson(
        &self,
        examples: &[Example],
        size: usize,
        rng: &mut ChaCha12Rng,
    ) -> Result<Lesson, ExampleError> {
        check(examples, size)?;
        let timesteps = stratified(examples.len(), self.timesteps(), rng);
        let mut lesson = Lesson {
            batch: Batch { timesteps, ..Batch::default() },
            target: Vec::with_capacity(examples.len() * size * size),
            weight: self.weight(examples)?,
        };
        for (i, example) in examples.iter().enumerate() {
            let t = lesson.batch.timesteps[i];
            let (a, s) = self.mix(t);
            let noise = noise::normal(rng, size * size);
            let pixels = example.image.iter().zip(&example.mask).zip(&noise);
            let x_t = pixels.map(|((&x, &inside), &e)| {
                let clean = self.region == NoiseRegion::Masked && inside < 0.5;
                if clean { x } else { (a * f64::from(x) + s * f64::from(e)) as f32 }
            });
            lesson.batch.planes.extend(x_t);
            push_context(&mut lesson.batch, &example.image, &example.mask, &example.regions);
            lesson.batch.conditions.extend(example.condition);
            let pixels = example.image.iter().zip(&noise);
            let target = pixels.map(|(&x, &e)| self.target(x.into(), e.into(), t) as f32);
            lesson.target.extend(target);
        }
        Ok(lesson)
    }

    /// How much each pixel counts: the mean over all loss-mask pixels of the batch, plus the mean
    /// over all pixels where noise is everywhere.
    fn weight(&self, examples: &[Example]) -> Result<Vec<f32>, ExampleError> {
        let inside = || examples.iter().flat_map(|example| example.loss_mask.iter().copied());
        let counted: f64 = inside().map(f64::from).sum();
        let everywhere = match self.region {
            NoiseRegion::Masked if counted == 0.0 => return Err(ExampleError::NothingToLearn),
            NoiseRegion::Masked => 0.0,
            NoiseRegion::Full => 1.0 / inside().count() as f64,
        };
        let share = if counted > 0.0 { 1.0 / counted } else { 0.0 };
        Ok(inside().map(|m| (everywhere + share * f64::from(m)) as f32).collect())
    }
}

/// beta_t for every step.
///
/// Cosine: beta_t = min(1 - f((t + 1) / T) / f(t / T), 0.999) with
/// f(u) = cos((u + 0.008) / 1.008 * pi / 2)^2. Linear: from 0.1 / T to 20 / T.
fn betas(schedule: Schedule, timesteps: usize) -> Vec<f64> {
    let total = timesteps as f64;
    let kept = |t: usize| {
        let angle = (t as f64 / total + COSINE_OFFSET) / (1.0 + COSINE_OFFSET) * FRAC_PI_2;
        angle.cos().powi(2)
    };
    let beta = |t: usize| match schedule {
        Schedule::Cosine => (1.0 - kept(t + 1) / kept(t)).min(MAX_BETA),
        // A T under 20 would ask for more than all of the signal.
        Schedule::Linear => {
            let (first, last) = (0.1 / total, 20.0 / total);
            (first + (last - first) * t as f64 / (total - 1.0)).min(MAX_BETA)
        }
    };
    (0..timesteps).map(beta).collect()
}

/// Shifts and stretches sqrt(ab) so that the last is 0 and the first stays (Lin et al. 2024, arXiv
/// 2305.08891, algorithm 1).
fn end_in_noise(alpha_bar: &mut [f64]) {
    let (first, last) = (alpha_bar[0].sqrt(), alpha_bar[alpha_bar.len() - 1].sqrt());
    for value in alpha_bar {
        *value = ((value.sqrt() - last) * first / (first - last)).powi(2);
    }
}

/// One step per example: example i draws from the i-th part of `0..timesteps`, so that every batch
/// sees early and late steps and its gradient varies less.
fn stratified(batch: usize, timesteps: usize, rng: &mut ChaCha12Rng) -> Vec<usize> {
    let part = timesteps as f64 / batch as f64;
    let draw = |i: usize| ((i as f64 + rng.random::<f64>()) * part) as usize;
    (0..batch).map(draw).map(|t| t.min(timesteps - 1)).collect()
}

/// Adds the planes that do not depend on the step: the voided image, the mask, the regions.
pub fn push_context(batch: &mut Batch, image: &[f32], mask: &[f32], regions: &[f32]) {
    let voided = image.iter().zip(mask).map(|(&x, &m)| if m < 0.5 { x } else { VOID });
    batch.planes.extend(voided);
    batch.planes.extend(mask);
    batch.planes.extend(regions);
}

/// Whether every example has planes of the right size and values in range.
fn check(examples: &[Example], size: usize) -> Result<(), ExampleError> {
    if examples.is_empty() {
        return Err(ExampleError::Empty);
    }
    let area = size * size;
    for (index, example) in examples.iter().enumerate() {
        let planes: [(&'static str, &[f32], usize, f32, &'static str); 5] = [
            ("image", &example.image, area, -1.0, "-1 to 1"),
            ("mask", &example.mask, area, 0.0, "0 to 1"),
            ("regions", &example.regions, REGIONS * area, 0.0, "0 to 1"),
            ("loss mask", &example.loss_mask, area, 0.0, "0 to 1"),
            ("condition", &example.condition, example.condition.len(), 0.0, "0 to 1"),
        ];
        for (plane, values, expected, low, range) in planes {
            if values.len() != expected {
                return Err(ExampleError::Size { index, plane, found: values.len(), expected });
            }
            // A NaN is in no range.
            if !values.iter().all(|value| (low..=1.0).contains(value)) {
                return Err(ExampleError::Value { index, plane, range });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::spec::Preset;
    use super::*;

    fn spec(schedule: Schedule, prediction: Prediction, region: NoiseRegion) -> ModelSpec {
        let preset = ModelSpec::preset(Preset::Tiny);
        ModelSpec { schedule, prediction, noise_region: region, ..preset }
    }

    /// A slice of 8 x 8 pixels with a mask in one corner.
    fn example() -> Example {
        let plane = |f: &dyn Fn(usize) -> f32| (0..64).map(f).collect::<Vec<f32>>();
        Example {
            image: plane(&|i| (i as f32 * 0.3).sin()),
            mask: plane(&|i| f32::from(u8::from(i % 8 < 4 && i < 32))),
            regions: vec![0.0; REGIONS * 64],
            loss_mask: plane(&|i| f32::from(u8::from(i % 8 < 2 && i < 32))),
            condition: [1.0, 0.0, 0.0, 0.0, 0.5, 0.0],
        }
    }

    #[test]
    fn the_schedules_have_the_published_values() {
        let golden = [
            (Schedule::Linear, 0, 1e-4, 0.9999),
            (Schedule::Linear, 1, 1.199_199_199_2e-4, 0.999_780_092_07),
            (Schedule::Linear, 250, 5.079_979_98e-3, 0.521_423_030_62),
            (Schedule::Linear, 500, 1.005_995_996e-2, 7.779_665_836_5e-2),
            (Schedule::Linear, 999, 0.02, 4.035_829_765_4e-5),
            (Schedule::Cosine, 0, 4.128_422_482_2e-5, 0.999_958_715_78),
            (Schedule::Cosine, 1, 4.614_175_273_7e-5, 0.999_912_575_93),
            (Schedule::Cosine, 250, 1.327_223_954_2e-3, 0.845_887_986_5),
            (Schedule::Cosine, 500, 3.155_691_441_6e-3, 0.492_285_172_45),
            (Schedule::Cosine, 999, 0.999, 2.428_766_907e-9),
        ];
        for (schedule, t, beta, alpha_bar) in golden {
            let diffusion = Diffusion::new(&spec(schedule, Prediction::V, NoiseRegion::Full));
            let close = |a: f64, b: f64| ((a - b) / b).abs() < 1e-10;
            assert!(close(betas(schedule, 1000)[t], beta), "{schedule:?} {t}");
            assert!(close(diffusion.alpha_bar[t], alpha_bar), "{schedule:?} {t}");
        }
    }

    #[test]
    fn every_prediction_gives_back_the_sample_and_the_noise() {
        for prediction in [Prediction::V, Prediction::Epsilon, Prediction::Sample] {
            let spec = spec(Schedule::Cosine, prediction, NoiseRegion::Full);
            let diffusion = Diffusion::new(&spec);
            for t in [0, 1, 10, 500, 899] {
                let (a, s) = diffusion.mix(t);
                let (x, e) = (0.37, -1.2);
                let x_t = a * x + s * e;
                let sample = diffusion.sample(x_t, diffusion.target(x, e, t), t);
                assert!((sample - x).abs() < 1e-9, "{prediction:?} {t}");
                assert!((diffusion.noise(x_t, sample, t) - e).abs() < 1e-9, "{prediction:?} {t}");
            }
        }
    }

    #[test]
    fn masked_noise_leaves_the_known_region_clean_and_weighs_only_the_loss_mask() {
        let diffusion = Diffusion::new(&spec(Schedule::Cosine, Prediction::V, NoiseRegion::Masked));
        let example = example();
        let mut rng = noise::stream("test", &[]);
        let lesson = diffusion.lesson(&[example.clone(), example.clone()], 8, &mut rng).unwrap();
        assert_eq!(lesson.batch.planes.len(), 2 * 9 * 64);
        for i in 0..64 {
            let (x_t, inside) = (lesson.batch.planes[i], example.mask[i] > 0.5);
            assert_eq!(x_t == example.image[i], !inside, "{i}");
            let voided = lesson.batch.planes[64 + i];
            assert_eq!(voided, if inside { VOID } else { example.image[i] });
            assert_eq!(lesson.weight[i] > 0.0, example.loss_mask[i] > 0.5);
        }
        assert!((lesson.weight.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_network_never_reads_the_truth_under_the_mask() {
        // At the last step x_t is all noise, so that two truths under one mask look the same.
        let spec = ModelSpec {
            timesteps: 2,
            ..spec(Schedule::Cosine, Prediction::V, NoiseRegion::Masked)
        };
        let diffusion = Diffusion::new(&spec);
        let truth = example();
        let mut lie = truth.clone();
        for (x, m) in lie.image.iter_mut().zip(&truth.mask) {
            *x = if *m > 0.5 { -*x } else { *x };
        }
        let context = |example: &Example| {
            let mut rng = noise::stream("test", &[]);
            let lesson = diffusion.lesson(std::slice::from_ref(example), 8, &mut rng).unwrap();
            lesson.batch.planes[64..].to_vec()
        };
        assert_eq!(context(&truth), context(&lie));
    }

    #[test]
    fn steps_are_stratified_over_the_batch() {
        let mut rng = noise::stream("test", &[]);
        for _ in 0..100 {
            for (i, t) in stratified(8, 1000, &mut rng).into_iter().enumerate() {
                assert!((i * 125..(i + 1) * 125).contains(&t), "{i} {t}");
            }
        }
        assert!(stratified(3, 2, &mut rng).iter().all(|&t| t < 2));
    }

    #[test]
    fn examples_that_do_not_fit_are_refused() {
        let diffusion = Diffusion::new(&spec(Schedule::Cosine, Prediction::V, NoiseRegion::Masked));
        let refuse = |examples: &[Example]| {
            diffusion.lesson(examples, 8, &mut noise::stream("test", &[])).unwrap_err()
        };
        assert_eq!(refuse(&[]), ExampleError::Empty);
        let mut short = example();
        short.mask.pop();
        assert!(matches!(refuse(&[example(), short]), ExampleError::Size { index: 1, .. }));
        let mut sick = example();
        sick.image[5] = f32::NAN;
        assert!(matches!(refuse(&[sick]), ExampleError::Value { plane: "image", .. }));
        let mut idle = example();
        idle.loss_mask.fill(0.0);
        assert_eq!(refuse(&[idle]), ExampleError::NothingToLearn);
    }
}
