//! A model as named tensors in a safetensors file, read and written one tensor at a time.
//!
//! Nothing here knows what the tensors mean. A file is read by position and never mapped, so a file
//! that shrinks under a reader is an error and not a crash.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::failpoint::reach;
use crate::limits::{
    FORMAT_BYTES_MAX, MODEL_BYTES_MAX, MODEL_HEADER_BYTES_MAX, TENSOR_NAME_BYTES_MAX, TENSORS_MAX,
};
use crate::names::{Blob, Digest};
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

/// The most axes of a shape that are told.
const AXES_SHOWN_MAX: usize = 8;

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
    #[error("the model has {found} {what}, more than the {max} a model may have")]
    TooLarge {
        /// Bytes, tensors, ...
        what: &'static str,
        /// How many it has.
        found: u64,
        /// How many it may have.
        max: u64,
    },
    /// A tensor is not of 32-bit floats.
    #[error("tensor {name} has element type {dtype:?}, it must have F32")]
    Dtype {
        /// The tensor.
        name: String,
        /// What it has.
        dtype: Dtype,
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
        bounded("bytes", size, MODEL_BYTES_MAX)?;
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
        bounded("bytes of header", header_bytes, MODEL_HEADER_BYTES_MAX)?;
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
    pub fn read(&mut self, position: usize) -> Result<Vec<f32>, Error> {
        let spec = &self.tensors[position];
        if spec.dtype != Dtype::F32 {
            return Err(Error::Dtype { name: spec.name.clone(), dtype: spec.dtype });
        }
        let mut bytes = vec![0; spec.len() * F32_BYTES];
        reach("model.read")
            .and_then(|()| self.file.seek(SeekFrom::Start(self.starts[position])))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|source| Error::Io { what: "read", path: self.path.clone(), source })?;
        Ok(bytes.as_chunks::<F32_BYTES>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// The first tensor that holds a value which is not finite, if one does.
    ///
    /// # Errors
    /// If a tensor does not read.
    pub fn first_not_finite(&mut self) -> Result<Option<String>, Error> {
        for position in 0..self.tensors.len() {
            if self.read(position)?.iter().any(|v| !v.is_finite()) {
                return Ok(Some(self.tensors[position].name.clone()));
            }
        }
        Ok(None)
    }

    /// Whether this model has the tensors and the description of `base`.
    ///
    /// # Errors
    /// The first difference, in the order of the names.
    pub fn matches(&self, base: &ModelFile) -> Result<(), Mismatch> {
        let by_name = |model: &ModelFile| -> BTreeMap<String, TensorSpec> {
            model.tensors.iter().map(|t| (t.name.clone(), t.clone())).collect()
        };
        let (mine, theirs) = (by_name(self), by_name(base));
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
        if self.description != base.description {
            return Err(Mismatch::Description);
        }
        Ok(())
    }
}

fn specs(header: &Metadata, data_start: u64) -> Result<(Vec<TensorSpec>, Vec<u64>), Error> {
    let names = header.offset_keys();
    bounded("tensors", names.len() as u64, TENSORS_MAX as u64)?;
    let mut specs = Vec::with_capacity(names.len());
    let mut starts = Vec::with_capacity(names.len());
    for name in names {
        bounded("bytes in a tensor's name", name.len() as u64, TENSOR_NAME_BYTES_MAX as u64)?;
        if name.contains(char::is_control) {
            return Err(Error::Format("a tensor's name holds a control character".into()));
        }
        let Some(TensorInfo { dtype, shape, data_offsets }) = header.info(&name) else { continue };
        starts.push(data_start + data_offsets.0 as u64);
        specs.push(TensorSpec { name, dtype: *dtype, shape: shape.clone() });
    }
    Ok((specs, starts))
}

fn bounded(what: &'static str, found: u64, max: u64) -> Result<(), Error> {
    if found <= max { Ok(()) } else { Err(Error::TooLarge { what, found, max }) }
}

/// Writes a model file tensor by tensor, hashing as it goes.
///
/// The file appears under its name only when it is whole and on the disk.
#[derive(Debug)]
pub struct ModelWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    size: u64,
    tensors: std::vec::IntoIter<TensorSpec>,
    finished: bool,
}

