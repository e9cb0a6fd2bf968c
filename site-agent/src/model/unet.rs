//! The U-Net: guided-diffusion's, with the condition embedding concatenated to the time embedding.
//!
//! It maps x_t, its context planes, the step and the condition to a prediction. It knows nothing
//! of diffusion, and its weights come in and go out as [`Weights`].

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::activation::silu;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor, TensorData};

use super::batch::Batch;
use super::blueprint::{Block, Blueprint};
use super::layers::{Attention, Conv3x3, GroupNorm, Pointwise, Residual, Source};
use super::spec::{CONDITION_LEN, IN_CHANNELS, ModelSpec, OUT_CHANNELS};
use super::tape::Tape;
use super::weights::{Weights, WeightsError};

/// The longest period of the timestep embedding, as in Vaswani et al. 2017 (arXiv 1706.03762).
const MAX_PERIOD: f64 = 10_000.0;

/// The network on a device.
#[derive(Module, Debug)]
pub struct Unet {
    time_embed: [Pointwise; 2],
    label_emb: [Pointwise; 2],
    input: Vec<Stage>,
    middle: Stage,
    output: Vec<Stage>,
    out_norm: GroupNorm,
    out_conv: Conv3x3,
}

/// Blocks that run one after the other.
#[derive(Module, Debug)]
struct Stage {
    blocks: Vec<Layer>,
}

/// One block of the blueprint.
#[expect(clippy::large_enum_variant, reason = "burn has no boxed module and a net has few blocks")]
#[derive(Module, Debug)]
enum Layer {
    Conv(Conv3x3),
    Residual(Residual),
    Attention(Attention),
    Up(Conv3x3),
}

impl Unet {
    /// The network of `weights` on `device`; trainable where the device is an autodiff device.
    pub fn new(weights: &Weights, device: &Device) -> Unet {
        let spec = weights.spec();
        let source = Source::new(weights, device);
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
            input: stages("input_blocks", &blueprint.input),
            middle: stage(&source, spec, "middle_block", &blueprint.middle),
            output: stages("output_blocks", &blueprint.output),
            out_norm: source.norm("out.0", width, spec.groups),
            out_conv: source.conv3x3("out.2", width, OUT_CHANNELS, 1),
        }
    }

    /// The prediction. `[batch, 1, size, size]`
    ///
    /// `x` is `[batch, 9, size, size]`: x_t, the voided image, the mask, the region planes.
    /// `time` is [`embed_timesteps`]' `[batch, channels]`, `condition` `[batch, 6]`; `tape` is off
    /// unless this pass is one of training.
    pub fn forward(
        &self,
        x: Tensor<4>,
        time: Tensor<2>,
        condition: Tensor<2>,
        tape: &mut Tape,
    ) -> Tensor<4> {
        let time = mlp(&self.time_embed, time);
        let condition = mlp(&self.label_emb, condition);
        // Every residual block begins with the same SiLU of the embedding, so it is taken once.
        let embedding = silu(Tensor::cat(vec![time, condition], 1)); // [batch, 8 * channels]
        let mut kept = Vec::with_capacity(self.input.len());
        let mut h = x;
        for stage in &self.input {
            h = stage.forward(h, &embedding, tape);
            kept.push(h.clone());
        }
        h = self.middle.forward(h, &embedding, tape);
        for stage in &self.output {
            let mut joined = vec![h];
            joined.extend(kept.pop());
            h = stage.forward(Tensor::cat(joined, 1), &embedding, tape);
        }
        self.out_conv.forward(silu(self.out_norm.forward(h)), tape)
    }

    /// The prediction for a batch, on `device`; `spec` is the network's. `[batch, 1, size, size]`
    pub fn predict(
        &self,
        batch: Batch,
        spec: &ModelSpec,
        device: &Device,
        tape: &mut Tape,
    ) -> Tensor<4> {
        let (count, size) = (batch.timesteps.len(), spec.image_size);
        let time = embed_timesteps(&batch.timesteps, spec.channels);
        let planes = TensorData::new(batch.planes, [count, IN_CHANNELS, size, size]);
        let time = TensorData::new(time, [count, spec.channels]);
        let conditions = TensorData::new(batch.conditions, [count, CONDITION_LEN]);
        self.forward(
            Tensor::from_data(planes, device),
            Tensor::from_data(time, device),
            Tensor::from_data(conditions, device),
            tape,
        )
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
    fn forward(&self, x: Tensor<4>, embedding: &Tensor<2>, tape: &mut Tape) -> Tensor<4> {
        self.blocks.iter().fold(x, |x, block| match block {
            Layer::Conv(conv) => conv.forward(x, tape),
            Layer::Residual(residual) => residual.forward(x, embedding, tape),
            Layer::Attention(attention) => attention.forward(x),
            Layer::Up(conv) => {
                let [_, _, height, width] = x.dims();
                let options = InterpolateOptions::new(InterpolateMode::Nearest)
                    .with_output_size([2 * height, 2 * width]);
                conv.forward(interpolate(x, options), tape)
            }
        })
    }
}

