//! 3x3 convolutions at stride 1 by Winograd's F(4x4, 3x3), and their gradient of x, which is the
//! same convolution of dy with the kernel turned round.
//!
//! A piece of work is a few rows of tiles. It goes through three buffers that fit the second-level
//! cache: transformed tiles `[point, tile, in]`, their products with the transformed kernel
//! `[point, tile, out]`, and y. No transformed tensor is ever stored whole.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::band::{Band, Source, Window, bands};
use super::winograd_kernel::with_kernel;
use super::winograd_tiles::{EDGE, POINTS, STEP, input, output};
use super::{Conv, Part, PartMut, Scale, TAPS, source};
use crate::cpu::scratch;
use crate::cpu::tile::{self, Rows, load_apart};

/// The most tiles that go through the buffers together.
const TILES_MAX: usize = 48;
/// The fewest, if there are as many.
const TILES_MIN: usize = 16;
/// What the buffers of one piece may take, in values.
const BUFFER_LEN: usize = 160 << 10;
/// Between the points of a buffer, so that they do not all fall on the same lines of the cache.
pub(super) const STAGGER: usize = 16;

/// A convolution at stride 1 whose kernel is transformed.
struct Filter<'a> {
    source: Source<'a>,
    /// Height and width of the grid that the tiles cover.
    size: [usize; 2],
    columns: usize,
    /// `[panel, point, in, columns of the panel]`
    kernel: &'a [f32],
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    /// Whether two by two results are summed into one pixel.
    halved: bool,
    /// The most tiles at a time.
    tiles: usize,
}

/// Tiles of one band, side by side.
pub(super) struct Run {
    pub(super) band: usize,
    /// The first one's column of tiles.
    pub(super) column: usize,
    pub(super) count: usize,
}

/// y of [`super::forward`] where x is not halved.
pub(super) fn forward(
    conv: &Conv,
    x: &[Part<'_>],
    weight: &[f32],
    bias: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
) {
    let steps = [TAPS, conv.input * TAPS];
    with_kernel(weight, [conv.input, conv.out], steps, false, |kernel| {
        let filter = Filter {
            source: source(conv, x),
            size: conv.out_size(),
            columns: conv.out,
            kernel,
            bias: Some(bias),
            residual,
            halved: false,
            tiles: tiles(conv),
        };
        filter.run(&mut [PartMut { values: y, channels: conv.out }]);
    });
}

/// dx of [`super::input_gradient`] where x is not halved.
pub(super) fn input_gradient(conv: &Conv, dy: &[f32], weight: &[f32], dx: &mut [PartMut<'_>]) {
    let steps = [conv.input * TAPS, TAPS];
    let (size, dy) = (conv.out_size(), [Part { values: dy, channels: conv.out }]);
    with_kernel(weight, [conv.out, conv.input], steps, true, |kernel| {
        let filter = Filter {
            source: Source { parts: &dy, channels: conv.out, size, doubled: false },
            size,
            columns: conv.input,
            kernel,
            bias: None,
            residual: None,
            halved: conv.scale == Scale::Double,
            tiles: tiles(conv),
        };
        filter.run(dx);
    });
}

/// How many tiles go through the buffers together.
fn tiles(conv: &Conv) -> usize {
    let per_tile = POINTS * (conv.input + conv.out);
    (BUFFER_LEN / per_tile / 4 * 4).clamp(TILES_MIN, TILES_MAX)
}

/// Where the points of a tile go: `first`, and `pitch` from one to the next.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) first: usize,
    pub(super) pitch: usize,
}

impl Filter<'_> {
    /// Writes the result to `parts`.
    fn run(&self, parts: &mut [PartMut<'_>]) {
        let scale = if self.halved { 2 } else { 1 };
        let across = self.size[1].div_ceil(STEP);
        let mut bands = bands(parts, self.size.map(|edge| edge / scale), STEP / scale);
        // An even number of equal pieces, so that two threads finish together.
        let pieces = (bands.len() * across).div_ceil(self.tiles).next_multiple_of(2);
        let piece = bands.len().div_ceil(pieces);
        let arch = Arch::new();
        bands.par_chunks_mut(piece).for_each(|bands| {
            let lens = self.buffer_lens();
            scratch::with(lens.iter().sum(), |buffer| {
                arch.dispatch(Piece { filter: self, bands, buffer, lens });
            });
        });
    }

    /// The values of a window of x, of the transformed tiles and of their products.
    fn buffer_lens(&self) -> [usize; 3] {
        let window = EDGE * (STEP * self.tiles + EDGE - STEP) * self.source.channels;
        [
            window.next_multiple_of(STAGGER),
            POINTS * self.input_pitch(),
            POINTS * self.output_pitch(),
        ]
    }

    fn input_pitch(&self) -> usize {
        self.tiles * self.source.channels + STAGGER
    }

    fn output_pitch(&self) -> usize {
        self.tiles * self.columns + STAGGER
    }
}

/// Groups of runs that together are all tiles of `bands` bands, at most `most` tiles a group.
pub(super) fn groups(bands: usize, across: usize, most: usize) -> Vec<Vec<Run>> {
    let mut groups = vec![Vec::new()];
    let mut free = most;
    for band in 0..bands {
        let mut column = 0;
        while column < across {
            if free == 0 {
                groups.push(Vec::new());
                free = most;
            }
            let count = free.min(across - column);
            groups.last_mut().into_iter().for_each(|group| group.push(Run { band, column, count }));
            column += count;
            free -= count;
        }
    }
    groups
}

struct Piece<'a, 'b> {
    filter: &'a Filter<'a>,
    bands: &'a mut [Band<'b>],
    buffer: &'a mut [f32],
    lens: [usize; 3],
}

