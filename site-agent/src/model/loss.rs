//! How far a prediction is from its lesson, on the network's device.
//!
//! The first channel of a prediction is scored by its squared error; a second channel, which sets the
//! variance of the reverse step, by the variational bound, in which the first has no gradient, so that
//! the variance never costs the image anything (Nichol and Dhariwal 2021, arXiv 2102.09672, section
//! 3.1). It draws nothing and knows no network.

use std::f64::consts::{LN_2, PI};

use burn::tensor::{Device, Tensor, TensorData};

use super::diffusion::lesson::VarianceLesson;
use super::diffusion::posterior::Bound;

/// Half the distance of two grey levels, of which [-1, 1] has 255 steps.
const HALF_LEVEL: f64 = 1.0 / 255.0;
/// Beyond this a grey level is the last, and everything further counts as it.
const LAST_LEVEL: f32 = 0.999;
/// The smallest probability whose logarithm is taken.
const MIN_PROBABILITY: f64 = 1e-12;
/// The cubic coefficient of the tanh approximation of the normal distribution's cumulative.
const CDF_CUBIC: f64 = 0.044_715;

/// What a prediction is scored against.
#[derive(Clone, Debug)]
pub struct Score {
    /// What the first channel should be. `[batch, 1, size, size]`
    pub target: Vec<f32>,
    /// How much each pixel's squared error counts. `[batch, 1, size, size]`
    pub weight: Vec<f32>,
    /// What the second channel learns; a prediction then has two.
    pub variance: Option<VarianceLesson>,
}

/// The loss of every slice, whose sum is the loss. `[batch, 1]`
///
/// `predicted` is `[batch, 1, size, size]`, or `[batch, 2, size, size]` where a variance is learnt.
/// Per pixel it is weight * squared error + the bound's own weight * scale * bits of the bound.
pub fn losses(predicted: Tensor<4>, score: Score, device: &Device) -> Tensor<2> {
    let [batch, channels, height, width] = predicted.dims();
    let area = height * width;
    let plane =
        |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, [batch, area]), device);
    let channel = |at: usize| match channels {
        1 => predicted.clone().reshape([batch, area]),
        _ => predicted.clone().narrow(1, at, 1).reshape([batch, area]),
    };
    let error = channel(0) - plane(score.target);
    let mut loss = error.clone() * error.clone() * plane(score.weight);
    if let Some(variance) = score.variance {
        let bits = bits(error.detach(), channel(1), &variance, device);
        loss = loss + bits * variance.scale * plane(variance.weight);
    }
    // Summed over one dimension, because a sum over all may split its work as threads are free.
    loss.sum_dim(1)
}

/// The variational bound's term of every pixel, in bits; `error` carries no gradient. `[batch, area]`
fn bits(error: Tensor<2>, head: Tensor<2>, lesson: &VarianceLesson, device: &Device) -> Tensor<2> {
    let count = lesson.bounds.len();
    let column = |of: &dyn Fn(&Bound) -> f64| {
        let values: Vec<f32> = lesson.bounds.iter().map(|bound| of(bound) as f32).collect();
        Tensor::<2>::from_data(TensorData::new(values, [count, 1]), device)
    };
    let low = column(&|bound| bound.log_variance);
    // Equation 15, as a step from the low end, which is exact where both ends are equal.
    let share = (head + 1.0) * 0.5;
    let log_variance = share * column(&|bound| bound.log_beta - bound.log_variance) + low.clone();
    // How far the network's posterior mean is from the truth's.
    let apart = error * column(&|bound| bound.gain);
    let nats = divergence(&apart, &log_variance, low);
    if !lesson.bounds.iter().any(|bound| bound.is_first) {
        return nats / LN_2;
    }
    let first = column(&|bound| f64::from(u8::from(bound.is_first)));
    let likelihood = negative_log_likelihood(apart, log_variance, &lesson.truth, device);
    (nats.clone() + first * (likelihood - nats)) / LN_2
}

/// KL of the reverse step from the true posterior, in nats; `low` is the posterior's log variance.
fn divergence(apart: &Tensor<2>, log_variance: &Tensor<2>, low: Tensor<2>) -> Tensor<2> {
    let wider = log_variance.clone() - low;
    let distance = apart.clone() * apart.clone() * (-log_variance.clone()).exp();
    (wider.clone() + (-wider).exp() + distance - 1.0) * 0.5
}

/// -ln of the probability that the step to x_0 gives to the truth's grey level (Ho et al. 2020, arXiv
/// 2006.11239, eq. 13); `apart` is the truth minus the mean.
fn negative_log_likelihood(
    apart: Tensor<2>,
    log_variance: Tensor<2>,
    truth: &[f32],
    device: &Device,
) -> Tensor<2> {
    let shape = apart.dims();
    let plane = |of: &dyn Fn(f32) -> bool| {
        let values: Vec<f32> = truth.iter().map(|&x| f32::from(u8::from(of(x)))).collect();
        Tensor::<2>::from_data(TensorData::new(values, shape), device)
    };
    let precision = (log_variance * -0.5).exp();
    let above = cumulative((apart.clone() + HALF_LEVEL) * precision.clone());
    let below = cumulative((apart - HALF_LEVEL) * precision);
    // Nothing is above the last grey level and nothing below the first.
    let last = plane(&|x| x > LAST_LEVEL);
    let above = above.clone() + last * (-above + 1.0);
    let below = below * plane(&|x| x >= -LAST_LEVEL);
    -(above - below).clamp_min(MIN_PROBABILITY).log()
}

