//! A model file of which no more is kept than where some tensors lie, so that very many can be read side by
//! side: without names and shapes, and without being open where the caller wants that.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Dtype, Error, F32_BYTES, ModelFile, read_values};
use crate::failpoint::reach;

/// Tensors of a model file in an order that the caller chose.
#[derive(Debug)]
pub struct Ranges {
    path: PathBuf,
    /// None where it is opened for every reading.
    file: Option<File>,
    /// Where each tensor's bytes begin in the file.
    starts: Arc<[u64]>,
}

impl Ranges {
    /// The tensors at `positions` of a model.
    ///
    /// # Errors
    /// If one of them is not of f32.
    pub fn new(model: ModelFile, positions: &[usize]) -> Result<Ranges, Error> {
        let start = |position: &usize| {
            let spec = &model.tensors[*position];
            match spec.dtype {
                Dtype::F32 => Ok(model.starts[*position]),
                dtype => Err(Error::Dtype { name: spec.name.clone(), dtype }),
            }
        };
        let starts = positions.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Ranges { path: model.path, file: Some(model.file), starts })
    }

    /// The same, which from now on keeps no file open: every reading opens it.
    pub fn closed(self) -> Ranges {
        Ranges { file: None, ..self }
    }

    /// The same; where its tensors lie as those of `other` do, the two know it together.
    pub fn like(self, other: &Ranges) -> Ranges {
        let starts = if self.starts == other.starts { other.starts.clone() } else { self.starts };
        Ranges { starts, ..self }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `values` with those of the `index`th tensor from its `first` on, in row-major order; the caller
    /// knows how many it has. Several threads may do so at once.
    ///
    /// # Errors
    /// If the file does not open or read.
    pub fn read_part(&self, index: usize, first: usize, values: &mut [f32]) -> Result<(), Error> {
        let io = |what| move |source| Error::Io { what, path: self.path.clone(), source };
        let opened = match &self.file {
            Some(_) => None,
            None => Some(
                reach("model.open").and_then(|()| File::open(&self.path)).map_err(io("open"))?,
            ),
        };
        let Some(file) = self.file.as_ref().or(opened.as_ref()) else { return Ok(()) };
        reach("model.read").map_err(io("read"))?;
        let at = self.starts[index] + (first * F32_BYTES) as u64;
        read_values(file, at, values).map_err(io("read"))
    }
}