impl WithSimd for Piece<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let filter = self.filter;
        let across = filter.size[1].div_ceil(STEP);
        let (window, buffer) = self.buffer.split_at_mut(self.lens[0]);
        let (inputs, outputs) = buffer.split_at_mut(self.lens[1]);
        for group in groups(self.bands.len(), across, filter.tiles) {
            let mut tiles = 0;
            for run in &group {
                let band = &self.bands[run.band];
                filter.transform_input(simd, band, run, window, &mut inputs[..], tiles);
                tiles += run.count;
            }
            filter.multiply(simd, inputs, outputs, tiles);
            tiles = 0;
            for run in &group {
                for k in 0..run.count {
                    let band = &mut self.bands[run.band];
                    filter.transform_output(simd, outputs, tiles + k, band, run.column + k);
                }
                tiles += run.count;
            }
        }
    }
}

impl Filter<'_> {
    /// The first row of the grid that `band` covers.
    fn first_row(&self, band: &Band<'_>) -> usize {
        if self.halved { 2 * band.row } else { band.row }
    }

    /// B^T x B of the tiles of `run`, which become the tiles from `first` on.
    #[inline(always)]
    fn transform_input<S: Simd>(
        &self,
        simd: S,
        band: &Band<'_>,
        run: &Run,
        window: &mut [f32],
        inputs: &mut [f32],
        first: usize,
    ) {
        let channels = self.source.channels;
        let size = [EDGE, STEP * run.count + EDGE - STEP];
        let row = [self.first_row(band), STEP * run.column];
        self.source.copy(&Window { image: band.image, border: 1, first: row, size }, window);
        for k in 0..run.count {
            let from = Place { first: k * STEP * channels, pitch: size[1] * channels };
            let to = Place { first: (first + k) * channels, pitch: self.input_pitch() };
            transform_input(simd, window, from, channels, inputs, to);
        }
    }

    /// The product of all tiles with the kernel, point by point.
    #[inline(always)]
    fn multiply<S: Simd>(&self, simd: S, inputs: &[f32], outputs: &mut [f32], tiles: usize) {
        let depth = self.source.channels;
        let panel = tile::panel_width::<S>();
        let inputs = inputs.chunks_exact(self.input_pitch());
        let outputs = outputs.chunks_exact_mut(self.output_pitch());
        for (point, (a, c)) in inputs.zip(outputs).enumerate() {
            let rows = Rows {
                a,
                pitch: depth,
                starts: &[0],
                run: depth,
                rows: tiles,
                bias: None,
                residual: None,
                columns: self.columns,
                c_pitch: self.columns,
            };
            for (at, kernel) in self.kernel.chunks(POINTS * depth * panel).enumerate() {
                let len = kernel.len() / POINTS;
                rows.write_panel(simd, &kernel[point * len..][..len], at * panel, c);
            }
        }
    }

    /// A^T m A of one tile, with bias and residual, written to its place in `band`.
    #[inline(always)]
    fn transform_output<S: Simd>(
        &self,
        simd: S,
        outputs: &[f32],
        tile: usize,
        band: &mut Band<'_>,
        column: usize,
    ) {
        let row = self.first_row(band);
        let place = Target {
            first: (band.image * self.size[0] + row) * self.size[1],
            column: column * STEP,
            size: [STEP.min(self.size[0] - row), STEP.min(self.size[1] - column * STEP)],
        };
        let mut from = Place { first: tile * self.columns, pitch: self.output_pitch() };
        let mut channel = 0;
        for (values, channels) in &mut band.parts {
            let whole = *channels / S::F32_LANES * S::F32_LANES;
            for c in (0..*channels).step_by(S::F32_LANES) {
                let bias = self.bias.map(|bias| &bias[channel..]);
                if c < whole {
                    let y = output_tile(simd, outputs, from, S::F32_LANES);
                    self.write(simd, &y, values, &place, [*channels, c, S::F32_LANES], bias);
                    from.first += S::F32_LANES;
                    channel += S::F32_LANES;
                } else {
                    let lanes = *channels - whole;
                    let y = output_tile(simd, outputs, from, lanes);
                    self.write(simd, &y, values, &place, [*channels, c, lanes], bias);
                    from.first += lanes;
                    channel += lanes;
                }
            }
        }
    }

    /// Writes `lanes` channels from `c` on of a tile, with bias and residual, to the rows of a band.
    #[inline(always)]
    fn write<S: Simd>(
        &self,
        simd: S,
        y: &[[S::f32s; STEP]; STEP],
        values: &mut [f32],
        place: &Target,
        [channels, c, lanes]: [usize; 3],
        bias: Option<&[f32]>,
    ) {
        let ([rows, columns], width) = (place.size, self.size[1]);
        if self.halved {
            let to = &mut values[place.column / 2 * channels + c..];
            let size = [rows / 2, columns / 2, width / 2 * channels, channels];
            store_halved(simd, y, to, size, lanes);
            return;
        }
        let bias = match bias {
            Some(bias) => tile::load(simd, &bias[..lanes]),
            None => simd.splat_f32s(0.0),
        };
        for i in 0..STEP {
            if i >= rows {
                break;
            }
            let first = (i * width + place.column) * channels + c;
            for j in 0..STEP {
                if j >= columns {
                    break;
                }
                let mut y = simd.add_f32s(y[i][j], bias);
                let to = first + j * channels;
                if let Some(residual) = self.residual {
                    let residual = &residual[place.first * channels + to..][..lanes];
                    y = simd.add_f32s(y, tile::load(simd, residual));
                }
                tile::store(simd, &mut values[to..][..lanes], y);
            }
        }
    }
}

