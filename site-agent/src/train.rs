//! Training: weights, examples and a seed go in, weights and a summary come out.
//!
//! The same weights, examples, options and seed give the same bytes. Nothing here opens a scan,
//! reads a clock, or lets a number that is not finite out; where a step's time goes is counted by
//! [`crate::cpu::profile`], for whoever has given it a clock.

pub mod gradients;
pub mod journal;
pub mod optimiser;
pub mod report;
pub mod scaling;
pub mod snapshot;

use std::error::Error;
use std::ops::ControlFlow;

use burn::optim::GradientsParams;
use burn::tensor::{Device, ExecutionError, Tensor};
use fedpaint_proto::plan::Part;
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};

use self::gradients::Anchor;
use self::journal::Journal;
use self::optimiser::{Optimiser, StepSize};
use self::report::{Course, StepReport, TrainingSummary};
use self::scaling::LossScale;
use crate::cpu::profile::{Operation, measure};
use crate::data::example::Example;
use crate::model::device::{self, Crash};
use crate::model::diffusion::Diffusion;
use crate::model::diffusion::lesson::{ExampleError, Lesson, LessonOptions};
use crate::model::diffusion::weight::{LossWeight, WEIGHT_MIN};
use crate::model::loss::{self, Score};
use crate::model::noise;
use crate::model::ops::Ops;
use crate::model::precision::{Precision, Unsupported};
use crate::model::spec::ModelSpec;
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
    /// How much each diffusion step's error counts.
    pub loss_weight: LossWeight,
    /// How often a slice is learnt without its condition, where the model can be.
    pub condition_drop: f64,
    /// FedProx's mu: how strongly weights are pulled back to where they began. It shows in the
    /// gradient's norm and not in the loss.
    pub proximal_mu: f64,
    /// What convolutions and large products compute in.
    pub precision: Precision,
    /// Whether cheap operations are done again on the way back rather than their results kept: burn
    /// then keeps what convolutions and matrix products gave, and little else. Our own operations keep
    /// what they read in either case.
    pub gradient_checkpointing: bool,
    /// The most slices that go through the network at once, 0 for a step's whole batch. The gradient
    /// is the same up to rounding: the sum over the parts, first to last.
    pub micro_batch: usize,
    /// Which tensors are trained; the others stay what they are.
    pub part: Part,
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
            loss_weight: LossWeight::Uniform,
            condition_drop: 0.1,
            proximal_mu: 0.0,
            precision: Precision::F32,
            gradient_checkpointing: false,
            micro_batch: 0,
            part: Part::All,
        }
    }
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
    /// The device has no such number type.
    #[error(transparent)]
    Precision(#[from] Unsupported),
    /// The device or its library gave up in the middle of a step.
    #[error("the device failed at step {step}: {error}")]
    Crash {
        /// The step, from 1.
        step: usize,
        /// Its last words.
        error: Crash,
    },
    /// What was kept of it cannot be gone on with. No step was done; from the start it may go well.
    #[error("the training cannot go on from its checkpoint: {reason}")]
    Checkpoint {
        /// What is wrong with it.
        reason: String,
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
    let ops = Ops::on(device, options.precision);
    train_by(ops, start, device, options, next_batch, progress)
}

/// [`train`] by operations of the caller's choice, which must suit the device and the precision: ours are
/// held against burn's so.
///
/// # Errors
/// As [`train`].
pub fn train_by(
    ops: Ops,
    start: &Weights,
    device: &Device,
    options: &TrainingOptions,
    next_batch: &mut NextBatch<'_>,
    progress: &mut dyn FnMut(StepReport) -> ControlFlow<()>,
) -> Result<(Weights, TrainingSummary), TrainError> {
    journal::train_by(ops, start, device, options, Journal::none(), next_batch, progress)
}

/// What step `step`, from 0, of such a training learns from its examples: a function of the seed, the
/// step and the examples alone.
///
/// # Errors
/// [`ExampleError`] if the examples do not fit `size` pixels squared.
pub fn lesson(
    diffusion: &Diffusion,
    size: usize,
    options: &TrainingOptions,
    step: usize,
    examples: &[Example],
) -> Result<Lesson, ExampleError> {
    let mut rng = step_stream(options.seed, step);
    diffusion.lesson(examples, size, &options.lesson(), &mut rng)
}

/// Whether the error of at least one trained step counts.
fn check_weight(loss_weight: LossWeight, diffusion: &Diffusion) -> Result<(), TrainError> {
    let (most, trained) = (diffusion.weight_max(loss_weight), diffusion.trained().len());
    if most >= WEIGHT_MIN {
        return Ok(());
    }
    let must = format!(
        "uniform for a model with trained_timesteps {trained}: no error would count more than \
         {most:.0e} of itself, and next to nothing would be learnt"
    );
    Err(TrainError::Option { name: "loss_weight", value: "min_snr".into(), must })
}

/// A network with its optimiser.
struct Trainer<'a> {
    spec: &'a ModelSpec,
    options: &'a TrainingOptions,
    device: Device,
    diffusion: Diffusion,
    net: Unet,
    optimiser: Optimiser,
    /// Where it began, if it is pulled back there.
    anchor: Option<Anchor>,
    course: Course,
    scale: LossScale,
}

