//! The hidden voxels and those next to them as a graph, and the Laplacian on it.
//!
//! Spacing counts: a neighbour twice as far away pulls a quarter as hard. A neighbour beyond the edge
//! of the volume does not pull, as if nothing changed there. It holds no intensity.

use crate::data::volume::Volume;

/// Hidden voxels, then the known ones that touch them.
pub(super) struct Lattice {
    /// The index in the volume of each, ascending among the hidden.
    pub(super) sites: Vec<usize>,
    /// How many are hidden.
    pub(super) hidden: usize,
    /// The neighbours of each along -x, +x, -y, +y, -z, +z; `sites.len()` where there is none.
    neighbours: Vec<[usize; 6]>,
    /// How hard neighbours along each axis pull, 1 for the nearest: (spacing_min / spacing)².
    pulls: [f64; 3],
    /// The pull of all neighbours in the volume, whether they are sites or not.
    diagonal: Vec<f64>,
}

impl Lattice {
    /// The lattice of the voxels of `hidden` that are not 0.
    pub(super) fn of(hidden: &Volume) -> Lattice {
        let nearest = hidden.spacing_mm.iter().copied().fold(f64::MAX, f64::min);
        let pulls = hidden.spacing_mm.map(|spacing| (nearest / spacing).powi(2));
        let inside: Vec<usize> =
            (0..hidden.voxels.len()).filter(|&i| hidden.voxels[i] != 0.0).collect();
        let is_known = |&i: &usize| hidden.voxels[i] == 0.0;
        let beside = inside.iter().flat_map(|&i| around(hidden.dims, i)).flatten();
        let mut border: Vec<usize> = beside.filter(is_known).collect();
        border.sort_unstable();
        border.dedup();
        let count = inside.len();
        let none = count + border.len();
        let site = |voxel: usize| {
            let outside = |_| border.binary_search(&voxel).map_or(none, |i| count + i);
            inside.binary_search(&voxel).unwrap_or_else(outside)
        };
        let (mut neighbours, mut diagonal) = (Vec::with_capacity(none), Vec::with_capacity(none));
        for &voxel in inside.iter().chain(&border) {
            let around = around(hidden.dims, voxel);
            neighbours.push(around.map(|voxel| voxel.map_or(none, site)));
            diagonal.push((0..6).filter(|&i| around[i].is_some()).map(|i| pulls[i / 2]).sum());
        }
        let hidden = count;
        let sites = [inside, border].concat();
        Lattice { sites, hidden, neighbours, pulls, diagonal }
    }

    /// The Laplacian (positive where a site stands above its neighbours) of `values`, one per site
    /// and 0 elsewhere, at the first `out.len()` sites. `values` has one more, a 0, at its end.
    pub(super) fn laplacian(&self, values: &[f64], out: &mut [f64]) {
        let sites = self.neighbours.iter().zip(&self.diagonal).zip(values);
        for (((neighbours, diagonal), value), out) in sites.zip(out) {
            let pull = |axis: usize| {
                let [below, above] = [neighbours[2 * axis], neighbours[2 * axis + 1]];
                self.pulls[axis] * (values[below] + values[above])
            };
            *out = diagonal * value - (pull(0) + pull(1) + pull(2));
        }
    }

    /// The Laplacian at every site of the whole volume `value`, followed by a 0.
    pub(super) fn laplacian_of(&self, dims: [usize; 3], value: impl Fn(usize) -> f64) -> Vec<f64> {
        let at = |&voxel: &usize| {
            let here = value(voxel);
            let pull = |(i, other): (usize, Option<usize>)| {
                other.map_or(0.0, |other| self.pulls[i / 2] * (here - value(other)))
            };
            around(dims, voxel).into_iter().enumerate().map(pull).sum()
        };
        self.sites.iter().map(at).chain([0.0]).collect()
    }

    /// The pull of all neighbours of a site.
    pub(super) fn diagonal(&self, site: usize) -> f64 {
        self.diagonal[site]
    }

    /// The hidden neighbours of a hidden site that come before it, and how hard they pull.
    pub(super) fn before(&self, site: usize) -> impl Iterator<Item = (usize, f64)> {
        self.beside(site, 0)
    }

    /// The hidden neighbours of a hidden site that come after it, and how hard they pull.
    pub(super) fn after(&self, site: usize) -> impl Iterator<Item = (usize, f64)> {
        self.beside(site, 1)
    }

    fn beside(&self, site: usize, side: usize) -> impl Iterator<Item = (usize, f64)> {
        let neighbours = self.neighbours[site];
        let all = [0, 1, 2].map(|axis| (neighbours[2 * axis + side], self.pulls[axis]));
        all.into_iter().filter(|&(other, _)| other < self.hidden)
    }
}

/// The voxels next to one, along -x, +x, -y, +y, -z, +z; none beyond the volume's edge.
fn around(dims: [usize; 3], voxel: usize) -> [Option<usize>; 6] {
    let place = [voxel % dims[0], voxel / dims[0] % dims[1], voxel / dims[0] / dims[1]];
    let strides = [1, dims[0], dims[0] * dims[1]];
    std::array::from_fn(|i| {
        let axis = i / 2;
        match i % 2 {
            0 => (place[axis] > 0).then(|| voxel - strides[axis]),
            _ => (place[axis] + 1 < dims[axis]).then(|| voxel + strides[axis]),
        }
    })
}