impl ModelWriter {
    /// Begins a model at `path`. Tensors lie in the file in the order given, all of them f32; with
    /// more than one entry in `description` the header would not be reproducible.
    ///
    /// # Errors
    /// If the file cannot be made or the tensors are not a model.
    pub fn create(
        path: &Path,
        tensors: Vec<TensorSpec>,
        description: &BTreeMap<String, String>,
    ) -> Result<ModelWriter, Error> {
        let header = header(&tensors, description)?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".writing");
        let temporary = PathBuf::from(temporary);
        let file = reach("model.create").and_then(|()| File::create(&temporary));
        let file =
            file.map_err(|source| Error::Io { what: WRITE, path: temporary.clone(), source })?;
        let mut writer = ModelWriter {
            path: path.to_owned(),
            temporary,
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            hasher: blake3::Hasher::new(),
            size: 0,
            tensors: tensors.into_iter(),
            finished: false,
        };
        writer.put(&(header.len() as u64).to_le_bytes())?;
        writer.put(&header)?;
        Ok(writer)
    }

    /// The tensor that is due, or none when all are written.
    pub fn due(&self) -> Option<&TensorSpec> {
        self.tensors.as_slice().first()
    }

    /// Writes the values of the tensor that is due.
    ///
    /// # Errors
    /// If there is none due, it has another length, or the disk fails.
    pub fn write(&mut self, values: &[f32]) -> Result<(), Error> {
        let (name, expected) =
            self.tensors.next().map_or_else(Default::default, |t| (t.name.clone(), t.len()));
        if values.len() != expected {
            return Err(Error::Length { name, found: values.len(), expected });
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.put(&bytes)
    }

    /// Brings the file to the disk and under its name.
    ///
    /// # Errors
    /// If a tensor is still due or the disk fails.
    pub fn finish(mut self) -> Result<Blob, Error> {
        if let Some(due) = self.due() {
            let (name, expected) = (due.name.clone(), due.len());
            return Err(Error::Length { name, found: 0, expected });
        }
        reach("model.flush").and_then(|()| self.file.flush()).map_err(failed(WRITE, &self.path))?;
        reach("model.sync")
            .and_then(|()| self.file.get_ref().sync_all())
            .map_err(failed(SYNC, &self.path))?;
        reach("model.rename")
            .and_then(|()| std::fs::rename(&self.temporary, &self.path))
            .map_err(failed(WRITE, &self.path))?;
        let synced = reach("model.folder").and_then(|()| sync_folder(&self.path));
        if synced.is_err() {
            // Its name might not last, so nobody is to find it.
            let _ = std::fs::remove_file(&self.path);
        }
        synced.map_err(failed(SYNC, &self.path))?;
        self.finished = true;
        Ok(Blob { digest: Digest::from(self.hasher.finalize()), size: self.size })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        let written = reach("model.write").and_then(|()| self.file.write_all(bytes));
        written.map_err(|source| Error::Io { what: WRITE, path: self.temporary.clone(), source })
    }
}

impl Drop for ModelWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing half-written is left; if even this fails there is nobody to tell.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// [`Error::Io`] from an `io::Error`.
fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

fn header(
    tensors: &[TensorSpec],
    description: &BTreeMap<String, String>,
) -> Result<Vec<u8>, Error> {
    bounded("tensors", tensors.len() as u64, TENSORS_MAX as u64)?;
    let mut offset = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for TensorSpec { name, dtype, shape } in tensors {
        if *dtype != Dtype::F32 {
            return Err(Error::Dtype { name: name.clone(), dtype: *dtype });
        }
        let end = offset + shape.iter().product::<usize>() * F32_BYTES;
        let info = TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets: (offset, end) };
        infos.push((name.clone(), info));
        offset = end;
    }
    let description: HashMap<String, String> = description.clone().into_iter().collect();
    let description = (!description.is_empty()).then_some(description);
    let metadata = Metadata::new(description, infos).map_err(|e| Error::format(&e))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| Error::format(&e))?;
    // Weights begin at a multiple of eight bytes, as the format asks.
    header.resize(header.len().next_multiple_of(PREFIX_BYTES as usize), b' ');
    Ok(header)
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
