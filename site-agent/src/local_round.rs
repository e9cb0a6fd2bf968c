//! One round of training at one site: the one function that a federation and a site alone share.
//!
//! Every random draw follows from the plan's seed, the round's number and the site's name. The attempt
//! has no part in it, so that a round that is tried again gives the same bytes.

use std::error::Error as StdError;
use std::ops::ControlFlow;

use burn::tensor::Device;
use fedpaint_proto::names::SiteName;
use fedpaint_proto::plan::{self, MaskAlgorithm, Part, TrainingPlan};

use crate::cohort::{self, Cohort};
use crate::data::example::{Example, REGIONS};
use crate::data::mask::Mode;
use crate::data::pool::{self, BatchKey};
use crate::data::prefetch::{Ahead, ahead};
use crate::data::scan::{MASKS_PER_CASE, SliceOptions};
use crate::model::device::room::{self, TooLarge};
use crate::model::diffusion::weight::LossWeight;
use crate::model::memory::{Estimate, Work};
use crate::model::ops::Ops;
use crate::model::precision::Precision;
use crate::model::spec::ModelSpec;
use crate::model::weights::Weights;
use crate::pipe::{Failure, Progress, Report};
use crate::train::journal::{self, Journal};
use crate::train::report::{StepReport, ToldLoss, TrainingSummary};
use crate::train::snapshot::Snapshot;
use crate::train::{TrainError, TrainingOptions};

/// The most threads that make batches ahead: one feeds thousands of slices a second.
const PREFETCH_THREADS_MAX: usize = 4;

/// The most batches that are made ahead.
const PREFETCH_BATCHES_MAX: usize = 16;

/// What batches made ahead may take of memory.
const PREFETCH_BYTES_MAX: usize = 256 << 20;

/// Which round of which run is trained where.
#[derive(Clone, Copy, Debug)]
pub struct RoundKey<'a> {
    /// What a site does in a round.
    pub plan: &'a TrainingPlan,
    /// The round's number.
    pub number: u32,
    /// The site.
    pub site: &'a SiteName,
    /// Which tensors travel, and so are trained.
    pub part: Part,
}

/// What a round is trained with.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The device.
    pub device: Device,
    /// The most of a GPU's memory that may be taken, in bytes. For the processor the process's own
    /// limit says that.
    pub memory_max: Option<u64>,
}

/// How the caller follows a training and stops it.
pub struct Watch<'a> {
    /// Whether the training is no longer wanted; asked between scans and between steps.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
    /// Hears every step.
    pub progress: &'a mut dyn FnMut(Progress),
}

/// What comes out of a round.
#[derive(Clone, Debug)]
pub struct RoundResult {
    /// The trained model.
    pub weights: Weights,
    /// Training examples seen.
    pub examples: u64,
    /// Aggregates over the steps.
    pub report: Report,
    /// The mean loss in each quarter of the diffusion, least noise first; it stays at the site.
    pub loss_by_noise: [Option<f64>; 4],
}

