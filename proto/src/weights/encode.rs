//! Making an update of a trained model in the form in which it travels, one tensor at a time.
//!
//! What is encoded is the trained model and what the last update left out of its own, less the base model;
//! what is left out this time goes into a file of its own, which never leaves the site (error feedback:
//! Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847, algorithm 2).

use std::collections::BTreeMap;
use std::path::Path;

use super::{Error, ModelFile, ModelWriter, TensorSpec, blocks, update};
use crate::names::Blob;
use crate::plan::ExchangePlan;

/// Under what the file describes itself that holds what an update left out.
const REMAINDER_KEY: &str = "fedpaint.remainder";

/// What an update is made of.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The model that was trained from.
    pub base: &'a Path,
    /// The model that came out.
    pub trained: &'a Path,
    /// What the last update left out.
    pub remainder: Option<&'a Path>,
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The update.
    pub update: Blob,
    /// What it leaves out; none where nothing is lost.
    pub remainder: Option<Blob>,
}

/// Makes the update at `update` and what it leaves out at `remainder`. Either file appears when it is whole
/// and on the disk, the update last. It takes five times the memory of the largest tensor.
///
/// # Errors
/// If a source does not read or is not of the base model's tensors, a number cannot be encoded, or the disk
/// fails.
pub fn encode(
    form: ExchangePlan,
    sources: Sources<'_>,
    update: &Path,
    remainder: &Path,
) -> Result<Encoded, Error> {
    let base = ModelFile::open(sources.base)?;
    let trained = ModelFile::open(sources.trained)?;
    let before = sources.remainder.map(ModelFile::open).transpose()?;
    let description = update::description(&base, form);
    let tensors = update::tensors(&base, form);
    let mut writer = ModelWriter::of_any_type(update, tensors, &description)?;
    let travel = base.tensors().iter().enumerate();
    let travel: Vec<(usize, TensorSpec)> = travel
        .filter(|(_, tensor)| form.part.has(&tensor.name))
        .map(|(at, tensor)| (at, tensor.clone()))
        .collect();
    let mut left_out = match form.encoding.is_lossless() {
        true => None,
        false => {
            let tensors = travel.iter().map(|(_, tensor)| tensor.clone()).collect();
            let description = BTreeMap::from([(REMAINDER_KEY.to_owned(), form.to_string())]);
            Some(ModelWriter::create(remainder, tensors, &description)?)
        }
    };
    for (at, tensor) in travel {
        let values = same(&trained, "the trained model", &tensor)?;
        let Some(left_out) = &mut left_out else {
            writer.write(&values)?;
            continue;
        };
        let base = base.read(at)?;
        let wanted: Vec<f64> = match &before {
            None => values.into_iter().map(f64::from).collect(),
            Some(before) => {
                let before = same(before, "what the last update left out", &tensor)?;
                let both = values.iter().zip(&before);
                both.map(|(value, before)| f64::from(*value) + f64::from(*before)).collect()
            }
        };
        let changes =
            wanted.iter().zip(&base).map(|(wanted, base)| (wanted - f64::from(*base)) as f32);
        let mut changes: Vec<f32> = changes.collect();
        let named = |error| Error::Blocks { name: tensor.name.clone(), error };
        let mut bytes = Vec::with_capacity(blocks::bytes(form.encoding, changes.len()));
        blocks::encode(form.encoding, &changes, &mut bytes).map_err(named)?;
        writer.write_bytes(&bytes)?;
        // What whoever reads it will make of it, to the last digit.
        blocks::decode(form.encoding, &bytes, &mut changes).map_err(named)?;
        for ((change, base), wanted) in changes.iter_mut().zip(&base).zip(&wanted) {
            *change = (wanted - f64::from(base + *change)) as f32;
        }
        if changes.iter().any(|left| !left.is_finite()) {
            return Err(named(blocks::Error::NotFinite));
        }
        left_out.write(&changes)?;
    }
    let remainder = left_out.map(ModelWriter::finish).transpose()?;
    Ok(Encoded { update: writer.finish()?, remainder })
}

/// The values of the tensor of this name and shape.
fn same(model: &ModelFile, whose: &str, tensor: &TensorSpec) -> Result<Vec<f32>, Error> {
    let position = model.position(&tensor.name);
    match position.filter(|at| model.tensors()[*at].shape == tensor.shape) {
        Some(position) => model.read(position),
        None => Err(Error::Format(format!("{whose} has no tensor {} of this shape", tensor.name))),
    }
}
