//! Our own operations against burn's, the results and every gradient, at random shapes.
//!
//! Both read the same planes `[batch, channels, height, width]` and parameters, so that the layouts, the
//! graph of derivatives and the inputs that ask for no gradient are under test with the kernels.

use burn::tensor::TensorData;
use proptest::prelude::*;

use super::*;
use crate::cpu::testing::{assert_close, draw, wide};

/// How many shapes each operation is tried at.
const CASES: u32 = 500;

/// What an operation reads: leaves of the graph, and who works on them.
struct Given {
    leaves: Vec<Tensor<1>>,
    shapes: Vec<Vec<usize>>,
    ops: Ops,
}

impl Given {
    fn tensor<const D: usize>(&self, at: usize) -> Tensor<D> {
        let shape: [usize; D] = self.shapes[at].as_slice().try_into().unwrap();
        self.leaves[at].clone().reshape(shape)
    }

    fn map(&self, at: usize) -> Tensor<4> {
        self.ops.enter(self.tensor(at))
    }

    fn linear<const D: usize>(&self, at: usize) -> Linear<D> {
        Linear { weight: self.tensor(at), bias: self.tensor(at + 1) }
    }

    fn norm(&self, at: usize, groups: usize) -> Norm {
        Norm { weight: self.tensor(at), bias: self.tensor(at + 1), groups }
    }
}

/// One comparison: the inputs' shapes, what is drawn for them, and the one that asks for no gradient.
#[derive(Clone, Debug)]
struct Case {
    shapes: Vec<Vec<usize>>,
    seed: u64,
    frozen: usize,
}

impl Case {
    fn new(shapes: &[&[usize]], seed: u64, frozen: usize) -> Case {
        Case { shapes: shapes.iter().map(|shape| shape.to_vec()).collect(), seed, frozen }
    }

    /// The result of `op`, then the gradient of every input; none for the one that asks for none.
    fn run<const D: usize>(
        &self,
        ops: Ops,
        op: &dyn Fn(&Given) -> Tensor<D>,
    ) -> Vec<Option<Vec<f32>>> {
        let device = Device::flex().autodiff();
        let drawn = |seed: u64, len: usize| {
            Tensor::<1>::from_data(TensorData::new(draw(seed, len), [len]), &device)
        };
        let leaf = |(at, shape): (usize, &Vec<usize>)| {
            let values = drawn(self.seed + at as u64, shape.iter().product());
            if at == self.frozen { values } else { values.require_grad() }
        };
        let leaves = self.shapes.iter().enumerate().map(leaf).collect();
        let given = Given { leaves, shapes: self.shapes.clone(), ops };
        let out = op(&given);
        let len = out.shape().num_elements();
        let out = out.reshape([len]);
        let gradients = (out.clone() * drawn(self.seed + 99, len)).sum().backward();
        let read = |tensor: Tensor<1>| tensor.into_data().try_into_vec::<f32>().unwrap();
        let gradients = given.leaves.iter().map(|leaf| leaf.grad(&gradients).map(read));
        std::iter::once(Some(read(out.inner()))).chain(gradients).collect()
    }

    /// Our own way and burn's give the same, to a few roundings.
    fn compare<const D: usize>(&self, tolerance: f64, op: impl Fn(&Given) -> Tensor<D>) {
        let own = self.run(Ops::Own, &op);
        let stock = self.run(Ops::Stock(Precision::F32), &op);
        for (at, (own, stock)) in own.iter().zip(&stock).enumerate() {
            assert_eq!(own.is_some(), stock.is_some(), "{at}");
            assert_eq!(own.is_none(), at == self.frozen + 1, "{at}");
            if let (Some(own), Some(stock)) = (own, stock) {
                assert_close(&format!("tensor {at}"), own, &wide(stock), tolerance);
            }
        }
    }
}

/// Channels that fill vectors and such that do not.
fn channels() -> impl Strategy<Value = usize> {
    prop_oneof![1_usize..20, Just(16_usize), Just(32), 33_usize..36]
}

/// Edges of a map in pixels.
fn edges() -> impl Strategy<Value = [usize; 2]> {
    (1_usize..9, 1_usize..9).prop_map(|(height, width)| [height, width])
}

