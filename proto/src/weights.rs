//! A model as named tensors in a safetensors file, read and written in parts of a tensor, so that what is in
//! memory does not grow with the model.
//!
//! Nothing here knows what the tensors mean. A file is read by position and never mapped, so a file
//! that shrinks under a reader is an error and not a crash.

pub mod blocks;
mod encode;
mod mismatch;
pub mod passing;
mod ranges;
mod update;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

pub use self::encode::{Encoded, Sources, encode};
pub use self::mismatch::Mismatch;
pub use self::ranges::Ranges;
pub use self::update::Update;
pub use self::writer::ModelWriter;
use crate::failpoint::reach;
use crate::limits::{
    FORMAT_BYTES_MAX, MODEL_BYTES_MAX, MODEL_HEADER_BYTES_MAX, TENSOR_NAME_BYTES_MAX, TENSORS_MAX,
};
use crate::text;

/// How much of a file is read or written at a time. More is no faster, and an allocator's arena that once
/// had a large buffer keeps its room: a process would grow for hours, by one for every thread that comes
/// to use files.
pub const BUFFER_BYTES: usize = 64 << 10;

/// The length of the number that tells how long the header is.
const PREFIX_BYTES: u64 = 8;

/// What [`Error::Io`] calls writing.
const WRITE: &str = "write";

/// What [`Error::Io`] calls bringing to the disk.
const SYNC: &str = "sync";

/// Bytes of one f32.
const F32_BYTES: usize = 4;

/// A model's name, element type and shape of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// The name, such as `input_blocks.0.0.weight`.
    pub name: String,
    /// The element type.
    pub dtype: Dtype,
    /// The length of each axis, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// How many elements the tensor has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes the tensor has; types of less than a byte are none of ours.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.bitsize() / 8
    }

    fn must_be_f32(&self) -> Result<(), Error> {
        match self.dtype {
            Dtype::F32 => Ok(()),
            dtype => Err(Error::Dtype { name: self.name.clone(), dtype }),
        }
    }
}

/// Why a file is not a model that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not open, read or write.
    #[error("cannot {what} the model file {}: {source}", path.display())]
    Io {
        /// Open, read, write, or sync.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are not safetensors.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// A bound is broken.
    #[error("the model has {found} {what}, more than the {max} a model may have ({limit})")]
    TooLarge {
        /// Bytes, tensors, ...
        what: &'static str,
        /// How many it has.
        found: u64,
        /// How many it may have.
        max: u64,
        /// The limit's name.
        limit: &'static str,
    },
    /// A tensor is not of 32-bit floats.
    #[error("tensor {name} has element type {dtype:?}, it must have F32")]
    Dtype {
        /// The tensor.
        name: String,
        /// What it has.
        dtype: Dtype,
    },
    /// The numbers of an encoded tensor are none, or cannot be encoded.
    #[error("tensor {name}: {error}")]
    Blocks {
        /// The tensor.
        name: String,
        /// What is wrong with them.
        error: blocks::Error,
    },
    /// The caller wrote another tensor than the one that is due.
    #[error("tensor {name} was given {found} values, it has {expected}")]
    Length {
        /// The tensor.
        name: String,
        /// How many values came.
        found: usize,
        /// How many it has.
        expected: usize,
    },
}

impl Error {
    fn format(error: &dyn std::error::Error) -> Error {
        Error::Format(text::line(&error.to_string(), FORMAT_BYTES_MAX))
    }

    /// Whether a file could not be written or synced, which says nothing against any model.
    pub fn is_failed_write(&self) -> bool {
        matches!(self, Error::Io { what: WRITE | SYNC, .. })
    }

    /// Whether a file could not be synced: what of it is on the disk is not known, and syncing it
    /// again would not tell.
    pub fn is_failed_sync(&self) -> bool {
        matches!(self, Error::Io { what: SYNC, .. })
    }
}

/// An open model file.
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    file: File,
    tensors: Vec<TensorSpec>,
    /// Where each tensor's bytes begin in the file.
    starts: Vec<u64>,
    description: BTreeMap<String, String>,
}

