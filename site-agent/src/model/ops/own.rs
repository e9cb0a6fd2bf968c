//! The operations by our own kernels, for the processor. Maps are `[batch, height, width, channels]`.

use burn::tensor::Tensor;

use super::{Linear, Map, Norm, Resize};
use crate::cpu::conv::Scale;
use crate::cpu::extension::{run_1, run_3, run_4};
use crate::cpu::kernels;
use crate::cpu::kernels::attention::Attention;
use crate::cpu::kernels::conv::{Conv3x3, Conv3x3Added};
use crate::cpu::kernels::norm::{GroupNorm, GroupNormFilm, GroupNormJoined};
use crate::cpu::kernels::pointwise::{Pointwise, PointwiseAdded, PointwiseJoined};

/// A 3x3 convolution with padding 1.
pub(super) fn conv3x3(
    x: Tensor<4>,
    Linear { weight, bias }: Linear<4>,
    resize: Resize,
    added: Option<Tensor<4>>,
) -> Tensor<4> {
    let scale = match resize {
        Resize::Same => Scale::Same,
        Resize::Halve => Scale::Halve,
        Resize::Double => Scale::Double,
    };
    match added {
        None => run_3(Conv3x3 { scale }, x, weight, bias),
        Some(added) => run_4(Conv3x3Added { scale }, x, weight, bias, added),
    }
}

/// A matrix product per pixel.
pub(super) fn pointwise(
    x: Map,
    Linear { weight, bias }: Linear<2>,
    added: Option<Tensor<4>>,
) -> Tensor<4> {
    match (x, added) {
        (Map::One(x), None) => run_3(Pointwise, x, weight, bias),
        (Map::One(x), Some(added)) => run_4(PointwiseAdded, x, weight, bias, added),
        (Map::Two(a, b), None) => run_4(PointwiseJoined, a, b, weight, bias),
        (Map::Two(a, b), Some(added)) => {
            let y: Tensor<4> = run_4(PointwiseJoined, a, b, weight, bias);
            y + added
        }
    }
}

/// The same map of every row.
pub(super) fn rows(x: Tensor<2>, Linear { weight, bias }: Linear<2>) -> Tensor<2> {
    run_3(kernels::linear::Linear, x, weight, bias)
}

/// Group normalisation, then SiLU where asked.
pub(super) fn norm(x: Map, Norm { weight, bias, groups }: Norm, silu: bool) -> Tensor<4> {
    match x {
        Map::One(x) => run_3(GroupNorm { groups, silu }, x, weight, bias),
        Map::Two(a, b) => run_4(GroupNormJoined { groups, silu }, a, b, weight, bias),
    }
}

/// Group normalisation, FiLM, SiLU.
pub(super) fn norm_film_silu(
    x: Tensor<4>,
    Norm { weight, bias, groups }: Norm,
    film: Tensor<2>,
) -> Tensor<4> {
    run_4(GroupNormFilm { groups }, x, weight, bias, film)
}

/// Attention that keeps no weight of a pair of pixels.
pub(super) fn attention(qkv: Tensor<4>, heads: usize) -> Tensor<4> {
    run_1(Attention { heads }, qkv)
}
