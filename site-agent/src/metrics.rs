//! How good an inpainted scan is, inside the mask, exactly as the BraTS inpainting challenge scores
//! (package `inpainting` 0.0.12 on torchmetrics 1.9), so that numbers can stand beside published ones.
//!
//! The SSIM here is that package's: 2-D windows over (y, z) for each x of the file. Our volumes are
//! RAS where BraTS files are LPS; that flips x and y, which changes no window. It never scores a
//! voxel outside the mask.

use serde::{Deserialize, Serialize};

use crate::data::grid::bounding_box;
use crate::data::normalise::{self, Window};
use crate::data::volume::Volume;

/// Half the width of SSIM's Gaussian window: 11 voxels wide.
const REACH: usize = 5;

/// The standard deviation of the window, in voxels.
const SIGMA: f64 = 1.5;

/// SSIM's constants (Wang et al. 2004).
const K1: f64 = 0.01;
/// See [`K1`].
const K2: f64 = 0.03;

/// Why there is no score.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// A volume has another shape than the truth.
    #[error("the {what} is {found:?} voxels where the truth is {expected:?}")]
    Shape {
        /// Which volume.
        what: &'static str,
        /// The truth's shape.
        expected: [usize; 3],
        /// Its shape.
        found: [usize; 3],
    },
    /// The volumes are too thin for SSIM's window.
    #[error("the volume is {0:?} voxels: SSIM needs more than {REACH} along y and z")]
    TooThin([usize; 3]),
    /// Nothing is to be scored.
    #[error("the mask is empty: there is nothing to score")]
    EmptyMask,
    /// A voxel of the prediction or the truth is NaN or infinite.
    #[error("the {0} has a voxel in the mask that is not a finite number")]
    NotFinite(&'static str),
    /// The voided scan has no window.
    #[error(transparent)]
    Window(#[from] normalise::Error),
}

/// The four volumes a score is made of.
#[derive(Clone, Copy)]
pub struct Scored<'a> {
    /// The inpainted scan.
    pub prediction: &'a Volume,
    /// The scan as it was.
    pub truth: &'a Volume,
    /// The scan without all that was hidden (healthy part and lesion); it sets the scale.
    pub voided: &'a Volume,
    /// Where to score, not 0: the healthy part only, for a lesion has no truth.
    pub mask: &'a Volume,
}

/// Scores inside the mask, on intensities scaled to [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Voxels scored.
    pub voxels: u64,
    /// Structural similarity, 2-D windows over (y, z); 1 is perfect.
    pub ssim: f64,
    /// Mean squared error.
    pub mse: f64,
    /// Its root.
    pub rmse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// Mean squared error of ln(1 + intensity).
    pub msle: f64,
    /// Peak signal-to-noise ratio in dB over the truth's own range in the mask, the prediction
    /// clamped into it. Infinite if nothing differs, not a number if the truth is constant too.
    pub psnr: f64,
    /// Peak signal-to-noise ratio in dB over a range of 1: the one published. Infinite if perfect.
    pub psnr_01: f64,
}

/// Scores a prediction.
///
/// # Errors
/// [`Error`] if the volumes do not fit together, are not finite, too thin or flat, or nothing is to
/// be scored.
pub fn score(scored: &Scored<'_>) -> Result<Scores, Error> {
    check(scored)?;
    let Scored { prediction, truth, voided, mask } = scored;
    let window = Window::of(voided.voxels.iter().copied())?;
    let inside: Vec<usize> = (0..mask.voxels.len()).filter(|&i| mask.voxels[i] != 0.0).collect();
    if inside.is_empty() {
        return Err(Error::EmptyMask);
    }
    for (what, volume) in [("prediction", prediction), ("truth", truth)] {
        if !inside.iter().all(|&i| volume.voxels[i].is_finite()) {
            return Err(Error::NotFinite(what));
        }
    }
    let pairs: Vec<(f64, f64)> = inside
        .iter()
        .map(|&i| (window.to_unit(prediction.voxels[i]), window.to_unit(truth.voxels[i])))
        .collect();
    let mean = |error: &dyn Fn(f64, f64) -> f64| {
        pairs.iter().map(|&(p, g)| error(p, g)).sum::<f64>() / pairs.len() as f64
    };
    let mse = mean(&|p, g| (p - g).powi(2));
    let (low, high) = range(pairs.iter().map(|&(_, g)| g));
    let clamped_mse = mean(&|p, g| (p.clamp(low, high) - g).powi(2));
    Ok(Scores {
        voxels: pairs.len() as u64,
        ssim: ssim(scored, window, &pairs),
        mse,
        rmse: mse.sqrt(),
        mae: mean(&|p, g| (p - g).abs()),
        msle: mean(&|p, g| (p.ln_1p() - g.ln_1p()).powi(2)),
        psnr: 10.0 * ((high - low).powi(2) / clamped_mse).log10(),
        psnr_01: -10.0 * mse.log10(),
    })
}

