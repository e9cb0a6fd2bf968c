//! What a model takes of a device's memory, before anything is allocated.
//!
//! Counted block by block from the blueprint: parameters and what the optimiser keeps beside them, the
//! activations that wait for the way back, and the largest block's scratch. It opens no device. It
//! is an estimate: what the allocator keeps for reuse is in [`SLACK`], which was fitted once to peak
//! resident sizes of real trainings, and a scan or a thread's stack is no part of it.

use super::blueprint::{Block, Blueprint, parameters};
use super::ops::Ops;
use super::spec::{IN_CHANNELS, ModelSpec};

/// Bytes of an f32.
const F32: f64 = 4.0;
/// What an allocator takes beyond what it is asked for at the peak.
const SLACK: f64 = 1.1;
/// Planes that a normalisation and its SiLU keep for the way back: centred, scaled, and the sigmoid.
const NORM_SILU_KEPT: f64 = 3.0;
/// The same where they are computed again: the plane that they begin from.
const NORM_SILU_CHECKPOINT: f64 = 1.0;
/// Planes of its widest tensor that a block has in hand at once beside what it keeps.
const SCRATCH_TRAINING: f64 = 6.0;
/// The same where nothing is differentiated.
const SCRATCH_SAMPLING: f64 = 5.0;

/// What a model is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Training steps.
    Training {
        /// Slices that go through the network at once.
        slices: usize,
        /// Whether cheap operations are done again on the way back.
        checkpointing: bool,
        /// Whether the weights that training began from are kept beside it, as FedProx needs.
        anchored: bool,
    },
    /// Painting.
    Sampling {
        /// Slices that go through the network at once.
        slices: usize,
    },
}

/// Bytes, by what takes them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The parameters: on the device, in the file they came from, and the new ones of a step.
    pub parameters: f64,
    /// Gradients and the optimiser's two moments.
    pub optimiser: f64,
    /// Activations that wait.
    pub activations: f64,
    /// The most that one block has in hand beside them.
    pub scratch: f64,
}

/// A block where it stands.
struct Place {
    block: Block,
    /// Pixels of what it reads.
    area: f64,
    /// Numbers per slice that wait for the way up while it runs.
    waiting: f64,
}

impl Estimate {
    /// What a model of `spec` takes to do `work` by `ops`.
    pub fn new(spec: &ModelSpec, work: Work, ops: Ops) -> Estimate {
        let model = F32 * parameters(spec) as f64;
        let (places, head) = places(spec);
        let short = short(ops);
        match work {
            Work::Training { slices, checkpointing, anchored } => {
                let slices = slices as f64;
                let kept = places.iter().map(|place| match ops {
                    Ops::Own => place.kept_by_own(),
                    Ops::Stock(_) => place.kept(spec, short, checkpointing),
                });
                let norm = if ops == Ops::Own { F32 } else { norm_kept(checkpointing) };
                let head = head * (norm + F32);
                let scratch = places.iter().map(Place::widest).fold(0.0, f64::max);
                Estimate {
                    parameters: model * if anchored { 4.0 } else { 3.0 },
                    optimiser: 3.0 * model,
                    activations: slices * (kept.sum::<f64>() + head),
                    scratch: slices * SCRATCH_TRAINING * F32 * scratch,
                }
            }
            Work::Sampling { slices } => {
                let slices = slices as f64;
                let waiting = places.iter().map(|place| place.waiting).fold(0.0, f64::max);
                let in_hand = |place: &Place| {
                    let pairs = if ops == Ops::Own { 0.0 } else { place.attention(spec) };
                    SCRATCH_SAMPLING * F32 * place.widest() + pairs * (F32 + short)
                };
                Estimate {
                    parameters: 2.0 * model,
                    optimiser: 0.0,
                    activations: slices * F32 * waiting,
                    scratch: slices * places.iter().map(in_hand).fold(0.0, f64::max),
                }
            }
        }
    }

    /// All of it.
    pub fn bytes(&self) -> u64 {
        let Estimate { parameters, optimiser, activations, scratch } = self;
        // A float, because a spec may ask for more than 2^64 bytes; the cast then saturates.
        (SLACK * (parameters + optimiser + activations + scratch)) as u64
    }
}

/// Bytes of a number that a product reads.
fn short(ops: Ops) -> f64 {
    match ops {
        Ops::Own => F32,
        Ops::Stock(precision) => precision.bytes() as f64,
    }
}

/// Bytes per number that a normalisation with its SiLU keeps.
fn norm_kept(checkpointing: bool) -> f64 {
    F32 * if checkpointing { NORM_SILU_CHECKPOINT } else { NORM_SILU_KEPT }
}

impl Place {
    /// Bytes per slice that wait for the way back; a convolution keeps its input in `short` bytes.
    fn kept(&self, spec: &ModelSpec, short: f64, checkpointing: bool) -> f64 {
        let area = self.area;
        let norm_conv = |width: usize| width as f64 * area * (norm_kept(checkpointing) + short);
        match self.block {
            Block::Stem { .. } => IN_CHANNELS as f64 * area * short,
            Block::Down { width } => width as f64 * area * short,
            Block::Up { width } => 4.0 * width as f64 * area * short,
            Block::Residual { input, out } => {
                let skip = if input == out { 0.0 } else { input as f64 * area * short };
                norm_conv(input) + norm_conv(out) + skip
            }
            // The norm's centred plane; what the three maps read; query, key and value; the weights
            // before and after they are divided by their sum.
            Block::Attention { width } => {
                let planes = F32 + short + 4.0 * short + short;
                width as f64 * area * planes + self.attention(spec) * (F32 + short)
            }
        }
    }

