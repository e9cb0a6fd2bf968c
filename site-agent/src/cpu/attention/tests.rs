//! Attention against its definition in f64 and against PyTorch.

use proptest::prelude::*;

use super::*;
use crate::cpu::testing::{
    Golden, assert_close, assert_same_on_any_threads, derivative, dot, draw, some_of, wide,
};

/// out, log_sums and dqkv.
fn run(shape: &AttentionShape, qkv: &[f32], d_out: &[f32]) -> [Vec<f32>; 3] {
    let junk = |len: usize| vec![f32::NAN; len];
    let rows = shape.batch * shape.pixels * shape.heads;
    let (mut out, mut log_sums) = (junk(qkv.len() / 3), junk(rows));
    forward(shape, qkv, &mut out, &mut log_sums);
    let mut dqkv = junk(qkv.len());
    backward(shape, qkv, &log_sums, d_out, &mut dqkv);
    [out, log_sums, dqkv]
}

/// out by its definition.
fn definition(shape: &AttentionShape, qkv: &[f64]) -> Vec<f64> {
    let AttentionShape { batch, pixels, heads, dim } = *shape;
    let row = |n: usize, pixel: usize, head: usize, part: usize| {
        &qkv[(((n * pixels + pixel) * heads + head) * 3 + part) * dim..][..dim]
    };
    let mut out = Vec::with_capacity(qkv.len() / 3);
    for (n, q, head) in
        (0..batch * pixels * heads).map(|i| (i / heads / pixels, i / heads % pixels, i % heads))
    {
        let query = row(n, q, head, 0);
        let score = |k: usize| {
            let product: f64 = query.iter().zip(row(n, k, head, 1)).map(|(q, k)| q * k).sum();
            (product / (dim as f64).sqrt()).exp()
        };
        let weights: Vec<f64> = (0..pixels).map(score).collect();
        let sum: f64 = weights.iter().sum();
        for i in 0..dim {
            let mixed = weights.iter().enumerate().map(|(k, w)| w * row(n, k, head, 2)[i]);
            out.push(mixed.sum::<f64>() / sum);
        }
    }
    out
}

fn check(shape: &AttentionShape, seed: u64) {
    let rows = shape.batch * shape.pixels * shape.heads;
    let qkv = draw(seed, rows * 3 * shape.dim);
    let d_out = draw(seed + 1, rows * shape.dim);
    let [out, _, dqkv] = run(shape, &qkv, &d_out);
    let inputs = wide(&qkv);
    assert_close("out", &out, &definition(shape, &inputs), 3e-6);
    let at: Vec<usize> = some_of(dqkv.len(), 9).collect();
    let slope = |&i: &usize| derivative(|x| dot(&definition(shape, x), &d_out), &inputs, i);
    let expected: Vec<f64> = at.iter().map(slope).collect();
    let found: Vec<f32> = at.iter().map(|&i| dqkv[i]).collect();
    assert_close("dqkv", &found, &expected, 1e-5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_and_its_gradients_are_the_definition_for_every_shape(
        batch in 1_usize..3,
        pixels in prop_oneof![Just(1_usize), 2_usize..30, 60_usize..70],
        heads in 1_usize..4,
        dim in prop_oneof![1_usize..20, Just(16), Just(32)],
        seed in 0_u64..1000,
    ) {
        check(&AttentionShape { batch, pixels, heads, dim }, seed);
    }
}

#[test]
fn it_is_right_over_several_blocks_of_queries() {
    check(&AttentionShape { batch: 1, pixels: 150, heads: 1, dim: 8 }, 3);
}

#[test]
fn scores_that_overflow_an_exponential_are_held() {
    let shape = AttentionShape { batch: 1, pixels: 2, heads: 1, dim: 1 };
    // The first query's scores are 400 and -400, the second's the reverse.
    let [out, log_sums, dqkv] = run(&shape, &[20.0, 20.0, 5.0, -20.0, -20.0, 7.0], &[1.0, 1.0]);
    assert_eq!(out, [5.0, 7.0]);
    assert_eq!(log_sums, [400.0, 400.0]);
    assert_close("dqkv", &dqkv, &[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 1e-30);
}

#[test]
fn it_agrees_with_pytorch() {
    let golden = Golden::read();
    for name in ["even", "odd"] {
        let read = |tensor: &str| golden.tensor(&format!("attention.{name}.{tensor}"));
        let ((qkv, dims), heads) = (read("qkv"), read("heads").0[0] as usize);
        let dim = dims[2] / heads / 3;
        let shape = AttentionShape { batch: dims[0], pixels: dims[1], heads, dim };
        let found = run(&shape, &qkv, &read("dout").0);
        for (tensor, found) in ["out", "log_sums", "dqkv"].into_iter().zip(found) {
            assert_close(tensor, &found, &wide(&read(tensor).0), 2e-6);
        }
    }
}

#[test]
fn it_does_not_depend_on_the_number_of_threads() {
    let shape = AttentionShape { batch: 2, pixels: 130, heads: 3, dim: 16 };
    let (qkv, d_out) = (draw(1, 2 * 130 * 9 * 16), draw(2, 2 * 130 * 3 * 16));
    assert_same_on_any_threads(|| run(&shape, &qkv, &d_out).concat());
}
