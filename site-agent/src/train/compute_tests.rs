//! How a step is computed changes what it costs and not what it learns: precision, parts of a batch,
//! checkpoints.

use burn::module::Module;

use super::tests::{Flat, example, go, options, weights};
use super::*;
use crate::model::spec::{ModelSpec, Preset};

/// Weights away from the zeros that a model starts with, which would hide half of the gradients.
fn moved(start: &Weights) -> Weights {
    let values = start.iter().map(|(_, values)| values.iter().map(|v| v + 0.03).collect());
    start.with_values(values.collect()).unwrap()
}

/// Five slices of 8 pixels, one without its condition, of a model that learns its variance.
fn five() -> (Weights, Vec<Example>) {
    let spec = ModelSpec { learn_sigma: true, ..ModelSpec::preset(Preset::Tiny) };
    let start = Weights::init(&spec.with_image_size(8).unwrap(), 3).unwrap();
    (moved(&start), (0..5).map(|i| example(8, i)).collect())
}

/// The losses and the gradient of one step, `[tensor][value]`; every slice counts `share` as much.
fn step_of(start: &Weights, options: &TrainingOptions, share: f32) -> (Vec<f64>, Vec<Vec<f32>>) {
    let mut trainer = Trainer::new(start, &Device::flex(), options);
    let lesson = lesson_of(&trainer, share);
    let (losses, gradients) = trainer.gradient(1, &lesson.split(options.micro_batch)).unwrap();
    (losses, flat(&trainer, &gradients))
}

/// Every gradient, at the place of its parameter.
fn flat(trainer: &Trainer<'_>, gradients: &GradientsParams) -> Vec<Vec<f32>> {
    let mut flat = Flat { gradients, values: vec![vec![]; five().0.iter().len()] };
    trainer.net.visit(&mut flat);
    flat.values
}

fn lesson_of(trainer: &Trainer<'_>, share: f32) -> Lesson {
    let (mut rng, examples) = (step_stream(0, 0), five().1);
    let mut lesson =
        trainer.diffusion.lesson(&examples, 8, &LessonOptions::default(), &mut rng).unwrap();
    lesson.batch.unconditional = vec![false, true, false, false, false];
    lesson.weight.iter_mut().for_each(|weight| *weight *= share);
    lesson
}

/// The largest difference of a tensor from another by the other's largest value, over all tensors.
fn apart(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    let of = |(found, expected): (&Vec<f32>, &Vec<f32>)| {
        let largest = expected.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        differences.fold(0.0_f32, f32::max) / largest
    };
    found.iter().zip(expected).map(of).fold(0.0, f32::max)
}

#[test]
fn a_step_in_parts_is_the_step_as_a_whole_and_comes_out_alike_again() {
    let start = five().0;
    let (whole_losses, whole) = step_of(&start, &options(1), 1.0);
    for micro_batch in [1, 2, 3, 4] {
        let options = TrainingOptions { micro_batch, ..options(1) };
        let (losses, parts) = step_of(&start, &options, 1.0);
        assert!(apart(&parts, &whole) < 1e-5, "{micro_batch}: {}", apart(&parts, &whole));
        for (a, b) in losses.iter().zip(&whole_losses) {
            assert!((a - b).abs() < 1e-5 * b.abs().max(1e-3), "{micro_batch}: {a} {b}");
        }
        assert_eq!(step_of(&start, &options, 1.0).1, parts);
    }
    for micro_batch in [0, 5, 9] {
        let options = TrainingOptions { micro_batch, ..options(1) };
        assert_eq!(step_of(&start, &options, 1.0).1, whole);
    }
}

#[test]
fn checkpoints_change_no_gradient() {
    let start = five().0;
    let gradient_checkpointing = true;
    let options = TrainingOptions { gradient_checkpointing, ..options(1) };
    let trainer = Trainer::new(&start, &Device::flex(), &options);
    assert!(trainer.device.gradient_checkpointing_strategy().is_some());
    let (plain, again) =
        (step_of(&start, &self::options(1), 1.0).1, step_of(&start, &options, 1.0).1);
    assert!(apart(&again, &plain) < 1e-6, "{}", apart(&again, &plain));
}

