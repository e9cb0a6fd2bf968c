//! What is learnt from examples: noisy slices, what the network should say of them, and how much it
//! counts.
//!
//! Every draw comes from the stream that the caller names. Nothing here knows a network.

use rand::RngExt;
use rand_chacha::ChaCha12Rng;

use super::posterior::Bound;
use super::weight::LossWeight;
use super::{Diffusion, VOID, push_context};
use crate::data::example::{Example, REGIONS};
use crate::model::batch::Batch;
use crate::model::noise;
use crate::model::spec::{IN_CHANNELS, NoiseRegion, Prediction};

/// The length of the diffusion at which the two parts of a learnt variance's loss are balanced (Nichol
/// and Dhariwal 2021, arXiv 2102.09672: lambda = 0.001).
const BALANCED_TIMESTEPS: f64 = 1000.0;

/// What a lesson may choose.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LessonOptions {
    /// How much each step's error counts.
    pub loss_weight: LossWeight,
    /// How often a slice is learnt without its condition, from 0 to 1, where the model can.
    pub condition_drop: f64,
}

/// A batch to learn from.
#[derive(Clone, Debug)]
pub struct Lesson {
    /// What the network reads.
    pub batch: Batch,
    /// What it should predict. `[batch, 1, size, size]`
    pub target: Vec<f32>,
    /// How much each pixel's squared error counts; the loss is the weighted sum of the squared
    /// errors. Sums to 1 where only the inside of masks is learnt and every step counts alike.
    /// `[batch, 1, size, size]`
    pub weight: Vec<f32>,
    /// The part of the batch's pixels that each slice has, by how they count, whatever its step.
    /// `[batch]`
    pub shares: Vec<f64>,
    /// What the second channel learns, where the model has one.
    pub variance: Option<VarianceLesson>,
}

