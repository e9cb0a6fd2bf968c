//! What a lesson promises, on slices of 8 x 8 pixels.

use super::*;
use crate::model::spec::{ModelSpec, Preset, Schedule};

const PLAIN: LessonOptions =
    LessonOptions { loss_weight: LossWeight::Uniform, condition_drop: 0.0 };

fn spec(prediction: Prediction, noise_region: NoiseRegion) -> ModelSpec {
    let schedule = Schedule::Cosine;
    ModelSpec { schedule, prediction, noise_region, ..ModelSpec::preset(Preset::Tiny) }
}

/// A slice of 8 x 8 pixels with a mask in one corner, a part of which counts.
fn example() -> Example {
    let plane = |f: &dyn Fn(usize) -> f32| (0..64).map(f).collect::<Vec<f32>>();
    Example {
        image: plane(&|i| (i as f32 * 0.3).sin()),
        mask: plane(&|i| f32::from(u8::from(i % 8 < 4 && i < 32))),
        regions: vec![1.0; REGIONS * 64],
        loss_mask: plane(&|i| f32::from(u8::from(i % 8 < 2 && i < 32))),
        condition: [1.0, 0.0, 0.0, 0.0, 0.5, 0.0],
    }
}

fn lesson(spec: &ModelSpec, count: usize, options: &LessonOptions) -> Lesson {
    let mut rng = noise::stream("test", &[]);
    Diffusion::new(spec).lesson(&vec![example(); count], 8, options, &mut rng).unwrap()
}

