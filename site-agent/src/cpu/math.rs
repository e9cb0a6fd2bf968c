//! The exponential, the sigmoid and SiLU on vectors.
//!
//! Nothing here branches or looks up a table, so a loop over it runs at the speed of its
//! multiplications. Nothing traps: an input outside the range is clamped and NaN stays NaN.

use pulp::Simd;

/// Above this the result is held: 2^127.4, so that neither it nor its scale overflows.
const MAX: f32 = 88.3;
/// Below this the result is held, at the smallest normal number: ln(2^-126).
const MIN: f32 = -87.336_54;
/// 1.5 * 2^23 + 127. Added to n it leaves n + 127, the exponent of 2^n, in the lowest bits.
const ROUNDER: f32 = 12_582_912.0 + 127.0;
/// ln 2 in two parts; n times the first is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// The minimax q of e^r = 1 + r + r^2 q(r) on |r| <= ln(2) / 2, by Remez' exchange on the relative
/// error, which is 3e-9 before rounding; lowest power first.
const Q: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454];

/// e^x with a relative error of at most 2e-7 from -87.33 to 88.3, and held outside.
///
/// x = n ln 2 + r, and e^x = 2^n e^r.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let (max, min) = (simd.splat_f32s(MAX), simd.splat_f32s(MIN));
    let rounder = simd.splat_f32s(ROUNDER);
    // Choices and not `min` and `max`, which lose a NaN on some processors.
    let x = simd.select_f32s(simd.greater_than_f32s(x, max), max, x);
    let x = simd.select_f32s(simd.less_than_f32s(x, min), min, x);
    let shifted = simd.mul_add_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), rounder);
    let n = simd.sub_f32s(shifted, rounder);
    let r = simd.negate_mul_add_f32s(n, simd.splat_f32s(LN_2[0]), x);
    let r = simd.negate_mul_add_f32s(n, simd.splat_f32s(LN_2[1]), r);
    let mut q = simd.splat_f32s(Q[4]);
    for k in (0..4).rev() {
        q = simd.mul_add_f32s(q, r, simd.splat_f32s(Q[k]));
    }
    let tail = simd.mul_add_f32s(simd.mul_f32s(r, r), q, r);
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let scale = simd.transmute_f32s_u32s(exponent);
    simd.mul_add_f32s(tail, scale, scale)
}

/// 1 / (1 + e^-x)
#[inline(always)]
pub fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    simd.div_f32s(one, simd.add_f32s(one, exp(simd, simd.neg_f32s(x))))
}

/// x sigmoid(x)
#[inline(always)]
pub fn silu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    simd.div_f32s(x, simd.add_f32s(one, exp(simd, simd.neg_f32s(x))))
}

/// d silu / dx = s (1 + x (1 - s)) with s = sigmoid(x); 1 - s is e^-x s, which cancels nothing.
#[inline(always)]
pub fn silu_slope<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let e = exp(simd, simd.neg_f32s(x));
    let s = simd.div_f32s(one, simd.add_f32s(one, e));
    simd.mul_f32s(s, simd.mul_add_f32s(x, simd.mul_f32s(e, s), one))
}

#[cfg(test)]
mod tests;
