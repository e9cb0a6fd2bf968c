//! The network against another implementation of it, and against itself.
//!
//! The golden tensors come from `tests/reference/unet.py`, which says what each one is.

use std::collections::BTreeMap;

use burn::optim::GradientsParams;
use rand::RngExt;
use safetensors::tensor::SafeTensors;

use super::super::blueprint::TensorSpec;
use super::super::noise;
use super::super::spec::{Heads, Preset};
use super::super::state_dict::floats;
use super::*;

/// How many values of a gradient the reference keeps at most, and how far apart they lie.
const KEPT: usize = 256;
const STRIDE: usize = 7919;

/// A network of the reference, with the slices whose condition is withheld and their steps.
struct Variant {
    name: &'static str,
    spec: ModelSpec,
    unconditional: Vec<bool>,
    timesteps: Vec<usize>,
}

fn variants() -> Vec<Variant> {
    let tiny = ModelSpec { null_condition: false, ..ModelSpec::preset(Preset::Tiny) };
    let variant = |name, spec, unconditional: &[bool], timesteps: [usize; 2]| {
        let unconditional = unconditional.to_vec();
        Variant { name, spec, unconditional, timesteps: timesteps.to_vec() }
    };
    let add = ModelSpec { emb_mode: EmbMode::Add, ..tiny.clone() };
    let sigma = ModelSpec { learn_sigma: true, ..tiny.clone() };
    let null = ModelSpec { null_condition: true, ..tiny.clone() };
    let other = ModelSpec {
        image_size: 16,
        channel_mult: vec![1, 2, 3],
        res_blocks: 2,
        attention_ds: vec![2, 4],
        heads: Heads::Count(4),
        groups: 4,
        emb_mode: EmbMode::Add,
        learn_sigma: true,
        null_condition: true,
        ..tiny.clone()
    };
    vec![
        variant("concat", tiny, &[], [7, 500]),
        variant("add", add, &[], [7, 500]),
        variant("sigma", sigma, &[], [7, 500]),
        variant("null", null, &[false, true], [7, 500]),
        variant("other", other, &[true, false], [0, 999]),
    ]
}

/// The weights of the reference: value j (from 1) of a tensor is a sine of j and of its name's bytes,
/// scaled by what kind of tensor it is.
fn reference_weights(spec: &ModelSpec) -> Weights {
    let value = |tensor: &TensorSpec, j: usize| {
        let name: u64 = tensor.name.bytes().map(u64::from).sum();
        let s = (0.7 * j as f64 + (name % 97) as f64 / 10.0).sin();
        let (bias, norm) = (tensor.name.ends_with("bias"), tensor.shape.len() == 1);
        let fan_in: usize = tensor.shape[1..].iter().product();
        (match (bias, norm) {
            _ if tensor.name == NULL_CONDITION => s,
            (true, _) => 0.02 * s,
            (false, true) => 1.0 + 0.1 * s,
            (false, false) => s / (fan_in as f64).sqrt(),
        }) as f32
    };
    let start = Weights::init(spec, 0).unwrap();
    let values = start.iter().map(|(t, v)| (1..=v.len()).map(|j| value(t, j)).collect());
    start.with_values(values.collect()).unwrap()
}

/// Two slices of the reference.
fn reference_batch(size: usize, timesteps: &[usize], unconditional: &[bool]) -> Batch {
    Batch {
        planes: (1..=2 * 9 * size * size).map(|i| (0.05 * i as f64).sin() as f32).collect(),
        timesteps: timesteps.to_vec(),
        conditions: vec![1., 0., 0., 0., 0.25, 0., 0., 0., 0., 1., 0.5, 1.],
        unconditional: unconditional.to_vec(),
    }
}

/// The tensors of the reference by name.
fn golden() -> BTreeMap<String, Vec<f32>> {
    let bytes = include_bytes!("../../../tests/fixtures/model/unet.safetensors");
    let file = SafeTensors::deserialize(bytes).unwrap();
    file.iter().map(|(name, view)| (name.to_owned(), floats(&view).unwrap())).collect()
}

fn predicted(weights: &Weights, batch: Batch) -> Vec<f32> {
    predicted_in(Precision::F32, weights, batch)
}

fn predicted_in(precision: Precision, weights: &Weights, batch: Batch) -> Vec<f32> {
    let device = Device::flex();
    let net = Unet::computing_in(precision, weights, &device);
    let out = net.predict(batch, weights.spec(), &device);
    let size = weights.spec().image_size;
    assert_eq!(out.dims()[1..], [weights.spec().out_channels(), size, size]);
    out.into_data().try_into_vec().unwrap()
}

/// What the outputs count in the loss sum_i c_i out_i^2.
fn loss_weights(len: usize) -> Vec<f64> {
    (1..=len).map(|i| (0.1 * i as f64).cos()).collect()
}

