//! Training: weights, examples and a seed go in, weights and a summary come out.
//!
//! The same weights, examples, options and seed give the same bytes. Nothing here opens a scan,
//! reads a clock, or lets a number that is not finite out.

use std::error::Error;
use std::ops::ControlFlow;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, ExecutionError, Tensor, TensorData};
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};

use crate::data::example::Example;
use crate::model::diffusion::{Diffusion, ExampleError, Lesson};
use crate::model::noise;
use crate::model::spec::ModelSpec;
use crate::model::tape::Tape;
use crate::model::unet::Unet;
use crate::model::weights::{Weights, WeightsError};

/// The most steps of one training.
pub const MAX_STEPS: usize = 10_000_000;
/// The most examples of one step.
pub const MAX_BATCH: usize = 1024;

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingOptions {
    /// Optimiser steps.
    pub steps: usize,
    /// The learning rate after the warm-up.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises from 0 to `learning_rate`; 0 for none.
    pub warmup_steps: usize,
    /// Last steps over which the learning rate falls to 0; 0 for none. Without it the weights end
    /// wherever the last few batches have pushed them.
    pub decay_steps: usize,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm over all parameters together.
    pub gradient_norm_max: f64,
    /// Names the noise and the diffusion steps that are drawn.
    pub seed: u64,
}

impl Default for TrainingOptions {
    fn default() -> TrainingOptions {
        TrainingOptions {
            steps: 200,
            learning_rate: 1e-3,
            warmup_steps: 0,
            decay_steps: 0,
            weight_decay: 0.0,
            gradient_norm_max: 1.0,
            seed: 0,
        }
    }
}

/// One step, as it is told to whoever watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Steps done, from 1.
    pub step: usize,
    /// Steps to do.
    pub steps: usize,
    /// Examples seen so far.
    pub examples: u64,
    /// The loss of this step.
    pub loss: f64,
    /// The norm of the gradient before it was scaled.
    pub gradient_norm: f64,
}

/// A whole training in a few numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingSummary {
    /// Steps done.
    pub steps: usize,
    /// Examples seen, with repetition: the weight of this update in an average.
    pub examples: u64,
    /// The mean loss of all steps.
    pub loss_mean: f64,
    /// The mean loss of the first quarter of the steps.
    pub loss_first_quarter: f64,
    /// The mean loss of the last quarter of the steps.
    pub loss_last_quarter: f64,
    /// The median norm of the gradient before it was scaled.
    pub gradient_norm_p50: f64,
    /// The norm that 99 of 100 gradients stay below.
    pub gradient_norm_p99: f64,
}

/// Why there are no new weights.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// An option is out of range.
    #[error("training option {name} is {value}, it must be {must}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value as text.
        value: String,
        /// What it must be.
        must: String,
    },
    /// The examples of a step could not be had.
    #[error("no examples for step {step}: {error}")]
    Examples {
        /// The step, from 1.
        step: usize,
        /// Why.
        error: Box<dyn Error + Send + Sync>,
    },
    /// The examples of a step do not fit the model.
    #[error("bad examples for step {step}: {error}")]
    Example {
        /// The step, from 1.
        step: usize,
        /// What is wrong with them.
        error: ExampleError,
    },
    /// The loss or the gradient is NaN or infinite.
    #[error("the {quantity} of step {step} is {value}, lower the learning rate or check the data")]
    NotFinite {
        /// The step, from 1.
        step: usize,
        /// `loss` or `gradient norm`.
        quantity: &'static str,
        /// Its value.
        value: f64,
    },
    /// The last step made a weight NaN or infinite.
    #[error("training made an unusable model: {0}")]
    Weights(#[from] WeightsError),
    /// The device failed.
    #[error("the device failed at step {step}: {error}")]
    Device {
        /// The step, from 1.
        step: usize,
        /// What it said.
        error: ExecutionError,
    },
    /// The caller stopped it.
    #[error("training was stopped after {steps} steps")]
    Stopped {
        /// The steps done.
        steps: usize,
    },
}

/// What gives the examples of step `step`, from 0.
pub type NextBatch<'a> =
    dyn FnMut(usize) -> Result<Vec<Example>, Box<dyn Error + Send + Sync>> + 'a;

