//! Every sampler on a toy whose best prediction is known, against numbers that were computed apart
//! (`tests/reference/samplers.py`): single values within [-1, 1], Gaussian N(0.5, 0.04), so that no
//! network is needed.

use std::convert::Infallible;

use serde::Deserialize;

use super::super::diffusion::Diffusion;
use super::super::spec::{ModelSpec, NoiseRegion, Prediction, Preset, Schedule};
use super::ddim::ddim;
use super::ddpm::ddpm;
use super::dpm_solver::dpm_solver;
use super::options::{Jumps, SampleOptions, Sampler, Spacing};
use super::repaint;
use super::steps::timesteps;
use super::walk::{Ground, Predicted};

const GOLDEN: &str = include_str!("../../../tests/fixtures/model/samplers.json");

/// One walk of the reference.
#[derive(Deserialize)]
struct Walk {
    name: String,
    schedule: Schedule,
    zero_terminal_snr: bool,
    prediction: Prediction,
    sampler: String,
    eta: f64,
    timesteps: Vec<usize>,
    known: Vec<f32>,
    mask: Vec<f32>,
    start: Vec<f32>,
    /// Each draw, in the order in which they are asked for.
    noise: Vec<Vec<f32>>,
    /// The learnt v, the same at every step; empty where it is not learnt.
    range: Vec<f32>,
    /// x_t at each call of the network, then the result.
    trajectory: Vec<Vec<f64>>,
}

fn spec(schedule: Schedule, prediction: Prediction) -> ModelSpec {
    let noise_region = NoiseRegion::Full;
    ModelSpec { schedule, prediction, noise_region, ..ModelSpec::preset(Preset::Tiny) }
}

/// What a network that knows the toy's Gaussian predicts.
fn best(diffusion: &Diffusion, x: &[f32], t: usize) -> Vec<f32> {
    posterior(diffusion, (0.5, 0.04), x, t)
}

/// What a network that knows a Gaussian of this mean and variance predicts.
fn posterior(diffusion: &Diffusion, (mean, variance): (f64, f64), x: &[f32], t: usize) -> Vec<f32> {
    let (a, s) = diffusion.mix(t);
    let predict = |&x: &f32| {
        let x = f64::from(x);
        let mean = (variance * a * x + s * s * mean) / (variance * a * a + s * s);
        diffusion.target(mean, diffusion.noise(x, mean, t), t) as f32
    };
    x.iter().map(predict).collect()
}

/// Every x_t that the network is shown, then the result.
fn walked(walk: &Walk) -> Vec<Vec<f32>> {
    let spec = ModelSpec {
        zero_terminal_snr: walk.zero_terminal_snr,
        ..spec(walk.schedule, walk.prediction)
    };
    let diffusion = Diffusion::new(&spec);
    let ground = Ground { diffusion: &diffusion, image: &walk.known, mask: &walk.mask };
    let mut seen = Vec::new();
    let mut predict = |x: &[f32], t: usize| {
        seen.push(x.to_vec());
        let head = best(&diffusion, x, t);
        Ok::<_, Infallible>(Predicted { head, range: walk.range.clone() })
    };
    let mut draws = walk.noise.iter().cloned();
    let mut noise = || draws.next().unwrap();
    let (steps, start) = (&walk.timesteps, walk.start.clone());
    let end = match walk.sampler.as_str() {
        "ddpm" => ddpm(ground, steps, start, &mut predict, &mut noise),
        "ddim" => ddim(ground, steps, walk.eta, start, &mut predict, &mut noise),
        "dpm-solver" => dpm_solver(ground, steps, start, &mut predict),
        "repaint" => {
            let course = repaint::course(steps.len(), Jumps { length: 2, samples: 2 });
            repaint::repaint(ground, steps, &course, start, &mut predict, &mut noise)
        }
        other => panic!("{other}"),
    };
    seen.push(end.unwrap());
    assert!(draws.next().is_none(), "{}: noise is left over", walk.name);
    seen
}

