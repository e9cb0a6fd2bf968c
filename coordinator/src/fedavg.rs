//! Federated averaging over files: the mean of the sites' weights, weighted by examples seen
//! (McMahan et al. 2017, algorithm 1: `w <- sum_k (n_k / n) w_k`), or what another rule makes of them, the
//! server's optimiser step along it, and the moving average of what comes out; and how each update lies to the
//! others.
//!
//! The files are read once by a mean, a median and a trimmed mean. Where updates are clipped, quarantined or
//! their geometric median is sought, they are read once more before, for the inner products of their differences
//! to the base model, from which all that follows, and which tell twins.
//!
//! An update that is folded in late is moved from the model it was trained from to the round's base
//! model, w_late + base_now - base_then, and weighs the less the later it is.
//!
//! What is made is a function of the files and the plan alone, so it can be made again after a crash.
//! A block of every update is in memory at a time, for each thread, so that neither the size of the model nor
//! of its largest tensor matters. The sums are in f64 and run over the sites in the order of their names, late
//! updates last, so the result is the same to the byte whatever the order in which the updates came and the
//! number of threads. It blocks on the disk and draws no conclusion from a weight.

mod blocks;
mod optimizer;
mod outliers;
mod outputs;
mod products;
mod robust;
mod rules;
mod screen;
mod source;
mod twins;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fedpaint_proto::names::{Blob, SiteName};
use fedpaint_proto::plan::{AggregationPlan, ServerOptimizer};
use fedpaint_proto::weights::{self, ModelFile, TensorSpec};

use self::blocks::Block;
use self::optimizer::{Moments, Stepped};
use self::outputs::Outputs;
use self::products::Along;
use self::robust::Gram;
use self::rules::Combine;
pub(crate) use self::source::OPEN_FILES_MAX;
use self::source::{Rows, Tensors, Updates};
use crate::aggregate::{Aggregate, Made};
use crate::standing::{Outlier, Standing};

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
    /// Whether the run was sent this file for an earlier round, by whatever site.
    pub resent: bool,
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
    /// Whose updates are left out, if anybody's are; they are told either way.
    pub quarantine: Option<Quarantine>,
}

/// That updates are left out of a round's model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// For what.
    pub causes: BTreeSet<Outlier>,
    /// How many updates of the round itself must be left.
    pub updates_min: u32,
    /// The sites whose updates an operator has readmitted: they are counted whatever they are.
    pub exempt: BTreeSet<SiteName>,
}

impl Quarantine {
    /// The quarantine that a plan asks for, if it asks for any.
    pub fn of(
        plan: &AggregationPlan,
        updates_min: u32,
        exempt: BTreeSet<SiteName>,
    ) -> Option<Quarantine> {
        let asked = [
            (Outlier::Length, plan.quarantine),
            (Outlier::Direction, plan.quarantine),
            (Outlier::Twin, plan.quarantine_twins),
            (Outlier::Replay, plan.quarantine_replays),
        ];
        let causes: BTreeSet<Outlier> =
            asked.into_iter().filter(|(_, asked)| *asked).map(|(cause, _)| cause).collect();
        (!causes.is_empty()).then_some(Quarantine { causes, updates_min, exempt })
    }
}

/// A file that was written, whole and on the disk. Its name lasts once its folder is synced, or it was given
/// another name that is to last.
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
    /// Too few updates are left.
    #[error(
        "{left} updates are left of the {need} that the plan wants: quarantined are {}",
        named(sites)
    )]
    Quarantined {
        /// How many are left.
        left: usize,
        /// How many the plan wants.
        need: u32,
        /// Whose were left out.
        sites: Vec<SiteName>,
    },
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
    /// There is no thread to do the work.
    #[error("cannot begin a thread: {0}")]
    Thread(std::io::Error),
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
    let job = Job { plan, committed: 0, previous, contributions, quarantine: None };
    Ok(aggregate(&job, out)?.files.model.blob)
}

/// Makes a round's model at `out`, and beside it, under names that begin alike, what the plan wants
/// kept: the moving average, the optimiser's moments. Each file appears only when it is whole and on
/// the disk; if one cannot be made none is left.
///
/// # Errors
/// If there are no examples, a file does not fit the base, a number is not finite, or the disk fails.
pub fn aggregate(job: &Job, out: &Path) -> Result<Made<Written>, Error> {
    aggregate_on(job, out, blocks::threads())
}