/// The gradient of that loss, tensor by tensor in blueprint order.
fn gradients(weights: &Weights, batch: Batch) -> Vec<Vec<f32>> {
    let device = Device::flex().autodiff();
    let net = Unet::new(weights, &device);
    let out = net.predict(batch, weights.spec(), &device);
    let shape = [1, out.shape().num_elements()];
    let factors: Vec<f32> = loss_weights(shape[1]).into_iter().map(|c| c as f32).collect();
    let factors = Tensor::<2>::from_data(TensorData::new(factors, shape), &device);
    let out = out.reshape(shape);
    let gradients = (out.clone() * out * factors).sum_dim(1).backward();
    let from = GradientsParams::from_grads(gradients, &net);
    let mut read = Gradients { from: &from, values: vec![vec![]; weights.iter().len()] };
    net.visit(&mut read);
    read.values
}

/// Reads every gradient to the place of its parameter.
struct Gradients<'a> {
    from: &'a GradientsParams,
    values: Vec<Vec<f32>>,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.from.get::<D>(param.id).unwrap();
        self.values[param.id.val() as usize] = gradient.into_data().try_into_vec().unwrap();
    }
}

#[test]
fn the_timestep_embedding_has_the_reference_values() {
    let expected = [
        0.753_902_25,
        0.764_842_2,
        0.997_551,
        0.999_975_5,
        0.656_986_6,
        0.644_217_7,
        0.069_942_85,
        0.006_999_94,
    ];
    for (found, expected) in embed_timesteps(&[7.0], 8).iter().zip(expected) {
        assert!((found - expected as f32).abs() < 1e-6, "{found} {expected}");
    }
    let between = embed_timesteps(&[0.5], 4);
    for (found, expected) in between.iter().zip([0.877_582_6, 0.999_987_5, 0.479_425_5, 0.005]) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn weights_pass_through_the_network_unchanged() {
    for variant in variants() {
        let weights = Weights::init(&variant.spec, 3).unwrap();
        for device in [Device::flex(), Device::flex().autodiff()] {
            assert_eq!(Unet::new(&weights, &device).weights(&weights).unwrap(), weights);
        }
    }
}

#[test]
fn the_network_equals_the_reference_implementation() {
    let weights = reference_weights(&ModelSpec::preset(Preset::Tiny));
    let out = predicted(&weights, reference_batch(32, &[7, 500], &[]));
    let sum: f64 = out.iter().map(|&v| f64::from(v)).sum();
    let magnitude = out.iter().map(|&v| f64::from(v.abs())).sum::<f64>() / 2048.0;
    let square: f64 = out.iter().map(|&v| f64::from(v).powi(2)).sum();
    assert!((magnitude - 0.617_362_027_4).abs() < 2e-5, "{magnitude}");
    assert!((sum + 13.720_816_470_6).abs() < 2e-2, "{sum}");
    assert!((square - 1_508.217_804_24).abs() < 5e-2, "{square}");
    for (n, y, x, expected) in [
        (0, 0, 0, -1.051_696_439_2),
        (0, 16, 16, 0.403_516_465_0),
        (0, 31, 5, 0.268_155_572_5),
        (1, 0, 31, -0.220_726_252_7),
        (1, 10, 20, 1.819_130_789_3),
        (1, 31, 31, 0.025_630_538_5),
    ] {
        let found = f64::from(out[n * 1024 + y * 32 + x]);
        assert!((found - expected).abs() < 2e-4, "{n} {y} {x}: {found} {expected}");
    }
}

#[test]
fn every_variant_gives_what_pytorch_gives() {
    let golden = golden();
    for Variant { name, spec, unconditional, timesteps } in variants() {
        let batch = reference_batch(spec.image_size, &timesteps, &unconditional);
        let out = predicted(&reference_weights(&spec), batch);
        let expected = &golden[&format!("{name}.out")];
        assert_eq!(out.len(), expected.len());
        let largest = out.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: largest difference {largest:e}");
        assert!(largest < 2e-4, "{name}: {largest}");
    }
}

#[test]
fn twenty_gradients_of_every_variant_are_those_of_pytorch() {
    let golden = golden();
    for Variant { name, spec, unconditional, timesteps } in variants() {
        let weights = reference_weights(&spec);
        let batch = reference_batch(spec.image_size, &timesteps, &unconditional);
        let found = gradients(&weights, batch);
        let (mut compared, mut worst) = (0, 0.0_f64);
        for ((tensor, _), found) in weights.iter().zip(&found) {
            let Some(expected) = golden.get(&format!("{name}.grad.{}", tensor.name)) else {
                continue;
            };
            let largest = expected.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
            assert_eq!(expected.len(), found.len().min(KEPT));
            for (k, expected) in expected.iter().enumerate() {
                let difference = (found[k * STRIDE % found.len()] - expected).abs() / largest;
                worst = worst.max(difference.into());
            }
            let norm: f64 = found.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            let expected = golden[&format!("{name}.norm.{}", tensor.name)][0];
            worst = worst.max((norm / f64::from(expected) - 1.0).abs());
            compared += 1;
        }
        println!("{name}: {compared} gradients, largest relative difference {worst:e}");
        assert!(compared >= 20 && worst < 1e-3, "{name}: {compared} {worst}");
    }
}

#[test]
fn twenty_gradients_are_the_slopes_of_the_loss() {
    let spec = ModelSpec::preset(Preset::Tiny).with_image_size(8).unwrap();
    let weights = reference_weights(&spec);
    let batch = || reference_batch(8, &[7, 500], &[false, true]);
    let all = gradients(&weights, batch());
    let factors = loss_weights(2 * 64);
    let loss_with = |place: usize, index: usize, shift: f64| -> f64 {
        let mut values: Vec<Vec<f32>> = weights.iter().map(|(_, v)| v.to_vec()).collect();
        let value = &mut values[place][index];
        *value = (f64::from(*value) + shift) as f32;
        let out = predicted(&weights.with_values(values).unwrap(), batch());
        out.iter().zip(&factors).map(|(&v, c)| c * f64::from(v).powi(2)).sum()
    };
    let mut rng = noise::stream("test finite differences", &[]);
    let mut compared = 0;
    while compared < 20 {
        let place = rng.random_range(0..all.len());
        let index = rng.random_range(0..all[place].len());
        let found = f64::from(all[place][index]);
        // The rounding of f32 is some 5e-3 of a slope.
        if found.abs() < 0.5 {
            continue;
        }
        compared += 1;
        // Fourth order, so that the shift can be large beside the rounding of f32.
        let h = 0.02;
        let [near, far] =
            [1.0, 2.0].map(|n| loss_with(place, index, n * h) - loss_with(place, index, -n * h));
        let slope = (8.0 * near - far) / (12.0 * h);
        let near = (slope - found).abs() < 0.01 * found.abs() + 1e-2;
        assert!(near, "{place}: {slope} {found}");
    }
}

#[test]
fn a_withheld_condition_is_not_read_and_another_slice_does_not_notice() {
    let weights = reference_weights(&ModelSpec::preset(Preset::Tiny));
    let out = |unconditional: &[bool], y: f32| {
        let mut batch = reference_batch(32, &[7, 500], unconditional);
        batch.conditions[6] = y;
        predicted(&weights, batch)
    };
    let (told, withheld) = (out(&[], 0.0), out(&[false, true], 0.0));
    assert_eq!(told[..1024], withheld[..1024]);
    assert_ne!(told[1024..], withheld[1024..]);
    assert_eq!(withheld, out(&[false, true], 1.0));
    assert_ne!(told, out(&[], 1.0));
    assert_eq!(told, out(&[false, false], 0.0));
}

#[test]
fn short_types_give_what_pytorch_gives_in_f64_up_to_their_rounding() {
    let golden = golden();
    for Variant { name, spec, unconditional, timesteps } in variants() {
        let expected = &golden[&format!("{name}.out")];
        let power: f32 = expected.iter().map(|x| x * x).sum();
        let error = |precision| {
            let batch = reference_batch(spec.image_size, &timesteps, &unconditional);
            let found = predicted_in(precision, &reference_weights(&spec), batch);
            let square: f32 = found.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum();
            (square / power).sqrt()
        };
        let (bf16, f16) = (error(Precision::Bf16), error(Precision::F16));
        println!("{name}: bf16 {bf16:e}, f16 {f16:e}");
        // Not f32, and not worse than a few roundings to 8 and 11 bits.
        assert!(bf16 > 1e-4 && bf16 < 4e-2, "{name}: {bf16}");
        assert!(f16 > 1e-5 && f16 < 5e-3, "{name}: {f16}");
    }
}

#[test]
fn a_norm_in_a_network_of_bf16_sees_f32() {
    let spec = ModelSpec::preset(Preset::Tiny);
    let (weights, device) = (reference_weights(&spec), Device::flex());
    // A mean of 1000 and a deviation of 1: bf16 has nothing between 1000 and 1004.
    let values: Vec<f32> = (0..16 * 64).map(|i| 1000.0 + (0.7 * i as f32).sin() * 1.4).collect();
    let x = Tensor::<4>::from_data(TensorData::new(values, [1, 16, 8, 8]), &device);
    let embedding = Tensor::<2>::zeros([1, spec.joint_embedding()], &device);
    let block = |precision| {
        let ops = Ops::on(&device, precision);
        let source = Source::new(&weights, &device, ops);
        let width = [16, 16];
        let block = source.residual("input_blocks.1.0", width, spec.joint_embedding(), spec.groups);
        let out = ops.leave(block.forward(Map::One(ops.enter(x.clone())), &embedding)) - x.clone();
        out.into_data().try_into_vec::<f32>().unwrap()
    };
    let (exact, found) = (block(Precision::F32), block(Precision::Bf16));
    let power: f32 = exact.iter().map(|x| x * x).sum();
    let error: f32 = exact.iter().zip(&found).map(|(a, b)| (a - b).powi(2)).sum();
    assert!(power > 1.0 && (error / power).sqrt() < 0.02, "{power} {error}");
}
