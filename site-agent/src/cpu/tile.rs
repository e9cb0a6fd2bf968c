//! The two matrix products that every convolution here is made of, with their sums in registers.
//!
//! [`Rows`] multiplies rows that are read where they lie by packed columns; [`Outer`] sums the
//! outer products of two streams of rows. Neither has threads or allocates; the caller cuts the
//! work. Their tiles are what the registers hold: on AVX-512 12 x 2 vectors, on AVX2 6 x 2.

use pulp::{Arch, Simd, WithSimd};

/// Vectors of a tile's width.
const WIDE: usize = 2;

/// Steps of a product's inner loop that are taken without asking where the rows end.
const UNROLL: usize = 4;

/// How many `f32` a vector of this processor holds.
pub(crate) fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

/// The columns of a panel that [`pack`] makes; the last may be as narrow as a vector.
pub(super) fn panel_columns() -> usize {
    WIDE * lanes()
}

/// The same inside of a kernel.
#[inline(always)]
pub(super) fn panel_width<S: Simd>() -> usize {
    WIDE * S::F32_LANES
}

/// The length of `depth` x `columns` values packed for [`Rows`].
pub(super) fn packed_len(depth: usize, columns: usize) -> usize {
    depth * columns.next_multiple_of(lanes())
}

/// Packs the values at `firsts[k] + column * step` of `from` into panels that [`Rows`] reads front
/// to back: each panel is the next columns, as many as a tile is wide, and holds them for all k;
/// columns that a last vector lacks are zero.
pub(super) fn pack(from: &[f32], firsts: &[usize], step: usize, columns: usize, to: &mut [f32]) {
    let panel = panel_columns();
    for (at, to) in to.chunks_mut(firsts.len() * panel).enumerate() {
        let width = to.len() / firsts.len();
        let inside = width.min(columns - at * panel);
        for (&first, row) in firsts.iter().zip(to.chunks_exact_mut(width)) {
            let values = from[first + at * panel * step..].iter().step_by(step);
            for (to, &value) in row[..inside].iter_mut().zip(values) {
                *to = value;
            }
            row[inside..].fill(0.0);
        }
    }
}

/// c = a b + bias + residual.
pub(super) struct Rows<'a> {
    /// Row m is the runs `a[start + m * pitch..][..run]` for every `start`, one after the other.
    pub(super) a: &'a [f32],
    pub(super) pitch: usize,
    pub(super) starts: &'a [usize],
    pub(super) run: usize,
    /// How many rows.
    pub(super) rows: usize,
    /// One value a column.
    pub(super) bias: Option<&'a [f32]>,
    /// Laid out as `c` is.
    pub(super) residual: Option<&'a [f32]>,
    pub(super) columns: usize,
    /// From one row of `c` to the next.
    pub(super) c_pitch: usize,
}