#[test]
fn masked_noise_leaves_the_known_region_clean_and_weighs_only_the_loss_mask() {
    let (lesson, example) =
        (lesson(&spec(Prediction::V, NoiseRegion::Masked), 2, &PLAIN), example());
    assert_eq!(lesson.batch.planes.len(), 2 * 9 * 64);
    for i in 0..64 {
        let (x_t, inside) = (lesson.batch.planes[i], example.mask[i] > 0.5);
        assert_eq!(x_t == example.image[i], !inside, "{i}");
        let voided = lesson.batch.planes[64 + i];
        assert_eq!(voided, if inside { VOID } else { example.image[i] });
        assert_eq!(lesson.weight[i] > 0.0, example.loss_mask[i] > 0.5);
    }
    assert!((lesson.weight.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    assert!(lesson.shares.iter().all(|share| (share - 0.5).abs() < 1e-6));
}

#[test]
fn what_is_painted_without_a_truth_teaches_nothing_wherever_the_noise_is() {
    let truth = example();
    let mut other = truth.clone();
    let hidden = |i: usize| truth.mask[i] > 0.5 && truth.loss_mask[i] < 0.5;
    assert_eq!((0..64).filter(|&i| hidden(i)).count(), 8);
    (0..64).filter(|&i| hidden(i)).for_each(|i| other.image[i] = -other.image[i]);
    for region in [NoiseRegion::Full, NoiseRegion::Masked] {
        let spec = ModelSpec { learn_sigma: true, ..spec(Prediction::Sample, region) };
        let taught = |example: &Example| {
            let (one, mut rng) = (std::slice::from_ref(example), noise::stream("test", &[]));
            Diffusion::new(&spec).lesson(one, 8, &PLAIN, &mut rng).unwrap()
        };
        let weighed = |values: &[f32], weight: &[f32]| -> Vec<f32> {
            values.iter().zip(weight).map(|(value, weight)| value * weight).collect()
        };
        let [one, two] = [taught(&truth), taught(&other)];
        assert_ne!(one.target, two.target);
        assert_eq!(weighed(&one.target, &one.weight), weighed(&two.target, &two.weight));
        let [first, second] = [one.variance.unwrap(), two.variance.unwrap()];
        let bound = |v: &VarianceLesson| weighed(&v.truth, &v.weight);
        assert_eq!(bound(&first), bound(&second));
        for i in 0..64 {
            let seen = truth.mask[i] < 0.5;
            let expected = match region {
                NoiseRegion::Full if seen => 1.0 / 56.0,
                NoiseRegion::Full if !hidden(i) => 1.0 / 56.0 + 1.0 / 8.0,
                NoiseRegion::Masked if !seen && !hidden(i) => 1.0 / 8.0,
                _ => 0.0,
            };
            assert!((one.weight[i] - expected).abs() < 1e-7, "{i}");
        }
    }
}

#[test]
fn x_t_and_the_target_of_every_prediction_come_from_one_noise() {
    for region in [NoiseRegion::Full, NoiseRegion::Masked] {
        let noise = lesson(&spec(Prediction::Epsilon, region), 3, &PLAIN).target;
        for prediction in [Prediction::V, Prediction::Epsilon, Prediction::Sample] {
            let diffusion = Diffusion::new(&spec(prediction, region));
            let (lesson, example) = (lesson(&spec(prediction, region), 3, &PLAIN), example());
            for (place, &t) in lesson.batch.timesteps.iter().enumerate() {
                for i in (0..64).filter(|&i| region == NoiseRegion::Full || example.mask[i] > 0.5) {
                    let (a, s) = diffusion.mix(t);
                    let (x, e) = (f64::from(example.image[i]), f64::from(noise[place * 64 + i]));
                    let x_t = f64::from(lesson.batch.planes[place * 9 * 64 + i]);
                    assert!((x_t - (a * x + s * e)).abs() < 1e-6);
                    let target = f64::from(lesson.target[place * 64 + i]);
                    assert!((target - diffusion.target(x, e, t)).abs() < 1e-6);
                }
            }
        }
    }
}

#[test]
fn the_regression_twin_reads_the_voided_image_at_step_0_and_learns_the_image() {
    let twin = spec(Prediction::Direct, NoiseRegion::Masked);
    let (lesson, example) = (lesson(&twin, 3, &PLAIN), example());
    assert_eq!(lesson.batch.timesteps, [0; 3]);
    for slice in 0..3 {
        let planes = &lesson.batch.planes[slice * 9 * 64..];
        assert_eq!(planes[..64], planes[64..128]);
        assert_eq!(lesson.target[slice * 64..][..64], example.image);
    }
}

#[test]
fn the_network_never_reads_the_truth_under_the_mask() {
    // At the last step of zero-terminal SNR x_t is all noise, so that two truths under one mask look
    // the same; without noise the planes hold none of it.
    let last = ModelSpec {
        zero_terminal_snr: true,
        trained_timesteps: 1,
        ..spec(Prediction::V, NoiseRegion::Masked)
    };
    for spec in [last, spec(Prediction::Direct, NoiseRegion::Masked)] {
        let diffusion = Diffusion::new(&spec);
        let truth = example();
        let mut lie = truth.clone();
        for (x, m) in lie.image.iter_mut().zip(&truth.mask) {
            *x = if *m > 0.5 { -*x } else { *x };
        }
        let planes = |example: &Example| {
            let (one, mut rng) = (std::slice::from_ref(example), noise::stream("test", &[]));
            diffusion.lesson(one, 8, &PLAIN, &mut rng).unwrap().batch.planes
        };
        assert_eq!(planes(&truth), planes(&lie));
    }
}

#[test]
fn steps_are_stratified_over_the_batch() {
    let mut rng = noise::stream("test", &[]);
    for _ in 0..100 {
        for (i, t) in stratified(8, 1000, &mut rng).into_iter().enumerate() {
            assert!((i * 125..(i + 1) * 125).contains(&t), "{i} {t}");
        }
    }
    assert!(stratified(3, 2, &mut rng).iter().all(|&t| t < 2));
}

#[test]
fn a_few_step_model_learns_its_own_steps_alone_and_all_of_them() {
    let few = ModelSpec { trained_timesteps: 10, ..spec(Prediction::V, NoiseRegion::Masked) };
    let steps = lesson(&few, 10, &PLAIN).batch.timesteps;
    assert_eq!(steps, [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]);
    let one = ModelSpec { trained_timesteps: 1, ..few };
    assert_eq!(lesson(&one, 2, &PLAIN).batch.timesteps, [999, 999]);
}

#[test]
fn min_snr_scales_the_weights_of_every_slice_by_its_step_and_nothing_else() {
    let spec = spec(Prediction::V, NoiseRegion::Full);
    let options = LessonOptions { loss_weight: LossWeight::MinSnr, ..PLAIN };
    let (plain, weighed) = (lesson(&spec, 4, &PLAIN), lesson(&spec, 4, &options));
    assert_eq!((&plain.batch.planes, &plain.target), (&weighed.batch.planes, &weighed.target));
    assert_eq!(plain.shares, weighed.shares);
    for (slice, &t) in plain.batch.timesteps.iter().enumerate() {
        let kept = Diffusion::new(&spec).alpha_bar(t);
        let factor = LossWeight::MinSnr.factor(Prediction::V, kept);
        for i in slice * 64..(slice + 1) * 64 {
            let expected = f64::from(plain.weight[i]) * factor;
            assert!((f64::from(weighed.weight[i]) - expected).abs() < 1e-9);
        }
    }
}

#[test]
fn min_snr_weighs_the_squared_error_alone_and_not_the_bound_of_a_learnt_variance() {
    let spec = ModelSpec { learn_sigma: true, ..spec(Prediction::V, NoiseRegion::Masked) };
    let options = LessonOptions { loss_weight: LossWeight::MinSnr, ..PLAIN };
    let (plain, weighed) = (lesson(&spec, 4, &PLAIN), lesson(&spec, 4, &options));
    assert_ne!(weighed.weight, plain.weight);
    assert_eq!(weighed.variance.unwrap().weight, plain.weight);
    assert_eq!(plain.variance.unwrap().weight, plain.weight);
}

#[test]
fn conditions_are_dropped_as_often_as_asked_and_only_where_the_model_has_a_null_condition() {
    let spec = spec(Prediction::V, NoiseRegion::Masked);
    let options = LessonOptions { condition_drop: 0.25, ..PLAIN };
    let (kept, dropped) = (lesson(&spec, 400, &PLAIN), lesson(&spec, 400, &options));
    assert!(kept.batch.unconditional.is_empty());
    let count = dropped.batch.unconditional.iter().filter(|&&dropped| dropped).count();
    assert!((70..130).contains(&count), "{count}");
    assert_eq!(dropped.batch.timesteps, kept.batch.timesteps);
    for (slice, &gone) in dropped.batch.unconditional.iter().enumerate() {
        let planes = |lesson: &Lesson| lesson.batch.planes[slice * 576..][..576].to_vec();
        let (kept, dropped) = (planes(&kept), planes(&dropped));
        assert_eq!(dropped[..192], kept[..192], "what is seen stays");
        assert!(dropped[192..].iter().all(|&region| region == if gone { 0.0 } else { 1.0 }));
    }
    let always = LessonOptions { condition_drop: 1.0, ..PLAIN };
    assert!(lesson(&spec, 3, &always).batch.unconditional.iter().all(|&dropped| dropped));
    let without = ModelSpec { null_condition: false, ..spec };
    let lesson = lesson(&without, 3, &always);
    assert!(lesson.batch.unconditional.is_empty());
    assert!(lesson.batch.planes[192..576].iter().all(|&region| region == 1.0));
}

#[test]
fn only_a_model_that_learns_its_variance_is_taught_one() {
    let plain = spec(Prediction::V, NoiseRegion::Masked);
    assert!(lesson(&plain, 2, &PLAIN).variance.is_none());
    let learns = ModelSpec { learn_sigma: true, trained_timesteps: 10, ..plain };
    let taught = lesson(&learns, 10, &PLAIN).variance.unwrap();
    assert!((taught.scale - 0.01).abs() < 1e-15);
    assert_eq!(taught.truth[64..128], example().image);
    let first: Vec<bool> = taught.bounds.iter().map(|bound| bound.is_first).collect();
    assert_eq!(first, [true, false, false, false, false, false, false, false, false, false]);
    assert!(taught.bounds.iter().all(|bound| bound.log_variance <= bound.log_beta));
}

#[test]
fn examples_that_do_not_fit_are_refused() {
    let diffusion = Diffusion::new(&spec(Prediction::V, NoiseRegion::Masked));
    let refuse = |examples: &[Example]| {
        let mut rng = noise::stream("test", &[]);
        diffusion.lesson(examples, 8, &PLAIN, &mut rng).unwrap_err()
    };
    assert_eq!(refuse(&[]), ExampleError::Empty);
    let mut short = example();
    short.mask.pop();
    assert!(matches!(refuse(&[example(), short]), ExampleError::Size { index: 1, .. }));
    let mut sick = example();
    sick.image[5] = f32::NAN;
    assert!(matches!(refuse(&[sick]), ExampleError::Value { plane: "image", .. }));
    let mut idle = example();
    idle.loss_mask.fill(0.0);
    assert_eq!(refuse(&[idle]), ExampleError::NothingToLearn);
}
