//! The linear map against its definition in f64 and against PyTorch.

use proptest::prelude::*;

use super::*;
use crate::cpu::testing::{Golden, assert_close, assert_same_on_any_threads, draw, wide};

/// y, dx, dw and db.
fn run(shape: &LinearShape, [x, weight, bias, dy]: [&[f32]; 4]) -> [Vec<f32>; 4] {
    let junk = |len: usize| vec![f32::NAN; len];
    let mut y = junk(dy.len());
    forward(shape, x, weight, bias, &mut y);
    let (mut dx, mut dw, mut db) = (junk(x.len()), junk(weight.len()), junk(bias.len()));
    backward(shape, x, weight, dy, &mut dx, [&mut dw, &mut db]);
    [y, dx, dw, db]
}

/// The same by their definitions.
fn definition(shape: &LinearShape, given: [&[f32]; 4]) -> [Vec<f64>; 4] {
    let LinearShape { rows, input, out } = *shape;
    let [x, w, bias, dy] = given.map(wide);
    let sum = |count: usize, term: &dyn Fn(usize) -> f64| (0..count).map(term).sum::<f64>();
    let y =
        |i: usize| bias[i % out] + sum(input, &|k| x[i / out * input + k] * w[i % out * input + k]);
    let dx = |i: usize| sum(out, &|o| dy[i / input * out + o] * w[o * input + i % input]);
    let dw = |i: usize| sum(rows, &|n| dy[n * out + i / input] * x[n * input + i % input]);
    let db = |o: usize| sum(rows, &|n| dy[n * out + o]);
    [
        (0..rows * out).map(y).collect(),
        (0..rows * input).map(dx).collect(),
        (0..out * input).map(dw).collect(),
        (0..out).map(db).collect(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_and_its_gradients_are_the_definition_for_every_shape(
        rows in 1_usize..11,
        input in prop_oneof![1_usize..40, Just(64)],
        out in 1_usize..80,
        seed in 0_u64..1000,
    ) {
        let shape = LinearShape { rows, input, out };
        let lengths = [rows * input, out * input, out, rows * out];
        let given = lengths.map(|len| draw(seed + len as u64, len));
        let given = given.each_ref().map(Vec::as_slice);
        for (found, expected) in run(&shape, given).iter().zip(definition(&shape, given)) {
            assert_close("linear", found, &expected, 3e-6);
        }
    }
}

#[test]
fn it_agrees_with_pytorch() {
    let golden = Golden::read();
    let read = |tensor: &str| golden.values(&format!("linear.{tensor}"));
    let shape = LinearShape { rows: 3, input: 20, out: 10 };
    let given = ["x", "weight", "bias", "dy"].map(read);
    let found = run(&shape, given.each_ref().map(Vec::as_slice));
    for (name, found) in ["y", "dx", "dweight", "dbias"].into_iter().zip(found) {
        assert_close(name, &found, &wide(&read(name)), 1e-6);
    }
}

#[test]
fn it_does_not_depend_on_the_number_of_threads() {
    let shape = LinearShape { rows: 9, input: 64, out: 100 };
    let given = [9 * 64, 6400, 100, 900].map(|len| draw(4, len));
    assert_same_on_any_threads(|| run(&shape, given.each_ref().map(Vec::as_slice)).concat());
}
