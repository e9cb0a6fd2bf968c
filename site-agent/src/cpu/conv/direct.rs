//! 3x3 convolutions as direct sums: at stride 2, and where channels are too few for a transform.
//!
//! With zeros around the image and channels last, a pixel's three taps of one kernel row are one
//! run of memory, so the convolution is a product of rows that overlap. The gradient of x at
//! stride 2 is four such products, one for each parity of row and column, with the taps that
//! reach it; no zeros are multiplied.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::band::{Band, Source, Window, bands};
use super::{Conv, Part, PartMut, Scale, TAPS, source};
use crate::cpu::scratch;
use crate::cpu::tile::{self, Rows};

/// Pixels of a band, about.
const BAND_PIXELS: usize = 256;

/// With at most as many columns each result is a dot product of its own.
const DOT_COLUMNS_MAX: usize = 2;

/// The products of a window of rows that give some pixels of each row of a result.
struct Phase {
    /// The first row and column of the result, which then go on in the phase's steps.
    first: [usize; 2],
    /// The kernel rows and the kernel columns that reach it, in the window's order.
    taps: [Vec<usize>; 2],
    /// Where its weights are in the packed kernel.
    packed: usize,
}

/// A convolution as its phases.
struct Phases<'a> {
    source: Source<'a>,
    phases: Vec<Phase>,
    /// The grid of a result moves by this over the pixels of the window...
    read_step: usize,
    /// ...and by this over the pixels of the result.
    write_step: usize,
    /// What the window has above and left of the first pixel.
    border: usize,
    /// Rows and columns of the window beyond the steps of the grid.
    overlap: usize,
    kernel: &'a [f32],
    /// Height and width of the result.
    size: [usize; 2],
    columns: usize,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
}

