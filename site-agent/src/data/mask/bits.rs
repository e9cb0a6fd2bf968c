//! A set of voxels, one bit each, so that a test of 64 voxels is one instruction and a whole BraTS
//! volume takes a megabyte. It knows no millimetre and no intensity.

/// A set of voxels of a grid. Rows along x start at a word of their own; bits past a row's end are 0.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bits {
    dims: [usize; 3],
    stride: usize,
    words: Vec<u64>,
}

impl Bits {
    /// No voxel of a grid.
    pub(crate) fn empty(dims: [usize; 3]) -> Bits {
        let stride = dims[0].div_ceil(64);
        Bits { dims, stride, words: vec![0; stride * dims[1] * dims[2]] }
    }

    /// The voxels for which `is_set` (called with the index, x fastest) holds.
    pub(crate) fn from_fn(dims: [usize; 3], is_set: impl Fn(usize) -> bool) -> Bits {
        let mut bits = Bits::empty(dims);
        let nx = dims[0];
        if nx == 0 {
            return bits;
        }
        for (row, words) in bits.words.chunks_exact_mut(nx.div_ceil(64)).enumerate() {
            for (at, word) in words.iter_mut().enumerate() {
                let first = row * nx + 64 * at;
                for bit in 0..(nx - 64 * at).min(64) {
                    *word |= u64::from(is_set(first + bit)) << bit;
                }
            }
        }
        bits
    }

    /// The set whose rows are `words`; none unless they are exactly those of a grid of `dims`.
    pub(crate) fn from_words(dims: [usize; 3], words: Vec<u64>) -> Option<Bits> {
        let stride = dims[0].div_ceil(64);
        let bits = Bits { dims, stride, words };
        let beyond = !bits.last_word();
        let is_whole = bits.words.len() == stride * dims[1] * dims[2]
            && bits.rows().all(|(_, row)| row.last().is_none_or(|word| word & beyond == 0));
        is_whole.then_some(bits)
    }

    /// Voxels along x, y and z.
    pub(crate) fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// All rows, x fastest.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// The words of row (y, z).
    pub(crate) fn row(&self, y: usize, z: usize) -> &[u64] {
        let first = self.stride * (y + self.dims[1] * z);
        &self.words[first..first + self.stride]
    }

    /// The words of row (y, z). Bits past the row's end stay 0.
    pub(crate) fn row_mut(&mut self, y: usize, z: usize) -> &mut [u64] {
        let first = self.stride * (y + self.dims[1] * z);
        &mut self.words[first..first + self.stride]
    }

    /// The rows with their (y, z).
    pub(crate) fn rows(&self) -> impl Iterator<Item = ((usize, usize), &[u64])> {
        let ny = self.dims[1];
        let rows = self.words.chunks_exact(self.stride.max(1)).enumerate();
        rows.map(move |(row, words)| ((row % ny, row / ny), words))
    }

    /// Whether voxel (x, y, z) is in the set; what is beyond the grid is not.
    pub(crate) fn get(&self, [x, y, z]: [usize; 3]) -> bool {
        let [nx, ny, nz] = self.dims;
        x < nx && y < ny && z < nz && self.row(y, z)[x / 64] >> (x % 64) & 1 == 1
    }

    /// Adds voxel (x, y, z).
    pub(crate) fn set(&mut self, [x, y, z]: [usize; 3]) {
        self.row_mut(y, z)[x / 64] |= 1 << (x % 64);
    }

    /// Voxels in the set.
    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether the set is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Combines with a set of the same grid, word by word.
    pub(crate) fn zip(&self, other: &Bits, combine: impl Fn(u64, u64) -> u64) -> Bits {
        debug_assert_eq!(self.dims, other.dims, "sets of one grid");
        let words = self.words.iter().zip(&other.words).map(|(&a, &b)| combine(a, b)).collect();
        Bits { dims: self.dims, stride: self.stride, words }
    }

    /// The bits of a row's last word that lie within the grid.
    pub(crate) fn last_word(&self) -> u64 {
        u64::MAX >> ((64 - self.dims[0] % 64) % 64)
    }

    /// The first and last index along each axis; none if the set is empty.
    pub(crate) fn bounds(&self) -> Option<[(usize, usize); 3]> {
        let mut found: Option<[(usize, usize); 3]> = None;
        for ((y, z), row) in self.rows() {
            let Some(word) = row.iter().position(|&word| word != 0) else { continue };
            let last = row.iter().rposition(|&word| word != 0).unwrap_or(word);
            let x = (
                64 * word + row[word].trailing_zeros() as usize,
                64 * last + 63 - row[last].leading_zeros() as usize,
            );
            let here = [x, (y, y), (z, z)];
            let wide = found.unwrap_or(here);
            found = Some([0, 1, 2].map(|axis: usize| {
                (wide[axis].0.min(here[axis].0), wide[axis].1.max(here[axis].1))
            }));
        }
        found
    }

