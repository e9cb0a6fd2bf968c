//! How one model differs from another, or an update from what its base model lets expect.

use std::collections::BTreeMap;

use super::{Dtype, ModelFile, TensorSpec};
use crate::plan::ExchangePlan;

/// The most axes of a shape that are told.
const AXES_SHOWN_MAX: usize = 8;

/// How one model differs from another of which it should be a version.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// A tensor is missing.
    #[error("tensor {0} is missing")]
    Missing(String),
    /// A tensor is not in the other model.
    #[error("tensor {0} is not in the base model")]
    Unknown(String),
    /// A tensor has another shape.
    #[error("tensor {name} has shape {}, the base model has {}", axes(found), axes(expected))]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The base model's.
        expected: Vec<usize>,
    },
    /// A tensor has another element type.
    #[error("tensor {name} has element type {found:?}, the base model has {expected:?}")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its element type.
        found: Dtype,
        /// The base model's.
        expected: Dtype,
    },
    /// The file describes another model.
    #[error("the model's description differs from the base model's")]
    Description,
    /// The update does not travel in the form that the plan asks for.
    #[error("the update is {found}, the plan asks for {expected}")]
    Form {
        /// Its form.
        found: ExchangePlan,
        /// The plan's.
        expected: ExchangePlan,
    },
    /// There is nothing of what is to travel.
    #[error("the base model has no tensor of the plan's `exchange.part`")]
    NoPart,
}

/// A shape for people; a file may give a tensor any number of axes.
fn axes(shape: &[usize]) -> String {
    match shape.get(..AXES_SHOWN_MAX) {
        Some(first) if first.len() < shape.len() => {
            format!("{first:?} and so on, {} axes", shape.len())
        }
        _ => format!("{shape:?}"),
    }
}

/// Whether a file has these tensors and describes itself so.
///
/// # Errors
/// The first difference, in the order of the names.
pub(super) fn between(
    file: &ModelFile,
    tensors: &[TensorSpec],
    description: &BTreeMap<String, String>,
) -> Result<(), Mismatch> {
    let by_name = |tensors: &[TensorSpec]| -> BTreeMap<String, TensorSpec> {
        tensors.iter().map(|t| (t.name.clone(), t.clone())).collect()
    };
    let (mine, theirs) = (by_name(file.tensors()), by_name(tensors));
    for (name, expected) in &theirs {
        let Some(found) = mine.get(name) else { return Err(Mismatch::Missing(name.clone())) };
        if found.shape != expected.shape {
            return Err(Mismatch::Shape {
                name: name.clone(),
                found: found.shape.clone(),
                expected: expected.shape.clone(),
            });
        }
        if found.dtype != expected.dtype {
            return Err(Mismatch::Dtype {
                name: name.clone(),
                found: found.dtype,
                expected: expected.dtype,
            });
        }
    }
    if let Some(name) = mine.keys().find(|name| !theirs.contains_key(*name)) {
        return Err(Mismatch::Unknown(name.clone()));
    }
    if file.description() != description {
        return Err(Mismatch::Description);
    }
    Ok(())
}
