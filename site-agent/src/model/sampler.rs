//! Painting: DDIM from noise to a slice, with the known region held fast.
//!
//! It always runs on the plain device, never on the autodiff device, whose graph would grow with
//! every call that is not followed by a backward pass. A slice's noise is a function of the seed
//! and the slice's own key, whatever else is painted in the same batch.

use std::ops::ControlFlow;

use burn::tensor::{Device, ExecutionError};

use super::batch::Batch;
use super::diffusion::schedule::spaced;
use super::diffusion::{Diffusion, push_context};
use super::noise;
use super::spec::{CONDITION_LEN, NoiseRegion};
use super::tape::Tape;
use super::unet::Unet;
use super::weights::Weights;
use crate::data::example::{Example, REGIONS};

/// The most samples that are averaged.
pub const MAX_SAMPLES: usize = 64;
/// The most slices that are painted at once.
pub const MAX_BATCH: usize = 256;

/// What to paint.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// The slice in [-1, 1]; what lies under the mask is not read. `[size * size]`
    pub image: &'a [f32],
    /// 1 where to paint. `[size * size]`
    pub mask: &'a [f32],
    /// What to paint where. `[REGIONS * size * size]`
    pub regions: &'a [f32],
    /// The condition vector y.
    pub condition: [f32; CONDITION_LEN],
    /// Names the slice's noise; two slices of one volume have two keys.
    pub key: u64,
}

/// How to paint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleOptions {
    /// Network calls per sample.
    pub steps: usize,
    /// Samples per slice; their mean is the result.
    pub samples: usize,
    /// Names the noise.
    pub seed: u64,
    /// Slices per network call.
    pub batch: usize,
}