/// y of [`super::forward`] where x is not doubled.
pub(super) fn forward(
    conv: &Conv,
    x: &[Part<'_>],
    weight: &[f32],
    bias: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
) {
    let all = Phase { first: [0, 0], taps: [vec![0, 1, 2], vec![0, 1, 2]], packed: 0 };
    let (size, steps) = ([conv.input, conv.out], [TAPS, conv.input * TAPS]);
    with_kernel(weight, size, steps, vec![all], |kernel, phases| {
        let phases = Phases {
            source: source(conv, x),
            phases,
            read_step: if conv.scale == Scale::Halve { 2 } else { 1 },
            write_step: 1,
            border: 1,
            overlap: 2,
            kernel,
            size: conv.out_size(),
            columns: conv.out,
            bias: Some(bias),
            residual,
        };
        phases.run(&mut [PartMut { values: y, channels: conv.out }]);
    });
}

/// dx of [`super::input_gradient`] where x is not doubled.
pub(super) fn input_gradient(conv: &Conv, dy: &[f32], weight: &[f32], dx: &mut [PartMut<'_>]) {
    let halved = conv.scale == Scale::Halve;
    let phase = |y: usize, x: usize| {
        // Pixel 2j is reached from j by tap 1; 2j + 1 from j by tap 2 and from j + 1 by tap 0.
        let taps = [y, x].map(|odd| if odd == 1 { vec![2, 0] } else { vec![1] });
        Phase { first: [y, x], taps, packed: 0 }
    };
    let phases = if halved {
        vec![phase(0, 0), phase(0, 1), phase(1, 0), phase(1, 1)]
    } else {
        vec![Phase { first: [0, 0], taps: [vec![2, 1, 0], vec![2, 1, 0]], packed: 0 }]
    };
    let (depth_columns, steps) = ([conv.out, conv.input], [conv.input * TAPS, TAPS]);
    let dy = [Part { values: dy, channels: conv.out }];
    with_kernel(weight, depth_columns, steps, phases, |kernel, phases| {
        let size = conv.out_size();
        let phases = Phases {
            source: Source { parts: &dy, channels: conv.out, size, doubled: false },
            phases,
            read_step: 1,
            write_step: if halved { 2 } else { 1 },
            border: if halved { 0 } else { 1 },
            overlap: if halved { 1 } else { 2 },
            kernel,
            size: conv.size,
            columns: conv.input,
            bias: None,
            residual: None,
        };
        phases.run(dx);
    });
}

/// Lends the packed weights of every phase to `work`; those of (k, column) start at the inner
/// product with `steps`.
fn with_kernel(
    weight: &[f32],
    [depth, columns]: [usize; 2],
    steps: [usize; 2],
    mut phases: Vec<Phase>,
    work: impl FnOnce(&[f32], Vec<Phase>),
) {
    scratch::with(tile::packed_len(TAPS * depth, columns), |packed| {
        let mut rest = &mut packed[..];
        let mut at = 0;
        for phase in &mut phases {
            phase.packed = at;
            let [rows, along] = &phase.taps;
            let taps = rows.iter().flat_map(|row| along.iter().map(move |tap| row * 3 + tap));
            let firsts: Vec<usize> =
                taps.flat_map(|tap| (0..depth).map(move |k| k * steps[0] + tap)).collect();
            let (to, after) = rest.split_at_mut(tile::packed_len(firsts.len(), columns));
            if columns <= DOT_COLUMNS_MAX {
                for (column, to) in to.chunks_exact_mut(firsts.len()).take(columns).enumerate() {
                    for (to, first) in to.iter_mut().zip(&firsts) {
                        *to = weight[first + column * steps[1]];
                    }
                }
            } else {
                tile::pack(weight, &firsts, steps[1], columns, to);
            }
            at += to.len();
            rest = after;
        }
        work(packed, phases);
    });
}

impl Phases<'_> {
    fn run(&self, parts: &mut [PartMut<'_>]) {
        let [_, width] = self.size;
        let rows = (BAND_PIXELS / width).max(1).next_multiple_of(self.write_step);
        let arch = Arch::new();
        bands(parts, self.size, rows).par_iter_mut().for_each(|band| {
            let window = self.window(band);
            let window_len = window.size[0] * window.size[1] * self.source.channels;
            let joined =
                if band.parts.len() > 1 { self.rows(band) * width * self.columns } else { 0 };
            scratch::with(window_len + joined, |buffer| {
                let (values, joined) = buffer.split_at_mut(window_len);
                self.source.copy(&window, values);
                arch.dispatch(Piece { phases: self, window: &window, values, band, joined });
            });
        });
    }

    /// The rows of a band of the result.
    fn rows(&self, band: &Band<'_>) -> usize {
        let (values, channels) = &band.parts[0];
        values.len() / channels.max(&1) / self.size[1]
    }

    /// What a band of the result is read from.
    fn window(&self, band: &Band<'_>) -> Window {
        let extent = |steps: usize| steps.saturating_sub(1) * self.read_step + 1 + self.overlap;
        let rows = self.rows(band).div_ceil(self.write_step);
        let columns = self.size[1].div_ceil(self.write_step);
        let first = [band.row / self.write_step * self.read_step, 0];
        let size = [extent(rows), extent(columns)];
        Window { image: band.image, border: self.border, first, size }
    }
}

struct Piece<'a, 'b> {
    phases: &'a Phases<'a>,
    window: &'a Window,
    values: &'a [f32],
    band: &'a mut Band<'b>,
    /// Room for the band before it is split into its parts, if it has several.
    joined: &'a mut [f32],
}

impl WithSimd for Piece<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let phases = self.phases;
        let (rows, width) = (phases.rows(self.band), phases.size[1]);
        let first = (self.band.image * phases.size[0] + self.band.row) * width * phases.columns;
        let residual = phases.residual.map(|residual| &residual[first..]);
        if let [(only, _)] = &mut self.band.parts[..] {
            phases.write(simd, self.window, self.values, rows, residual, only);
            return;
        }
        phases.write(simd, self.window, self.values, rows, residual, self.joined);
        let mut offset = 0;
        for (part, channels) in &mut self.band.parts {
            let pixels = self.joined.chunks_exact(phases.columns);
            for (to, from) in part.chunks_exact_mut(*channels).zip(pixels) {
                to.copy_from_slice(&from[offset..][..*channels]);
            }
            offset += *channels;
        }
    }
}

impl Phases<'_> {
    #[inline(always)]
    fn write<S: Simd>(
        &self,
        simd: S,
        window: &Window,
        values: &[f32],
        rows: usize,
        residual: Option<&[f32]>,
        to: &mut [f32],
    ) {
        let (channels, width) = (self.source.channels, self.size[1]);
        let pitch = window.size[1] * channels;
        for phase in &self.phases {
            let [taps, along] = [phase.taps[0].len(), phase.taps[1].len()];
            let run = along * channels;
            let kernel = &self.kernel[phase.packed..][..tile::packed_len(taps * run, self.columns)];
            let steps = width.saturating_sub(phase.first[1]).div_ceil(self.write_step);
            for (at, row) in (phase.first[0]..rows).step_by(self.write_step).enumerate() {
                let start = at * self.read_step * pitch;
                let starts = [start, start + pitch, start + 2 * pitch];
                let from = (row * width + phase.first[1]) * self.columns;
                let product = Rows {
                    a: values,
                    pitch: self.read_step * channels,
                    starts: &starts[..taps],
                    run,
                    rows: steps,
                    bias: self.bias,
                    residual: residual.map(|residual| &residual[from..]),
                    columns: self.columns,
                    c_pitch: self.write_step * self.columns,
                };
                if steps == 0 {
                    continue;
                }
                if self.columns <= DOT_COLUMNS_MAX {
                    let kernel = &kernel[..self.columns * taps * run];
                    product.write_dots(simd, kernel, &mut to[from..]);
                } else {
                    product.write(simd, kernel, &mut to[from..]);
                }
            }
        }
    }
}
