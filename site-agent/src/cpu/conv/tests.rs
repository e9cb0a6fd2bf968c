//! Convolutions against their definition, one product at a time in f64, over random shapes, and against
//! PyTorch.

use proptest::prelude::*;

use super::*;
use crate::cpu::testing::{Golden, assert_close, wide};

/// Numbers in -1..1 that depend on `seed` alone.
fn draw(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Calls `each` with the places in x, weight and y of every product of the definition.
fn products(conv: &Conv, mut each: impl FnMut(usize, usize, usize)) {
    let ([height, width], [out_height, out_width]) = (conv.size, conv.out_size());
    let (stride, scale) = match conv.scale {
        Scale::Same => (1, 1),
        Scale::Halve => (2, 1),
        Scale::Double => (1, 2),
    };
    for at in 0..conv.batch * out_height * out_width * TAPS {
        let (tap, pixel) = (at % TAPS, at / TAPS);
        let (column, row) = (pixel % out_width, pixel / out_width % out_height);
        let image = pixel / out_width / out_height;
        let y = (row * stride + tap / 3).wrapping_sub(1);
        let x = (column * stride + tap % 3).wrapping_sub(1);
        if y >= height * scale || x >= width * scale {
            continue;
        }
        let from = (image * height + y / scale) * width + x / scale;
        for o in 0..conv.out {
            for i in 0..conv.input {
                let weight = (o * conv.input + i) * TAPS + tap;
                each(from * conv.input + i, weight, pixel * conv.out + o);
            }
        }
    }
}

/// `found` is `expected` to a few roundings of the largest value.
fn agree(found: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
    agree_beside(1e-3, found, expected)
}

/// The same, or of `least` where that is more.
fn agree_beside(least: f64, found: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(least, |most, value| most.max(value.abs()));
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs() / scale;
        prop_assert!(error < 2e-5, "at {at}: {found} is not {expected}, by {error} of {scale}");
    }
    Ok(())
}

/// `values` `[pixels, channels]` as parts of which the first has `first` channels.
fn split(values: &[f32], channels: usize, first: usize) -> [Vec<f32>; 2] {
    let pixels = values.chunks_exact(channels);
    [
        pixels.clone().flat_map(|p| &p[..first]).copied().collect(),
        pixels.flat_map(|p| &p[first..]).copied().collect(),
    ]
}

