//! How many floating-point operations a training step is.
//!
//! The rule: a multiplication and an addition each count one, in convolutions, linear maps and the two
//! products of attention; nothing else counts. A backward pass counts twice the forward pass, once for
//! the gradient of the input and once for that of the weight; that the first layers need no gradient of
//! their input (0.2 % of `small`) is left aside. It is what PyTorch's `FlopCounterMode` counts
//! (`tests/reference/flops.py`), and says nothing of how the work is done: an algorithm that needs fewer
//! operations shows as a higher rate.

use super::blueprint::{Block, Blueprint};
use super::spec::{CONDITION_LEN, IN_CHANNELS, ModelSpec};

/// Operations of one training step of `batch` slices: forward and backward.
pub fn training_step(spec: &ModelSpec, batch: usize) -> u64 {
    3 * forward(spec, batch)
}

/// Operations of one forward pass over `batch` slices.
pub fn forward(spec: &ModelSpec, batch: usize) -> u64 {
    let blueprint = Blueprint::new(spec);
    let wide = spec.embedding();
    let mut slice = Slice { spec, size: spec.image_size, products: 0 };
    for input in [spec.channels, CONDITION_LEN] {
        slice.map(1, input, wide);
        slice.map(1, wide, wide);
    }
    let down = blueprint.input.iter().flatten();
    let up = blueprint.output.iter().flatten();
    for block in down.chain(&blueprint.middle).chain(up) {
        slice.block(block);
    }
    slice.conv(blueprint.out_width, spec.out_channels());
    2 * slice.products * batch as u64
}

/// The multiplications of one slice, added up along the network.
struct Slice<'a> {
    spec: &'a ModelSpec,
    /// The edge of the planes where the next block is, in pixels.
    size: usize,
    products: u64,
}

impl Slice<'_> {
    fn block(&mut self, block: &Block) {
        let pixels = self.size * self.size;
        match *block {
            Block::Stem { out } => self.conv(IN_CHANNELS, out),
            Block::Residual { input, out } => {
                self.conv(input, out);
                self.map(1, self.spec.joint_embedding(), 2 * out);
                self.conv(out, out);
                if input != out {
                    self.map(pixels, input, out);
                }
            }
            Block::Attention { width } => {
                self.map(pixels, width, 3 * width);
                // Query by key, and weight by value.
                self.map(pixels, pixels, 2 * width);
                self.map(pixels, width, width);
            }
            Block::Down { width } => {
                self.size = self.size.div_ceil(2);
                self.conv(width, width);
            }
            Block::Up { width } => {
                self.size *= 2;
                self.conv(width, width);
            }
        }
    }

    /// A 3x3 convolution to planes of the size in hand.
    fn conv(&mut self, input: usize, out: usize) {
        self.map(self.size * self.size, 9 * input, out);
    }

    /// A linear map of `rows` rows.
    fn map(&mut self, rows: usize, input: usize, out: usize) {
        self.products += rows as u64 * input as u64 * out as u64;
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::spec::Preset;
    use super::*;

    /// What PyTorch counts for one slice.
    #[derive(Deserialize)]
    struct Reference {
        preset: String,
        forward: u64,
        training: u64,
    }

    fn references() -> Vec<Reference> {
        let text = include_str!("../../tests/fixtures/model/flops.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_forward_pass_counts_what_pytorch_counts() {
        let references = references();
        assert_eq!(references.len(), Preset::ALL.len());
        for reference in references {
            let spec = ModelSpec::preset(reference.preset.parse().unwrap());
            assert_eq!(forward(&spec, 1), reference.forward, "{}", reference.preset);
            assert_eq!(forward(&spec, 8), 8 * reference.forward, "{}", reference.preset);
        }
    }

    #[test]
    fn a_training_step_counts_what_pytorch_counts_and_the_first_layers_input_gradients() {
        for reference in references() {
            let spec = ModelSpec::preset(reference.preset.parse().unwrap());
            let stem = spec.image_size.pow(2) * 9 * IN_CHANNELS * spec.channels;
            let embeddings = (spec.channels + CONDITION_LEN) * spec.embedding();
            let spared = 2 * (stem + embeddings) as u64;
            let counted = training_step(&spec, 1);
            assert_eq!(counted - spared, reference.training, "{}", reference.preset);
            assert!((spared as f64) < 0.02 * counted as f64, "{}", reference.preset);
        }
    }
}
