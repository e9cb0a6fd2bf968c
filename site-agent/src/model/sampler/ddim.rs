//! DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16).

use super::walk::{Ground, Noise, Predict, handed_out};

/// Walks down `timesteps` from the noise `x`. Each step predicts x_0, clips it, puts the known region
/// in, derives the noise again from what is left, and mixes the two for the next step; the last step
/// leaves x_0. `noise` gives fresh N(0, 1), which is asked for only where `eta` is not 0.
///
/// # Errors
/// Those of `predict`.
pub(super) fn ddim<E>(
    ground: Ground<'_>,
    timesteps: &[usize],
    eta: f64,
    mut x: Vec<f32>,
    predict: &mut Predict<'_, E>,
    noise: &mut Noise<'_>,
) -> Result<Vec<f32>, E> {
    ground.hold(&mut x);
    for (i, &t) in timesteps.iter().enumerate() {
        let predicted = predict(&x, t)?;
        let clean = ground.clean(&x, &predicted.head, t);
        let Some(&next) = timesteps.get(i + 1) else { return Ok(handed_out(&clean)) };
        let ((a, s), (a_next, s_next)) = (ground.diffusion.mix(t), ground.diffusion.mix(next));
        let sigma = eta * (s_next / s) * (1.0 - (a / a_next).powi(2)).sqrt();
        // A rounding error may leave a little less than nothing.
        let direct = (s_next * s_next - sigma * sigma).max(0.0).sqrt();
        let fresh = if eta > 0.0 { noise() } else { Vec::new() };
        for (j, (x, clean)) in x.iter_mut().zip(clean).enumerate() {
            let e = ground.diffusion.noise((*x).into(), clean, t);
            let z = fresh.get(j).copied().map_or(0.0, f64::from);
            *x = (a_next * clean + direct * e + sigma * z) as f32;
        }
        ground.hold(&mut x);
    }
    Ok(x)
}
