//! Painting with whatever predicts: prompts into batches, batches down the sampler's steps, samples
//! out in order. It knows no tensor library.

use std::error::Error;
use std::ops::ControlFlow;

use super::super::batch::Batch;
use super::super::device::room::TooLarge;
use super::super::diffusion::{Diffusion, VOID, push_context};
use super::super::precision::Unsupported;
use super::super::spec::{ModelSpec, Prediction};
use super::ddim::ddim;
use super::ddpm::ddpm;
use super::dpm_solver::dpm_solver;
use super::draws::Draws;
use super::guidance::guided;
use super::options::{OptionError, SampleOptions, Sampler};
use super::prompt::{self, Prompt, SizeError};
use super::repaint;
use super::steps;
use super::walk::{Ground, Predicted};
use crate::data::example::REGIONS;

/// Why nothing was painted.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The model cannot paint so.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A prompt is no slice of the model's.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The device failed.
    #[error("the device failed while painting: {0}")]
    Device(#[source] Box<dyn Error + Send + Sync>),
    /// The device has no such number type.
    #[error(transparent)]
    Precision(#[from] Unsupported),
    /// The model is too large for the device; nothing was allocated for it.
    #[error("painting does not fit the device: {0}")]
    Memory(#[from] TooLarge),
    /// The network gave something else than numbers.
    #[error("the network's prediction is not finite at step {timestep}, the model is unusable")]
    NotFinite {
        /// The diffusion step.
        timestep: usize,
    },
    /// The caller stopped it.
    #[error("painting was stopped")]
    Stopped,
}

/// Hears how many of how many network calls are done, and may stop the painting.
pub type Progress<'a> = dyn FnMut(usize, usize) -> ControlFlow<()> + 'a;

/// What the network gives for a batch. `[batch, 1 or 2, size, size]`
pub type Network<'a> = dyn FnMut(Batch) -> Result<Vec<f32>, SampleError> + 'a;

/// Paints every prompt `options.samples` times. `sink` gets each sample, counted from 0, as one
/// `[size * size]` slice in [-1, 1] per prompt, in order and as soon as it is there; a slice equals its
/// prompt's image outside its mask.
///
/// # Errors
/// [`SampleError`] if an option or a prompt is wrong, the network fails, or `progress` stops it; whatever
/// `sink` fails with.
pub fn paint<E: From<SampleError>>(
    spec: &ModelSpec,
    prompts: &[Prompt<'_>],
    options: &SampleOptions,
    network: &mut Network<'_>,
    progress: &mut Progress<'_>,
    sink: &mut dyn FnMut(usize, Vec<Vec<f32>>) -> Result<(), E>,
) -> Result<(), E> {
    let area = spec.image_size * spec.image_size;
    options.check(spec).map_err(SampleError::from)?;
    prompt::check(prompts, area).map_err(SampleError::from)?;
    let diffusion = Diffusion::new(spec);
    let course = Course::of(spec, &diffusion, options).map_err(SampleError::from)?;
    let jobs: Vec<Job> = (0..options.samples)
        .flat_map(|sample| (0..prompts.len()).map(move |prompt| Job { prompt, sample }))
        .collect();
    let total = jobs.len().div_ceil(options.batch) * course.calls();
    let (mut done, mut ready, mut samples) = (0, Vec::new(), 0);
    for jobs in jobs.chunks(options.batch) {
        let flock = Flock { spec, prompts, jobs, options };
        let mut call = |batch, timestep| {
            if progress(done, total).is_break() {
                return Err(SampleError::Stopped);
            }
            done += 1;
            let predicted = network(batch)?;
            let rows = jobs.len() * (1 + usize::from(options.is_guided()));
            let expected = rows * spec.out_channels() * area;
            let sound = predicted.len() == expected && predicted.iter().all(|v| v.is_finite());
            if sound { Ok(predicted) } else { Err(SampleError::NotFinite { timestep }) }
        };
        let painted = flock.paint(&diffusion, &course, &mut call)?;
        ready.extend(painted.chunks(area).zip(jobs).map(|(painted, job)| {
            let prompt = &prompts[job.prompt];
            let pixels = painted.iter().zip(prompt.image).zip(prompt.mask);
            pixels.map(|((&new, &x), &m)| if m < 0.5 { x } else { new }).collect::<Vec<f32>>()
        }));
        while ready.len() >= prompts.len() {
            sink(samples, ready.drain(..prompts.len()).collect())?;
            samples += 1;
        }
    }
    Ok(())
}

/// One sample of one prompt.
#[derive(Clone, Copy, Debug)]
struct Job {
    prompt: usize,
    sample: usize,
}

/// Which way is gone, over which steps.
enum Course {
    /// One call: the model knows no noise.
    Direct,
    Ddpm(Vec<usize>),
    Ddim(Vec<usize>),
    DpmSolver(Vec<usize>),
    /// The steps, and the levels as they are visited.
    Repaint(Vec<usize>, Vec<usize>),
}

impl Course {
    fn of(
        spec: &ModelSpec,
        diffusion: &Diffusion,
        options: &SampleOptions,
    ) -> Result<Course, OptionError> {
        if spec.prediction == Prediction::Direct {
            return Ok(Course::Direct);
        }
        let steps = steps::timesteps(diffusion, options)?;
        Ok(match options.sampler {
            Sampler::Ddpm => Course::Ddpm(steps),
            Sampler::Ddim => Course::Ddim(steps),
            Sampler::DpmSolver => Course::DpmSolver(steps),
            Sampler::Repaint => {
                let course = repaint::course(steps.len(), options.jumps);
                Course::Repaint(steps, course)
            }
        })
    }

    /// Calls of the network.
    fn calls(&self) -> usize {
        match self {
            Course::Direct => 1,
            Course::Ddpm(steps) | Course::Ddim(steps) | Course::DpmSolver(steps) => steps.len(),
            Course::Repaint(_, course) => repaint::calls(course),
        }
    }
}

/// The jobs that are painted together.
#[derive(Clone, Copy)]
struct Flock<'a> {
    spec: &'a ModelSpec,
    prompts: &'a [Prompt<'a>],
    jobs: &'a [Job],
    options: &'a SampleOptions,
}

impl Flock<'_> {
    /// All of them from noise to images. `[batch * size * size]`
    fn paint(
        &self,
        diffusion: &Diffusion,
        course: &Course,
        call: &mut dyn FnMut(Batch, usize) -> Result<Vec<f32>, SampleError>,
    ) -> Result<Vec<f32>, SampleError> {
        let (image, mask) = (self.gather(|p| p.image), self.gather(|p| p.mask));
        let ground = Ground { diffusion, image: &image, mask: &mask };
        let mut predict = |x: &[f32], t| Ok(self.split(&call(self.batch(x, t), t)?, &mask));
        let area = self.spec.image_size * self.spec.image_size;
        let &SampleOptions { seed, noise_share, eta, .. } = self.options;
        let draws = |job: &Job| {
            let Prompt { scan, slice, .. } = &self.prompts[job.prompt];
            Draws::new(seed, scan, *slice, job.sample, noise_share)
        };
        let mut draws: Vec<Draws> = self.jobs.iter().map(draws).collect();
        let mut noise = || draws.iter_mut().flat_map(|draws| draws.draw(area)).collect();
        match course {
            Course::Direct => {
                let voided = image.iter().zip(&mask).map(|(&x, &m)| if m < 0.5 { x } else { VOID });
                let voided: Vec<f32> = voided.collect();
                Ok(predict(&voided, 0)?.head.into_iter().map(|x| x.clamp(-1.0, 1.0)).collect())
            }
            Course::Ddpm(steps) => ddpm(ground, steps, noise(), &mut predict, &mut noise),
            Course::Ddim(steps) => ddim(ground, steps, eta, noise(), &mut predict, &mut noise),
            Course::DpmSolver(steps) => dpm_solver(ground, steps, noise(), &mut predict),
            Course::Repaint(steps, course) => {
                repaint::repaint(ground, steps, course, noise(), &mut predict, &mut noise)
            }
        }
    }

    fn gather<'b>(&'b self, plane: impl Fn(&'b Prompt<'b>) -> &'b [f32]) -> Vec<f32> {
        self.jobs.iter().flat_map(|job| plane(&self.prompts[job.prompt])).copied().collect()
    }

    /// What the network reads at step `t`; where it is guided, everything a second time with neither
    /// condition nor regions.
    fn batch(&self, x_t: &[f32], t: usize) -> Batch {
        let count = self.jobs.len();
        let area = x_t.len() / count;
        let mut batch = Batch::default();
        let passes: &[bool] = if self.options.is_guided() { &[false, true] } else { &[false] };
        for &is_null in passes {
            for (job, x_t) in self.jobs.iter().zip(x_t.chunks(area)) {
                let prompt = &self.prompts[job.prompt];
                batch.planes.extend(x_t);
                push_context(&mut batch, prompt.image, prompt.mask, prompt.regions);
                if is_null {
                    let regions = batch.planes.len() - REGIONS * area;
                    batch.planes[regions..].fill(0.0);
                }
                batch.conditions.extend(prompt.condition);
                batch.timesteps.push(t);
                if self.options.is_guided() {
                    batch.unconditional.push(is_null);
                }
            }
        }
        batch
    }

    /// What the network has given, by channel, guided where it is to be.
    fn split(&self, predicted: &[f32], mask: &[f32]) -> Predicted {
        let area = self.spec.image_size * self.spec.image_size;
        let channel = |rows: &[f32], channel: usize| -> Vec<f32> {
            let rows = rows.chunks(self.spec.out_channels() * area);
            rows.flat_map(|row| row[channel * area..][..area].iter().copied()).collect()
        };
        let (with, without) = predicted.split_at(self.jobs.len() * self.spec.out_channels() * area);
        let &SampleOptions { guidance, rescale, .. } = self.options;
        let head = channel(with, 0);
        let head = match without {
            [] => head,
            _ => guided(&head, &channel(without, 0), mask, area, guidance, rescale),
        };
        let range = if self.spec.learn_sigma { channel(with, 1) } else { Vec::new() };
        Predicted { head, range }
    }
}
