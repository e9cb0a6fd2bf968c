//! The layers of the U-Net, holding their parameters in the layout of the model file.
//!
//! They choose the operations that are cheap on every burn back end: a pointwise convolution is a
//! matrix product, and a normalisation, its scale and a condition's modulation are one product
//! and one sum. Convolutions, pixelwise maps and attention's two products compute in the network's
//! [`Precision`]; every layer takes and gives f32, and all else in it is f32. No layer draws a random
//! number; weights always come from a [`Weights`].

use std::collections::HashMap;

use burn::module::{Module, Param, ParamId};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};

use super::precision::Precision;
use super::tape::Tape;
use super::weights::Weights;

/// What keeps a normalisation of a constant input finite.
const NORM_EPSILON: f64 = 1e-5;

/// Hands out a model's tensors as parameters on one device.
///
/// A parameter's id is its position in the blueprint, which is how [`super::unet`] finds its name
/// again.
pub struct Source<'a> {
    device: &'a Device,
    precision: Precision,
    tensors: HashMap<&'a str, (u64, &'a [f32])>,
}

/// A 3x3 convolution with padding 1.
#[derive(Module, Debug)]
pub struct Conv3x3 {
    /// `[out, in, 3, 3]`
    weight: Param<Tensor<4>>,
    /// `[out]`
    bias: Param<Tensor<1>>,
    stride: usize,
    #[module(skip)]
    precision: Precision,
}

/// The same linear map at every position.
#[derive(Module, Debug)]
pub struct Pointwise {
    /// `[out, in]`
    weight: Param<Tensor<2>>,
    /// `[out]`
    bias: Param<Tensor<1>>,
    #[module(skip)]
    precision: Precision,
}

