//! `bench`: the training of a site, timed step by step, on examples that are drawn.
//!
//! It runs [`train::train`] as a round does and prints one JSON object; the benchmark of training
//! (`bench-train` of the tests) starts it as a process of its own, so that the peak of memory is a
//! trainer's. It opens no scan and judges nothing. The model, the examples and the noise follow from the
//! seed, and `--write` keeps them for whoever wants to do the same work with other means.

mod drawn;
mod record;
mod times;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;

use self::times::StepTimes;
use super::options::ComputeOptions;
use super::output;
use super::sampling::PrecisionName;
use crate::cpu::profile;
use crate::model::spec::{ModelSpec, Preset};
use crate::model::{device, flops};
use crate::train::report::StepReport;
use crate::train::{self, MAX_BATCH, TrainingOptions};

/// The most steps that are timed: every one is in the report.
const STEPS_MAX: u64 = 100_000;

/// Options of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The size of the model: tiny, small, base or mayo.
    #[arg(long)]
    preset: Preset,
    /// Slices of a step.
    #[arg(long, default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_BATCH as u64))]
    batch: usize,
    /// Steps that are timed.
    #[arg(long, default_value_t = 10, value_parser = RangedU64ValueParser::<usize>::new().range(1..=STEPS_MAX))]
    steps: usize,
    /// Steps before them that are not.
    #[arg(long, default_value_t = 2, value_parser = RangedU64ValueParser::<usize>::new().range(1..=STEPS_MAX))]
    warmup: usize,
    /// What convolutions compute in: bf16 and f16 are for GPUs, and slower on a processor.
    #[arg(long, value_enum, default_value = "f32")]
    precision: PrecisionName,
    /// The same seed gives the same model, examples and noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the model and what every step learns into this folder, and train nothing.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeOptions,
}

/// What one process measured.
#[derive(Debug, Serialize)]
struct Report {
    preset: String,
    batch: usize,
    steps: usize,
    /// Steps before the first that is timed; they are in nothing below but the losses and the memory.
    warmup: usize,
    precision: &'static str,
    device: String,
    threads: usize,
    parameters: usize,
    /// Floating-point operations of a step: [`flops::training_step`].
    flop: u64,
    /// Milliseconds of each timed step, from the end of the step before it.
    steps_ms: Vec<f64>,
    /// The median over the timed steps of what an operation took of a step, in milliseconds; `rest` is
    /// what no operation accounts for.
    operations: BTreeMap<&'static str, f64>,
    /// The most memory that the process has had, where the system says so.
    peak_rss_bytes: Option<u64>,
    /// Of every step, the first included.
    losses: Vec<f64>,
    /// Norms of the gradient before it was clipped, of every step, the first included.
    gradient_norms: Vec<f64>,
}

/// Times training steps and prints the report, or writes what they would be made of.
///
/// # Errors
/// If the device cannot be opened, the files cannot be written, or the training fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    let spec = ModelSpec::preset(args.preset);
    let start = drawn::weights(&spec, args.seed)?;
    let examples = drawn::examples(&spec, args.seed, args.batch);
    let steps = args.warmup + args.steps;
    let precision = args.precision.precision();
    let options =
        TrainingOptions { steps, seed: args.seed, precision, ..TrainingOptions::default() };
    if let Some(folder) = &args.write {
        record::write(folder, &start, &options, &examples)?;
        return Ok(ExitCode::SUCCESS);
    }
    let device = args.compute.open()?;
    profile::keep(nanoseconds);
    let mut times = StepTimes::new(args.warmup, nanoseconds(), profile::totals());
    let (mut losses, mut gradient_norms) = (Vec::new(), Vec::new());
    let mut next_batch = |_| Ok(examples.clone());
    let mut progress = |step: StepReport| {
        times.end(nanoseconds(), profile::totals());
        losses.push(step.loss);
        gradient_norms.push(step.gradient_norm);
        ControlFlow::Continue(())
    };
    train::train(&start, &device, &options, &mut next_batch, &mut progress)?;
    let report = Report {
        preset: args.preset.to_string(),
        batch: args.batch,
        steps: args.steps,
        warmup: args.warmup,
        precision: precision.name(),
        device: device::describe(&device),
        threads: rayon::current_num_threads(),
        parameters: start.parameters(),
        flop: flops::training_step(&spec, args.batch),
        operations: times.operations_ms().collect(),
        steps_ms: times.steps_ms(),
        peak_rss_bytes: peak_rss_bytes(),
        losses,
        gradient_norms,
    };
    output::print(&serde_json::to_string(&report)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Nanoseconds since it was first asked.
fn nanoseconds() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
    let passed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
}

/// The most memory that this process has had, in bytes; Linux says it.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
