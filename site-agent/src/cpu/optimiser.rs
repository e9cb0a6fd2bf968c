//! AdamW, the clipping of the global norm and the moving average of the weights, in one pass.
//!
//! AdamW is Loshchilov and Hutter's (2019, arXiv 1711.05101, algorithm 2) with PyTorch's order: the
//! weight decays by rate times decay, whatever the gradient. The gradients are read twice, once for
//! their norm and once for the update; everything else is read and written once, which is all that
//! this costs.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::pieces::{PIECE, dispatch};

/// How a step moves the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The learning rate of this step.
    pub rate: f64,
    /// How much of the gradient's mean is kept.
    pub beta_1: f32,
    /// How much of the squared gradient's mean is kept.
    pub beta_2: f32,
    /// What keeps the update of a parameter without gradient finite.
    pub epsilon: f32,
    /// The decay of the weights, per unit of learning rate.
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm over all parameters together.
    pub norm_max: f64,
    /// How much of the weights' moving average is kept.
    pub average_decay: f32,
}

/// A tensor with what belongs to it; all slices are of one length.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// The weights.
    pub weight: &'a mut [f32],
    /// The gradient; it is not changed by the clipping.
    pub gradient: &'a [f32],
    /// The mean of the gradient; zero before the first step.
    pub first: &'a mut [f32],
    /// The mean of the squared gradient; zero before the first step.
    pub second: &'a mut [f32],
    /// Whether the weights decay.
    pub decays: bool,
    /// The moving average of the weights, where there is one.
    pub average: Option<&'a mut [f32]>,
}

/// Takes step `number`, from 1, and gives the norm of all gradients before it was clipped.
///
/// Where that norm is not finite nothing is changed.
///
/// # Panics
/// If the slices of a parameter differ in length: that is a bug of the caller.
pub fn step(parameters: Vec<Parameter<'_>>, options: &AdamW, number: u32) -> f64 {
    let gradients: Vec<&[f32]> = parameters.iter().map(|parameter| parameter.gradient).collect();
    let norm = square_norm(&gradients).sqrt();
    if !norm.is_finite() {
        return norm;
    }
    let factors = Factors::new(options, number, norm);
    let pieces: Vec<Parameter<'_>> = parameters.into_iter().flat_map(cut).collect();
    pieces.into_par_iter().for_each(|piece| {
        // The whole vectors, and then what is left one value at a time.
        let whole = piece.weight.len() / 16 * 16;
        let [piece, rest] = piece.split(whole);
        dispatch(whole, Update { piece, factors });
        dispatch(1, Update { piece: rest, factors });
    });
    norm
}

/// The sum of the squares of all gradients, exact to f64: by fixed pieces, added in their order.
pub fn square_norm(gradients: &[&[f32]]) -> f64 {
    let pieces: Vec<&[f32]> =
        gradients.iter().flat_map(|gradient| gradient.chunks(PIECE)).collect();
    let sums: Vec<f64> = pieces.into_par_iter().map(|piece| dispatch(16, Squares(piece))).collect();
    sums.iter().sum()
}

/// A piece's sum of squares.
struct Squares<'a>(&'a [f32]);

impl WithSimd for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        // As many sums on every machine, so that machines agree.
        let mut sums = [[0.0_f64; 8]; 2];
        let (blocks, rest) = self.0.as_chunks::<8>();
        let (pairs, last) = blocks.as_chunks::<2>();
        for [a, b] in pairs {
            sums = [squares_added(sums[0], a), squares_added(sums[1], b)];
        }
        for block in last {
            sums[0] = squares_added(sums[0], block);
        }
        let whole = sums.as_flattened().iter().sum::<f64>();
        whole + rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>()
    }
}

/// Every sum with the square of its value, which is exact in f64.
#[inline(always)]
fn squares_added(sums: [f64; 8], values: &[f32; 8]) -> [f64; 8] {
    std::array::from_fn(|k| sums[k] + f64::from(values[k]) * f64::from(values[k]))
}

/// A step's constants.
#[derive(Clone, Copy)]
struct Factors {
    /// What scales the gradient down.
    clip: f32,
    beta_1: f32,
    beta_2: f32,
    /// 1 / (1 - beta_1^number), the correction for means that began at zero.
    correction_1: f32,
    /// The same of beta_2.
    correction_2: f32,
    epsilon: f32,
    rate: f32,
    /// 1 - rate * weight_decay
    keep: f32,
    average_decay: f32,
}

