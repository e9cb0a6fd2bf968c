//! A model's weights on the host: one list of numbers per tensor of the spec's blueprint.
//!
//! A [`Weights`] is always complete, of the right shapes and finite, so whoever holds one may
//! build a network from it without checking again. It never touches a device or a file.

use std::collections::BTreeMap;

use rand::RngExt;

use super::blueprint::{self, Init, TensorSpec};
use super::noise;
use super::spec::{ModelSpec, SpecError};

/// All parameters of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    spec: ModelSpec,
    tensors: Vec<TensorSpec>,
    values: Vec<Vec<f32>>,
}

/// Why a set of tensors is not a model of its spec.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The spec describes no network.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A tensor of the spec is not there.
    #[error("the model has no tensor {name}, which its spec asks for")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor is there that the spec does not have.
    #[error("the model has a tensor {name}, which its spec does not have")]
    Unexpected {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than the spec gives it.
    #[error("tensor {name} has shape {found:?}, its spec asks for {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the spec gives it.
        expected: Vec<usize>,
    },
    /// A value is NaN or infinite.
    #[error("tensor {name} holds {value} at {index}, every weight must be finite")]
    NotFinite {
        /// Its name.
        name: String,
        /// The position of the first such value, row-major.
        index: usize,
        /// The value.
        value: f32,
    },
}

/// A tensor before it is known to belong to a model: its shape and its values, row-major.
pub type Loose = (Vec<usize>, Vec<f32>);

impl Weights {
    /// Starting weights: PyTorch's default initialisation from our own streams, one per tensor, so
    /// that the same seed gives the same bytes on every machine.
    ///
    /// # Errors
    /// [`SpecError`] if the spec describes no network.
    pub fn init(spec: &ModelSpec, seed: u64) -> Result<Weights, SpecError> {
        spec.validate()?;
        let tensors = blueprint::tensors(spec);
        let values = tensors.iter().map(|tensor| initial(tensor, seed)).collect();
        Ok(Weights { spec: spec.clone(), tensors, values })
    }

    /// Weights from named tensors of any origin.
    ///
    /// # Errors
    /// [`WeightsError`] names the first tensor that is missing, of another shape, not finite, or
    /// not the spec's.
    pub fn from_tensors(
        spec: &ModelSpec,
        mut loose: BTreeMap<String, Loose>,
    ) -> Result<Weights, WeightsError> {
        spec.validate()?;
        let tensors = blueprint::tensors(spec);
        let mut values = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            let name = &tensor.name;
            let (found, data) = loose
                .remove(name)
                .ok_or_else(|| WeightsError::Missing { name: name.to_owned() })?;
            if found != tensor.shape || data.len() != tensor.len() {
                let expected = tensor.shape.clone();
                return Err(WeightsError::Shape { name: name.to_owned(), found, expected });
            }
            values.push(data);
        }
        if let Some((name, _)) = loose.pop_first() {
            return Err(WeightsError::Unexpected { name });
        }
        Weights { spec: spec.clone(), tensors, values }.finite()
    }

    /// The same model with other numbers, in blueprint order.
    ///
    /// # Errors
    /// [`WeightsError`] if a tensor has another length than it had or is not finite.
    pub fn with_values(&self, values: Vec<Vec<f32>>) -> Result<Weights, WeightsError> {
        for (i, tensor) in self.tensors.iter().enumerate() {
            let found = values.get(i).map_or(0, Vec::len);
            if found != tensor.len() {
                let (name, expected) = (tensor.name.clone(), tensor.shape.clone());
                return Err(WeightsError::Shape { name, found: vec![found], expected });
            }
        }
        Weights { spec: self.spec.clone(), tensors: self.tensors.clone(), values }.finite()
    }

    /// What the weights are weights of.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Every tensor with its values, in blueprint order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&TensorSpec, &[f32])> {
        self.tensors.iter().zip(self.values.iter().map(Vec::as_slice))
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        self.values.iter().map(Vec::len).sum()
    }

    /// `self` if every value is finite.
    fn finite(self) -> Result<Weights, WeightsError> {
        for (tensor, values) in self.iter() {
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                let (name, value) = (tensor.name.clone(), values[index]);
                return Err(WeightsError::NotFinite { name, index, value });
            }
        }
        Ok(self)
    }
}