/// What a network learns of the variance of its reverse steps.
#[derive(Clone, Debug)]
pub struct VarianceLesson {
    /// What the variance of every slice's step is measured with. `[batch]`
    pub bounds: Vec<Bound>,
    /// x_0, whose grey levels the first step is scored by. `[batch, 1, size, size]`
    pub truth: Vec<f32>,
    /// How much each pixel's bound counts, at every step alike: a step's weight is for the squared
    /// error, as the bound is itself a sum over steps. `[batch, 1, size, size]`
    pub weight: Vec<f32>,
    /// The factor of this part of the loss: the number of trained steps by 1,000, so that it is as
    /// large beside the squared error as in guided-diffusion.
    pub scale: f64,
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

impl Lesson {
    /// The lesson in parts of at most `slices` slices, in order; 0 leaves it whole. Their losses add up
    /// to the lesson's.
    pub fn split(self, slices: usize) -> Vec<Lesson> {
        let count = self.batch.timesteps.len();
        if slices == 0 || slices >= count {
            return vec![self];
        }
        let part = |from: usize| {
            let to = (from + slices).min(count);
            let Batch { planes, timesteps, conditions, unconditional } = &self.batch;
            let batch = Batch {
                planes: rows(planes, count, from, to),
                timesteps: timesteps[from..to].to_vec(),
                conditions: rows(conditions, count, from, to),
                unconditional: rows(unconditional, count, from, to),
            };
            let variance = self.variance.as_ref().map(|variance| VarianceLesson {
                bounds: variance.bounds[from..to].to_vec(),
                truth: rows(&variance.truth, count, from, to),
                weight: rows(&variance.weight, count, from, to),
                scale: variance.scale,
            });
            Lesson {
                batch,
                target: rows(&self.target, count, from, to),
                weight: rows(&self.weight, count, from, to),
                shares: self.shares[from..to].to_vec(),
                variance,
            }
        };
        (0..count).step_by(slices).map(part).collect()
    }
}

/// The values of slices `from` to `to`, of `count` slices that have equally many or none.
fn rows<T: Clone>(values: &[T], count: usize, from: usize, to: usize) -> Vec<T> {
    let each = values.len() / count;
    values[from * each..to * each].to_vec()
}

impl Diffusion {
    /// One batch to learn from: steps stratified over the batch, then noise, then which slices lose
    /// their condition, all from one stream. Which slices do changes no other draw.
    ///
    /// # Errors
    /// [`ExampleError`] if an example does not fit `size` pixels squared or there is nothing to
    /// learn.
    pub fn lesson(
        &self,
        examples: &[Example],
        size: usize,
        options: &LessonOptions,
        rng: &mut ChaCha12Rng,
    ) -> Result<Lesson, ExampleError> {
        check(examples, size)?;
        let area = size * size;
        let mut weight = self.weight(examples)?;
        let share = |pixels: &[f32]| pixels.iter().copied().map(f64::from).sum();
        let shares = weight.chunks(area).map(share).collect();
        let timesteps = self.draw_timesteps(examples.len(), rng);
        let variance = self.variance(&timesteps, examples, &weight);
        for (weight, &t) in weight.chunks_mut(area).zip(&timesteps) {
            let factor = options.loss_weight.factor(self.prediction, self.alpha_bar[t]);
            weight.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * factor) as f32);
        }
        let mut batch = Batch { timesteps, ..Batch::default() };
        let mut target = Vec::with_capacity(examples.len() * area);
        for (i, example) in examples.iter().enumerate() {
            let t = batch.timesteps[i];
            if self.prediction == Prediction::Direct {
                let pixels = example.image.iter().zip(&example.mask);
                batch.planes.extend(pixels.map(|(&x, &m)| if m < 0.5 { x } else { VOID }));
                target.extend(&example.image);
            } else {
                let noise = noise::normal(rng, area);
                batch.planes.extend(self.noisy(example, &noise, t));
                let pixels = example.image.iter().zip(&noise);
                target.extend(pixels.map(|(&x, &e)| self.target(x.into(), e.into(), t) as f32));
            }
            push_context(&mut batch, &example.image, &example.mask, &example.regions);
            batch.conditions.extend(example.condition);
        }
        if self.null_condition && options.condition_drop > 0.0 {
            drop_conditions(&mut batch, options.condition_drop, rng);
        }
        Ok(Lesson { batch, target, weight, shares, variance })
    }

    /// x_t of an example. `[size, size]`
    fn noisy(&self, example: &Example, noise: &[f32], t: usize) -> Vec<f32> {
        let (a, s) = self.mix(t);
        let pixels = example.image.iter().zip(&example.mask).zip(noise);
        let x_t = pixels.map(|((&x, &inside), &e)| {
            let clean = self.region == NoiseRegion::Masked && inside < 0.5;
            if clean { x } else { (a * f64::from(x) + s * f64::from(e)) as f32 }
        });
        x_t.collect()
    }

    /// One step per example, of those that are trained; step 0 where there is no noise.
    fn draw_timesteps(&self, batch: usize, rng: &mut ChaCha12Rng) -> Vec<usize> {
        if self.prediction == Prediction::Direct {
            return vec![0; batch];
        }
        let places = stratified(batch, self.trained.len(), rng);
        places.into_iter().map(|place| self.trained[place]).collect()
    }

    /// What the variance head learns, if there is one, where pixels count as in `weight`.
    fn variance(
        &self,
        timesteps: &[usize],
        examples: &[Example],
        weight: &[f32],
    ) -> Option<VarianceLesson> {
        let learns = self.learn_sigma && self.prediction != Prediction::Direct;
        learns.then(|| VarianceLesson {
            bounds: timesteps.iter().map(|&t| self.bound(t)).collect(),
            truth: examples.iter().flat_map(|example| example.image.iter().copied()).collect(),
            weight: weight.to_vec(),
            scale: self.trained.len() as f64 / BALANCED_TIMESTEPS,
        })
    }

    /// How much each pixel counts: the mean over all loss-mask pixels of the batch, plus, where noise is
    /// everywhere, the mean over those and all that is seen. What is painted without a truth counts in
    /// neither: what is there is not what is asked for.
    fn weight(&self, examples: &[Example]) -> Result<Vec<f32>, ExampleError> {
        // Of every pixel how much it counts inside, and whether it is seen or its truth known.
        let pixels = || {
            examples.iter().flat_map(|example| {
                let both = example.mask.iter().zip(&example.loss_mask);
                both.map(|(&mask, &counts)| (counts, mask < 0.5 || counts > 0.0))
            })
        };
        let inside: f64 = pixels().map(|(counts, _)| f64::from(counts)).sum();
        let everywhere = match self.region {
            NoiseRegion::Masked => 0,
            NoiseRegion::Full => pixels().filter(|&(_, has_truth)| has_truth).count(),
        };
        if inside == 0.0 && everywhere == 0 {
            return Err(ExampleError::NothingToLearn);
        }
        let part = |count: f64| if count > 0.0 { 1.0 / count } else { 0.0 };
        let (inside, everywhere) = (part(inside), part(everywhere as f64));
        let weight = |(counts, has_truth): (f32, bool)| {
            let everywhere = if has_truth { everywhere } else { 0.0 };
            (everywhere + inside * f64::from(counts)) as f32
        };
        Ok(pixels().map(weight).collect())
    }
}

/// One place per example: example i draws from the i-th part of `0..places`, so that every batch
/// sees early and late steps and its gradient varies less.
fn stratified(batch: usize, places: usize, rng: &mut ChaCha12Rng) -> Vec<usize> {
    let part = places as f64 / batch as f64;
    let draw = |i: usize| ((i as f64 + rng.random::<f64>()) * part) as usize;
    (0..batch).map(draw).map(|place| place.min(places - 1)).collect()
}

/// Takes the condition and the regions from slices drawn at random, so that the network also learns what
/// it would paint untold, which guidance needs (Ho and Salimans 2022, arXiv 2207.12598).
fn drop_conditions(batch: &mut Batch, probability: f64, rng: &mut ChaCha12Rng) {
    let count = batch.timesteps.len();
    batch.unconditional = (0..count).map(|_| rng.random::<f64>() < probability).collect();
    let slice = batch.planes.len() / count.max(1);
    // The regions are the last planes of a slice.
    let area = slice / IN_CHANNELS;
    for (planes, &dropped) in batch.planes.chunks_mut(slice).zip(&batch.unconditional) {
        if dropped {
            planes[slice - REGIONS * area..].fill(0.0);
        }
    }
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
mod tests;