/// The simplest baseline: the mean of the known brain under the mask. `voided` has 0 under `mask`
/// (not 0 is hidden) or not, what is hidden is not read.
pub fn mean_fill(voided: &Volume, mask: &Volume) -> Volume {
    let voxels = voided.voxels.iter().zip(&mask.voxels);
    let brain = voxels.clone().filter(|&(&v, &m)| m == 0.0 && v > 0.0);
    let (sum, count) = brain.fold((0.0, 0_u64), |(s, n), (&v, _)| (s + f64::from(v), n + 1));
    let mean = if count == 0 { 0.0 } else { (sum / count as f64) as f32 };
    voided.with_voxels(voxels.map(|(&v, &m)| if m == 0.0 { v } else { mean }).collect())
}

fn check(scored: &Scored<'_>) -> Result<(), Error> {
    let Scored { prediction, truth, voided, mask } = scored;
    let expected = truth.dims;
    let named =
        [("prediction", prediction), ("truth", truth), ("voided scan", voided), ("mask", mask)];
    for (what, volume) in named {
        let is_whole = volume.voxels.len() == volume.dims.iter().product::<usize>();
        if volume.dims != expected || !is_whole {
            return Err(Error::Shape { what, expected, found: volume.dims });
        }
    }
    if expected[1] <= REACH || expected[2] <= REACH {
        return Err(Error::TooThin(expected));
    }
    Ok(())
}

/// The smallest and the largest value.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)))
}

/// SSIM of the volumes with 0 outside the mask, averaged over the mask. Two volumes without any
/// contrast are equal, and score 1.
fn ssim(scored: &Scored<'_>, window: Window, pairs: &[(f64, f64)]) -> f64 {
    let dims = scored.truth.dims;
    // Outside the mask both are 0, unless the mask is the whole volume.
    let outside = (pairs.len() < scored.mask.voxels.len()).then_some(0.0);
    let spread = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = range(values.chain(outside));
        high - low
    };
    let data_range =
        spread(&mut pairs.iter().map(|p| p.0)).max(spread(&mut pairs.iter().map(|p| p.1)));
    if data_range == 0.0 {
        return 1.0;
    }
    let mut total = 0.0;
    for x in 0..dims[0] {
        let sheet = Sheet { scored, window, x, dims: [dims[1], dims[2]] };
        total += sheet.ssim_sum((K1 * data_range).powi(2), (K2 * data_range).powi(2));
    }
    total / pairs.len() as f64
}

/// All voxels of one x: an image of `[ny, nz]`.
struct Sheet<'a> {
    scored: &'a Scored<'a>,
    window: Window,
    x: usize,
    dims: [usize; 2],
}

/// The local means that SSIM is made of: p, g, p², g², pg.
type Moments = [f64; 5];

impl Sheet<'_> {
    /// The sum of the SSIM map over the mask.
    fn ssim_sum(&self, c1: f64, c2: f64) -> f64 {
        let [ny, nz] = self.dims;
        let inside = |y: usize, z: usize| self.scored.mask.at(self.x, y, z) != 0.0;
        let bounds = bounding_box([ny, nz, 1], |i| inside(i % ny, i / ny));
        let Some([(_, _), (first, last), _]) = bounds else { return 0.0 };
        let kernel = kernel();
        let mut total = 0.0;
        // Columns of the box, each once along y, then combined along z where the mask is.
        let begin = first.saturating_sub(REACH).min(nz.saturating_sub(2 * REACH + 1));
        let end = (last + REACH + 1).max(2 * REACH + 1).min(nz);
        let smooth: Vec<Vec<Moments>> = (begin..end).map(|z| self.along_y(z, &kernel)).collect();
        for z in first..=last {
            for y in (0..ny).filter(|&y| inside(y, z)) {
                let mut moments = [0.0; 5];
                for (tap, weight) in kernel.iter().enumerate() {
                    let column = &smooth[reflected(z + tap, nz) - begin];
                    for (moment, value) in moments.iter_mut().zip(column[y]) {
                        *moment += weight * value;
                    }
                }
                total += ssim_at(moments, c1, c2);
            }
        }
        total
    }

    /// The moments of column `z`, smoothed along y.
    fn along_y(&self, z: usize, kernel: &[f64; 2 * REACH + 1]) -> Vec<Moments> {
        let ny = self.dims[0];
        let raw: Vec<Moments> = (0..ny)
            .map(|y| {
                if self.scored.mask.at(self.x, y, z) == 0.0 {
                    return [0.0; 5];
                }
                let p = self.window.to_unit(self.scored.prediction.at(self.x, y, z));
                let g = self.window.to_unit(self.scored.truth.at(self.x, y, z));
                [p, g, p * p, g * g, p * g]
            })
            .collect();
        (0..ny)
            .map(|y| {
                let mut moments = [0.0; 5];
                for (tap, weight) in kernel.iter().enumerate() {
                    for (moment, value) in moments.iter_mut().zip(raw[reflected(y + tap, ny)]) {
                        *moment += weight * value;
                    }
                }
                moments
            })
            .collect()
    }
}