/// Group normalisation (Wu and He 2018, arXiv 1803.08494).
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`
    weight: Param<Tensor<1>>,
    /// `[channels]`
    bias: Param<Tensor<1>>,
    groups: usize,
}

/// A residual block whose second normalisation is scaled and shifted by the embedding.
#[derive(Module, Debug)]
pub struct Residual {
    in_norm: GroupNorm,
    in_conv: Conv3x3,
    modulation: Pointwise,
    out_norm: GroupNorm,
    out_conv: Conv3x3,
    skip: Option<Pointwise>,
}

/// Multi-head self-attention over all pixels, with guided-diffusion's legacy order: heads first,
/// then query, key and value inside each head.
#[derive(Module, Debug)]
pub struct Attention {
    norm: GroupNorm,
    qkv: Pointwise,
    proj_out: Pointwise,
    heads: usize,
    #[module(skip)]
    precision: Precision,
}

impl<'a> Source<'a> {
    /// The tensors of `weights`, to be put on `device` for layers that compute in `precision`.
    pub fn new(weights: &'a Weights, device: &'a Device, precision: Precision) -> Source<'a> {
        let named = weights.iter().enumerate();
        let tensors =
            named.map(|(i, (tensor, values))| (tensor.name.as_str(), (i as u64, values))).collect();
        Source { device, precision, tensors }
    }

    /// The tensor `name` as a parameter of the given shape.
    pub fn param<const D: usize>(&self, name: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        // The blocks are built from the blueprint that `weights` was checked against, so that the
        // name exists and the shape holds its values: anything else is a bug of this folder.
        #[expect(clippy::expect_used, reason = "weights are complete by construction")]
        let (id, values) = self.tensors.get(name).expect("the blueprint lists every tensor");
        let tensor = Tensor::from_data(TensorData::new(values.to_vec(), shape), self.device);
        let tensor = if self.device.is_autodiff() { tensor.require_grad() } else { tensor };
        Param::initialized(ParamId::from(*id), tensor)
    }

    /// A 3x3 convolution from the tensors under `name`.
    pub fn conv3x3(&self, name: &str, input: usize, out: usize, stride: usize) -> Conv3x3 {
        Conv3x3 {
            weight: self.param(&format!("{name}.weight"), [out, input, 3, 3]),
            bias: self.param(&format!("{name}.bias"), [out]),
            stride,
            precision: self.precision,
        }
    }

    /// A linear map from the tensors under `name`.
    pub fn pointwise(&self, name: &str, input: usize, out: usize) -> Pointwise {
        Pointwise {
            weight: self.param(&format!("{name}.weight"), [out, input]),
            bias: self.param(&format!("{name}.bias"), [out]),
            precision: self.precision,
        }
    }

    /// A normalisation from the tensors under `name`.
    pub fn norm(&self, name: &str, width: usize, groups: usize) -> GroupNorm {
        GroupNorm {
            weight: self.param(&format!("{name}.weight"), [width]),
            bias: self.param(&format!("{name}.bias"), [width]),
            groups,
        }
    }

    /// A residual block from the tensors under `name`; `embedding` is the width it is told.
    pub fn residual(
        &self,
        name: &str,
        [input, out]: [usize; 2],
        embedding: usize,
        groups: usize,
    ) -> Residual {
        let skip = || self.pointwise(&format!("{name}.skip_connection"), input, out);
        Residual {
            in_norm: self.norm(&format!("{name}.in_layers.0"), input, groups),
            in_conv: self.conv3x3(&format!("{name}.in_layers.2"), input, out, 1),
            modulation: self.pointwise(&format!("{name}.emb_layers.1"), embedding, 2 * out),
            out_norm: self.norm(&format!("{name}.out_layers.0"), out, groups),
            out_conv: self.conv3x3(&format!("{name}.out_layers.3"), out, out, 1),
            skip: (input != out).then(skip),
        }
    }

    /// An attention block from the tensors under `name`.
    pub fn attention(&self, name: &str, width: usize, heads: usize, groups: usize) -> Attention {
        Attention {
            norm: self.norm(&format!("{name}.norm"), width, groups),
            qkv: self.pointwise(&format!("{name}.qkv"), width, 3 * width),
            proj_out: self.pointwise(&format!("{name}.proj_out"), width, width),
            heads,
            precision: self.precision,
        }
    }
}

impl Conv3x3 {
    /// `[batch, in, height, width]` to `[batch, out, height / stride, width / stride]`
    pub fn forward(&self, x: Tensor<4>, tape: &mut Tape) -> Tensor<4> {
        let options = ConvOptions::new([self.stride; 2], [1, 1], [1, 1], 1);
        if self.precision != Precision::F32 {
            let lower = self.precision;
            let output = conv2d(lower.lower(x), lower.lower(self.weight.val()), None, options);
            let [out] = self.bias.dims();
            return lower.widen(output) + self.bias.val().reshape([1, out, 1, 1]);
        }
        if !tape.records() {
            return conv2d(x, self.weight.val(), Some(self.bias.val()), options);
        }
        // A detached tensor of burn still asks for its gradient; this one does not.
        let weight = self.weight.val().detach().set_require_grad(false);
        let output = conv2d(x.clone(), weight, None, options);
        tape.add_bias(x, output, &self.weight, &self.bias, self.stride)
    }
}

impl Pointwise {
    /// One map per row, in f32: the embeddings are small. `[batch, in]` to `[batch, out]`
    pub fn rows(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze()
    }

    /// One map per position. `[batch, in, pixels]` to `[batch, out, pixels]`
    pub fn columns(&self, x: Tensor<3>) -> Tensor<3> {
        let [out] = self.bias.dims();
        self.precision.matmul(self.weight.val().unsqueeze(), x)
            + self.bias.val().reshape([1, out, 1])
    }

    /// One map per pixel. `[batch, in, height, width]` to `[batch, out, height, width]`
    fn pixels(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, input, height, width] = x.dims();
        let [out] = self.bias.dims();
        self.columns(x.reshape([batch, input, height * width])).reshape([batch, out, height, width])
    }
}

impl GroupNorm {
    /// Normalised, scaled and shifted. `[batch, channels, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (scale, shift) = self.affine();
        self.apply(x, scale, shift)
    }

    /// [`Self::forward`], then times `1 + scale` plus `shift`, each `[batch, channels, 1]`: FiLM
    /// (Perez et al. 2018, arXiv 1709.07871), as guided-diffusion's scale-shift norm.
    fn modulated(&self, x: Tensor<4>, scale: Tensor<3>, shift: Tensor<3>) -> Tensor<4> {
        let (own_scale, own_shift) = self.affine();
        let scale = scale + 1.0;
        self.apply(x, own_scale * scale.clone(), own_shift * scale + shift)
    }

    /// The parameters as `[1, channels, 1]`.
    fn affine(&self) -> (Tensor<3>, Tensor<3>) {
        let [channels] = self.weight.dims();
        let shape = [1, channels, 1];
        (self.weight.val().reshape(shape), self.bias.val().reshape(shape))
    }

    /// (x - mean) / sqrt(var + eps) * scale + shift, mean and variance over each group; scale and
    /// shift are `[1 or batch, channels, 1]`.
    fn apply(&self, x: Tensor<4>, scale: Tensor<3>, shift: Tensor<3>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let (groups, pixels) = (self.groups, height * width);
        let per_group = channels / groups;
        let [rows, _, _] = scale.dims();
        let x = x.reshape([batch, groups, per_group * pixels]);
        let centred = x.clone() - x.mean_dim(2);
        let variance = (centred.clone() * centred.clone()).mean_dim(2);
        let inverse = (variance + NORM_EPSILON).sqrt().recip(); // [batch, groups, 1]
        let scale = scale.reshape([rows, groups, per_group]) * inverse;
        let scale = scale.reshape([batch, channels, 1]);
        let x = centred.reshape([batch, channels, pixels]) * scale + shift;
        x.reshape([batch, channels, height, width])
    }
}