/// Small shapes of every kind; two of three have channels enough for Winograd's method.
fn shapes() -> impl Strategy<Value = (Conv, usize)> {
    let channels = || prop_oneof![1_usize..16, 16_usize..50, Just(16_usize), Just(32)];
    let scale = prop_oneof![Just(Scale::Same), Just(Scale::Halve), Just(Scale::Double)];
    let conv = (1_usize..4, channels(), channels(), 1_usize..12, 1_usize..12, scale);
    let conv = conv.prop_map(|(batch, input, out, height, width, scale)| {
        let size = if scale == Scale::Double {
            [height, width].map(|e| e.div_ceil(2))
        } else {
            [height, width]
        };
        Conv { batch, input, out, size, scale }
    });
    conv.prop_flat_map(|conv| (Just(conv), 0..conv.input))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn y_is_the_definition_for_every_shape((conv, first) in shapes(), seed: u64, adds: bool) {
        let x = draw(seed, conv.input_len());
        let weight = draw(seed ^ 1, conv.weight_len());
        let (bias, residual) = (draw(seed ^ 2, conv.out), draw(seed ^ 3, conv.out_len()));
        let mut expected: Vec<f64> = (0..conv.out_len())
            .map(|at| f64::from(bias[at % conv.out]) + if adds { f64::from(residual[at]) } else { 0.0 })
            .collect();
        products(&conv, |i, w, o| expected[o] += f64::from(x[i]) * f64::from(weight[w]));
        let parts = split(&x, conv.input, first);
        let parts = [
            Part { values: &parts[0], channels: first },
            Part { values: &parts[1], channels: conv.input - first },
        ];
        let parts = if first == 0 { &parts[1..] } else { &parts[..] };
        let mut y = vec![f32::NAN; conv.out_len()];
        forward(&conv, parts, &weight, &bias, adds.then_some(&residual), &mut y);
        agree(&y, &expected)?;
    }

    #[test]
    fn dx_is_the_definition_for_every_shape((conv, first) in shapes(), seed: u64) {
        let (dy, weight) = (draw(seed, conv.out_len()), draw(seed ^ 1, conv.weight_len()));
        let mut expected = vec![0.0; conv.input_len()];
        products(&conv, |i, w, o| expected[i] += f64::from(dy[o]) * f64::from(weight[w]));
        let all: Vec<f32> = vec![f32::NAN; conv.input_len()];
        let [mut left, mut right] = split(&all, conv.input, first);
        let mut parts = vec![PartMut { values: &mut right, channels: conv.input - first }];
        if first > 0 {
            parts.insert(0, PartMut { values: &mut left, channels: first });
        }
        input_gradient(&conv, &dy, &weight, &mut parts);
        let rest = conv.input - first;
        let pixels = conv.input_len() / conv.input;
        let joined: Vec<f32> = (0..pixels)
            .flat_map(|p| left[p * first..][..first].iter().chain(&right[p * rest..][..rest]))
            .copied()
            .collect();
        agree(&joined, &expected)?;
    }

    #[test]
    fn dw_and_db_are_the_definition_for_every_shape((conv, first) in shapes(), seed: u64) {
        let (x, dy) = (draw(seed, conv.input_len()), draw(seed ^ 1, conv.out_len()));
        let mut expected = vec![0.0; conv.weight_len()];
        products(&conv, |i, w, o| expected[w] += f64::from(x[i]) * f64::from(dy[o]));
        let parts = split(&x, conv.input, first);
        let parts = [
            Part { values: &parts[0], channels: first },
            Part { values: &parts[1], channels: conv.input - first },
        ];
        let parts = if first == 0 { &parts[1..] } else { &parts[..] };
        let mut dweight = vec![f32::NAN; conv.weight_len()];
        weight_gradient(&conv, parts, &dy, &mut dweight);
        agree(&dweight, &expected)?;
        let mut expected = vec![0.0; conv.out];
        dy.iter().enumerate().for_each(|(at, &dy)| expected[at % conv.out] += f64::from(dy));
        let mut dbias = vec![f32::NAN; conv.out];
        bias_gradient(&dy, &mut dbias);
        // What sums of so many numbers come to, though one may happen to cancel.
        let least = (dy.len() as f64 / conv.out as f64).sqrt();
        agree_beside(least, &dbias, &expected)?;
    }

    #[test]
    fn a_pointwise_map_and_its_gradients_are_the_definition(
        pixels in 1_usize..700,
        input in 1_usize..70,
        out in 1_usize..70,
        seed: u64,
        adds: bool,
    ) {
        let (x, dy) = (draw(seed, pixels * input), draw(seed ^ 1, pixels * out));
        let (weight, bias) = (draw(seed ^ 2, out * input), draw(seed ^ 3, out));
        let mut expected: Vec<f64> = (0..pixels * out)
            .map(|at| f64::from(bias[at % out]) + if adds { f64::from(dy[at]) } else { 0.0 })
            .collect();
        let mut expected_dx = vec![0.0; pixels * input];
        let mut expected_dw = vec![0.0; out * input];
        for (p, o, i) in (0..pixels).flat_map(|p| (0..out * input).map(move |k| (p, k / input, k % input))) {
            let [x, dy, weight] = [x[p * input + i], dy[p * out + o], weight[o * input + i]].map(f64::from);
            expected[p * out + o] += x * weight;
            expected_dx[p * input + i] += dy * weight;
            expected_dw[o * input + i] += x * dy;
        }
        let mut y = vec![f32::NAN; pixels * out];
        pointwise::forward([input, out], &x, &weight, &bias, adds.then_some(&dy), &mut y);
        agree(&y, &expected)?;
        let mut dx = vec![f32::NAN; pixels * input];
        pointwise::input_gradient([input, out], &dy, &weight, &mut dx);
        agree(&dx, &expected_dx)?;
        let mut dw = vec![f32::NAN; out * input];
        pointwise::weight_gradient([input, out], &x, &dy, &mut dw);
        agree(&dw, &expected_dw)?;
    }
}

#[test]
fn the_widest_layers_stay_within_the_same_roundings() {
    let conv = Conv { batch: 2, input: 256, out: 64, size: [12, 8], scale: Scale::Same };
    let (x, dy) = (draw(1, conv.input_len()), draw(2, conv.out_len()));
    let weight = draw(3, conv.weight_len());
    let zeros = |len| vec![0.0; len];
    let (mut y, mut dx) = (zeros(conv.out_len()), zeros(conv.input_len()));
    let mut dw = zeros(conv.weight_len());
    products(&conv, |i, w, o| {
        let [x, weight, dy] = [x[i], weight[w], dy[o]].map(f64::from);
        y[o] += x * weight;
        dx[i] += dy * weight;
        dw[w] += x * dy;
    });
    let parts = [Part { values: &x, channels: 256 }];
    let mut found = vec![0.0; conv.out_len()];
    forward(&conv, &parts, &weight, &[0.0; 64], None, &mut found);
    agree(&found, &y).unwrap();
    let mut found = vec![0.0; conv.input_len()];
    input_gradient(&conv, &dy, &weight, &mut [PartMut { values: &mut found, channels: 256 }]);
    agree(&found, &dx).unwrap();
    let mut found = vec![0.0; conv.weight_len()];
    weight_gradient(&conv, &parts, &dy, &mut found);
    agree(&found, &dw).unwrap();
}

