//! A training from one step to the last: where it goes on, and who keeps what it has come to.
//!
//! What is gone on with leads to the same bytes as what was never interrupted.

use std::borrow::Cow;
use std::ops::ControlFlow;

use burn::tensor::Device;

use super::optimiser::{NotKept, Unfit};
use super::report::{StepReport, TrainingSummary};
use super::snapshot::Snapshot;
use super::{MAX_BATCH, NextBatch, TrainError, Trainer, TrainingOptions, check_weight};
use crate::cpu::profile::{Operation, measure};
use crate::model::device;
use crate::model::diffusion::Diffusion;
use crate::model::ops::Ops;
use crate::model::weights::Weights;

/// Where a training goes on, and who keeps what it has come to.
pub struct Journal<'a> {
    /// Where it goes on; from the start where there is none.
    pub from: Option<Snapshot<Vec<f32>>>,
    /// How many steps lie between two snapshots; 0 for none.
    pub every: usize,
    /// Keeps a snapshot.
    pub keep: Keep<'a>,
}

/// What takes a snapshot, or nobody.
pub type Keep<'a> = Option<&'a mut dyn FnMut(&Snapshot<Cow<'_, [f32]>>)>;

impl Journal<'_> {
    /// From the start, and nobody keeps anything.
    pub fn none() -> Journal<'static> {
        Journal { from: None, every: 0, keep: None }
    }

    /// Has `snapshot` kept after step `done` of `steps`, if it is the time for one and it gives one.
    ///
    /// # Errors
    /// Those of `snapshot`.
    pub fn after<'s, E>(
        &mut self,
        done: usize,
        steps: usize,
        snapshot: impl FnOnce() -> Result<Option<Snapshot<Cow<'s, [f32]>>>, E>,
    ) -> Result<(), E> {
        let due = done.checked_rem(self.every) == Some(0) && done < steps;
        if let Some(keep) = self.keep.as_mut().filter(|_| due)
            && let Some(snapshot) = snapshot()?
        {
            keep(&snapshot);
        }
        Ok(())
    }
}

/// Trains a model from `start` on `device`, from where the journal says it was. `next_batch` is asked
/// for the examples of the steps that are left.
///
/// # Errors
/// As [`super::train`], and [`TrainError::Checkpoint`] before any step where the journal cannot be gone on with.
pub fn train(
    start: &Weights,
    device: &Device,
    options: &TrainingOptions,
    journal: Journal<'_>,
    next_batch: &mut NextBatch<'_>,
    progress: &mut dyn FnMut(StepReport) -> ControlFlow<()>,
) -> Result<(Weights, TrainingSummary), TrainError> {
    let ops = Ops::on(device, options.precision);
    train_by(ops, start, device, options, journal, next_batch, progress)
}

pub(super) fn train_by(
    ops: Ops,
    start: &Weights,
    device: &Device,
    options: &TrainingOptions,
    mut journal: Journal<'_>,
    next_batch: &mut NextBatch<'_>,
    progress: &mut dyn FnMut(StepReport) -> ControlFlow<()>,
) -> Result<(Weights, TrainingSummary), TrainError> {
    options.validate()?;
    options.precision.check(device)?;
    check_weight(options.loss_weight, &Diffusion::new(start.spec()))?;
    let from = journal.from.take();
    let first = from.as_ref().map_or(0, Snapshot::steps);
    let mut trainer = device::guarded(|| Trainer::by(ops, start, device, options))
        .map_err(|error| TrainError::Crash { step: first + 1, error })?;
    if let Some(from) = from {
        // burn may panic over what it does not understand. A device that fails does so from the start too.
        device::guarded(|| trainer.go_on_from(from))
            .map_err(|crash| TrainError::Checkpoint { reason: crash.to_string() })?
            .map_err(|unfit| TrainError::Checkpoint { reason: unfit.to_string() })?;
    }
    for step in first..options.steps {
        let error = |error| TrainError::Examples { step: step + 1, error };
        let batch = measure(Operation::Examples, || next_batch(step)).map_err(error)?;
        if batch.len() > MAX_BATCH {
            let (value, must) = (batch.len().to_string(), format!("at most {MAX_BATCH}"));
            return Err(TrainError::Option { name: "batch", value, must });
        }
        let (loss, gradient_norm) = trainer.guarded_step(step, &batch)?;
        let examples = trainer.count(batch.len(), loss, gradient_norm);
        let (done, steps) = (step + 1, options.steps);
        journal.after(done, steps, || trainer.snapshot())?;
        let report = StepReport { step: done, steps, examples, loss, gradient_norm };
        if progress(report).is_break() && done < steps {
            return Err(TrainError::Stopped { steps: done });
        }
    }
    Ok((trainer.net.weights(start)?, trainer.course.summary()))
}

impl Trainer<'_> {
    /// Stands where another one stood.
    fn go_on_from(&mut self, from: Snapshot<Vec<f32>>) -> Result<(), Unfit> {
        let Snapshot { course, scale, memory } = from;
        self.optimiser.restore(&mut self.net, memory)?;
        (self.course, self.scale) = (course, scale);
        Ok(())
    }

    /// What the next step depends on; none where the optimiser cannot say it, which is no reason to end a
    /// training that goes well.
    fn snapshot(&self) -> Result<Option<Snapshot<Cow<'_, [f32]>>>, TrainError> {
        let step = self.course.losses.len();
        let kept = device::guarded(|| self.optimiser.kept(&self.net))
            .map_err(|error| TrainError::Crash { step, error })?;
        let memory = match kept {
            Ok(memory) => memory,
            Err(NotKept::Device(error)) => return Err(TrainError::Device { step, error }),
            Err(error @ NotKept::Record(_)) => {
                tracing::warn!(step, "no checkpoint is kept, training goes on without: {error}");
                return Ok(None);
            }
        };
        Ok(Some(Snapshot { course: self.course.clone(), scale: self.scale, memory }))
    }

    /// Counts a step in; gives the examples seen so far.
    fn count(&mut self, examples: usize, loss: f64, norm: f64) -> u64 {
        self.course.losses.push(loss);
        self.course.norms.push(norm);
        self.course.examples += examples as u64;
        self.course.examples
    }
}
