//! The GPU path on whatever `gpu:0` is, be it a software renderer: trains, paints, and fails as an error.
//!
//! Ignored unless asked for, because a machine may have no such device; `.ci/gpu-path` asks, and there a
//! device that is missing is a failure.

#![expect(clippy::print_stdout, reason = "how far a GPU is from the processor is worth reading")]

use std::borrow::Cow;
use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use fedpaint_site_agent::data::example::{Example, REGIONS};
use fedpaint_site_agent::model::device::{self, DeviceChoice};
use fedpaint_site_agent::model::precision::Precision;
use fedpaint_site_agent::model::sampler;
use fedpaint_site_agent::model::sampler::options::{SampleOptions, Sampler};
use fedpaint_site_agent::model::sampler::prompt::Prompt;
use fedpaint_site_agent::model::spec::{Heads, ModelSpec, Preset};
use fedpaint_site_agent::model::weights::Weights;
use fedpaint_site_agent::train::journal::{self, Journal};
use fedpaint_site_agent::train::optimiser::Memory;
use fedpaint_site_agent::train::report::StepReport;
use fedpaint_site_agent::train::snapshot::Snapshot;
use fedpaint_site_agent::train::{TrainError, TrainingOptions, train};

/// The edge of the slices.
const SIZE: usize = 16;

fn gpu() -> Device {
    let gpu = device::open(DeviceChoice::Gpu(0)).unwrap();
    println!("gpu:0 is {}", device::describe(&gpu));
    gpu
}

/// Every kind of block in the fewest channels, away from the zeros that a model starts with, behind
/// which nothing could differ.
fn start() -> Weights {
    let spec = ModelSpec {
        channels: 8,
        channel_mult: vec![1, 2],
        res_blocks: 1,
        attention_ds: vec![2],
        heads: Heads::Count(2),
        groups: 4,
        learn_sigma: true,
        ..ModelSpec::preset(Preset::Tiny)
    };
    let start = Weights::init(&spec.with_image_size(SIZE).unwrap(), 7).unwrap();
    let moved = start.iter().map(|(_, values)| values.iter().map(|v| v + 0.02).collect());
    start.with_values(moved.collect()).unwrap()
}

fn example(seed: usize) -> Example {
    example_of(SIZE, seed)
}

/// A slice of `size` pixels squared.
fn example_of(size: usize, seed: usize) -> Example {
    let area = size * size;
    let inside = |i: usize| i % size > 4 && i / size > 5 && i / size < 12;
    let mask: Vec<f32> = (0..area).map(|i| f32::from(u8::from(inside(i)))).collect();
    let mut regions = vec![0.0; REGIONS * area];
    regions[..area].copy_from_slice(&mask);
    Example {
        image: (0..area).map(|i| ((i * (seed + 3)) as f32 * 0.05).sin() * 0.6).collect(),
        loss_mask: mask.clone(),
        mask,
        regions,
        condition: [1.0, 0.0, 0.0, 0.0, 0.5, 0.0],
    }
}

fn five_steps() -> TrainingOptions {
    TrainingOptions { steps: 5, learning_rate: 1e-3, seed: 3, ..TrainingOptions::default() }
}

/// The losses of five steps of two slices, and every weight after them.
fn trained(device: &Device, options: &TrainingOptions) -> Result<(Vec<f64>, Vec<f32>), TrainError> {
    let mut losses = Vec::new();
    let mut next = |step: usize| Ok(vec![example(2 * step), example(2 * step + 1)]);
    let mut hear = |report: StepReport| {
        losses.push(report.loss);
        ControlFlow::Continue(())
    };
    let (weights, _) = train(&start(), device, options, &mut next, &mut hear)?;
    let values = weights.iter().flat_map(|(_, values)| values.iter().copied()).collect();
    Ok((losses, values))
}