impl Rows<'_> {
    /// Writes the product with `b`, [`pack`]ed as deep as a row is long, to `c`.
    #[inline(always)]
    pub(super) fn write<S: Simd>(&self, simd: S, b: &[f32], c: &mut [f32]) {
        let depth = self.starts.len() * self.run;
        for (at, b) in b.chunks(depth * panel_width::<S>()).enumerate() {
            self.write_panel(simd, b, at * panel_width::<S>(), c);
        }
    }

    /// The same for one panel, whose first column is `column`.
    #[inline(always)]
    pub(super) fn write_panel<S: Simd>(&self, simd: S, b: &[f32], column: usize, c: &mut [f32]) {
        if b.len() == self.starts.len() * self.run * panel_width::<S>() {
            self.panel::<S, WIDE>(simd, b, column, c);
        } else {
            self.panel::<S, 1>(simd, b, column, c);
        }
    }

    /// The same for few columns, of which a vector would be mostly empty: every value of `c` is a
    /// dot product with a row of `b` `[columns, length of a row]`.
    #[inline(always)]
    pub(super) fn write_dots<S: Simd>(&self, simd: S, b: &[f32], c: &mut [f32]) {
        let depth = self.starts.len() * self.run;
        for (column, b) in b.chunks_exact(depth).enumerate() {
            let bias = self.bias.map_or(0.0, |bias| bias[column]);
            for m in 0..self.rows {
                let mut sum = simd.splat_f32s(0.0);
                for (&start, b) in self.starts.iter().zip(b.chunks_exact(self.run)) {
                    let a = &self.a[start + m * self.pitch..][..self.run];
                    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
                    for (&a, &b) in a.iter().zip(b) {
                        sum = simd.mul_add_f32s(a, b, sum);
                    }
                    let [a, b] = [simd.partial_load_f32s(a_rest), simd.partial_load_f32s(b_rest)];
                    sum = simd.mul_add_f32s(a, b, sum);
                }
                let at = m * self.c_pitch + column;
                let residual = self.residual.map_or(0.0, |residual| residual[at]);
                c[at] = simd.reduce_sum_f32s(sum) + bias + residual;
            }
        }
    }

    /// All rows by one panel.
    #[inline(always)]
    fn panel<S: Simd, const NV: usize>(&self, simd: S, b: &[f32], column: usize, c: &mut [f32]) {
        let m = if S::REGISTER_COUNT >= 32 {
            let m = self.blocks::<S, 12, NV>(simd, b, column, c, 0);
            self.blocks::<S, 8, NV>(simd, b, column, c, m)
        } else {
            self.blocks::<S, 6, NV>(simd, b, column, c, 0)
        };
        let m = self.blocks::<S, 4, NV>(simd, b, column, c, m);
        self.blocks::<S, 1, NV>(simd, b, column, c, m);
    }

    /// Rows from `m` on, `MR` at a time; returns the first row that is left.
    #[inline(always)]
    fn blocks<S: Simd, const MR: usize, const NV: usize>(
        &self,
        simd: S,
        b: &[f32],
        column: usize,
        c: &mut [f32],
        mut m: usize,
    ) -> usize {
        while m + MR <= self.rows {
            let held = self.tile::<S, MR, NV>(simd, b, column, m);
            self.store(simd, &held, column, m, c);
            m += MR;
        }
        m
    }

    #[inline(always)]
    fn tile<S: Simd, const MR: usize, const NV: usize>(
        &self,
        simd: S,
        b: &[f32],
        column: usize,
        m: usize,
    ) -> [[S::f32s; NV]; MR] {
        let mut first = [simd.splat_f32s(0.0); NV];
        if let Some(bias) = self.bias {
            for (v, first) in first.iter_mut().enumerate() {
                let from = bias.len().min(column + v * S::F32_LANES);
                *first = load(simd, &bias[from..]);
            }
        }
        let mut held = [first; MR];
        let (b, _) = S::as_simd_f32s(b);
        let (b, _) = b.as_chunks::<NV>();
        for (&start, b) in self.starts.iter().zip(b.chunks_exact(self.run)) {
            let from = start + m * self.pitch;
            let mut rows: [&[f32]; MR] = [&[]; MR];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = &self.a[from + i * self.pitch..][..self.run];
            }
            multiply(simd, rows, b, &mut held);
        }
        held
    }

    #[inline(always)]
    fn store<S: Simd, const MR: usize, const NV: usize>(
        &self,
        simd: S,
        held: &[[S::f32s; NV]; MR],
        column: usize,
        m: usize,
        c: &mut [f32],
    ) {
        for (i, held) in held.iter().enumerate() {
            for (v, &value) in held.iter().enumerate() {
                let column = column + v * S::F32_LANES;
                let width = (self.columns - column).min(S::F32_LANES);
                let from = (m + i) * self.c_pitch + column;
                let value = match self.residual {
                    Some(residual) => simd.add_f32s(value, load(simd, &residual[from..][..width])),
                    None => value,
                };
                store(simd, &mut c[from..][..width], value);
            }
        }
    }
}