    /// The same for our own operations: what each of them reads, and nothing else.
    fn kept_by_own(&self) -> f64 {
        let numbers = match self.block {
            Block::Stem { .. } => IN_CHANNELS,
            Block::Down { width } | Block::Up { width } => width,
            Block::Residual { input, out } => 2 * input + 2 * out,
            // What the norm and the three maps read; query, key and value; what is mixed.
            Block::Attention { width } => 6 * width,
        };
        numbers as f64 * self.area * F32
    }

    /// Numbers per slice of the weights of attention.
    fn attention(&self, spec: &ModelSpec) -> f64 {
        match self.block {
            Block::Attention { width } => spec.heads(width) as f64 * self.area * self.area,
            _ => 0.0,
        }
    }

    /// Numbers per slice of the widest tensor.
    fn widest(&self) -> f64 {
        let area = self.area;
        match self.block {
            Block::Stem { out } => out as f64 * area,
            Block::Down { width } => width as f64 * area,
            Block::Up { width } => 4.0 * width as f64 * area,
            Block::Residual { input, out } => input.max(out) as f64 * area,
            Block::Attention { width } => 3.0 * width as f64 * area,
        }
    }
}

/// The blocks in the order in which they run, and numbers per slice of what the head reads.
fn places(spec: &ModelSpec) -> (Vec<Place>, f64) {
    let blueprint = Blueprint::new(spec);
    let mut edge = spec.image_size;
    let mut places = Vec::new();
    let mut waiting: Vec<f64> = Vec::new();
    let mut run = |blocks: &[Block], waiting: f64| {
        let mut out = 0.0;
        for &block in blocks {
            let area = (edge * edge) as f64;
            places.push(Place { block, area, waiting });
            let width = match block {
                Block::Stem { out } | Block::Residual { out, .. } => out,
                Block::Attention { width } => width,
                Block::Down { width } => {
                    edge /= 2;
                    width
                }
                Block::Up { width } => {
                    edge *= 2;
                    width
                }
            };
            out = (width * edge * edge) as f64;
        }
        out
    };
    for stage in &blueprint.input {
        let out = run(stage, waiting.iter().sum());
        waiting.push(out);
    }
    run(&blueprint.middle, waiting.iter().sum());
    for stage in &blueprint.output {
        run(stage, waiting.iter().sum());
        waiting.pop();
    }
    (places, (blueprint.out_width * spec.image_size * spec.image_size) as f64)
}

#[cfg(test)]
mod tests {
    use super::super::precision::Precision;
    use super::super::spec::Preset;
    use super::*;

    fn bytes(preset: Preset, work: Work, precision: Precision) -> f64 {
        Estimate::new(&ModelSpec::preset(preset), work, Ops::Stock(precision)).bytes() as f64
    }

    fn training(slices: usize) -> Work {
        Work::Training { slices, checkpointing: false, anchored: false }
    }

    #[test]
    fn more_slices_take_more_in_proportion_and_parameters_once() {
        let at =
            |slices| Estimate::new(&ModelSpec::preset(Preset::Small), training(slices), Ops::Own);
        let (one, eight) = (at(1), at(8));
        assert_eq!(eight.parameters, one.parameters);
        assert_eq!(eight.activations, 8.0 * one.activations);
        assert_eq!(eight.scratch, 8.0 * one.scratch);
        assert!(at(0).bytes() > 0);
    }

    #[test]
    fn checkpoints_and_short_types_take_less_and_an_anchor_more() {
        let plain = bytes(Preset::Small, training(8), Precision::F32);
        assert!(bytes(Preset::Small, training(8), Precision::Bf16) < plain);
        let with = |checkpointing, anchored| {
            let work = Work::Training { slices: 8, checkpointing, anchored };
            bytes(Preset::Small, work, Precision::F32)
        };
        assert!(with(true, false) < plain && with(false, true) > plain);
        assert!(bytes(Preset::Small, Work::Sampling { slices: 8 }, Precision::F32) < plain);
    }

    #[test]
    fn every_spec_has_an_estimate_even_one_that_no_machine_holds() {
        let spec = ModelSpec {
            image_size: 512,
            channels: 256,
            channel_mult: vec![16],
            res_blocks: 4,
            attention_ds: vec![1],
            ..ModelSpec::preset(Preset::Mayo)
        };
        spec.validate().unwrap();
        let most = Estimate::new(&spec, training(1 << 20), Ops::Own);
        assert!(most.bytes() > 1 << 56, "{}", most.bytes());
        let sizes = [Preset::Tiny, Preset::Small, Preset::Base, Preset::Mayo];
        let sizes = sizes.map(|preset| bytes(preset, training(1), Precision::F32));
        assert!(sizes.is_sorted(), "{sizes:?}");
    }
}
