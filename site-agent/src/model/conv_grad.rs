//! The weight gradient of a 3x3 convolution on the processor.
//!
//! burn's flex back end takes it as a convolution whose kernel is a whole image, which costs two
//! thirds of a training step. Here it is what it is: nine dot products per pair of channels, over
//! planes that stay in the first-level cache. Every sum is taken by one thread in one order, so
//! the result does not depend on how many threads there are.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Taps of a 3x3 kernel.
const TAPS: usize = 9;
/// Output channels whose sums are held in registers together.
const BLOCK: usize = 4;

/// What a convolution with a 3x3 kernel and padding 1 maps between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// Channels in.
    pub input: usize,
    /// Channels out.
    pub out: usize,
    /// Height and width out; they are those of the input divided by `stride`, rounded up.
    pub size: [usize; 2],
    /// Height and width in.
    pub input_size: [usize; 2],
    /// 1 or 2.
    pub stride: usize,
}

/// dL/dw `[out, in, 3, 3]` from the input `x` `[batch, in, height, width]` and dL/dy `dy`
/// `[batch, out, height / stride, width / stride]`.
///
/// dw[o, i, r, s] = sum over n, y, x of dy[n, o, y, x] * x[n, i, stride y + r - 1, stride x + s - 1].
///
/// # Panics
/// If a slice does not have the length that `shape` gives it: that is a bug of the caller.
pub fn weight_gradient(shape: &ConvShape, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let [height, width] = shape.input_size;
    assert_eq!(x.len(), shape.batch * shape.input * height * width, "x has its shape's length");
    assert_eq!(dy.len(), shape.batch * shape.out * shape.size[0] * shape.size[1], "so has dy");
    let layout = Layout::new(shape);
    let dy = layout.widened(shape, dy);
    let arch = Arch::new();
    let per_input = |channel: usize| {
        let mut sums = vec![0.0; shape.out * TAPS]; // [out, 3, 3]
        let mut plane = vec![0.0; layout.plane_len()];
        for n in 0..shape.batch {
            let image = &x[(n * shape.input + channel) * height * width..][..height * width];
            layout.fill(shape, image, &mut plane);
            let dy = &dy[n * shape.out * layout.len..][..shape.out * layout.len];
            arch.dispatch(Dots { layout: &layout, plane: &plane, dy, sums: &mut sums });
        }
        sums
    };
    let sums: Vec<Vec<f32>> = (0..shape.input).into_par_iter().map(per_input).collect();
    (0..shape.out)
        .flat_map(|o| sums.iter().flat_map(move |sums| &sums[o * TAPS..][..TAPS]))
        .copied()
        .collect()
}

/// dL/db `[out]` from dL/dy.
pub fn bias_gradient(shape: &ConvShape, dy: &[f32]) -> Vec<f32> {
    let area = shape.size[0] * shape.size[1];
    let mut sums = vec![0.0; shape.out];
    for (i, plane) in dy.chunks_exact(area).enumerate() {
        sums[i % shape.out] += plane.iter().sum::<f32>();
    }
    sums
}

/// How planes are laid out so that every tap reads one contiguous run.
///
/// A plane is split into `stride * stride` phases, each with zeros around it and the row length of
/// the widened dy; then the tap (r, s) is the phase (r % stride, s % stride) from an offset on.
struct Layout {
    stride: usize,
    /// The row length of a phase and of the widened dy.
    row: usize,
    /// The values of one phase.
    phase: usize,
    /// The values of one widened plane of dy.
    len: usize,
}

impl Layout {
    fn new(shape: &ConvShape) -> Layout {
        let border = 2 / shape.stride;
        let row = shape.size[1] + border;
        // The last tap runs past the last row by as much as it starts into the first.
        let phase = (shape.size[0] + border) * row + border;
        Layout { stride: shape.stride, row, phase, len: shape.size[0] * row }
    }

    fn plane_len(&self) -> usize {
        self.stride * self.stride * self.phase
    }

    /// Where the run of tap (r, s) starts.
    fn offset(&self, tap: usize) -> usize {
        let (r, s) = (tap / 3, tap % 3);
        let phase = (r % self.stride) * self.stride + s % self.stride;
        phase * self.phase + (r / self.stride) * self.row + s / self.stride
    }

    /// Puts one image into `plane`, whose border is zero and stays so.
    fn fill(&self, shape: &ConvShape, image: &[f32], plane: &mut [f32]) {
        let [_, width] = shape.input_size;
        for (y, line) in image.chunks_exact(width).enumerate() {
            let (phase_y, row) = ((y + 1) % self.stride, (y + 1) / self.stride);
            for phase_x in 0..self.stride {
                let phase = (phase_y * self.stride + phase_x) * self.phase;
                let to = &mut plane[phase + row * self.row..];
                if self.stride == 1 {
                    to[1..=width].copy_from_slice(line);
                    continue;
                }
                // Column x lands in phase (x + 1) % stride at (x + 1) / stride.
                let first = (self.stride - 1 + phase_x) % self.stride;
                let columns = line[first..].iter().step_by(self.stride);
                for (to, &value) in to[(first + 1) / self.stride..].iter_mut().zip(columns) {
                    *to = value;
                }
            }
        }
    }

