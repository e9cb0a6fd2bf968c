//! Convolutions of channels-last images: 3x3 with padding 1 at stride 1 and 2 and after a nearest
//! doubling, and 1x1.
//!
//! The shape decides the method, by measurement: Winograd's where both sides have channels enough
//! to fill vectors, direct sums elsewhere. Results are written into the caller's slices; nothing
//! here keeps a tensor of its own.

mod band;
mod direct;
mod direct_weight;
pub mod pointwise;
#[cfg(test)]
mod tests;
mod winograd;
mod winograd_kernel;
mod winograd_tiles;
mod winograd_weight;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use band::Source;

/// Taps of a 3x3 kernel.
const TAPS: usize = 9;
/// With fewer channels than this on either side the direct sums are faster.
const WINOGRAD_CHANNELS_MIN: usize = 16;
/// Pixels whose gradients are summed by one piece of work.
const PIXELS_PER_SUM: usize = 1024;

/// What a 3x3 convolution with padding 1 maps between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Images.
    pub batch: usize,
    /// Channels in, of all parts together.
    pub input: usize,
    /// Channels out.
    pub out: usize,
    /// Height and width of x in pixels.
    pub size: [usize; 2],
    /// How the size changes.
    pub scale: Scale,
}

/// How a convolution changes the size of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Stride 1.
    Same,
    /// Stride 2: half the size, rounded up.
    Halve,
    /// x is doubled by repeating pixels, then stride 1.
    Double,
}

/// An input, or some of its channels: a U-Net's skip joins two along the channels.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// `[batch, height, width, channels]`
    pub values: &'a [f32],
    /// Its channels.
    pub channels: usize,
}

/// Where to write a gradient, or some of its channels.
#[derive(Debug)]
pub struct PartMut<'a> {
    /// `[batch, height, width, channels]`
    pub values: &'a mut [f32],
    /// Its channels.
    pub channels: usize,
}

impl Conv {
    /// Height and width of y in pixels.
    pub fn out_size(&self) -> [usize; 2] {
        match self.scale {
            Scale::Same => self.size,
            Scale::Halve => self.size.map(|edge| edge.div_ceil(2)),
            Scale::Double => self.size.map(|edge| 2 * edge),
        }
    }

    /// Values of x.
    pub fn input_len(&self) -> usize {
        self.batch * self.size[0] * self.size[1] * self.input
    }

    /// Values of y.
    pub fn out_len(&self) -> usize {
        let [height, width] = self.out_size();
        self.batch * height * width * self.out
    }

    /// Values of the weight.
    pub fn weight_len(&self) -> usize {
        self.out * self.input * TAPS
    }

    fn by_winograd(&self) -> bool {
        match self.scale {
            Scale::Same => self.input.min(self.out) >= WINOGRAD_CHANNELS_MIN,
            Scale::Halve => false,
            Scale::Double => true,
        }
    }

    fn check_parts(&self, parts: impl Iterator<Item = (usize, usize)>) {
        let pixels = self.batch * self.size[0] * self.size[1];
        let mut channels_in_all = 0;
        for (len, channels) in parts {
            assert_eq!(len, pixels * channels, "a part of x has its shape's length");
            channels_in_all += channels;
        }
        assert_eq!(channels_in_all, self.input, "the parts are all channels");
    }
}

/// y = conv(x, weight) + bias + residual.
///
/// y\[n, y, x, o\] = bias\[o\] + residual\[n, y, x, o\]
///   + sum over i, r, s of weight\[o, i, r, s\] * x\[n, stride y + r - 1, stride x + s - 1, i\].
///
/// `x` is the parts of `[batch, height, width, in]`, `weight` `[out, in, 3, 3]`, `bias` `[out]`,
/// `residual` and `y` `[batch, height out, width out, out]`.
///
/// # Panics
/// If a slice does not have the length that `conv` gives it: that is a bug of the caller.
pub fn forward(
    conv: &Conv,
    x: &[Part<'_>],
    weight: &[f32],
    bias: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
) {
    conv.check_parts(x.iter().map(|part| (part.values.len(), part.channels)));
    assert_eq!(weight.len(), conv.weight_len(), "the weight has its shape's length");
    assert_eq!(bias.len(), conv.out, "so has the bias");
    assert_eq!(y.len(), conv.out_len(), "so has y");
    assert!(residual.is_none_or(|residual| residual.len() == y.len()), "so has the residual");
    if y.is_empty() {
        return;
    }
    if conv.by_winograd() {
        winograd::forward(conv, x, weight, bias, residual, y);
    } else {
        direct::forward(conv, x, weight, bias, residual, y);
    }
}

/// dL/dx from dL/dy, written to the parts of `[batch, height, width, in]`.
///
/// # Panics
/// As [`forward`].
pub fn input_gradient(conv: &Conv, dy: &[f32], weight: &[f32], dx: &mut [PartMut<'_>]) {
    conv.check_parts(dx.iter().map(|part| (part.values.len(), part.channels)));
    assert_eq!(weight.len(), conv.weight_len(), "the weight has its shape's length");
    assert_eq!(dy.len(), conv.out_len(), "so has dy");
    if dy.is_empty() {
        return;
    }
    if conv.by_winograd() {
        winograd::input_gradient(conv, dy, weight, dx);
    } else {
        direct::input_gradient(conv, dy, weight, dx);
    }
}

/// dL/dweight `[out, in, 3, 3]` from x and dL/dy.
///
/// # Panics
/// As [`forward`].
pub fn weight_gradient(conv: &Conv, x: &[Part<'_>], dy: &[f32], dweight: &mut [f32]) {
    conv.check_parts(x.iter().map(|part| (part.values.len(), part.channels)));
    assert_eq!(dweight.len(), conv.weight_len(), "the weight has its shape's length");
    assert_eq!(dy.len(), conv.out_len(), "so has dy");
    if conv.by_winograd() {
        winograd_weight::gradient(conv, x, dy, dweight);
    } else {
        direct_weight::gradient(conv, x, dy, dweight);
    }
}

/// dL/dbias `[channels]`: the sum over the pixels of dL/dy `[pixels, channels]`.
///
/// # Panics
/// If `dy` is not whole pixels.
pub fn bias_gradient(dy: &[f32], dbias: &mut [f32]) {
    let channels = dbias.len();
    assert!(dy.len().is_multiple_of(channels), "dy is whole pixels");
    let arch = Arch::new();
    let sums = |dy: &[f32]| arch.dispatch(PixelSum { dy, channels });
    let sums: Vec<Vec<f32>> = dy.par_chunks(PIXELS_PER_SUM * channels).map(sums).collect();
    dbias.fill(0.0);
    for sums in sums {
        for (total, sum) in dbias.iter_mut().zip(sums) {
            *total += sum;
        }
    }
}

/// The sum over some pixels.
struct PixelSum<'a> {
    dy: &'a [f32],
    channels: usize,
}

impl WithSimd for PixelSum<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<f32> {
        let mut sums = vec![0.0; self.channels];
        for pixel in self.dy.chunks_exact(self.channels) {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += value;
            }
        }
        sums
    }
}

/// x as the convolution's grid sees it.
fn source<'a>(conv: &Conv, x: &'a [Part<'a>]) -> Source<'a> {
    Source { parts: x, channels: conv.input, size: conv.size, doubled: conv.scale == Scale::Double }
}
