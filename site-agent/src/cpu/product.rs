//! Products of small matrices, held in registers a tile at a time.
//!
//! For factors of a few thousand values that lie in the caches, where packing them as a large
//! product does would cost more than it saves. The right factor and the result are rows of whole
//! vectors; the left factor is read one value at a time, along its rows or along its columns.

use pulp::Simd;

/// Rows of a tile.
const ROWS: usize = 4;

/// The left factor `[m, k]`; rows or columns lie `stride` apart.
#[derive(Clone, Copy, Debug)]
pub enum Left<'a> {
    /// a(m, k) = `values[m * stride + k]`
    Rows {
        /// From a(0, 0) on.
        values: &'a [f32],
        /// From one row to the next.
        stride: usize,
    },
    /// a(m, k) = `values[k * stride + m]`
    Columns {
        /// From a(0, 0) on.
        values: &'a [f32],
        /// From one column to the next.
        stride: usize,
    },
}

/// What a product is taken over.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Rows of the left factor and of the result.
    pub m: usize,
    /// Terms of every sum.
    pub k: usize,
    /// Values of a row of the right factor and of the result; whole vectors.
    pub n: usize,
}

/// c = a b, or c + a b where `adds`; b is `[k, n]` and c `[m, n]`, both contiguous.
#[inline(always)]
pub fn product<S: Simd>(
    simd: S,
    extent: Extent,
    a: Left<'_>,
    b: &[f32],
    c: &mut [f32],
    adds: bool,
) {
    let lanes = extent.n / S::F32_LANES;
    let (b, _) = S::as_simd_f32s(&b[..extent.k * extent.n]);
    let (c, _) = S::as_mut_simd_f32s(&mut c[..extent.m * extent.n]);
    let mut at = 0;
    // Sixteen sums are in flight where there are registers for them, and eight where not.
    if S::REGISTER_COUNT >= 32 {
        while at + 4 <= lanes {
            columns::<S, 4>(simd, extent, a, (b, at), c, adds);
            at += 4;
        }
    }
    while at + 2 <= lanes {
        columns::<S, 2>(simd, extent, a, (b, at), c, adds);
        at += 2;
    }
    if at < lanes {
        columns::<S, 1>(simd, extent, a, (b, at), c, adds);
    }
}

/// `V` vectors of every row of the result, from vector `at` on.
#[inline(always)]
fn columns<S: Simd, const V: usize>(
    simd: S,
    extent: Extent,
    a: Left<'_>,
    b: (&[S::f32s], usize),
    c: &mut [S::f32s],
    adds: bool,
) {
    let lanes = extent.n / S::F32_LANES;
    let mut m = 0;
    for c in c.chunks_mut(ROWS * lanes) {
        if c.len() == ROWS * lanes {
            tile::<S, ROWS, V>(simd, extent, (a, m), b, c, adds);
        } else {
            for (i, c) in c.chunks_exact_mut(lanes).enumerate() {
                tile::<S, 1, V>(simd, extent, (a, m + i), b, c, adds);
            }
        }
        m += ROWS;
    }
}

/// `M` rows of `V` vectors.
#[inline(always)]
fn tile<S: Simd, const M: usize, const V: usize>(
    simd: S,
    extent: Extent,
    (a, m): (Left<'_>, usize),
    (b, at): (&[S::f32s], usize),
    c: &mut [S::f32s],
    adds: bool,
) {
    let lanes = extent.n / S::F32_LANES;
    let sums = match a {
        Left::Rows { values, stride } => {
            along_rows::<S, M, V>(simd, (&values[m * stride..], stride), (b, lanes, at))
        }
        Left::Columns { values, stride } => {
            along_columns::<S, M, V>(simd, (&values[m..], stride), (b, lanes, at))
        }
    };
    for (c, sums) in c.chunks_exact_mut(lanes).zip(sums) {
        for (c, sum) in c[at..at + V].iter_mut().zip(sums) {
            *c = if adds { simd.add_f32s(*c, sum) } else { sum };
        }
    }
}

#[inline(always)]
fn along_rows<S: Simd, const M: usize, const V: usize>(
    simd: S,
    (a, stride): (&[f32], usize),
    (b, lanes, at): (&[S::f32s], usize, usize),
) -> [[S::f32s; V]; M] {
    let k = b.len() / lanes;
    let a: [&[f32]; M] = std::array::from_fn(|m| &a[m * stride..][..k]);
    let mut sums = [[simd.splat_f32s(0.0); V]; M];
    for (i, b) in (0..k).zip(b.chunks_exact(lanes)) {
        let b = &b[at..at + V];
        for m in 0..M {
            let a = simd.splat_f32s(a[m][i]);
            for v in 0..V {
                sums[m][v] = simd.mul_add_f32s(a, b[v], sums[m][v]);
            }
        }
    }
    sums
}

#[inline(always)]
fn along_columns<S: Simd, const M: usize, const V: usize>(
    simd: S,
    (a, stride): (&[f32], usize),
    (b, lanes, at): (&[S::f32s], usize, usize),
) -> [[S::f32s; V]; M] {
    let mut sums = [[simd.splat_f32s(0.0); V]; M];
    for (a, b) in a.chunks(stride).zip(b.chunks_exact(lanes)) {
        let (a, b) = (&a[..M], &b[at..at + V]);
        for m in 0..M {
            let a = simd.splat_f32s(a[m]);
            for v in 0..V {
                sums[m][v] = simd.mul_add_f32s(a, b[v], sums[m][v]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests;
