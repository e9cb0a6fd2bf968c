//! The inner loops of the normalisation, over a strip of pixels of one input.
//!
//! A strip's rows are whole vectors (or single values, see [`super::super::pieces::dispatch`]). Sums
//! are taken in f32 over a block that stays in the first-level cache and in f64 over blocks, strips
//! and channels: the variance by blocks of two passes, joined as Chan et al. 1983 do, so that a
//! mean far from 0 costs no accuracy and x is read from memory once.

use pulp::{Simd, WithSimd};

use super::channels::{FoldPart, MomentsPart, Place, SumsPart};
use crate::cpu::math;

/// The values of a block.
const BLOCK: usize = 1 << 12;
/// The most pixels of a block whose mean is taken, for what rounding its sum in f32 may lose.
const MEAN_PIXELS: usize = 1 << 8;

/// Takes the moments of a strip.
pub(super) struct Measure<'a> {
    /// `[pixels, width]`
    pub(super) x: &'a [f32],
    pub(super) width: usize,
    pub(super) moments: MomentsPart<'a>,
}

impl WithSimd for Measure<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = (BLOCK / self.width).clamp(1, MEAN_PIXELS);
        let mut buffer = vec![0.0; 2 * self.width];
        let (mean, squares) = buffer.split_at_mut(self.width);
        let mut before = 0;
        for x in self.x.chunks(rows * self.width) {
            let pixels = x.len() / self.width;
            block_moments(simd, x, mean, squares);
            self.moments.join([before, pixels], mean, squares);
            before += pixels;
        }
    }
}

/// Mean and sum of squared deviations of every channel of a block.
#[inline(always)]
fn block_moments<S: Simd>(simd: S, x: &[f32], mean: &mut [f32], squares: &mut [f32]) {
    let pixels = (x.len() / mean.len()) as f32;
    let share = simd.splat_f32s(pixels.recip());
    let (x, _) = S::as_simd_f32s(x);
    let (mean, _) = S::as_mut_simd_f32s(mean);
    let (squares, _) = S::as_mut_simd_f32s(squares);
    let lanes = mean.len();
    let mut at = 0;
    while at + 2 <= lanes {
        column_moments::<S, 2>(simd, (x, at), share, mean, squares);
        at += 2;
    }
    if at < lanes {
        column_moments::<S, 1>(simd, (x, at), share, mean, squares);
    }
}

/// Those of `V` vectors of channels, with the sums in registers.
#[inline(always)]
fn column_moments<S: Simd, const V: usize>(
    simd: S,
    (x, at): (&[S::f32s], usize),
    share: S::f32s,
    mean: &mut [S::f32s],
    squares: &mut [S::f32s],
) {
    let zeros = [simd.splat_f32s(0.0); V];
    let mut means = column_sums::<S, false, V>(simd, (x, mean.len(), at), zeros);
    for mean in &mut means {
        *mean = simd.mul_f32s(*mean, share);
    }
    let sums = column_sums::<S, true, V>(simd, (x, mean.len(), at), means);
    mean[at..at + V].copy_from_slice(&means);
    squares[at..at + V].copy_from_slice(&sums);
}

/// The sums over all rows of x, or of the squares of x - centre; odd and even rows apart, so that
/// an addition need not wait for the one before.
#[inline(always)]
fn column_sums<S: Simd, const SQUARES: bool, const V: usize>(
    simd: S,
    (x, lanes, at): (&[S::f32s], usize, usize),
    centre: [S::f32s; V],
) -> [S::f32s; V] {
    let mut sums = [[simd.splat_f32s(0.0); V]; 2];
    for pair in x.chunks(2 * lanes) {
        for (row, sums) in pair.chunks_exact(lanes).zip(&mut sums) {
            let row = &row[at..at + V];
            for v in 0..V {
                sums[v] = if SQUARES {
                    let centred = simd.sub_f32s(row[v], centre[v]);
                    simd.mul_add_f32s(centred, centred, sums[v])
                } else {
                    simd.add_f32s(sums[v], row[v])
                };
            }
        }
    }
    let [mut total, odd] = sums;
    for v in 0..V {
        total[v] = simd.add_f32s(total[v], odd[v]);
    }
    total
}

/// Writes the channels of one input into a strip of y.
pub(super) struct Forward<'a> {
    /// `[pixels, width]`
    pub(super) x: &'a [f32],
    /// `[pixels, channels]`
    pub(super) y: &'a mut [f32],
    pub(super) place: Place,
    pub(super) fold: FoldPart<'a>,
    pub(super) silu: bool,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.silu {
            self.rows::<S, true>(simd);
        } else {
            self.rows::<S, false>(simd);
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn rows<S: Simd, const SILU: bool>(self, simd: S) {
        let [centre, scale, shift] =
            [self.fold.centre, self.fold.scale, self.fold.shift].map(|f| S::as_simd_f32s(f).0);
        let (x, _) = S::as_simd_f32s(self.x);
        let rows = self.y.chunks_exact_mut(self.place.channels).zip(x.chunks_exact(centre.len()));
        for (y, x) in rows {
            let (y, _) = S::as_mut_simd_f32s(&mut y[self.place.range()]);
            let fold = centre.iter().zip(scale).zip(shift);
            for ((y, &x), ((&centre, &scale), &shift)) in y.iter_mut().zip(x).zip(fold) {
                let z = simd.mul_add_f32s(simd.sub_f32s(x, centre), scale, shift);
                *y = if SILU { math::silu(simd, z) } else { z };
            }
        }
    }
}