/// The sinusoidal embedding of timesteps, cosines first. `[batch, channels]`
///
/// With half = channels / 2 and f_k = exp(-ln(10000) k / half): cos(t f_k), then sin(t f_k).
pub fn embed_timesteps(timesteps: &[usize], channels: usize) -> Vec<f32> {
    let half = channels / 2;
    let angle = |t: usize, k: usize| t as f64 * (-MAX_PERIOD.ln() * k as f64 / half as f64).exp();
    let mut embedded = Vec::with_capacity(timesteps.len() * channels);
    for &t in timesteps {
        embedded.extend((0..half).map(|k| angle(t, k).cos() as f32));
        embedded.extend((0..half).map(|k| angle(t, k).sin() as f32));
    }
    embedded
}

/// The blocks of one stage.
fn stage(source: &Source<'_>, spec: &ModelSpec, prefix: &str, blocks: &[Block]) -> Stage {
    let (embedding, groups) = (2 * spec.embedding(), spec.groups);
    let build = |(i, block): (usize, &Block)| {
        let name = format!("{prefix}.{i}");
        match *block {
            Block::Stem { out } => Layer::Conv(source.conv3x3(&name, IN_CHANNELS, out, 1)),
            Block::Down { width } => {
                Layer::Conv(source.conv3x3(&format!("{name}.op"), width, width, 2))
            }
            Block::Up { width } => {
                Layer::Up(source.conv3x3(&format!("{name}.conv"), width, width, 1))
            }
            Block::Residual { input, out } => {
                Layer::Residual(source.residual(&name, [input, out], embedding, groups))
            }
            Block::Attention { width } => {
                Layer::Attention(source.attention(&name, width, spec.heads(width), groups))
            }
        }
    };
    Stage { blocks: blocks.iter().enumerate().map(build).collect() }
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
mod tests {
    use super::super::blueprint;
    use super::super::spec::Preset;
    use super::*;

    #[test]
    fn the_timestep_embedding_has_the_reference_values() {
        let expected = [
            0.753_902_25,
            0.764_842_2,
            0.997_551,
            0.999_975_5,
            0.656_986_6,
            0.644_217_7,
            0.069_942_85,
            0.006_999_94,
        ];
        for (found, expected) in embed_timesteps(&[7], 8).iter().zip(expected) {
            assert!((found - expected as f32).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn weights_pass_through_the_network_unchanged() {
        let weights = Weights::init(&ModelSpec::preset(Preset::Tiny), 3).unwrap();
        for device in [Device::flex(), Device::flex().autodiff()] {
            assert_eq!(Unet::new(&weights, &device).weights(&weights).unwrap(), weights);
        }
    }

    /// The weights of the reference run: value j (from 1) of a tensor is a sine of j and of its
    /// name's bytes, scaled by what kind of tensor it is.
    fn reference_weights() -> Weights {
        let spec = ModelSpec::preset(Preset::Tiny);
        let start = Weights::init(&spec, 0).unwrap();
        let value = |tensor: &blueprint::TensorSpec, j: usize| {
            let name: u64 = tensor.name.bytes().map(u64::from).sum();
            let s = (0.7 * j as f64 + (name % 97) as f64 / 10.0).sin();
            let bias = tensor.name.ends_with("bias");
            let norm = tensor.shape.len() == 1;
            let fan_in: usize = tensor.shape[1..].iter().product();
            (match (bias, norm) {
                (true, _) => 0.02 * s,
                (false, true) => 1.0 + 0.1 * s,
                (false, false) => s / (fan_in as f64).sqrt(),
            }) as f32
        };
        let values = start.iter().map(|(t, v)| (1..=v.len()).map(|j| value(t, j)).collect());
        start.with_values(values.collect()).unwrap()
    }

    #[test]
    fn the_network_equals_the_reference_implementation() {
        let weights = reference_weights();
        let device = Device::flex();
        let batch = Batch {
            planes: (1..=2 * 9 * 32 * 32).map(|i| (0.05 * f64::from(i)).sin() as f32).collect(),
            timesteps: vec![7, 500],
            conditions: vec![1., 0., 0., 0., 0.25, 0., 0., 0., 0., 1., 0.5, 1.],
            unconditional: Vec::new(),
        };
        let net = Unet::new(&weights, &device);
        let out = net.predict(batch, weights.spec(), &device, &mut Tape::off());
        assert_eq!(out.dims(), [2, 1, 32, 32]);
        let out: Vec<f32> = out.into_data().try_into_vec().unwrap();
        let sum: f64 = out.iter().map(|&v| f64::from(v)).sum();
        let magnitude = out.iter().map(|&v| f64::from(v.abs())).sum::<f64>() / 2048.0;
        let square: f64 = out.iter().map(|&v| f64::from(v).powi(2)).sum();
        assert!((magnitude - 0.617_362_027_4).abs() < 2e-5, "{magnitude}");
        assert!((sum + 13.720_816_470_6).abs() < 2e-2, "{sum}");
        assert!((square - 1_508.217_804_24).abs() < 5e-2, "{square}");
        for (n, y, x, expected) in [
            (0, 0, 0, -1.051_696_439_2),
            (0, 16, 16, 0.403_516_465_0),
            (0, 31, 5, 0.268_155_572_5),
            (1, 0, 31, -0.220_726_252_7),
            (1, 10, 20, 1.819_130_789_3),
            (1, 31, 31, 0.025_630_538_5),
        ] {
            let found = f64::from(out[n * 1024 + y * 32 + x]);
            assert!((found - expected).abs() < 2e-4, "{n} {y} {x}: {found} {expected}");
        }
    }
}
