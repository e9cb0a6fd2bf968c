//! Whether a file is a model that can be used: an operator's initial model, or a site's update
//! against the base model it was trained from.
//!
//! It reads a part of a tensor at a time and says which one is wrong. It never asks what a tensor means.

use std::path::Path;

use fedpaint_proto::reason::Reason;
use fedpaint_proto::weights::{self, Dtype, Mismatch, ModelFile};

/// Why a file is refused as a model.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// The bytes are not a model file within the limits.
    #[error(transparent)]
    NotAModel(weights::Error),
    /// The file is a model without a weight.
    #[error("the model has no tensor")]
    Empty,
    /// The model describes itself with several entries, whose order in a file is left to chance: the
    /// same weights would not always be the same bytes.
    #[error("the model's __metadata__ has {0} entries, it may have one")]
    Description(usize),
    /// The model is not a version of the base model.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// A tensor is not of 32-bit floats.
    #[error("tensor {tensor} has element type {dtype:?}, it must have F32")]
    Dtype {
        /// Which one.
        tensor: String,
        /// What it has.
        dtype: Dtype,
    },
    /// A weight is not a finite number.
    #[error("tensor {tensor} holds a value that is not a finite number")]
    NotFinite {
        /// Which one.
        tensor: String,
    },
    /// The coordinator's own disk failed: the file is not to blame.
    #[error(transparent)]
    Disk(weights::Error),
}

impl Rejection {
    /// The reason as it travels.
    pub fn reason(&self) -> Reason {
        match self {
            Rejection::NotAModel(_) | Rejection::Empty | Rejection::Description(_) => {
                Reason::NotAModel
            }
            Rejection::Mismatch(
                Mismatch::Missing(_) | Mismatch::Unknown(_) | Mismatch::Description,
            ) => Reason::WrongTensors,
            Rejection::Mismatch(Mismatch::Shape { .. }) => Reason::WrongShape,
            Rejection::Mismatch(Mismatch::Dtype { .. }) | Rejection::Dtype { .. } => {
                Reason::WrongDtype
            }
            Rejection::NotFinite { .. } => Reason::NotFinite,
            Rejection::Disk(_) => Reason::Internal,
        }
    }
}

impl From<weights::Error> for Rejection {
    fn from(error: weights::Error) -> Rejection {
        match error {
            weights::Error::Io { .. } => Rejection::Disk(error),
            weights::Error::Dtype { name, dtype } => Rejection::Dtype { tensor: name, dtype },
            weights::Error::Format(_)
            | weights::Error::TooLarge { .. }
            | weights::Error::Length { .. } => Rejection::NotAModel(error),
        }
    }
}

/// Checks a site's update against the base model of its round: the same tensors, shapes, element
/// types and description, and every weight finite. Blocks on the disk.
///
/// # Errors
/// The first thing that is wrong, by the name of its tensor.
pub fn check_update(update: &Path, base: &Path) -> Result<(), Rejection> {
    let update = ModelFile::open(update)?;
    // What is wrong with the base is never the update's fault.
    let base = ModelFile::open(base).map_err(Rejection::Disk)?;
    update.matches(&base)?;
    finite(&update)
}

/// Checks an initial model: tensors of F32, at least one, every weight finite, one entry of description
/// at most. Blocks on the disk.
///
/// # Errors
/// The first thing that is wrong, by the name of its tensor.
pub fn check_model(model: &Path) -> Result<(), Rejection> {
    let model = ModelFile::open(model)?;
    if model.tensors().is_empty() {
        return Err(Rejection::Empty);
    }
    if model.description().len() > 1 {
        return Err(Rejection::Description(model.description().len()));
    }
    if let Some(wrong) = model.tensors().iter().find(|t| t.dtype != Dtype::F32) {
        return Err(Rejection::Dtype { tensor: wrong.name.clone(), dtype: wrong.dtype });
    }
    finite(&model)
}

