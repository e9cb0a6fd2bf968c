//! What needs no model: the simplest ways to fill what is hidden in a scan. A model's score means
//! something beside theirs.
//!
//! All that is hidden is filled, from known voxels alone; what lies under the mask is never read, and
//! a known voxel is never changed.

mod lattice;
mod smooth;
mod solve;

use std::str::FromStr;

use serde::Serialize;

use crate::data::grid::bounding_box;
use crate::data::volume::Volume;

/// A way to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Baseline {
    /// With 0, as a voided scan is.
    Zero,
    /// With the mean of the known brain.
    Mean,
    /// With the voxel on the other side of the head. The plane of symmetry is the middle of the known
    /// brain's box along x; where the other side is hidden or background, the mean of the known brain.
    Mirror,
    /// The function without curvature: Laplace's equation, the known voxels around as its border.
    Harmonic,
    /// The function with the least curvature that meets its surroundings in value and slope.
    Biharmonic,
}

/// A word that names no baseline.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("no baseline has this name, choose zero, mean, mirror, harmonic or biharmonic")]
pub struct NoSuchBaseline;

impl Baseline {
    /// Every baseline, the simplest first.
    pub const ALL: [Baseline; 5] = [
        Baseline::Zero,
        Baseline::Mean,
        Baseline::Mirror,
        Baseline::Harmonic,
        Baseline::Biharmonic,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        ["zero", "mean", "mirror", "harmonic", "biharmonic"][self as usize]
    }
}

impl FromStr for Baseline {
    type Err = NoSuchBaseline;

    fn from_str(word: &str) -> Result<Baseline, NoSuchBaseline> {
        Baseline::ALL.into_iter().find(|b| b.name() == word).ok_or(NoSuchBaseline)
    }
}

/// The scan with everything filled that `hidden` (not 0 is hidden) hides in `scan`.
///
/// # Panics
/// If `hidden` does not have the scan's shape: that is a bug of the caller.
pub fn fill(baseline: Baseline, scan: &Volume, hidden: &Volume) -> Volume {
    assert_eq!((scan.dims, scan.voxels.len()), (hidden.dims, hidden.voxels.len()), "one shape");
    match baseline {
        Baseline::Zero => filled(scan, hidden, |_| 0.0),
        Baseline::Mean => {
            let mean = mean_of_known_brain(scan, hidden);
            filled(scan, hidden, |_| mean)
        }
        Baseline::Mirror => mirror(scan, hidden),
        Baseline::Harmonic => smooth::harmonic(scan, hidden).0,
        Baseline::Biharmonic => {
            let highest = known(scan, hidden).fold(0.0, f32::max);
            let (mut fill, _) = smooth::biharmonic(scan, hidden);
            // Slopes go on into the hole, and may leave what a scan can be.
            for (voxel, &hidden) in fill.voxels.iter_mut().zip(&hidden.voxels) {
                if hidden != 0.0 {
                    *voxel = voxel.clamp(0.0, highest);
                }
            }
            fill
        }
    }
}

/// `scan` with `value` of the index where `hidden` is not 0.
fn filled(scan: &Volume, hidden: &Volume, mut value: impl FnMut(usize) -> f32) -> Volume {
    let voxels = scan.voxels.iter().zip(&hidden.voxels).enumerate();
    let voxels = voxels.map(|(i, (&v, &h))| if h == 0.0 { v } else { value(i) });
    scan.with_voxels(voxels.collect())
}

/// The known voxels.
fn known<'a>(scan: &'a Volume, hidden: &'a Volume) -> impl Iterator<Item = f32> + 'a {
    scan.voxels.iter().zip(&hidden.voxels).filter(|&(_, &h)| h == 0.0).map(|(&v, _)| v)
}

/// 0 where no brain is known.
fn mean_of_known_brain(scan: &Volume, hidden: &Volume) -> f32 {
    let brain = known(scan, hidden).filter(|&v| v > 0.0);
    let (sum, count) = brain.fold((0.0, 0_u64), |(sum, n), v| (sum + f64::from(v), n + 1));
    if count == 0 { 0.0 } else { (sum / count as f64) as f32 }
}

fn mirror(scan: &Volume, hidden: &Volume) -> Volume {
    let is_known_brain = |i: usize| hidden.voxels[i] == 0.0 && scan.voxels[i] > 0.0;
    let mean = mean_of_known_brain(scan, hidden);
    let Some([(left, right), ..]) = bounding_box(scan.dims, is_known_brain) else {
        return filled(scan, hidden, |_| mean);
    };
    let width = scan.dims[0];
    filled(scan, hidden, |i| {
        let x = i % width;
        let other = (left + right).checked_sub(x).filter(|&other| other < width);
        let other = other.map(|other| i - x + other).filter(|&other| is_known_brain(other));
        other.map_or(mean, |other| scan.voxels[other])
    })
}

#[cfg(test)]
mod tests;
