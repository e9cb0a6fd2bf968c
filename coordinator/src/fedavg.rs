//! Federated averaging over files: the mean of the sites' weights, weighted by examples seen
//! (McMahan et al. 2017, algorithm 1: `w <- sum_k (n_k / n) w_k`), the server's optimiser step along
//! it, and the moving average of what comes out.
//!
//! An update that is folded in late is moved from the model it was trained from to the round's base
//! model, w_late + base_now - base_then, and weighs the less the later it is.
//!
//! What is made is a function of the files and the plan alone, so it can be made again after a crash.
//! One tensor of one site is in memory at a time, beside that tensor's sums. The sums are in f64 and
//! run over the sites in the order of their names, late updates last, so the result is the same to the byte whatever
//! the order in which the updates came. It blocks on the disk and draws no conclusion from a weight.

mod mean;
mod optimizer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fedpaint_proto::names::{Blob, SiteName};
use fedpaint_proto::plan::{AggregationPlan, ServerOptimizer};
use fedpaint_proto::weights::{self, ModelFile, ModelWriter};

use self::mean::{Sites, Tensors};
use self::optimizer::{Moments, Stepped};
use crate::aggregate::Aggregate;

/// The description of a file that holds an optimiser's moments, so that none is taken for a model.
const MOMENTS_KEY: &str = "fedpaint.server_state";

/// A site's part of an average.
#[derive(Clone, Debug)]
pub struct Contribution {
    /// Whose it is.
    pub site: SiteName,
    /// The trained model.
    pub weights: PathBuf,
    /// Training examples seen: its weight.
    pub examples: u64,
    /// Where it was trained from, if that is not the round's base model.
    pub stale: Option<Stale>,
}

/// Where an update comes from that is folded in rounds late.
#[derive(Clone, Debug)]
pub struct Stale {
    /// The model it was trained from.
    pub base: PathBuf,
    /// How many rounds late it is.
    pub rounds: u32,
}

/// All that a round's models follow from.
#[derive(Clone, Debug)]
pub struct Job {
    /// What to make.
    pub plan: AggregationPlan,
    /// How many rounds the run has committed before.
    pub committed: u32,
    /// The base model and what was kept beside it.
    pub previous: Aggregate<PathBuf>,
    /// The sites' updates, in any order.
    pub contributions: Vec<Contribution>,
}

/// A file that was written, whole and on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub blob: Blob,
}

/// Why there is no average.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to average.
    #[error("there are no examples to average over")]
    NoExamples,
    /// A file lacks a tensor of the base model.
    #[error("{whose} has no tensor {tensor}")]
    Missing {
        /// Which file, as people call it.
        whose: String,
        /// Which tensor.
        tensor: String,
    },
    /// A tensor has another number of values than the base model's.
    #[error("tensor {tensor} of {whose} has {found} values, the base model has {expected}")]
    Length {
        /// Which file, as people call it.
        whose: String,
        /// Which tensor.
        tensor: String,
        /// How many values it has.
        found: usize,
        /// How many the base model has.
        expected: usize,
    },
    /// What was computed of a tensor is not finite.
    #[error("tensor {tensor} of {what} is not made of finite numbers")]
    NotFinite {
        /// The new model, or what is kept beside it.
        what: &'static str,
        /// Which tensor.
        tensor: String,
    },
    /// A model does not read or the average does not write.
    #[error(transparent)]
    Weights(#[from] weights::Error),
}

/// Writes the weighted mean of `contributions` to `out`, with the base model's order of tensors and
/// its description. The file appears only when it is whole and on the disk.
///
/// # Errors
/// If there are no examples, a model does not fit the base, a mean is not finite, or the disk fails.
pub fn average(base: &Path, contributions: &[Contribution], out: &Path) -> Result<Blob, Error> {
    let plan = AggregationPlan { ema_decay: 0.0, ..AggregationPlan::default() };
    let previous = Aggregate::of(base.to_owned());
    let contributions = contributions.to_vec();
    let job = Job { plan, committed: 0, previous, contributions };
    Ok(aggregate(&job, out)?.model.blob)
}

/// Makes a round's model at `out`, and beside it, under names that begin alike, what the plan wants
/// kept: the moving average, the optimiser's moments. Each file appears only when it is whole and on
/// the disk; if one cannot be made none is left.
///
/// # Errors
/// If there are no examples, a file does not fit the base, a number is not finite, or the disk fails.
pub fn aggregate(job: &Job, out: &Path) -> Result<Aggregate<Written>, Error> {
    let files = files(&job.plan, out);
    let made = write(job, &files)?.finish();
    if made.is_err() {
        for file in files.parts() {
            // Not all of them came to be, and the disk fails: the error that is told is the first.
            let _ = std::fs::remove_file(file);
        }
    }
    made
}

/// How much of the moving average stays in the round after `committed` others: less in the first
/// rounds, so that the initial model is soon forgotten, as TensorFlow's
/// `ExponentialMovingAverage(num_updates)` has it.
fn ema_decay(plan: &AggregationPlan, committed: u32) -> f64 {
    let rounds = f64::from(committed);
    plan.ema_decay.min((1.0 + rounds) / (10.0 + rounds))
}

