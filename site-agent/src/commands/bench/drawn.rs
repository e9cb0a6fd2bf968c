//! A model and examples out of nothing but a seed: as large as real ones, and meaningless.

use anyhow::Result;

use crate::data::example::{Example, REGIONS};
use crate::model::noise;
use crate::model::spec::ModelSpec;
use crate::model::weights::Weights;

/// The deviation of what is added to every weight.
const JITTER: f32 = 0.02;

/// Starting weights moved off their zeros, for a layer of zeros hides the gradients of all before it.
///
/// # Errors
/// If the spec describes no network.
pub(super) fn weights(spec: &ModelSpec, seed: u64) -> Result<Weights> {
    let start = Weights::init(spec, seed)?;
    let mut rng = noise::stream("fedpaint benchmark weights v1", &[&seed.to_le_bytes()]);
    let moved = start.iter().map(|(_, values)| {
        let jitter = noise::normal(&mut rng, values.len());
        values.iter().zip(jitter).map(|(value, e)| value + JITTER * e).collect()
    });
    Ok(start.with_values(moved.collect())?)
}

/// `count` slices of noise, each with a hole of healthy tissue to be learnt.
pub(super) fn examples(spec: &ModelSpec, seed: u64, count: usize) -> Vec<Example> {
    let size = spec.image_size;
    let mut rng = noise::stream("fedpaint benchmark examples v1", &[&seed.to_le_bytes()]);
    let mut slice = |index: usize| {
        let pixels = noise::normal(&mut rng, size * size);
        // A disc in the middle, some 12 % of the slice.
        let away = |i: usize| (2 * i + 1).abs_diff(size).pow(2);
        let inside = |i: usize| away(i % size) + away(i / size) < (2 * size / 5).pow(2);
        let mask: Vec<f32> = (0..size * size).map(|i| f32::from(u8::from(inside(i)))).collect();
        let mut regions = vec![0.0; REGIONS * size * size];
        regions[..size * size].copy_from_slice(&mask);
        let mut condition = [0.0, 0.0, 0.0, 0.0, 0.5, 0.0];
        condition[index % 4] = 1.0;
        Example {
            image: pixels.into_iter().map(|x| (0.3 * x).clamp(-1.0, 1.0)).collect(),
            loss_mask: mask.clone(),
            mask,
            regions,
            condition,
        }
    };
    (0..count).map(&mut slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::diffusion::Diffusion;
    use crate::model::spec::Preset;
    use crate::train::{TrainingOptions, lesson};

    #[test]
    fn what_is_drawn_can_be_learnt_and_follows_from_the_seed() {
        let spec = ModelSpec::preset(Preset::Tiny);
        let (slices, options) = (examples(&spec, 1, 3), TrainingOptions::default());
        let lesson = lesson(&Diffusion::new(&spec), 32, &options, 0, &slices).unwrap();
        assert_eq!(lesson.batch.planes.len(), 3 * 9 * 32 * 32);
        let hidden = slices[0].mask.iter().sum::<f32>() / 1024.0;
        assert!((0.1..0.15).contains(&hidden), "{hidden}");
        assert_eq!(slices, examples(&spec, 1, 3));
        assert_ne!(slices, examples(&spec, 2, 3));
        assert_eq!(weights(&spec, 1).unwrap(), weights(&spec, 1).unwrap());
        for (tensor, values) in weights(&spec, 1).unwrap().iter() {
            assert!(values.iter().any(|&value| value != 0.0), "{}", tensor.name);
        }
    }
}
