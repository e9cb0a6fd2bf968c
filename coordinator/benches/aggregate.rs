//! How fast updates become a model, beside what the machine's memory and disk give, and in how much memory.
//!
//! `cargo bench -p fedpaint-coordinator --bench aggregate -- --folder DIR` writes `--sites` updates of
//! `--megabytes` each into DIR, which needs room for two more, makes a model of them by every rule, and deletes
//! them. The last line is JSON. What is measured beside: reading and multiply-adding an array in memory, copying
//! one, reading the updates from the page cache and, where the kernel drops them, from the disk, and writing.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use fedpaint_coordinator::aggregate::Aggregate;
use fedpaint_coordinator::fedavg::{self, Contribution, Job};
use fedpaint_proto::plan::{AggregationPlan, AggregationRule};
use fedpaint_proto::weights::{Dtype, ModelFile, ModelWriter, TensorSpec};
use rustix::fs::{Advice, fadvise};
use serde::Serialize;

/// Values of the largest tensor: it alone is larger than what any thread holds.
const TENSOR_VALUES: usize = 10 << 20;

/// Values of an array in memory: far more than the caches hold.
const ARRAY_VALUES: usize = 256 << 20;

/// What is read from a file at a time.
const READ_BYTES: usize = 64 << 10;

/// How often each is measured; the best time counts.
const TIMES: usize = 3;