#[test]
fn every_sampler_walks_as_the_reference_walks() {
    let walks: Vec<Walk> = serde_json::from_str(GOLDEN).unwrap();
    assert!(walks.len() >= 8);
    for walk in &walks {
        let found = walked(walk);
        assert_eq!(found.len(), walk.trajectory.len(), "{}", walk.name);
        // Noise is subtracted from x_t and the rest divided by as little as 0.006.
        let bound = if walk.prediction == Prediction::Epsilon { 2e-5 } else { 1e-6 };
        for (step, (found, expected)) in found.iter().zip(&walk.trajectory).enumerate() {
            for (found, expected) in found.iter().zip(expected) {
                let error = (f64::from(*found) - expected).abs();
                assert!(error < bound, "{} step {step}: {found} {expected}", walk.name);
            }
        }
    }
}

/// Where the toy ends that begins at 1 with noise alone, on the linear schedule.
fn end(sampler: Sampler, steps: usize, spacing: Spacing) -> f64 {
    let spec = spec(Schedule::Linear, Prediction::Sample);
    let diffusion = Diffusion::new(&spec);
    let options = SampleOptions { steps, spacing, ..sampler.options() };
    let steps = timesteps(&diffusion, &options).unwrap();
    let ground = Ground { diffusion: &diffusion, image: &[0.0], mask: &[1.0] };
    let mut predict = |x: &[f32], t: usize| {
        let head = best(&diffusion, x, t);
        Ok::<_, Infallible>(Predicted { head, range: Vec::new() })
    };
    let mut none = || -> Vec<f32> { panic!("no noise is needed") };
    let end = match sampler {
        Sampler::Ddim => ddim(ground, &steps, 0.0, vec![1.0], &mut predict, &mut none),
        _ => dpm_solver(ground, &steps, vec![1.0], &mut predict),
    };
    f64::from(end.unwrap()[0])
}

#[test]
fn the_toy_ends_where_it_is_published_to_end() {
    for (sampler, spacing, steps, expected) in [
        (Sampler::Ddim, Spacing::Lambda, 10, 0.652_467_558),
        (Sampler::Ddim, Spacing::Lambda, 25, 0.680_119_481),
        (Sampler::Ddim, Spacing::Lambda, 50, 0.689_492_078),
        (Sampler::DpmSolver, Spacing::Lambda, 10, 0.703_038_100),
        (Sampler::DpmSolver, Spacing::Lambda, 25, 0.700_901_499),
        (Sampler::DpmSolver, Spacing::Lambda, 50, 0.699_609_181),
        (Sampler::Ddim, Spacing::Stride, 25, 0.654_245_252),
    ] {
        let found = end(sampler, steps, spacing);
        assert!((found - expected).abs() < 1e-6, "{sampler:?} {steps}: {found} {expected}");
    }
}

/// By how much DPM-Solver++ in ten steps changes the variance of a Gaussian N(0, `variance`) on the
/// cosine schedule. Every step is linear in x_t, so one walk tells it.
fn widening(variance: f64, spacing: Spacing) -> f64 {
    const START: f32 = 0.25;
    let diffusion = Diffusion::new(&spec(Schedule::Cosine, Prediction::V));
    let options = SampleOptions { steps: 10, spacing, ..Sampler::DpmSolver.options() };
    let steps = timesteps(&diffusion, &options).unwrap();
    let ground = Ground { diffusion: &diffusion, image: &[0.0], mask: &[1.0] };
    let mut predict = |x: &[f32], t: usize| {
        let head = posterior(&diffusion, (0.0, variance), x, t);
        Ok::<_, Infallible>(Predicted { head, range: Vec::new() })
    };
    let end = dpm_solver(ground, &steps, vec![START], &mut predict).unwrap()[0];
    f64::from(end / START).powi(2) / variance
}

#[test]
fn ten_aligned_steps_leave_a_posterior_as_wide_as_it_is_where_even_ones_widen_it() {
    for variance in [0.003, 0.01, 0.03, 0.1, 0.3, 1.0] {
        let aligned = widening(variance, Spacing::Aligned);
        assert!((aligned - 1.0).abs() < 0.015, "{variance}: {aligned}");
    }
    for variance in [0.03, 0.1, 0.3] {
        let even = widening(variance, Spacing::Lambda);
        assert!((1.04..1.08).contains(&even), "{variance}: {even}");
    }
}
