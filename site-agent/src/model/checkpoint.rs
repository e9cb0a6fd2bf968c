//! A model as one safetensors file that describes itself.
//!
//! The same weights are always the same bytes: tensors in the order of the safetensors crate, and
//! exactly one metadata key. Reading checks everything before a network exists; writing leaves
//! either the whole file or nothing.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};

use super::blueprint;
use super::spec::{ModelSpec, SpecError};
use super::weights::{Loose, Weights, WeightsError};

/// The one key of the file's `__metadata__`; its value is the spec's JSON.
pub const SPEC_KEY: &str = "fedpaint.model";
/// The longest safetensors header that is read, in bytes; the largest preset needs 90 kB.
pub const MAX_HEADER_BYTES: u64 = 1 << 20;
/// The most parameters a file may hold: three times the largest preset.
pub const MAX_PARAMETERS: usize = 400_000_000;
/// The largest model file, in bytes.
pub const MAX_MODEL_BYTES: u64 = 4 * MAX_PARAMETERS as u64 + MAX_HEADER_BYTES + 8;

/// Why a file is not a model, or could not become one.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("cannot read model {path}: {error}")]
    Read {
        /// Where it is.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write model {path}: {error}")]
    Write {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is larger than any model.
    #[error("the model has {bytes} bytes, at most {MAX_MODEL_BYTES} are read")]
    TooLarge {
        /// Its size, or the limit plus one where it grew while it was read.
        bytes: u64,
    },
    /// The header is longer than any model's.
    #[error("the model's header has {bytes} bytes, at most {MAX_HEADER_BYTES} are read")]
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
    /// The file is not safetensors.
    #[error("the model is not a safetensors file: {0}")]
    Safetensors(#[from] SafeTensorError),
    /// The file has no spec.
    #[error(
        "the model does not say what it is: its metadata has no {SPEC_KEY:?}, make one with init-model"
    )]
    NoSpec,
    /// The file's metadata has a key that models do not have.
    #[error("the model's metadata has a key {key:?}, only {SPEC_KEY:?} belongs there")]
    UnexpectedMetadata {
        /// The key.
        key: String,
    },
    /// The spec is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A tensor has another type than f32.
    #[error("tensor {name} is of type {found:?}, a model is of type F32")]
    Dtype {
        /// Its name.
        name: String,
        /// Its type.
        found: Dtype,
    },
    /// The tensors are not the spec's.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// Reads a model file and checks all of it.
///
/// # Errors
/// [`CheckpointError`] if the file cannot be read or is not exactly a model of its own spec.
pub fn load(path: &Path) -> Result<Weights, CheckpointError> {
    let read = |error| CheckpointError::Read { path: path.to_owned(), error };
    let file = File::open(path).map_err(read)?;
    let bytes = file.metadata().map_err(read)?.len();
    if bytes > MAX_MODEL_BYTES {
        return Err(CheckpointError::TooLarge { bytes });
    }
    let mut buffer = Vec::new();
    file.take(MAX_MODEL_BYTES + 1).read_to_end(&mut buffer).map_err(read)?;
    from_bytes(&buffer)
}

/// Writes a model file: a temporary file beside it, made durable, then renamed over it.
///
/// # Errors
/// [`CheckpointError::Write`] if any step fails; then `path` is as it was before.
pub fn save(weights: &Weights, path: &Path) -> Result<(), CheckpointError> {
    let bytes = to_bytes(weights)?;
    let write = |error| CheckpointError::Write { path: path.to_owned(), error };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(write)?;
    file.write_all(&bytes).map_err(write)?;
    file.as_file().sync_all().map_err(write)?;
    file.persist(path).map_err(|error| write(error.error))?;
    // The rename is durable once the folder is.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(write)
}

/// A model as the bytes of its file.
///
/// # Errors
/// [`CheckpointError::Safetensors`] if the tensors cannot be laid out; a complete [`Weights`] can.
pub fn to_bytes(weights: &Weights) -> Result<Vec<u8>, CheckpointError> {
    let metadata = HashMap::from([(SPEC_KEY.to_owned(), weights.spec().to_json())]);
    Ok(serialise(weights, metadata)?)
}

/// The tensors as the bytes of a safetensors file with this metadata.
///
/// # Errors
/// [`SafeTensorError`] if they cannot be laid out; a complete [`Weights`] can.
pub fn serialise(
    weights: &Weights,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, SafeTensorError> {
    let data: Vec<Vec<u8>> = weights.iter().map(|(_, values)| little_endian(values)).collect();
    let mut views = Vec::with_capacity(data.len());
    for ((tensor, _), bytes) in weights.iter().zip(&data) {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?;
        views.push((tensor.name.as_str(), view));
    }
    safetensors::serialize(views, Some(metadata))
}

/// Reads a model from the bytes of its file and checks all of it.
///
/// # Errors
/// [`CheckpointError`] if the bytes are not exactly a model of their own spec.
pub fn from_bytes(bytes: &[u8]) -> Result<Weights, CheckpointError> {
    if bytes.len() as u64 > MAX_MODEL_BYTES {
        return Err(CheckpointError::TooLarge { bytes: bytes.len() as u64 });
    }
    if let Some(length) = bytes.first_chunk::<8>() {
        let header = u64::from_le_bytes(*length);
        if header > MAX_HEADER_BYTES {
            return Err(CheckpointError::HeaderTooLarge { bytes: header });
        }
    }
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let spec = spec_of(metadata.metadata().as_ref())?;
    let parameters = blueprint::parameters(&spec);
    if parameters > MAX_PARAMETERS {
        return Err(CheckpointError::TooManyParameters { parameters });
    }
    let mut loose: BTreeMap<String, Loose> = BTreeMap::new();
    for (name, view) in SafeTensors::deserialize(bytes)?.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(CheckpointError::Dtype { name: name.to_owned(), found: view.dtype() });
        }
        let words = view.data().as_chunks::<4>().0;
        let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        loose.insert(name.to_owned(), (view.shape().to_vec(), values));
    }
    Ok(Weights::from_tensors(&spec, loose)?)
}