impl ModelFile {
    /// Opens a model and checks its header, but no weight.
    ///
    /// # Errors
    /// If the file does not open, is not safetensors, or is beyond the limits.
    pub fn open(path: &Path) -> Result<ModelFile, Error> {
        let io = |source| Error::Io { what: "open", path: path.to_owned(), source };
        let mut file = reach("model.open").and_then(|()| File::open(path)).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        bounded("bytes", size, (MODEL_BYTES_MAX, "MODEL_BYTES_MAX"))?;
        if size < PREFIX_BYTES {
            return Err(Error::Format("it has no header".into()));
        }
        let mut prefix = [0; PREFIX_BYTES as usize];
        file.read_exact(&mut prefix).map_err(io)?;
        let header_bytes = u64::from_le_bytes(prefix);
        // The first bytes of another kind of file are a number far beyond its size.
        if header_bytes > size - PREFIX_BYTES {
            return Err(Error::Format("it ends within its header".into()));
        }
        let max = (MODEL_HEADER_BYTES_MAX, "MODEL_HEADER_BYTES_MAX");
        bounded("bytes of header", header_bytes, max)?;
        let data_start = PREFIX_BYTES + header_bytes;
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(io)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|e| Error::format(&e))?;
        let data_bytes = header.data_len() as u64;
        if data_start + data_bytes != size {
            return Err(Error::Format(format!(
                "its header tells of {data_bytes} bytes of weights, it has {}",
                size - data_start
            )));
        }
        let (tensors, starts) = specs(&header, data_start)?;
        let description = header.metadata().iter().flatten();
        let description = description.map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(ModelFile { path: path.to_owned(), file, tensors, starts, description })
    }

    /// The tensors in the file's order.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// What the file says of itself: the `__metadata__` of its header.
    pub fn description(&self) -> &BTreeMap<String, String> {
        &self.description
    }

    /// Where a tensor is in [`ModelFile::tensors`].
    pub fn position(&self, name: &str) -> Option<usize> {
        self.tensors.iter().position(|t| t.name == name)
    }

    /// The values of the tensor at `position`, in row-major order.
    ///
    /// # Errors
    /// If the tensor is not of f32 or does not read.
    pub fn read(&self, position: usize) -> Result<Vec<f32>, Error> {
        let mut values = vec![0.0; self.tensors[position].len()];
        self.read_part(position, 0, &mut values)?;
        Ok(values)
    }

    /// Fills `values` with those of the tensor at `position` from its `first` on, in row-major order.
    /// Several threads may do so at once.
    ///
    /// # Errors
    /// If the tensor is not of f32, has fewer values, or does not read.
    pub fn read_part(
        &self,
        position: usize,
        first: usize,
        values: &mut [f32],
    ) -> Result<(), Error> {
        let spec = &self.tensors[position];
        spec.must_be_f32()?;
        let (found, expected) = (first.saturating_add(values.len()), spec.len());
        if found > expected {
            return Err(Error::Length { name: spec.name.clone(), found, expected });
        }
        let io = |source| Error::Io { what: "read", path: self.path.clone(), source };
        reach("model.read").map_err(io)?;
        let at = self.starts[position] + (first * F32_BYTES) as u64;
        read_values(&self.file, at, values).map_err(io)
    }

    /// The first tensor that holds a value which is not finite, if one does.
    ///
    /// # Errors
    /// If a tensor does not read.
    pub fn first_not_finite(&self) -> Result<Option<String>, Error> {
        let mut values = vec![0.0; BUFFER_BYTES / F32_BYTES];
        for (position, spec) in self.tensors.iter().enumerate() {
            // An empty tensor is asked too, for its element type.
            for first in (0..spec.len().max(1)).step_by(values.len()) {
                let part = values.len().min(spec.len() - first);
                self.read_part(position, first, &mut values[..part])?;
                // Without a branch per value, so that the compiler makes vectors of it.
                if !values[..part].iter().fold(true, |finite, v| finite & v.is_finite()) {
                    return Ok(Some(spec.name.clone()));
                }
            }
        }
        Ok(None)
    }

    /// Whether this model has the tensors and the description of `base`.
    ///
    /// # Errors
    /// The first difference, in the order of the names.
    pub fn matches(&self, base: &ModelFile) -> Result<(), Mismatch> {
        mismatch::between(self, &base.tensors, &base.description)
    }
}

/// Fills `values` with little-endian numbers that begin `at` bytes into a file.
fn read_values(file: &File, at: u64, values: &mut [f32]) -> std::io::Result<()> {
    file.read_exact_at(bytemuck::cast_slice_mut(values), at)?;
    if cfg!(target_endian = "big") {
        for value in values {
            *value = f32::from_bits(u32::from_le(value.to_bits()));
        }
    }
    Ok(())
}

fn specs(header: &Metadata, data_start: u64) -> Result<(Vec<TensorSpec>, Vec<u64>), Error> {
    let names = header.offset_keys();
    bounded("tensors", names.len() as u64, (TENSORS_MAX as u64, "TENSORS_MAX"))?;
    let mut specs = Vec::with_capacity(names.len());
    let mut starts = Vec::with_capacity(names.len());
    for name in names {
        let max = (TENSOR_NAME_BYTES_MAX as u64, "TENSOR_NAME_BYTES_MAX");
        bounded("bytes in a tensor's name", name.len() as u64, max)?;
        if name.contains(char::is_control) {
            return Err(Error::Format("a tensor's name holds a control character".into()));
        }
        let Some(TensorInfo { dtype, shape, data_offsets }) = header.info(&name) else { continue };
        starts.push(data_start + data_offsets.0 as u64);
        specs.push(TensorSpec { name, dtype: *dtype, shape: shape.clone() });
    }
    Ok((specs, starts))
}

/// Whether there are no more than there may be, by a limit and its name.
fn bounded(what: &'static str, found: u64, (max, limit): (u64, &'static str)) -> Result<(), Error> {
    if found <= max { Ok(()) } else { Err(Error::TooLarge { what, found, max, limit }) }
}

/// Makes a rename last: the folder's entry is on the disk only after the folder is synced.
///
/// # Errors
/// If the folder does not open or sync.
pub fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests;