#[test]
fn they_agree_with_pytorch() {
    let golden = Golden::read();
    for (name, scale) in [
        ("s1", Scale::Same),
        ("s2", Scale::Halve),
        ("odd", Scale::Same),
        ("odd_s2", Scale::Halve),
        ("up", Scale::Double),
    ] {
        let read = |tensor: &str| golden.tensor(&format!("conv.{name}.{tensor}"));
        let ((x, dims), (weight, kernel)) = (read("x"), read("weight"));
        let conv = Conv {
            batch: dims[0],
            input: dims[3],
            out: kernel[0],
            size: [dims[1], dims[2]],
            scale,
        };
        let (bias, dy) = (read("bias").0, read("dy").0);
        let parts = [Part { values: &x, channels: conv.input }];
        let (mut y, mut dx) = (vec![f32::NAN; conv.out_len()], vec![f32::NAN; x.len()]);
        let (mut dweight, mut dbias) = (vec![f32::NAN; weight.len()], vec![f32::NAN; conv.out]);
        forward(&conv, &parts, &weight, &bias, None, &mut y);
        let dx_parts = &mut [PartMut { values: &mut dx, channels: conv.input }];
        input_gradient(&conv, &dy, &weight, dx_parts);
        weight_gradient(&conv, &parts, &dy, &mut dweight);
        bias_gradient(&dy, &mut dbias);
        let found = [("y", y), ("dx", dx), ("dweight", dweight), ("dbias", dbias)];
        for (tensor, found) in found {
            let expected = wide(&read(tensor).0);
            assert_close(&format!("{name} {tensor}"), &found, &expected, 3e-6);
        }
    }
}

#[test]
fn a_pointwise_map_agrees_with_pytorch() {
    let golden = Golden::read();
    let read = |tensor: &str| golden.tensor(&format!("conv.pointwise.{tensor}")).0;
    let [x, weight, bias, dy] = ["x", "weight", "bias", "dy"].map(read);
    let sides = [6, bias.len()];
    let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
    let (mut dweight, mut dbias) = (vec![f32::NAN; weight.len()], vec![f32::NAN; bias.len()]);
    pointwise::forward(sides, &x, &weight, &bias, None, &mut y);
    pointwise::input_gradient(sides, &dy, &weight, &mut dx);
    pointwise::weight_gradient(sides, &x, &dy, &mut dweight);
    bias_gradient(&dy, &mut dbias);
    for (tensor, found) in [("y", y), ("dx", dx), ("dweight", dweight), ("dbias", dbias)] {
        assert_close(tensor, &found, &wide(&read(tensor)), 3e-6);
    }
}

#[test]
fn no_byte_depends_on_the_number_of_threads() {
    for (scale, input, out) in [
        (Scale::Same, 32, 48),
        (Scale::Same, 9, 32),
        (Scale::Same, 32, 1),
        (Scale::Halve, 20, 33),
        (Scale::Double, 17, 16),
    ] {
        let conv = Conv { batch: 3, input, out, size: [23, 18], scale };
        let (x, dy) = (draw(1, conv.input_len()), draw(2, conv.out_len()));
        let (weight, bias) = (draw(3, conv.weight_len()), draw(4, conv.out));
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| everything(&conv, &x, &dy, &weight, &bias))
        };
        let one = with(1);
        assert_eq!(one, with(2), "{conv:?}");
        assert_eq!(one, with(7), "{conv:?}");
    }
}

/// The bits of y, of all gradients, and of the pointwise map's.
fn everything(conv: &Conv, x: &[f32], dy: &[f32], weight: &[f32], bias: &[f32]) -> Vec<Vec<u32>> {
    let mut y = vec![0.0; conv.out_len()];
    let mut dx = vec![0.0; conv.input_len()];
    let (mut dw, mut db) = (vec![0.0; conv.weight_len()], vec![0.0; conv.out]);
    let x_parts = [Part { values: x, channels: conv.input }];
    forward(conv, &x_parts, weight, bias, Some(dy), &mut y);
    input_gradient(conv, dy, weight, &mut [PartMut { values: &mut dx, channels: conv.input }]);
    weight_gradient(conv, &x_parts, dy, &mut dw);
    bias_gradient(dy, &mut db);
    let sides = [conv.input, conv.out];
    let pixels = x.len() / conv.input;
    let (point_weight, dy) =
        (&weight[..conv.input * conv.out], &dy[..dy.len().min(pixels * conv.out)]);
    let x = &x[..dy.len() / conv.out * conv.input];
    let mut point_y = vec![0.0; dy.len()];
    let (mut point_dx, mut point_dw) = (vec![0.0; x.len()], vec![0.0; point_weight.len()]);
    pointwise::forward(sides, x, point_weight, bias, Some(dy), &mut point_y);
    pointwise::input_gradient(sides, dy, point_weight, &mut point_dx);
    pointwise::weight_gradient(sides, x, dy, &mut point_dw);
    let all = [y, dx, dw, db, point_y, point_dx, point_dw];
    all.iter().map(|values| values.iter().map(|value| value.to_bits()).collect()).collect()
}
