//! Every function against f64, on the machine's vectors and one value at a time.

use pulp::{Scalar, WithSimd};

use super::*;
use crate::cpu::pieces::dispatch;

/// exp, sigmoid, silu and its slope of every value.
struct All<'a>(&'a [f32]);

impl WithSimd for All<'_> {
    type Output = [Vec<f32>; 4];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [Vec<f32>; 4] {
        let mut out = [0; 4].map(|_| self.0.to_vec());
        for (out, f) in out.iter_mut().zip([exp, sigmoid, silu, silu_slope::<S>]) {
            S::as_mut_simd_f32s(out).0.iter_mut().for_each(|x| *x = f(simd, *x));
        }
        out
    }
}

/// As vectors and as single values; the first must agree with the second to rounding.
fn both(x: &[f32]) -> [[Vec<f32>; 4]; 2] {
    assert!(x.len().is_multiple_of(16));
    [dispatch(x.len(), All(x)), All(x).with_simd(Scalar::new())]
}

#[test]
fn the_exponential_is_right_to_two_parts_in_ten_million() {
    let steps = 1 << 18;
    let x: Vec<f32> = (0..steps).map(|i| -87.33 + 175.63 * i as f32 / steps as f32).collect();
    for [found, ..] in both(&x) {
        for (&x, found) in x.iter().zip(found) {
            let expected = f64::from(x).exp();
            let error = (f64::from(found) - expected).abs() / expected;
            assert!(error <= 2e-7, "exp({x}) is {found}, off by {error}");
        }
    }
}

#[test]
fn the_sigmoid_and_silu_are_right_everywhere() {
    let x: Vec<f32> = (0..1 << 16).map(|i| -120.0 + 240.0 * i as f32 / 65536.0).collect();
    for [_, sigmoid, silu, slope] in both(&x) {
        for (i, &x) in x.iter().enumerate() {
            let wide = f64::from(x);
            let s = 1.0 / (1.0 + (-wide).exp());
            let expected = [s, wide * s, s * (1.0 + wide * (1.0 - s))];
            for (found, expected) in [sigmoid[i], silu[i], slope[i]].into_iter().zip(expected) {
                let error = (f64::from(found) - expected).abs();
                assert!(error <= 3e-7 * (expected.abs() + 0.1), "at {x}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn beyond_the_range_it_is_held_and_nan_stays_nan() {
    let mut x = [0.0; 16];
    x[..6].copy_from_slice(&[f32::INFINITY, 1e30, f32::NEG_INFINITY, -1e30, f32::NAN, -f32::NAN]);
    for [exp, sigmoid, silu, slope] in both(&x) {
        assert!(exp[..2].iter().all(|&e| e.is_finite() && e > 2e38), "{exp:?}");
        assert!(exp[2..4].iter().all(|&e| (0.0..=1.2e-38).contains(&e)), "{exp:?}");
        assert_eq!(exp[6], 1.0);
        assert_eq!((sigmoid[1], sigmoid[6], silu[1], slope[1]), (1.0, 0.5, 1e30, 1.0));
        for values in [exp, sigmoid, silu, slope] {
            assert!(values[4].is_nan() && values[5].is_nan(), "{values:?}");
        }
    }
}