/// [`aggregate`] on so many threads, which nobody can tell from what is made.
fn aggregate_on(job: &Job, out: &Path, threads: usize) -> Result<Made<Written>, Error> {
    let files = files(&job.plan, out);
    let (outputs, standings) = write(job, &files, threads)?;
    let made = outputs.finish().map(|files| Made { files, standings });
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

/// What a round's model is made of.
struct Inputs<'a> {
    job: &'a Job,
    base: Tensors,
    updates: Updates,
    ema: Option<Tensors>,
    momentum: Option<Tensors>,
    second_moment: Option<Tensors>,
}

/// One block of what is made.
struct Part {
    files: Aggregate<Vec<f32>>,
    /// Where the updates have not been compared before.
    along: Option<Along>,
}

/// Computes every block; no file has its name yet.
fn write(
    job: &Job,
    files: &Aggregate<PathBuf>,
    threads: usize,
) -> Result<(Outputs, Vec<Standing>), Error> {
    let base = ModelFile::open(&job.previous.model)?;
    let specs = base.tensors().to_vec();
    let inputs = Inputs::open(job, files, &specs)?;
    let (updates, voices) = (inputs.updates.len(), inputs.updates.voices());
    let blocks = blocks::cut(&specs, blocks::block_len(updates));
    let room = || inputs.updates.rows();

    let mut gram = None;
    if job.plan.compares_first() || job.quarantine.is_some() {
        let whole = gram.insert(Gram::zero(updates));
        let work = |block: Block, rows: &mut Rows| {
            inputs.updates.read(&inputs.base, block, rows)?;
            Ok(products::gram(rows, updates))
        };
        let take = |_, block| {
            whole.add(&block);
            Ok(())
        };
        blocks::in_order(blocks.clone(), threads, room, work, take)?;
    }
    let judged = gram.as_ref().map(|gram| screen::judge(voices, gram, job.quarantine.as_ref()));
    let judged = judged.transpose()?;
    let counts: Vec<bool> = match &judged {
        Some(standings) => standings.iter().map(|standing| !standing.excluded).collect(),
        None => vec![true; updates],
    };
    let combine = screen::combine(&job.plan, voices, &counts, gram.as_ref());

    let (mut outputs, mut along) = (Outputs::create(&base, files)?, Along::zero(updates));
    let work = |block: Block, rows: &mut Rows| inputs.make(block, rows, &combine, judged.is_none());
    let take = |block: Block, part: Part| {
        if let Some(part) = part.along {
            along.add(&part);
        }
        outputs.write(&specs[block.tensor], part.files)
    };
    blocks::in_order(blocks, threads, room, work, take)?;
    let standings = judged.unwrap_or_else(|| screen::tell(voices, &along));
    Ok((outputs, standings))
}

impl Inputs<'_> {
    fn open<'a>(
        job: &'a Job,
        files: &Aggregate<PathBuf>,
        specs: &[TensorSpec],
    ) -> Result<Inputs<'a>, Error> {
        let Aggregate { model, ema, momentum, second_moment } = &job.previous;
        let open = |path: Option<&PathBuf>, wanted: bool, whose| {
            let path = path.filter(|_| wanted);
            path.map(|path| Tensors::open(path, whose, specs)).transpose()
        };
        let updates = Updates::open(&job.contributions, job.plan.staleness_exponent, specs)?;
        Ok(Inputs {
            job,
            base: Tensors::open(model, "the base model", specs)?,
            updates,
            // Before there is an average, the base model stands for it.
            ema: open(ema.as_ref().or(Some(model)), files.ema.is_some(), "the moving average")?,
            momentum: open(momentum.as_ref(), files.momentum.is_some(), "the server's momentum")?,
            second_moment: open(
                second_moment.as_ref(),
                files.second_moment.is_some(),
                "the server's second moment",
            )?,
        })
    }

    /// One block of every file that is made; and, if that is asked, of what tells how the updates lie.
    fn make(
        &self,
        block: Block,
        rows: &mut Rows,
        combine: &Combine,
        compares: bool,
    ) -> Result<Part, Error> {
        let plan = &self.job.plan;
        self.updates.read(&self.base, block, rows)?;
        let along = compares.then(|| products::along(rows, self.updates.len()));
        let mean = combine.of(rows);
        let read = |file: &Option<Tensors>| file.as_ref().map(|f| f.values(block)).transpose();
        let before =
            Moments { momentum: read(&self.momentum)?, second_moment: read(&self.second_moment)? };
        let Stepped { model, moments } = optimizer::step(plan, &rows.base, mean, before);
        let decay = ema_decay(plan, self.job.committed);
        let ema = read(&self.ema)?.map(|ema| optimizer::blend(decay, ema, &model));
        let Moments { momentum, second_moment } = moments;
        Ok(Part { files: Aggregate { model, ema, momentum, second_moment }, along })
    }
}

fn named(sites: &[SiteName]) -> String {
    sites.iter().map(SiteName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
