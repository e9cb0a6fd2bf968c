//! A model file in the making: its tensors in their order, in parts of any length. It appears under its name
//! only when it is whole and on the disk.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};

use super::{Error, PREFIX_BYTES, SYNC, TensorSpec, WRITE, bounded, sync_folder};
use crate::failpoint::reach;
use crate::hashed::Hashed;
use crate::limits::TENSORS_MAX;
use crate::names::Blob;

/// Writes a model file part by part, hashing as it goes.
///
/// The file appears under its name only when it is whole and on the disk.
#[derive(Debug)]
pub struct ModelWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: Hashed,
    tensors: std::vec::IntoIter<TensorSpec>,
    /// How many values of the tensor that is due have been written.
    written: usize,
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
        tensors.iter().try_for_each(TensorSpec::must_be_f32)?;
        ModelWriter::of_any_type(path, tensors, description)
    }

    /// [`ModelWriter::create`] for tensors of any type.
    pub(super) fn of_any_type(
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
            file: Hashed::new(file),
            tensors: tensors.into_iter(),
            written: 0,
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

    /// Writes the values of the tensor that is due, all of them.
    ///
    /// # Errors
    /// If there is none due, it has another length, or the disk fails.
    pub fn write(&mut self, values: &[f32]) -> Result<(), Error> {
        if self.left() != Some(values.len()) {
            return Err(self.wrong_length(values.len()));
        }
        self.write_part(values)
    }

    /// Writes the next values of the tensor that is due: as many as there are, at most all that it lacks.
    ///
    /// # Errors
    /// If there is none due, it lacks fewer values, or the disk fails.
    pub fn write_part(&mut self, values: &[f32]) -> Result<(), Error> {
        if self.left().is_none_or(|left| left < values.len()) {
            return Err(self.wrong_length(values.len()));
        }
        if cfg!(target_endian = "big") {
            let turned: Vec<u32> = values.iter().map(|value| value.to_bits().to_le()).collect();
            self.put(bytemuck::cast_slice(&turned))?;
        } else {
            self.put(bytemuck::cast_slice(values))?;
        }
        self.written += values.len();
        if self.left() == Some(0) {
            self.tensors.next();
            self.written = 0;
        }
        Ok(())
    }

    /// Writes the bytes of the tensor that is due, all of them, of whatever type it is.
    ///
    /// # Errors
    /// If there is none due, it has another length, or the disk fails.
    pub(super) fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let due = self.tensors.next();
        let (name, expected) = due.map_or_else(Default::default, |t| (t.name.clone(), t.bytes()));
        if bytes.len() != expected {
            return Err(Error::Length { name, found: bytes.len(), expected });
        }
        self.put(bytes)
    }

    /// How many values the tensor that is due lacks.
    fn left(&self) -> Option<usize> {
        self.due().map(|due| due.len() - self.written)
    }

    fn wrong_length(&self, found: usize) -> Error {
        let name = self.due().map_or_else(String::new, |due| due.name.clone());
        Error::Length { name, found, expected: self.left().unwrap_or_default() }
    }

    /// Brings the file to the disk and under its name.
    ///
    /// # Errors
    /// If a tensor is still due or the disk fails.
    pub fn finish(self) -> Result<Blob, Error> {
        let path = self.path.clone();
        let blob = self.finish_for_now()?;
        let synced = reach("model.folder").and_then(|()| sync_folder(&path));
        if synced.is_err() {
            // Its name might not last, so nobody is to find it.
            let _ = std::fs::remove_file(&path);
        }
        synced.map_err(failed(SYNC, &path))?;
        Ok(blob)
    }

    /// The same for a file that is given another name before anybody counts on it: that it has this one is
    /// not brought to the disk.
    ///
    /// # Errors
    /// As [`ModelWriter::finish`].
    pub fn finish_for_now(mut self) -> Result<Blob, Error> {
        if self.due().is_some() {
            return Err(self.wrong_length(0));
        }
        let whole = reach("model.flush").and_then(|()| self.file.whole());
        let (file, blob) = whole.map_err(failed(WRITE, &self.path))?;
        let synced = reach("model.sync").and_then(|()| file.sync_all());
        synced.map_err(failed(SYNC, &self.path))?;
        reach("model.rename")
            .and_then(|()| std::fs::rename(&self.temporary, &self.path))
            .map_err(failed(WRITE, &self.path))?;
        self.finished = true;
        Ok(blob)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
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

/// The header of a file of these tensors: the JSON alone, without its length.
pub(super) fn header(
    tensors: &[TensorSpec],
    description: &BTreeMap<String, String>,
) -> Result<Vec<u8>, Error> {
    bounded("tensors", tensors.len() as u64, (TENSORS_MAX as u64, "TENSORS_MAX"))?;
    let mut offset = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for spec in tensors {
        let end = offset + spec.bytes();
        let TensorSpec { name, dtype, shape } = spec.clone();
        infos.push((name, TensorInfo { dtype, shape, data_offsets: (offset, end) }));
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
