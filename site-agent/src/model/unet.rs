//! The U-Net: guided-diffusion's, with the condition embedding concatenated to the time embedding
//! or added to it.
//!
//! It maps x_t, its context planes, the step and the condition to a prediction. It knows nothing
//! of diffusion, and its weights come in and go out as [`Weights`]. Its convolutions may compute in
//! less than f32; what flows between blocks, the head and all parameters are f32 always.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor, TensorData};
use fedpaint_proto::plan::Part;

use super::batch::Batch;
use super::blueprint::{Block, Blueprint, NULL_CONDITION};
use super::layers::{Attention, Conv3x3, GroupNorm, Pointwise, Residual, Source};
use super::ops::{Map, Ops, Resize};
use super::precision::Precision;
use super::spec::{CONDITION_LEN, EmbMode, IN_CHANNELS, ModelSpec};
use super::weights::{Weights, WeightsError};

/// The longest period of the timestep embedding, as in Vaswani et al. 2017 (arXiv 1706.03762).
const MAX_PERIOD: f64 = 10_000.0;

/// The network on a device.
#[derive(Module, Debug)]
pub struct Unet {
    time_embed: [Pointwise; 2],
    label_emb: [Pointwise; 2],
    /// What stands for a withheld condition. `[4 * channels]`
    null_cls_embed: Option<Param<Tensor<1>>>,
    /// Whether the embeddings of step and condition are joined by a sum.
    adds_embeddings: bool,
    input: Vec<Stage>,
    middle: Stage,
    output: Vec<Stage>,
    out_norm: GroupNorm,
    out_conv: Conv3x3,
    #[module(skip)]
    ops: Ops,
}

/// Blocks that run one after the other.
#[derive(Module, Debug)]
struct Stage {
    blocks: Vec<Layer>,
    #[module(skip)]
    ops: Ops,
}

/// One block of the blueprint.
#[expect(clippy::large_enum_variant, reason = "burn has no boxed module and a net has few blocks")]
#[derive(Module, Debug)]
enum Layer {
    Conv(Conv3x3),
    Residual(Residual),
    Attention(Attention),
}

impl Unet {
    /// The network of `weights` on `device`, in f32; trainable where the device is an autodiff
    /// device.
    pub fn new(weights: &Weights, device: &Device) -> Unet {
        Unet::computing_in(Precision::F32, weights, device)
    }

    /// [`Self::new`], its convolutions and large products in `precision`, which the device must
    /// support. The head stays in f32, as guided-diffusion's does.
    pub fn computing_in(precision: Precision, weights: &Weights, device: &Device) -> Unet {
        Unet::working_by(Ops::on(device, precision), weights, device)
    }

    /// [`Self::new`] by operations of the caller's choice, which must suit the device.
    pub fn working_by(ops: Ops, weights: &Weights, device: &Device) -> Unet {
        let spec = weights.spec();
        let source = Source::new(weights, device, ops);
        let head = Source::new(weights, device, ops.in_f32());
        let blueprint = Blueprint::new(spec);
        let (embedding, width) = (spec.embedding(), blueprint.out_width);
        let mlp = |name: &str, input: usize| {
            [
                source.pointwise(&format!("{name}.0"), input, embedding),
                source.pointwise(&format!("{name}.2"), embedding, embedding),
            ]
        };
        let stages = |prefix: &str, stages: &[Vec<Block>]| {
            let named = stages.iter().enumerate();
            named
                .map(|(k, blocks)| stage(&source, spec, &format!("{prefix}.{k}"), blocks))
                .collect()
        };
        Unet {
            time_embed: mlp("time_embed", spec.channels),
            label_emb: mlp("label_emb", CONDITION_LEN),
            null_cls_embed: spec.null_condition.then(|| source.param(NULL_CONDITION, [embedding])),
            adds_embeddings: spec.emb_mode == EmbMode::Add,
            input: stages("input_blocks", &blueprint.input),
            middle: stage(&source, spec, "middle_block", &blueprint.middle),
            output: stages("output_blocks", &blueprint.output),
            out_norm: head.norm("out.0", width, spec.groups),
            out_conv: head.conv3x3("out.2", width, spec.out_channels(), Resize::Same),
            ops,
        }
    }

    /// The same network, of which only the tensors of `part` are trainable.
    pub fn trainable(self, part: Part) -> Unet {
        match part {
            Part::All => self,
            Part::Decoder => Unet {
                time_embed: self.time_embed.no_grad(),
                label_emb: self.label_emb.no_grad(),
                null_cls_embed: self.null_cls_embed.no_grad(),
                input: self.input.no_grad(),
                middle: self.middle.no_grad(),
                ..self
            },
        }
    }

    /// The prediction, and the learnt variance if there is one.
    /// `[batch, spec.out_channels(), size, size]`
    ///
    /// `x` is `[batch, 9, size, size]`: x_t, the voided image, the mask, the region planes.
    /// `time` is [`embed_timesteps`]' `[batch, channels]`, `condition` [`Self::condition`]'s.
    pub fn forward(&self, x: Tensor<4>, time: Tensor<2>, condition: Tensor<2>) -> Tensor<4> {
        let time = mlp(&self.time_embed, time);
        let joint = if self.adds_embeddings {
            time + condition // [batch, 4 * channels]
        } else {
            Tensor::cat(vec![time, condition], 1) // [batch, 8 * channels]
        };
        // Every residual block begins with the same SiLU of the embedding, so it is taken once.
        let embedding = silu(joint);
        let mut kept = Vec::with_capacity(self.input.len());
        let mut h = self.ops.enter(x);
        for stage in &self.input {
            h = stage.forward(Map::One(h), &embedding);
            kept.push(h.clone());
        }
        h = self.middle.forward(Map::One(h), &embedding);
        for stage in &self.output {
            let joined = match kept.pop() {
                Some(earlier) => self.ops.join(h, earlier),
                None => Map::One(h),
            };
            h = stage.forward(joined, &embedding);
        }
        self.ops.leave(self.out_conv.forward(self.out_norm.forward_silu(Map::One(h))))
    }