/// Writes dz of one input's strip, and adds its sums.
pub(super) struct Backward<'a> {
    /// `[pixels, width]`
    pub(super) x: &'a [f32],
    /// `[pixels, channels]`
    pub(super) dy: &'a [f32],
    /// `[pixels, width]`
    pub(super) dz: &'a mut [f32],
    pub(super) place: Place,
    pub(super) fold: FoldPart<'a>,
    pub(super) silu: bool,
    pub(super) sums: SumsPart<'a>,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.silu {
            self.blocks::<S, true>(simd);
        } else {
            self.blocks::<S, false>(simd);
        }
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn blocks<S: Simd, const SILU: bool>(self, simd: S) {
        let Backward { x, dy, dz, place, fold, mut sums, .. } = self;
        let mut buffer = vec![0.0; 2 * place.width];
        let (plain, normed) = buffer.split_at_mut(place.width);
        let rows = (BLOCK / place.channels).max(1);
        let blocks = x.chunks(rows * place.width).zip(dy.chunks(rows * place.channels));
        for ((x, dy), dz) in blocks.zip(dz.chunks_mut(rows * place.width)) {
            let sums_of_block = [&mut *plain, &mut *normed];
            block_backward::<S, SILU>(simd, x, (dy, place), dz, fold, sums_of_block);
            sums.add(plain, normed);
        }
    }
}

#[inline(always)]
fn block_backward<S: Simd, const SILU: bool>(
    simd: S,
    x: &[f32],
    (dy, place): (&[f32], Place),
    dz: &mut [f32],
    fold: FoldPart<'_>,
    sums: [&mut [f32]; 2],
) {
    let lanes = place.width / S::F32_LANES;
    let (x, _) = S::as_simd_f32s(x);
    let (dz, _) = S::as_mut_simd_f32s(dz);
    let [plain, normed] = sums.map(|sums| S::as_mut_simd_f32s(sums).0);
    let mut at = 0;
    while at + 2 <= lanes {
        let sums = column_backward::<S, SILU, 2>(simd, (x, lanes, at), (dy, place), dz, fold);
        plain[at..at + 2].copy_from_slice(&sums[0]);
        normed[at..at + 2].copy_from_slice(&sums[1]);
        at += 2;
    }
    if at < lanes {
        let sums = column_backward::<S, SILU, 1>(simd, (x, lanes, at), (dy, place), dz, fold);
        (plain[at], normed[at]) = (sums[0][0], sums[1][0]);
    }
}

/// Writes `V` vectors of channels of dz from vector `at` on, and gives their sums. The sums stay in
/// registers: in memory their stores would keep the loads of dy waiting.
#[inline(always)]
fn column_backward<S: Simd, const SILU: bool, const V: usize>(
    simd: S,
    (x, lanes, at): (&[S::f32s], usize, usize),
    (dy, place): (&[f32], Place),
    dz: &mut [S::f32s],
    fold: FoldPart<'_>,
) -> [[S::f32s; V]; 2] {
    let mut factors = [[simd.splat_f32s(0.0); V]; 3];
    for (to, from) in factors.iter_mut().zip([fold.centre, fold.scale, fold.shift]) {
        to.copy_from_slice(&S::as_simd_f32s(from).0[at..at + V]);
    }
    let [centre, scale, shift] = factors;
    let mut sums = [[simd.splat_f32s(0.0); V]; 2];
    let first = place.first + at * S::F32_LANES;
    let range = first..first + V * S::F32_LANES;
    let rows = x.chunks_exact(lanes).zip(dz.chunks_exact_mut(lanes));
    for ((x, dz), dy) in rows.zip(dy.chunks_exact(place.channels)) {
        let (x, dz) = (&x[at..at + V], &mut dz[at..at + V]);
        let dy = &S::as_simd_f32s(&dy[range.clone()]).0[..V];
        for v in 0..V {
            let centred = simd.sub_f32s(x[v], centre[v]);
            let z = simd.mul_add_f32s(centred, scale[v], shift[v]);
            let gradient =
                if SILU { simd.mul_f32s(dy[v], math::silu_slope(simd, z)) } else { dy[v] };
            dz[v] = gradient;
            sums[0][v] = simd.add_f32s(sums[0][v], gradient);
            sums[1][v] = simd.mul_add_f32s(gradient, centred, sums[1][v]);
        }
    }
    sums
}

/// Turns dz into dx, in place.
pub(super) struct Input<'a> {
    /// `[pixels, width]`
    pub(super) x: &'a [f32],
    /// `[pixels, width]`
    pub(super) dx: &'a mut [f32],
    pub(super) fold: FoldPart<'a>,
}

impl WithSimd for Input<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let FoldPart { centre, scale, shift, slope } = self.fold;
        let [centre, scale, shift, slope] =
            [centre, scale, shift, slope].map(|f| S::as_simd_f32s(f).0);
        let lanes = centre.len();
        let [scale, shift, slope] = [scale, shift, slope].map(|f| &f[..lanes]);
        let (x, _) = S::as_simd_f32s(self.x);
        let (dx, _) = S::as_mut_simd_f32s(self.dx);
        for (x, dx) in x.chunks_exact(lanes).zip(dx.chunks_exact_mut(lanes)) {
            for i in 0..lanes {
                let centred = simd.sub_f32s(x[i], centre[i]);
                let rest = simd.mul_add_f32s(centred, slope[i], shift[i]);
                dx[i] = simd.mul_add_f32s(dx[i], scale[i], rest);
            }
        }
    }
}
