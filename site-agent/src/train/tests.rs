//! What training promises, on slices small enough to train on in a second.

use burn::module::{Module, ModuleVisitor, Param};

use super::*;
use crate::data::example::{CONDITIONS, REGIONS};
use crate::local_round;
use crate::model::checkpoint;
use crate::model::ops::Ops;
use crate::model::precision::Precision;
use crate::model::sampler;
use crate::model::sampler::options::{SampleOptions, Sampler};
use crate::model::sampler::prompt::Prompt;
use crate::model::spec::{NoiseRegion, Prediction, Preset};
use crate::pipe::Failure;

pub(super) fn weights(size: usize) -> Weights {
    // These batches withhold no condition, so the null condition would have no gradient.
    let spec = ModelSpec { null_condition: false, ..ModelSpec::preset(Preset::Tiny) };
    Weights::init(&spec.with_image_size(size).unwrap(), 11).unwrap()
}

/// A smooth slice: a few waves whose phases come from `seed`, and a round hole.
pub(super) fn example(size: usize, seed: u64) -> Example {
    let draws = noise::normal(&mut noise::stream("test slice", &[&seed.to_le_bytes()]), 16);
    let at = |i: usize| [(i % size) as f32, (i / size) as f32].map(|v| v / size as f32 - 0.5);
    let image = |i: usize| {
        let [x, y] = at(i);
        let wave = |k: usize| {
            let [u, v, phase] = [draws[3 * k], draws[3 * k + 1], draws[3 * k + 2]];
            (7.0 * (u * x + v * y) + 3.0 * phase).sin() * 0.25
        };
        (0..4).map(wave).sum::<f32>()
    };
    let mask = |i: usize| {
        let [x, y] = at(i);
        let [cx, cy] = [draws[12].clamp(-1.0, 1.0) * 0.2, draws[13].clamp(-1.0, 1.0) * 0.2];
        f32::from(u8::from((x - cx).powi(2) + (y - cy).powi(2) < 0.04))
    };
    let plane = |f: &dyn Fn(usize) -> f32| (0..size * size).map(f).collect::<Vec<f32>>();
    let mut regions = vec![0.0; REGIONS * size * size];
    regions[..size * size].copy_from_slice(&plane(&mask));
    Example {
        image: plane(&image),
        mask: plane(&mask),
        regions,
        loss_mask: plane(&mask),
        condition: [1.0, 0.0, 0.0, 0.0, 0.5, 0.0],
    }
}

pub(super) fn options(steps: usize) -> TrainingOptions {
    TrainingOptions { steps, seed: 3, ..TrainingOptions::default() }
}

pub(super) fn go(_: StepReport) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Two slices, one of them without its condition, so that every tensor of a model has a gradient.
fn lesson(trainer: &Trainer<'_>, size: usize) -> Lesson {
    let (batch, mut rng) = ([example(size, 0), example(size, 1)], step_stream(0, 0));
    let options = LessonOptions::default();
    let mut lesson = trainer.diffusion.lesson(&batch, size, &options, &mut rng).unwrap();
    lesson.batch.unconditional = vec![false, true];
    lesson
}

/// Trains on eight slices that change with the step.
fn run(size: usize, options: &TrainingOptions) -> (Weights, TrainingSummary) {
    let mut next =
        |step: usize| Ok((0..2).map(|i| example(size, (2 * step + i) as u64 % 8)).collect());
    train(&weights(size), &Device::flex(), options, &mut next, &mut go).unwrap()
}

#[test]
fn the_same_seed_and_examples_give_the_same_bytes_and_another_seed_does_not() {
    let bytes = |options: &TrainingOptions| checkpoint::to_bytes(&run(16, options).0).unwrap();
    assert_eq!(bytes(&options(4)), bytes(&options(4)));
    assert_ne!(bytes(&options(4)), bytes(&TrainingOptions { seed: 4, ..options(4) }));
}

#[test]
fn a_training_says_how_many_examples_it_saw_and_changes_every_tensor() {
    let (trained, summary) = run(16, &TrainingOptions { condition_drop: 0.5, ..options(4) });
    let by_noise = summary.loss_by_noise.map(Option::unwrap_or_default);
    assert!(by_noise.into_iter().all(|loss| loss >= 0.0) && by_noise != [0.0; 4]);
    assert_eq!((summary.steps, summary.examples), (4, 8));
    assert!(summary.loss_mean.is_finite() && summary.gradient_norm_p50 > 0.0);
    assert!(summary.gradient_norm_p50 <= summary.gradient_norm_p99);
    for ((tensor, new), (_, old)) in trained.iter().zip(weights(16).iter()) {
        assert_ne!(new, old, "{}", tensor.name);
    }
}