/// SSIM from local means (Wang et al. 2004, eq. 13), variances clamped at 0 as torchmetrics does.
fn ssim_at([p, g, pp, gg, pg]: Moments, c1: f64, c2: f64) -> f64 {
    let (var_p, var_g) = ((pp - p * p).max(0.0), (gg - g * g).max(0.0));
    let covariance = pg - p * g;
    ((2.0 * p * g + c1) * (2.0 * covariance + c2)) / ((p * p + g * g + c1) * (var_p + var_g + c2))
}

/// The index that padded position `i` (0 lies `REACH` before the first) mirrors, the border itself
/// not repeated.
fn reflected(i: usize, n: usize) -> usize {
    let i = i.abs_diff(REACH);
    if i < n { i } else { 2 * (n - 1) - i }
}

/// A normalised Gaussian of 11 taps.
fn kernel() -> [f64; 2 * REACH + 1] {
    let raw: [f64; 2 * REACH + 1] = std::array::from_fn(|i| {
        let distance = i.abs_diff(REACH) as f64 / SIGMA;
        (-distance * distance / 2.0).exp()
    });
    let sum: f64 = raw.iter().sum();
    raw.map(|weight| weight / sum)
}

#[cfg(test)]
mod tests {
    use super::{Error, REACH, Scored, Scores, mean_fill, reflected, score};
    use crate::data::volume::Volume;

    const DIMS: [usize; 3] = [20, 24, 18];

    fn volume(value: impl Fn(f64, f64, f64) -> f64) -> Volume {
        let mut voxels = Vec::new();
        for z in 0..DIMS[2] {
            for y in 0..DIMS[1] {
                for x in 0..DIMS[0] {
                    voxels.push(value(x as f64, y as f64, z as f64) as f32);
                }
            }
        }
        Volume { dims: DIMS, spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels }
    }

    fn ball(at: [f64; 3], radius_squared: f64) -> impl Fn(f64, f64, f64) -> bool {
        move |x, y, z| {
            (x - at[0]).powi(2) + (y - at[1]).powi(2) + (z - at[2]).powi(2) <= radius_squared
        }
    }

    struct Fixture {
        truth: Volume,
        prediction: Volume,
        voided: Volume,
        mask: Volume,
    }

