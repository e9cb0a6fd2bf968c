//! The operations by burn's own, for any device. Maps are `[batch, channels, height, width]`.
//!
//! They are those that are cheap on every back end: a pointwise convolution is a matrix product, and
//! a normalisation, its scale and a condition's modulation are one product and one sum. What sums
//! many values, a norm or a softmax, is in f32 whatever the precision of the products.

use burn::tensor::Tensor;
use burn::tensor::activation::{silu, softmax};
use burn::tensor::module::{conv2d, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};

use super::{Linear, Norm, Resize};
use crate::cpu::norm::EPSILON;
use crate::model::precision::Precision;

/// A 3x3 convolution with padding 1.
pub(super) fn conv3x3(
    precision: Precision,
    x: Tensor<4>,
    Linear { weight, bias }: Linear<4>,
    resize: Resize,
    added: Option<Tensor<4>>,
) -> Tensor<4> {
    let stride = if resize == Resize::Halve { 2 } else { 1 };
    let x = if resize == Resize::Double { doubled(x) } else { x };
    let options = ConvOptions::new([stride; 2], [1, 1], [1, 1], 1);
    let y = if precision == Precision::F32 {
        conv2d(x, weight, Some(bias), options)
    } else {
        let [out] = bias.dims();
        let y = conv2d(precision.lower(x), precision.lower(weight), None, options);
        precision.widen(y) + bias.reshape([1, out, 1, 1])
    };
    sum(y, added)
}

/// A matrix product per pixel.
pub(super) fn pointwise(
    precision: Precision,
    x: Tensor<4>,
    Linear { weight, bias }: Linear<2>,
    added: Option<Tensor<4>>,
) -> Tensor<4> {
    let [batch, input, height, width] = x.dims();
    let [out] = bias.dims();
    let x = x.reshape([batch, input, height * width]);
    let y = precision.matmul(weight.unsqueeze(), x) + bias.reshape([1, out, 1]);
    sum(y.reshape([batch, out, height, width]), added)
}

/// A matrix product.
pub(super) fn rows(x: Tensor<2>, Linear { weight, bias }: Linear<2>) -> Tensor<2> {
    x.matmul(weight.transpose()) + bias.unsqueeze()
}

/// Group normalisation.
pub(super) fn norm(x: Tensor<4>, Norm { weight, bias, groups }: Norm) -> Tensor<4> {
    let shape = [1, weight.dims()[0], 1];
    apply(x, groups, weight.reshape(shape), bias.reshape(shape))
}

/// Group normalisation, then SiLU.
pub(super) fn norm_silu(x: Tensor<4>, own: Norm) -> Tensor<4> {
    silu(norm(x, own))
}

/// Group normalisation, FiLM, SiLU.
pub(super) fn norm_film_silu(
    x: Tensor<4>,
    Norm { weight, bias, groups }: Norm,
    film: Tensor<2>,
) -> Tensor<4> {
    let ([batch, channels, ..], shape) = (x.dims(), [1, weight.dims()[0], 1]);
    let film = film.reshape([batch, 2, channels, 1]);
    let scale = film.clone().narrow(1, 0, 1).reshape([batch, channels, 1]) + 1.0;
    let shift = film.narrow(1, 1, 1).reshape([batch, channels, 1]);
    let shift = bias.reshape(shape) * scale.clone() + shift;
    silu(apply(x, groups, weight.reshape(shape) * scale, shift))
}

/// Attention that keeps the weight of every pair of pixels.
pub(super) fn attention(precision: Precision, qkv: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, width, rows, columns] = qkv.dims();
    let (pixels, dim) = (rows * columns, width / 3 / heads);
    let qkv = qkv.reshape([batch * heads, 3 * dim, pixels]);
    let query = qkv.clone().narrow(1, 0, dim) * (1.0 / (dim as f64).sqrt());
    let key = qkv.clone().narrow(1, dim, dim);
    let value = qkv.narrow(1, 2 * dim, dim);
    // [batch * heads, pixels of the query, pixels of the key]
    let weight = softmax(precision.matmul(query.swap_dims(1, 2), key), 2);
    let mixed = precision.matmul(value, weight.swap_dims(1, 2));
    mixed.reshape([batch, heads * dim, rows, columns])
}

/// (x - mean) / sqrt(var + eps) * scale + shift, mean and variance over each group; scale and shift
/// are `[1 or batch, channels, 1]`.
fn apply(x: Tensor<4>, groups: usize, scale: Tensor<3>, shift: Tensor<3>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let (pixels, per_group) = (height * width, channels / groups);
    let [rows, _, _] = scale.dims();
    let x = x.reshape([batch, groups, per_group * pixels]);
    let centred = x.clone() - x.mean_dim(2);
    let variance = (centred.clone() * centred.clone()).mean_dim(2);
    let inverse = (variance + EPSILON).sqrt().recip(); // [batch, groups, 1]
    let scale = scale.reshape([rows, groups, per_group]) * inverse;
    let scale = scale.reshape([batch, channels, 1]);
    let x = centred.reshape([batch, channels, pixels]) * scale + shift;
    x.reshape([batch, channels, height, width])
}

/// Every pixel twice in each direction.
fn doubled(x: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let options = InterpolateOptions::new(InterpolateMode::Nearest);
    interpolate(x, options.with_output_size([2 * height, 2 * width]))
}

fn sum(x: Tensor<4>, added: Option<Tensor<4>>) -> Tensor<4> {
    match added {
        Some(added) => x + added,
        None => x,
    }
}