    /// dy with zeros at the end of every row, so that its rows are as long as a phase's.
    fn widened(&self, shape: &ConvShape, dy: &[f32]) -> Vec<f32> {
        let mut wide = vec![0.0; shape.batch * shape.out * self.len];
        let lines = dy.chunks_exact(shape.size[1]);
        for (to, line) in wide.chunks_exact_mut(self.row).zip(lines) {
            to[..line.len()].copy_from_slice(line);
        }
        wide
    }
}

/// Adds the dot products of one image: every plane of dy with every tap of one input plane.
struct Dots<'a> {
    layout: &'a Layout,
    plane: &'a [f32],
    /// `[out, len]`
    dy: &'a [f32],
    /// `[out, 3, 3]`
    sums: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let len = self.layout.len;
        let blocks = self.sums.chunks_mut(BLOCK * TAPS).zip(self.dy.chunks(BLOCK * len));
        for (sums, dy) in blocks {
            for first in (0..TAPS).step_by(3) {
                let taps = [0, 1, 2].map(|k| &self.plane[self.layout.offset(first + k)..][..len]);
                if dy.len() == BLOCK * len {
                    dots::<S, BLOCK>(simd, dy, taps, &mut sums[first..]);
                } else {
                    for (o, dy) in dy.chunks_exact(len).enumerate() {
                        dots::<S, 1>(simd, dy, taps, &mut sums[o * TAPS + first..]);
                    }
                }
            }
        }
    }
}

/// Adds `N` planes of dy times three taps to `sums`, whose rows are `TAPS` apart.
#[inline(always)]
fn dots<S: Simd, const N: usize>(simd: S, dy: &[f32], taps: [&[f32]; 3], sums: &mut [f32]) {
    let len = taps[0].len();
    let dy: [(&[S::f32s], &[f32]); N] =
        std::array::from_fn(|o| S::as_simd_f32s(&dy[o * len..][..len]));
    let taps = taps.map(|tap| S::as_simd_f32s(tap));
    let mut held = [[simd.splat_f32s(0.0); 3]; N];
    let lanes = taps[0].0.len();
    // Slices of one known length, so that the loop needs no bounds check.
    let heads = dy.map(|(head, _)| &head[..lanes]);
    let [a, b, c] = taps.map(|(head, _)| &head[..lanes]);
    for i in 0..lanes {
        for (held, head) in held.iter_mut().zip(&heads) {
            let value = head[i];
            held[0] = simd.mul_add_f32s(value, a[i], held[0]);
            held[1] = simd.mul_add_f32s(value, b[i], held[1]);
            held[2] = simd.mul_add_f32s(value, c[i], held[2]);
        }
    }
    for (o, held) in held.iter().enumerate() {
        for (k, &held) in held.iter().enumerate() {
            let tail = dy[o].1.iter().zip(taps[k].1).map(|(y, x)| y * x).sum::<f32>();
            sums[o * TAPS + k] += simd.reduce_sum_f32s(held) + tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::noise;

    /// The definition, one product at a time in f64.
    fn reference(shape: &ConvShape, x: &[f32], dy: &[f32]) -> Vec<f64> {
        let ([h, w], [oh, ow]) = (shape.input_size, shape.size);
        let mut dw = vec![0.0; shape.out * shape.input * TAPS];
        for (place, dw) in dw.iter_mut().enumerate() {
            let (o, i, tap) =
                (place / TAPS / shape.input, place / TAPS % shape.input, place % TAPS);
            for n in 0..shape.batch {
                for (at, &dy) in dy[(n * shape.out + o) * oh * ow..][..oh * ow].iter().enumerate() {
                    let y = (at / ow * shape.stride + tap / 3).wrapping_sub(1);
                    let x_at = (at % ow * shape.stride + tap % 3).wrapping_sub(1);
                    if y < h && x_at < w {
                        let x = x[((n * shape.input + i) * h + y) * w + x_at];
                        *dw += f64::from(x) * f64::from(dy);
                    }
                }
            }
        }
        dw
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_the_definition_for_every_shape(
            batch in 1_usize..3,
            input in 1_usize..4,
            out in 1_usize..7,
            height in 1_usize..14,
            width in 1_usize..20,
            stride in 1_usize..3,
        ) {
            let size = [height.div_ceil(stride), width.div_ceil(stride)];
            let shape = ConvShape { batch, input, out, size, input_size: [height, width], stride };
            let draw = |name: &str, len| noise::normal(&mut noise::stream(name, &[]), len);
            let x = draw("x", batch * input * height * width);
            let dy = draw("dy", batch * out * size[0] * size[1]);
            let found = weight_gradient(&shape, &x, &dy);
            for (found, expected) in found.iter().zip(reference(&shape, &x, &dy)) {
                prop_assert!((f64::from(*found) - expected).abs() < 1e-4, "{found} {expected}");
            }
            let ones = vec![1.0; dy.len()];
            let count = (batch * size[0] * size[1]) as f32;
            prop_assert_eq!(bias_gradient(&shape, &ones), vec![count; out]);
        }
    }

    #[test]
    fn it_does_not_depend_on_the_number_of_threads() {
        let shape = ConvShape {
            batch: 3,
            input: 9,
            out: 6,
            size: [13, 11],
            input_size: [13, 11],
            stride: 1,
        };
        let draw = |name: &str, len| noise::normal(&mut noise::stream(name, &[]), len);
        let (x, dy) = (draw("x", 3 * 9 * 143), draw("dy", 3 * 6 * 143));
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| weight_gradient(&shape, &x, &dy))
        };
        assert_eq!(with(1), with(3));
    }
}
