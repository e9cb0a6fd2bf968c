//! Whether a site's training ends alike by our own operations and by burn's:
//!
//! ```text
//! cargo bench --workspace --bench ops -- epochs [--preset small] [--patients 6] [--epochs 2] [--seeds 4] [--stock-seeds 2]
//! ```
//!
//! A phantom cohort is learnt for some epochs by our own operations from every seed, which says how far
//! seeds are apart, and by burn's from the first of them, with the same slices, steps and noise. What a
//! training came to is the loss of its last quarter, and the loss of its weights on slices and noise that
//! are the same for all. It prints one JSON object, measures and judges nothing.

#![expect(clippy::expect_used, reason = "a benchmark that cannot go on panics")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Device;
use fedpaint_site_agent::cohort::Cohort;
use fedpaint_site_agent::data::example::Example;
use fedpaint_site_agent::data::mask::Mode;
use fedpaint_site_agent::data::pool::{BatchKey, SlicePool};
use fedpaint_site_agent::data::scan::{MASKS_PER_CASE, SliceOptions};
use fedpaint_site_agent::model::ops::Ops;
use fedpaint_site_agent::model::precision::Precision;
use fedpaint_site_agent::model::spec::{ModelSpec, Preset};
use fedpaint_site_agent::model::weights::Weights;
use fedpaint_site_agent::phantom::scanner::Scanner;
use fedpaint_site_agent::phantom::{CohortSpec, write_cohort};
use fedpaint_site_agent::settings::DataSettings;
use fedpaint_site_agent::train::report::StepReport;
use fedpaint_site_agent::train::{TrainingOptions, train_by};
use serde_json::{Value, json};

/// Slices of a step.
const BATCH: usize = 8;
/// The edge of a voxel.
const SIZE_MM: f64 = 3.0;
/// The axial slices of a patient at that size; an epoch is as many slices as all patients have.
const SLICES: usize = 52;
/// Batches that the trained weights are compared on.
const COMPARED: usize = 8;
/// The seed of those.
const COMPARED_SEED: u64 = 1 << 32;

/// What is trained.
struct Job<'a, 'p> {
    pool: &'a SlicePool<'p>,
    spec: ModelSpec,
    steps: usize,
}

fn main() {
    // Cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let report = match args.first().map(String::as_str) {
        Some("epochs") => epochs(&args[1..]),
        // `cargo test --all-targets` runs every benchmark without a name.
        None => return,
        Some(other) => panic!("there is no benchmark {other}: epochs"),
    };
    writeln!(std::io::stdout(), "{report:#}").expect("a report can be printed");
}

fn epochs(args: &[String]) -> Value {
    let word = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)
    };
    let number = |name: &str, default: usize| {
        word(name).map_or(default, |value| value.parse().expect("a number"))
    };
    let preset: Preset = word("--preset").map_or(Preset::Small, |w| w.parse().expect("a preset"));
    let (patients, epochs) = (number("--patients", 6), number("--epochs", 2));
    let (seeds, stock_seeds) = (number("--seeds", 4), number("--stock-seeds", 2));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("cohort");
    let spec =
        CohortSpec { out: out.clone(), patients, scanner: Scanner::A, seed: 1, size_mm: SIZE_MM };
    write_cohort(&spec, &mut |_, _| ()).expect("a phantom cohort");
    let settings = DataSettings {
        path: out,
        label_scheme: Some("brats2023".into()),
        contrasts: Some(vec!["t1n".into()]),
        held_out: 0.0,
        split_salt: String::new(),
        split: None,
        cache: None,
        cache_mib_max: 0,
    };
    let cohort = Cohort::discover(&settings).expect("a cohort");
    let spec = ModelSpec::preset(preset);
    let slices = SliceOptions {
        size: spec.image_size,
        masks: MASKS_PER_CASE,
        seed: 1,
        round: 1,
        mode: Mode::Corrected,
        augment: false,
    };
    let steps = (epochs * patients * SLICES).div_ceil(BATCH);
    let measured = cohort.with_pool(slices, &|| false, |pool| {
        let job = Job { pool, spec, steps };
        let by = |ops: Ops, count: usize| -> Vec<Value> {
            (1..=count as u64).map(|seed| job.train(ops, seed)).collect()
        };
        (by(Ops::Own, seeds), by(Ops::Stock(Precision::F32), stock_seeds))
    });
    let (own, stock) = measured.expect("the scans can be drawn from");
    json!({
        "benchmark": "trainings of a phantom cohort by our own operations and by burn's",
        "preset": preset.to_string(),
        "patients": patients,
        "epochs": epochs,
        "batch": BATCH,
        "steps": steps,
        "threads": rayon::current_num_threads(),
        // The largest distance of the two ways from one seed, and the deviation over the seeds.
        "ways_apart": apart(&own, &stock),
        "seeds_deviation": json!({
            "last_quarter": deviation(&own, "last_quarter"),
            "compared": deviation(&own, "compared"),
        }),
        "own": own,
        "stock": stock,
    })
}

