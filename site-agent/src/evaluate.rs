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
use crate::data::layout::{Case, Contrast, SetAside};
use crate::data::mask;
use crate::data::nifti::header::FileGeometry;
use crate::data::volume::Volume;
use crate::evaluate::report::{MethodScores, NotJudged, ScanScores};
use crate::metrics::{self, Reference};
use crate::model::sampler;
use crate::model::sampler::options::SampleOptions;
use crate::model::sampler::paint::SampleError;
use crate::model::sampler::prompt::Prompt;
use crate::model::spec::Prediction;
use crate::model::weights::Weights;

/// The most reasons that are told where nothing can be judged.
const REASONS_MAX: usize = 3;

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
    /// The scan has nothing to score a result by.
    #[error("case {case}: {source}")]
    Truth {
        /// The case.
        case: String,
        /// Why.
        source: metrics::Error,
    },
    /// None of the scans can be judged.
    #[error("no scan can be judged: {}", reasons.join("; "))]
    NoneJudged {
        /// Why some of them cannot.
        reasons: Vec<String>,
    },
    /// The result cannot be scored.
    #[error("case {case}: {source}")]
    Score {
        /// The case.
        case: String,
        /// Why.
        source: metrics::Error,
    },
}

impl Error {
    /// Why this one scan cannot be judged by whatever model, if it is that.
    fn of_the_scan(&self) -> Option<String> {
        use inpaint::Error as E;
        match self {
            Error::Mask { source, .. } => Some(source.to_string()),
            Error::Truth { source, .. } => Some(source.to_string()),
            Error::Inpaint { source: source @ (E::Scan(_) | E::EmptyMask), .. } => {
                Some(source.to_string())
            }
            _ => None,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The scans that were judged.
    pub scans: Vec<ScanScores>,
    /// What was not.
    pub set_aside: Vec<NotJudged>,
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
/// every result of the model, `progress` hears how many of how many scans are done. A scan that no model
/// could be judged on is set aside.
///
/// # Errors
/// [`Error`], the first one that is not about a single scan, or if there is no other.
pub fn evaluate<E: From<Error>>(
    painters: &Painters<'_>,
    cohort: &Cohort,
    options: &Options,
    painted: &mut dyn FnMut(&Painted<'_>) -> Result<(), E>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Found, E> {
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
    let (mut scores, mut set_aside, mut done) = (Vec::with_capacity(total), Vec::new(), 0);
    for &(_, case) in &cases {
        progress(done, total);
        done += case.scans.len();
        // A bad case is set aside in the cohort.
        let Some(exam) = cohort.read(case) else { continue };
        let lesion = exam.lesion.as_deref();
        for (&contrast, image) in &exam.images {
            let named = |source| Error::Mask { case: case.name.clone(), source };
            let masks = inpaint::evaluation_masks(image, lesion, &case.patient, options.mask_seed);
            let scan = Held { case, contrast, image, first_axis: exam.geometry.first_axis() };
            let judged = masks
                .map_err(named)
                .and_then(|masks| Ok((judge(painters, &scan, &masks, options)?, masks)));
            let (Judged { scores: scored, result, beside }, masks) = match judged {
                Ok(judged) => judged,
                Err(error) => {
                    let Some(reason) = error.of_the_scan() else { return Err(error.into()) };
                    // A log may be sent to others, and a case's name may be a patient's.
                    let scan = contrast.name();
                    tracing::warn!(scan, "a scan is set aside: the report says which, and why");
                    let (case, contrast) = (case.name.clone(), Some(contrast));
                    set_aside.push(NotJudged { case, contrast, reason });
                    continue;
                }
            };
            scores.push(scored);
            if let Some(result) = &result {
                let (masks, geometry, beside) = (&masks, &exam.geometry, &beside[..]);
                painted(&Painted { case, contrast, image, geometry, masks, result, beside })?;
            }
        }
    }
    progress(total, total);
    let whole = cohort.set_aside().into_iter().map(|SetAside { case, problem }| NotJudged {
        case,
        contrast: None,
        reason: problem.to_string(),
    });
    set_aside.extend(whole);
    set_aside.sort_by(|a, b| (&a.case, a.contrast).cmp(&(&b.case, b.contrast)));
    if scores.is_empty() {
        let reason = |aside: &NotJudged| format!("{}: {}", aside.case, aside.reason);
        let reasons = set_aside.iter().take(REASONS_MAX).map(reason).collect();
        return Err(Error::NoneJudged { reasons }.into());
    }
    Ok(Found { scans: scores, set_aside })
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
    let truth = |source| Error::Truth { case: case.name.clone(), source };
    let reference = Reference::new(image, &voided, &masks.healthy).map_err(truth)?;
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