    /// The part within `bounds` (first and last index along each axis) as a grid of its own.
    pub(crate) fn cropped(&self, bounds: [(usize, usize); 3]) -> Bits {
        let mut crop = Bits::empty(bounds.map(|(first, last)| last + 1 - first));
        let [(left, _), (low, _), (bottom, _)] = bounds;
        let end = crop.last_word();
        for z in 0..crop.dims[2] {
            for y in 0..crop.dims[1] {
                let from = self.row(low + y, bottom + z);
                let row = crop.row_mut(y, z);
                for (at, word) in row.iter_mut().enumerate() {
                    *word = shifted(from, -(left as isize), at);
                }
                if let Some(word) = row.last_mut() {
                    *word &= end;
                }
            }
        }
        crop
    }
}

/// Word `at` of `row` after it moved by `by` towards larger x.
pub(crate) fn shifted(row: &[u64], by: isize, at: usize) -> u64 {
    let first = 64 * at as isize - by;
    let (word, bit) = (first.div_euclid(64), first.rem_euclid(64));
    let get = |word: isize| {
        usize::try_from(word).ok().and_then(|word| row.get(word)).copied().unwrap_or(0)
    };
    let low = get(word) >> bit;
    if bit == 0 { low } else { low | get(word + 1) << (64 - bit) }
}

/// The runs of set bits of a row: first and last x.
pub(crate) fn runs(row: &[u64]) -> impl Iterator<Item = (usize, usize)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let first = next(row, from, 0)?;
        let end = next(row, first, u64::MAX).unwrap_or(64 * row.len());
        from = end;
        Some((first, end - 1))
    })
}

/// The first bit from `from` on that is set once `flip` has flipped all.
fn next(row: &[u64], from: usize, flip: u64) -> Option<usize> {
    let mut at = from / 64;
    let mut word = (row.get(at)? ^ flip) & (u64::MAX << (from % 64));
    while word == 0 {
        at += 1;
        word = row.get(at)? ^ flip;
    }
    Some(64 * at + word.trailing_zeros() as usize)
}

/// A set from which a voxel can be picked uniformly, in one look-up.
#[derive(Debug)]
pub(crate) struct Points {
    bits: Bits,
    /// How many voxels lie in rows before each row.
    before: Vec<usize>,
    count: usize,
}

impl Points {
    /// The voxels of a set.
    pub(crate) fn new(bits: Bits) -> Points {
        let mut count = 0;
        let before = bits
            .rows()
            .map(|(_, row)| {
                let before = count;
                count += row.iter().map(|word| word.count_ones() as usize).sum::<usize>();
                before
            })
            .collect();
        Points { bits, before, count }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The voxel with `rank` voxels before it; none from `count` on.
    pub(crate) fn get(&self, rank: usize) -> Option<[usize; 3]> {
        let index = self.before.partition_point(|&before| before <= rank).checked_sub(1)?;
        let (y, z) = (index % self.bits.dims[1], index / self.bits.dims[1]);
        let mut left = rank - self.before[index];
        for (at, &word) in self.bits.row(y, z).iter().enumerate() {
            let ones = word.count_ones() as usize;
            if left < ones {
                let rest = (0..left).fold(word, |word, _| word & (word - 1));
                return Some([64 * at + rest.trailing_zeros() as usize, y, z]);
            }
            left -= ones;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Bits, Points, runs};

    fn index(dims: [usize; 3], [x, y, z]: [usize; 3]) -> usize {
        x + dims[0] * (y + dims[1] * z)
    }

    proptest! {
        #[test]
        fn a_packed_set_is_the_set(
            nx in 1usize..140, ny in 1usize..4, nz in 1usize..3,
            seed in any::<u64>(), left in 0usize..70,
        ) {
            let dims = [nx, ny, nz];
            let is_set = |i: usize| (seed ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 != 0;
            let bits = Bits::from_fn(dims, is_set);
            let voxels: Vec<[usize; 3]> = (0..nx * ny * nz)
                .filter(|&i| is_set(i))
                .map(|i| [i % nx, i / nx % ny, i / nx / ny])
                .collect();
            prop_assert_eq!(bits.count(), voxels.len());
            for i in 0..nx * ny * nz {
                prop_assert_eq!(bits.get([i % nx, i / nx % ny, i / nx / ny]), is_set(i));
            }
            let points = Points::new(bits.clone());
            let picked: Vec<_> = (0..=points.count()).map_while(|rank| points.get(rank)).collect();
            prop_assert_eq!(&picked, &voxels);
            let mut from_runs = Vec::new();
            for ((y, z), row) in bits.rows() {
                from_runs.extend(runs(row).flat_map(|(a, b)| (a..=b).map(move |x| [x, y, z])));
            }
            prop_assert_eq!(&from_runs, &voxels);
            prop_assert_eq!(Bits::from_words(dims, bits.words().to_vec()), Some(bits.clone()));
            let left = left.min(nx - 1);
            let crop = bits.cropped([(left, nx - 1), (0, ny - 1), (nz - 1, nz - 1)]);
            for x in left..nx {
                for y in 0..ny {
                    let expected = is_set(index(dims, [x, y, nz - 1]));
                    prop_assert_eq!(crop.get([x - left, y, 0]), expected);
                }
            }
            let expected = voxels.iter().fold(None, |wide: Option<[(usize, usize); 3]>, at| {
                let wide = wide.unwrap_or(at.map(|i| (i, i)));
                Some([0, 1, 2].map(|a: usize| (wide[a].0.min(at[a]), wide[a].1.max(at[a]))))
            });
            prop_assert_eq!(bits.bounds(), expected);
        }
    }
}