/// Fails unless two trainings came to the same within `tolerance`.
fn assert_agree(a: &(Vec<f64>, Vec<f32>), b: &(Vec<f64>, Vec<f32>), tolerance: f64, what: &str) {
    let losses = a.0.iter().zip(&b.0).map(|(a, b)| (a - b).abs() / b.abs().max(1.0));
    let losses = losses.fold(0.0, f64::max);
    let weights = a.1.iter().zip(&b.1).map(|(a, b)| f64::from((a - b).abs()));
    let weights = weights.fold(0.0, f64::max);
    println!("{what}: losses within {losses:e}, weights within {weights:e}");
    assert_eq!((a.0.len(), a.1.len()), (b.0.len(), b.1.len()));
    assert!(losses < tolerance && weights < tolerance, "{what}: {losses} {weights}");
}

#[test]
#[ignore = "needs a GPU or a software renderer: .ci/gpu-path"]
fn five_steps_on_a_gpu_are_those_of_the_processor_and_the_same_seed_repeats_them() {
    let (gpu, options) = (gpu(), five_steps());
    let cpu = trained(&Device::flex(), &options).unwrap();
    let first = trained(&gpu, &options).unwrap();
    assert_agree(&first, &cpu, 1e-3, "gpu and cpu");
    assert_eq!(trained(&gpu, &options).unwrap(), first, "the same seed again");
    let other = trained(&gpu, &TrainingOptions { seed: 4, ..options.clone() }).unwrap();
    assert_ne!(other.0, first.0);
    let parts = TrainingOptions { micro_batch: 1, gradient_checkpointing: true, ..options.clone() };
    assert_agree(&trained(&gpu, &parts).unwrap(), &cpu, 1e-3, "in parts, with checkpoints");
}

#[test]
#[ignore = "needs a GPU or a software renderer: .ci/gpu-path"]
fn a_training_on_a_gpu_that_was_interrupted_goes_on_to_the_same_bytes_in_each_of_its_precisions() {
    let gpu = gpu();
    for precision in Precision::ALL {
        let options = TrainingOptions { weight_decay: 0.1, precision, ..five_steps() };
        match precision.check(&gpu) {
            Ok(()) => {
                goes_on_from_every_step(&gpu, &options);
                println!("interrupted in {}: the same bytes", precision.name());
            }
            Err(error) => {
                // Nothing is proven of it here, and nobody is to believe so.
                let refused = trained(&gpu, &options).unwrap_err();
                assert!(matches!(refused, TrainError::Precision(_)), "{refused}");
                println!("interrupted in {}: NOT PROVEN HERE: {error}", precision.name());
            }
        }
    }
}

/// Trains once without an interruption, and once more from each step on: weights and losses are the same to the bit.
fn goes_on_from_every_step(gpu: &Device, options: &TrainingOptions) {
    let named = options.precision.name();
    let whole = trained(gpu, options).unwrap();
    let mut next = |step: usize| Ok(vec![example(2 * step), example(2 * step + 1)]);
    let mut kept = Vec::new();
    let keep = &mut |snapshot: &Snapshot<Cow<'_, [f32]>>| {
        let Snapshot { course, scale, memory } = snapshot.clone();
        let Memory { steps, tensors, stock } = memory;
        let tensors = tensors.into_iter().map(Cow::into_owned).collect();
        kept.push(Snapshot { course, scale, memory: Memory { steps, tensors, stock } });
    };
    let mut hear = |_| ControlFlow::Continue(());
    let journal = Journal { from: None, every: 1, keep: Some(keep) };
    journal::train(&start(), gpu, options, journal, &mut next, &mut hear).unwrap();
    assert_eq!(kept.len(), 4, "{named}: one after every step but the last");
    for from in kept {
        let (done, mut losses) = (from.steps(), whole.0[..from.steps()].to_vec());
        let mut hear = |report: StepReport| {
            losses.push(report.loss);
            ControlFlow::Continue(())
        };
        let journal = Journal { from: Some(from), ..Journal::none() };
        let went_on = journal::train(&start(), gpu, options, journal, &mut next, &mut hear);
        let (weights, summary) = went_on.unwrap();
        assert_eq!(summary.steps, 5);
        let values: Vec<f32> = weights.iter().flat_map(|(_, values)| values.to_vec()).collect();
        assert_eq!((losses, values), whole, "{named}: from step {done}");
    }
}

