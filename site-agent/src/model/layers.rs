//! The layers of the U-Net, holding their parameters in the layout of the model file.
//!
//! What they are made of is [`Ops`]' affair; they say in which order. No layer draws a random number;
//! weights always come from a [`Weights`].

use std::collections::HashMap;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};

use super::ops::{Linear, Map, Norm, Ops, Resize};
use super::weights::Weights;

/// Hands out a model's tensors as parameters on one device.
///
/// A parameter's id is its position in the blueprint, which is how [`super::unet`] finds its name
/// again.
pub struct Source<'a> {
    device: &'a Device,
    ops: Ops,
    tensors: HashMap<&'a str, (u64, &'a [f32])>,
}

/// A 3x3 convolution with padding 1.
#[derive(Module, Debug)]
pub struct Conv3x3 {
    /// `[out, in, 3, 3]`
    weight: Param<Tensor<4>>,
    /// `[out]`
    bias: Param<Tensor<1>>,
    #[module(skip)]
    resize: Resize,
    #[module(skip)]
    ops: Ops,
}

/// The same linear map at every position.
#[derive(Module, Debug)]
pub struct Pointwise {
    /// `[out, in]`
    weight: Param<Tensor<2>>,
    /// `[out]`
    bias: Param<Tensor<1>>,
    #[module(skip)]
    ops: Ops,
}

/// Group normalisation (Wu and He 2018, arXiv 1803.08494).
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`
    weight: Param<Tensor<1>>,
    /// `[channels]`
    bias: Param<Tensor<1>>,
    groups: usize,
    #[module(skip)]
    ops: Ops,
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
    ops: Ops,
}

impl<'a> Source<'a> {
    /// The tensors of `weights`, to be put on `device` for layers that work by `ops`.
    pub fn new(weights: &'a Weights, device: &'a Device, ops: Ops) -> Source<'a> {
        let named = weights.iter().enumerate();
        let tensors =
            named.map(|(i, (tensor, values))| (tensor.name.as_str(), (i as u64, values))).collect();
        Source { device, ops, tensors }
    }

    /// By which operations the layers work.
    pub fn ops(&self) -> Ops {
        self.ops
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
    pub fn conv3x3(&self, name: &str, input: usize, out: usize, resize: Resize) -> Conv3x3 {
        Conv3x3 {
            weight: self.param(&format!("{name}.weight"), [out, input, 3, 3]),
            bias: self.param(&format!("{name}.bias"), [out]),
            resize,
            ops: self.ops,
        }
    }

    /// A linear map from the tensors under `name`.
    pub fn pointwise(&self, name: &str, input: usize, out: usize) -> Pointwise {
        Pointwise {
            weight: self.param(&format!("{name}.weight"), [out, input]),
            bias: self.param(&format!("{name}.bias"), [out]),
            ops: self.ops,
        }
    }

    /// A normalisation from the tensors under `name`.
    pub fn norm(&self, name: &str, width: usize, groups: usize) -> GroupNorm {
        GroupNorm {
            weight: self.param(&format!("{name}.weight"), [width]),
            bias: self.param(&format!("{name}.bias"), [width]),
            groups,
            ops: self.ops,
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
            in_conv: self.conv3x3(&format!("{name}.in_layers.2"), input, out, Resize::Same),
            modulation: self.pointwise(&format!("{name}.emb_layers.1"), embedding, 2 * out),
            out_norm: self.norm(&format!("{name}.out_layers.0"), out, groups),
            out_conv: self.conv3x3(&format!("{name}.out_layers.3"), out, out, Resize::Same),
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
            ops: self.ops,
        }
    }
}

impl Conv3x3 {
    /// A map of `in` channels to one of `out`, resized as it says.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.ops.conv3x3(x, self.linear(), self.resize, None)
    }

    /// [`Self::forward`] plus `added`.
    fn forward_onto(&self, x: Tensor<4>, added: Tensor<4>) -> Tensor<4> {
        self.ops.conv3x3(x, self.linear(), self.resize, Some(added))
    }

    fn linear(&self) -> Linear<4> {
        Linear { weight: self.weight.val(), bias: self.bias.val() }
    }
}

impl Pointwise {
    /// One map per row, in f32: the embeddings are small. `[batch, in]` to `[batch, out]`
    pub fn rows(&self, x: Tensor<2>) -> Tensor<2> {
        self.ops.rows(x, Linear { weight: self.weight.val(), bias: self.bias.val() })
    }

    /// One map per pixel, plus `added` where there is one.
    fn pixels(&self, x: Map, added: Option<Tensor<4>>) -> Tensor<4> {
        let linear = Linear { weight: self.weight.val(), bias: self.bias.val() };
        self.ops.pointwise(x, linear, added)
    }
}

impl GroupNorm {
    /// Normalised, scaled, shifted, and through SiLU.
    pub fn forward_silu(&self, x: Map) -> Tensor<4> {
        self.ops.norm_silu(x, self.norm())
    }

    fn norm(&self) -> Norm {
        Norm { weight: self.weight.val(), bias: self.bias.val(), groups: self.groups }
    }
}

impl Residual {
    /// `x` is a map of `in` channels, `embedding` `[batch, embedding]` after its SiLU.
    pub fn forward(&self, x: Map, embedding: &Tensor<2>) -> Tensor<4> {
        let ops = self.in_norm.ops;
        let h = self.in_conv.forward(self.in_norm.forward_silu(x.clone()));
        let film = self.modulation.rows(embedding.clone()); // [batch, scale | shift]
        let h = ops.norm_film_silu(h, self.out_norm.norm(), film);
        let skip = match &self.skip {
            Some(skip) => skip.pixels(x, None),
            None => ops.whole(x),
        };
        self.out_conv.forward_onto(h, skip)
    }
}

impl Attention {
    /// A map to one of the same sizes.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let normed = self.ops.norm(x.clone(), self.norm.norm());
        let qkv = self.qkv.pixels(Map::One(normed), None);
        self.proj_out.pixels(Map::One(self.ops.attention(qkv, self.heads)), Some(x))
    }
}
