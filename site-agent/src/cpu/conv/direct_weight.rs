//! The gradient of the weight of a 3x3 convolution as direct sums.
//!
//! dw\[r\] is the sum over pixels of the outer products of a pixel's three taps of kernel row r,
//! which are one run of memory, and dy. Images are copied with zeros around them some megabytes
//! at a time, which then every piece of dw adds in order; so no sum depends on the number of
//! threads.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::band::Window;
use super::{Conv, Part, Scale, TAPS, source};
use crate::cpu::scratch;
use crate::cpu::tile::Outer;

/// What the copied images of a pass may take, in values.
const PASS_LEN: usize = 2 << 20;
/// Rows of dy whose x is copied as one piece of work, about, in pixels.
const BAND_PIXELS: usize = 256;
/// With fewer channels out, the vectors hold taps instead.
const OUT_MIN: usize = 8;
/// Rows of dw that are one piece of work.
const ROWS: usize = 48;

/// Some rows of dy of one image, and the window of x they are products with.
struct Band {
    window: Window,
    /// The first row of dy, counted over all images.
    first: usize,
    rows: usize,
}

/// dw of [`super::weight_gradient`] where x is not doubled.
pub(super) fn gradient(conv: &Conv, x: &[Part<'_>], dy: &[f32], dweight: &mut [f32]) {
    let source = source(conv, x);
    let bands = bands(conv);
    let slab = bands.iter().map(|band| band.len(conv)).max().unwrap_or(0).max(1);
    let in_pass = (PASS_LEN / slab).clamp(1, bands.len().max(1));
    let (slabs_len, row_len, arch) = (in_pass * slab, 3 * conv.input * conv.out, Arch::new());
    let turned = conv.out < OUT_MIN;
    scratch::with(slabs_len + 3 * row_len, |buffer| {
        let (slabs, sums) = buffer.split_at_mut(slabs_len);
        sums.fill(0.0);
        for bands in bands.chunks(in_pass) {
            let work = slabs.par_chunks_mut(slab).zip(bands);
            work.for_each(|(slab, band)| source.copy(&band.window, &mut slab[..band.len(conv)]));
            let slabs = &*slabs;
            let kernel_rows = sums.par_chunks_mut(row_len).enumerate();
            let pieces = kernel_rows.flat_map(|(row, sums)| {
                let rows = if turned { 3 * conv.input } else { ROWS };
                let pieces = sums.par_chunks_mut(rows * conv.out).enumerate();
                pieces.map(move |(at, sums)| (row, at * rows, sums))
            });
            pieces.for_each(|(row, first, sums)| {
                let starts = starts(conv, bands, slab, row);
                let (taps, dy) = ((&slabs[first..], stride(conv) * conv.input), (dy, conv.out));
                let run = conv.out_size()[1];
                arch.dispatch(Sum { taps, dy, starts, run, turned, sums });
            });
        }
        for (o, dweight) in dweight.chunks_exact_mut(conv.input * TAPS).enumerate() {
            for (at, to) in dweight.iter_mut().enumerate() {
                let (row, tap) = (at % TAPS / 3, at % 3 * conv.input + at / TAPS);
                let from = if turned { o * 3 * conv.input + tap } else { tap * conv.out + o };
                *to = sums[row * row_len + from];
            }
        }
    });
}

fn stride(conv: &Conv) -> usize {
    if conv.scale == Scale::Halve { 2 } else { 1 }
}

/// All rows of dy, in order.
fn bands(conv: &Conv) -> Vec<Band> {
    let ([height, width], stride) = (conv.out_size(), stride(conv));
    let most = (BAND_PIXELS / width.max(1)).max(1);
    let mut bands = Vec::new();
    for image in 0..conv.batch {
        for row in (0..height).step_by(most) {
            let rows = most.min(height - row);
            let size = [rows, width].map(|steps| (steps - 1) * stride + 3);
            let window = Window { image, border: 1, first: [row * stride, 0], size };
            bands.push(Band { window, first: image * height + row, rows });
        }
    }
    bands
}

impl Band {
    fn len(&self, conv: &Conv) -> usize {
        self.window.size[0] * self.window.size[1] * conv.input
    }
}

/// Where the rows of x and dy start whose products make kernel row `row`.
fn starts(conv: &Conv, bands: &[Band], slab: usize, row: usize) -> Vec<[usize; 2]> {
    let dy_row = conv.out_size()[1] * conv.out;
    let of_band = |(at, band): (usize, &Band)| {
        let (pitch, first) = (band.window.size[1] * conv.input, band.first);
        let start =
            move |y: usize| [at * slab + (y * stride(conv) + row) * pitch, (first + y) * dy_row];
        (0..band.rows).map(start)
    };
    bands.iter().enumerate().flat_map(of_band).collect()
}

/// Adds the bands of a pass to some rows of `[taps of a row, out]`, or to all of `[out, taps of a
/// row]` if `turned`.
struct Sum<'a> {
    /// Windows of x from the first of the rows on, and the pitch of pixels.
    taps: (&'a [f32], usize),
    /// dy and the pitch of its pixels.
    dy: (&'a [f32], usize),
    starts: Vec<[usize; 2]>,
    run: usize,
    turned: bool,
    sums: &'a mut [f32],
}

impl WithSimd for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (mut a, mut b, out) = (self.taps, self.dy, self.dy.1);
        let mut size = [self.sums.len() / out, out];
        if self.turned {
            (a, b) = (b, a);
            size.reverse();
            self.starts.iter_mut().for_each(|pair| pair.reverse());
        }
        let outer = Outer {
            a: a.0,
            a_pitch: a.1,
            b: b.0,
            b_pitch: b.1,
            starts: &self.starts,
            run: self.run,
            rows: size[0],
            columns: size[1],
        };
        outer.add(simd, self.sums);
    }
}
