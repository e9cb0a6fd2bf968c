//! The operations that the layers are made of, in one of two ways.
//!
//! On the processor and in f32 they are our own ([`own`]), elsewhere burn's ([`stock`]). They differ
//! in how a feature map lies in memory, so a layer never looks at a map's sizes itself: it takes maps
//! from here and gives them back. Both compute the same mathematics, and tests hold both to
//! PyTorch's values.

mod own;
mod stock;

use burn::tensor::{Device, Tensor};

use super::precision::Precision;

/// How operations are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ops {
    /// By burn's own operations, the large products in this precision. Maps are
    /// `[batch, channels, height, width]`.
    Stock(Precision),
    /// By the kernels of [`crate::cpu`]. Maps are `[batch, height, width, channels]`.
    Own,
}

/// A feature map, or two whose channels follow each other: where the U-Net joins a map with an
/// earlier one, nothing is copied until somebody needs it whole.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a handle that lives for one call, its values are shared"
)]
pub enum Map {
    /// One map.
    One(Tensor<4>),
    /// Two maps of the same sizes but for their channels.
    Two(Tensor<4>, Tensor<4>),
}

/// How a 3x3 convolution changes height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Not at all.
    Same,
    /// Every second pixel.
    Halve,
    /// Every pixel is doubled before the convolution (nearest neighbour).
    Double,
}

/// The parameters of a linear map of channels.
#[derive(Clone, Debug)]
pub struct Linear<const D: usize> {
    /// `[out, in, 3, 3]` or `[out, in]`
    pub weight: Tensor<D>,
    /// `[out]`
    pub bias: Tensor<1>,
}

/// The parameters of a group normalisation (Wu and He 2018, arXiv 1803.08494).
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[channels]`
    pub weight: Tensor<1>,
    /// `[channels]`
    pub bias: Tensor<1>,
    /// Groups of neighbouring channels.
    pub groups: usize,
}

impl Ops {
    /// The fastest way on `device`.
    pub fn on(device: &Device, precision: Precision) -> Ops {
        let processor = device.clone().inner() == Device::flex();
        if processor && precision == Precision::F32 { Ops::Own } else { Ops::Stock(precision) }
    }

    /// The same way, with every product in f32.
    pub fn in_f32(self) -> Ops {
        match self {
            Ops::Stock(_) => Ops::Stock(Precision::F32),
            Ops::Own => Ops::Own,
        }
    }

    /// A map from planes `[batch, channels, height, width]`.
    pub fn enter(self, planes: Tensor<4>) -> Tensor<4> {
        match self {
            Ops::Stock(_) => planes,
            Ops::Own => planes.permute([0, 2, 3, 1]),
        }
    }

    /// The planes `[batch, channels, height, width]` of a map.
    pub fn leave(self, map: Tensor<4>) -> Tensor<4> {
        match self {
            Ops::Stock(_) => map,
            Ops::Own => map.permute([0, 3, 1, 2]),
        }
    }

    /// Two maps as one.
    pub fn join(self, a: Tensor<4>, b: Tensor<4>) -> Map {
        match self {
            Ops::Stock(_) => Map::One(Tensor::cat(vec![a, b], 1)),
            Ops::Own => Map::Two(a, b),
        }
    }

    /// A map in one piece.
    pub fn whole(self, map: Map) -> Tensor<4> {
        match map {
            Map::One(map) => map,
            Map::Two(a, b) => Tensor::cat(vec![a, b], 3),
        }
    }

    /// A 3x3 convolution with padding 1, plus `added` where there is one.
    pub fn conv3x3(
        self,
        x: Tensor<4>,
        linear: Linear<4>,
        resize: Resize,
        added: Option<Tensor<4>>,
    ) -> Tensor<4> {
        match self {
            Ops::Stock(precision) => stock::conv3x3(precision, x, linear, resize, added),
            Ops::Own => own::conv3x3(x, linear, resize, added),
        }
    }

    /// The same linear map at every pixel, plus `added` where there is one.
    pub fn pointwise(self, x: Map, linear: Linear<2>, added: Option<Tensor<4>>) -> Tensor<4> {
        match self {
            Ops::Stock(precision) => stock::pointwise(precision, self.whole(x), linear, added),
            Ops::Own => own::pointwise(x, linear, added),
        }
    }

    /// The same linear map of every row, in f32: embeddings are small. `[rows, in]` to `[rows, out]`
    pub fn rows(self, x: Tensor<2>, linear: Linear<2>) -> Tensor<2> {
        match self {
            Ops::Stock(_) => stock::rows(x, linear),
            Ops::Own => own::rows(x, linear),
        }
    }

    /// A normalisation.
    pub fn norm(self, x: Tensor<4>, norm: Norm) -> Tensor<4> {
        match self {
            Ops::Stock(_) => stock::norm(x, norm),
            Ops::Own => own::norm(Map::One(x), norm, false),
        }
    }

    /// A normalisation, then SiLU.
    pub fn norm_silu(self, x: Map, norm: Norm) -> Tensor<4> {
        match self {
            Ops::Stock(_) => stock::norm_silu(self.whole(x), norm),
            Ops::Own => own::norm(x, norm, true),
        }
    }

    /// A normalisation, then times `1 + scale` plus `shift`, then SiLU. `film` is `[batch, 2 *
    /// channels]`, scales before shifts: FiLM (Perez et al. 2018, arXiv 1709.07871), as
    /// guided-diffusion's scale-shift norm.
    pub fn norm_film_silu(self, x: Tensor<4>, norm: Norm, film: Tensor<2>) -> Tensor<4> {
        match self {
            Ops::Stock(_) => stock::norm_film_silu(x, norm, film),
            Ops::Own => own::norm_film_silu(x, norm, film),
        }
    }

    /// Self-attention over all pixels, for a map of queries, keys and values in guided-diffusion's
    /// legacy order: heads first, then the three inside each head.
    pub fn attention(self, qkv: Tensor<4>, heads: usize) -> Tensor<4> {
        match self {
            Ops::Stock(precision) => stock::attention(precision, qkv, heads),
            Ops::Own => own::attention(qkv, heads),
        }
    }
}

#[cfg(test)]
mod tests;
