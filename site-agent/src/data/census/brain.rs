//! Which voxels of a scan are brain: those above 0, as everywhere in this program. A bit per voxel,
//! so that two contrasts can be compared without keeping either.

use crate::data::volume::Volume;

/// The brain of one scan.
pub(super) struct Brain {
    bits: Vec<u64>,
    voxels: usize,
    voxel_ml: f64,
}

/// The smallest and the largest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Extent {
    pub(super) min: f32,
    pub(super) max: f32,
}

impl Extent {
    pub(super) fn of(values: &[f32]) -> Extent {
        let start = Extent { min: f32::INFINITY, max: f32::NEG_INFINITY };
        values.iter().fold(start, |e, &v| Extent { min: e.min.min(v), max: e.max.max(v) })
    }
}

impl Brain {
    pub(super) fn of(volume: &Volume) -> Brain {
        let word = |voxels: &[f32]| {
            voxels.iter().enumerate().fold(0, |word, (i, &v)| word | (u64::from(v > 0.0) << i))
        };
        Brain {
            bits: volume.voxels.chunks(64).map(word).collect(),
            voxels: volume.voxels.len(),
            voxel_ml: super::voxel_ml(volume),
        }
    }

    /// Its volume in millilitres.
    pub(super) fn ml(&self) -> f64 {
        count(self.bits.iter().copied()) as f64 * self.voxel_ml
    }

    /// The part of the volume that it fills.
    pub(super) fn part(&self) -> f64 {
        count(self.bits.iter().copied()) as f64 / self.voxels.max(1) as f64
    }

    /// The part of both brains together that only one of them has. Their grids are the same.
    pub(super) fn apart(&self, other: &Brain) -> f64 {
        let pairs = || self.bits.iter().zip(&other.bits);
        let either = count(pairs().map(|(a, b)| a | b));
        count(pairs().map(|(a, b)| a ^ b)) as f64 / either.max(1) as f64
    }

    /// How many of the labels other than 0 lie outside. `labels` has the scan's grid.
    pub(super) fn outside(&self, labels: &[f32]) -> usize {
        let is_brain = |i: usize| self.bits[i / 64] >> (i % 64) & 1 == 1;
        labels.iter().enumerate().filter(|&(i, &label)| label != 0.0 && !is_brain(i)).count()
    }
}

fn count(words: impl Iterator<Item = u64>) -> usize {
    words.map(|word| word.count_ones() as usize).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(voxels: &[f32]) -> Volume {
        let dims = [voxels.len(), 1, 1];
        Volume { dims, spacing_mm: [2.0; 3], origin_mm: [0.0; 3], voxels: voxels.to_vec() }
    }

    #[test]
    fn brain_is_what_is_above_0_and_negative_voxels_are_background() {
        let mut voxels = vec![0.0; 100];
        voxels[70..75].fill(3.0);
        voxels[0] = -1.0;
        let brain = Brain::of(&volume(&voxels));
        assert_eq!((brain.ml(), brain.part()), (5.0 * 0.008, 0.05));
        let mut labels = vec![0.0; 100];
        labels[74..77].fill(2.0);
        assert_eq!(brain.outside(&labels), 2);
        voxels[75] = 1.0;
        assert_eq!(brain.apart(&Brain::of(&volume(&voxels))), 1.0 / 6.0);
        assert_eq!(Extent::of(&voxels), Extent { min: -1.0, max: 3.0 });
    }
}
