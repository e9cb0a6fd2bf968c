//! PyTorch's state dicts: the weights of a network by name, in a safetensors file that does not say
//! what they are of. They are read in any float type, and a model is written as one.
//!
//! The names and layouts are guided-diffusion's on both sides, so nothing is renamed or transposed.
//! No pickle is ever read.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use burn::tensor::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};

use super::blueprint::{self, NULL_CONDITION, TensorSpec};
use super::checkpoint::{MAX_HEADER_BYTES, MAX_PARAMETERS, SPEC_KEY, serialise};
use super::spec::{ModelSpec, SpecError};
use super::weights::{Loose, Weights, WeightsError, initial};

/// The largest state dict, in bytes: the most parameters of a model as f64.
pub const MAX_STATE_BYTES: u64 = 8 * MAX_PARAMETERS as u64 + MAX_HEADER_BYTES + 8;
/// The most misfits that are named; of the others only the number is told.
pub const MAX_NAMED: usize = 10;
/// The most characters of a stranger's tensor name that are repeated.
const MAX_NAME_CHARS: usize = 80;
/// The first bytes of a zip archive, which is what `torch.save` writes.
const ZIP: &[u8] = b"PK\x03\x04";
/// The first byte of a bare pickle, which `torch.save` wrote before version 1.6.
const PICKLE: u8 = 0x80;

/// Why a file is not a state dict of a model.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is larger than any state dict.
    #[error("the state dict has {bytes} bytes, at most {MAX_STATE_BYTES} are read")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// The header is longer than any state dict's.
    #[error("the state dict's header has {bytes} bytes, at most {MAX_HEADER_BYTES} are read")]
    HeaderTooLarge {
        /// Its length as the file claims it.
        bytes: u64,
    },
    /// The spec describes more parameters than are read.
    #[error("the model has {parameters} parameters, at most {MAX_PARAMETERS} are read")]
    TooManyParameters {
        /// As many as the spec describes.
        parameters: usize,
    },
    /// The file is PyTorch's own format, which runs code when it is read.
    #[error(
        "the file is a PyTorch pickle, which can run code and is never read, convert it where it was \
         made: python3 -c \"import sys, torch; from safetensors.torch import save_file; \
         save_file({{k: v.contiguous() for k, v in torch.load(sys.argv[1], map_location='cpu', \
         weights_only=True).items()}}, sys.argv[2])\" MODEL.pt MODEL.safetensors"
    )]
    Pickle,
    /// The file is not safetensors.
    #[error("the state dict is not a safetensors file: {0}")]
    Safetensors(#[from] SafeTensorError),
    /// The spec describes no network.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The tensors are not the spec's.
    #[error("the state dict is not one of this model: {0}")]
    Misfits(Misfits),
    /// A value is not finite.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// Everything in which a state dict differs from a spec: what is missing first, then what is bent,
/// then what is too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfits(Vec<Misfit>);

/// One tensor that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Misfit {
    Missing { name: String },
    Shape { name: String, found: Vec<usize>, expected: Vec<usize> },
    Dtype { name: String, found: Dtype },
    Unexpected { name: String },
}

/// The weights of a model of `spec` from the bytes of a state dict. A missing null condition, which
/// networks trained without guidance lack, starts as a new model of this `seed` starts.
///
/// # Errors
/// [`StateError`] if the bytes are no state dict, or names every tensor that does not fit the spec.
pub fn adopt(bytes: &[u8], spec: &ModelSpec, seed: u64) -> Result<Weights, StateError> {
    check(bytes)?;
    spec.validate()?;
    let parameters = blueprint::parameters(spec);
    if parameters > MAX_PARAMETERS {
        return Err(StateError::TooManyParameters { parameters });
    }
    let file = SafeTensors::deserialize(bytes)?;
    let mut found: BTreeMap<&str, TensorView<'_>> = file.iter().collect();
    let (mut misfits, mut bent) = (Vec::new(), Vec::new());
    let mut loose: BTreeMap<String, Loose> = BTreeMap::new();
    for tensor in blueprint::tensors(spec) {
        let Some(view) = found.remove(tensor.name.as_str()) else {
            if tensor.name == NULL_CONDITION {
                loose.insert(tensor.name.clone(), start(&tensor, seed));
            } else {
                misfits.push(Misfit::Missing { name: tensor.name });
            }
            continue;
        };
        let TensorSpec { name, shape: expected, .. } = tensor;
        if view.shape() != expected {
            bent.push(Misfit::Shape { name, found: view.shape().to_vec(), expected });
        } else if !is_float(view.dtype()) {
            bent.push(Misfit::Dtype { name, found: view.dtype() });
        } else if misfits.is_empty() && bent.is_empty() {
            // Once something is wrong nothing more is converted, only looked at.
            loose.insert(name, (expected, floats(&view).unwrap_or_default()));
        }
    }
    misfits.extend(bent);
    misfits.extend(found.into_keys().map(|name| Misfit::Unexpected { name: name.to_owned() }));
    if !misfits.is_empty() {
        return Err(StateError::Misfits(Misfits(misfits)));
    }
    Ok(Weights::from_tensors(spec, loose)?)
}

