//! Whether a file is a model that can be used: an operator's initial model, or a site's update
//! against the base model it was trained from.
//!
//! It reads a part of a tensor at a time and says which one is wrong. It never asks what a tensor means.

use std::path::Path;

use fedpaint_proto::plan::ExchangePlan;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::weights::{self, Dtype, Mismatch, ModelFile, Update};

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
                Mismatch::Missing(_)
                | Mismatch::Unknown(_)
                | Mismatch::Description
                | Mismatch::NoPart,
            ) => Reason::WrongTensors,
            Rejection::Mismatch(Mismatch::Form { .. }) => Reason::WrongForm,
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
            weights::Error::Blocks { name, .. } => Rejection::NotFinite { tensor: name },
            weights::Error::Format(_)
            | weights::Error::TooLarge { .. }
            | weights::Error::Length { .. } => Rejection::NotAModel(error),
        }
    }
}

/// Checks a site's update against the base model of its round and the form that the plan asks for: the
/// tensors, shapes, element types and description that follow from the two, and every weight that comes of
/// it finite. Blocks on the disk.
///
/// # Errors
/// The first thing that is wrong, by the name of its tensor.
pub fn check_update(update: &Path, base: &Path, form: ExchangePlan) -> Result<(), Rejection> {
    let (update, base) = of_form(update, base, form)?;
    finite(update.first_not_finite(&base)?)
}

/// The same of an update whose weights are known to be finite: of each file the header alone is read.
///
/// # Errors
/// As [`check_update`].
pub fn check_form(update: &Path, base: &Path, form: ExchangePlan) -> Result<(), Rejection> {
    of_form(update, base, form).map(drop)
}

/// An update of the form that the plan asks for, and its base model.
fn of_form(
    update: &Path,
    base: &Path,
    form: ExchangePlan,
) -> Result<(Update, ModelFile), Rejection> {
    let update = Update::open(update)?;
    // What is wrong with the base is never the update's fault.
    let base = ModelFile::open(base).map_err(Rejection::Disk)?;
    update.matches(&base, form)?;
    Ok((update, base))
}

/// Checks an initial model: tensors of F32, at least one and one of those that travel, every weight finite,
/// one entry of description at most. Blocks on the disk.
///
/// # Errors
/// The first thing that is wrong, by the name of its tensor.
pub fn check_model(model: &Path, form: ExchangePlan) -> Result<(), Rejection> {
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
    if !model.tensors().iter().any(|tensor| form.part.has(&tensor.name)) {
        return Err(Mismatch::NoPart.into());
    }
    finite(model.first_not_finite()?)
}