#[test]
fn examples_that_are_not_numbers_never_reach_a_model() {
    let start = weights(16);
    let mut next = |step: usize| {
        let mut bad = example(16, 0);
        if step == 1 {
            bad.image[7] = f32::INFINITY;
        }
        Ok(vec![bad])
    };
    let result = train(&start, &Device::flex(), &options(3), &mut next, &mut go);
    assert!(matches!(result, Err(TrainError::Example { step: 2, .. })));
}

#[test]
fn a_training_in_which_no_step_counts_is_refused_by_its_options() {
    let one = |trained_timesteps, zero_terminal_snr, loss_weight| {
        let spec = ModelSpec { trained_timesteps, zero_terminal_snr, ..weights(16).spec().clone() };
        let start = Weights::init(&spec, 11).unwrap();
        let options = TrainingOptions { loss_weight, ..options(1) };
        let mut next = |_| Ok(vec![example(16, 0)]);
        train(&start, &Device::flex(), &options, &mut next, &mut go).map(|_| ())
    };
    for zero_terminal_snr in [false, true] {
        let error = one(1, zero_terminal_snr, LossWeight::MinSnr).unwrap_err();
        assert!(matches!(error, TrainError::Option { name: "loss_weight", .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("min_snr") && text.contains("trained_timesteps 1"), "{text}");
        one(1, zero_terminal_snr, LossWeight::Uniform).unwrap();
        one(4, zero_terminal_snr, LossWeight::MinSnr).unwrap();
    }
}

#[test]
fn a_model_that_explodes_is_an_error_with_its_step() {
    // Weights so large that their products overflow.
    let start = weights(16);
    let large = start.iter().map(|(_, values)| values.iter().map(|v| v * 1e20).collect());
    let start = start.with_values(large.collect()).unwrap();
    let mut next = |_| Ok(vec![example(16, 0)]);
    let result = train(&start, &Device::flex(), &options(3), &mut next, &mut go);
    assert!(matches!(result, Err(TrainError::NotFinite { step: 1, .. })), "{result:?}");
}

#[test]
fn a_device_that_gives_up_in_a_step_is_an_error_with_its_step_and_the_next_training_runs() {
    let (start, device, options) = (weights(16), Device::flex(), options(3));
    let mut trainer = Trainer::new(&start, &device, &options);
    assert!(trainer.guarded_step(0, &[example(16, 0)]).is_ok());
    // A network of other widths than the embeddings it is given: its first product panics.
    let other = ModelSpec { channels: 32, ..start.spec().clone() };
    trainer.net = Unet::new(&Weights::init(&other, 1).unwrap(), &trainer.device);
    let error = trainer.guarded_step(1, &[example(16, 0)]).unwrap_err();
    assert!(matches!(error, TrainError::Crash { step: 2, .. }), "{error}");
    let said = error.to_string();
    assert!(said.starts_with("the device failed at step 2: ") && !said.contains('\n'), "{said}");
    assert_eq!(local_round::Error::Train(error).failure(), Failure::Device);
    assert_eq!(run(16, &options).1.steps, 3);
}

#[test]
fn training_stops_between_steps_and_passes_on_why_there_are_no_examples() {
    let start = weights(16);
    let mut next = |_| Ok(vec![example(16, 0)]);
    let mut stop = |report: StepReport| {
        if report.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let result = train(&start, &Device::flex(), &options(5), &mut next, &mut stop);
    assert!(matches!(result, Err(TrainError::Stopped { steps: 2 })));
    let mut none = |_| Err("the disk is gone".into());
    let error = train(&start, &Device::flex(), &options(5), &mut none, &mut go).unwrap_err();
    assert_eq!(error.to_string(), "no examples for step 1: the disk is gone");
}

#[test]
fn gradients_are_clipped_by_their_joint_norm() {
    let start = weights(16);
    let device = Device::flex();
    let options = options(1);
    let trainer = Trainer::new(&start, &device, &options);
    let (_, mut gradients) = trainer.differentiate(lesson(&trainer, 16));
    let norm = |gradients: &GradientsParams| {
        gradients::norm(&trainer.net, gradients, &trainer.device).unwrap()
    };
    let before = norm(&gradients);
    gradients::scale(&trainer.net, &mut gradients, 0.5 / before);
    assert!((norm(&gradients) - 0.5).abs() < 1e-5);
}

#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    let device = Device::flex();
    let options = options(1);
    // Every tensor away from zero, so that no gradient is zero by construction.
    let start = weights(8);
    let draw = |name: &str, n| noise::normal(&mut noise::stream(name, &[]), n);
    let jitter = |(t, v): (&crate::model::blueprint::TensorSpec, &[f32])| {
        v.iter().zip(draw(&t.name, v.len())).map(|(v, e)| v + 0.05 * e).collect()
    };
    let start = start.with_values(start.iter().map(jitter).collect()).unwrap();
    let loss_of = |weights: &Weights| {
        let trainer = Trainer::new(weights, &device, &options);
        let losses = trainer.differentiate(lesson(&trainer, 8)).0;
        numbers(1, losses).unwrap().iter().sum::<f64>()
    };
    let trainer = Trainer::new(&start, &device, &options);
    let (_, gradients) = trainer.differentiate(lesson(&trainer, 8));
    let mut flat = Flat { gradients: &gradients, values: vec![Vec::new(); start.iter().len()] };
    trainer.net.visit(&mut flat);
    // Along its own direction the loss changes by the square of the gradient's norm, tensor by
    // tensor.
    for (place, (tensor, _)) in start.iter().enumerate().step_by(8) {
        let gradient = &flat.values[place];
        let square: f64 = gradient.iter().map(|&g| f64::from(g).powi(2)).sum();
        let step = 2e-3 / square.sqrt();
        let moved = |sign: f64| {
            let values = start.iter().enumerate().map(|(i, (_, values))| {
                let shift =
                    |(v, g): (&f32, &f32)| (f64::from(*v) + sign * step * f64::from(*g)) as f32;
                if i == place {
                    values.iter().zip(gradient).map(shift).collect()
                } else {
                    values.to_vec()
                }
            });
            loss_of(&start.with_values(values.collect()).unwrap())
        };
        let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
        assert!((slope / square - 1.0).abs() < 0.05, "{}: {slope} {square}", tensor.name);
    }
}

#[test]
fn our_own_operations_give_the_gradients_that_burn_gives() {
    let (start, device, options) = (weights(16), Device::flex(), options(1));
    // Away from the zeros that a model starts with, which would hide half of the gradients.
    let moved = start.iter().map(|(_, v)| v.iter().map(|v| v + 0.03).collect());
    let start = start.with_values(moved.collect()).unwrap();
    let gradients = |ops: Ops| {
        let mut trainer = Trainer::new(&start, &device, &options);
        assert_eq!(Ops::on(&trainer.device, Precision::F32), Ops::Own);
        trainer.net = Unet::working_by(ops, &start, &trainer.device);
        let (_, gradients) = trainer.differentiate(lesson(&trainer, 16));
        let values = vec![Vec::new(); start.iter().len()];
        let mut flat = Flat { gradients: &gradients, values };
        trainer.net.visit(&mut flat);
        flat.values
    };
    let (burn, ours) = (gradients(Ops::Stock(Precision::F32)), gradients(Ops::Own));
    for ((tensor, _), (burn, ours)) in start.iter().zip(burn.iter().zip(&ours)) {
        let largest = burn.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        assert!(largest > 0.0, "{}", tensor.name);
        for (a, b) in burn.iter().zip(ours) {
            assert!((a - b).abs() < 2e-4 * largest, "{}: {a} {b}", tensor.name);
        }
    }
}

/// Reads every gradient to the place of its parameter.
pub(super) struct Flat<'a> {
    pub(super) gradients: &'a GradientsParams,
    pub(super) values: Vec<Vec<f32>>,
}

impl ModuleVisitor for Flat<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.get::<D>(param.id).unwrap();
        self.values[param.id.val() as usize] = gradient.into_data().try_into_vec().unwrap();
    }
}

