//! The mean and the standard deviation of several painted scans, where they were painted. Elsewhere
//! every voxel stays the scan's own.

use crate::data::volume::Volume;

/// Painted scans being summed up (Welford 1962, Technometrics 4(3)).
#[derive(Clone, Debug)]
pub struct Spread {
    /// The voxels that are painted.
    hidden: Vec<usize>,
    count: u32,
    mean: Vec<f64>,
    /// Sums of squared distances from the mean.
    squares: Vec<f64>,
}

impl Spread {
    /// None yet, of what is painted where `mask` is not 0.
    pub fn under(mask: &Volume) -> Spread {
        let hidden: Vec<usize> =
            (0..mask.voxels.len()).filter(|&i| mask.voxels[i] != 0.0).collect();
        let zeros = vec![0.0; hidden.len()];
        Spread { hidden, count: 0, mean: zeros.clone(), squares: zeros }
    }

    /// Takes in one painted scan.
    pub fn add(&mut self, painted: &Volume) {
        self.count += 1;
        let count = f64::from(self.count);
        let sums = self.mean.iter_mut().zip(&mut self.squares);
        for (&voxel, (mean, squares)) in self.hidden.iter().zip(sums) {
            let value = f64::from(painted.voxels[voxel]);
            let before = value - *mean;
            *mean += before / count;
            *squares += before * (value - *mean);
        }
    }

    /// The mean, in the scan that was painted.
    pub fn mean(&self, scan: &Volume) -> Volume {
        self.over(scan.clone(), |at| self.mean[at])
    }

    /// The standard deviation between samples (of count - 1), 0 where nothing was painted and for fewer
    /// than two samples.
    pub fn deviation(&self, scan: &Volume) -> Volume {
        let free = f64::from(self.count.saturating_sub(1).max(1));
        let empty = scan.with_voxels(vec![0.0; scan.voxels.len()]);
        self.over(empty, |at| (self.squares[at] / free).sqrt())
    }

    fn over(&self, mut volume: Volume, value: impl Fn(usize) -> f64) -> Volume {
        for (at, &voxel) in self.hidden.iter().enumerate() {
            volume.voxels[voxel] = value(at) as f32;
        }
        volume
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(voxels: [f32; 4]) -> Volume {
        Volume { dims: [4, 1, 1], spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels: voxels.into() }
    }

    #[test]
    fn mean_and_deviation_are_those_of_the_samples_and_only_where_they_were_painted() {
        let scan = volume([7.0, 7.0, 7.0, 7.0]);
        let mut spread = Spread::under(&volume([0.0, 1.0, 1.0, 0.0]));
        for (a, b) in [(1.0, 5.0), (2.0, 5.0), (6.0, 5.0)] {
            spread.add(&volume([100.0, a, b, -100.0]));
        }
        assert_eq!(spread.mean(&scan).voxels, [7.0, 3.0, 5.0, 7.0]);
        assert_eq!(spread.deviation(&scan).voxels, [0.0, 7f32.sqrt(), 0.0, 0.0]);
    }

    #[test]
    fn one_sample_is_its_own_mean_bit_for_bit_and_has_no_spread() {
        let painted = volume([0.1, 0.2, 0.3, 0.7]);
        let mut spread = Spread::under(&volume([1.0; 4]));
        spread.add(&painted);
        assert_eq!(spread.mean(&volume([0.0; 4])), painted);
        assert_eq!(spread.deviation(&painted).voxels, [0.0; 4]);
    }

    #[test]
    fn samples_that_differ_by_little_on_a_high_level_keep_their_deviation() {
        let mut spread = Spread::under(&volume([1.0; 4]));
        for step in 0..100u8 {
            spread.add(&volume([30_000.0 + f32::from(step % 2) * 0.25; 4]));
        }
        let expected = 0.125 * (100.0f64 / 99.0).sqrt();
        let found = f64::from(spread.deviation(&volume([0.0; 4])).voxels[2]);
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}
