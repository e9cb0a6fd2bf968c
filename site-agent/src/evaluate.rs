//! How well a model inpaints patients it never saw: fixed healthy masks, sampled, scored.
//!
//! The masks follow from the seed and the patient alone, so that two models are judged on the same
//! tissue. Nothing here trains and nothing leaves the site by itself.

use std::ops::ControlFlow;

use burn::tensor::Device;
use serde::Serialize;

use crate::cohort::{self, Cohort};
use crate::data::example::Region;
use crate::data::inpaint::{self, EvaluationMasks, InpaintJob, Task};
use crate::data::layout::{Case, Contrast};
use crate::data::mask;
use crate::data::nifti::header::FileGeometry;
use crate::data::volume::Volume;
use crate::metrics::{self, Scored, Scores};
use crate::model::sampler;
use crate::model::sampler::options::SampleOptions;
use crate::model::sampler::paint::SampleError;
use crate::model::sampler::prompt::Prompt;
use crate::model::weights::Weights;

/// Why a model cannot be judged. Texts name files and cases of the site.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nobody to judge it on.
    #[error("no patient is held out: raise --held-out, or judge on --all patients")]
    NobodyHeldOut,
    /// A scan does not read.
    #[error(transparent)]
    Cohort(#[from] cohort::Error),
    /// No mask fits.
    #[error("case {case}: {source}")]
    Mask {
        /// The case.
        case: String,
        /// Why.
        source: mask::Error,
    },
    /// A scan cannot be inpainted.
    #[error("case {case}: {source}")]
    Inpaint {
        /// The case.
        case: String,
        /// Why.
        source: inpaint::Error,
    },
    /// The model does not paint.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The result cannot be scored.
    #[error("case {case}: {source}")]
    Score {
        /// The case.
        case: String,
        /// Why.
        source: metrics::Error,
    },
}

/// Whom a model is judged on, and how it paints.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How it paints. The seed names the masks too.
    pub sampling: SampleOptions,
    /// Judges on every patient and not only on those held out.
    pub all: bool,
}

/// One scan as it was painted.
pub struct Painted<'a> {
    /// The case.
    pub case: &'a Case,
    /// Which of its scans.
    pub contrast: Contrast,
    /// The scan.
    pub image: &'a Volume,
    /// Its file's grid.
    pub geometry: &'a FileGeometry,
    /// What was hidden and what is scored.
    pub masks: &'a EvaluationMasks,
    /// The inpainted scan.
    pub result: &'a Volume,
}

/// The scores of one scan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseScores {
    /// The case.
    pub case: String,
    /// Which of its scans.
    pub contrast: Contrast,
    /// Voxels scored.
    pub voxels: u64,
    /// Structural similarity, at most 1.
    pub ssim: f64,
    /// Peak signal-to-noise ratio over a range of 1, in dB.
    pub psnr_db: f64,
    /// Mean squared error of intensities in [0, 1].
    pub mse: f64,
    /// The mean squared error of painting the mean of the brain around, for comparison.
    pub mse_mean_fill: f64,
}

/// The mean over scans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MeanScores {
    /// Scans.
    pub scans: usize,
    /// Mean structural similarity.
    pub ssim: f64,
    /// Mean of the peak signal-to-noise ratios, in dB.
    pub psnr_db: f64,
    /// Mean of the mean squared errors.
    pub mse: f64,
    /// Mean of the mean squared errors of the mean fill.
    pub mse_mean_fill: f64,
}

impl MeanScores {
    /// The mean of some scores; zeros where there are none.
    pub fn of(scores: &[CaseScores]) -> MeanScores {
        let mean = |value: fn(&CaseScores) -> f64| {
            scores.iter().map(value).sum::<f64>() / scores.len().max(1) as f64
        };
        MeanScores {
            scans: scores.len(),
            ssim: mean(|s| s.ssim),
            psnr_db: mean(|s| s.psnr_db),
            mse: mean(|s| s.mse),
            mse_mean_fill: mean(|s| s.mse_mean_fill),
        }
    }
}