impl Job<'_, '_> {
    /// One training, and what it came to.
    fn train(&self, ops: Ops, seed: u64) -> Value {
        let start = Weights::init(&self.spec, seed).expect("a model");
        let options = TrainingOptions {
            steps: self.steps,
            warmup_steps: 10,
            seed,
            ..TrainingOptions::default()
        };
        let begun = Instant::now();
        let (weights, losses) = self.run(ops, &start, &options);
        let step_ms = begun.elapsed().as_secs_f64() * 1e3 / self.steps as f64;
        // The same for all: steps so short that no weight moves.
        let still = TrainingOptions {
            steps: COMPARED,
            learning_rate: 1e-30,
            seed: COMPARED_SEED,
            ..TrainingOptions::default()
        };
        let (_, compared) = self.run(Ops::Own, &weights, &still);
        let quarter = losses.len().div_ceil(4);
        eprintln!("{ops:?}, seed {seed}: {:.4}", mean(&compared));
        json!({
            "seed": seed,
            "first_quarter": mean(&losses[..quarter]),
            "last_quarter": mean(&losses[losses.len() - quarter..]),
            "compared": mean(&compared),
            "step_ms": step_ms,
        })
    }

    /// The weights after a training, and the loss of every step.
    fn run(&self, ops: Ops, start: &Weights, options: &TrainingOptions) -> (Weights, Vec<f64>) {
        let mut losses = Vec::with_capacity(options.steps);
        let mut next = |step: usize| -> Result<Vec<Example>, Box<dyn Error + Send + Sync>> {
            let key = BatchKey { seed: options.seed, round: 1, step: step as u64 };
            Ok(self.pool.batch(key, BATCH)?)
        };
        let mut hear = |step: StepReport| {
            losses.push(step.loss);
            ControlFlow::Continue(())
        };
        let device = Device::flex();
        let (weights, _) = train_by(ops, start, &device, options, &mut next, &mut hear)
            .expect("a training that ends");
        (weights, losses)
    }
}

/// How far the two ways are apart at most, from the same seed.
fn apart(own: &[Value], stock: &[Value]) -> Value {
    let of = |key: &str| {
        let pairs = own.iter().zip(stock);
        pairs.map(|(own, stock)| (figure(own, key) - figure(stock, key)).abs()).fold(0.0, f64::max)
    };
    json!({ "last_quarter": of("last_quarter"), "compared": of("compared") })
}

/// The deviation of a figure over trainings.
fn deviation(runs: &[Value], key: &str) -> f64 {
    let values: Vec<f64> = runs.iter().map(|run| figure(run, key)).collect();
    let middle = mean(&values);
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (squares / values.len().saturating_sub(1).max(1) as f64).sqrt()
}

fn figure(run: &Value, key: &str) -> f64 {
    run[key].as_f64().unwrap_or(f64::NAN)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
