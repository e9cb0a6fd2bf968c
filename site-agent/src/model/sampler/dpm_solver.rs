//! DPM-Solver++ (2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): x_0 is extrapolated from the
//! last two predictions, so that ten calls of the network do what DDIM needs a hundred for.

use super::steps::lambda;
use super::walk::{Ground, Predict, handed_out};

/// Walks down `timesteps` from the noise `x`: the first step is of first order, the last leaves x_0.
/// `timesteps` should be even in lambda.
///
/// With lambda = ln(a / s) and h its rise, x_n = s_n / s x - a_n (e^-h - 1) D, where D is the
/// predicted x_0 and half of what it has changed by, for the length of the step.
///
/// # Errors
/// Those of `predict`.
pub(super) fn dpm_solver<E>(
    ground: Ground<'_>,
    timesteps: &[usize],
    mut x: Vec<f32>,
    predict: &mut Predict<'_, E>,
) -> Result<Vec<f32>, E> {
    ground.hold(&mut x);
    let mut before: Option<(Vec<f64>, f64)> = None;
    for (i, &t) in timesteps.iter().enumerate() {
        let predicted = predict(&x, t)?;
        let clean = ground.clean(&x, &predicted.head, t);
        let Some(&next) = timesteps.get(i + 1) else { return Ok(handed_out(&clean)) };
        // From noise alone, lambda rises by infinity: the step is then of first order, as is the next.
        let rise = lambda(ground.diffusion, next) - lambda(ground.diffusion, t);
        let (_, s) = ground.diffusion.mix(t);
        let (a_next, s_next) = ground.diffusion.mix(next);
        let (keep, gain) = (s_next / s, -a_next * (-rise).exp_m1());
        for (j, (x, &clean)) in x.iter_mut().zip(&clean).enumerate() {
            let trend = before
                .as_ref()
                .map_or(0.0, |(last, last_rise)| (clean - last[j]) / (last_rise / rise) / 2.0);
            *x = (keep * f64::from(*x) + gain * (clean + trend)) as f32;
        }
        ground.hold(&mut x);
        before = Some((clean, rise));
    }
    Ok(x)
}