/// c += the sum of the outer products of rows of `a` and rows of `b`.
pub(super) struct Outer<'a> {
    /// Row k of a run is `a[start + k * a_pitch..][..rows]`.
    pub(super) a: &'a [f32],
    pub(super) a_pitch: usize,
    /// Row k of a run is `b[start + k * b_pitch..][..columns]`.
    pub(super) b: &'a [f32],
    pub(super) b_pitch: usize,
    /// Where each run starts in `a` and in `b`.
    pub(super) starts: &'a [[usize; 2]],
    /// How many rows a run has.
    pub(super) run: usize,
    /// The rows of `c`.
    pub(super) rows: usize,
    /// The columns of `c`.
    pub(super) columns: usize,
}

impl Outer<'_> {
    /// Adds to `c` `[rows, columns]`.
    #[inline(always)]
    pub(super) fn add<S: Simd>(&self, simd: S, c: &mut [f32]) {
        let wide = WIDE * S::F32_LANES;
        let mut column = 0;
        while column < self.columns {
            if column + wide <= self.columns {
                self.column::<S, WIDE>(simd, column, c);
                column += wide;
            } else {
                self.column::<S, 1>(simd, column, c);
                column += S::F32_LANES;
            }
        }
    }

    #[inline(always)]
    fn column<S: Simd, const NV: usize>(&self, simd: S, column: usize, c: &mut [f32]) {
        let m = if S::REGISTER_COUNT >= 32 {
            let m = self.blocks::<S, 12, NV>(simd, column, c, 0);
            self.blocks::<S, 8, NV>(simd, column, c, m)
        } else {
            self.blocks::<S, 6, NV>(simd, column, c, 0)
        };
        let m = self.blocks::<S, 4, NV>(simd, column, c, m);
        self.blocks::<S, 1, NV>(simd, column, c, m);
    }

    #[inline(always)]
    fn blocks<S: Simd, const MR: usize, const NV: usize>(
        &self,
        simd: S,
        column: usize,
        c: &mut [f32],
        mut m: usize,
    ) -> usize {
        let width = (self.columns - column).min(NV * S::F32_LANES);
        while m + MR <= self.rows {
            let held = if width == NV * S::F32_LANES {
                self.tile::<S, MR, NV, true>(simd, column, width, m)
            } else {
                self.tile::<S, MR, NV, false>(simd, column, width, m)
            };
            for (i, held) in held.iter().enumerate() {
                let c = &mut c[(m + i) * self.columns + column..][..width];
                for (c, &value) in c.chunks_mut(S::F32_LANES).zip(held) {
                    let sum = simd.add_f32s(value, load(simd, c));
                    store(simd, c, sum);
                }
            }
            m += MR;
        }
        m
    }

    #[inline(always)]
    fn tile<S: Simd, const MR: usize, const NV: usize, const FULL: bool>(
        &self,
        simd: S,
        column: usize,
        width: usize,
        m: usize,
    ) -> [[S::f32s; NV]; MR] {
        let mut held = [[simd.splat_f32s(0.0); NV]; MR];
        for &[a, b] in self.starts {
            let (a, b) = (&self.a[a + m..], &self.b[b + column..]);
            let last = self.run - 1;
            assert!(last * self.a_pitch + MR <= a.len() && last * self.b_pitch + width <= b.len());
            let width = if FULL { NV * S::F32_LANES } else { width };
            let (a, b) = ((a, self.a_pitch), (b, self.b_pitch));
            add_products(simd, a, b, self.run, width, &mut held);
        }
        held
    }
}

