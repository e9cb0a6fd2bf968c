//! Small model files with known weights, for tests that need a model and no network.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use fedpaint_proto::names::Blob;
use fedpaint_proto::weights::{Dtype, ModelFile, ModelWriter, TensorSpec};

/// The tensors of the small model.
pub fn specs() -> Vec<TensorSpec> {
    let spec = |name: &str, shape: &[usize]| TensorSpec {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.into(),
    };
    vec![spec("in.bias", &[7]), spec("in.weight", &[7, 3, 3]), spec("out.weight", &[5, 7])]
}

/// Writes a model of `specs` whose values come from `value(tensor, element)`.
///
/// # Errors
/// If the file does not write.
pub fn write(
    path: &Path,
    specs: Vec<TensorSpec>,
    mut value: impl FnMut(usize, usize) -> f32,
) -> anyhow::Result<Blob> {
    let description = BTreeMap::from([("fedpaint.model".to_owned(), "\"test\"".to_owned())]);
    let mut writer = ModelWriter::create(path, specs.clone(), &description)?;
    for (t, spec) in specs.iter().enumerate() {
        let values: Vec<f32> = (0..spec.len()).map(|i| value(t, i)).collect();
        writer.write(&values)?;
    }
    Ok(writer.finish()?)
}

/// Every weight of a model, tensor after tensor in the order of the names.
///
/// # Errors
/// If the file is not a model.
pub fn read(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<f32>>> {
    let model = ModelFile::open(path)?;
    let names: Vec<String> = model.tensors().iter().map(|t| t.name.clone()).collect();
    let mut tensors = BTreeMap::new();
    for name in names {
        let position = model.position(&name).context("a tensor of the model")?;
        tensors.insert(name, model.read(position)?);
    }
    Ok(tensors)
}
