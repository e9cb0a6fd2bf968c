//! Which steps of the diffusion a sampler visits. Only steps that the model was trained at.

use super::super::diffusion::Diffusion;
use super::super::diffusion::schedule::spaced;
use super::options::{OptionError, SampleOptions, Spacing};

/// The least logarithm of the signal-to-noise ratio's root that [`Spacing::Lambda`] spreads its steps
/// from. The cosine schedule reaches -9.9, where hardly anything is decided (the bound of
/// DPM-Solver's authors for it, arXiv 2211.01095, appendix D).
const LAMBDA_MIN: f64 = -5.1;

/// The steps that a model is sampled at, first to last.
///
/// # Errors
/// [`OptionError::Stride`] if no stride gives their number.
pub fn timesteps(
    diffusion: &Diffusion,
    options: &SampleOptions,
) -> Result<Vec<usize>, OptionError> {
    let trained = diffusion.trained();
    let count = options.steps;
    let mut chosen = match options.spacing {
        Spacing::Even => pick(trained, &spaced(count, trained.len())),
        Spacing::Stride => {
            let none = OptionError::Stride { steps: count, trained: trained.len() };
            pick(trained, &strided(count, trained.len()).ok_or(none)?)
        }
        Spacing::Lambda => lambda_uniform(count, trained, |t| lambda(diffusion, t)),
    };
    chosen.reverse();
    Ok(chosen)
}

/// ln(sqrt(ab_t) / sqrt(1 - ab_t)); negative infinity where there is noise alone.
pub fn lambda(diffusion: &Diffusion, t: usize) -> f64 {
    let (a, s) = diffusion.mix(t);
    (a / s).ln()
}

/// Every n-th of `0..total` from 0 on, for the least n that gives `count` of them. Ascending.
fn strided(count: usize, total: usize) -> Option<Vec<usize>> {
    let stride = (1..=total).find(|&stride| total.div_ceil(stride) == count)?;
    Some((0..total).step_by(stride).collect())
}

/// At most `count` of `trained` (ascending), whose lambda lies nearest to evenly spread ones; always the
/// last, and the first where more than one is asked for. Ascending.
fn lambda_uniform(count: usize, trained: &[usize], lambda: impl Fn(usize) -> f64) -> Vec<usize> {
    let (Some(&first), Some(&last)) = (trained.first(), trained.last()) else { return Vec::new() };
    let lambdas: Vec<f64> = trained.iter().map(|&t| lambda(t)).collect();
    let (low, high) = (lambda(last).max(LAMBDA_MIN), lambda(first));
    let nearest = |k: usize| {
        let wanted = high + (low - high) * k as f64 / (count - 1) as f64;
        // On a tie the cleaner step, which is the first of the two.
        let distance = |i: &usize| (lambdas[*i] - wanted).abs();
        let nearest = (0..trained.len()).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.map_or(first, |i| trained[i])
    };
    // The model takes its last step for noise alone, which is what a sampler begins with.
    let mut chosen: Vec<usize> = (0..count - 1).map(nearest).chain([last]).collect();
    chosen.dedup();
    chosen
}

fn pick(from: &[usize], at: &[usize]) -> Vec<usize> {
    at.iter().map(|&i| from[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::{ModelSpec, Preset, Schedule};
    use super::super::options::Sampler;
    use super::*;

    fn spec(schedule: Schedule, trained_timesteps: usize) -> ModelSpec {
        ModelSpec { schedule, trained_timesteps, ..ModelSpec::preset(Preset::Tiny) }
    }

    fn chosen(spec: &ModelSpec, steps: usize, spacing: Spacing) -> Vec<usize> {
        let options = SampleOptions { steps, spacing, ..Sampler::Ddim.options() };
        timesteps(&Diffusion::new(spec), &options).unwrap()
    }

    #[test]
    fn even_steps_are_those_of_guided_diffusion() {
        let mut steps = chosen(&spec(Schedule::Linear, 1000), 25, Spacing::Even);
        steps.reverse();
        let golden = [0, 42, 83, 125, 166, 208, 250, 291, 333, 375, 416, 458, 500, 541];
        assert_eq!(steps[..14], golden);
        assert_eq!((steps[24], steps.len()), (999, 25));
        assert_eq!(chosen(&spec(Schedule::Linear, 1000), 1, Spacing::Even), [999]);
        assert_eq!(chosen(&spec(Schedule::Linear, 1000), 1000, Spacing::Even).len(), 1000);
    }

    #[test]
    fn strided_steps_are_those_of_ddim_n_and_never_reach_the_last() {
        let steps = chosen(&spec(Schedule::Linear, 1000), 25, Spacing::Stride);
        assert_eq!(steps, (0..25).rev().map(|k| 40 * k).collect::<Vec<_>>());
        let options =
            SampleOptions { steps: 600, spacing: Spacing::Stride, ..Sampler::Ddim.options() };
        let spec = spec(Schedule::Linear, 1000);
        let refused = timesteps(&Diffusion::new(&spec), &options);
        assert_eq!(refused, Err(OptionError::Stride { steps: 600, trained: 1000 }));
    }

    #[test]
    fn lambda_uniform_steps_fall_from_the_last_to_0_in_even_steps_of_lambda() {
        for schedule in [Schedule::Linear, Schedule::Cosine] {
            let spec = spec(schedule, 1000);
            let diffusion = Diffusion::new(&spec);
            for count in [1, 2, 5, 10] {
                let steps = chosen(&spec, count, Spacing::Lambda);
                assert_eq!((steps[0], steps.len()), (999, count), "{schedule:?}");
                assert!(count == 1 || steps[count - 1] == 0);
                assert!(steps.windows(2).all(|pair| pair[0] > pair[1]));
            }
            let steps = chosen(&spec, 10, Spacing::Lambda);
            let rises: Vec<f64> = steps[1..]
                .windows(2)
                .map(|pair| lambda(&diffusion, pair[1]) - lambda(&diffusion, pair[0]))
                .collect();
            // A tenth of the whole, but for what rounding to a step costs near the clean end.
            assert!(rises.iter().all(|rise| (rise - 1.1).abs() < 0.35), "{rises:?}");
        }
    }

    #[test]
    fn a_few_step_model_is_sampled_at_its_own_steps_alone() {
        let spec = spec(Schedule::Cosine, 10);
        let own = spaced(10, 1000);
        assert_eq!(own, [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]);
        for spacing in [Spacing::Even, Spacing::Stride, Spacing::Lambda] {
            for count in [1, 2, 5, 10] {
                let steps = chosen(&spec, count, spacing);
                assert!(steps.iter().all(|t| own.contains(t)), "{spacing:?} {count}: {steps:?}");
            }
        }
        assert_eq!(chosen(&spec, 4, Spacing::Even), [999, 666, 333, 0]);
        let all: Vec<usize> = own.into_iter().rev().collect();
        assert_eq!(chosen(&spec, 10, Spacing::Even), all);
    }
}
