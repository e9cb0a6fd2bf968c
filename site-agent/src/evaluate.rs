//! How well a model inpaints patients it never saw, beside what trivial methods reach: fixed healthy
//! masks, painted, scored.
//!
//! The masks follow from the seed and the patient alone, so that two models are judged on the same
//! tissue. Nothing here trains and nothing leaves the site by itself.

pub mod report;

use std::ops::ControlFlow;

use burn::tensor::Device;

use crate::baselines::{self, Baseline};
use crate::cohort::{self, Cohort};
use crate::data::example::Region;
use crate::data::inpaint::{self, EvaluationMasks, InpaintJob, Task};
use crate::data::layout::{Case, Contrast};
use crate::data::mask;
use crate::data::nifti::header::FileGeometry;
use crate::data::volume::Volume;
use crate::evaluate::report::{MethodScores, ScanScores};
use crate::metrics::{self, Reference};
use crate::model::sampler;
use crate::model::sampler::options::SampleOptions;
use crate::model::sampler::paint::SampleError;
use crate::model::sampler::prompt::Prompt;
use crate::model::spec::Prediction;
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
    /// The twin is another kind of model.
    #[error(
        "the twin predicts noise or a mixture with noise: give a model that predicts the tissue \
         itself (prediction \"direct\")"
    )]
    NoTwin,
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
#[derive(Clone, Debug)]
pub struct Options {
    /// How it paints.
    pub sampling: SampleOptions,
    /// Names the masks.
    pub mask_seed: u64,
    /// Judges on every patient and not only on those held out.
    pub all: bool,
    /// What the model is compared with.
    pub baselines: Vec<Baseline>,
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
    /// What it is to be looked at beside, by method: the mean fill and the twin, if they were judged.
    pub beside: &'a [(&'static str, Volume)],
}

/// What paints. Without a model there are the baselines alone.
pub struct Painters<'a> {
    /// Where networks run.
    pub device: &'a Device,
    /// The model that is judged.
    pub model: Option<&'a Weights>,
    /// The same network trained to predict the tissue itself, without diffusion: the baseline that
    /// says what diffusion is worth.
    pub twin: Option<&'a Weights>,
}

/// Judges a model and the baselines on the cohort's held-out patients, scan by scan. `painted` sees
/// every result of the model, `progress` hears how many of how many scans are done.
///
/// # Errors
/// [`Error`], the first one.
pub fn evaluate<E: From<Error>>(
    painters: &Painters<'_>,
    cohort: &Cohort,
    options: &Options,
    painted: &mut dyn FnMut(&Painted<'_>) -> Result<(), E>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<ScanScores>, E> {
    if painters.twin.is_some_and(|twin| twin.spec().prediction != Prediction::Direct) {
        return Err(Error::NoTwin.into());
    }
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
            let masks = inpaint::evaluation_masks(image, lesion, &case.patient, options.mask_seed);
            let masks = masks.map_err(named)?;
            let scan = Held { case, contrast, image, first_axis: exam.geometry.first_axis() };
            let Judged { scores: scored, result, beside } =
                judge(painters, &scan, &masks, options)?;
            scores.push(scored);
            if let Some(result) = &result {
                let (masks, geometry, beside) = (&masks, &exam.geometry, &beside[..]);
                painted(&Painted { case, contrast, image, geometry, masks, result, beside })?;
            }
        }
    }
    progress(total, total);
    if scores.is_empty() { Err(Error::from(cohort.none_sound()).into()) } else { Ok(scores) }
}

/// A scan that was painted in every way there is.
struct Judged {
    scores: ScanScores,
    /// What the model painted.
    result: Option<Volume>,
    beside: Vec<(&'static str, Volume)>,
}

/// Paints a scan in every way there is.
fn judge(
    painters: &Painters<'_>,
    scan: &Held<'_>,
    masks: &EvaluationMasks,
    options: &Options,
) -> Result<Judged, Error> {
    let Held { case, contrast, image, first_axis } = *scan;
    let named = |source| Error::Score { case: case.name.clone(), source };
    let voxels = image.voxels.iter().zip(&masks.void.voxels);
    let voided = voxels.map(|(&v, &hidden)| if hidden == 0.0 { v.max(0.0) } else { 0.0 }).collect();
    let voided = image.with_voxels(voided);
    let reference = Reference::new(image, &voided, &masks.healthy).map_err(named)?;
    let reference = reference.across(first_axis);
    let mut methods = Vec::new();
    let mut add = |method, result: &Volume| {
        let scores = metrics::score(&reference, result).map_err(named)?;
        methods.push(MethodScores { method, scores });
        Ok::<(), Error>(())
    };
    let (mut result, mut beside) = (None, Vec::new());
    if let Some(model) = painters.model {
        let painted = paint(model, painters.device, scan, masks, &options.sampling)?;
        add(report::MODEL, &painted)?;
        result = Some(painted);
    }
    for &baseline in &options.baselines {
        let filled = baselines::fill(baseline, &voided, &masks.void);
        add(baseline.name(), &filled)?;
        if baseline == Baseline::Mean {
            beside.push((baseline.name(), filled));
        }
    }
    if let Some(twin) = painters.twin {
        // It has no noise: how to sample means nothing to it.
        let SampleOptions { seed, batch, .. } = options.sampling;
        let once = SampleOptions { seed, batch, ..SampleOptions::default() };
        let painted = paint(twin, painters.device, scan, masks, &once)?;
        add(report::TWIN, &painted)?;
        beside.push((report::TWIN, painted));
    }
    let (case, patient) = (case.name.clone(), case.patient.clone());
    let voxels = reference.voxels();
    let scores = ScanScores { case, patient, contrast, voxels, methods };
    Ok(Judged { scores, result, beside })
}

/// A held-out scan.
struct Held<'a> {
    case: &'a Case,
    contrast: Contrast,
    image: &'a Volume,
    /// The axis along which its file counts first.
    first_axis: usize,
}

/// Paints healthy tissue where the masks hide it. Slices that hide lesion alone stay void: there is
/// no truth to score them by.
fn paint(
    weights: &Weights,
    device: &Device,
    scan: &Held<'_>,
    masks: &EvaluationMasks,
    sampling: &SampleOptions,
) -> Result<Volume, Error> {
    let Held { case, contrast, image, .. } = *scan;
    let named = |source| Error::Inpaint { case: case.name.clone(), source };
    let task = Task {
        contrast: contrast as usize,
        region: Region::Healthy,
        is_lesion_visible: false,
        size: weights.spec().image_size,
    };
    let job = InpaintJob::new(image, &masks.void, &task).map_err(named)?;
    let is_scored = |z: usize| masks.healthy.slice(z).iter().any(|&m| m != 0.0);
    let key = job.key();
    let prompts: Vec<Prompt<'_>> = job
        .slices()
        .iter()
        .zip(job.examples())
        .filter(|(z, _)| is_scored(**z))
        .map(|(&z, example)| Prompt::of(example, key, z as u64))
        .collect();
    let mut go_on = |_, _| ControlFlow::Continue(());
    let mut slices = sampler::sample(weights, device, &prompts, sampling, &mut go_on)?.into_iter();
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