/// Trains a model from `start` on `device`.
///
/// `progress` hears every step and may stop the training after it.
///
/// # Errors
/// [`TrainError`] names the step; nothing of a failed training comes out.
pub fn train(
    start: &Weights,
    device: &Device,
    options: &TrainingOptions,
    next_batch: &mut NextBatch<'_>,
    progress: &mut dyn FnMut(StepReport) -> ControlFlow<()>,
) -> Result<(Weights, TrainingSummary), TrainError> {
    options.validate()?;
    let mut trainer = Trainer::new(start, device, options);
    let mut reports = Vec::with_capacity(options.steps.min(1 << 16));
    let mut examples = 0;
    for step in 0..options.steps {
        let error = |error| TrainError::Examples { step: step + 1, error };
        let batch = next_batch(step).map_err(error)?;
        if batch.len() > MAX_BATCH {
            let (value, must) = (batch.len().to_string(), format!("at most {MAX_BATCH}"));
            return Err(TrainError::Option { name: "batch", value, must });
        }
        let (loss, gradient_norm) = trainer.step(step, &batch)?;
        examples += batch.len() as u64;
        let report =
            StepReport { step: step + 1, steps: options.steps, examples, loss, gradient_norm };
        reports.push(report);
        if progress(report).is_break() && step + 1 < options.steps {
            return Err(TrainError::Stopped { steps: step + 1 });
        }
    }
    Ok((trainer.net.weights(start)?, summary(&reports)))
}

/// A network with its optimiser.
struct Trainer<'a> {
    spec: &'a ModelSpec,
    options: &'a TrainingOptions,
    device: Device,
    diffusion: Diffusion,
    net: Unet,
    optimiser: ModuleOptimizer,
}

impl<'a> Trainer<'a> {
    fn new(start: &'a Weights, device: &Device, options: &'a TrainingOptions) -> Trainer<'a> {
        let device = device.clone().autodiff();
        // AdamW of Loshchilov and Hutter 2019 (arXiv 1711.05101). burn's own clipping works on one
        // parameter at a time, so clipping is ours.
        let optimiser = AdamWConfig::new()
            .with_beta_1(0.9)
            .with_beta_2(0.999)
            .with_epsilon(1e-8)
            .with_weight_decay(options.weight_decay)
            .init();
        Trainer {
            spec: start.spec(),
            options,
            diffusion: Diffusion::new(start.spec()),
            net: Unet::new(start, &device),
            device,
            optimiser,
        }
    }

    /// One optimiser step. Gives the loss and the norm of the gradient before it was scaled.
    fn step(&mut self, step: usize, examples: &[Example]) -> Result<(f64, f64), TrainError> {
        let number = step + 1;
        let mut rng = step_stream(self.options.seed, step);
        let lesson = self
            .diffusion
            .lesson(examples, self.spec.image_size, &mut rng)
            .map_err(|error| TrainError::Example { step: number, error })?;
        let (loss, mut gradients) = self
            .differentiate(lesson, Tape::for_training(&self.device))
            .map_err(|error| TrainError::Device { step: number, error })?;
        let value = finite(number, "loss", scalar(number, loss)?)?;
        let squares = square_norm(&self.net, &gradients, &self.device);
        let norm = finite(number, "gradient norm", scalar(number, squares)?.sqrt())?;
        if norm > self.options.gradient_norm_max {
            let factor = self.options.gradient_norm_max / norm;
            self.net.visit(&mut Scale { gradients: &mut gradients, factor });
        }
        let rate = self.options.rate(step);
        self.net = self.optimiser.step(rate, self.net.clone(), gradients);
        Ok((value, norm))
    }

    /// The loss, on the plain device, and the gradients of all parameters. `[1, 1]`
    fn differentiate(
        &self,
        lesson: Lesson,
        mut tape: Tape,
    ) -> Result<(Tensor<2>, GradientsParams), ExecutionError> {
        let loss = self.loss(lesson, &mut tape);
        let gradients = loss.backward();
        let mut convolutions = GradientsParams::new();
        tape.finish(&gradients, &mut convolutions)?;
        let mut params = GradientsParams::from_grads(gradients, &self.net);
        self.net.visit(&mut Move { from: &mut convolutions, to: &mut params });
        Ok((loss.inner(), params))
    }

    /// The weighted sum of squared errors. `[1, 1]`
    fn loss(&self, lesson: Lesson, tape: &mut Tape) -> Tensor<2> {
        let shape = [1, lesson.target.len()];
        let target = Tensor::<2>::from_data(TensorData::new(lesson.target, shape), &self.device);
        let weight = Tensor::<2>::from_data(TensorData::new(lesson.weight, shape), &self.device);
        let predicted = self.net.predict(lesson.batch, self.spec, &self.device, tape);
        // The first channel is the prediction; a learnt variance has no part in this loss.
        let predicted = predicted.narrow(1, 0, 1).reshape(shape);
        let error = predicted - target;
        // Summed over one dimension, because a sum over all may split its work as threads are free.
        (error.clone() * error * weight).sum_dim(1)
    }
}