/// The starting values of one tensor, from a stream of its own.
pub fn initial(tensor: &TensorSpec, seed: u64) -> Vec<f32> {
    let stream = || {
        let inputs: [&[u8]; 2] = [&seed.to_le_bytes(), tensor.name.as_bytes()];
        noise::stream("fedpaint initial weights v1", &inputs)
    };
    match tensor.init {
        Init::Zeros => vec![0.0; tensor.len()],
        Init::Ones => vec![1.0; tensor.len()],
        Init::Uniform { fan_in } => {
            let bound = 1.0 / (fan_in as f32).sqrt();
            let mut rng = stream();
            (0..tensor.len()).map(|_| rng.random_range(-bound..bound)).collect()
        }
        Init::Normal => noise::normal(&mut stream(), tensor.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::Preset;
    use super::*;

    fn loose(weights: &Weights) -> BTreeMap<String, Loose> {
        weights.iter().map(|(t, v)| (t.name.clone(), (t.shape.clone(), v.to_vec()))).collect()
    }

    fn tiny() -> Weights {
        Weights::init(&ModelSpec::preset(Preset::Tiny), 7).unwrap()
    }

    #[test]
    fn one_seed_gives_one_model_and_another_seed_another() {
        assert_eq!(tiny(), tiny());
        assert_ne!(tiny(), Weights::init(&ModelSpec::preset(Preset::Tiny), 8).unwrap());
    }

    #[test]
    fn weights_start_uniform_within_the_bound_of_their_fan_in() {
        let weights = tiny();
        for (tensor, values) in weights.iter() {
            let fan_in = match tensor.init {
                Init::Uniform { fan_in } => fan_in,
                Init::Normal => {
                    let square = values.iter().map(|v| v * v).sum::<f32>();
                    assert!((square / values.len() as f32 - 1.0).abs() < 0.5, "{square}");
                    continue;
                }
                Init::Zeros | Init::Ones => {
                    assert!(values.iter().all(|&v| v == values[0] && (v == 0.0 || v == 1.0)));
                    continue;
                }
            };
            let bound = 1.0 / (fan_in as f32).sqrt();
            assert!(values.iter().all(|v| v.abs() <= bound), "{}", tensor.name);
            let n = values.len() as f32;
            let variance = values.iter().map(|v| v * v).sum::<f32>() / n;
            if n > 1000.0 {
                assert!((variance * 3.0 / bound.powi(2) - 1.0).abs() < 0.15, "{}", tensor.name);
            }
        }
    }

    #[test]
    fn tensors_that_are_not_a_model_are_refused_by_name() {
        let weights = tiny();
        let spec = weights.spec();
        assert_eq!(Weights::from_tensors(spec, loose(&weights)).unwrap(), weights);

        let mut missing = loose(&weights);
        missing.remove("out.2.bias");
        let error = Weights::from_tensors(spec, missing).unwrap_err();
        assert!(matches!(error, WeightsError::Missing { name } if name == "out.2.bias"));

        let mut extra = loose(&weights);
        extra.insert("trojan".into(), (vec![1], vec![0.0]));
        let error = Weights::from_tensors(spec, extra).unwrap_err();
        assert!(matches!(error, WeightsError::Unexpected { name } if name == "trojan"));

        let mut bent = loose(&weights);
        bent.get_mut("time_embed.0.weight").unwrap().0.swap(0, 1);
        bent.get_mut("time_embed.0.weight").unwrap().0[0] = 15;
        let error = Weights::from_tensors(spec, bent).unwrap_err();
        assert!(matches!(error, WeightsError::Shape { name, .. } if name == "time_embed.0.weight"));

        let mut sick = loose(&weights);
        sick.get_mut("out.0.weight").unwrap().1[3] = f32::NAN;
        let error = Weights::from_tensors(spec, sick).unwrap_err();
        assert!(
            matches!(error, WeightsError::NotFinite { name, index: 3, .. } if name == "out.0.weight")
        );
    }
}