/// What an example of an update counts that is `rounds` late, beside 1 for one of a fresh update:
/// (1 + s)^-a (Xie et al. 2019, arXiv 1903.03934). It is rounded to 20 binary digits, so that the last
/// digit of a processor's power function is in no model's digest.
pub fn discount(rounds: u32, exponent: f64) -> f64 {
    const SCALE: f64 = (1 << 20) as f64;
    ((1.0 + f64::from(rounds)).powf(-exponent) * SCALE).round() / SCALE
}

/// The files that a plan asks for.
fn files(plan: &AggregationPlan, out: &Path) -> Aggregate<PathBuf> {
    let beside = |part: &str, wanted: bool| {
        let mut name = out.as_os_str().to_owned();
        name.push(part);
        wanted.then(|| PathBuf::from(name))
    };
    Aggregate {
        model: out.to_owned(),
        ema: beside(".ema", plan.ema_decay > 0.0),
        momentum: beside(".momentum", plan.optimizer != ServerOptimizer::Average),
        second_moment: beside(".second-moment", plan.optimizer == ServerOptimizer::Adam),
    }
}

/// Computes every tensor; no file has its name yet.
fn write(job: &Job, files: &Aggregate<PathBuf>) -> Result<Outputs, Error> {
    let mut base = Tensors::open(&job.previous.model, "the base model")?;
    let mut sites = Sites::open(&job.contributions, job.plan.staleness_exponent)?;
    let Aggregate { ema, momentum, second_moment, .. } = &job.previous;
    // Before there is an average, the base model stands for it.
    let ema = ema.as_ref().unwrap_or(&job.previous.model);
    let open_ema = || Tensors::open(ema, "the moving average");
    let mut ema = files.ema.is_some().then(open_ema).transpose()?;
    let open = |path: &Option<PathBuf>, wanted: bool, what| {
        let path = path.as_ref().filter(|_| wanted);
        path.map(|path| Tensors::open(path, what)).transpose()
    };
    let mut momentum = open(momentum, files.momentum.is_some(), "the server's momentum")?;
    let wanted = files.second_moment.is_some();
    let mut second_moment = open(second_moment, wanted, "the server's second moment")?;

    let decay = ema_decay(&job.plan, job.committed);
    let mut outputs = Outputs::create(base.model(), files)?;
    for spec in base.model().tensors().to_vec() {
        let mean = sites.mean(&spec, &mut base)?;
        let before = Moments {
            momentum: momentum.as_mut().map(|m| m.read(&spec)).transpose()?,
            second_moment: second_moment.as_mut().map(|m| m.read(&spec)).transpose()?,
        };
        let Stepped { model, moments } =
            optimizer::step(&job.plan, || base.read(&spec), mean, before)?;
        let average = match &mut ema {
            Some(ema) => Some(optimizer::blend(decay, ema.read(&spec)?, &model)),
            None => None,
        };
        outputs.model.write(&spec.name, &model)?;
        let kept = [
            (&mut outputs.ema, average),
            (&mut outputs.momentum, moments.momentum),
            (&mut outputs.second_moment, moments.second_moment),
        ];
        for (output, values) in kept {
            if let (Some(output), Some(values)) = (output, values) {
                output.write(&spec.name, &values)?;
            }
        }
    }
    Ok(outputs)
}

/// A file in the making.
struct Output {
    what: &'static str,
    path: PathBuf,
    writer: ModelWriter,
}

type Outputs = Aggregate<Output>;

impl Outputs {
    fn create(base: &ModelFile, files: &Aggregate<PathBuf>) -> Result<Outputs, Error> {
        let create = |what, path: &PathBuf, description: &BTreeMap<String, String>| {
            let writer = ModelWriter::create(path, base.tensors().to_vec(), description)?;
            Ok::<_, Error>(Output { what, path: path.clone(), writer })
        };
        let model = |what, path: &PathBuf| create(what, path, base.description());
        let moments = |what, path: &PathBuf, kind: &str| {
            create(what, path, &BTreeMap::from([(MOMENTS_KEY.to_owned(), kind.to_owned())]))
        };
        let Aggregate { model: new, ema, momentum, second_moment } = files;
        let momentum = momentum.as_ref();
        let second_moment = second_moment.as_ref();
        Ok(Aggregate {
            model: model("the new model", new)?,
            ema: ema.as_ref().map(|path| model("the new moving average", path)).transpose()?,
            momentum: momentum
                .map(|path| moments("the server's momentum", path, "momentum"))
                .transpose()?,
            second_moment: second_moment
                .map(|path| moments("the server's second moment", path, "second_moment"))
                .transpose()?,
        })
    }

    fn finish(self) -> Result<Aggregate<Written>, Error> {
        let finish = |output: Output| {
            let Output { path, writer, .. } = output;
            Ok::<_, Error>(Written { path, blob: writer.finish()? })
        };
        Ok(Aggregate {
            model: finish(self.model)?,
            ema: self.ema.map(finish).transpose()?,
            momentum: self.momentum.map(finish).transpose()?,
            second_moment: self.second_moment.map(finish).transpose()?,
        })
    }
}

impl Output {
    fn write(&mut self, tensor: &str, values: &[f32]) -> Result<(), Error> {
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::NotFinite { what: self.what, tensor: tensor.to_owned() });
        }
        Ok(self.writer.write(values)?)
    }
}

#[cfg(test)]
mod tests;
