//! The gradient of the weight of a 3x3 convolution at stride 1, by Winograd's tiles.
//!
//! dw = G^T (sum over tiles of (B^T x B) * (A dy A^T)) G: at each of a tile's 36 points the sum is
//! a matrix product over the tiles. Tiles are transformed some megabytes at a time, which then
//! every point adds in order; so no sum depends on the number of threads.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::band::{Source, Window};
use super::winograd::{Place, Run, STAGGER, groups, transform_input};
use super::winograd_kernel::turn_back;
use super::winograd_tiles::{EDGE, POINTS, STEP, output_transposed};
use super::{Conv, Part, source};
use crate::cpu::scratch;
use crate::cpu::tile::{self, Outer, load_apart};

/// Tiles that are transformed as one piece of work.
const TILES: usize = 32;
/// What the transformed tiles of a pass may take, in values.
const PASS_LEN: usize = 2 << 20;

/// Where the tiles of both sides come from and go to.
struct Tiles<'a> {
    x: Source<'a>,
    dy: Source<'a>,
    /// Bands of tiles of one image, one above the other.
    down: usize,
}

/// dw of [`super::weight_gradient`] where x is not halved.
pub(super) fn gradient(conv: &Conv, x: &[Part<'_>], dy: &[f32], dweight: &mut [f32]) {
    let size = conv.out_size();
    let [down, across] = size.map(|edge| edge.div_ceil(STEP));
    let dy = [Part { values: dy, channels: conv.out }];
    let dy = Source { parts: &dy, channels: conv.out, size, doubled: false };
    let tiles = Tiles { x: source(conv, x), dy, down };
    let groups = groups(conv.batch * down, across, TILES);
    let (slab, arch) = (tiles.slab(), Arch::new());
    let in_pass = (PASS_LEN / slab).clamp(1, groups.len());
    let (slabs_len, sums_len) = (in_pass * slab, POINTS * conv.input * conv.out);
    scratch::with(slabs_len + sums_len, |buffer| {
        let (slabs, sums) = buffer.split_at_mut(slabs_len);
        sums.fill(0.0);
        for groups in groups.chunks(in_pass) {
            let work = slabs.par_chunks_mut(slab).zip(groups);
            work.for_each(|(slab, runs)| {
                let window = EDGE * (STEP * TILES + EDGE - STEP) * conv.input.max(conv.out);
                scratch::with(window, |window| {
                    arch.dispatch(Transform { tiles: &tiles, runs, window, slab });
                });
            });
            let points = sums.par_chunks_mut(conv.input * conv.out).enumerate();
            points.for_each(|(point, sums)| {
                let starts: Vec<[usize; 2]> =
                    (0..groups.len()).map(|group| tiles.starts(group, point)).collect();
                arch.dispatch(Sum { conv, slabs, starts: &starts, sums });
            });
        }
        turn_back(conv, sums, dweight);
    });
}

impl Tiles<'_> {
    fn pitches(&self) -> [usize; 2] {
        [self.x, self.dy].map(|source| TILES * source.channels + STAGGER)
    }

    /// The values of one group of transformed tiles: `[point, tile, in]`, `[point, tile, out]`.
    fn slab(&self) -> usize {
        POINTS * self.pitches().iter().sum::<usize>()
    }

    /// Where the values of a point start in both halves of a slab.
    fn starts(&self, group: usize, point: usize) -> [usize; 2] {
        let [x, dy] = self.pitches();
        let slab = group * self.slab();
        [slab + point * x, slab + POINTS * x + point * dy]
    }
}

/// Fills one slab.
struct Transform<'a> {
    tiles: &'a Tiles<'a>,
    runs: &'a [Run],
    window: &'a mut [f32],
    slab: &'a mut [f32],
}

impl WithSimd for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Tiles { x, dy, down } = self.tiles;
        let [x_pitch, dy_pitch] = self.tiles.pitches();
        let (xs, dys) = self.slab.split_at_mut(POINTS * x_pitch);
        let mut tile = 0;
        for run in self.runs {
            let (image, band) = (run.band / down, run.band % down);
            let first = [band * STEP, run.column * STEP];
            let columns = STEP * run.count + EDGE - STEP;
            x.copy(&Window { image, border: 1, first, size: [EDGE, columns] }, self.window);
            for k in 0..run.count {
                let from = Place { first: k * STEP * x.channels, pitch: columns * x.channels };
                let to = Place { first: (tile + k) * x.channels, pitch: x_pitch };
                transform_input(simd, self.window, from, x.channels, xs, to);
            }
            let columns = STEP * run.count;
            dy.copy(&Window { image, border: 0, first, size: [STEP, columns] }, self.window);
            for k in 0..run.count {
                let from = Place { first: k * STEP * dy.channels, pitch: columns * dy.channels };
                let to = Place { first: (tile + k) * dy.channels, pitch: dy_pitch };
                transform_output(simd, self.window, from, dy.channels, dys, to);
            }
            tile += run.count;
        }
        // A group that is not full has tiles of zeros, which add nothing.
        for (values, pitch, channels) in [(xs, x_pitch, x.channels), (dys, dy_pitch, dy.channels)] {
            for values in values.chunks_exact_mut(pitch) {
                values[tile * channels..].fill(0.0);
            }
        }
    }
}

/// A dy A^T of all `channels` of the tile that `from` points to in a window.
#[inline(always)]
fn transform_output<S: Simd>(
    simd: S,
    window: &[f32],
    from: Place,
    channels: usize,
    outputs: &mut [f32],
    to: Place,
) {
    let whole = channels / S::F32_LANES * S::F32_LANES;
    for c in (0..whole).step_by(S::F32_LANES) {
        let window = &window[from.first + c..];
        let to = Place { first: to.first + c, ..to };
        transform_vector(simd, window, [from.pitch, channels], S::F32_LANES, outputs, to);
    }
    if whole < channels {
        let window = &window[from.first + whole..];
        let to = Place { first: to.first + whole, ..to };
        transform_vector(simd, window, [from.pitch, channels], channels - whole, outputs, to);
    }
}

/// A dy A^T for a vector of channels.
#[inline(always)]
fn transform_vector<S: Simd>(
    simd: S,
    window: &[f32],
    [row_pitch, pitch]: [usize; 2],
    lanes: usize,
    outputs: &mut [f32],
    to: Place,
) {
    let mut half = [[simd.splat_f32s(0.0); STEP]; EDGE];
    for j in 0..STEP {
        let column = load_apart(simd, &window[j * pitch..], row_pitch, lanes);
        let column = output_transposed(simd, column);
        for i in 0..EDGE {
            half[i][j] = column[i];
        }
    }
    let mut points = outputs.chunks_exact_mut(to.pitch);
    for half in half {
        for (value, point) in output_transposed(simd, half).into_iter().zip(&mut points) {
            tile::store(simd, &mut point[to.first..][..lanes], value);
        }
    }
}

/// Adds the tiles of a pass at one point.
struct Sum<'a> {
    conv: &'a Conv,
    slabs: &'a [f32],
    starts: &'a [[usize; 2]],
    sums: &'a mut [f32],
}

impl WithSimd for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let outer = Outer {
            a: self.slabs,
            a_pitch: self.conv.input,
            b: self.slabs,
            b_pitch: self.conv.out,
            starts: self.starts,
            run: TILES,
            rows: self.conv.input,
            columns: self.conv.out,
        };
        outer.add(simd, self.sums);
    }
}