/// Whether the file says what it is a model of, so that [`super::checkpoint`] can read it.
///
/// # Errors
/// [`StateError`] if the bytes are no safetensors file.
pub fn carries_spec(bytes: &[u8]) -> Result<bool, StateError> {
    check(bytes)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    Ok(metadata.metadata().as_ref().is_some_and(|metadata| metadata.contains_key(SPEC_KEY)))
}

/// A model as the bytes of a state dict that `safetensors.torch.load_file` gives to
/// `load_state_dict`.
///
/// # Errors
/// [`SafeTensorError`] if the tensors cannot be laid out; a complete [`Weights`] can.
pub fn to_bytes(weights: &Weights) -> Result<Vec<u8>, SafeTensorError> {
    // PyTorch's own libraries write this key and some refuse a file without it.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialise(weights, metadata)
}

/// The values of a float tensor as f32, rounded to nearest, row-major; none for any other type.
pub fn floats(view: &TensorView<'_>) -> Option<Vec<f32>> {
    fn words<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        data.as_chunks::<N>().0.iter().map(|word| value(*word)).collect()
    }
    let data = view.data();
    match view.dtype() {
        Dtype::F16 => Some(words(data, |word| f16::from_le_bytes(word).to_f32())),
        Dtype::BF16 => Some(words(data, |word| bf16::from_le_bytes(word).to_f32())),
        Dtype::F32 => Some(words(data, f32::from_le_bytes)),
        Dtype::F64 => Some(words(data, |word| f64::from_le_bytes(word) as f32)),
        _ => None,
    }
}

/// Whether [`floats`] reads it.
fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

/// Refuses what is too large or a pickle, before anything is parsed.
fn check(bytes: &[u8]) -> Result<(), StateError> {
    if bytes.len() as u64 > MAX_STATE_BYTES {
        return Err(StateError::TooLarge { bytes: bytes.len() as u64 });
    }
    // Byte 8 of a safetensors file opens its header; the bytes before are the header's length, and
    // some length looks like a pickle.
    let opens = bytes.get(8) == Some(&b'{');
    if !opens && (bytes.starts_with(ZIP) || bytes.first() == Some(&PICKLE)) {
        return Err(StateError::Pickle);
    }
    match bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length)) {
        Some(bytes) if bytes > MAX_HEADER_BYTES => Err(StateError::HeaderTooLarge { bytes }),
        _ => Ok(()),
    }
}

/// What a new model of this seed has for one tensor.
fn start(tensor: &TensorSpec, seed: u64) -> Loose {
    (tensor.shape.clone(), initial(tensor, seed))
}

impl fmt::Display for Misfits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, misfit) in self.0.iter().take(MAX_NAMED).enumerate() {
            let gap = if i == 0 { "" } else { ", " };
            write!(f, "{gap}{misfit}")?;
        }
        match self.0.len().saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::Missing { name } => write!(f, "{name} is missing"),
            Misfit::Shape { name, found, expected } => {
                write!(f, "{name} has shape {found:?} and not {expected:?}")
            }
            Misfit::Dtype { name, found } => {
                write!(f, "{name} is of type {found:?} and not F16, BF16, F32 or F64")
            }
            Misfit::Unexpected { name } => {
                let short: String = name.chars().take(MAX_NAME_CHARS).collect();
                write!(f, "{} is not part of the model", short.escape_debug())
            }
        }
    }
}

#[cfg(test)]
mod tests;
