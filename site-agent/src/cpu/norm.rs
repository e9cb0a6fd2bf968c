//! Group normalisation fused with what follows it: FiLM and SiLU, forward and backward.
//!
//! y = silu(((x - mean) / sqrt(var + eps) * gamma + beta) * (1 + scale) + shift) over channels-last
//! images (Wu and He 2018, arXiv 1803.08494; FiLM: Perez et al. 2018, arXiv 1709.07871). The input
//! may lie in two tensors that stand side by side along the channels, as where a U-Net joins a
//! skip; they are never copied together, and a group may straddle them. Nothing but mean and
//! deviation is kept for the backward pass: everything else is taken from x again, which is
//! cheaper than the memory.

use rayon::prelude::*;

use self::channels::{Fold, Moments, Place, Sums};
use self::strip::{Backward, Forward};
use super::pieces::{cut, dispatch, piece};

mod channels;
mod strip;

/// What keeps a normalisation of a constant input finite.
pub const EPSILON: f64 = 1e-5;
/// The values of a strip, which is what one thread takes at a time.
const STRIP: usize = 1 << 15;

/// What is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormShape {
    /// Images.
    pub batch: usize,
    /// Height times width.
    pub pixels: usize,
    /// Channels of the first and of the second input; 0 where there is no second.
    pub widths: [usize; 2],
    /// Groups over all channels.
    pub groups: usize,
}

/// What is done to the normalised values.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// `[channels]`
    pub gamma: &'a [f32],
    /// `[channels]`
    pub beta: &'a [f32],
    /// FiLM's scale and then its shift, `[batch, 2, channels]`: the rows of the linear map that
    /// makes them.
    pub film: Option<&'a [f32]>,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Where the gradients of an [`Affine`] go; all of them are overwritten.
#[derive(Debug)]
pub struct AffineGradient<'a> {
    /// dL/dgamma `[channels]`
    pub gamma: &'a mut [f32],
    /// dL/dbeta `[channels]`
    pub beta: &'a mut [f32],
    /// dL/dscale and dL/dshift `[batch, 2, channels]`, where there is a FiLM.
    pub film: Option<&'a mut [f32]>,
}

/// Writes `y` `[batch, pixels, channels]`, and `statistics` `[batch, groups, 2]`: mean and
/// 1 / sqrt(var + eps). `x` are two times `[batch, pixels, width]`.
///
/// # Panics
/// If a slice does not have the length that `shape` gives it: that is a bug of the caller.
pub fn forward(
    shape: &NormShape,
    x: [&[f32]; 2],
    affine: &Affine<'_>,
    y: &mut [f32],
    statistics: &mut [f64],
) {
    shape.check(x, affine, statistics);
    assert_eq!(y.len(), shape.len(), "y has the length of x");
    if y.is_empty() {
        return;
    }
    let images = y.par_chunks_exact_mut(shape.len() / shape.batch);
    let statistics = statistics.par_chunks_exact_mut(2 * shape.groups);
    images.zip(statistics).enumerate().for_each(|(n, (y, statistics))| {
        let image = Image::new(shape, x, n);
        image.statistics(statistics);
        let fold = shape.fold(affine, n, statistics);
        y.par_chunks_mut(image.strip * shape.channels()).enumerate().for_each(|(s, y)| {
            for part in shape.parts() {
                let x = image.strip(part, s);
                let fold = fold.part(shape, part);
                let op = Forward { x, y, place: shape.place(part), fold, silu: affine.silu };
                dispatch(shape.widths[part], op);
            }
        });
    });
}

/// Writes the gradients `dx` (as `x`) and `gradient` from `dy` (as [`forward`]'s `y`) and the
/// `statistics` that the forward pass wrote.
///
/// # Panics
/// If a slice does not have the length that `shape` gives it: that is a bug of the caller.
pub fn backward(
    shape: &NormShape,
    x: [&[f32]; 2],
    affine: &Affine<'_>,
    statistics: &[f64],
    dy: &[f32],
    dx: [&mut [f32]; 2],
    gradient: AffineGradient<'_>,
) {
    shape.check(x, affine, statistics);
    assert_eq!(dy.len(), shape.len(), "dy has the length of x");
    assert!([0, 1].iter().all(|&i| dx[i].len() == x[i].len()), "so has dx");
    assert_eq!(gradient.film.as_ref().map(|f| f.len()), affine.film.map(<[f32]>::len), "and film");
    let [first, second] = dx;
    let first = cut(first, shape.pixels * shape.widths[0], shape.batch);
    let second = cut(second, shape.pixels * shape.widths[1], shape.batch);
    let images: Vec<[&mut [f32]; 2]> = first.into_iter().zip(second).map(|(a, b)| [a, b]).collect();
    let one = |(n, dx): (usize, [&mut [f32]; 2])| {
        let statistics = &statistics[n * 2 * shape.groups..][..2 * shape.groups];
        let dy = piece(dy, shape.pixels * shape.channels(), n);
        backward_image(shape, &Image::new(shape, x, n), affine, (n, statistics), dy, dx)
    };
    let sums: Vec<Sums> = images.into_par_iter().enumerate().map(one).collect();
    affine_gradient(shape, affine, &sums, gradient);
}