fn resizes() -> impl Strategy<Value = Resize> {
    prop_oneof![Just(Resize::Same), Just(Resize::Halve), Just(Resize::Double)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_convolution_is_that_of_burn(
        (batch, [height, width]) in (1_usize..4, edges()),
        (input, out) in (channels(), channels()),
        resize in resizes(),
        (adds, seed, frozen) in (any::<bool>(), 0_u64..1000, 0_usize..5),
    ) {
        let y = match resize {
            Resize::Same => [height, width],
            Resize::Halve => [height.div_ceil(2), width.div_ceil(2)],
            Resize::Double => [2 * height, 2 * width],
        };
        let (x, weight) = ([batch, input, height, width], [out, input, 3, 3]);
        let added = [batch, out, y[0], y[1]];
        let shapes: [&[usize]; 4] = [&x, &weight, &[out], &added];
        let count = if adds { 4 } else { 3 };
        Case::new(&shapes[..count], seed, frozen).compare(5e-5, |given| {
            let added = adds.then(|| given.map(3));
            given.ops.leave(given.ops.conv3x3(given.map(0), given.linear(1), resize, added))
        });
    }

    #[test]
    fn a_map_of_every_pixel_is_that_of_burn_for_one_map_and_for_two(
        (batch, [height, width]) in (1_usize..4, edges()),
        (first, second, out) in (channels(), channels(), channels()),
        (joins, adds) in (any::<bool>(), any::<bool>()),
        (seed, frozen) in (0_u64..1000, 0_usize..6),
    ) {
        let area = |channels: usize| [batch, channels, height, width];
        let weight = [out, if joins { first + second } else { first }];
        let (a, b, added) = (area(first), area(second), area(out));
        let mut shapes: Vec<&[usize]> = vec![&weight, std::slice::from_ref(&out), &a];
        shapes.extend(joins.then_some(&b[..]));
        shapes.extend(adds.then_some(&added[..]));
        Case::new(&shapes, seed, frozen).compare(2e-5, |given| {
            let ops = given.ops;
            let x = if joins { ops.join(given.map(2), given.map(3)) } else { Map::One(given.map(2)) };
            let added = adds.then(|| given.map(shapes.len() - 1));
            ops.leave(ops.pointwise(x, given.linear(0), added))
        });
    }

    #[test]
    fn a_map_of_every_row_is_that_of_burn(
        rows in 1_usize..9,
        (input, out) in (channels(), channels()),
        (seed, frozen) in (0_u64..1000, 0_usize..4),
    ) {
        let shapes: [&[usize]; 3] = [&[rows, input], &[out, input], &[out]];
        Case::new(&shapes, seed, frozen)
            .compare(1e-5, |given| given.ops.rows(given.tensor(0), given.linear(1)));
    }

    #[test]
    fn a_norm_is_that_of_burn_for_one_map_and_for_two_with_and_without_what_follows(
        (batch, [height, width]) in (1_usize..4, edges()),
        (groups, per_group, share) in (1_usize..6, prop_oneof![2_usize..6, Just(8), Just(16)], 0.0_f64..1.0),
        kind in 0..4,
        (seed, frozen) in (0_u64..1000, 0_usize..5),
    ) {
        let channels = groups * per_group;
        // Where the two maps meet is anywhere in the groups.
        let first = ((channels as f64 * share) as usize).max(1);
        let area = |channels: usize| [batch, channels, height, width];
        let (whole, a, b, film) = (area(channels), area(first), area(channels - first), [batch, 2 * channels]);
        let affine = std::slice::from_ref(&channels);
        let shapes: Vec<&[usize]> = match kind {
            0 | 1 => vec![affine, affine, &whole],
            2 => vec![affine, affine, &a, &b],
            _ => vec![affine, affine, &whole, &film],
        };
        // One value a channel: two that are nearly alike have a steep norm.
        Case::new(&shapes, seed, frozen).compare(5e-4, |given| {
            let (ops, norm) = (given.ops, given.norm(0, groups));
            ops.leave(match kind {
                0 => ops.norm(given.map(2), norm),
                1 => ops.norm_silu(Map::One(given.map(2)), norm),
                2 => ops.norm_silu(ops.join(given.map(2), given.map(3)), norm),
                _ => ops.norm_film_silu(given.map(2), norm, given.tensor(3)),
            })
        });
    }

    #[test]
    fn attention_is_that_of_burn(
        (batch, [height, width]) in (1_usize..4, edges()),
        (heads, dim) in (1_usize..4, prop_oneof![1_usize..20, Just(16), Just(32)]),
        seed in 0_u64..1000,
    ) {
        let qkv = [batch, heads * 3 * dim, height, width];
        Case::new(&[&qkv], seed, usize::MAX - 1)
            .compare(2e-5, |given| given.ops.leave(given.ops.attention(given.map(0), heads)));
    }

    #[test]
    fn two_maps_in_one_piece_are_those_of_burn(
        (batch, [height, width]) in (1_usize..4, edges()),
        (first, second) in (channels(), channels()),
        (seed, frozen) in (0_u64..1000, 0_usize..3),
    ) {
        let area = |channels: usize| [batch, channels, height, width];
        Case::new(&[&area(first), &area(second)], seed, frozen).compare(1e-30, |given| {
            given.ops.leave(given.ops.whole(given.ops.join(given.map(0), given.map(1))))
        });
    }
}

#[test]
fn a_softmax_between_products_of_bf16_sees_f32() {
    // All queries are 1, so the weights are those of the scores 0 and 26 times -6.75; the values are 0 and
    // 26 times 1. These numbers are chosen: the weights of an f32 softmax lose nothing by becoming bf16, and
    // a softmax that rounds its exponentials to bf16 is off by 8e-3.
    let (others, score) = (26, -6.75_f32);
    let row = |first: f32, rest: f32| [vec![first], vec![rest; others]].concat();
    let values = [row(1.0, 1.0), row(0.0, score), row(0.0, 1.0)].concat();
    let weight = others as f64 * f64::from(score).exp();
    let expected = weight / (1.0 + weight);
    for device in [Device::flex(), Device::flex().autodiff()] {
        let qkv = TensorData::new(values.clone(), [1, 3, others + 1, 1]);
        let qkv = Tensor::<4>::from_data(qkv, &device);
        let mixed = Ops::on(&device, Precision::Bf16).attention(qkv, 1);
        for found in mixed.into_data().try_into_vec::<f32>().unwrap() {
            let error = (f64::from(found) / expected - 1.0).abs();
            assert!(error < 1e-3, "{found} is not {expected}, by {error:e}");
        }
    }
}