impl<'a> Trainer<'a> {
    #[cfg(test)]
    fn new(start: &'a Weights, device: &Device, options: &'a TrainingOptions) -> Trainer<'a> {
        Trainer::by(Ops::on(device, options.precision), start, device, options)
    }

    fn by(
        ops: Ops,
        start: &'a Weights,
        device: &Device,
        options: &'a TrainingOptions,
    ) -> Trainer<'a> {
        let device = device.clone().autodiff();
        let device = match options.gradient_checkpointing {
            true => device.gradient_checkpointing(),
            false => device,
        };
        let net = Unet::working_by(ops, start, &device).trainable(options.part);
        Trainer {
            spec: start.spec(),
            options,
            diffusion: Diffusion::new(start.spec()),
            anchor: (options.proximal_mu > 0.0).then(|| Anchor::new(&net)),
            optimiser: Optimiser::new(ops, &net),
            net,
            device,
            course: Course::default(),
            scale: LossScale::new(options.precision),
        }
    }

    /// [`Self::step`] with its panics as errors: that is how a device fails in the middle of one. The
    /// trainer is of no use afterwards.
    fn guarded_step(
        &mut self,
        step: usize,
        examples: &[Example],
    ) -> Result<(f64, f64), TrainError> {
        device::guarded(|| self.step(step, examples))
            .map_err(|error| TrainError::Crash { step: step + 1, error })?
    }

    /// One optimiser step. Gives the loss and the norm of the gradient before it was scaled.
    fn step(&mut self, step: usize, examples: &[Example]) -> Result<(f64, f64), TrainError> {
        let number = step + 1;
        let lesson = measure(Operation::Lesson, || {
            lesson(&self.diffusion, self.spec.image_size, self.options, step, examples)
        });
        let lesson = lesson.map_err(|error| TrainError::Example { step: number, error })?;
        let slices: Vec<(usize, f64)> =
            lesson.batch.timesteps.iter().copied().zip(lesson.shares.iter().copied()).collect();
        let parts = lesson.split(self.options.micro_batch);
        let (losses, params) = self.gradient(number, &parts)?;
        let value = finite(number, "loss", losses.iter().sum())?;
        for (&(t, share), &loss) in slices.iter().zip(&losses) {
            self.course.quarters.add(t, self.diffusion.timesteps(), loss, share);
        }
        let size = StepSize {
            rate: self.options.rate(step),
            weight_decay: self.options.weight_decay.into(),
            norm_max: self.options.gradient_norm_max,
        };
        let norm = measure(Operation::Optimiser, || {
            self.optimiser.step(&mut self.net, params, size, &self.device)
        });
        let norm = norm.map_err(|error| TrainError::Device { step: number, error })?;
        Ok((value, finite(number, "gradient norm", norm)?))
    }

    /// What the parts of one step's batch come to together. A gradient that overflows under a loss
    /// scale is taken again with a smaller one.
    fn gradient(
        &mut self,
        step: usize,
        parts: &[Lesson],
    ) -> Result<(Vec<f64>, GradientsParams), TrainError> {
        loop {
            let (mut losses, mut params) = (Vec::new(), GradientsParams::new());
            for part in parts {
                let (some, mut gradients) = self.differentiate(part.clone());
                losses.extend(numbers(step, some)?);
                gradients::add(&self.net, &mut gradients, &mut params);
            }
            let finite_losses = losses.iter().all(|loss| loss.is_finite());
            if let Some(halved) = self.scale.halved().filter(|_| finite_losses) {
                let norm = gradients::norm(&self.net, &params, &self.device)
                    .map_err(|error| TrainError::Device { step, error })?;
                if !norm.is_finite() {
                    self.scale = halved;
                    continue;
                }
            }
            if self.scale.factor() != 1.0 {
                gradients::scale(&self.net, &mut params, 1.0 / self.scale.factor());
            }
            if let Some(anchor) = &self.anchor {
                anchor.pull(&self.net, &mut params, self.options.proximal_mu);
            }
            self.scale = self.scale.held();
            return Ok((losses, params));
        }
    }

    /// The loss of every slice, on the plain device, and the gradients of all parameters with respect
    /// to their sum times the loss scale. `[batch, 1]`
    fn differentiate(&self, lesson: Lesson) -> (Tensor<2>, GradientsParams) {
        let Lesson { batch, target, weight, variance, .. } = lesson;
        let losses = measure(Operation::Forward, || {
            let predicted = self.net.predict(batch, self.spec, &self.device);
            loss::losses(predicted, Score { target, weight, variance }, &self.device)
        });
        let total = losses.clone().sum_dim(0) * self.scale.factor();
        let gradients = measure(Operation::Backward, || total.backward());
        let params = GradientsParams::from_grads(gradients, &self.net);
        (losses.inner(), params)
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
        check(norm, "gradient_norm_max", self.gradient_norm_max.to_string(), "above 0 and finite")?;
        let drop = (0.0..=1.0).contains(&self.condition_drop);
        check(drop, "condition_drop", self.condition_drop.to_string(), "0 to 1")?;
        let mu = self.proximal_mu >= 0.0 && self.proximal_mu.is_finite();
        check(mu, "proximal_mu", self.proximal_mu.to_string(), "at least 0 and finite")?;
        let micro = self.micro_batch <= MAX_BATCH;
        check(micro, "micro_batch", self.micro_batch.to_string(), "at most 1024, 0 for all")
    }

    /// What lessons are made with.
    fn lesson(&self) -> LessonOptions {
        LessonOptions { loss_weight: self.loss_weight, condition_drop: self.condition_drop }
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

/// The values of a tensor; what cannot be read as numbers is not finite.
fn numbers(step: usize, tensor: Tensor<2>) -> Result<Vec<f64>, TrainError> {
    let data = tensor.try_into_data().map_err(|error| TrainError::Device { step, error })?;
    Ok(data.convert::<f64>().try_into_vec::<f64>().unwrap_or_else(|_| vec![f64::NAN]))
}

/// `value` if it is finite.
fn finite(step: usize, quantity: &'static str, value: f64) -> Result<f64, TrainError> {
    if value.is_finite() { Ok(value) } else { Err(TrainError::NotFinite { step, quantity, value }) }
}

#[cfg(test)]
mod compute_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod tests;