    impl Fixture {
        fn scored(&self) -> Scored<'_> {
            let Fixture { truth, prediction, voided, mask } = self;
            Scored { prediction, truth, voided, mask }
        }
    }

    /// A smooth synthetic brain, whose scores were computed by the challenge's own package.
    fn fixture() -> Fixture {
        let truth = |x: f64, y: f64, z: f64| {
            let brain =
                (x - 9.5).powi(2) / 81.0 + (y - 11.5).powi(2) / 121.0 + (z - 8.5).powi(2) / 64.0
                    <= 1.0;
            let texture = (7.0 * x + 13.0 * y + 29.0 * z) % 17.0 * 12.0;
            let waves = 250.0 * (0.4 * x).sin() * (0.3 * y).cos() + 120.0 * (0.5 * z).sin();
            if brain { 600.0 + waves + texture } else { 0.0 }
        };
        let healthy = ball([7.0, 12.0, 9.0], 16.0);
        let lesion = ball([14.0, 10.0, 9.0], 6.25);
        let hidden = |x, y, z| healthy(x, y, z) || lesion(x, y, z);
        Fixture {
            truth: volume(truth),
            prediction: volume(|x, y, z| {
                let t = truth(x, y, z);
                let wrong = ((3.0 * x + 5.0 * y + 11.0 * z) % 7.0 - 3.0) * 20.0;
                if hidden(x, y, z) { 0.93 * t + wrong + 15.0 } else { t }
            }),
            voided: volume(|x, y, z| if hidden(x, y, z) { 0.0 } else { truth(x, y, z) }),
            mask: volume(|x, y, z| f64::from(u8::from(healthy(x, y, z)))),
        }
    }

    #[test]
    fn the_scores_are_those_of_the_challenge() {
        let fixture = fixture();
        let sum: f64 = fixture.truth.voxels.iter().map(|&v| f64::from(v)).sum();
        assert!((sum - 2_258_237.461_888).abs() < 0.1, "{sum}");
        let Scores { voxels, ssim, mse, rmse, mae, msle, psnr, psnr_01 } =
            score(&fixture.scored()).unwrap();
        assert_eq!(voxels, 257);
        let golden = [
            (ssim, 0.986_313_381),
            (mse, 0.002_164_383_069),
            (rmse, 0.002_164_383_069_f64.sqrt()),
            (mae, 0.038_609_199_758),
            (msle, 0.000_920_028_747),
            (psnr, 22.050_629_964),
            (psnr_01, 26.646_658_720),
        ];
        for (index, (found, expected)) in golden.into_iter().enumerate() {
            assert!((found - expected).abs() < 1e-6, "{index}: {found} {expected}");
        }
    }

    #[test]
    fn the_border_is_mirrored_without_being_repeated() {
        let padded: Vec<usize> = (0..7 + 2 * REACH).map(|i| reflected(i, 7)).collect();
        assert_eq!(padded, [5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn a_flip_of_the_axes_changes_no_score() {
        let fixture = fixture();
        let flipped = |v: &Volume| {
            let mut voxels = v.voxels.clone();
            for slice in voxels.chunks_exact_mut(DIMS[0] * DIMS[1]) {
                slice.reverse();
            }
            v.with_voxels(voxels)
        };
        let mirror = Fixture {
            truth: flipped(&fixture.truth),
            prediction: flipped(&fixture.prediction),
            voided: flipped(&fixture.voided),
            mask: flipped(&fixture.mask),
        };
        let (here, there) = (score(&fixture.scored()).unwrap(), score(&mirror.scored()).unwrap());
        assert!((here.ssim - there.ssim).abs() < 1e-12);
        assert!((here.mse - there.mse).abs() < 1e-12);
    }

    #[test]
    fn what_lies_outside_the_mask_counts_nowhere() {
        let mut fixture = fixture();
        let before = score(&fixture.scored()).unwrap();
        for (voxel, &mask) in fixture.prediction.voxels.iter_mut().zip(&fixture.mask.voxels) {
            if mask == 0.0 {
                *voxel = f32::NAN;
            }
        }
        assert_eq!(score(&fixture.scored()).unwrap(), before);
    }

    #[test]
    fn a_perfect_prediction_at_the_border_scores_perfectly() {
        let mut fixture = fixture();
        fixture.prediction = fixture.truth.clone();
        fixture.mask = volume(|x, y, z| f64::from(u8::from(x + y + z < 20.0)));
        let scores = score(&fixture.scored()).unwrap();
        assert!((scores.ssim - 1.0).abs() < 1e-12);
        assert_eq!((scores.mse, scores.psnr_01), (0.0, f64::INFINITY));
    }

    #[test]
    fn volumes_that_cannot_be_scored_are_refused() {
        let fixture = fixture();
        let scored = fixture.scored();
        let none = volume(|_, _, _| 0.0);
        let thin = Volume { dims: [20, 24 * 18 / 4, 4], ..none.clone() };
        assert_eq!(score(&Scored { mask: &none, ..scored }), Err(Error::EmptyMask));
        assert!(matches!(score(&Scored { voided: &none, ..scored }), Err(Error::Window(_))));
        let refused = score(&Scored { mask: &thin, ..scored });
        assert!(matches!(refused, Err(Error::Shape { what: "mask", .. })));
        let all_thin = Scored { prediction: &thin, truth: &thin, voided: &thin, mask: &thin };
        assert_eq!(score(&all_thin), Err(Error::TooThin(thin.dims)));
        let broken = volume(|_, _, _| f64::NAN);
        let refused = score(&Scored { prediction: &broken, ..scored });
        assert_eq!(refused, Err(Error::NotFinite("prediction")));
    }

    #[test]
    fn mean_fill_paints_the_mean_of_the_known_brain() {
        let fixture = fixture();
        let filled = mean_fill(&fixture.truth, &fixture.mask);
        let known: Vec<f32> = (0..filled.voxels.len())
            .filter(|&i| fixture.mask.voxels[i] == 0.0 && fixture.truth.voxels[i] > 0.0)
            .map(|i| fixture.truth.voxels[i])
            .collect();
        let mean = known.iter().map(|&v| f64::from(v)).sum::<f64>() / known.len() as f64;
        for (i, &voxel) in filled.voxels.iter().enumerate() {
            let expected =
                if fixture.mask.voxels[i] == 0.0 { fixture.truth.voxels[i] } else { mean as f32 };
            assert_eq!(voxel, expected);
        }
    }
}