/// Adds the products of `rows`, each as long as `b`, with `b` to `held`.
///
/// Every loop over a tile's rows and vectors has constant bounds and the sums are copied in and
/// out one by one, or the compiler would keep them in memory; and for the same reason nothing in
/// the loop over k can panic.
#[inline(always)]
fn multiply<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    rows: [&[f32]; MR],
    b: &[[S::f32s; NV]],
    held: &mut [[S::f32s; NV]; MR],
) {
    let mut sums = [[simd.splat_f32s(0.0); NV]; MR];
    for i in 0..MR {
        for v in 0..NV {
            sums[i][v] = held[i][v];
        }
    }
    let (blocks, rest) = b.as_chunks::<UNROLL>();
    'blocks: for (at, b) in blocks.iter().enumerate() {
        let mut a = [&[0.0; UNROLL]; MR];
        for i in 0..MR {
            // Every row has this block.
            let Some(block) = rows[i].as_chunks().0.get(at) else { break 'blocks };
            a[i] = block;
        }
        for k in 0..UNROLL {
            for i in 0..MR {
                let value = simd.splat_f32s(a[i][k]);
                for v in 0..NV {
                    sums[i][v] = simd.mul_add_f32s(value, b[k][v], sums[i][v]);
                }
            }
        }
    }
    let first = blocks.len() * UNROLL;
    'rest: for (k, b) in rest.iter().enumerate() {
        for i in 0..MR {
            let Some(&value) = rows[i].get(first.wrapping_add(k)) else { break 'rest };
            let value = simd.splat_f32s(value);
            for v in 0..NV {
                sums[i][v] = simd.mul_add_f32s(value, b[v], sums[i][v]);
            }
        }
    }
    for i in 0..MR {
        for v in 0..NV {
            held[i][v] = sums[i][v];
        }
    }
}

/// Adds the outer products of `run` rows of `a` and of `b`, of `width` columns, to `held`; for its
/// form see [`multiply`].
#[inline(always)]
fn add_products<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    (mut a, a_pitch): (&[f32], usize),
    (mut b, b_pitch): (&[f32], usize),
    run: usize,
    width: usize,
    held: &mut [[S::f32s; NV]; MR],
) {
    let mut sums = [[simd.splat_f32s(0.0); NV]; MR];
    for i in 0..MR {
        for v in 0..NV {
            sums[i][v] = held[i][v];
        }
    }
    for _ in 0..run {
        let Some(row) = a.first_chunk::<MR>() else { break };
        let mut vectors = [simd.splat_f32s(0.0); NV];
        if width == NV * S::F32_LANES {
            let Some(whole) = S::as_simd_f32s(b).0.first_chunk::<NV>() else { break };
            vectors = *whole;
        } else {
            let Some(part) = b.get(..width) else { break };
            vectors[0] = simd.partial_load_f32s(part);
        }
        for i in 0..MR {
            let value = simd.splat_f32s(row[i]);
            for v in 0..NV {
                sums[i][v] = simd.mul_add_f32s(value, vectors[v], sums[i][v]);
            }
        }
        a = a.get(a_pitch..).unwrap_or_default();
        b = b.get(b_pitch..).unwrap_or_default();
    }
    for i in 0..MR {
        for v in 0..NV {
            held[i][v] = sums[i][v];
        }
    }
}

/// The first vector of `from`, zeros where it ends early.
#[inline(always)]
pub(super) fn load<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    match S::as_simd_f32s(from).0.first() {
        Some(&whole) => whole,
        None => simd.partial_load_f32s(from),
    }
}

/// `N` vectors of `lanes` values, `pitch` apart.
///
/// A loop and not a `map` over an array, which is not always compiled into its caller and then
/// knows nothing of the vectors that this processor has.
#[inline(always)]
pub(super) fn load_apart<S: Simd, const N: usize>(
    simd: S,
    from: &[f32],
    pitch: usize,
    lanes: usize,
) -> [S::f32s; N] {
    let mut vectors = [simd.splat_f32s(0.0); N];
    for (i, vector) in vectors.iter_mut().enumerate() {
        *vector = load(simd, &from[i * pitch..][..lanes]);
    }
    vectors
}

/// As much of `value` as `to` has room for, which is at most a vector.
#[inline(always)]
pub(super) fn store<S: Simd>(simd: S, to: &mut [f32], value: S::f32s) {
    match S::as_mut_simd_f32s(to).0.first_mut() {
        Some(whole) => *whole = value,
        None => simd.partial_store_f32s(to, value),
    }
}
