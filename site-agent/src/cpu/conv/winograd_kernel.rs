//! 3x3 kernels on their way into Winograd's method and back out of it as gradients.
//!
//! Parameters lie as `[out, in, 3, 3]`; the method wants 36 matrices. Neither side is kept: a
//! step changes every weight, and the way costs little beside the convolution.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::winograd_tiles::{EDGE, POINTS, kernel, kernel_transposed};
use super::{Conv, TAPS};
use crate::cpu::scratch;
use crate::cpu::tile::{self, load_apart};

/// More than the lanes of any vector.
const LANES_MAX: usize = 64;

/// Lends the transformed kernel, G w G^T of the nine taps that start at the inner product of
/// (k, column) with `steps`, to `work`; `turned` by half a turn if so asked.
pub(super) fn with_kernel(
    weight: &[f32],
    [depth, columns]: [usize; 2],
    steps: [usize; 2],
    turned: bool,
    work: impl FnOnce(&[f32]),
) {
    let (panel, arch) = (tile::panel_columns(), Arch::new());
    scratch::with(POINTS * tile::packed_len(depth, columns), |packed| {
        let panels = packed.par_chunks_mut(POINTS * depth * panel).enumerate();
        panels.for_each(|(at, packed)| {
            let columns = at * panel..columns.min((at + 1) * panel);
            arch.dispatch(KernelPanel { weight, depth, columns, steps, turned, packed });
        });
        work(packed);
    });
}

/// Transforms and packs some columns of the kernel.
struct KernelPanel<'a> {
    weight: &'a [f32],
    depth: usize,
    columns: Range<usize>,
    steps: [usize; 2],
    turned: bool,
    packed: &'a mut [f32],
}

impl WithSimd for KernelPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.packed.len() / POINTS / self.depth;
        let pitch = self.depth * width;
        let mut taps = [[0.0; LANES_MAX]; TAPS];
        for k in 0..self.depth {
            for first in (0..width).step_by(S::F32_LANES) {
                for l in 0..S::F32_LANES {
                    let column = self.columns.start + first + l;
                    let from = k * self.steps[0] + column * self.steps[1];
                    let outside = [0.0; TAPS];
                    let inside = column < self.columns.end;
                    let nine = if inside { &self.weight[from..][..TAPS] } else { &outside };
                    for (tap, &value) in taps.iter_mut().zip(nine) {
                        tap[l] = value;
                    }
                }
                if self.turned {
                    taps.reverse();
                }
                transform_kernel(simd, &taps, &mut self.packed[k * width + first..], pitch);
            }
        }
    }
}

/// G w G^T for a vector of kernels, whose points go `pitch` apart.
#[inline(always)]
fn transform_kernel<S: Simd>(
    simd: S,
    taps: &[[f32; LANES_MAX]; TAPS],
    to: &mut [f32],
    pitch: usize,
) {
    let taps = taps.as_flattened();
    let mut half = [[simd.splat_f32s(0.0); 3]; EDGE];
    for s in 0..3 {
        let from = &taps[s * LANES_MAX..];
        let column = kernel(simd, load_apart(simd, from, 3 * LANES_MAX, S::F32_LANES));
        for i in 0..EDGE {
            half[i][s] = column[i];
        }
    }
    let mut points = to.chunks_mut(pitch);
    for half in half {
        for (value, point) in kernel(simd, half).into_iter().zip(&mut points) {
            tile::store(simd, point, value);
        }
    }
}

/// G^T u G of `sums` `[point, in, out]`, written to `[out, in, 3, 3]`.
pub(super) fn turn_back(conv: &Conv, sums: &[f32], dweight: &mut [f32]) {
    let (lanes, arch) = (tile::lanes(), Arch::new());
    let blocks = dweight.par_chunks_mut(lanes * conv.input * TAPS).enumerate();
    blocks.for_each(|(block, dweight)| {
        arch.dispatch(TurnBack { conv, sums, first: block * lanes, dweight });
    });
}

/// The rows of dw of one vector of channels out.
struct TurnBack<'a> {
    conv: &'a Conv,
    sums: &'a [f32],
    first: usize,
    dweight: &'a mut [f32],
}

impl WithSimd for TurnBack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Conv { input, out, .. } = *self.conv;
        let lanes = S::F32_LANES.min(out - self.first);
        let mut taps = [[0.0; LANES_MAX]; TAPS];
        for i in 0..input {
            let mut half = [[simd.splat_f32s(0.0); 3]; EDGE];
            for (j, half) in half.iter_mut().enumerate() {
                let from = &self.sums[(j * input + i) * out + self.first..];
                *half = kernel_transposed(simd, load_apart(simd, from, EDGE * input * out, lanes));
            }
            for r in 0..3 {
                let mut row = [simd.splat_f32s(0.0); EDGE];
                for (value, half) in row.iter_mut().zip(&half) {
                    *value = half[r];
                }
                for (s, value) in kernel_transposed(simd, row).into_iter().enumerate() {
                    tile::store(simd, &mut taps[r * 3 + s], value);
                }
            }
            for (l, row) in self.dweight.chunks_exact_mut(input * TAPS).enumerate() {
                for (to, tap) in row[i * TAPS..][..TAPS].iter_mut().zip(&taps) {
                    *to = tap[l];
                }
            }
        }
    }
}
