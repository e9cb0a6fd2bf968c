//! The weighted mean of one tensor over the sites, read from their files one after the other. It
//! writes nothing and knows no plan.

use std::path::Path;

use fedpaint_proto::weights::{ModelFile, TensorSpec};

use super::{Contribution, Error};

/// A file whose tensors are read by the base model's names.
pub(super) struct Tensors {
    whose: String,
    model: ModelFile,
}

impl Tensors {
    /// Opens the file at `path`, which people call `whose`.
    pub(super) fn open(path: &Path, whose: impl Into<String>) -> Result<Tensors, Error> {
        Ok(Tensors { whose: whose.into(), model: ModelFile::open(path)? })
    }

    /// The file itself.
    pub(super) fn model(&self) -> &ModelFile {
        &self.model
    }

    /// The values of the tensor that the base model describes so.
    ///
    /// # Errors
    /// If the file has no such tensor, another number of values, or does not read.
    pub(super) fn read(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, Error> {
        let (whose, tensor) = (self.whose.clone(), spec.name.clone());
        let Some(position) = self.model.position(&spec.name) else {
            return Err(Error::Missing { whose, tensor });
        };
        let (values, expected) = (self.model.read(position)?, spec.len());
        if values.len() == expected {
            Ok(values)
        } else {
            Err(Error::Length { whose, tensor, found: values.len(), expected })
        }
    }
}

/// The sites' models, in the order of the sites' names.
pub(super) struct Sites {
    parts: Vec<(Tensors, f64)>,
    examples: f64,
}

impl Sites {
    /// Opens the models of all sites that saw an example.
    ///
    /// # Errors
    /// If none did, or a model does not open.
    pub(super) fn open(contributions: &[Contribution]) -> Result<Sites, Error> {
        let mut sorted: Vec<&Contribution> =
            contributions.iter().filter(|c| c.examples > 0).collect();
        sorted.sort_by(|a, b| a.site.cmp(&b.site));
        let examples: f64 = sorted.iter().map(|c| c.examples as f64).sum();
        if examples <= 0.0 {
            return Err(Error::NoExamples);
        }
        let part = |c: &Contribution| {
            let tensors = Tensors::open(&c.weights, format!("the update of site {}", c.site))?;
            Ok((tensors, c.examples as f64))
        };
        let parts = sorted.into_iter().map(part).collect::<Result<_, Error>>()?;
        Ok(Sites { parts, examples })
    }

    /// The weighted mean of a tensor, in f64.
    ///
    /// # Errors
    /// If a site's model does not have it or does not read.
    pub(super) fn mean(&mut self, spec: &TensorSpec) -> Result<Vec<f64>, Error> {
        let mut sums: Vec<f64> = Vec::new();
        for (part, examples) in &mut self.parts {
            let values = part.read(spec)?;
            // The first site sets the sums rather than adding to zero, so that -0.0 stays itself.
            if sums.is_empty() {
                sums = values.iter().map(|v| *examples * f64::from(*v)).collect();
            } else {
                for (sum, value) in sums.iter_mut().zip(&values) {
                    *sum += *examples * f64::from(*value);
                }
            }
        }
        sums.iter_mut().for_each(|sum| *sum /= self.examples);
        Ok(sums)
    }
}
