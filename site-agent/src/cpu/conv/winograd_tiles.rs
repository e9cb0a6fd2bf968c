//! The transforms of Winograd's minimal filtering F(4x4, 3x3): a tile of 6 x 6 inputs and a 3x3
//! kernel meet in 36 products instead of 144 (Lavin and Gray 2016, arXiv 1509.09308, section 4.1).
//!
//! y = A^T ((G w G^T) * (B^T x B)) A, with the points 0, 1, -1, 2, -2 and infinity. The gradient
//! of w is its transpose: G^T ((B^T x B) * (A dy A^T)) G. Every function here is one side of one
//! of these products, for a vector of channels.

use pulp::Simd;

/// Rows and columns of a transformed tile.
pub(super) const EDGE: usize = 6;
/// Values of a transformed tile.
pub(super) const POINTS: usize = EDGE * EDGE;
/// Rows and columns of y that a tile gives.
pub(super) const STEP: usize = 4;

/// B^T d.
#[inline(always)]
pub(super) fn input<S: Simd>(simd: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
    let minus_5 = simd.splat_f32s(-5.0);
    let minus_4 = simd.splat_f32s(-4.0);
    let minus_2 = simd.splat_f32s(-2.0);
    let two = simd.splat_f32s(2.0);
    let four = simd.splat_f32s(4.0);
    let outer_even = simd.mul_add_f32s(minus_4, d[2], d[4]);
    let outer_odd = simd.mul_add_f32s(minus_4, d[1], d[3]);
    let inner_even = simd.sub_f32s(d[4], d[2]);
    let inner_odd = simd.sub_f32s(d[3], d[1]);
    [
        simd.mul_add_f32s(four, d[0], simd.mul_add_f32s(minus_5, d[2], d[4])),
        simd.add_f32s(outer_even, outer_odd),
        simd.sub_f32s(outer_even, outer_odd),
        simd.mul_add_f32s(two, inner_odd, inner_even),
        simd.mul_add_f32s(minus_2, inner_odd, inner_even),
        simd.mul_add_f32s(four, d[1], simd.mul_add_f32s(minus_5, d[3], d[5])),
    ]
}

/// A^T m.
#[inline(always)]
pub(super) fn output<S: Simd>(simd: S, m: [S::f32s; 6]) -> [S::f32s; 4] {
    let two = simd.splat_f32s(2.0);
    let four = simd.splat_f32s(4.0);
    let eight = simd.splat_f32s(8.0);
    let near_sum = simd.add_f32s(m[1], m[2]);
    let near_difference = simd.sub_f32s(m[1], m[2]);
    let far_sum = simd.add_f32s(m[3], m[4]);
    let far_difference = simd.sub_f32s(m[3], m[4]);
    [
        simd.add_f32s(m[0], simd.add_f32s(near_sum, far_sum)),
        simd.mul_add_f32s(two, far_difference, near_difference),
        simd.mul_add_f32s(four, far_sum, near_sum),
        simd.add_f32s(m[5], simd.mul_add_f32s(eight, far_difference, near_difference)),
    ]
}

/// A y, the transpose of [`output`].
#[inline(always)]
pub(super) fn output_transposed<S: Simd>(simd: S, y: [S::f32s; 4]) -> [S::f32s; 6] {
    let two = simd.splat_f32s(2.0);
    let four = simd.splat_f32s(4.0);
    let eight = simd.splat_f32s(8.0);
    let near_even = simd.add_f32s(y[0], y[2]);
    let near_odd = simd.add_f32s(y[1], y[3]);
    let far_even = simd.mul_add_f32s(four, y[2], y[0]);
    let far_odd = simd.mul_add_f32s(eight, y[3], simd.mul_f32s(two, y[1]));
    [
        y[0],
        simd.add_f32s(near_even, near_odd),
        simd.sub_f32s(near_even, near_odd),
        simd.add_f32s(far_even, far_odd),
        simd.sub_f32s(far_even, far_odd),
        y[3],
    ]
}

/// G g.
#[inline(always)]
pub(super) fn kernel<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; 6] {
    let quarter = simd.splat_f32s(0.25);
    let minus_6th = simd.splat_f32s(-1.0 / 6.0);
    let sixth = simd.splat_f32s(1.0 / 6.0);
    let twelfth = simd.splat_f32s(1.0 / 12.0);
    let minus_12th = simd.splat_f32s(-1.0 / 12.0);
    let part_24 = simd.splat_f32s(1.0 / 24.0);
    let near = simd.mul_f32s(minus_6th, simd.add_f32s(g[0], g[2]));
    let far = simd.mul_add_f32s(sixth, g[2], simd.mul_f32s(part_24, g[0]));
    [
        simd.mul_f32s(quarter, g[0]),
        simd.mul_add_f32s(minus_6th, g[1], near),
        simd.mul_add_f32s(sixth, g[1], near),
        simd.mul_add_f32s(twelfth, g[1], far),
        simd.mul_add_f32s(minus_12th, g[1], far),
        g[2],
    ]
}

/// G^T u, the transpose of [`kernel`].
#[inline(always)]
pub(super) fn kernel_transposed<S: Simd>(simd: S, u: [S::f32s; 6]) -> [S::f32s; 3] {
    let quarter = simd.splat_f32s(0.25);
    let minus_6th = simd.splat_f32s(-1.0 / 6.0);
    let sixth = simd.splat_f32s(1.0 / 6.0);
    let twelfth = simd.splat_f32s(1.0 / 12.0);
    let part_24 = simd.splat_f32s(1.0 / 24.0);
    let near_sum = simd.mul_f32s(minus_6th, simd.add_f32s(u[1], u[2]));
    let near_difference = simd.mul_f32s(sixth, simd.sub_f32s(u[2], u[1]));
    let far_sum = simd.add_f32s(u[3], u[4]);
    let far_difference = simd.sub_f32s(u[3], u[4]);
    [
        simd.mul_add_f32s(quarter, u[0], simd.mul_add_f32s(part_24, far_sum, near_sum)),
        simd.mul_add_f32s(twelfth, far_difference, near_difference),
        simd.add_f32s(u[5], simd.mul_add_f32s(sixth, far_sum, near_sum)),
    ]
}
