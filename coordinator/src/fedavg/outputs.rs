//! The files of a round in the making, written block after block. None has its name before it is whole and on the
//! disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fedpaint_proto::weights::{ModelFile, ModelWriter, TensorSpec};

use super::{Error, Written};
use crate::aggregate::Aggregate;

/// The description of a file that holds an optimiser's moments, so that none is taken for a model.
const MOMENTS_KEY: &str = "fedpaint.server_state";

/// A file in the making.
pub(super) struct Output {
    what: &'static str,
    path: PathBuf,
    writer: ModelWriter,
}

pub(super) type Outputs = Aggregate<Output>;

impl Outputs {
    /// Begins every file that is wanted.
    ///
    /// # Errors
    /// If one cannot be made.
    pub(super) fn create(base: &ModelFile, files: &Aggregate<PathBuf>) -> Result<Outputs, Error> {
        let create = |what, path: &PathBuf, description: &BTreeMap<String, String>| {
            let writer = ModelWriter::create(path, base.tensors().to_vec(), description)?;
            Ok::<_, Error>(Output { what, path: path.clone(), writer })
        };
        let model = |what, path: &PathBuf| create(what, path, base.description());
        let moments = |what, path: &PathBuf, kind: &str| {
            create(what, path, &BTreeMap::from([(MOMENTS_KEY.to_owned(), kind.to_owned())]))
        };
        let Aggregate { model: new, ema, momentum, second_moment } = files;
        let momentum = momentum.as_ref();
        let second_moment = second_moment.as_ref();
        Ok(Aggregate {
            model: model("the new model", new)?,
            ema: ema.as_ref().map(|path| model("the new moving average", path)).transpose()?,
            momentum: momentum
                .map(|path| moments("the server's momentum", path, "momentum"))
                .transpose()?,
            second_moment: second_moment
                .map(|path| moments("the server's second moment", path, "second_moment"))
                .transpose()?,
        })
    }

    /// Writes the next block of every file, which is one of the tensor `spec`.
    ///
    /// # Errors
    /// If a number is not finite or the disk fails.
    pub(super) fn write(
        &mut self,
        spec: &TensorSpec,
        made: Aggregate<Vec<f32>>,
    ) -> Result<(), Error> {
        self.model.write(&spec.name, &made.model)?;
        for (output, values) in [
            (&mut self.ema, made.ema),
            (&mut self.momentum, made.momentum),
            (&mut self.second_moment, made.second_moment),
        ] {
            if let (Some(output), Some(values)) = (output, values) {
                output.write(&spec.name, &values)?;
            }
        }
        Ok(())
    }

    /// Brings every file to the disk and under its name. That it has this name is not: it is the driver that
    /// gives each file the name which is to last.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn finish(self) -> Result<Aggregate<Written>, Error> {
        let finish = |output: Output| {
            let Output { path, writer, .. } = output;
            Ok::<_, Error>(Written { path, blob: writer.finish_for_now()? })
        };
        Ok(Aggregate {
            model: finish(self.model)?,
            ema: self.ema.map(finish).transpose()?,
            momentum: self.momentum.map(finish).transpose()?,
            second_moment: self.second_moment.map(finish).transpose()?,
        })
    }
}

impl Output {
    fn write(&mut self, tensor: &str, values: &[f32]) -> Result<(), Error> {
        if !values.iter().fold(true, |finite, value| finite & value.is_finite()) {
            return Err(Error::NotFinite { what: self.what, tensor: tensor.to_owned() });
        }
        Ok(self.writer.write_part(values)?)
    }
}
