//! A training that is made up: for developers who break the machinery round a training, over and over.
//!
//! It opens no scan and knows no network, so that a round takes milliseconds and any safetensors model
//! will do. All else is as in a training: the pipe, the workspace, checkpoints, and bytes that follow
//! from the base model, the run, the round, the site and the steps alone. A table `[rehearsal]` in the
//! agent's configuration begins it: `steps_ms = N` is how long a step takes (0 for no time),
//! `checkpoint_steps = N` goes before that of `[trainer]`, `weights_max = N` has the first N weights alone move.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fedpaint_proto::plan::TrainingPlan;
use fedpaint_proto::weights::{self, BUFFER_BYTES, Dtype, ModelFile};

use crate::local_round::Watch;
use crate::model::precision::Precision;
use crate::pipe::{Failure, Progress};
use crate::settings::RehearsalSettings;
use crate::train::journal::Journal;
use crate::train::optimiser::Memory;
use crate::train::report::{Course, ToldLoss, TrainingSummary};
use crate::train::scaling::LossScale;
use crate::train::snapshot::{Key, Snapshot};

/// What a rehearsal says that it computes on.
pub const MACHINE: &str = "rehearsal";

/// The most that a weight moves in a step.
const MOVE_MAX: f32 = 1e-3;

/// Weights that are moved at a time.
const WEIGHTS: usize = 4096;

/// The number that tells how long a model file's header is.
const PREFIX_BYTES: usize = size_of::<u64>();

/// Why there is no update.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base model is none.
    #[error("the base model: {0}")]
    Base(#[from] weights::Error),
    /// The base model does not read.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The base model.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The caller stopped it.
    #[error("the rehearsal was stopped after {steps} steps")]
    Stopped {
        /// The steps done.
        steps: usize,
    },
}

impl Error {
    /// The error in a form that may leave the site.
    pub fn failure(&self) -> Failure {
        match self {
            Error::Base(_) => Failure::BaseModel,
            Error::Disk { .. } => Failure::Disk,
            Error::Stopped { .. } => Failure::Cancelled,
        }
    }
}

/// What is rehearsed.
#[derive(Clone, Copy, Debug)]
pub struct Rehearsal<'a> {
    /// The base model's file.
    pub base: &'a Path,
    /// Whose rehearsal it is.
    pub key: &'a Key,
    /// How many steps and of how many examples.
    pub plan: &'a TrainingPlan,
    /// How long they take.
    pub settings: &'a RehearsalSettings,
}