/// Writes `dx` of image `n`, and gives its sums over the pixels.
fn backward_image(
    shape: &NormShape,
    image: &Image<'_>,
    affine: &Affine<'_>,
    (n, statistics): (usize, &[f64]),
    dy: &[f32],
    [first, second]: [&mut [f32]; 2],
) -> Sums {
    let fold = shape.fold(affine, n, statistics);
    let (count, channels) = (shape.pixels.div_ceil(image.strip), shape.channels());
    let first = cut(first, image.strip * shape.widths[0], count);
    let second = cut(second, image.strip * shape.widths[1], count);
    let mut strips: Vec<[&mut [f32]; 2]> =
        first.into_iter().zip(second).map(|(a, b)| [a, b]).collect();
    // First dz, the gradient before the SiLU, in the place of dx, with its sums.
    let sums = strips.par_iter_mut().enumerate().map(|(s, dz)| {
        let mut sums = Sums::new(channels);
        let dy = piece(dy, image.strip * channels, s);
        for part in shape.parts() {
            let (x, place) = (image.strip(part, s), shape.place(part));
            let sums = sums.part(place.range());
            let (dz, fold) = (&mut *dz[part], fold.part(shape, part));
            let op = Backward { x, dy, dz, place, fold, silu: affine.silu, sums };
            dispatch(shape.widths[part], op);
        }
        sums
    });
    let sums: Vec<Sums> = sums.collect();
    let mut sums = Sums::total(channels, &sums);
    for (c, normed) in sums.normed.iter_mut().enumerate() {
        let [mean, inverse] = shape.statistics_of(c, statistics);
        *normed = (*normed + sums.plain[c] * rounded_off(mean)) * inverse;
    }
    // Then dx from dz.
    let slope = shape.slope(affine, n, statistics, &sums);
    strips.into_par_iter().enumerate().for_each(|(s, dx)| {
        for (part, dx) in dx.into_iter().enumerate().take(shape.parts().end) {
            let (x, fold) = (image.strip(part, s), slope.part(shape, part));
            dispatch(shape.widths[part], strip::Input { x, dx, fold });
        }
    });
    sums
}

/// dgamma, dbeta and FiLM's gradients from the sums P = sum dz and Q = sum dz n of every
/// image; z = (n gamma + beta) (1 + scale) + shift with n = (x - mean) / deviation.
fn affine_gradient(
    shape: &NormShape,
    affine: &Affine<'_>,
    sums: &[Sums],
    gradient: AffineGradient<'_>,
) {
    let channels = shape.channels();
    for c in 0..channels {
        let (mut gamma, mut beta) = (0.0, 0.0);
        for (n, sums) in sums.iter().enumerate() {
            let scale = affine.scale(n, c, channels);
            gamma += scale * sums.normed[c];
            beta += scale * sums.plain[c];
        }
        (gradient.gamma[c], gradient.beta[c]) = (gamma as f32, beta as f32);
    }
    let Some(film) = gradient.film else { return };
    for (film, sums) in film.chunks_exact_mut(2 * channels).zip(sums) {
        let (scale, shift) = film.split_at_mut(channels);
        for c in 0..channels {
            let (gamma, beta) = (f64::from(affine.gamma[c]), f64::from(affine.beta[c]));
            scale[c] = (gamma * sums.normed[c] + beta * sums.plain[c]) as f32;
            shift[c] = sums.plain[c] as f32;
        }
    }
}

impl Affine<'_> {
    /// 1 + scale of image `n`.
    fn scale(&self, n: usize, c: usize, channels: usize) -> f64 {
        self.film.map_or(1.0, |film| 1.0 + f64::from(film[2 * n * channels + c]))
    }

    /// The shift of image `n`.
    fn shift(&self, n: usize, c: usize, channels: usize) -> f64 {
        self.film.map_or(0.0, |film| f64::from(film[(2 * n + 1) * channels + c]))
    }
}

impl NormShape {
    /// Channels of both inputs.
    pub fn channels(&self) -> usize {
        self.widths[0] + self.widths[1]
    }

    /// Values of both inputs.
    fn len(&self) -> usize {
        self.batch * self.pixels * self.channels()
    }

    /// The inputs that there are.
    fn parts(&self) -> std::ops::Range<usize> {
        0..if self.widths[1] == 0 { 1 } else { 2 }
    }

    /// Where the channels of an input stand among all.
    fn place(&self, part: usize) -> Place {
        let first = if part == 0 { 0 } else { self.widths[0] };
        Place { first, width: self.widths[part], channels: self.channels() }
    }

    fn check(&self, x: [&[f32]; 2], affine: &Affine<'_>, statistics: &[f64]) {
        let channels = self.channels();
        assert!(self.widths[0] > 0 && self.groups > 0, "there are channels and groups");
        assert!(channels.is_multiple_of(self.groups), "groups divide the channels");
        for (x, width) in x.iter().zip(self.widths) {
            assert_eq!(x.len(), self.batch * self.pixels * width, "x has its shape's length");
        }
        assert!(
            [affine.gamma, affine.beta].iter().all(|p| p.len() == channels),
            "so have gamma, beta"
        );
        assert!(affine.film.is_none_or(|f| f.len() == 2 * self.batch * channels), "so has film");
        assert_eq!(statistics.len(), 2 * self.batch * self.groups, "so have the statistics");
    }

