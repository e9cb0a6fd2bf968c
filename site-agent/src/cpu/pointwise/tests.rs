//! Every operation against its definition, and every gradient against the operation.

use proptest::prelude::*;

use super::*;
use crate::cpu::testing::{assert_close, assert_same_on_any_threads, derivative, draw, wide};

fn silu_of(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// a + b, silu(a), dy silu'(a) with b for dy.
fn flat(a: &[f32], b: &[f32]) -> [Vec<f32>; 3] {
    let mut out = [0; 3].map(|_| vec![f32::NAN; a.len()]);
    let [sum, y, dx] = &mut out;
    add(a, b, sum);
    silu(a, y);
    silu_backward(a, b, dx);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn sums_and_silu_are_the_definition_at_every_length(
        len in prop_oneof![1_usize..200, 16_300_usize..16_500], seed in 0_u64..1000,
    ) {
        let (a, b) = (draw(seed, len), draw(seed + 1, len));
        let [sum, y, dx] = flat(&a, &b);
        let slope = |&x: &f64| derivative(|x| silu_of(x[0]), &[x], 0);
        for i in 0..len {
            prop_assert_eq!(sum[i], a[i] + b[i]);
        }
        assert_close("silu", &y, &wide(&a).iter().map(|&x| silu_of(x)).collect::<Vec<_>>(), 3e-7);
        let expected: Vec<f64> =
            wide(&a).iter().zip(&b).map(|(x, &b)| slope(x) * f64::from(b)).collect();
        assert_close("its gradient", &dx, &expected, 5e-7);
    }

    #[test]
    fn a_join_keeps_every_value_and_a_split_finds_it_again(
        rows in 1_usize..200, widths in [1_usize..40, 1_usize..40], seed in 0_u64..1000,
    ) {
        let parts = widths.map(|width| draw(seed + width as u64, rows * width));
        let channels = widths[0] + widths[1];
        let mut joined = vec![f32::NAN; rows * channels];
        join([&parts[0], &parts[1]], widths, &mut joined);
        for (r, row) in joined.chunks_exact(channels).enumerate() {
            prop_assert_eq!(&row[..widths[0]], &parts[0][r * widths[0]..][..widths[0]]);
            prop_assert_eq!(&row[widths[0]..], &parts[1][r * widths[1]..][..widths[1]]);
        }
        for (part, first) in [0, widths[0]].into_iter().enumerate() {
            let mut again = vec![f32::NAN; parts[part].len()];
            split(&joined, channels, first, widths[part], &mut again);
            prop_assert_eq!(&again, &parts[part]);
        }
    }

    #[test]
    fn upsampling_repeats_every_pixel_and_its_gradient_adds_them(
        batch in 1_usize..3,
        height in 1_usize..8,
        width in 1_usize..8,
        channels in prop_oneof![1_usize..20, Just(32)],
        seed in 0_u64..1000,
    ) {
        let x = draw(seed, batch * height * width * channels);
        let mut y = vec![f32::NAN; 4 * x.len()];
        let shape = [batch * height, width, channels];
        upsample(shape, &x, &mut y);
        let dy = draw(seed + 1, y.len());
        let mut dx = vec![f32::NAN; x.len()];
        upsample_backward(shape, &dy, &mut dx);
        let mut expected = vec![0.0_f64; x.len()];
        for (i, (&y, &dy)) in y.iter().zip(&dy).enumerate() {
            let (c, at) = (i % channels, i / channels);
            let (column, row) = (at % (2 * width), at / (2 * width));
            let from = ((row / 2) * width + column / 2) * channels + c;
            prop_assert_eq!(y, x[from]);
            expected[from] += f64::from(dy);
        }
        assert_close("dx", &dx, &expected, 5e-7);
    }
}

#[test]
fn nothing_depends_on_the_number_of_threads() {
    let (a, b) = (draw(1, 40_000), draw(2, 40_000));
    assert_same_on_any_threads(|| {
        let mut joined = vec![0.0; 80_000];
        join([&a, &b], [16, 16], &mut joined);
        let mut small = vec![0.0; 20_000];
        upsample_backward([50, 25, 16], &joined, &mut small);
        [flat(&a, &b).concat(), joined, small].concat()
    });
}