impl Rehearsal<'_> {
    /// Moves the weights of the base model, step after step, and gives the update. `wait` waits, and says
    /// whether the rehearsal was stopped meanwhile.
    ///
    /// # Errors
    /// [`Error`].
    pub fn run(
        &self,
        mut journal: Journal<'_>,
        wait: &dyn Fn(Duration) -> bool,
        watch: &mut Watch<'_>,
    ) -> Result<(Moved, TrainingSummary), Error> {
        let mut moved = self.read()?;
        let steps = self.plan.steps as usize;
        let (mut course, mut weights) = match journal.from.take() {
            Some(Snapshot { course, mut memory, .. }) => {
                (course, memory.tensors.pop().unwrap_or_default())
            }
            None => (Course::default(), std::mem::take(&mut moved.weights)),
        };
        let mut mean = ToldLoss::default();
        for step in course.losses.len()..steps {
            let loss = self.step(step, &mut weights);
            course.losses.push(loss);
            course.norms.push(1.0 + loss);
            course.examples += u64::from(self.plan.batch);
            let done = step + 1;
            let kept = || {
                let (course, scale) = (course.clone(), LossScale::new(Precision::F32));
                let tensors = vec![Cow::Borrowed(&weights[..])];
                let memory = Memory { steps: 0, tensors, stock: None };
                Ok::<_, Error>(Some(Snapshot { course, scale, memory }))
            };
            journal.after(done, steps, kept)?;
            let waited = wait(Duration::from_millis(self.settings.steps_ms));
            let told = u32::try_from(done).unwrap_or(u32::MAX);
            let loss = mean.add(loss, self.plan.batch);
            (watch.progress)(Progress { step: told, steps: self.plan.steps, loss });
            if (waited || (watch.is_stopped)()) && done < steps {
                return Err(Error::Stopped { steps: done });
            }
        }
        moved.weights = weights;
        Ok((moved, course.summary()))
    }

    /// The weights that move, and where they lie: after the header they are all that there is.
    fn read(&self) -> Result<Moved, Error> {
        let model = ModelFile::open(self.base)?;
        if let Some(other) = model.tensors().iter().find(|tensor| tensor.dtype != Dtype::F32) {
            let (name, dtype) = (other.name.clone(), other.dtype);
            return Err(weights::Error::Dtype { name, dtype }.into());
        }
        let (header, weights) = self.parts().map_err(|source| self.disk(source))?;
        Ok(Moved { base: self.base.to_owned(), header, weights })
    }

    /// The bytes before the weights, and those that move.
    fn parts(&self) -> io::Result<(Vec<u8>, Vec<f32>)> {
        let mut file = File::open(self.base)?;
        let mut header = vec![0; PREFIX_BYTES];
        file.read_exact(&mut header)?;
        let prefix = header.first_chunk::<PREFIX_BYTES>().copied().unwrap_or_default();
        // It was opened as a model, so its header is not longer than one may be.
        (&mut file).take(u64::from_le_bytes(prefix)).read_to_end(&mut header)?;
        let most = self
            .settings
            .weights_max
            .map_or(u64::MAX, |weights| (weights as u64).saturating_mul(size_of::<f32>() as u64));
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok((header, floats(&bytes)))
    }

    /// Moves the weights by what follows from the key and the step, and gives a made-up loss.
    fn step(&self, step: usize, weights: &mut [f32]) -> f64 {
        let Key { run, number, site, base, .. } = self.key;
        let mut hasher = blake3::Hasher::new_derive_key("fedpaint 2026 rehearsal");
        for name in [run.as_str(), site.as_str()] {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        }
        hasher.update(base.as_bytes()).update(&number.to_le_bytes());
        hasher.update(&(step as u64).to_le_bytes());
        let mut stream = hasher.finalize_xof();
        let mut word = [0; size_of::<u32>()];
        stream.fill(&mut word);
        let mut numbers = [0; WEIGHTS];
        for some in weights.chunks_mut(WEIGHTS) {
            let numbers = &mut numbers[..some.len()];
            stream.fill(numbers);
            for (weight, number) in some.iter_mut().zip(numbers) {
                *weight += (f32::from(*number) / 127.5 - 1.0) * MOVE_MAX;
            }
        }
        f64::from(u32::from_le_bytes(word)) / f64::from(u32::MAX) / (step + 1) as f64
    }

    fn disk(&self, source: io::Error) -> Error {
        Error::Disk { path: self.base.to_owned(), source }
    }
}

/// A base model of which some weights, the first ones, have moved.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    base: PathBuf,
    header: Vec<u8>,
    weights: Vec<f32>,
}

impl Moved {
    /// Writes it as the bytes of a model's file. Weights that do not move are read from the base model's.
    ///
    /// # Errors
    /// If the base model does not read, or `out` takes nothing.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.header)?;
        for weight in &self.weights {
            out.write_all(&weight.to_le_bytes())?;
        }
        let begin = self.header.len() + self.weights.len() * size_of::<f32>();
        let mut rest = File::open(&self.base)?;
        rest.seek(SeekFrom::Start(begin as u64))?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match rest.read(&mut buffer)? {
                0 => return Ok(()),
                read => out.write_all(&buffer[..read])?,
            }
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

#[cfg(test)]
mod tests;