/// Why nothing was painted.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// An option is out of range.
    #[error("{name} is {value}, it must be 1 to {max}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        value: usize,
        /// Its largest value.
        max: usize,
    },
    /// A plane has another number of pixels than the model's slices.
    #[error("slice {index}: its {plane} has {found} pixels, the model's slices have {expected}")]
    Size {
        /// Which prompt.
        index: usize,
        /// Which plane.
        plane: &'static str,
        /// Its pixels.
        found: usize,
        /// The pixels it must have.
        expected: usize,
    },
    /// The device failed.
    #[error("the device failed while painting: {0}")]
    Device(#[from] ExecutionError),
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

impl<'a> Prompt<'a> {
    /// The prompt that an example poses: its truth is not read.
    pub fn of(example: &'a Example, key: u64) -> Prompt<'a> {
        let Example { image, mask, regions, condition, .. } = example;
        Prompt { image, mask, regions, condition: *condition, key }
    }
}

/// Paints every prompt: the result equals the prompt's image outside its mask.
/// One `[size * size]` slice in [-1, 1] per prompt, in order.
///
/// `progress` hears how many of how many network calls are done and may stop the painting.
///
/// # Errors
/// [`SampleError`] if an option or a prompt is wrong, the device fails, or `progress` stops it.
pub fn sample(
    weights: &Weights,
    device: &Device,
    prompts: &[Prompt<'_>],
    options: &SampleOptions,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Vec<f32>>, SampleError> {
    let spec = weights.spec();
    check(prompts, options, spec.image_size, spec.timesteps)?;
    let device = device.clone().inner();
    let net = Unet::new(weights, &device);
    let diffusion = Diffusion::new(spec);
    let mut timesteps = spaced(options.steps, spec.timesteps);
    timesteps.reverse();
    let jobs: Vec<(usize, usize)> =
        (0..options.samples).flat_map(|k| (0..prompts.len()).map(move |i| (i, k))).collect();
    let total = jobs.len().div_ceil(options.batch) * timesteps.len();
    let mut done = 0;
    let mut sums: Vec<Vec<f64>> = prompts.iter().map(|p| vec![0.0; p.image.len()]).collect();
    for jobs in jobs.chunks(options.batch) {
        let gather = |plane: fn(&Prompt<'_>) -> Vec<f32>| -> Vec<f32> {
            jobs.iter().flat_map(|&(i, _)| plane(&prompts[i])).collect()
        };
        let known = Known {
            image: &gather(|prompt| prompt.image.to_vec()),
            mask: &gather(|prompt| prompt.mask.to_vec()),
        };
        let start = jobs.iter().flat_map(|&(i, k)| start(&prompts[i], options.seed, k)).collect();
        let painted = ddim(&diffusion, &timesteps, known, start, |x_t, t| {
            if progress(done, total).is_break() {
                return Err(SampleError::Stopped);
            }
            done += 1;
            let batch = batch_of(prompts, jobs, x_t, t);
            let predicted = net.predict(batch, spec, &device, &mut Tape::off()).narrow(1, 0, 1);
            let predicted = predicted.try_into_data()?;
            let predicted: Vec<f32> = predicted.convert::<f32>().try_into_vec().unwrap_or_default();
            let sound = predicted.len() == x_t.len() && predicted.iter().all(|v| v.is_finite());
            if sound { Ok(predicted) } else { Err(SampleError::NotFinite { timestep: t }) }
        })?;
        let area = spec.image_size * spec.image_size;
        for (&(i, _), painted) in jobs.iter().zip(painted.chunks(area)) {
            sums[i].iter_mut().zip(painted).for_each(|(sum, &x)| *sum += f64::from(x));
        }
    }
    let mean = |(prompt, sum): (&Prompt<'_>, Vec<f64>)| {
        let pixels = prompt.image.iter().zip(prompt.mask).zip(sum);
        // A mean over equal values may differ from them in the last bit; the known region may not.
        let mean = |sum: f64| (sum / options.samples as f64) as f32;
        pixels.map(|((&x, &m), sum)| if m < 0.5 { x } else { mean(sum) }).collect()
    };
    Ok(prompts.iter().zip(sums).map(mean).collect())
}

/// What is known of the images while they are painted: both planes of every slice in a row.
#[derive(Clone, Copy, Debug)]
struct Known<'a> {
    image: &'a [f32],
    mask: &'a [f32],
}

/// DDIM with eta = 0 (Song et al. 2021, arXiv 2010.02502, eq. 12) over descending `timesteps`.
///
/// Each step predicts x_0, clips it to [-1, 1], puts the known region in, derives the noise again
/// from what is left, and mixes the two for the next step; the last step leaves x_0.
fn ddim<E>(
    diffusion: &Diffusion,
    timesteps: &[usize],
    known: Known<'_>,
    mut x: Vec<f32>,
    mut predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
) -> Result<Vec<f32>, E> {
    let masked = diffusion.region() == NoiseRegion::Masked;
    let hold = |x: &mut [f32]| {
        for ((x, &known), &mask) in x.iter_mut().zip(known.image).zip(known.mask) {
            *x = if mask < 0.5 { known } else { *x };
        }
    };
    if masked {
        hold(&mut x);
    }
    for (i, &t) in timesteps.iter().enumerate() {
        let predicted = predict(&x, t)?;
        let next = timesteps.get(i + 1).map_or((1.0, 0.0), |&next| diffusion.mix(next));
        let pixels = predicted.iter().zip(known.image).zip(known.mask);
        for (x, ((&predicted, &known), &mask)) in x.iter_mut().zip(pixels) {
            let x_t = f64::from(*x);
            let free = diffusion.sample(x_t, predicted.into(), t).clamp(-1.0, 1.0);
            let sample = if mask < 0.5 { f64::from(known) } else { free };
            let noise = diffusion.noise(x_t, sample, t);
            *x = (next.0 * sample + next.1 * noise) as f32;
        }
        if masked {
            hold(&mut x);
        }
    }
    Ok(x)
}

/// The noise that sample `k` of a prompt starts from.
fn start(prompt: &Prompt<'_>, seed: u64, k: usize) -> Vec<f32> {
    let words = [seed, prompt.key, k as u64].map(u64::to_le_bytes);
    let inputs = words.each_ref().map(<[u8; 8]>::as_slice);
    noise::normal(&mut noise::stream("fedpaint sample v1", &inputs), prompt.image.len())
}

/// What the network reads for these jobs at step `t`.
fn batch_of(prompts: &[Prompt<'_>], jobs: &[(usize, usize)], x_t: &[f32], t: usize) -> Batch {
    let mut batch = Batch { timesteps: vec![t; jobs.len()], ..Batch::default() };
    for (&(i, _), x_t) in jobs.iter().zip(x_t.chunks(x_t.len() / jobs.len())) {
        let prompt = &prompts[i];
        batch.planes.extend(x_t);
        push_context(&mut batch, prompt.image, prompt.mask, prompt.regions);
        batch.conditions.extend(prompt.condition);
    }
    batch
}

/// Whether options and prompts fit the model.
fn check(
    prompts: &[Prompt<'_>],
    options: &SampleOptions,
    size: usize,
    timesteps: usize,
) -> Result<(), SampleError> {
    for (name, value, max) in [
        ("steps", options.steps, timesteps),
        ("samples", options.samples, MAX_SAMPLES),
        ("batch", options.batch, MAX_BATCH),
    ] {
        if !(1..=max).contains(&value) {
            return Err(SampleError::Option { name, value, max });
        }
    }
    let area = size * size;
    for (index, prompt) in prompts.iter().enumerate() {
        for (plane, found, expected) in [
            ("image", prompt.image.len(), area),
            ("mask", prompt.mask.len(), area),
            ("regions", prompt.regions.len(), REGIONS * area),
        ] {
            if found != expected {
                return Err(SampleError::Size { index, plane, found, expected });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::spec::{ModelSpec, Prediction, Preset, Schedule};
    use super::*;

    fn spec(schedule: Schedule, prediction: Prediction, region: NoiseRegion) -> ModelSpec {
        let preset = ModelSpec::preset(Preset::Tiny);
        ModelSpec { schedule, prediction, noise_region: region, ..preset }
    }

    #[test]
    fn ddim_on_a_gaussian_ends_where_the_reference_ends() {
        // Data N(0.5, 0.04), linear schedule: E[x_0 | x_t] is known, so no network is needed.
        let spec = spec(Schedule::Linear, Prediction::Sample, NoiseRegion::Full);
        let diffusion = Diffusion::new(&spec);
        let exact = |x: &[f32], t: usize| {
            let (a, s) = diffusion.mix(t);
            let (x, noise) = (f64::from(x[0]), s * s);
            let mean = (0.04 * a * x + noise * 0.5) / (0.04 * a * a + noise);
            Ok::<_, Infallible>(vec![mean as f32])
        };
        let known = Known { image: &[0.0], mask: &[1.0] };
        let steps: Vec<usize> = (0..25).rev().map(|k| 40 * k).collect();
        let end = ddim(&diffusion, &steps, known, vec![1.0], exact).unwrap();
        assert!((f64::from(end[0]) - 0.654_245_252).abs() < 1e-6, "{}", end[0]);
    }

    #[test]
    fn a_perfect_network_paints_the_truth_and_the_known_region_is_untouched() {
        for region in [NoiseRegion::Masked, NoiseRegion::Full] {
            let diffusion = Diffusion::new(&spec(Schedule::Cosine, Prediction::Sample, region));
            let truth: Vec<f32> = (0..16).map(|i| (i as f32).sin()).collect();
            let mask: Vec<f32> = (0..16).map(|i| f32::from(u8::from(i % 3 == 0))).collect();
            let known = Known { image: &truth, mask: &mask };
            let noise = noise::normal(&mut noise::stream("test", &[]), 16);
            let steps: Vec<usize> = spaced(10, 1000).into_iter().rev().collect();
            let painted = ddim(&diffusion, &steps, known, noise, |x, _| {
                if region == NoiseRegion::Masked {
                    for i in 0..16 {
                        assert!(mask[i] > 0.5 || x[i] == truth[i], "the known region is clean");
                    }
                }
                Ok::<_, Infallible>(truth.clone())
            });
            for (painted, truth) in painted.unwrap().iter().zip(&truth) {
                assert!((painted - truth).abs() < 1e-6);
            }
        }
    }

    fn example(size: usize, phase: f32) -> Example {
        let area = size * size;
        Example {
            image: (0..area).map(|i| (i as f32 * 0.1 + phase).sin()).collect(),
            mask: (0..area).map(|i| f32::from(u8::from(i % size > size / 2))).collect(),
            regions: vec![0.0; REGIONS * area],
            loss_mask: vec![0.0; area],
            condition: [0.0; CONDITION_LEN],
        }
    }

    #[test]
    fn a_slice_is_painted_alike_alone_and_in_company() {
        let spec = ModelSpec::preset(Preset::Tiny).with_image_size(16).unwrap();
        let weights = Weights::init(&spec, 5).unwrap();
        let examples: Vec<Example> = (0..3).map(|i| example(16, i as f32)).collect();
        let prompts: Vec<Prompt<'_>> =
            examples.iter().zip(10..).map(|(e, key)| Prompt::of(e, key)).collect();
        let options = SampleOptions { steps: 3, samples: 2, seed: 1, batch: 4 };
        let mut go = |_, _| ControlFlow::Continue(());
        let device = Device::flex();
        let all = sample(&weights, &device, &prompts, &options, &mut go).unwrap();
        let alone = sample(&weights, &device, &prompts[2..], &options, &mut go).unwrap();
        for (a, b) in all[2].iter().zip(&alone[0]) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        for (painted, example) in all.iter().zip(&examples) {
            for (i, painted) in painted.iter().enumerate() {
                assert!(example.mask[i] > 0.5 || *painted == example.image[i]);
                assert!(painted.abs() <= 1.0);
            }
        }
        let again = sample(&weights, &device.autodiff(), &prompts, &options, &mut go).unwrap();
        assert_eq!(again, all);
    }

    #[test]
    fn painting_stops_when_it_is_told_to_and_refuses_what_does_not_fit() {
        let weights = Weights::init(&ModelSpec::preset(Preset::Tiny), 5).unwrap();
        let (fits, small) = (example(32, 0.0), example(16, 0.0));
        let options = SampleOptions { steps: 3, samples: 1, seed: 1, batch: 4 };
        let device = Device::flex();
        let mut calls = 0;
        let mut stop = |_, _| {
            calls += 1;
            if calls > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let prompts = [Prompt::of(&fits, 0)];
        let stopped = sample(&weights, &device, &prompts, &options, &mut stop);
        assert!(matches!(stopped, Err(SampleError::Stopped)));
        assert_eq!(calls, 2);
        let prompts = [Prompt::of(&small, 0)];
        let mut go = |_, _| ControlFlow::Continue(());
        let refused = sample(&weights, &device, &prompts, &options, &mut go);
        assert!(matches!(refused, Err(SampleError::Size { index: 0, plane: "image", .. })));
        let none = SampleOptions { steps: 0, ..options };
        let refused = sample(&weights, &device, &[], &none, &mut go);
        assert!(matches!(refused, Err(SampleError::Option { name: "steps", .. })));
    }
}