/// Why a round has no result. Texts may name files of the site.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The scans cannot be used.
    #[error(transparent)]
    Cohort(#[from] cohort::Error),
    /// The model is too large for the device; nothing was allocated for it.
    #[error("training does not fit the device: {0}")]
    Memory(#[from] TooLarge),
    /// The training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl Error {
    /// The error in a form that may leave the site.
    pub fn failure(&self) -> Failure {
        match self {
            Error::Cohort(error) => error.failure(),
            Error::Memory(_) => Failure::Memory,
            Error::Train(error) => match error {
                TrainError::Stopped { .. } => Failure::Cancelled,
                TrainError::NotFinite { .. } | TrainError::Weights(_) => Failure::NotFinite,
                // Another trainer finds the same device, which cannot compute so.
                TrainError::Option { .. } | TrainError::Precision(_) => Failure::Plan,
                TrainError::Device { .. } | TrainError::Crash { .. } => Failure::Device,
                TrainError::Checkpoint { .. } => Failure::Disk,
                TrainError::Examples { error, .. } if error.is::<pool::Error>() => Failure::NoData,
                TrainError::Examples { .. } | TrainError::Example { .. } => Failure::Internal,
            },
        }
    }
}

/// Trains `base` for one round on the cohort's training patients.
///
/// # Errors
/// [`Error`] if the training does not fit the device, the scans or the training fail, the journal cannot be
/// gone on with, or the watch stops it.
pub fn train_round(
    base: &Weights,
    cohort: &Cohort,
    machine: &Machine,
    key: RoundKey<'_>,
    journal: Journal<'_>,
    watch: &mut Watch<'_>,
) -> Result<RoundResult, Error> {
    let RoundKey { plan, number, site, part } = key;
    let seed = site_seed(plan.seed, site);
    let round = u64::from(number);
    let size = base.spec().image_size;
    let mode = match plan.masks {
        MaskAlgorithm::Corrected => Mode::Corrected,
        MaskAlgorithm::Compat => Mode::Compat,
    };
    let augment = plan.augment;
    let slices = SliceOptions { size, masks: MASKS_PER_CASE, seed, round, mode, augment };
    let noise = [seed.to_le_bytes(), round.to_le_bytes()];
    let noise = seed_of("fedpaint 2026 training noise", &noise.each_ref().map(<[u8; 8]>::as_slice));
    let options = options(plan, part, noise);
    let needed = needed(base.spec(), plan.batch as usize, &options, &machine.device);
    room::fits(needed, room::available(&machine.device, machine.memory_max))?;
    let Watch { is_stopped, progress } = watch;
    let is_stopped = *is_stopped;
    let mut told = ToldLoss::default();
    let mut progress = |report: StepReport| {
        let step = u32::try_from(report.step).unwrap_or(u32::MAX);
        let loss = told.add(report.loss, plan.batch);
        progress(Progress { step, steps: plan.steps, loss });
        if is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let (weights, summary) = cohort.with_pool(slices, is_stopped, |pool| {
        let batch = plan.batch as usize;
        let first = journal.from.as_ref().map_or(0, Snapshot::steps);
        let key = |step: usize| BatchKey { seed, round, step: step as u64 };
        let make = |ahead| pool.batch(key(first + ahead), batch);
        ahead(prefetch(batch, size), options.steps.saturating_sub(first), make, |ready| {
            let (next_batch, device) = (&mut |_| next(ready.take()), &machine.device);
            journal::train(base, device, &options, journal, next_batch, &mut progress)
        })
    })??;
    let report = report(&summary);
    let TrainingSummary { examples, loss_by_noise, .. } = summary;
    Ok(RoundResult { weights, examples, report, loss_by_noise })
}

/// What may leave the site of a training.
pub fn report(summary: &TrainingSummary) -> Report {
    Report {
        steps: u32::try_from(summary.steps).unwrap_or(u32::MAX),
        loss_mean: summary.loss_mean,
        loss_first: summary.loss_first_quarter,
        loss_last: summary.loss_last_quarter,
        gradient_norm_p50: summary.gradient_norm_p50,
        gradient_norm_p99: summary.gradient_norm_p99,
    }
}

/// Bytes that steps of `batch` slices take of `device`.
fn needed(spec: &ModelSpec, batch: usize, options: &TrainingOptions, device: &Device) -> u64 {
    let slices = match options.micro_batch {
        0 => batch,
        parts => parts.min(batch),
    };
    let work = Work::Training {
        slices,
        checkpointing: options.gradient_checkpointing,
        anchored: options.proximal_mu > 0.0,
    };
    Estimate::new(spec, work, Ops::on(device, options.precision)).bytes()
}

/// What the plan asks of training; `seed` names the round's noise at this site.
fn options(plan: &TrainingPlan, part: Part, seed: u64) -> TrainingOptions {
    TrainingOptions {
        steps: plan.steps as usize,
        learning_rate: plan.learning_rate,
        warmup_steps: plan.warmup_steps as usize,
        decay_steps: plan.decay_steps as usize,
        weight_decay: plan.weight_decay as f32,
        gradient_norm_max: plan.gradient_norm_max,
        seed,
        loss_weight: match plan.loss_weight {
            plan::LossWeight::Uniform => LossWeight::Uniform,
            plan::LossWeight::MinSnr => LossWeight::MinSnr,
        },
        condition_drop: plan.condition_drop,
        proximal_mu: plan.proximal_mu,
        precision: match plan.precision {
            plan::Precision::F32 => Precision::F32,
            plan::Precision::Bf16 => Precision::Bf16,
            plan::Precision::F16 => Precision::F16,
        },
        gradient_checkpointing: plan.gradient_checkpointing,
        micro_batch: plan.micro_batch as usize,
        part,
    }
}

/// What was made ahead, as training takes it.
fn next(
    made: Option<Result<Vec<Example>, pool::Error>>,
) -> Result<Vec<Example>, Box<dyn StdError + Send + Sync>> {
    Ok(made.ok_or("the thread that makes batches has died")??)
}

/// How far ahead batches are made: as the memory for them allows, on a part of the threads.
pub fn prefetch(batch: usize, size: usize) -> Ahead {
    // Besides the regions: the image, the mask, the loss mask.
    let batch_bytes = batch * size * size * (REGIONS + 3) * size_of::<f32>();
    let queue = (PREFETCH_BYTES_MAX / batch_bytes.max(1)).clamp(1, PREFETCH_BATCHES_MAX);
    let threads = (rayon::current_num_threads() / 4).clamp(1, PREFETCH_THREADS_MAX);
    Ahead { threads, queue }
}

/// The seed of a site in a run: no two sites draw the same numbers.
fn site_seed(seed: u64, site: &SiteName) -> u64 {
    seed_of("fedpaint 2026 site seed", &[&seed.to_le_bytes(), site.as_str().as_bytes()])
}

/// A seed from a domain and parts; the last part alone may have any length.
fn seed_of(domain: &str, parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key(domain);
    for part in parts {
        hasher.update(part);
    }
    let mut seed = [0; size_of::<u64>()];
    hasher.finalize_xof().fill(&mut seed);
    u64::from_le_bytes(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::Crash;
    use crate::model::precision::Unsupported;

    #[test]
    fn a_device_that_fails_may_be_tried_again_and_one_that_cannot_compute_so_may_not() {
        let failure = |error: TrainError| Error::from(error).failure();
        let crash = TrainError::Crash { step: 3, error: Crash("lost".into()) };
        assert_eq!(failure(crash), Failure::Device);
        assert_eq!(failure(Unsupported(Precision::Bf16).into()), Failure::Plan);
    }
}
