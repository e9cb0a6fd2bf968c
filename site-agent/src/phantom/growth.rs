//! Fisher-KPP growth: how a density of cells spreads through tissue.
//!
//! dc/dt = div(D grad c) + rho c (1 - c) (Swanson et al. 2000), explicit in time, on cubic voxels
//! with the voxel's edge and the time step as units. No flux crosses a face towards fluid, the
//! outside or the edge of the grid. It knows no millimetres and no MRI.

use crate::phantom::grid::Grid;

/// The fastest white-matter diffusivity: an explicit step in three dimensions is stable to 1/6.
pub const DIFFUSIVITY_MAX: f32 = 1.0 / 6.0;

/// A density below this counts as none when the part of the grid to work on is chosen.
const TRACE: f32 = 1e-5;

/// After so many steps the part of the grid to work on is chosen again; a step spreads one voxel.
const STEPS_PER_BOX: usize = 6;

/// What growth runs through.
#[derive(Clone, Debug)]
pub struct Medium<'a> {
    /// The grid.
    pub grid: &'a Grid,
    /// Diffusivity of every voxel, at most [`DIFFUSIVITY_MAX`]; 0 where nothing can grow.
    pub diffusivity: &'a [f32],
    /// Growth rate of every voxel, per step.
    pub rate: &'a [f32],
}

/// A density and when it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Grown {
    /// Cells per voxel relative to the most that fit, in [0, 1].
    pub density: Vec<f32>,
    /// The step at which the density passed 0.5, with its fraction; the last step where it has not.
    pub arrival: Vec<f32>,
    /// The steps done.
    pub steps: usize,
}

/// Grows `density` until more than `voxels` voxels have passed 0.5 or `steps_max` steps are done.
pub fn grow(medium: &Medium, density: Vec<f32>, voxels: usize, steps_max: usize) -> Grown {
    let mut arrival: Vec<f32> =
        density.iter().map(|&c| if c >= 0.5 { 0.0 } else { f32::INFINITY }).collect();
    let mut reached = arrival.iter().filter(|a| a.is_finite()).count();
    let faces = Faces::of(medium);
    let mut density = faces.padded(&density);
    let mut next = density.clone();
    let [nx, ny, _] = medium.grid.dims;
    let mut work = None;
    let mut steps = 0;
    while reached < voxels && steps < steps_max {
        if steps % STEPS_PER_BOX == 0 {
            work = occupied(medium.grid, &density[nx * ny..]);
        }
        let Some((low, high)) = work else { break };
        let length = high[0] - low[0] + 1;
        for (y, z) in (low[2]..=high[2]).flat_map(|z| (low[1]..=high[1]).map(move |y| (y, z))) {
            let first = medium.grid.index([low[0], y, z]);
            let padded = first + nx * ny;
            faces.step(&density, &mut next, padded, length);
            let rows = density[padded..].iter().zip(&next[padded..padded + length]);
            for (arrival, (&before, &after)) in arrival[first..].iter_mut().zip(rows) {
                if after >= 0.5 && *arrival == f32::INFINITY {
                    *arrival = steps as f32 + (0.5 - before) / (after - before);
                    reached += 1;
                }
            }
        }
        std::mem::swap(&mut density, &mut next);
        steps += 1;
    }
    arrival.iter_mut().for_each(|a| *a = a.min(steps as f32));
    let density = density[nx * ny..][..arrival.len()].to_vec();
    Grown { density, arrival, steps }
}

/// What a step needs of the medium, laid out so that whole rows are computed at once: every array
/// has a plane of zeros at both ends, and what must not be crossed has diffusivity 0.
struct Faces {
    /// Steps to the next voxel along x, y and z.
    strides: [usize; 3],
    /// The diffusivity between a voxel and the next one along x, y and z.
    between: [Vec<f32>; 3],
    /// Growth rate; 0 where nothing grows.
    rate: Vec<f32>,
}

impl Faces {
    fn of(medium: &Medium) -> Faces {
        let dims = medium.grid.dims;
        let strides = [1, dims[0], dims[0] * dims[1]];
        let mut faces = Faces { strides, between: [vec![], vec![], vec![]], rate: vec![] };
        let own = medium.diffusivity;
        let rate = own.iter().zip(medium.rate).map(|(&d, &r)| if d == 0.0 { 0.0 } else { r });
        faces.rate = faces.padded(&rate.collect::<Vec<f32>>());
        for axis in 0..3 {
            let mut between = vec![0.0; own.len()];
            for (i, face_to_next) in between.iter_mut().enumerate() {
                if i / strides[axis] % dims[axis] + 1 < dims[axis] {
                    *face_to_next = face(own[i], own[i + strides[axis]]);
                }
            }
            faces.between[axis] = faces.padded(&between);
        }
        faces
    }

