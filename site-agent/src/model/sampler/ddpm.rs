//! Ancestral sampling (Ho et al. 2020, arXiv 2006.11239, algorithm 2), over all steps or some (Nichol
//! and Dhariwal 2021, arXiv 2102.09672, section 4).

use super::walk::{Ground, Noise, Predict, handed_out};

/// Walks down `timesteps` from the noise `x`: each step draws from the posterior of the predicted x_0,
/// with its own variance or the one that the network has learnt; the last adds no noise. `noise` gives
/// fresh N(0, 1).
///
/// # Errors
/// Those of `predict`.
pub(super) fn ddpm<E>(
    ground: Ground<'_>,
    timesteps: &[usize],
    mut x: Vec<f32>,
    predict: &mut Predict<'_, E>,
    noise: &mut Noise<'_>,
) -> Result<Vec<f32>, E> {
    ground.hold(&mut x);
    for (i, &t) in timesteps.iter().enumerate() {
        let predicted = predict(&x, t)?;
        let clean = ground.clean(&x, &predicted.head, t);
        let Some(&next) = timesteps.get(i + 1) else { return Ok(handed_out(&clean)) };
        reverse(ground, [t, next], &mut x, &clean, &predicted.range, &noise());
        ground.hold(&mut x);
    }
    Ok(x)
}

/// One reverse step from t to a cleaner step: c1 x_0 + c2 x_t + deviation z.
pub(super) fn reverse(
    ground: Ground<'_>,
    [t, next]: [usize; 2],
    x: &mut [f32],
    clean: &[f64],
    range: &[f32],
    noise: &[f32],
) {
    let step = ground.diffusion.posterior(t, Some(next));
    for (j, ((x, &clean), &z)) in x.iter_mut().zip(clean).zip(noise).enumerate() {
        let deviation = step.deviation(range.get(j).copied().map(f64::from));
        let mean = step.c1 * clean + step.c2 * f64::from(*x);
        *x = (mean + deviation * f64::from(z)) as f32;
    }
}