    /// Mean and 1 / sqrt(var + eps) of the group of channel `c`.
    fn statistics_of(&self, c: usize, statistics: &[f64]) -> [f64; 2] {
        let group = c / (self.channels() / self.groups);
        [statistics[2 * group], statistics[2 * group + 1]]
    }

    /// z = (x - centre) * scale + shift for every channel of image `n`.
    fn fold(&self, affine: &Affine<'_>, n: usize, statistics: &[f64]) -> Fold {
        let channels = self.channels();
        let mut fold = Fold::new(channels);
        for c in 0..channels {
            let [mean, inverse] = self.statistics_of(c, statistics);
            let film = affine.scale(n, c, channels);
            let scale = f64::from(affine.gamma[c]) * film * inverse;
            fold.centre[c] = mean as f32;
            fold.scale[c] = scale as f32;
            let shift = f64::from(affine.beta[c]) * film + affine.shift(n, c, channels);
            fold.shift[c] = (shift + scale * rounded_off(mean)) as f32;
        }
        fold
    }

    /// dx = dz * scale + (x - centre) * slope + shift for every channel of image `n`.
    ///
    /// dx = (a dz - mean(a dz) - n mean(a dz n)) / deviation with a = gamma (1 + scale) and the
    /// means over the group.
    fn slope(&self, affine: &Affine<'_>, n: usize, statistics: &[f64], sums: &Sums) -> Fold {
        let (channels, per_group) = (self.channels(), self.channels() / self.groups);
        let mut fold = Fold::new(channels);
        let count = (per_group * self.pixels) as f64;
        for group in 0..self.groups {
            let [mean, inverse] = self.statistics_of(group * per_group, statistics);
            let range = group * per_group..(group + 1) * per_group;
            let a = |c: usize| f64::from(affine.gamma[c]) * affine.scale(n, c, channels);
            for c in range.clone() {
                fold.scale[c] = (a(c) * inverse) as f32;
            }
            // With the rounded scales, so that dx has the mean 0 that it should have.
            let (mut plain, mut normed) = (0.0, 0.0);
            for c in range.clone() {
                plain += f64::from(fold.scale[c]) * sums.plain[c] / count;
                normed += f64::from(fold.scale[c]) * sums.normed[c] / count;
            }
            let slope = (-normed * inverse) as f32;
            let shift = f64::from(slope) * rounded_off(mean) - plain;
            // What rounding takes from one channel's shift, the next one's gives back.
            let mut owed = 0.0;
            for c in range {
                fold.centre[c] = mean as f32;
                fold.slope[c] = slope;
                fold.shift[c] = (shift + owed) as f32;
                owed += shift - f64::from(fold.shift[c]);
            }
        }
        fold
    }
}

/// What x - mean is more than x minus the mean that the vectors hold.
fn rounded_off(mean: f64) -> f64 {
    f64::from(mean as f32) - mean
}

/// One image of both inputs.
struct Image<'a> {
    shape: &'a NormShape,
    /// `[pixels, width]` each
    x: [&'a [f32]; 2],
    /// Pixels of a strip.
    strip: usize,
}

impl<'a> Image<'a> {
    fn new(shape: &'a NormShape, x: [&'a [f32]; 2], n: usize) -> Image<'a> {
        let x = [0, 1].map(|i| piece(x[i], shape.pixels * shape.widths[i], n));
        Image { shape, x, strip: (STRIP / shape.channels()).max(1) }
    }

    /// Strip `s` of an input. `[at most strip, width]`
    fn strip(&self, part: usize, s: usize) -> &'a [f32] {
        piece(self.x[part], self.strip * self.shape.widths[part], s)
    }

    /// Writes mean and 1 / sqrt(var + eps) of every group. `[groups, 2]`
    fn statistics(&self, statistics: &mut [f64]) {
        let shape = self.shape;
        let strips = (0..shape.pixels.div_ceil(self.strip)).into_par_iter().map(|s| {
            let mut moments = Moments::new(shape.channels());
            moments.pixels = self.strip(0, s).len() / shape.widths[0];
            for part in shape.parts() {
                let width = shape.widths[part];
                let moments = moments.part(shape.place(part).range());
                dispatch(width, strip::Measure { x: self.strip(part, s), width, moments });
            }
            moments
        });
        let strips: Vec<Moments> = strips.collect();
        let moments = Moments::total(shape.channels(), &strips);
        let per_group = shape.channels() / shape.groups;
        for (group, pair) in statistics.chunks_exact_mut(2).enumerate() {
            let (mean, variance) = moments.joint(group * per_group..(group + 1) * per_group);
            pair.copy_from_slice(&[mean, (variance + EPSILON).sqrt().recip()]);
        }
    }
}

#[cfg(test)]
mod tests;