/// Where a tile's results go.
struct Target {
    /// The pixel of all images that the band starts with.
    first: usize,
    /// The tile's first column.
    column: usize,
    /// The rows and columns of it that lie in the image.
    size: [usize; 2],
}

/// Transforms all `channels` of the tile that `from` points to in a window.
#[inline(always)]
pub(super) fn transform_input<S: Simd>(
    simd: S,
    window: &[f32],
    from: Place,
    channels: usize,
    inputs: &mut [f32],
    to: Place,
) {
    let whole = channels / S::F32_LANES * S::F32_LANES;
    for c in (0..whole).step_by(S::F32_LANES) {
        let window = &window[from.first + c..];
        let to = Place { first: to.first + c, ..to };
        transform_vector(simd, window, [from.pitch, channels], S::F32_LANES, inputs, to);
    }
    if whole < channels {
        let window = &window[from.first + whole..];
        let to = Place { first: to.first + whole, ..to };
        transform_vector(simd, window, [from.pitch, channels], channels - whole, inputs, to);
    }
}

/// B^T x B for a vector of channels.
#[inline(always)]
fn transform_vector<S: Simd>(
    simd: S,
    window: &[f32],
    [row_pitch, pitch]: [usize; 2],
    lanes: usize,
    inputs: &mut [f32],
    to: Place,
) {
    let mut half = [[simd.splat_f32s(0.0); EDGE]; EDGE];
    for j in 0..EDGE {
        let column = input(simd, load_apart(simd, &window[j * pitch..], row_pitch, lanes));
        for i in 0..EDGE {
            half[i][j] = column[i];
        }
    }
    let mut points = inputs.chunks_exact_mut(to.pitch);
    for half in half {
        for (value, point) in input(simd, half).into_iter().zip(&mut points) {
            tile::store(simd, &mut point[to.first..][..lanes], value);
        }
    }
}

/// A^T m A of one tile for a vector of channels.
#[inline(always)]
fn output_tile<S: Simd>(
    simd: S,
    outputs: &[f32],
    from: Place,
    lanes: usize,
) -> [[S::f32s; STEP]; STEP] {
    let mut half = [[simd.splat_f32s(0.0); EDGE]; STEP];
    for i in 0..EDGE {
        let points = &outputs[i * EDGE * from.pitch + from.first..];
        let row = output(simd, load_apart(simd, points, from.pitch, lanes));
        for j in 0..STEP {
            half[j][i] = row[j];
        }
    }
    let mut y = [[simd.splat_f32s(0.0); STEP]; STEP];
    for j in 0..STEP {
        let column = output(simd, half[j]);
        for i in 0..STEP {
            y[i][j] = column[i];
        }
    }
    y
}

/// Writes the sums of two by two values of `y`.
#[inline(always)]
fn store_halved<S: Simd>(
    simd: S,
    y: &[[S::f32s; STEP]; STEP],
    to: &mut [f32],
    [rows, columns, row_pitch, pitch]: [usize; 4],
    lanes: usize,
) {
    for i in 0..rows {
        for j in 0..columns {
            let above = simd.add_f32s(y[2 * i][2 * j], y[2 * i][2 * j + 1]);
            let below = simd.add_f32s(y[2 * i + 1][2 * j], y[2 * i + 1][2 * j + 1]);
            let at = i * row_pitch + j * pitch;
            tile::store(simd, &mut to[at..][..lanes], simd.add_f32s(above, below));
        }
    }
}