#[test]
#[ignore = "needs a GPU or a software renderer: .ci/gpu-path"]
fn a_short_type_trains_on_a_gpu_that_has_it_and_is_refused_by_name_on_one_that_has_not() {
    let gpu = gpu();
    for precision in [Precision::F16, Precision::Bf16] {
        let options = TrainingOptions { precision, ..five_steps() };
        match trained(&gpu, &options) {
            Ok(found) => {
                assert_eq!(precision.check(&gpu), Ok(()));
                let cpu = trained(&Device::flex(), &five_steps()).unwrap();
                assert_agree(&found, &cpu, 0.05, precision.name());
            }
            Err(TrainError::Precision(error)) => {
                assert!(precision.check(&gpu).is_err());
                assert!(error.to_string().contains(precision.name()), "{error}");
                println!("{error}");
            }
            Err(error) => panic!("{}: {error}", precision.name()),
        }
    }
}

#[test]
#[ignore = "needs a GPU or a software renderer: .ci/gpu-path"]
fn a_gpu_paints_what_the_processor_paints() {
    let (weights, example) = (start(), example(1));
    let prompts = [Prompt::of(&example, [1; 32], 0)];
    let options = SampleOptions { steps: 3, samples: 2, ..Sampler::DpmSolver.options() };
    let mut go = |_, _| ControlFlow::Continue(());
    let mut painted = |device: &Device| {
        sampler::sample(&weights, device, &prompts, &options, &mut go).unwrap().remove(0)
    };
    let (cpu, gpu) = (painted(&Device::flex()), painted(&gpu()));
    let apart = cpu.iter().zip(&gpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("painted within {apart:e}");
    assert!(apart < 1e-3, "{apart}");
    assert!(gpu.iter().zip(&example.mask).any(|(&x, &m)| m > 0.5 && x != 0.0));
}

#[test]
#[ignore = "needs a GPU or a software renderer: .ci/gpu-path"]
fn memory_that_a_gpu_has_not_is_an_error_and_no_end_of_the_process() {
    let gpu = gpu();
    // 4 TiB in one piece.
    let asked = device::guarded(|| {
        let one = Tensor::<1>::ones([1_usize << 40], &gpu);
        one.sum().try_into_data()
    });
    match asked {
        Ok(Ok(_)) => panic!("4 TiB were given"),
        Ok(Err(error)) => println!("as an execution error: {error}"),
        Err(crash) => println!("as a crash: {crash}"),
    }
}

#[test]
#[ignore = "needs a GPU or a software renderer: .ci/gpu-path"]
fn a_training_that_no_card_holds_is_a_typed_error_and_a_small_one_trains_after_it() {
    let gpu = gpu();
    // Attention over all pixels of 512 x 512: burn's way keeps a weight for every pair of pixels, which is
    // 256 GiB in one buffer.
    let spec =
        ModelSpec { attention_ds: vec![1], heads: Heads::Count(1), ..start().spec().clone() };
    let large = Weights::init(&spec.with_image_size(512).unwrap(), 7).unwrap();
    let size = large.spec().image_size;
    let mut next = |_| Ok(vec![example_of(size, 1)]);
    let mut go = |_| ControlFlow::Continue(());
    let error = train(&large, &gpu, &five_steps(), &mut next, &mut go).unwrap_err();
    println!("{error}");
    assert!(
        matches!(error, TrainError::Device { step: 1, .. } | TrainError::Crash { step: 1, .. }),
        "{error}"
    );
    let cpu = trained(&Device::flex(), &five_steps()).unwrap();
    assert_agree(&trained(&gpu, &five_steps()).unwrap(), &cpu, 1e-3, "after the one too large");
}