#[derive(Parser)]
struct Options {
    /// Where the files are to be
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// How many updates
    #[arg(long, default_value_t = 16)]
    sites: usize,
    /// How large each is, in 10^6 bytes
    #[arg(long, default_value_t = 400)]
    megabytes: usize,
    /// What cargo says.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the machine gives, in 10^9 bytes a second.
#[derive(Debug, Serialize)]
struct Machine {
    threads: usize,
    memory_multiply_add: f64,
    memory_copy: f64,
    file_cached: f64,
    file_uncached: f64,
    file_written_and_synced: f64,
    load_1_minute: String,
}

/// How one rule did.
#[derive(Debug, Serialize)]
struct Measured {
    rule: String,
    /// Whether the system had the files in memory.
    is_cached: bool,
    seconds: f64,
    /// Every file that is read, as often as it is.
    read_bytes: u64,
    written_bytes: u64,
    /// What was read in a second, in 10^9 bytes.
    read_rate: f64,
    /// The longer of the times in which memory, or the disk where the files are not cached, would give what is
    /// read and the disk take what is written, in parts of the time that it took.
    share_of_bound: f64,
    /// The time in which memory would give what is read.
    share_of_memory: f64,
    peak_rss_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Outcome {
    sites: usize,
    update_bytes: u64,
    machine: Machine,
    rules: Vec<Measured>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let folder = tempfile::tempdir_in(&options.folder).context("a folder for the updates")?;
    let values = options.megabytes * 1_000_000 / size_of::<f32>();
    let base = folder.path().join("base");
    write_model(&base, values, 0)?;
    let mut contributions = Vec::new();
    for at in 0..options.sites {
        let weights = folder.path().join(format!("site-{at:03}"));
        write_model(&weights, values, at as u32 + 1)?;
        let (site, examples) = (format!("site-{at:03}").parse()?, 100 + at as u64);
        contributions.push(Contribution { site, weights, examples, stale: None, resent: false });
    }
    let update_bytes = std::fs::metadata(&base)?.len();
    let mut rules = Vec::new();
    // Before anything here has allocated more than a program does.
    for (name, rule, ema_decay, is_cached) in [
        ("mean", AggregationRule::Mean, 0.0, true),
        ("mean of files that are not cached", AggregationRule::Mean, 0.0, false),
        ("mean and moving average", AggregationRule::Mean, 0.9, true),
        ("clipped_mean", AggregationRule::ClippedMean, 0.0, true),
        ("median", AggregationRule::Median, 0.0, true),
        ("trimmed_mean", AggregationRule::TrimmedMean, 0.0, true),
        ("geometric_median", AggregationRule::GeometricMedian, 0.0, true),
    ] {
        let plan = AggregationPlan { rule, ema_decay, ..AggregationPlan::default() };
        let passes = if plan.compares_first() { 2 } else { 1 };
        let previous = Aggregate::of(base.clone());
        let contributions = contributions.clone();
        let job = Job { plan, committed: 1, previous, contributions, quarantine: None };
        let out = folder.path().join("out");
        let mut best = f64::INFINITY;
        for _ in 0..TIMES {
            if !is_cached {
                let updates = job.contributions.iter().map(|c| &c.weights);
                updates.chain([&base]).try_for_each(|path| forget(path))?;
            }
            let begun = Instant::now();
            fedavg::aggregate(&job, &out)?;
            best = best.min(begun.elapsed().as_secs_f64());
        }
        let averages = u64::from(ema_decay > 0.0);
        rules.push(Measured {
            rule: name.to_owned(),
            is_cached,
            seconds: best,
            read_bytes: (passes * (options.sites as u64 + 1) + averages) * update_bytes,
            written_bytes: (1 + averages) * update_bytes,
            read_rate: 0.0,
            share_of_bound: 0.0,
            share_of_memory: 0.0,
            peak_rss_bytes: peak_rss()?,
        });
        say(&format!("{name}: {best:.2} s"))?;
    }
    let machine = machine(&contributions, folder.path(), update_bytes)?;
    for rule in &mut rules {
        let memory = rule.read_bytes as f64 / machine.memory_multiply_add / 1e9;
        let source = if rule.is_cached { f64::INFINITY } else { machine.file_uncached };
        let read = rule.read_bytes as f64 / source / 1e9;
        let written = rule.written_bytes as f64 / machine.file_written_and_synced / 1e9;
        rule.read_rate = rule.read_bytes as f64 / rule.seconds / 1e9;
        rule.share_of_memory = memory / rule.seconds;
        rule.share_of_bound = memory.max(read).max(written) / rule.seconds;
        say(&format!(
            "{}: read {:.1} GB/s, {:.0} % of what binds, {:.0} % of memory alone, {} KiB peak",
            rule.rule,
            rule.read_rate,
            100.0 * rule.share_of_bound,
            100.0 * rule.share_of_memory,
            rule.peak_rss_bytes >> 10,
        ))?;
    }
    say(&format!("{machine:?}"))?;
    let outcome = Outcome { sites: options.sites, update_bytes, machine, rules };
    say(&serde_json::to_string(&outcome)?)
}

/// Numbers that no two sites have alike, in tensors of which the last is smaller.
fn write_model(path: &Path, values: usize, seed: u32) -> anyhow::Result<()> {
    let spec = |(at, len): (usize, usize)| TensorSpec {
        name: format!("tensor.{at:03}"),
        dtype: Dtype::F32,
        shape: vec![len],
    };
    let whole = std::iter::repeat_n(TENSOR_VALUES, values / TENSOR_VALUES);
    let lens = whole.chain([values % TENSOR_VALUES]).filter(|len| *len > 0);
    let specs: Vec<TensorSpec> = lens.enumerate().map(spec).collect();
    let mut writer = ModelWriter::create(path, specs, &[("model".into(), "{}".into())].into())?;
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut part = vec![0.0; 1 << 14];
    while let Some(due) = writer.due().map(TensorSpec::len) {
        for first in (0..due).step_by(part.len()) {
            let part = &mut part[..(1 << 14).min(due - first)];
            for value in part.iter_mut() {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                *value = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
            }
            writer.write_part(part)?;
        }
    }
    writer.finish()?;
    Ok(())
}

fn machine(
    contributions: &[Contribution],
    folder: &Path,
    update_bytes: u64,
) -> anyhow::Result<Machine> {
    let threads = thread::available_parallelism()?.get();
    let paths: Vec<&Path> = contributions.iter().map(|c| c.weights.as_path()).collect();
    let total = update_bytes * paths.len() as u64;
    let read_all = || -> anyhow::Result<()> {
        thread::scope(|scope| {
            let readers = paths.chunks(paths.len().div_ceil(threads));
            let readers: Vec<_> = readers.map(|some| scope.spawn(|| read(some))).collect();
            readers.into_iter().try_for_each(|reader| reader.join().unwrap_or(Ok(())))
        })
    };
    read_all()?;
    let file_cached = rate(total, read_all)?;
    paths.iter().try_for_each(|path| forget(path))?;
    let begun = Instant::now();
    read_all()?;
    let file_uncached = total as f64 / begun.elapsed().as_secs_f64() / 1e9;

    let written = folder.join("written");
    let bytes = vec![7; 1 << 20];
    let file_written_and_synced = rate(update_bytes, || {
        let mut file = File::create(&written)?;
        for _ in 0..update_bytes >> 20 {
            file.write_all(&bytes)?;
        }
        Ok(file.sync_all()?)
    })?;

    let array: Vec<f32> = (0..ARRAY_VALUES).map(|at| at as f32).collect();
    let mut copy = array.clone();
    let array_bytes = size_of_val(&array[..]) as u64;
    let share = ARRAY_VALUES.div_ceil(threads);
    let memory_multiply_add = rate(array_bytes, || {
        thread::scope(|scope| {
            for part in array.chunks(share) {
                scope.spawn(|| multiply_add(part));
            }
        });
        Ok(())
    })?;
    let memory_copy = rate(array_bytes, || {
        thread::scope(|scope| {
            for (to, from) in copy.chunks_mut(share).zip(array.chunks(share)) {
                scope.spawn(|| to.copy_from_slice(from));
            }
        });
        Ok(())
    })?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(Machine {
        threads,
        memory_multiply_add,
        memory_copy,
        file_cached,
        file_uncached,
        file_written_and_synced,
        load_1_minute: load.split(' ').next().unwrap_or_default().to_owned(),
    })
}

/// What a mean does of one update, without a file: sums that stay in a cache.
fn multiply_add(values: &[f32]) {
    let mut sums = vec![0.0; 1 << 13];
    for part in values.chunks(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(part) {
            *sum += 1.5 * f64::from(*value);
        }
    }
    std::hint::black_box(sums);
}

/// Has the system drop a file from its memory. Where it keeps it all the same, reading is as fast as before.
fn forget(path: &Path) -> anyhow::Result<()> {
    Ok(fadvise(File::open(path)?, 0, None, Advice::DontNeed)?)
}

fn read(paths: &[&Path]) -> anyhow::Result<()> {
    let mut values = vec![0.0; READ_BYTES / size_of::<f32>()];
    for path in paths {
        let model = ModelFile::open(path)?;
        for (position, spec) in model.tensors().iter().enumerate() {
            for first in (0..spec.len()).step_by(values.len()) {
                let part = values.len().min(spec.len() - first);
                model.read_part(position, first, &mut values[..part])?;
            }
        }
    }
    Ok(())
}

fn rate(bytes: u64, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..TIMES {
        let begun = Instant::now();
        work()?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok(bytes as f64 / best / 1e9)
}

/// The most memory that this process has held.
fn peak_rss() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("VmHWM")?;
    Ok(kib.trim().parse::<u64>()? << 10)
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
