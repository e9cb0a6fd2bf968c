//! What the benchmark's steps are made of, as files that another implementation reads.
//!
//! `model.safetensors` is the model; `lessons.safetensors` has what the network reads and should say in
//! every step, with the optimiser's options in its metadata.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use safetensors::tensor::{Dtype, TensorView};

use crate::commands::output;
use crate::data::example::Example;
use crate::model::checkpoint;
use crate::model::diffusion::Diffusion;
use crate::model::diffusion::lesson::Lesson;
use crate::model::spec::{CONDITION_LEN, IN_CHANNELS};
use crate::model::weights::Weights;
use crate::train::{self, TrainingOptions};

/// The metadata's key of the options.
const OPTIONS_KEY: &str = "fedpaint.training";

/// Writes both files into `folder`, which must be there.
///
/// # Errors
/// If the examples teach nothing or the disk fails.
pub(super) fn write(
    folder: &Path,
    start: &Weights,
    options: &TrainingOptions,
    examples: &[Example],
) -> Result<()> {
    let named = || folder.display().to_string();
    checkpoint::save(start, &folder.join("model.safetensors")).with_context(named)?;
    let lessons = lessons(start, options, examples)?;
    output::write_file(&folder.join("lessons.safetensors"), &lessons).with_context(named)
}

/// Every step's lesson as the bytes of a file: x `[steps, batch, 9, size, size]`, t and withheld
/// `[steps, batch]`, y `[steps, batch, 6]`, target and weight `[steps, batch, 1, size, size]`, all f32.
fn lessons(start: &Weights, options: &TrainingOptions, examples: &[Example]) -> Result<Vec<u8>> {
    let (diffusion, size) = (Diffusion::new(start.spec()), start.spec().image_size);
    let (steps, batch) = (options.steps, examples.len());
    let mut columns: [(&str, Vec<usize>, Vec<u8>); 6] = [
        ("x", vec![IN_CHANNELS, size, size], Vec::new()),
        ("t", vec![], Vec::new()),
        ("y", vec![CONDITION_LEN], Vec::new()),
        ("withheld", vec![], Vec::new()),
        ("target", vec![1, size, size], Vec::new()),
        ("weight", vec![1, size, size], Vec::new()),
    ];
    for step in 0..steps {
        let Lesson { batch, target, weight, .. } =
            train::lesson(&diffusion, size, options, step, examples)?;
        let steps = batch.timesteps.iter().map(|&t| t as f32).collect();
        let withheld = batch.unconditional.iter().map(|&no| f32::from(u8::from(no))).collect();
        let values = [batch.planes, steps, batch.conditions, withheld, target, weight];
        for ((_, _, bytes), values) in columns.iter_mut().zip(values) {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    let mut views = Vec::with_capacity(columns.len());
    for (name, shape, bytes) in &columns {
        let shape = [steps, batch].iter().chain(shape).copied().collect();
        views.push((*name, TensorView::new(Dtype::F32, shape, bytes)?));
    }
    let options = serde_json::to_string(options)?;
    let metadata = HashMap::from([(OPTIONS_KEY.to_owned(), options)]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::super::drawn;
    use super::*;
    use crate::model::spec::{ModelSpec, Preset};

    #[test]
    fn every_step_s_lesson_is_in_the_file_where_training_draws_it() {
        let spec = ModelSpec::preset(Preset::Tiny);
        let start = drawn::weights(&spec, 1).unwrap();
        let examples = drawn::examples(&spec, 1, 2);
        let options = TrainingOptions { steps: 3, ..TrainingOptions::default() };
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &start, &options, &examples).unwrap();
        let model = checkpoint::load(&folder.path().join("model.safetensors")).unwrap();
        assert_eq!(model, start);
        let bytes = std::fs::read(folder.path().join("lessons.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (diffusion, area) = (Diffusion::new(&spec), 32 * 32);
        let last = train::lesson(&diffusion, 32, &options, 2, &examples).unwrap();
        for (name, values) in [("x", &last.batch.planes), ("target", &last.target)] {
            let tensor = file.tensor(name).unwrap();
            let length = values.len() * 4;
            let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(tensor.data()[2 * length..], expected, "{name}");
        }
        assert_eq!(file.tensor("x").unwrap().shape(), [3, 2, 9, 32, 32]);
        assert_eq!(file.tensor("withheld").unwrap().data().len(), 3 * 2 * 4);
        assert_eq!(last.weight.len(), 2 * area);
    }
}