/// The squared error of what `sampler` paints into `slice`, by `start` and once it was trained on it.
fn error_before_and_after(start: &Weights, slice: &Example, sampler: SampleOptions) -> [f64; 2] {
    let mut next = |_| Ok(vec![slice.clone(); 4]);
    let options = TrainingOptions { learning_rate: 2e-3, ..options(150) };
    let (trained, _) = train(start, &Device::flex(), &options, &mut next, &mut go).unwrap();
    [start, &trained].map(|weights| {
        let prompts = [Prompt::of(slice, [1; 32], 0)];
        let mut go = |_, _| ControlFlow::Continue(());
        let painted =
            sampler::sample(weights, &Device::flex(), &prompts, &sampler, &mut go).unwrap();
        let pixels = painted[0].iter().zip(&slice.image);
        pixels.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    })
}

#[test]
fn one_slice_can_be_learnt_by_heart() {
    let slice = example(16, 1);
    let options = SampleOptions { steps: 10, samples: 4, seed: 0, ..Sampler::Ddim.options() };
    let [before, after] = error_before_and_after(&weights(16), &slice, options);
    assert!(after * 10.0 < before, "{before} {after}");
    assert_eq!(slice.condition.len(), CONDITIONS);
}

#[test]
fn a_model_that_learns_its_variance_learns_the_slice_too_and_samples_with_both() {
    let slice = example(16, 1);
    let spec = ModelSpec { learn_sigma: true, ..weights(16).spec().clone() };
    let start = Weights::init(&spec, 11).unwrap();
    let options = SampleOptions { steps: 20, samples: 4, seed: 0, ..Sampler::Ddpm.options() };
    let [before, after] = error_before_and_after(&start, &slice, options);
    assert!(after * 10.0 < before, "{before} {after}");
}

