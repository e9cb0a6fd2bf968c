//! The inner loops of the normalisation, over a strip of pixels of one input.
//!
//! A strip's rows are whole vectors (or single values, see [`super::super::pieces::dispatch`]). Sums
//! are taken in f32 over a block that stays in the first-level cache and in f64 over blocks, strips
//! and channels: the variance by blocks of two passes, joined as Chan et al. 1983 do, so that a
//! mean far from 0 costs no accuracy and x is read from memory once.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::NormShape;
use crate::cpu::math;

/// The values of a block.
const BLOCK: usize = 1 << 12;
/// The most pixels of a block whose mean is taken, for what rounding its sum in f32 may lose.
const MEAN_PIXELS: usize = 1 << 8;

/// Which of all channels an input has.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) first: usize,
    pub(super) width: usize,
    /// Channels of both inputs.
    pub(super) channels: usize,
}

impl Place {
    pub(super) fn range(self) -> Range<usize> {
        self.first..self.first + self.width
    }
}

/// Factors of every channel of an image.
pub(super) struct Fold {
    pub(super) centre: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
    pub(super) slope: Vec<f32>,
}

impl Fold {
    pub(super) fn new(channels: usize) -> Fold {
        let zeros = || vec![0.0; channels];
        Fold { centre: zeros(), scale: zeros(), shift: zeros(), slope: zeros() }
    }

    /// Those of one input.
    pub(super) fn part(&self, shape: &NormShape, part: usize) -> FoldPart<'_> {
        let range = shape.place(part).range();
        FoldPart {
            centre: &self.centre[range.clone()],
            scale: &self.scale[range.clone()],
            shift: &self.shift[range.clone()],
            slope: &self.slope[range],
        }
    }
}

/// Factors of every channel of an input. `[width]` each
#[derive(Clone, Copy)]
pub(super) struct FoldPart<'a> {
    centre: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    slope: &'a [f32],
}

/// Mean and sum of squared deviations of every channel over some pixels.
pub(super) struct Moments {
    pub(super) pixels: usize,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

/// The same of one input, `[width]` each.
pub(super) struct MomentsPart<'a> {
    mean: &'a mut [f64],
    squares: &'a mut [f64],
}

impl Moments {
    pub(super) fn new(channels: usize) -> Moments {
        Moments { pixels: 0, mean: vec![0.0; channels], squares: vec![0.0; channels] }
    }

    pub(super) fn part(&mut self, range: Range<usize>) -> MomentsPart<'_> {
        MomentsPart { mean: &mut self.mean[range.clone()], squares: &mut self.squares[range] }
    }

    /// Those of all strips, joined in their order.
    pub(super) fn total(channels: usize, strips: &[Moments]) -> Moments {
        let mut total = Moments::new(channels);
        for strip in strips {
            let counts = [total.pixels, strip.pixels];
            total.part(0..channels).join(counts, &strip.mean, &strip.squares);
            total.pixels += strip.pixels;
        }
        total
    }

    /// Mean and variance over a group of channels.
    pub(super) fn joint(&self, group: Range<usize>) -> (f64, f64) {
        let width = group.len() as f64;
        let mean = self.mean[group.clone()].iter().sum::<f64>() / width;
        let within = self.squares[group.clone()].iter().sum::<f64>() / self.pixels as f64;
        let between = self.mean[group].iter().map(|m| (m - mean) * (m - mean)).sum::<f64>();
        (mean, (within + between) / width)
    }
}

impl MomentsPart<'_> {
    /// Joins the moments of `counts[1]` pixels to those of `counts[0]`.
    #[inline(always)]
    fn join<T: Copy + Into<f64>>(&mut self, counts: [usize; 2], mean: &[T], squares: &[T]) {
        let [before, more] = counts.map(|count| count as f64);
        let share = more / (before + more);
        let ours = self.mean.iter_mut().zip(self.squares.iter_mut());
        for ((mean, squares), (&m, &s)) in ours.zip(mean.iter().zip(squares)) {
            let delta = m.into() - *mean;
            *mean += delta * share;
            *squares += s.into() + delta * delta * before * share;
        }
    }
}

/// Sums of every channel over some pixels.
pub(super) struct Sums {
    /// sum dz
    pub(super) plain: Vec<f64>,
    /// sum dz (x - mean), and once the image is complete divided by the deviation
    pub(super) normed: Vec<f64>,
}

/// The same of one input.
pub(super) struct SumsPart<'a> {
    plain: &'a mut [f64],
    normed: &'a mut [f64],
}

impl Sums {
    pub(super) fn new(channels: usize) -> Sums {
        Sums { plain: vec![0.0; channels], normed: vec![0.0; channels] }
    }

    pub(super) fn part(&mut self, range: Range<usize>) -> SumsPart<'_> {
        SumsPart { plain: &mut self.plain[range.clone()], normed: &mut self.normed[range] }
    }

    /// Those of all strips, added in their order.
    pub(super) fn total(channels: usize, strips: &[Sums]) -> Sums {
        let mut total = Sums::new(channels);
        for strip in strips {
            total.part(0..channels).add(&strip.plain, &strip.normed);
        }
        total
    }
}

impl SumsPart<'_> {
    #[inline(always)]
    fn add<T: Copy + Into<f64>>(&mut self, plain: &[T], normed: &[T]) {
        self.plain.iter_mut().zip(plain).for_each(|(sum, &more)| *sum += more.into());
        self.normed.iter_mut().zip(normed).for_each(|(sum, &more)| *sum += more.into());
    }
}

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
