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
    scratch::with(slabs_len + 3 * row_len, |buffer| {
        let (slabs, sums) = buffer.split_at_mut(slabs_len);
        sums.fill(0.0);
        for bands in bands.chunks(in_pass) {
            let work = slabs.par_chunks_mut(slab).zip(bands);
            work.for_each(|(slab, band)| source.copy(&band.window, &mut slab[..band.len(conv)]));
            let slabs = &*slabs;
            let kernel_rows = sums.par_chunks_mut(row_len).enumerate();
            let pieces = kernel_rows.flat_map(|(row, sums)| {
                let pieces = sums.par_chunks_mut(ROWS * conv.out).enumerate();
                pieces.map(move |(at, sums)| (row, at * ROWS, sums))
            });
            pieces.for_each(|(row, first, sums)| {
                let starts = starts(conv, bands, slab, row);
                arch.dispatch(Sum { conv, slabs: &slabs[first..], dy, starts: &starts, sums });
            });
        }
        for (o, dweight) in dweight.chunks_exact_mut(conv.input * TAPS).enumerate() {
            for (at, to) in dweight.iter_mut().enumerate() {
                *to = sums[(at % TAPS * conv.input + at / TAPS) * conv.out + o];
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

/// Adds the bands of a pass to some rows of dw.
struct Sum<'a> {
    conv: &'a Conv,
    /// From the first of the rows on.
    slabs: &'a [f32],
    dy: &'a [f32],
    starts: &'a [[usize; 2]],
    sums: &'a mut [f32],
}

impl WithSimd for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let outer = Outer {
            a: self.slabs,
            a_pitch: stride(self.conv) * self.conv.input,
            b: self.dy,
            b_pitch: self.conv.out,
            starts: self.starts,
            run: self.conv.out_size()[1],
            rows: self.sums.len() / self.conv.out,
            columns: self.conv.out,
        };
        outer.add(simd, self.sums);
    }
}