#[test]
fn the_learning_rate_rises_stays_and_falls() {
    let options =
        TrainingOptions { learning_rate: 1.0, warmup_steps: 2, decay_steps: 4, ..options(10) };
    let rates: Vec<f64> = (0..10).map(|step| options.rate(step)).collect();
    assert_eq!(rates, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]);
    let constant = TrainingOptions { learning_rate: 1.0, ..self::options(3) };
    assert_eq!([0, 1, 2].map(|step| constant.rate(step)), [1.0; 3]);
}

#[test]
fn a_proximal_term_adds_mu_times_the_way_gone_to_every_gradient() {
    let (start, device) = (weights(8), Device::flex());
    let options = TrainingOptions { proximal_mu: 0.5, ..options(1) };
    let moved = start.iter().map(|(_, v)| v.iter().map(|v| v * 1.5 + 0.25).collect());
    let moved = start.with_values(moved.collect()).unwrap();
    let mut trainer = Trainer::new(&start, &device, &options);
    trainer.net = Unet::new(&moved, &trainer.device);
    let flat = |gradients: &GradientsParams| {
        let mut flat = Flat { gradients, values: vec![Vec::new(); start.iter().len()] };
        trainer.net.visit(&mut flat);
        flat.values
    };
    let (_, mut gradients) = trainer.differentiate(lesson(&trainer, 8));
    let plain = flat(&gradients);
    trainer.anchor.as_ref().unwrap().pull(&trainer.net, &mut gradients, 0.5);
    for ((plain, pulled), (_, base)) in plain.iter().zip(flat(&gradients)).zip(start.iter()) {
        for ((plain, pulled), base) in plain.iter().zip(pulled).zip(base) {
            let expected = plain + 0.5 * (base * 0.5 + 0.25);
            assert!((pulled - expected).abs() < 1e-5 * expected.abs().max(1.0));
        }
    }
    // What the step did not use is pulled too.
    let mut none = GradientsParams::new();
    trainer.anchor.as_ref().unwrap().pull(&trainer.net, &mut none, 0.5);
    assert!(flat(&none).iter().flatten().any(|&pull| pull != 0.0));
}

#[test]
fn a_proximal_term_keeps_a_training_near_its_start_and_shows_from_the_second_step() {
    let way = |proximal_mu: f64, steps: usize| {
        let options = TrainingOptions { proximal_mu, gradient_norm_max: 1e6, ..options(steps) };
        let trained = run(16, &options).0;
        let start = weights(16);
        let pairs = trained.iter().zip(start.iter()).flat_map(|((_, a), (_, b))| a.iter().zip(b));
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    assert_eq!(way(50.0, 1), way(0.0, 1));
    assert!(way(50.0, 8) < 0.5 * way(0.0, 8), "{} {}", way(50.0, 8), way(0.0, 8));
}

#[test]
fn every_kind_of_prediction_and_weight_trains_and_the_same_bytes_come_again() {
    for (prediction, loss_weight) in [
        (Prediction::Epsilon, LossWeight::MinSnr),
        (Prediction::Sample, LossWeight::Uniform),
        (Prediction::Direct, LossWeight::MinSnr),
    ] {
        let spec = weights(16).spec().clone();
        let spec = ModelSpec { prediction, noise_region: NoiseRegion::Full, ..spec };
        let start = Weights::init(&spec, 5).unwrap();
        let options = TrainingOptions { loss_weight, condition_drop: 0.5, ..options(3) };
        let trained = || {
            let mut next = |step: usize| Ok(vec![example(16, step as u64), example(16, 9)]);
            train(&start, &Device::flex(), &options, &mut next, &mut go).unwrap()
        };
        let (weights, summary) = trained();
        assert!(summary.loss_mean.is_finite());
        assert_eq!(summary.loss_by_noise[3].is_none(), prediction == Prediction::Direct);
        assert_eq!(
            checkpoint::to_bytes(&trained().0).unwrap(),
            checkpoint::to_bytes(&weights).unwrap()
        );
    }
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let refuse = |options: TrainingOptions| options.validate().unwrap_err().to_string();
    let drop = TrainingOptions { condition_drop: 1.1, ..options(1) };
    assert!(refuse(drop).contains("condition_drop"));
    let mu = TrainingOptions { proximal_mu: f64::NAN, ..options(1) };
    assert!(refuse(mu).contains("proximal_mu"));
}
