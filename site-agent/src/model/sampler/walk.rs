//! What every way from noise to an image shares: what is known of the images, what the network says of
//! x_t, and x_0 from both.

use super::super::diffusion::Diffusion;
use super::super::spec::NoiseRegion;

/// What the network says of a batch. Each plane `[batch * size * size]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Predicted {
    /// v, the noise or x_0, as the model's spec has it.
    pub(super) head: Vec<f32>,
    /// Where between the least and the most the logarithm of a step's variance lies, -1 to 1; empty
    /// where it is not learnt.
    pub(super) range: Vec<f32>,
}

/// What predicts from x_t `[batch * size * size]` at a step.
pub(super) type Predict<'a, E> = dyn FnMut(&[f32], usize) -> Result<Predicted, E> + 'a;

/// Fresh N(0, 1) for the whole batch. `[batch * size * size]`
pub(super) type Noise<'a> = dyn FnMut() -> Vec<f32> + 'a;

/// A diffusion, and the part of the images that is known: both planes of every slice in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground<'a> {
    /// The diffusion.
    pub(super) diffusion: &'a Diffusion,
    /// The images; what lies under the mask is not read.
    pub(super) image: &'a [f32],
    /// From 0.5 on the pixel is painted.
    pub(super) mask: &'a [f32],
}

impl Ground<'_> {
    /// Puts the known region into x_t where the model knows it clean.
    pub(super) fn hold(&self, x: &mut [f32]) {
        if self.diffusion.region() != NoiseRegion::Masked {
            return;
        }
        for ((x, &known), &mask) in x.iter_mut().zip(self.image).zip(self.mask) {
            *x = if mask < 0.5 { known } else { *x };
        }
    }

    /// x_0 as the network sees it, clipped to [-1, 1], the known region as it is known (Nichol et al.
    /// 2022, GLIDE, arXiv 2112.10741, section 5.2).
    pub(super) fn clean(&self, x: &[f32], predicted: &[f32], t: usize) -> Vec<f64> {
        let mut clean = self.free(x, predicted, t);
        for ((clean, &known), &mask) in clean.iter_mut().zip(self.image).zip(self.mask) {
            *clean = if mask < 0.5 { f64::from(known) } else { *clean };
        }
        clean
    }

    /// x_0 as the network sees it, clipped to [-1, 1], with nothing put in.
    pub(super) fn free(&self, x: &[f32], predicted: &[f32], t: usize) -> Vec<f64> {
        let sample = |(&x, &p): (&f32, &f32)| self.diffusion.sample(x.into(), p.into(), t);
        x.iter().zip(predicted).map(sample).map(|sample| sample.clamp(-1.0, 1.0)).collect()
    }

    /// sqrt(ab_t) x + sqrt(1 - ab_t) z for the known region, x_t elsewhere.
    pub(super) fn blur(&self, x: &mut [f32], noise: &[f32], t: usize) {
        let (a, s) = self.diffusion.mix(t);
        let known = self.image.iter().zip(self.mask).zip(noise);
        for (x, ((&known, &mask), &z)) in x.iter_mut().zip(known) {
            if mask < 0.5 {
                *x = (a * f64::from(known) + s * f64::from(z)) as f32;
            }
        }
    }
}

/// x_0 as it is handed out.
pub(super) fn handed_out(clean: &[f64]) -> Vec<f32> {
    clean.iter().map(|&x| x as f32).collect()
}
