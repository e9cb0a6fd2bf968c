//! How good an inpainted scan is, inside the mask, exactly as the BraTS inpainting challenge scores
//! (package `inpainting` 0.0.12 on torchmetrics 1.9), so that numbers can stand beside published ones.
//!
//! Intensities are scaled to [0, 1] by percentiles of the voided scan first, for every metric. It
//! never looks at a voxel outside the mask, whatever it holds; files with a voxel anywhere that is not a
//! finite number are refused where they are read.

pub mod spread;
mod ssim;

use serde::{Deserialize, Serialize};

use crate::data::normalise::{self, Window};
use crate::data::volume::Volume;
use crate::metrics::ssim::{Pair, REACH};

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
    #[error("the volume is {0:?} voxels: SSIM needs more than {REACH} along each axis")]
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

/// One value for each metric: a score, a column of scores, a spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PerMetric<T> {
    /// Structural similarity in 2-D windows over the second and the third axis of the file, (y, z) in
    /// one of BraTS, the package's; 1 is perfect.
    pub ssim: T,
    /// Structural similarity in 3-D windows, as the challenge's evaluation of 2023 fed it, but scaled
    /// as every metric here is, so that it can stand beside [`PerMetric::ssim`].
    pub ssim_3d: T,
    /// Mean squared error.
    pub mse: T,
    /// Its root.
    pub rmse: T,
    /// Mean absolute error.
    pub mae: T,
    /// Mean squared error of ln(1 + intensity).
    pub msle: T,
    /// Peak signal-to-noise ratio in dB over the truth's own range in the mask, the prediction
    /// clamped into it. Infinite if nothing differs, not a number if the truth is constant too; both
    /// are null in JSON.
    pub psnr: T,
    /// Peak signal-to-noise ratio in dB over a range of 1: the one published. Infinite if perfect,
    /// null in JSON.
    pub psnr_01: T,
}

/// The scores of one prediction.
pub type Scores = PerMetric<f64>;

impl<T> PerMetric<T> {
    /// The same for every metric: `value` is given the means of getting a metric out of a score.
    pub fn each(mut value: impl FnMut(fn(&Scores) -> f64) -> T) -> PerMetric<T> {
        PerMetric {
            ssim: value(|s| s.ssim),
            ssim_3d: value(|s| s.ssim_3d),
            mse: value(|s| s.mse),
            rmse: value(|s| s.rmse),
            mae: value(|s| s.mae),
            msle: value(|s| s.msle),
            psnr: value(|s| s.psnr),
            psnr_01: value(|s| s.psnr_01),
        }
    }
}

/// What predictions are compared with, looked at once for all of them.
pub struct Reference<'a> {
    truth: &'a Volume,
    window: Window,
    /// The axis of the volumes that 2-D windows leave out.
    across: usize,
    /// The voxels that are scored, ascending.
    inside: Vec<usize>,
    /// The truth there, scaled.
    truths: Vec<f64>,
}

impl<'a> Reference<'a> {
    /// `truth` is the scan as it was; `voided` is the scan without all that was hidden (healthy part
    /// and lesion) and sets the scale; `mask` is not 0 where to score: the healthy part only, for a
    /// lesion has no truth.
    ///
    /// # Errors
    /// [`Error`] if the volumes do not fit together, are not finite, too thin or flat, or nothing is
    /// to be scored.
    pub fn new(truth: &'a Volume, voided: &Volume, mask: &Volume) -> Result<Reference<'a>, Error> {
        for (what, volume) in [("truth", truth), ("voided scan", voided), ("mask", mask)] {
            check_shape(what, volume, truth.dims)?;
        }
        if truth.dims.iter().any(|&n| n <= REACH) {
            return Err(Error::TooThin(truth.dims));
        }
        let inside: Vec<usize> =
            (0..mask.voxels.len()).filter(|&i| mask.voxels[i] != 0.0).collect();
        if inside.is_empty() {
            return Err(Error::EmptyMask);
        }
        let window = Window::of(voided.voxels.iter().copied())?;
        let truths = scaled("truth", truth, &inside, window)?;
        Ok(Reference { truth, window, across: 0, inside, truths })
    }

    /// The same where 2-D windows leave out `axis` of the volumes (0 x, 1 y, 2 z) and not x: the
    /// package leaves out the first axis of a file, whichever way that runs.
    pub fn across(self, axis: usize) -> Reference<'a> {
        Reference { across: axis.min(2), ..self }
    }

    /// How many voxels are scored.
    pub fn voxels(&self) -> u64 {
        self.inside.len() as u64
    }
}

/// Scores a prediction.
///
/// # Errors
/// [`Error::Shape`] and [`Error::NotFinite`] if it is none.
pub fn score(reference: &Reference<'_>, prediction: &Volume) -> Result<Scores, Error> {
    let Reference { truth, window, across, inside, truths } = reference;
    check_shape("prediction", prediction, truth.dims)?;
    let predictions = scaled("prediction", prediction, inside, *window)?;
    let mean = |error: &dyn Fn(f64, f64) -> f64| {
        let pairs = predictions.iter().zip(truths);
        pairs.map(|(&p, &g)| error(p, g)).sum::<f64>() / inside.len() as f64
    };
    let mse = mean(&|p, g| (p - g).powi(2));
    let (low, high) = range(truths.iter().copied());
    let clamped_mse = mean(&|p, g| (p.clamp(low, high) - g).powi(2));
    let pair = Pair::new(truth.dims, inside, [&predictions, truths], *across);
    let [ssim, ssim_3d] = ssim::ssim(&pair, data_range(&predictions, truths, truth.voxels.len()));
    Ok(Scores {
        ssim,
        ssim_3d,
        mse,
        rmse: mse.sqrt(),
        mae: mean(&|p, g| (p - g).abs()),
        msle: mean(&|p, g| (p.ln_1p() - g.ln_1p()).powi(2)),
        psnr: 10.0 * ((high - low).powi(2) / clamped_mse).log10(),
        psnr_01: -10.0 * mse.log10(),
    })
}

fn check_shape(what: &'static str, volume: &Volume, expected: [usize; 3]) -> Result<(), Error> {
    let is_whole = volume.voxels.len() == volume.dims.iter().product::<usize>();
    if volume.dims == expected && is_whole {
        return Ok(());
    }
    Err(Error::Shape { what, expected, found: volume.dims })
}

fn scaled(
    what: &'static str,
    volume: &Volume,
    inside: &[usize],
    window: Window,
) -> Result<Vec<f64>, Error> {
    if !inside.iter().all(|&i| volume.voxels[i].is_finite()) {
        return Err(Error::NotFinite(what));
    }
    Ok(inside.iter().map(|&i| window.to_unit(volume.voxels[i])).collect())
}

/// The smallest and the largest value.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)))
}

/// The wider of the ranges of two volumes of `voxels` voxels that are 0 outside the mask, unless the
/// mask is the whole volume.
fn data_range(predictions: &[f64], truths: &[f64], voxels: usize) -> f64 {
    let spread = |values: &[f64]| {
        let outside = (values.len() < voxels).then_some(0.0);
        let (low, high) = range(values.iter().copied().chain(outside));
        high - low
    };
    spread(predictions).max(spread(truths))
}

#[cfg(test)]
mod tests;