/// The cumulative of the standard normal distribution, approximated as guided-diffusion does.
fn cumulative(x: Tensor<2>) -> Tensor<2> {
    let cubed = x.clone() * x.clone() * x.clone();
    (((x + cubed * CDF_CUBIC) * (2.0 / PI).sqrt()).tanh() + 1.0) * 0.5
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::diffusion::Diffusion;
    use super::super::diffusion::weight::LossWeight;
    use super::super::spec::{ModelSpec, Prediction, Preset};
    use super::*;

    /// One case of `tests/reference/losses.py`; every plane is `[slice, 16]`.
    #[derive(Deserialize)]
    struct Reference {
        prediction: Prediction,
        timesteps: usize,
        trained: usize,
        loss_weight: LossWeight,
        t: Vec<usize>,
        /// How much the squared error of each slice counts.
        weight: Vec<f64>,
        truth: Vec<Vec<f32>>,
        target: Vec<Vec<f32>>,
        said: Vec<Vec<f32>>,
        fraction: Vec<Vec<f32>>,
        squared: Vec<Vec<f64>>,
        bits: Vec<Vec<f64>>,
        said_gradient: Vec<Vec<f64>>,
        fraction_gradient: Vec<Vec<f64>>,
    }

    fn cases() -> Vec<Reference> {
        let text = include_str!("../../tests/fixtures/model/losses.json");
        serde_json::from_str(text).unwrap()
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
        tensor.into_data().convert::<f64>().try_into_vec().unwrap()
    }

    fn diffusion(case: &Reference) -> Diffusion {
        Diffusion::new(&ModelSpec {
            prediction: case.prediction,
            timesteps: case.timesteps,
            trained_timesteps: case.trained,
            learn_sigma: true,
            ..ModelSpec::preset(Preset::Tiny)
        })
    }

    fn variance(case: &Reference) -> VarianceLesson {
        VarianceLesson {
            bounds: case.t.iter().map(|&t| diffusion(case).bound(t)).collect(),
            truth: case.truth.concat(),
            weight: vec![1.0; case.t.len() * 16],
            scale: case.trained as f64 / 1000.0,
        }
    }

    /// Both channels, slice by slice, as a network would say them. `[batch, 2, 4, 4]`
    fn said(case: &Reference, device: &Device) -> Tensor<4> {
        let slices = case.said.iter().zip(&case.fraction);
        let both: Vec<f32> =
            slices.flat_map(|(said, head)| [said.clone(), head.clone()]).flatten().collect();
        Tensor::from_data(TensorData::new(both, [case.t.len(), 2, 4, 4]), device)
    }

    fn close(found: f64, expected: f64, tolerance: f64) -> bool {
        (found - expected).abs() < tolerance * expected.abs().max(1.0)
    }

    #[test]
    fn the_loss_of_a_learnt_variance_and_its_gradients_equal_the_reference() {
        let device = Device::flex().autodiff();
        for case in cases() {
            let predicted = said(&case, &device).require_grad();
            let factor = |&t: &usize| {
                case.loss_weight.factor(case.prediction, diffusion(&case).alpha_bar(t))
            };
            let factors: Vec<f64> = case.t.iter().map(factor).collect();
            for (&found, &expected) in factors.iter().zip(&case.weight) {
                assert!((found - expected).abs() < 1e-7 * expected, "{found} {expected}");
            }
            let weight = factors.iter().flat_map(|&factor| [factor as f32; 16]).collect();
            let target = case.target.concat();
            let variance = Some(variance(&case));
            let score = Score { target, weight, variance };
            let losses = losses(predicted.clone(), score, &device);
            let gradients = losses.clone().sum_dim(0).backward();
            let gradient = values(predicted.grad(&gradients).unwrap());
            let scale = case.trained as f64 / 1000.0;
            for (slice, loss) in values(losses.inner()).into_iter().enumerate() {
                let pixel =
                    |i| factors[slice] * case.squared[slice][i] + scale * case.bits[slice][i];
                let expected: f64 = (0..16).map(pixel).sum();
                assert!(close(loss, expected, 1e-4), "{slice}: {loss} {expected}");
                for i in 0..16 {
                    let [said, head] =
                        [0, 1].map(|channel| gradient[(2 * slice + channel) * 16 + i]);
                    assert!(close(said, case.said_gradient[slice][i], 1e-6), "{slice} {i}: {said}");
                    let expected = case.fraction_gradient[slice][i];
                    assert!(close(head, expected, 2e-4), "{slice} {i}: {head} {expected}");
                }
            }
        }
    }

    #[test]
    fn the_bits_of_every_pixel_equal_the_reference() {
        let device = Device::flex();
        for case in cases() {
            let plane = |rows: &[Vec<f32>]| {
                Tensor::<2>::from_data(TensorData::new(rows.concat(), [case.t.len(), 16]), &device)
            };
            let error = plane(&case.said) - plane(&case.target);
            let found = values(bits(error, plane(&case.fraction), &variance(&case), &device));
            for (i, (found, expected)) in found.into_iter().zip(case.bits.concat()).enumerate() {
                assert!(
                    close(found, expected, 5e-4),
                    "{:?} {i}: {found} {expected}",
                    case.prediction
                );
            }
        }
    }

    #[test]
    fn one_channel_is_scored_by_its_weighted_squared_error() {
        let device = Device::flex();
        let data = TensorData::new(vec![1.0_f32, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 5.0], [2, 1, 2, 2]);
        let (target, weight) = (vec![0.0; 8], vec![1.0, 0.5, 0.0, 0.25, 0.0, 0.0, 0.0, 2.0]);
        let score = Score { target, weight, variance: None };
        let found = values(losses(Tensor::from_data(data, &device), score, &device));
        assert_eq!(found, [7.0, 50.0]);
    }
}
