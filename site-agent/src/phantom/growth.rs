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
pub fn grow(medium: &Medium, mut density: Vec<f32>, voxels: usize, steps_max: usize) -> Grown {
    let mut arrival: Vec<f32> =
        density.iter().map(|&c| if c >= 0.5 { 0.0 } else { f32::INFINITY }).collect();
    let mut reached = arrival.iter().filter(|a| a.is_finite()).count();
    let mut next = density.clone();
    let mut work = None;
    let mut steps = 0;
    while reached < voxels && steps < steps_max {
        if steps % STEPS_PER_BOX == 0 {
            work = occupied(medium.grid, &density);
        }
        let Some((low, high)) = work else { break };
        for z in low[2]..=high[2] {
            for y in low[1]..=high[1] {
                for x in low[0]..=high[0] {
                    let i = medium.grid.index([x, y, z]);
                    next[i] = stepped(medium, &density, [x, y, z], i);
                    if next[i] >= 0.5 && arrival[i] == f32::INFINITY {
                        let part = (0.5 - density[i]) / (next[i] - density[i]);
                        arrival[i] = steps as f32 + part;
                        reached += 1;
                    }
                }
            }
        }
        std::mem::swap(&mut density, &mut next);
        steps += 1;
    }
    arrival.iter_mut().for_each(|a| *a = a.min(steps as f32));
    Grown { density, arrival, steps }
}

/// One explicit step of one voxel.
fn stepped(medium: &Medium, density: &[f32], voxel: [usize; 3], i: usize) -> f32 {
    let (here, own) = (density[i], medium.diffusivity[i]);
    if own == 0.0 {
        return here;
    }
    let mut flux = 0.0;
    let mut stride = 1;
    for (at, n) in voxel.into_iter().zip(medium.grid.dims) {
        if at > 0 {
            flux += face(own, medium.diffusivity[i - stride]) * (density[i - stride] - here);
        }
        if at + 1 < n {
            flux += face(own, medium.diffusivity[i + stride]) * (density[i + stride] - here);
        }
        stride *= n;
    }
    (here + flux + medium.rate[i] * here * (1.0 - here)).clamp(0.0, 1.0)
}

/// The diffusivity between two voxels, their harmonic mean: 0 if nothing grows in one of them.
fn face(a: f32, b: f32) -> f32 {
    if b == 0.0 { 0.0 } else { 2.0 * a * b / (a + b) }
}

/// The part of the grid where there is density, widened by what the next steps can reach.
fn occupied(grid: &Grid, density: &[f32]) -> Option<([usize; 3], [usize; 3])> {
    let (mut low, mut high) = (grid.dims, [0; 3]);
    let mut any = false;
    for (i, &c) in density.iter().enumerate() {
        if c > TRACE {
            any = true;
            for (a, at) in grid.voxel(i).into_iter().enumerate() {
                low[a] = low[a].min(at);
                high[a] = high[a].max(at);
            }
        }
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
