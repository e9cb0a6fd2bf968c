//! An update's file in the form in which it travels, read beside the model it was trained from.
//!
//! ```text
//! form            tensors, under the base model's names         what they hold
//! f32             all, F32, its shapes                          the trained weights: it is a model
//! f32 of a part   those of the part, F32, its shapes            the trained weights
//! bf16            those of the part, BF16, its shapes           their change since the base model
//! int8, int4      those of the part, U8, as many as it takes    their change, by blocks, see `blocks`
//! ```
//! All but the first describe themselves by the form, and a model's own description is not in them: it is
//! the base model's. What a form leaves out is what the base model has. Like a model, an update is a
//! function of numbers and no more: it names neither its base model nor its site, the envelope does.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::writer::header;
use super::{Dtype, Error, Mismatch, ModelFile, Ranges, TensorSpec, blocks, mismatch};
use crate::plan::{Encoding, ExchangePlan};

/// Under what an update describes itself.
const DESCRIPTION_KEY: &str = "fedpaint.update";

/// Values that are looked at together: whole blocks of every encoding.
const PIECE: usize = 16 << 10;

/// An open update.
#[derive(Debug)]
pub struct Update {
    file: ModelFile,
    form: ExchangePlan,
    positions: HashMap<String, usize>,
}

impl Update {
    /// Opens an update and checks its header, but no number.
    ///
    /// # Errors
    /// If the file does not open, is not safetensors, is beyond the limits, or has a form that is unknown.
    pub fn open(path: &Path) -> Result<Update, Error> {
        let file = ModelFile::open(path)?;
        let form = file.description().get(DESCRIPTION_KEY);
        let form = form.map_or(Ok(ExchangePlan::default()), |text| serde_json::from_str(text));
        let form = form.map_err(|error| Error::format(&error))?;
        let positions = file.tensors().iter().enumerate();
        let positions = positions.map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(Update { file, form, positions })
    }

    /// The form in which it travels.
    pub fn form(&self) -> ExchangePlan {
        self.form
    }

    /// The tensors that it has.
    pub fn tensors(&self) -> &[TensorSpec] {
        self.file.tensors()
    }

    /// Whether it is an update of `base` in the form that a plan asks for.
    ///
    /// # Errors
    /// The first difference, in the order of the names.
    pub fn matches(&self, base: &ModelFile, plan: ExchangePlan) -> Result<(), Mismatch> {
        if self.form != plan {
            return Err(Mismatch::Form { found: self.form, expected: plan });
        }
        let tensors = tensors(base, plan);
        if tensors.is_empty() {
            return Err(Mismatch::NoPart);
        }
        mismatch::between(&self.file, &tensors, &description(base, plan))
    }

    /// The update's trained values of these tensors of its base model.
    ///
    /// # Errors
    /// If the update lacks one of them or has it otherwise.
    pub fn values(self, tensors: &[TensorSpec]) -> Result<Ranges, Error> {
        let Update { file, form, positions } = self;
        let position = |tensor: &TensorSpec| {
            let name = || tensor.name.clone();
            let Some(&at) = positions.get(&tensor.name) else {
                return match form.part.has(&tensor.name) {
                    true => Err(Error::Format(format!("the update has no tensor {}", name()))),
                    false => Ok(None),
                };
            };
            let found = &file.tensors()[at];
            let expected = encoded(tensor, form.encoding);
            if found.dtype != expected.dtype {
                return Err(Error::Dtype { name: name(), dtype: found.dtype });
            }
            match (found.bytes(), expected.bytes()) {
                (found, expected) if found == expected => Ok(Some(at)),
                (found, expected) => Err(Error::Length { name: name(), found, expected }),
            }
        };
        let positions = tensors.iter().map(position).collect::<Result<Vec<_>, Error>>()?;
        Ok(Ranges::encoded(file, &positions, form.encoding, tensors))
    }

    /// The first tensor of the base model that the update makes a value of which is not finite.
    ///
    /// # Errors
    /// If a file does not read, or the update is none of this base model.
    pub fn first_not_finite(self, base: &ModelFile) -> Result<Option<String>, Error> {
        let trained = self.values(base.tensors())?;
        let (mut before, mut values) = (vec![0.0; PIECE], vec![0.0; PIECE]);
        for (at, tensor) in base.tensors().iter().enumerate() {
            for first in (0..tensor.len()).step_by(PIECE) {
                let piece = PIECE.min(tensor.len() - first);
                let (before, values) = (&mut before[..piece], &mut values[..piece]);
                if !trained.stands_alone(at) {
                    base.read_part(at, first, before)?;
                }
                match trained.read_beside(at, first, before, values) {
                    Err(Error::Blocks { .. }) => return Ok(Some(tensor.name.clone())),
                    read => read?,
                }
                // Without a branch per value, so that the compiler makes vectors of it.
                if !values.iter().fold(true, |finite, v| finite & v.is_finite()) {
                    return Ok(Some(tensor.name.clone()));
                }
            }
        }
        Ok(None)
    }
}

/// A tensor of a base model as it travels.
fn encoded(tensor: &TensorSpec, encoding: Encoding) -> TensorSpec {
    let (dtype, shape) = match encoding {
        Encoding::F32 => (tensor.dtype, tensor.shape.clone()),
        Encoding::Bf16 => (Dtype::BF16, tensor.shape.clone()),
        Encoding::Int8 | Encoding::Int4 => (Dtype::U8, vec![blocks::bytes(encoding, tensor.len())]),
    };
    TensorSpec { name: tensor.name.clone(), dtype, shape }
}

/// The tensors of an update of `base`, in its order.
pub(super) fn tensors(base: &ModelFile, form: ExchangePlan) -> Vec<TensorSpec> {
    let travel = base.tensors().iter().filter(|tensor| form.part.has(&tensor.name));
    travel.map(|tensor| encoded(tensor, form.encoding)).collect()
}

/// How an update of `base` describes itself: in one entry, so that its bytes are reproducible.
pub(super) fn description(base: &ModelFile, form: ExchangePlan) -> BTreeMap<String, String> {
    if form.is_whole_model() {
        return base.description().clone();
    }
    let ExchangePlan { encoding, part } = form;
    // Two words in a fixed order.
    let said = serde_json::json!({ "encoding": encoding, "part": part }).to_string();
    BTreeMap::from([(DESCRIPTION_KEY.to_owned(), said)])
}

impl ModelFile {
    /// The tensors of an update of this model that travels in the form of a plan, and the bytes of its file.
    ///
    /// # Errors
    /// If they are beyond the limits.
    pub fn update(&self, plan: ExchangePlan) -> Result<(Vec<TensorSpec>, u64), Error> {
        let tensors = tensors(self, plan);
        if plan.is_whole_model() {
            let size = self.file.metadata().map(|found| found.len());
            let failed = |source| Error::Io { what: "read", path: self.path.clone(), source };
            return Ok((tensors, size.map_err(failed)?));
        }
        let header = header(&tensors, &description(self, plan))?;
        let bytes = super::PREFIX_BYTES
            + header.len() as u64
            + tensors.iter().map(|tensor| tensor.bytes() as u64).sum::<u64>();
        Ok((tensors, bytes))
    }
}

#[cfg(test)]
mod tests;