/// Judges a model on the cohort's held-out patients, scan by scan. `painted` sees every result,
/// `progress` hears how many of how many scans are done.
///
/// # Errors
/// [`Error`], the first one.
pub fn evaluate<E: From<Error>>(
    weights: &Weights,
    device: &Device,
    cohort: &Cohort,
    options: &Options,
    painted: &mut dyn FnMut(&Painted<'_>) -> Result<(), E>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<CaseScores>, E> {
    let mut cases: Vec<_> = cohort.usable(true).collect();
    if options.all {
        cases.extend(cohort.usable(false));
        cases.sort_by_key(|&(index, _)| index);
    }
    if cases.is_empty() {
        return Err(Error::NobodyHeldOut.into());
    }
    let total = cases.iter().map(|(_, case)| case.scans.len()).sum();
    let (mut scores, mut done) = (Vec::with_capacity(total), 0);
    for &(_, case) in &cases {
        progress(done, total);
        done += case.scans.len();
        // A bad case is set aside and says so in the log.
        let Some(exam) = cohort.read(case) else { continue };
        let lesion = exam.lesion.as_deref();
        for (&contrast, image) in &exam.images {
            let named = |source| Error::Mask { case: case.name.clone(), source };
            let masks =
                inpaint::evaluation_masks(image, lesion, &case.patient, options.sampling.seed);
            let masks = masks.map_err(named)?;
            let scan = Held { case, contrast, image };
            let result = paint(weights, device, &scan, &masks, options)?;
            scores.push(score(&scan, &masks, &result)?);
            let (masks, result, geometry) = (&masks, &result, &exam.geometry);
            painted(&Painted { case, contrast, image, geometry, masks, result })?;
        }
    }
    progress(total, total);
    if scores.is_empty() { Err(Error::from(cohort.none_sound()).into()) } else { Ok(scores) }
}

/// A held-out scan.
struct Held<'a> {
    case: &'a Case,
    contrast: Contrast,
    image: &'a Volume,
}

/// Paints healthy tissue where the masks hide it. Slices that hide lesion alone stay void: there is
/// no truth to score them by.
fn paint(
    weights: &Weights,
    device: &Device,
    scan: &Held<'_>,
    masks: &EvaluationMasks,
    options: &Options,
) -> Result<Volume, Error> {
    let Held { case, contrast, image } = *scan;
    let named = |source| Error::Inpaint { case: case.name.clone(), source };
    let task = Task {
        contrast: contrast as usize,
        region: Region::Healthy,
        is_lesion_visible: false,
        size: weights.spec().image_size,
    };
    let job = InpaintJob::new(image, &masks.void, &task).map_err(named)?;
    let is_scored = |z: usize| masks.healthy.slice(z).iter().any(|&m| m != 0.0);
    let prompts: Vec<Prompt<'_>> = job
        .slices()
        .iter()
        .zip(job.examples())
        .filter(|(z, _)| is_scored(**z))
        .map(|(&z, example)| Prompt::of(example, z as u64))
        .collect();
    let mut go_on = |_, _| ControlFlow::Continue(());
    let mut slices =
        sampler::sample(weights, device, &prompts, &options.sampling, &mut go_on)?.into_iter();
    let predictions: Vec<Vec<f32>> = job
        .slices()
        .iter()
        .zip(job.examples())
        .map(|(&z, example)| {
            let sampled = if is_scored(z) { slices.next() } else { None };
            sampled.unwrap_or_else(|| example.image.clone())
        })
        .collect();
    job.paste(&predictions).map_err(named)
}

fn score(scan: &Held<'_>, masks: &EvaluationMasks, result: &Volume) -> Result<CaseScores, Error> {
    let Held { case, contrast, image } = *scan;
    let voxels = image.voxels.iter().zip(&masks.void.voxels);
    let voided = voxels.map(|(&v, &hidden)| if hidden == 0.0 { v.max(0.0) } else { 0.0 }).collect();
    let voided = image.with_voxels(voided);
    let score = |prediction: &Volume| {
        let (truth, mask) = (image, &masks.healthy);
        metrics::score(&Scored { prediction, truth, voided: &voided, mask })
            .map_err(|source| Error::Score { case: case.name.clone(), source })
    };
    let Scores { voxels, ssim, mse, psnr_01, .. } = score(result)?;
    let mean_fill = score(&metrics::mean_fill(&voided, &masks.healthy))?;
    Ok(CaseScores {
        case: case.name.clone(),
        contrast,
        voxels,
        ssim,
        psnr_db: psnr_01,
        mse,
        mse_mean_fill: mean_fill.mse,
    })
}