fn finite(first_not_finite: Option<String>) -> Result<(), Rejection> {
    match first_not_finite {
        None => Ok(()),
        Some(tensor) => Err(Rejection::NotFinite { tensor }),
    }
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::plan::{Encoding, Part};
    use fedpaint_proto::weights::{Sources, encode};

    use super::*;
    use crate::testing::write_model;

    const WHOLE: ExchangePlan = ExchangePlan { encoding: Encoding::F32, part: Part::All };

    #[test]
    fn every_wrong_update_is_refused_with_its_reason_and_the_name_of_its_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let base = path("base");
        write_model(&base, &[("a", &[1.0, 2.0]), ("b", &[3.0])]);
        write_model(&path("good"), &[("b", &[9.0]), ("a", &[-1.0, 2.0])]);
        check_update(&path("good"), &base, WHOLE).unwrap();

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
            let rejection = check_update(&path(name), &base, WHOLE).unwrap_err();
            assert_eq!(rejection.reason(), reason, "{name}");
            assert!(rejection.to_string().contains(says), "{name}: {rejection}");
        }
        let quoted = format!("{{\"{}\":1}}", "x".repeat(10_000));
        let header = [&(quoted.len() as u64).to_le_bytes()[..], quoted.as_bytes()].concat();
        std::fs::write(path("quoted"), header).unwrap();
        let rejection = check_update(&path("quoted"), &base, WHOLE).unwrap_err();
        assert_eq!(rejection.reason(), Reason::NotAModel);
        assert!(rejection.to_string().len() < 300, "{rejection}");
        assert_eq!(check_model(&path("half"), WHOLE).unwrap_err().reason(), Reason::WrongDtype);
        assert_eq!(check_model(&path("nan"), WHOLE).unwrap_err().reason(), Reason::NotFinite);
        for (entries, whole) in [(0, true), (1, true), (2, false)] {
            let note = |n: usize| (format!("key{n}"), String::new());
            let note = (entries > 0).then(|| (0..entries).map(note).collect());
            let bytes = safetensors::serialize([("a", &a)], note).unwrap();
            std::fs::write(path("described"), bytes).unwrap();
            let checked = check_model(&path("described"), WHOLE).map_err(|error| error.reason());
            assert_eq!(checked, if whole { Ok(()) } else { Err(Reason::NotAModel) }, "{entries}");
        }
    }

    #[test]
    fn a_base_model_that_is_gone_is_not_the_updates_fault() {
        let folder = tempfile::tempdir().unwrap();
        let update = folder.path().join("update");
        write_model(&update, &[("a", &[1.0])]);
        let rejection = check_update(&update, &folder.path().join("gone"), WHOLE).unwrap_err();
        assert_eq!(rejection.reason(), Reason::Internal);
    }

    #[test]
    fn an_encoded_update_is_taken_in_the_form_the_plan_asks_for_and_its_numbers_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (base, trained, update) = (path("base"), path("trained"), path("update"));
        write_model(&base, &[("out.0", &[1.0, 2.0]), ("time", &[3.0])]);
        write_model(&trained, &[("out.0", &[1.5, 1.0]), ("time", &[3.25])]);
        let sources = Sources { base: &base, trained: &trained, remainder: None };
        for encoding in [Encoding::F32, Encoding::Bf16, Encoding::Int8, Encoding::Int4] {
            for part in [Part::All, Part::Decoder] {
                let form = ExchangePlan { encoding, part };
                encode(form, sources, &update, &path("left")).unwrap();
                check_update(&update, &base, form).unwrap();
                for other in [WHOLE, ExchangePlan { encoding: Encoding::Int8, part: Part::All }] {
                    let checked = check_update(&update, &base, other).map_err(|e| e.reason());
                    let expected = if other == form { Ok(()) } else { Err(Reason::WrongForm) };
                    assert_eq!(checked, expected, "{form} where {other} is asked for");
                }
            }
        }
        let int8 = ExchangePlan { encoding: Encoding::Int8, part: Part::All };
        let refused = check_update(&trained, &base, int8).unwrap_err();
        assert_eq!(refused.reason(), Reason::WrongForm);
        assert_eq!(refused.to_string(), "the update is f32, the plan asks for int8");

        encode(int8, sources, &update, &path("left")).unwrap();
        let good = std::fs::read(&update).unwrap();
        let numbers = good.len() - (2 + 2) - (2 + 1);
        for (at, scale, says) in [
            (numbers, 0x7fc0_u16, "tensor out.0"),
            (numbers + 4, 0xff80, "tensor time"),
            (numbers + 4, 0xbf80, "tensor time"),
            (numbers, 0x7f7f, "tensor out.0"),
        ] {
            let mut bad = good.clone();
            bad[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            std::fs::write(&update, bad).unwrap();
            let refused = check_update(&update, &base, int8).unwrap_err();
            assert_eq!(refused.reason(), Reason::NotFinite, "{scale:x}");
            assert!(refused.to_string().contains(says), "{refused}");
        }
        // As long as it says, of fewer numbers than the base model has.
        write_model(&path("other"), &[("out.0", &[1.0, 2.0, 3.0]), ("time", &[3.0])]);
        std::fs::write(&update, good).unwrap();
        let refused = check_update(&update, &path("other"), int8).unwrap_err();
        assert_eq!(refused.reason(), Reason::WrongShape);
    }

    #[test]
    fn a_model_without_a_tensor_that_is_to_travel_begins_no_run() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        let decoder = ExchangePlan { part: Part::Decoder, ..WHOLE };
        write_model(&model, &[("time", &[3.0])]);
        let refused = check_model(&model, decoder).unwrap_err();
        assert_eq!(refused.reason(), Reason::WrongTensors);
        write_model(&model, &[("time", &[3.0]), ("out.0", &[3.0])]);
        check_model(&model, decoder).unwrap();
    }
}