/// The spec in a file's metadata.
fn spec_of(metadata: Option<&HashMap<String, String>>) -> Result<ModelSpec, CheckpointError> {
    let metadata = metadata.ok_or(CheckpointError::NoSpec)?;
    let json = metadata.get(SPEC_KEY).ok_or(CheckpointError::NoSpec)?;
    if let Some(key) = metadata.keys().filter(|key| *key != SPEC_KEY).min() {
        return Err(CheckpointError::UnexpectedMetadata { key: key.clone() });
    }
    Ok(ModelSpec::from_json(json)?)
}

/// Values as the file has them.
fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::Preset;

    fn tiny() -> Weights {
        Weights::init(&ModelSpec::preset(Preset::Tiny), 1).unwrap()
    }

    /// The bytes of a safetensors file with this header.
    fn with_header(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn a_model_survives_its_file_and_equal_models_are_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        save(&tiny(), &path).unwrap();
        assert_eq!(load(&path).unwrap(), tiny());
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes, to_bytes(&tiny()).unwrap());
        let spec = ModelSpec::preset(Preset::Tiny).with_image_size(48).unwrap();
        let weights = Weights::init(&spec, 1).unwrap();
        assert_eq!(from_bytes(&to_bytes(&weights).unwrap()).unwrap().spec().image_size, 48);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = to_bytes(&tiny()).unwrap();
        for len in [0, 4, 8, 100, 9000, bytes.len() - 1] {
            assert!(from_bytes(&bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_file_without_a_spec_or_with_another_key_is_refused() {
        let bare = with_header("{}", 0);
        assert!(matches!(from_bytes(&bare), Err(CheckpointError::NoSpec)));
        let json = serde_json::to_string(&tiny().spec().to_json()).unwrap();
        let header = format!("{{\"__metadata__\":{{\"a\":\"b\",\"{SPEC_KEY}\":{json}}}}}");
        let error = from_bytes(&with_header(&header, 0)).unwrap_err();
        assert!(matches!(error, CheckpointError::UnexpectedMetadata { key } if key == "a"));
    }

    #[test]
    fn a_tensor_of_another_type_is_refused_by_name() {
        let json = serde_json::to_string(&tiny().spec().to_json()).unwrap();
        let header = format!(
            "{{\"__metadata__\":{{\"{SPEC_KEY}\":{json}}},\
             \"out.2.bias\":{{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]}}}}"
        );
        let error = from_bytes(&with_header(&header, 2)).unwrap_err();
        assert!(matches!(error, CheckpointError::Dtype { name, .. } if name == "out.2.bias"));
    }

    #[test]
    fn a_header_that_claims_too_much_is_refused_before_it_is_read() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend([b' '; 64]);
        assert!(matches!(from_bytes(&bytes), Err(CheckpointError::HeaderTooLarge { .. })));
    }

    #[test]
    fn a_model_that_cannot_be_written_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(save(&tiny(), &path), Err(CheckpointError::Write { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(load(&folder.path().join("none")), Err(CheckpointError::Read { .. })));
    }
}