    /// The values with a plane of zeros at both ends.
    fn padded(&self, values: &[f32]) -> Vec<f32> {
        let plane = self.strides[2];
        let mut padded = vec![0.0; values.len() + 2 * plane];
        padded[plane..plane + values.len()].copy_from_slice(values);
        padded
    }

    /// One explicit step of `length` voxels of a row from `first` on.
    fn step(&self, density: &[f32], next: &mut [f32], first: usize, length: usize) {
        let here = &density[first..first + length];
        let rate = &self.rate[first..first + length];
        let next = &mut next[first..first + length];
        let [before, after] = [0, 1].map(|side| {
            [0, 1, 2].map(|axis: usize| {
                let stride = self.strides[axis];
                let (voxel, wall) = if side == 0 {
                    (first - stride, first - stride)
                } else {
                    (first + stride, first)
                };
                (&density[voxel..voxel + length], &self.between[axis][wall..wall + length])
            })
        });
        for i in 0..length {
            let c = here[i];
            let mut flux = 0.0;
            for axis in 0..3 {
                flux += before[axis].1[i] * (before[axis].0[i] - c);
                flux += after[axis].1[i] * (after[axis].0[i] - c);
            }
            next[i] = (c + flux + rate[i] * c * (1.0 - c)).clamp(0.0, 1.0);
        }
    }
}

/// The diffusivity between two voxels, their harmonic mean: 0 if nothing grows in one of them.
fn face(a: f32, b: f32) -> f32 {
    if a == 0.0 || b == 0.0 { 0.0 } else { 2.0 * a * b / (a + b) }
}

/// The part of the grid where there is density, widened by what the next steps can reach.
fn occupied(grid: &Grid, density: &[f32]) -> Option<([usize; 3], [usize; 3])> {
    let (mut low, mut high) = (grid.dims, [0; 3]);
    let mut any = false;
    for (row, values) in density[..grid.voxels()].chunks_exact(grid.dims[0]).enumerate() {
        let Some(first) = values.iter().position(|&c| c > TRACE) else { continue };
        let last = values.iter().rposition(|&c| c > TRACE).unwrap_or(first);
        let (y, z) = (row % grid.dims[1], row / grid.dims[1]);
        any = true;
        low = [low[0].min(first), low[1].min(y), low[2].min(z)];
        high = [high[0].max(last), high[1].max(y), high[2].max(z)];
    }
    let low = low.map(|v| v.saturating_sub(STEPS_PER_BOX));
    let high = [0, 1, 2].map(|a: usize| (high[a] + STEPS_PER_BOX).min(grid.dims[a] - 1));
    any.then_some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { dims: [81, 9, 9], edge_mm: 2.0, first_mm: [0.0; 3] };

    fn start() -> Vec<f32> {
        let mut density = vec![0.0; GRID.voxels()];
        (0..81 * 81).filter(|i| i % 81 == 5).for_each(|i| density[i] = 1.0);
        density
    }

    #[test]
    fn a_front_travels_at_about_twice_the_root_of_diffusivity_times_rate() {
        let (diffusivity, rate) = (vec![0.12; GRID.voxels()], vec![0.06; GRID.voxels()]);
        let medium = Medium { grid: &GRID, diffusivity: &diffusivity, rate: &rate };
        let grown = grow(&medium, start(), usize::MAX, 500);
        let at = |x: usize| grown.arrival[GRID.index([x, 4, 4])];
        let speed = 30.0 / (at(50) - at(20));
        let theory = 2.0 * (0.12_f32 * 0.06).sqrt();
        // A front started from a step approaches the asymptotic speed from below.
        assert!((0.85 * theory..1.02 * theory).contains(&speed), "{speed} {theory}");
    }

    #[test]
    fn nothing_crosses_fluid() {
        let mut diffusivity = vec![0.12; GRID.voxels()];
        (0..GRID.voxels()).filter(|i| i % 81 == 20).for_each(|i| diffusivity[i] = 0.0);
        let rate = vec![0.06; GRID.voxels()];
        let medium = Medium { grid: &GRID, diffusivity: &diffusivity, rate: &rate };
        let grown = grow(&medium, start(), usize::MAX, 400);
        for i in 0..GRID.voxels() {
            let x = i % 81;
            assert_eq!(grown.density[i] > 0.4, x < 20, "{x}");
            assert!(x < 20 || grown.density[i] == 0.0);
        }
    }

    #[test]
    fn growth_stops_at_the_volume_asked_for() {
        let (diffusivity, rate) = (vec![0.12; GRID.voxels()], vec![0.06; GRID.voxels()]);
        let medium = Medium { grid: &GRID, diffusivity: &diffusivity, rate: &rate };
        let grown = grow(&medium, start(), 81 * 20, 1000);
        let voxels = grown.density.iter().filter(|&&c| c >= 0.5).count();
        assert!((81 * 20..81 * 22).contains(&voxels), "{voxels}");
        assert!(grown.steps < 1000);
    }
}
