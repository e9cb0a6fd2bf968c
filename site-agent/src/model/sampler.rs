//! Painting: a model's network and a sampler, from noise to slices, with the known region held fast.
//!
//! It always runs on the plain device, never on the autodiff device, whose graph would grow with
//! every call that is not followed by a backward pass. What is painted and how is decided in the files
//! below, which know no tensor library; here the network answers them.

mod ddim;
mod ddpm;
mod dpm_solver;
mod draws;
#[cfg(test)]
mod golden_tests;
mod guidance;
pub mod options;
pub mod paint;
#[cfg(test)]
mod paint_tests;
pub mod prompt;
mod repaint;
pub mod steps;
mod walk;

use burn::tensor::{Device, ExecutionError};

use self::options::SampleOptions;
use self::paint::{Progress, SampleError, paint};
use self::prompt::Prompt;
use super::batch::Batch;
use super::device::{self, Crash, room};
use super::memory::{Estimate, Work};
use super::ops::Ops;
use super::unet::Unet;
use super::weights::Weights;

/// Paints every prompt, and gives the mean of its samples: one `[size * size]` slice in [-1, 1] per
/// prompt, in order, equal to the prompt's image outside its mask.
///
/// # Errors
/// [`SampleError`] if an option or a prompt is wrong, the device fails, or `progress` stops it.
pub fn sample(
    weights: &Weights,
    device: &Device,
    prompts: &[Prompt<'_>],
    options: &SampleOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<Vec<f32>>, SampleError> {
    let mut sums: Vec<Vec<f64>> = prompts.iter().map(|p| vec![0.0; p.image.len()]).collect();
    let mut add = |_, painted: Vec<Vec<f32>>| {
        for (sum, painted) in sums.iter_mut().zip(painted) {
            sum.iter_mut().zip(painted).for_each(|(sum, x)| *sum += f64::from(x));
        }
        Ok::<_, SampleError>(())
    };
    sample_each(weights, device, prompts, options, progress, &mut add)?;
    let mean = |(prompt, sum): (&Prompt<'_>, Vec<f64>)| {
        let pixels = prompt.image.iter().zip(prompt.mask).zip(sum);
        // A mean over equal values may differ from them in the last bit; the known region may not.
        let mean = |sum: f64| (sum / options.samples as f64) as f32;
        pixels.map(|((&x, &m), sum)| if m < 0.5 { x } else { mean(sum) }).collect()
    };
    Ok(prompts.iter().zip(sums).map(mean).collect())
}

/// As [`sample`], but `sink` gets every sample, counted from 0, as soon as it is there.
///
/// # Errors
/// As [`sample`], and whatever `sink` fails with.
pub fn sample_each<E: From<SampleError>>(
    weights: &Weights,
    device: &Device,
    prompts: &[Prompt<'_>],
    options: &SampleOptions,
    progress: &mut Progress<'_>,
    sink: &mut dyn FnMut(usize, Vec<Vec<f32>>) -> Result<(), E>,
) -> Result<(), E> {
    let device = device.clone().inner();
    options.check(weights.spec()).map_err(SampleError::from)?;
    // Guidance asks twice for every slice.
    let calls = if options.guidance == 1.0 { 1 } else { 2 };
    let slices = calls * options.batch.min(prompts.len().saturating_mul(options.samples));
    let ops = Ops::on(&device, options.precision);
    let needed = Estimate::new(weights.spec(), Work::Sampling { slices }, ops);
    room::fits(needed.bytes(), room::available(&device, None)).map_err(SampleError::from)?;
    options.precision.check(&device).map_err(SampleError::from)?;
    let failed = |error: ExecutionError| SampleError::Device(error.into());
    let crashed = |crash: Crash| SampleError::Device(crash.into());
    let net = device::guarded(|| Unet::computing_in(options.precision, weights, &device));
    let net = net.map_err(crashed)?;
    let mut network = |batch: Batch| {
        let predict = || net.predict(batch, weights.spec(), &device).try_into_data();
        let predicted = device::guarded(predict).map_err(crashed)?.map_err(failed)?;
        // What is no list of numbers has the wrong length and is refused for it.
        Ok(predicted.convert::<f32>().try_into_vec().unwrap_or_default())
    };
    paint(weights.spec(), prompts, options, &mut network, progress, sink)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::super::spec::{CONDITION_LEN, ModelSpec, NoiseRegion, Prediction, Preset};
    use super::options::Sampler;
    use super::*;
    use crate::data::example::{Example, REGIONS};

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
    fn a_slice_is_painted_alike_alone_and_in_company_by_every_sampler() {
        let spec = ModelSpec {
            noise_region: NoiseRegion::Full,
            ..ModelSpec::preset(Preset::Tiny).with_image_size(16).unwrap()
        };
        let weights = Weights::init(&spec, 5).unwrap();
        let examples: Vec<Example> = (0..3).map(|i| example(16, i as f32)).collect();
        let prompts: Vec<Prompt<'_>> =
            examples.iter().zip(10..).map(|(e, slice)| Prompt::of(e, [1; 32], slice)).collect();
        let mut go = |_, _| ControlFlow::Continue(());
        let device = Device::flex();
        for sampler in [Sampler::Ddpm, Sampler::Ddim, Sampler::DpmSolver, Sampler::Repaint] {
            let options = SampleOptions { steps: 3, samples: 2, batch: 4, ..sampler.options() };
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
            let again =
                sample(&weights, &device.clone().autodiff(), &prompts, &options, &mut go).unwrap();
            assert_eq!(again, all);
        }
    }

    #[test]
    fn the_twin_without_noise_paints_in_one_call() {
        let spec = ModelSpec {
            prediction: Prediction::Direct,
            ..ModelSpec::preset(Preset::Tiny).with_image_size(16).unwrap()
        };
        let weights = Weights::init(&spec, 5).unwrap();
        let example = example(16, 0.0);
        let prompts = [Prompt::of(&example, [1; 32], 0)];
        let mut calls = 0;
        let mut count = |_, total| {
            calls += 1;
            assert_eq!(total, 1);
            ControlFlow::Continue(())
        };
        let options = SampleOptions::default();
        let device = Device::flex();
        let painted = sample(&weights, &device, &prompts, &options, &mut count).unwrap();
        assert_eq!(calls, 1);
        let other = SampleOptions { seed: 2, ..options };
        let mut go = |_, _| ControlFlow::Continue(());
        assert_eq!(sample(&weights, &device, &prompts, &other, &mut go).unwrap(), painted);
    }
}