#[test]
fn gradients_in_short_types_are_those_of_f32_up_to_their_rounding() {
    let start = five().0;
    let f32 = step_of(&start, &options(1), 1.0).1;
    let with = |precision| step_of(&start, &TrainingOptions { precision, ..options(1) }, 1.0).1;
    let (bf16, f16) = (apart(&with(Precision::Bf16), &f32), apart(&with(Precision::F16), &f32));
    println!("bf16 {bf16:e}, f16 {f16:e}");
    assert!(bf16 > 1e-4 && bf16 < 0.3, "{bf16}");
    assert!(f16 > 1e-5 && f16 < 0.5 * bf16, "{f16} {bf16}");
}

#[test]
fn a_gradient_too_small_for_f16_survives_by_its_scale_and_one_too_large_is_taken_again() {
    let start = five().0;
    let share = 1e-4;
    let f32 = step_of(&start, &options(1), share).1;
    let options = TrainingOptions { precision: Precision::F16, ..options(1) };
    let scaled = step_of(&start, &options, share).1;
    println!("scaled {:e}", apart(&scaled, &f32));
    assert!(apart(&scaled, &f32) < 0.15, "{}", apart(&scaled, &f32));
    // The same without a scale: what flows back is lost.
    let mut trainer = Trainer::new(&start, &Device::flex(), &options);
    trainer.scale = LossScale::new(Precision::F32);
    let unscaled = trainer.gradient(1, &[lesson_of(&trainer, share)]).unwrap().1;
    let unscaled = apart(&flat(&trainer, &unscaled), &f32);
    assert!(unscaled > 0.5, "{unscaled}");

    let mut trainer = Trainer::new(&start, &Device::flex(), &options);
    let large = 1.0;
    let begun = trainer.scale.factor();
    let found = trainer.gradient(1, &[lesson_of(&trainer, large)]).unwrap().1;
    let norm = gradients::norm(&trainer.net, &found, &trainer.device).unwrap();
    assert!(norm.is_finite() && trainer.scale.factor() < begun);
    let f32 = step_of(&start, &self::options(1), large).1;
    let again = apart(&flat(&trainer, &found), &f32);
    assert!(again < 0.05, "{again}");
}

#[test]
fn weights_stay_f32_so_that_a_step_too_small_for_bf16_moves_them() {
    let start = moved(&weights(8));
    // A weight of 1 has neighbours at 2^-8 in bf16; these steps are of 2^-17.
    let learning_rate = 1.0 / 131_072.0;
    let options = TrainingOptions { precision: Precision::Bf16, learning_rate, ..options(2) };
    let mut next = |step: usize| Ok(vec![example(8, step as u64), example(8, 9)]);
    let (trained, _) = train(&start, &Device::flex(), &options, &mut next, &mut go).unwrap();
    let mut ones = 0;
    for ((tensor, new), (_, old)) in trained.iter().zip(start.iter()) {
        let all = new.iter().zip(old).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(f64::from(all) < 2.1 * learning_rate, "{}: {all}", tensor.name);
        ones += new.iter().zip(old).filter(|&(a, b)| *b > 1.0 && a != b).count();
    }
    assert!(ones > 100, "{ones}");
}

#[test]
fn slices_are_learnt_by_heart_in_every_precision_alike() {
    let losses = Precision::ALL.map(|precision| {
        let learning_rate = 2e-3;
        let options = TrainingOptions { precision, learning_rate, ..options(60) };
        let mut next = |_| Ok(vec![example(8, 1); 4]);
        let (_, summary) =
            train(&weights(8), &Device::flex(), &options, &mut next, &mut go).unwrap();
        (summary.loss_first_quarter, summary.loss_last_quarter)
    });
    println!("{losses:?}");
    let exact = losses[0].1;
    for (first, last) in losses {
        assert!(last < 0.5 * first, "{losses:?}");
        assert!((last / exact - 1.0).abs() < 0.25, "{losses:?}");
    }
}

#[test]
fn where_the_decoder_alone_travels_it_alone_is_trained_by_either_operations() {
    let (start, examples) = five();
    let options = TrainingOptions {
        part: Part::Decoder,
        weight_decay: 0.1,
        proximal_mu: 0.1,
        gradient_checkpointing: true,
        ..options(2)
    };
    for ops in [Ops::Own, Ops::Stock(Precision::F32)] {
        let mut trainer = Trainer::by(ops, &start, &Device::flex(), &options);
        for step in 0..2 {
            trainer.step(step, &examples).unwrap();
        }
        let trained = trainer.net.weights(&start).unwrap();
        for ((tensor, new), (_, old)) in trained.iter().zip(start.iter()) {
            let moved = new != old;
            assert_eq!(moved, Part::Decoder.has(&tensor.name), "{} by {ops:?}", tensor.name);
        }
    }
}
