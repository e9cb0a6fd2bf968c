//! The weighted mean of one tensor over the sites, read from their files one after the other. It
//! writes nothing and knows no plan.

use std::path::Path;

use fedpaint_proto::names::SiteName;
use fedpaint_proto::weights::{ModelFile, TensorSpec};

use super::{Contribution, Error, discount};

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

/// The sites' models: fresh ones in the order of the sites' names, then late ones.
pub(super) struct Sites {
    parts: Vec<Part>,
    weight: f64,
}

/// One update.
struct Part {
    model: Tensors,
    /// The model it was trained from, if that is not the round's base model.
    own_base: Option<Tensors>,
    weight: f64,
}

impl Sites {
    /// Opens the models of all sites that saw an example.
    ///
    /// # Errors
    /// If none did, or a model does not open.
    pub(super) fn open(contributions: &[Contribution], exponent: f64) -> Result<Sites, Error> {
        let mut sorted: Vec<&Contribution> =
            contributions.iter().filter(|c| c.examples > 0).collect();
        sorted.sort_by(|a, b| order(a).cmp(&order(b)));
        let parts: Vec<Part> =
            sorted.into_iter().map(|c| Part::open(c, exponent)).collect::<Result<_, _>>()?;
        let weight: f64 = parts.iter().map(|part| part.weight).sum();
        if weight <= 0.0 {
            return Err(Error::NoExamples);
        }
        Ok(Sites { parts, weight })
    }

    /// The weighted mean of a tensor, in f64. `base` is the round's base model; it is read only where
    /// an update comes from another.
    ///
    /// # Errors
    /// If a model does not have the tensor or does not read.
    pub(super) fn mean(
        &mut self,
        spec: &TensorSpec,
        base: &mut Tensors,
    ) -> Result<Vec<f64>, Error> {
        let mut sums: Vec<f64> = Vec::new();
        for part in &mut self.parts {
            part.add(&mut sums, spec, base)?;
        }
        sums.iter_mut().for_each(|sum| *sum /= self.weight);
        Ok(sums)
    }
}

impl Part {
    fn open(c: &Contribution, exponent: f64) -> Result<Part, Error> {
        let model = Tensors::open(&c.weights, format!("the update of site {}", c.site))?;
        let examples = c.examples as f64;
        let Some(stale) = &c.stale else {
            return Ok(Part { model, own_base: None, weight: examples });
        };
        let own_base = format!("the model that the late update of site {} began from", c.site);
        let own_base = Some(Tensors::open(&stale.base, own_base)?);
        Ok(Part { model, own_base, weight: examples * discount(stale.rounds, exponent) })
    }

    /// Adds the tensor's weighted values to `sums`. A late update stands where it would be had it been
    /// trained from `base`: w_late + base_now - base_then.
    fn add(
        &mut self,
        sums: &mut Vec<f64>,
        spec: &TensorSpec,
        base: &mut Tensors,
    ) -> Result<(), Error> {
        let weight = self.weight;
        let values = self.model.read(spec)?;
        let Some(own_base) = &mut self.own_base else {
            add(sums, values.iter().map(|value| weight * f64::from(*value)));
            return Ok(());
        };
        let (then, now) = (own_base.read(spec)?, base.read(spec)?);
        let moved = values.iter().zip(&then).zip(&now).map(|((late, then), now)| {
            weight * (f64::from(*late) + f64::from(*now) - f64::from(*then))
        });
        add(sums, moved);
        Ok(())
    }
}

/// The first site sets the sums rather than adding to zero, so that -0.0 stays itself.
fn add(sums: &mut Vec<f64>, weighted: impl Iterator<Item = f64>) {
    if sums.is_empty() {
        sums.extend(weighted);
        return;
    }
    for (sum, value) in sums.iter_mut().zip(weighted) {
        *sum += value;
    }
}

/// Fresh updates by their sites' names, then late ones by their sites' names.
fn order(c: &Contribution) -> (bool, &SiteName, Option<u32>) {
    (c.stale.is_some(), &c.site, c.stale.as_ref().map(|stale| stale.rounds))
}