impl Factors {
    fn new(options: &AdamW, number: u32, norm: f64) -> Factors {
        // In f64: 1 - 0.999^number in f32 has lost half its digits in the first steps.
        let correction = |beta: f32| (1.0 - f64::from(beta).powi(number as i32)).recip() as f32;
        let clip = if norm > options.norm_max { options.norm_max / norm } else { 1.0 };
        Factors {
            clip: clip as f32,
            beta_1: options.beta_1,
            beta_2: options.beta_2,
            correction_1: correction(options.beta_1),
            correction_2: correction(options.beta_2),
            epsilon: options.epsilon,
            rate: options.rate as f32,
            keep: (1.0 - options.rate * f64::from(options.weight_decay)) as f32,
            average_decay: options.average_decay,
        }
    }
}

/// A parameter as pieces.
fn cut(parameter: Parameter<'_>) -> Vec<Parameter<'_>> {
    let len = parameter.weight.len();
    let average = parameter.average.as_ref().map_or(len, |average| average.len());
    let lengths =
        [parameter.gradient.len(), parameter.first.len(), parameter.second.len(), average];
    assert_eq!(lengths, [len; 4], "all of a parameter has the length of its weights");
    let mut pieces = Vec::with_capacity(len.div_ceil(PIECE));
    let mut rest = parameter;
    while rest.weight.len() > PIECE {
        let [piece, more] = rest.split(PIECE);
        pieces.push(piece);
        rest = more;
    }
    pieces.push(rest);
    pieces
}

impl<'a> Parameter<'a> {
    /// The first `len` values and the others.
    fn split(self, len: usize) -> [Parameter<'a>; 2] {
        let (weight, weight_rest) = self.weight.split_at_mut(len);
        let (gradient, gradient_rest) = self.gradient.split_at(len);
        let (first, first_rest) = self.first.split_at_mut(len);
        let (second, second_rest) = self.second.split_at_mut(len);
        let (average, average_rest) = self.average.map(|average| average.split_at_mut(len)).unzip();
        let rest = Parameter {
            weight: weight_rest,
            gradient: gradient_rest,
            first: first_rest,
            second: second_rest,
            decays: self.decays,
            average: average_rest,
        };
        [Parameter { weight, gradient, first, second, decays: self.decays, average }, rest]
    }
}

/// The update of a piece.
struct Update<'a> {
    piece: Parameter<'a>,
    factors: Factors,
}

impl WithSimd for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Update { piece, mut factors } = self;
        if !piece.decays {
            factors.keep = 1.0;
        }
        let (gradient, _) = S::as_simd_f32s(piece.gradient);
        let lanes = gradient.len();
        let [weight, first, second] = [piece.weight, piece.first, piece.second]
            .map(|values| &mut S::as_mut_simd_f32s(values).0[..lanes]);
        match piece.average {
            None => {
                for i in 0..lanes {
                    let state = [weight[i], first[i], second[i]];
                    [weight[i], first[i], second[i]] = update(simd, factors, gradient[i], state);
                }
            }
            Some(average) => {
                let average = &mut S::as_mut_simd_f32s(average).0[..lanes];
                let decay = simd.splat_f32s(factors.average_decay);
                let share = simd.splat_f32s(1.0 - factors.average_decay);
                for i in 0..lanes {
                    let state = [weight[i], first[i], second[i]];
                    [weight[i], first[i], second[i]] = update(simd, factors, gradient[i], state);
                    let fresh = simd.mul_f32s(weight[i], share);
                    average[i] = simd.mul_add_f32s(average[i], decay, fresh);
                }
            }
        }
    }
}

/// The weight and the means after a step, from those before it.
#[inline(always)]
fn update<S: Simd>(
    simd: S,
    factors: Factors,
    gradient: S::f32s,
    [weight, first, second]: [S::f32s; 3],
) -> [S::f32s; 3] {
    let gradient = simd.mul_f32s(gradient, simd.splat_f32s(factors.clip));
    let fresh = simd.mul_f32s(gradient, simd.splat_f32s(1.0 - factors.beta_1));
    let first = simd.mul_add_f32s(first, simd.splat_f32s(factors.beta_1), fresh);
    let square = simd.mul_f32s(gradient, gradient);
    let fresh = simd.mul_f32s(square, simd.splat_f32s(1.0 - factors.beta_2));
    let second = simd.mul_add_f32s(second, simd.splat_f32s(factors.beta_2), fresh);
    let square = simd.mul_f32s(second, simd.splat_f32s(factors.correction_2));
    let deviation = simd.add_f32s(simd.sqrt_f32s(square), simd.splat_f32s(factors.epsilon));
    let mean = simd.mul_f32s(first, simd.splat_f32s(factors.correction_1));
    let delta = simd.div_f32s(mean, deviation);
    let decayed = simd.mul_f32s(weight, simd.splat_f32s(factors.keep));
    let weight = simd.negate_mul_add_f32s(delta, simd.splat_f32s(factors.rate), decayed);
    [weight, first, second]
}

#[cfg(test)]
mod tests;
