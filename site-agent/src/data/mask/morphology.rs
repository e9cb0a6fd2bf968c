//! Binary morphology in three dimensions: connected components, holes, dilation. It works on runs and
//! rows, not on voxels, which is what makes a whole brain cost milliseconds.
//!
//! It decides nothing: which components matter is its callers'.

use super::bits::{Bits, runs};

/// The voxels along x from `first` to `last` in one row, and the component they belong to.
#[derive(Clone, Copy)]
struct Run {
    first: u32,
    last: u32,
    component: u32,
}

/// The connected components of a set, numbered in the order of their first voxel, x fastest.
pub(crate) struct Components {
    dims: [usize; 3],
    runs: Vec<Run>,
    /// Where each row's runs begin, and after the last row the number of runs.
    starts: Vec<usize>,
    /// Voxels of each component.
    sizes: Vec<usize>,
}

/// Which voxels are neighbours.
#[derive(Clone, Copy, PartialEq)]
enum Neighbours {
    /// Those that share a face.
    Face,
    /// Those that share a face, an edge or a corner.
    Corner,
}

impl Components {
    /// The components of `set` in which voxels touch by a face, an edge or a corner (26-connected).
    pub(crate) fn of(set: &Bits) -> Components {
        Components::label(
            set.dims(),
            |y, z, found| found.extend(runs(set.row(y, z))),
            Neighbours::Corner,
        )
    }

    /// Voxels of each component.
    pub(crate) fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// The union of the components for which `keep` holds.
    pub(crate) fn union(&self, keep: impl Fn(usize) -> bool) -> Bits {
        let mut bits = Bits::empty(self.dims);
        for (row, span) in self.starts.windows(2).enumerate() {
            let words = bits.row_mut(row % self.dims[1], row / self.dims[1]);
            for run in &self.runs[span[0]..span[1]] {
                if keep(run.component as usize) {
                    fill(words, run.first as usize, run.last as usize);
                }
            }
        }
        bits
    }

    fn label(
        dims: [usize; 3],
        row: impl Fn(usize, usize, &mut Vec<(usize, usize)>),
        neighbours: Neighbours,
    ) -> Components {
        let [_, ny, nz] = dims;
        let mut found = Components { dims, runs: Vec::new(), starts: vec![0], sizes: Vec::new() };
        let mut parents: Vec<u32> = Vec::new();
        let mut here = Vec::new();
        for z in 0..nz {
            for y in 0..ny {
                here.clear();
                row(y, z, &mut here);
                let begin = found.runs.len();
                for &(first, last) in &here {
                    // A grid holds far fewer runs than 2^32: its voxels would fill the memory.
                    let component = found.runs.len() as u32;
                    found.runs.push(Run { first: first as u32, last: last as u32, component });
                    parents.push(component);
                }
                found.starts.push(found.runs.len());
                let mut join = |dy: isize, dz: usize| {
                    let (Some(y), Some(z)) = (y.checked_add_signed(dy), z.checked_sub(dz)) else {
                        return;
                    };
                    if y < ny {
                        let other = y + ny * z;
                        let other = found.starts[other]..found.starts[other + 1];
                        touch(
                            &found.runs,
                            other,
                            begin..found.runs.len(),
                            neighbours,
                            &mut parents,
                        );
                    }
                };
                join(-1, 0);
                join(0, 1);
                if neighbours == Neighbours::Corner {
                    join(-1, 1);
                    join(1, 1);
                }
            }
        }
        found.number(&mut parents);
        found
    }

    /// Gives the components their numbers and counts their voxels.
    fn number(&mut self, parents: &mut [u32]) {
        let mut numbers = vec![u32::MAX; self.runs.len()];
        for run in &mut self.runs {
            let root = root(parents, run.component) as usize;
            if numbers[root] == u32::MAX {
                numbers[root] = self.sizes.len() as u32;
                self.sizes.push(0);
            }
            run.component = numbers[root];
            self.sizes[run.component as usize] += (run.last - run.first + 1) as usize;
        }
    }
}

/// Joins the runs of two neighbouring rows that touch.
fn touch(
    runs: &[Run],
    other: std::ops::Range<usize>,
    here: std::ops::Range<usize>,
    neighbours: Neighbours,
    parents: &mut [u32],
) {
    let slack = u32::from(neighbours == Neighbours::Corner);
    let (mut a, mut b) = (other.start, here.start);
    while a < other.end && b < here.end {
        let (one, two) = (runs[a], runs[b]);
        if one.first <= two.last + slack && two.first <= one.last + slack {
            let (low, high) = (root(parents, a as u32), root(parents, b as u32));
            parents[low.max(high) as usize] = low.min(high);
        }
        if one.last < two.last {
            a += 1;
        } else {
            b += 1;
        }
    }
}

/// The representative of a run, halving the path to it.
fn root(parents: &mut [u32], mut of: u32) -> u32 {
    while parents[of as usize] != of {
        let above = parents[parents[of as usize] as usize];
        parents[of as usize] = above;
        of = above;
    }
    of
}