fn finite(model: &ModelFile) -> Result<(), Rejection> {
    match model.first_not_finite()? {
        None => Ok(()),
        Some(tensor) => Err(Rejection::NotFinite { tensor }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write_model;

    #[test]
    fn every_wrong_update_is_refused_with_its_reason_and_the_name_of_its_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let base = path("base");
        write_model(&base, &[("a", &[1.0, 2.0]), ("b", &[3.0])]);
        write_model(&path("good"), &[("b", &[9.0]), ("a", &[-1.0, 2.0])]);
        check_update(&path("good"), &base).unwrap();

        write_model(&path("missing"), &[("a", &[1.0, 2.0])]);
        write_model(&path("more"), &[("a", &[1.0, 2.0]), ("b", &[3.0]), ("c", &[3.0])]);
        write_model(&path("shape"), &[("a", &[1.0, 2.0]), ("b", &[3.0, 4.0])]);
        write_model(&path("nan"), &[("a", &[1.0, f32::NAN]), ("b", &[3.0])]);
        write_model(&path("inf"), &[("a", &[1.0, 1.0]), ("b", &[f32::INFINITY])]);
        std::fs::write(path("text"), "this is no model").unwrap();
        let view = safetensors::tensor::TensorView::new(Dtype::F16, vec![1], &[0, 0]).unwrap();
        let a = safetensors::tensor::TensorView::new(Dtype::F32, vec![2], &[0; 8]).unwrap();
        let note = Some([("fedpaint.model".to_owned(), "{}".to_owned())].into());
        let half = safetensors::serialize([("a", &a), ("b", &view)], note).unwrap();
        std::fs::write(path("half"), half).unwrap();

        for (name, reason, says) in [
            ("missing", Reason::WrongTensors, "tensor b"),
            ("more", Reason::WrongTensors, "tensor c"),
            ("shape", Reason::WrongShape, "tensor b"),
            ("half", Reason::WrongDtype, "tensor b"),
            ("nan", Reason::NotFinite, "tensor a"),
            ("inf", Reason::NotFinite, "tensor b"),
            ("text", Reason::NotAModel, "ends within its header"),
        ] {
            let rejection = check_update(&path(name), &base).unwrap_err();
            assert_eq!(rejection.reason(), reason, "{name}");
            assert!(rejection.to_string().contains(says), "{name}: {rejection}");
        }
        let quoted = format!("{{\"{}\":1}}", "x".repeat(10_000));
        let header = [&(quoted.len() as u64).to_le_bytes()[..], quoted.as_bytes()].concat();
        std::fs::write(path("quoted"), header).unwrap();
        let rejection = check_update(&path("quoted"), &base).unwrap_err();
        assert_eq!(rejection.reason(), Reason::NotAModel);
        assert!(rejection.to_string().len() < 300, "{rejection}");
        assert_eq!(check_model(&path("half")).unwrap_err().reason(), Reason::WrongDtype);
        assert_eq!(check_model(&path("nan")).unwrap_err().reason(), Reason::NotFinite);
        for (entries, whole) in [(0, true), (1, true), (2, false)] {
            let note = |n: usize| (format!("key{n}"), String::new());
            let note = (entries > 0).then(|| (0..entries).map(note).collect());
            let bytes = safetensors::serialize([("a", &a)], note).unwrap();
            std::fs::write(path("described"), bytes).unwrap();
            let checked = check_model(&path("described")).map_err(|error| error.reason());
            assert_eq!(checked, if whole { Ok(()) } else { Err(Reason::NotAModel) }, "{entries}");
        }
    }

    #[test]
    fn a_base_model_that_is_gone_is_not_the_updates_fault() {
        let folder = tempfile::tempdir().unwrap();
        let update = folder.path().join("update");
        write_model(&update, &[("a", &[1.0])]);
        let rejection = check_update(&update, &folder.path().join("gone")).unwrap_err();
        assert_eq!(rejection.reason(), Reason::Internal);
    }
}
