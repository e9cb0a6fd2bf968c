//! What a scanner does to a signal: in-plane blur, thick slices, bias field, gain, Rician noise.
//!
//! One exam of one contrast. The same exam can image a head with and without its tumour: then the
//! two differ by the tumour alone, down to the noise.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use crate::data::layout::Contrast;
use crate::phantom::grid::{Grid, blur_axis};
use crate::phantom::noise::Noise;
use crate::phantom::scanner::Protocol;

/// Full width at half maximum of a Gaussian of standard deviation 1.
const FWHM: f32 = 2.354_82;

/// How much the gain of one exam differs from the scanner's.
const GAIN_RANGE: std::ops::Range<f32> = 0.85..1.15;

/// A column of a slice with less brain than this has no signal to speak of.
const WEIGHT_MIN: f32 = 1e-3;

/// One exam of one contrast.
pub struct Exam {
    grid: Grid,
    /// In-plane blur, in voxels.
    blur: f32,
    /// The thickness of a slice, in voxels; at least 1.
    thickness: f32,
    /// The brain after blur and slicing. `[slices * ny * nx]`
    weight: Vec<f32>,
    /// What the signal is multiplied with. `[slices * ny * nx]`
    gain: Vec<f32>,
    /// Noise of the two channels. `[slices * ny * nx]`
    noise: Vec<[f32; 2]>,
}

impl Exam {
    /// The exam of one contrast of the brain at `brain` of `grid`.
    pub fn new(
        protocol: &Protocol,
        contrast: Contrast,
        grid: &Grid,
        brain: &[usize],
        rng: &mut impl Rng,
    ) -> Exam {
        let blur = protocol.psf_mm / FWHM / grid.edge_mm;
        let thickness = (protocol.thickness_mm[contrast as usize] / grid.edge_mm).max(1.0);
        let mut exam =
            Exam { grid: *grid, blur, thickness, weight: vec![], gain: vec![], noise: vec![] };
        exam.weight = exam.sliced(brain, &vec![1.0; brain.len()]);
        exam.gain = exam.gains(protocol, rng);
        // A voxel of s millimetres averages s * s voxels of 1 mm.
        let sigma = protocol.noise * protocol.gain / grid.edge_mm;
        let mut draw = || sigma * rng.sample::<f32, _>(StandardNormal);
        let noise =
            exam.weight.iter().map(|&w| if is_brain(&w) { [draw(), draw()] } else { [0.0; 2] });
        exam.noise = noise.collect();
        exam
    }

    /// The image of a brain with the given signal (white matter is 1), as BraTS would have it:
    /// resampled to the grid, 0 outside the brain, positive integers inside. `[nz * ny * nx]`
    pub fn image(&self, brain: &[usize], signal: &[f32]) -> Vec<f32> {
        let mut slices = self.sliced(brain, signal);
        for (i, value) in slices.iter_mut().enumerate() {
            if is_brain(&self.weight[i]) {
                let real = *value / self.weight[i] * self.gain[i] + self.noise[i][0];
                *value = (real * real + self.noise[i][1] * self.noise[i][1]).sqrt();
            }
        }
        let area = self.grid.dims[0] * self.grid.dims[1];
        let last = self.slices() - 1;
        let places = (0..self.grid.dims[2]).map(|z| {
            let place = ((z as f32 + 0.5) / self.thickness - 0.5).clamp(0.0, last as f32);
            (place as usize, place - (place as usize) as f32)
        });
        let places: Vec<(usize, f32)> = places.collect();
        let mut image = vec![0.0; self.grid.voxels()];
        for &i in brain {
            let (z, in_plane) = (i / area, i % area);
            let (below, along) = places[z];
            let (mut sum, mut total) = (0.0, 0.0);
            for (slice, share) in [(below, 1.0 - along), ((below + 1).min(last), along)] {
                let at = slice * area + in_plane;
                if is_brain(&self.weight[at]) {
                    sum += share * slices[at];
                    total += share;
                }
            }
            let value = if total > 0.0 { sum / total } else { 0.0 };
            // Zero is background, so the darkest voxel of the brain is 1. Rounded by hand: a call
            // per voxel would cost more than all the rest.
            image[i] = (value.clamp(1.0, f32::from(i16::MAX)) + 0.5) as i32 as f32;
        }
        image
    }

    /// The number of slices.
    fn slices(&self) -> usize {
        // The small number keeps rounding from adding an empty slice.
        ((self.grid.dims[2] as f32 / self.thickness - 1e-4).ceil() as usize).max(1)
    }

