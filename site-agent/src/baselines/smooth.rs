//! Filling with the smoothest function: harmonic, or biharmonic. In 3-D, not slice by slice, because
//! the voxels above and below a hole know as much of it as those beside; millimetres count, so that
//! thick slices pull less.
//!
//! Background is known and is 0, so a hole at the brain's surface fades into it.

use crate::baselines::lattice::Lattice;
use crate::baselines::solve::{Factor, solve};
use crate::data::volume::Volume;

/// Minimises the sum of squared differences between neighbours: Δu = 0 in the hole, u known around.
/// The scan filled, and the steps that took.
pub(super) fn harmonic(scan: &Volume, hidden: &Volume) -> (Volume, usize) {
    let lattice = Lattice::of(hidden);
    let pull = border_pull(&lattice, scan, hidden);
    let right: Vec<f64> = pull[..lattice.hidden].iter().map(|b| -b).collect();
    let factor = Factor::of(&lattice);
    let mut values = padded(&lattice);
    let laplace = |x: &[f64], out: &mut [f64]| {
        values[..x.len()].copy_from_slice(x);
        lattice.laplacian(&values, out);
    };
    let (solution, steps) = solve(&right, laplace, |x| factor.solve(x));
    (pasted(scan, &lattice, &solution), steps)
}

/// Minimises the sum of (Δu)² over the hole and the voxels that touch it: Δ²u = 0 in the hole, u and
/// its slope known around. The scan filled, and the steps that took.
pub(super) fn biharmonic(scan: &Volume, hidden: &Volume) -> (Volume, usize) {
    let lattice = Lattice::of(hidden);
    let pull = border_pull(&lattice, scan, hidden);
    let mut right = vec![0.0; lattice.hidden];
    lattice.laplacian(&pull, &mut right);
    right.iter_mut().for_each(|b| *b = -*b);
    let factor = Factor::of(&lattice);
    let (mut values, mut bent) = (padded(&lattice), padded(&lattice));
    let sites = lattice.sites.len();
    let twice = |x: &[f64], out: &mut [f64]| {
        values[..x.len()].copy_from_slice(x);
        lattice.laplacian(&values, &mut bent[..sites]);
        lattice.laplacian(&bent, out);
    };
    let nearly = |x: &mut [f64]| {
        factor.solve(x);
        factor.solve(x);
    };
    let (solution, steps) = solve(&right, twice, nearly);
    (pasted(scan, &lattice, &solution), steps)
}

/// The Laplacian at every site of what is known, 0 where it is hidden.
fn border_pull(lattice: &Lattice, scan: &Volume, hidden: &Volume) -> Vec<f64> {
    let known = |i: usize| if hidden.voxels[i] == 0.0 { f64::from(scan.voxels[i]) } else { 0.0 };
    lattice.laplacian_of(scan.dims, known)
}

/// Room for a value per site and the 0 behind them.
fn padded(lattice: &Lattice) -> Vec<f64> {
    vec![0.0; lattice.sites.len() + 1]
}

fn pasted(scan: &Volume, lattice: &Lattice, solution: &[f64]) -> Volume {
    let mut fill = scan.clone();
    for (&voxel, &value) in lattice.sites.iter().zip(solution) {
        fill.voxels[voxel] = value as f32;
    }
    fill
}
