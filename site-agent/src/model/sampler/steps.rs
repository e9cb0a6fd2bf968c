//! Which steps of the diffusion a sampler visits. Only steps that the model was trained at.

use super::super::diffusion::Diffusion;
use super::super::diffusion::schedule::spaced;
use super::options::{OptionError, SampleOptions, Spacing};

/// The least logarithm of the signal-to-noise ratio's root that [`Spacing::Lambda`] spreads its steps
/// from. The cosine schedule reaches -9.9, where hardly anything is decided (the bound of
/// DPM-Solver's authors for it, arXiv 2211.01095, appendix D).
const LAMBDA_MIN: f64 = -5.1;

/// Where [`Spacing::Aligned`] takes ten steps after the one for noise alone, in lambda.
///
/// Even steps of lambda leave a sample of DPM-Solver++ (2M) too varied: for an x_0 that is Gaussian with
/// variance v, a network that is exact, and ten steps, its variance is 1.05 v to 1.08 v for v from 0.03
/// to 1. These were found by minimising the sum of (variance / v - 1)^2 over v from 0.003 to 1, with no
/// two nearer than 0.6, on the cosine schedule; they leave 0.99 v to 1.01 v, which a test holds. The
/// idea, steps where the solver errs least and not evenly, is that of Sabour et al. 2024 (Align Your
/// Steps, arXiv 2404.14507); so is interpolating them for another number of steps.
const ALIGNED: [f64; 9] = [-4.5, -3.9, -1.99, -0.81, 0.51, 1.66, 2.78, 3.65, 5.02];

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
        Spacing::Aligned => aligned(count, trained, |t| lambda(diffusion, t)),
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
    let (low, high) = (lambda(last).max(LAMBDA_MIN), lambda(first));
    let wanted = |k: usize| high + (low - high) * k as f64 / (count - 1) as f64;
    nearest(&(0..count - 1).map(wanted).collect::<Vec<_>>(), trained, lambda)
}

/// At most `count` of `trained` (ascending), whose lambda lies nearest to [`ALIGNED`], interpolated for
/// more steps; always the last. Fewer than ten are too few for it, and are spread evenly. Ascending.
fn aligned(count: usize, trained: &[usize], lambda: impl Fn(usize) -> f64) -> Vec<usize> {
    if count <= ALIGNED.len() {
        return lambda_uniform(count, trained, lambda);
    }
    let wanted = |k: usize| {
        // The cleanest first.
        let place = (ALIGNED.len() - 1) as f64 * (1.0 - k as f64 / (count - 2) as f64);
        let (below, part) = (place.floor() as usize, place.fract());
        let above = (below + 1).min(ALIGNED.len() - 1);
        ALIGNED[below] + part * (ALIGNED[above] - ALIGNED[below])
    };
    nearest(&(0..count - 1).map(wanted).collect::<Vec<_>>(), trained, lambda)
}

/// Those of `trained` (ascending) whose lambda lies nearest to the `wanted` ones (falling), and the last,
/// which is for noise alone: a sampler begins there. Ascending.
fn nearest(wanted: &[f64], trained: &[usize], lambda: impl Fn(usize) -> f64) -> Vec<usize> {
    let lambdas: Vec<f64> = trained.iter().map(|&t| lambda(t)).collect();
    let nearest = |wanted: &f64| {
        // On a tie the cleaner step, which is the first of the two.
        let distance = |i: &usize| (lambdas[*i] - wanted).abs();
        (0..trained.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).map(|i| trained[i])
    };
    let mut chosen: Vec<usize> =
        wanted.iter().filter_map(nearest).chain(trained.last().copied()).collect();
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
    fn aligned_steps_go_through_their_table_and_fewer_than_ten_are_even_in_lambda() {
        let spec = spec(Schedule::Cosine, 1000);
        let diffusion = Diffusion::new(&spec);
        let steps = chosen(&spec, 10, Spacing::Aligned);
        assert_eq!((steps[0], steps[9], steps.len()), (999, 0, 10));
        for (t, wanted) in steps[1..].iter().zip(ALIGNED) {
            assert!((lambda(&diffusion, *t) - wanted).abs() < 0.25, "{t} {wanted}");
        }
        assert_eq!(chosen(&spec, 9, Spacing::Aligned), chosen(&spec, 9, Spacing::Lambda));
        let more = chosen(&spec, 25, Spacing::Aligned);
        assert!(more.len() == 25 && more.is_sorted_by(|a, b| a > b), "{more:?}");
    }

    #[test]
    fn a_few_step_model_is_sampled_at_its_own_steps_alone() {
        let spec = spec(Schedule::Cosine, 10);
        let own = spaced(10, 1000);
        assert_eq!(own, [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]);
        for spacing in [Spacing::Even, Spacing::Stride, Spacing::Lambda, Spacing::Aligned] {
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