/// Sets the bits from `first` to `last`.
fn fill(words: &mut [u64], first: usize, last: usize) {
    for (at, word) in words.iter_mut().enumerate().take(last / 64 + 1).skip(first / 64) {
        let low = first.saturating_sub(64 * at);
        let high = (last - 64 * at).min(63);
        *word |= (u64::MAX << low) & (u64::MAX >> (63 - high));
    }
}

/// The largest 26-connected component, the first of them on a tie; empty if the set is.
pub(crate) fn largest(set: &Bits) -> Bits {
    let components = Components::of(set);
    let sizes = components.sizes();
    let best = (0..sizes.len()).max_by_key(|&i| (sizes[i], std::cmp::Reverse(i)));
    components.union(|i| Some(i) == best)
}

/// The set without its 26-connected components of fewer than `voxels_min` voxels.
pub(crate) fn without_small(set: &Bits, voxels_min: usize) -> Bits {
    let components = Components::of(set);
    components.union(|i| components.sizes()[i] >= voxels_min)
}

/// The set and every voxel from which no path over faces leads around it to the border of the grid:
/// scipy's `binary_fill_holes`.
pub(crate) fn filled(set: &Bits) -> Bits {
    let Some(bounds) = set.bounds() else { return set.clone() };
    let [(left, right), (low, high), (bottom, top)] = bounds;
    let dims = [right + 1 - left, high + 1 - low, top + 1 - bottom];
    // What is outside the box is outside the set, so a hole lies within the box and off its border.
    let gaps = |y: usize, z: usize, found: &mut Vec<(usize, usize)>| {
        let mut from = 0;
        for (first, last) in runs(set.row(low + y, bottom + z)) {
            if first - left > from {
                found.push((from, first - left - 1));
            }
            from = last + 1 - left;
        }
        if from < dims[0] {
            found.push((from, dims[0] - 1));
        }
    };
    let holes = Components::label(dims, gaps, Neighbours::Face);
    let mut is_open = vec![false; holes.sizes.len()];
    for (row, span) in holes.starts.windows(2).enumerate() {
        let (y, z) = (row % dims[1], row / dims[1]);
        let is_border = y == 0 || z == 0 || y + 1 == dims[1] || z + 1 == dims[2];
        for run in &holes.runs[span[0]..span[1]] {
            let is_end = run.first == 0 || run.last as usize + 1 == dims[0];
            is_open[run.component as usize] |= is_border || is_end;
        }
    }
    let mut filled = set.clone();
    for (row, span) in holes.starts.windows(2).enumerate() {
        let words = filled.row_mut(low + row % dims[1], bottom + row / dims[1]);
        for run in &holes.runs[span[0]..span[1]] {
            if !is_open[run.component as usize] {
                fill(words, left + run.first as usize, left + run.last as usize);
            }
        }
    }
    filled
}

/// The set and all voxels within `radius` of one of it, centre to centre, in the unit of `spacing`;
/// those at exactly `radius` too.
pub(crate) fn within(set: &Bits, spacing: [f64; 3], radius: f64) -> Bits {
    let [_, ny, nz] = set.dims();
    let reach = |axis: usize| (radius / spacing[axis]).floor() as isize;
    // Each offset of a row with how far the ball reaches along x there.
    let mut rows: Vec<(usize, isize, isize)> = Vec::new();
    for dz in -reach(2)..=reach(2) {
        for dy in -reach(1)..=reach(1) {
            let away = (dy as f64 * spacing[1]).powi(2) + (dz as f64 * spacing[2]).powi(2);
            let inside = |x: isize| (x as f64 * spacing[0]).powi(2) + away <= radius * radius;
            rows.extend((0..=reach(0)).rev().find(|&x| inside(x)).map(|x| (x as usize, dy, dz)));
        }
    }
    rows.sort_unstable();
    let mut result = set.clone();
    let mut wide = Vec::new();
    for ((y, z), row) in set.rows() {
        if row.iter().all(|&word| word == 0) {
            continue;
        }
        wide.clear();
        wide.extend_from_slice(row);
        let mut width = 0;
        for &(half, dy, dz) in &rows {
            while width < half {
                widen(&mut wide);
                width += 1;
            }
            let at = (y.checked_add_signed(dy), z.checked_add_signed(dz));
            let (Some(y), Some(z)) = at else { continue };
            if y < ny && z < nz {
                result.row_mut(y, z).iter_mut().zip(&wide).for_each(|(word, &bits)| *word |= bits);
            }
        }
    }
    let end = set.last_word();
    for z in 0..nz {
        for y in 0..ny {
            if let Some(word) = result.row_mut(y, z).last_mut() {
                *word &= end;
            }
        }
    }
    result
}

/// Adds to each bit of a row the one before and the one after.
fn widen(row: &mut [u64]) {
    let mut before = 0;
    for at in 0..row.len() {
        let word = row[at];
        let after = row.get(at + 1).map_or(0, |next| next << 63);
        row[at] = word | word << 1 | before >> 63 | word >> 1 | after;
        before = word;
    }
}
