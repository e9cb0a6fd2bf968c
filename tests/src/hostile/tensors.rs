//! A model file: its header, and the tensors that the header tells of.

use std::path::Path;

use fedpaint_proto::limits::{TENSOR_NAME_BYTES_MAX, TENSORS_MAX};
use fedpaint_proto::weights::{Dtype, Error, ModelFile, Update};

/// The longest refusal: a name, and what a parser says of the file.
const REFUSAL_BYTES_MAX: usize = 1_000;

/// A file is a model whose tensors are where its header says and fill it, that is a version of itself; or it
/// is refused.
///
/// # Panics
/// If it is not so.
pub fn any(bytes: &[u8]) -> bool {
    super::as_file(bytes, |path| {
        let model = match ModelFile::open(path) {
            Ok(model) => model,
            Err(refusal) => {
                super::is_a_line(&refusal.to_string(), REFUSAL_BYTES_MAX);
                return false;
            }
        };
        assert!(model.tensors().len() <= TENSORS_MAX);
        let (mut told, mut all_f32) = (0, true);
        for at in 0..model.tensors().len() {
            let spec = model.tensors()[at].clone();
            assert!(spec.name.len() <= TENSOR_NAME_BYTES_MAX);
            assert!(!spec.name.contains(char::is_control));
            told += (spec.len() * spec.dtype.bitsize()).div_ceil(8);
            match model.read(at) {
                Ok(values) => assert_eq!((spec.dtype, values.len()), (Dtype::F32, spec.len())),
                Err(Error::Dtype { dtype, .. }) => assert!(dtype != Dtype::F32),
                Err(other) => panic!("{other}"),
            }
            all_f32 &= spec.dtype == Dtype::F32;
        }
        assert!(told <= bytes.len());
        match model.first_not_finite() {
            Ok(None) => assert!(all_f32),
            // It is found before a tensor of another type is met, or there is none.
            Ok(Some(name)) => assert!(model.position(&name).is_some()),
            Err(_) => assert!(!all_f32),
        }
        assert_eq!(model.matches(&model), Ok(()));
        as_update(path, &model);
        true
    })
}

/// An update of a form that is known reads beside a base model of its tensors, or says why it does not.
fn as_update(path: &Path, model: &ModelFile) {
    let update = match Update::open(path) {
        Ok(update) => update,
        Err(refusal) => return super::is_a_line(&refusal.to_string(), REFUSAL_BYTES_MAX),
    };
    let form = update.form();
    if form.is_whole_model() {
        assert_eq!(update.matches(model, form), Ok(()));
    }
    let Ok(values) = update.values(model.tensors()) else { return };
    for (at, tensor) in model.tensors().iter().enumerate() {
        let before = vec![1.0; tensor.len()];
        let mut after = before.clone();
        if let Err(refusal) = values.read_beside(at, 0, &before, &mut after) {
            super::is_a_line(&refusal.to_string(), REFUSAL_BYTES_MAX);
        }
    }
}