    /// The embedding of the conditions. `[batch, 4 * channels]`
    ///
    /// `conditions` is `[batch, 6]`. `withheld` is `[batch, 1]`, 1 where the null condition stands for
    /// the slice's own and 0 elsewhere; a network without one knows no withheld condition.
    pub fn condition(&self, conditions: Tensor<2>, withheld: Tensor<2>) -> Tensor<2> {
        let own = mlp(&self.label_emb, conditions);
        // A product with 0 or 1 and not a choice of rows: the null condition is then part of every
        // pass, so that its gradient is there, zero where nothing was withheld.
        match &self.null_cls_embed {
            Some(null) => own * (-withheld.clone() + 1.0) + withheld.matmul(null.val().unsqueeze()),
            None => own,
        }
    }

    /// The prediction for a batch, on `device`, and the learnt variance if there is one; `spec` is the
    /// network's. `[batch, spec.out_channels(), size, size]`
    pub fn predict(&self, batch: Batch, spec: &ModelSpec, device: &Device) -> Tensor<4> {
        let (count, size) = (batch.timesteps.len(), spec.image_size);
        let timesteps: Vec<f64> = batch.timesteps.iter().map(|&t| t as f64).collect();
        let time = embed_timesteps(&timesteps, spec.channels);
        let withheld = match batch.unconditional {
            none if none.is_empty() => vec![0.0; count],
            some => some.into_iter().map(f32::from).collect(),
        };
        let planes = TensorData::new(batch.planes, [count, IN_CHANNELS, size, size]);
        let time = TensorData::new(time, [count, spec.channels]);
        let conditions = TensorData::new(batch.conditions, [count, CONDITION_LEN]);
        let withheld = TensorData::new(withheld, [count, 1]);
        let condition = self
            .condition(Tensor::from_data(conditions, device), Tensor::from_data(withheld, device));
        let (planes, time) = (Tensor::from_data(planes, device), Tensor::from_data(time, device));
        self.forward(planes, time, condition)
    }

    /// The network's parameters as weights of the model that `like` is.
    ///
    /// # Errors
    /// [`WeightsError`] if a parameter is not finite, or if `like` is another model.
    pub fn weights(&self, like: &Weights) -> Result<Weights, WeightsError> {
        let mut collect = Collect { values: vec![Vec::new(); like.iter().len()] };
        self.visit(&mut collect);
        like.with_values(collect.values)
    }
}

impl Stage {
    fn forward(&self, x: Map, embedding: &Tensor<2>) -> Tensor<4> {
        let ops = self.ops;
        let after = |x: Map, block: &Layer| match block {
            Layer::Conv(conv) => conv.forward(ops.whole(x)),
            Layer::Residual(residual) => residual.forward(x, embedding),
            Layer::Attention(attention) => attention.forward(ops.whole(x)),
        };
        ops.whole(self.blocks.iter().fold(x, |x, block| Map::One(after(x, block))))
    }
}

/// The sinusoidal embedding of timesteps, whole or between two, cosines first. `[batch, channels]`
///
/// With half = channels / 2 and f_k = exp(-ln(10000) k / half): cos(t f_k), then sin(t f_k).
pub fn embed_timesteps(timesteps: &[f64], channels: usize) -> Vec<f32> {
    let half = channels / 2;
    let angle = |t: f64, k: usize| t * (-MAX_PERIOD.ln() * k as f64 / half as f64).exp();
    let mut embedded = Vec::with_capacity(timesteps.len() * channels);
    for &t in timesteps {
        embedded.extend((0..half).map(|k| angle(t, k).cos() as f32));
        embedded.extend((0..half).map(|k| angle(t, k).sin() as f32));
    }
    embedded
}

/// The blocks of one stage.
fn stage(source: &Source<'_>, spec: &ModelSpec, prefix: &str, blocks: &[Block]) -> Stage {
    let (embedding, groups) = (spec.joint_embedding(), spec.groups);
    let build = |(i, block): (usize, &Block)| {
        let name = format!("{prefix}.{i}");
        match *block {
            Block::Stem { out } => {
                Layer::Conv(source.conv3x3(&name, IN_CHANNELS, out, Resize::Same))
            }
            Block::Down { width } => {
                Layer::Conv(source.conv3x3(&format!("{name}.op"), width, width, Resize::Halve))
            }
            Block::Up { width } => {
                Layer::Conv(source.conv3x3(&format!("{name}.conv"), width, width, Resize::Double))
            }
            Block::Residual { input, out } => {
                Layer::Residual(source.residual(&name, [input, out], embedding, groups))
            }
            Block::Attention { width } => {
                Layer::Attention(source.attention(&name, width, spec.heads(width), groups))
            }
        }
    };
    Stage { blocks: blocks.iter().enumerate().map(build).collect(), ops: source.ops() }
}

/// Linear, SiLU, linear.
fn mlp([first, second]: &[Pointwise; 2], x: Tensor<2>) -> Tensor<2> {
    second.rows(silu(first.rows(x)))
}

/// Reads every parameter back to the place that its id names.
struct Collect {
    values: Vec<Vec<f32>>,
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // A device that fails here leaves the tensor empty, which `with_values` refuses by name.
        let data = param.val().into_data().convert::<f32>();
        if let Some(place) = self.values.get_mut(param.id.val() as usize) {
            *place = data.try_into_vec().unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests;
