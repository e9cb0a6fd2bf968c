//! Group normalisation with what follows it.

use crate::cpu::kernel::{Gradient, Kernel, View};
use crate::cpu::norm::{self, Affine, AffineGradient, NormShape};
use crate::cpu::profile::Operation;

const COUNTS_AS: [Operation; 2] = [Operation::NormForward, Operation::NormBackward];

/// Inputs x `[batch, height, width, channels]`, gamma and beta `[channels]`.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm {
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// As [`GroupNorm`] for the channels of two maps together: a, b, gamma, beta.
#[derive(Clone, Copy, Debug)]
pub struct GroupNormJoined {
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Inputs x, gamma, beta and film `[batch, 2 * channels]`, scales before shifts; SiLU follows.
#[derive(Clone, Copy, Debug)]
pub struct GroupNormFilm {
    /// Groups of neighbouring channels.
    pub groups: usize,
}

impl Kernel<3> for GroupNorm {
    type Kept = Vec<f64>;
    const COUNTS_AS: [Operation; 2] = COUNTS_AS;

    fn shape(&self, [x, ..]: [&[usize]; 3]) -> Vec<usize> {
        x.to_vec()
    }

    fn forward(&self, [x, gamma, beta]: [View<'_>; 3], output: &mut [f32]) -> Vec<f64> {
        let affine = affine(gamma, beta, None, self.silu);
        normalise(&norm_shape(x.shape, 0, self.groups), [x.values, &[]], &affine, output)
    }

    fn backward(
        &self,
        [x, gamma, beta]: [View<'_>; 3],
        kept: &Vec<f64>,
        dy: &[f32],
        _: [bool; 3],
    ) -> [Gradient; 3] {
        let affine = affine(gamma, beta, None, self.silu);
        let shape = norm_shape(x.shape, 0, self.groups);
        let Found { dx: [dx, _], gamma, beta, .. } =
            derive(&shape, [x.values, &[]], &affine, kept, dy);
        [dx, gamma, beta].map(Gradient::Values)
    }
}

impl Kernel<4> for GroupNormJoined {
    type Kept = Vec<f64>;
    const COUNTS_AS: [Operation; 2] = COUNTS_AS;

    fn shape(&self, [a, b, ..]: [&[usize]; 4]) -> Vec<usize> {
        let mut shape = a.to_vec();
        if let (Some(width), Some(more)) = (shape.last_mut(), b.last()) {
            *width += more;
        }
        shape
    }

    fn forward(&self, [a, b, gamma, beta]: [View<'_>; 4], output: &mut [f32]) -> Vec<f64> {
        let affine = affine(gamma, beta, None, self.silu);
        let shape = norm_shape(a.shape, width(b.shape), self.groups);
        normalise(&shape, [a.values, b.values], &affine, output)
    }

    fn backward(
        &self,
        [a, b, gamma, beta]: [View<'_>; 4],
        kept: &Vec<f64>,
        dy: &[f32],
        _: [bool; 4],
    ) -> [Gradient; 4] {
        let affine = affine(gamma, beta, None, self.silu);
        let shape = norm_shape(a.shape, width(b.shape), self.groups);
        let Found { dx: [da, db], gamma, beta, .. } =
            derive(&shape, [a.values, b.values], &affine, kept, dy);
        [da, db, gamma, beta].map(Gradient::Values)
    }
}

impl Kernel<4> for GroupNormFilm {
    type Kept = Vec<f64>;
    const COUNTS_AS: [Operation; 2] = COUNTS_AS;

    fn shape(&self, [x, ..]: [&[usize]; 4]) -> Vec<usize> {
        x.to_vec()
    }

    fn forward(&self, [x, gamma, beta, film]: [View<'_>; 4], output: &mut [f32]) -> Vec<f64> {
        let affine = affine(gamma, beta, Some(film.values), true);
        normalise(&norm_shape(x.shape, 0, self.groups), [x.values, &[]], &affine, output)
    }

    fn backward(
        &self,
        [x, gamma, beta, film]: [View<'_>; 4],
        kept: &Vec<f64>,
        dy: &[f32],
        _: [bool; 4],
    ) -> [Gradient; 4] {
        let affine = affine(gamma, beta, Some(film.values), true);
        let shape = norm_shape(x.shape, 0, self.groups);
        let Found { dx: [dx, _], gamma, beta, film } =
            derive(&shape, [x.values, &[]], &affine, kept, dy);
        [dx, gamma, beta, film].map(Gradient::Values)
    }
}

/// The gradients of a normalisation.
struct Found {
    dx: [Vec<f32>; 2],
    gamma: Vec<f32>,
    beta: Vec<f32>,
    film: Vec<f32>,
}

/// Writes the output and gives mean and inverse deviation of every group.
fn normalise(
    shape: &NormShape,
    x: [&[f32]; 2],
    affine: &Affine<'_>,
    output: &mut [f32],
) -> Vec<f64> {
    let mut statistics = vec![0.0; shape.batch * shape.groups * 2];
    norm::forward(shape, x, affine, output, &mut statistics);
    statistics
}

fn derive(
    shape: &NormShape,
    x: [&[f32]; 2],
    affine: &Affine<'_>,
    statistics: &[f64],
    dy: &[f32],
) -> Found {
    let mut dx = x.map(|x| vec![0.0; x.len()]);
    let (mut gamma, mut beta) = (vec![0.0; affine.gamma.len()], vec![0.0; affine.beta.len()]);
    let mut film = vec![0.0; affine.film.map_or(0, <[f32]>::len)];
    let gradient = AffineGradient {
        gamma: &mut gamma,
        beta: &mut beta,
        film: affine.film.is_some().then_some(film.as_mut_slice()),
    };
    let [a, b] = &mut dx;
    norm::backward(shape, x, affine, statistics, dy, [a, b], gradient);
    Found { dx, gamma, beta, film }
}

fn affine<'a>(gamma: View<'a>, beta: View<'a>, film: Option<&'a [f32]>, silu: bool) -> Affine<'a> {
    Affine { gamma: gamma.values, beta: beta.values, film, silu }
}

fn norm_shape(x: &[usize], second: usize, groups: usize) -> NormShape {
    let &[batch, height, width, channels] = x else { unreachable!("a norm is of maps: {x:?}") };
    NormShape { batch, pixels: height * width, widths: [channels, second], groups }
}

fn width(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or_default()
}
