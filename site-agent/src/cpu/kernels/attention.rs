//! Self-attention over all pixels of a map.

use crate::cpu::attention::{self, AttentionShape};
use crate::cpu::kernel::{Gradient, Kernel, View};
use crate::cpu::profile::Operation;

const COUNTS_AS: [Operation; 2] = [Operation::AttentionForward, Operation::AttentionBackward];

/// Input `[batch, height, width, heads * 3 * dim]`: heads first, then query, key and value in each.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// How many heads.
    pub heads: usize,
}

/// What the backward pass needs besides the input.
#[derive(Clone, Debug)]
pub struct Kept {
    /// `[batch, heads, height * width]`
    log_sums: Vec<f32>,
}

impl Kernel<1> for Attention {
    type Kept = Kept;
    const COUNTS_AS: [Operation; 2] = COUNTS_AS;

    fn shape(&self, [qkv]: [&[usize]; 1]) -> Vec<usize> {
        let &[batch, height, width, channels] = qkv else {
            unreachable!("attention is of maps: {qkv:?}")
        };
        vec![batch, height, width, channels / 3]
    }

    fn forward(&self, [qkv]: [View<'_>; 1], output: &mut [f32]) -> Kept {
        let shape = self.of(qkv.shape);
        let mut log_sums = vec![0.0; shape.batch * shape.heads * shape.pixels];
        attention::forward(&shape, qkv.values, output, &mut log_sums);
        Kept { log_sums }
    }

    fn backward(
        &self,
        [qkv]: [View<'_>; 1],
        kept: &Kept,
        dy: &[f32],
        [wanted]: [bool; 1],
    ) -> [Gradient; 1] {
        [Gradient::when(wanted, qkv.values.len(), |dqkv| {
            let shape = self.of(qkv.shape);
            attention::backward(&shape, qkv.values, &kept.log_sums, dy, dqkv);
        })]
    }
}

impl Attention {
    fn of(&self, qkv: &[usize]) -> AttentionShape {
        let &[batch, height, width, channels] = qkv else {
            unreachable!("attention is of maps: {qkv:?}")
        };
        let (pixels, heads) = (height * width, self.heads);
        AttentionShape { batch, pixels, heads, dim: channels / 3 / heads }
    }
}