impl TrainingOptions {
    /// Whether a training can follow these options.
    ///
    /// # Errors
    /// [`TrainError::Option`] names the first that is out of range.
    pub fn validate(&self) -> Result<(), TrainError> {
        let check = |good: bool, name, value: String, must: &str| {
            if good { Ok(()) } else { Err(TrainError::Option { name, value, must: must.into() }) }
        };
        let steps = (1..=MAX_STEPS).contains(&self.steps);
        check(steps, "steps", self.steps.to_string(), "1 to 10000000")?;
        let rate = self.learning_rate > 0.0 && self.learning_rate <= 1.0;
        check(rate, "learning_rate", self.learning_rate.to_string(), "above 0 and at most 1")?;
        let warmup = self.warmup_steps <= MAX_STEPS;
        check(warmup, "warmup_steps", self.warmup_steps.to_string(), "at most 10000000")?;
        let falling = self.decay_steps <= MAX_STEPS;
        check(falling, "decay_steps", self.decay_steps.to_string(), "at most 10000000")?;
        let decay = (0.0..=1.0).contains(&self.weight_decay);
        check(decay, "weight_decay", self.weight_decay.to_string(), "0 to 1")?;
        let norm = self.gradient_norm_max > 0.0 && self.gradient_norm_max.is_finite();
        check(norm, "gradient_norm_max", self.gradient_norm_max.to_string(), "above 0 and finite")
    }

    /// The learning rate of step `step`, from 0: a linear rise, constant, a linear fall.
    fn rate(&self, step: usize) -> f64 {
        let risen = (step + 1) as f64 / self.warmup_steps.max(1) as f64;
        let left = self.steps.saturating_sub(step) as f64 / self.decay_steps.max(1) as f64;
        self.learning_rate * risen.min(left).min(1.0)
    }
}

/// The random numbers of one step: a stream of its own, so that no step depends on how many
/// numbers another drew.
fn step_stream(seed: u64, step: usize) -> ChaCha12Rng {
    let words = [seed, step as u64].map(u64::to_le_bytes);
    noise::stream("fedpaint training step v1", &words.each_ref().map(<[u8; 8]>::as_slice))
}

/// The sum of the squares of all gradients. `[1, 1]` on the plain device.
fn square_norm(net: &Unet, gradients: &GradientsParams, device: &Device) -> Tensor<2> {
    let total = Tensor::zeros([1, 1], &device.clone().inner());
    let mut squares = Squares { gradients, total };
    net.visit(&mut squares);
    squares.total
}

/// Adds up the squares of the gradients.
struct Squares<'a> {
    gradients: &'a GradientsParams,
    total: Tensor<2>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let count = gradient.shape().num_elements();
            let flat: Tensor<2> = gradient.reshape([1, count]);
            self.total = self.total.clone() + (flat.clone() * flat).sum_dim(1);
        }
    }
}

/// Multiplies every gradient by one factor.
struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient * self.factor);
        }
    }
}

/// Moves the gradients that `from` has to `to`.
struct Move<'a> {
    from: &'a mut GradientsParams,
    to: &'a mut GradientsParams,
}

impl ModuleVisitor for Move<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.from.remove::<D>(param.id) {
            self.to.register(param.id, gradient);
        }
    }
}

/// The one value of a tensor; a value that cannot be read as a number is not finite.
fn scalar(step: usize, tensor: Tensor<2>) -> Result<f64, TrainError> {
    let data = tensor.try_into_data().map_err(|error| TrainError::Device { step, error })?;
    let value = data.convert::<f64>().try_into_vec::<f64>().ok();
    Ok(value.and_then(|values| values.first().copied()).unwrap_or(f64::NAN))
}

/// `value` if it is finite.
fn finite(step: usize, quantity: &'static str, value: f64) -> Result<f64, TrainError> {
    if value.is_finite() { Ok(value) } else { Err(TrainError::NotFinite { step, quantity, value }) }
}

/// What the steps come to; there is at least one.
fn summary(reports: &[StepReport]) -> TrainingSummary {
    let mean = |part: &[StepReport]| {
        part.iter().map(|report| report.loss).sum::<f64>() / part.len().max(1) as f64
    };
    let quarter = reports.len().div_ceil(4);
    let mut norms: Vec<f64> = reports.iter().map(|report| report.gradient_norm).collect();
    norms.sort_by(f64::total_cmp);
    let rank = |percent: usize| {
        let rank = (norms.len() * percent).div_ceil(100).max(1);
        norms.get(rank - 1).copied().unwrap_or_default()
    };
    TrainingSummary {
        steps: reports.len(),
        examples: reports.last().map_or(0, |report| report.examples),
        loss_mean: mean(reports),
        loss_first_quarter: mean(&reports[..quarter]),
        loss_last_quarter: mean(&reports[reports.len() - quarter..]),
        gradient_norm_p50: rank(50),
        gradient_norm_p99: rank(99),
    }
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
