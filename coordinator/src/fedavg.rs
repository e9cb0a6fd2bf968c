//! Federated averaging over files: the mean of the sites' weights, weighted by examples seen
//! (McMahan et al. 2017, algorithm 1: `w <- sum_k (n_k / n) w_k`).
//!
//! One tensor of one site is in memory at a time, beside that tensor's sums. The sums are in f64 and
//! run over the sites in the order of their names, so the result is the same to the byte whatever
//! the order in which the updates came. It blocks on the disk and draws no conclusion from a weight.

use std::path::{Path, PathBuf};

use fedpaint_proto::names::{Blob, SiteName};
use fedpaint_proto::weights::{self, ModelFile, ModelWriter};

/// A site's part of an average.
#[derive(Clone, Debug)]
pub struct Contribution {
    /// Whose it is.
    pub site: SiteName,
    /// The trained model.
    pub weights: PathBuf,
    /// Training examples seen: its weight.
    pub examples: u64,
}

/// Why there is no average.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to average.
    #[error("there are no examples to average over")]
    NoExamples,
    /// A site's model lacks a tensor of the base model.
    #[error("the update of site {site} has no tensor {tensor}")]
    Missing {
        /// Whose model.
        site: SiteName,
        /// Which tensor.
        tensor: String,
    },
    /// A site's tensor has another number of values than the base model's.
    #[error("tensor {tensor} of site {site} has {found} values, the base model has {expected}")]
    Length {
        /// Whose model.
        site: SiteName,
        /// Which tensor.
        tensor: String,
        /// How many values it has.
        found: usize,
        /// How many the base model has.
        expected: usize,
    },
    /// The average of a tensor is not finite.
    #[error("the average of tensor {tensor} is not a finite number")]
    NotFinite {
        /// Which tensor.
        tensor: String,
    },
    /// A model does not read or the average does not write.
    #[error(transparent)]
    Weights(#[from] weights::Error),
}

/// Writes the weighted mean of `contributions` to `out`, with the base model's order of tensors and
/// its description. The file appears only when it is whole and on the disk.
///
/// # Errors
/// If there are no examples, a model does not fit the base, a mean is not finite, or the disk fails.
pub fn average(base: &Path, contributions: &[Contribution], out: &Path) -> Result<Blob, Error> {
    let base = ModelFile::open(base)?;
    let mut parts = open(contributions)?;
    let total: f64 = contributions.iter().map(|c| c.examples as f64).sum();
    if total <= 0.0 {
        return Err(Error::NoExamples);
    }
    let mut writer = ModelWriter::create(out, base.tensors().to_vec(), base.description())?;
    for spec in base.tensors() {
        let mut sums: Vec<f64> = Vec::new();
        for part in &mut parts {
            let values = part.read(&spec.name, spec.len())?;
            // The first site sets the sums rather than adding to zero, so that -0.0 stays itself.
            if sums.is_empty() {
                sums = values.iter().map(|v| part.examples * f64::from(*v)).collect();
            } else {
                for (sum, value) in sums.iter_mut().zip(&values) {
                    *sum += part.examples * f64::from(*value);
                }
            }
        }
        let means: Vec<f32> = sums.iter().map(|sum| (sum / total) as f32).collect();
        if means.iter().any(|mean| !mean.is_finite()) {
            return Err(Error::NotFinite { tensor: spec.name.clone() });
        }
        writer.write(&means)?;
    }
    Ok(writer.finish()?)
}

struct Part<'a> {
    site: &'a SiteName,
    model: ModelFile,
    examples: f64,
}

/// Opens the models of all sites that saw an example, in the order of the sites' names.
fn open(contributions: &[Contribution]) -> Result<Vec<Part<'_>>, Error> {
    let mut sorted: Vec<&Contribution> = contributions.iter().filter(|c| c.examples > 0).collect();
    sorted.sort_by(|a, b| a.site.cmp(&b.site));
    let part = |c: &&'_ Contribution| ModelFile::open(&c.weights);
    let models: Vec<ModelFile> = sorted.iter().map(part).collect::<Result<_, _>>()?;
    let parts = sorted.into_iter().zip(models);
    Ok(parts.map(|(c, model)| Part { site: &c.site, model, examples: c.examples as f64 }).collect())
}

impl Part<'_> {
    fn read(&mut self, tensor: &str, expected: usize) -> Result<Vec<f32>, Error> {
        let (site, tensor_name) = (self.site.clone(), tensor.to_owned());
        let Some(position) = self.model.position(tensor) else {
            return Err(Error::Missing { site, tensor: tensor_name });
        };
        let values = self.model.read(position)?;
        if values.len() == expected {
            Ok(values)
        } else {
            Err(Error::Length { site, tensor: tensor_name, found: values.len(), expected })
        }
    }
}

#[cfg(test)]
mod tests;