    /// Values of the brain's voxels after blur and averaging through each slice. Voxels outside
    /// count as 0. `[slices * ny * nx]`
    fn sliced(&self, brain: &[usize], values: &[f32]) -> Vec<f32> {
        let mut volume = vec![0.0; self.grid.voxels()];
        brain.iter().zip(values).for_each(|(&i, &value)| volume[i] = value);
        blur_axis(&mut volume, self.grid.dims, 0, self.blur);
        blur_axis(&mut volume, self.grid.dims, 1, self.blur);
        if self.thickness == 1.0 {
            return volume;
        }
        let area = self.grid.dims[0] * self.grid.dims[1];
        let mut slices = vec![0.0; self.slices() * area];
        for (slice, out) in slices.chunks_exact_mut(area).enumerate() {
            let (from, to) = (slice as f32 * self.thickness, (slice + 1) as f32 * self.thickness);
            let end = (to.ceil() as usize).min(self.grid.dims[2]);
            for z in from as usize..end {
                let overlap = to.min((z + 1) as f32) - from.max(z as f32);
                let plane = &volume[z * area..(z + 1) * area];
                for (o, v) in out.iter_mut().zip(plane) {
                    *o += overlap / self.thickness * v;
                }
            }
        }
        slices
    }

    /// Gain times bias field: exp of a smooth function whose largest value in the brain is the
    /// protocol's.
    fn gains(&self, protocol: &Protocol, rng: &mut impl Rng) -> Vec<f32> {
        let gain = protocol.gain * rng.random_range(GAIN_RANGE);
        let extent = self.grid.dims.map(|n| n as f32 * self.grid.edge_mm);
        let noise = Noise::new(extent, protocol.bias_step_mm, rng);
        let [nx, ny, _] = self.grid.dims;
        let place = |voxel: usize| (voxel as f32 + 0.5) * self.grid.edge_mm;
        // Where there is no brain nothing is multiplied.
        let mut bias = vec![0.0; self.weight.len()];
        let rows = bias.chunks_exact_mut(nx).zip(self.weight.chunks_exact(nx)).enumerate();
        for (i, (row, weights)) in rows.filter(|(_, (_, weights))| weights.iter().any(is_brain)) {
            let along = noise.row(place(i % ny), place(i / ny) * self.thickness);
            for x in (0..nx).filter(|&x| is_brain(&weights[x])) {
                row[x] = along.at(place(x));
            }
        }
        let largest = bias.iter().fold(f32::MIN_POSITIVE, |m, b| m.max(b.abs()));
        for (b, _) in bias.iter_mut().zip(&self.weight).filter(|(_, weight)| is_brain(weight)) {
            *b = gain * (protocol.bias * *b / largest).exp();
        }
        bias
    }
}

/// Whether a column of a slice has a signal, given its weight.
fn is_brain(weight: &f32) -> bool {
    *weight >= WEIGHT_MIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phantom::scanner::Scanner;
    use crate::phantom::seed::PatientSeed;

    const GRID: Grid = Grid { dims: [30, 30, 20], edge_mm: 1.0, first_mm: [0.0; 3] };

    fn brain() -> Vec<usize> {
        let inside = |v: [usize; 3]| v.iter().all(|c| (4..16).contains(c));
        (0..GRID.voxels()).filter(|&i| inside(GRID.voxel(i))).collect()
    }

    fn exam(scanner: Scanner, contrast: Contrast) -> (Exam, Protocol) {
        let seed = PatientSeed { cohort: 1, scanner: 'A', patient: 0 };
        let protocol = scanner.protocol();
        (Exam::new(&protocol, contrast, &GRID, &brain(), &mut seed.stream("exam")), protocol)
    }

    #[test]
    fn an_even_brain_has_the_gain_the_bias_and_the_noise_of_its_scanner() {
        for scanner in Scanner::ALL {
            for contrast in [Contrast::T1n, Contrast::T2f] {
                let (exam, protocol) = exam(scanner, contrast);
                let brain = brain();
                let image = exam.image(&brain, &vec![1.0; brain.len()]);
                let values: Vec<f32> = brain.iter().map(|&i| image[i]).collect();
                let mean = values.iter().sum::<f32>() / values.len() as f32;
                let far = 1.15 * protocol.bias.exp();
                assert!((1.0 / far..far).contains(&(mean / protocol.gain)), "{scanner:?} {mean}");
                let outside = (0..GRID.voxels()).filter(|i| brain.binary_search(i).is_err());
                assert!(outside.into_iter().all(|i| image[i] == 0.0));
            }
        }
    }

    #[test]
    fn thick_slices_average_what_they_hold() {
        let (exam, _) = exam(Scanner::B, Contrast::T1n);
        let all: Vec<usize> = (0..GRID.voxels()).collect();
        let signal: Vec<f32> = all.iter().map(|&i| (i / 900) as f32).collect();
        let slices = exam.sliced(&all, &signal);
        assert_eq!(slices.len(), 4 * 900);
        // The middle of each slice of five voxels: 2, 7, 12, 17; far from the edges in plane.
        for slice in 0..4 {
            let seen = slices[slice * 900 + 15 * 30 + 15];
            assert!((seen - (5 * slice + 2) as f32).abs() < 1e-3, "{seen}");
        }
    }

    #[test]
    fn the_same_exam_of_the_same_signal_is_the_same_image() {
        let brain = brain();
        let signal = vec![0.7; brain.len()];
        let first = exam(Scanner::C, Contrast::T2w).0.image(&brain, &signal);
        assert_eq!(exam(Scanner::C, Contrast::T2w).0.image(&brain, &signal), first);
    }
}