impl Residual {
    /// `x` is `[batch, in, height, width]`, `embedding` `[batch, embedding]` after its SiLU.
    pub fn forward(&self, x: Tensor<4>, embedding: &Tensor<2>, tape: &mut Tape) -> Tensor<4> {
        let [batch, ..] = x.dims();
        let h = self.in_conv.forward(silu(self.in_norm.forward(x.clone())), tape);
        let [_, out, ..] = h.dims();
        let modulation = self.modulation.rows(embedding.clone()).reshape([batch, 2, out, 1]);
        let scale = modulation.clone().narrow(1, 0, 1).reshape([batch, out, 1]);
        let shift = modulation.narrow(1, 1, 1).reshape([batch, out, 1]);
        let h = self.out_conv.forward(silu(self.out_norm.modulated(h, scale, shift)), tape);
        let skip = match &self.skip {
            Some(skip) => skip.pixels(x),
            None => x,
        };
        h + skip
    }
}

impl Attention {
    /// `[batch, channels, height, width]`, same out.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let (pixels, dim) = (height * width, channels / self.heads);
        let normed = self.norm.forward(x.clone()).reshape([batch, channels, pixels]);
        // [batch * heads, query | key | value, pixels]
        let qkv = self.qkv.columns(normed).reshape([batch * self.heads, 3 * dim, pixels]);
        let query = qkv.clone().narrow(1, 0, dim) * (1.0 / (dim as f64).sqrt());
        let key = qkv.clone().narrow(1, dim, dim);
        let value = qkv.narrow(1, 2 * dim, dim);
        // [batch * heads, pixels of the query, pixels of the key]
        let weight = softmax(self.precision.matmul(query.swap_dims(1, 2), key), 2);
        let mixed = self.precision.matmul(value, weight.swap_dims(1, 2));
        let mixed = mixed.reshape([batch, channels, pixels]);
        let projected = self.proj_out.columns(mixed).reshape([batch, channels, height, width]);
        x + projected
    }
}
