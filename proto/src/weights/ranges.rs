//! A model file of which no more is kept than where some tensors lie, so that very many can be read side by
//! side: without names and shapes, and without being open where the caller wants that. An update's file is
//! read likewise, in whatever form it travels, beside the values of its base model.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Error, F32_BYTES, ModelFile, TensorSpec, blocks, read_values};
use crate::failpoint::reach;
use crate::plan::Encoding;

/// Tensors of a model file in an order that the caller chose.
#[derive(Debug)]
pub struct Ranges {
    path: PathBuf,
    /// None where it is opened for every reading.
    file: Option<File>,
    /// Where each tensor's bytes begin in the file; [`ABSENT`] for one that is not there.
    starts: Arc<[u64]>,
    /// How the numbers are written where they are changes, and how many each tensor has.
    changes: Option<(Encoding, Arc<[usize]>)>,
}

/// Where a tensor begins that does not travel.
const ABSENT: u64 = u64::MAX;

impl Ranges {
    /// The tensors at `positions` of a model.
    ///
    /// # Errors
    /// If one of them is not of f32.
    pub fn new(model: ModelFile, positions: &[usize]) -> Result<Ranges, Error> {
        let start = |position: &usize| {
            let spec = &model.tensors[*position];
            spec.must_be_f32().map(|()| model.starts[*position])
        };
        let starts = positions.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Ranges { path: model.path, file: Some(model.file), starts, changes: None })
    }

    /// The tensors at `positions` of an update, as many values of each as `tensors` say; none is a tensor
    /// that the base model's values stand for.
    pub(super) fn encoded(
        update: ModelFile,
        positions: &[Option<usize>],
        encoding: Encoding,
        tensors: &[TensorSpec],
    ) -> Ranges {
        let start = |position: &Option<usize>| position.map_or(ABSENT, |at| update.starts[at]);
        let starts = positions.iter().map(start).collect();
        let lens = || tensors.iter().map(TensorSpec::len).collect();
        let changes = (!encoding.is_lossless()).then(|| (encoding, lens()));
        Ranges { path: update.path, file: Some(update.file), starts, changes }
    }

    /// The same, which from now on keeps no file open: every reading opens it.
    pub fn closed(self) -> Ranges {
        Ranges { file: None, ..self }
    }

    /// The same; where its tensors lie as those of `other` do, the two know it together.
    pub fn like(self, other: &Ranges) -> Ranges {
        let starts = if self.starts == other.starts { other.starts.clone() } else { self.starts };
        let changes =
            if self.changes == other.changes { other.changes.clone() } else { self.changes };
        Ranges { starts, changes, ..self }
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
        let at = self.starts[index] + (first * F32_BYTES) as u64;
        self.read(|file| read_values(file, at, values))
    }

    /// Whether the values of the `index`th tensor are all there, and those of a base model have no part in them.
    pub(super) fn stands_alone(&self, index: usize) -> bool {
        self.starts[index] != ABSENT && self.changes.is_none()
    }

    /// [`Ranges::read_part`] of an update: trained values, of which `base` are the base model's. Where they
    /// travel as changes it takes as much memory again as `values`, and some blocks.
    ///
    /// # Errors
    /// If the file does not open or read, or holds what are no numbers. Values that are not finite are given
    /// as they are.
    pub fn read_beside(
        &self,
        index: usize,
        first: usize,
        base: &[f32],
        values: &mut [f32],
    ) -> Result<(), Error> {
        let start = self.starts[index];
        if start == ABSENT {
            values.copy_from_slice(base);
            return Ok(());
        }
        let Some((encoding, lens)) = &self.changes else {
            return self.read_part(index, first, values);
        };
        // Blocks are read whole.
        let (encoding, block) = (*encoding, blocks::block(*encoding));
        let begin = first / block * block;
        let end = (first + values.len()).next_multiple_of(block).min(lens[index]);
        let at = blocks::bytes(encoding, begin);
        let mut bytes = vec![0; blocks::bytes(encoding, end) - at];
        self.read(|file| file.read_exact_at(&mut bytes, start + at as u64))?;
        let mut changes = vec![0.0; end - begin];
        blocks::decode(encoding, &bytes, &mut changes)
            .map_err(|error| Error::Blocks { name: index.to_string(), error })?;
        for ((value, base), change) in values.iter_mut().zip(base).zip(&changes[first - begin..]) {
            *value = base + change;
        }
        Ok(())
    }

    fn read(&self, reading: impl FnOnce(&File) -> io::Result<()>) -> Result<(), Error> {
        let failed = |what| move |source| Error::Io { what, path: self.path.clone(), source };
        let opened = match &self.file {
            Some(_) => None,
            None => Some(
                reach("model.open")
                    .and_then(|()| File::open(&self.path))
                    .map_err(failed("open"))?,
            ),
        };
        let Some(file) = self.file.as_ref().or(opened.as_ref()) else { return Ok(()) };
        reach("model.read").and_then(|()| reading(file)).map_err(failed("read"))
    }
}
