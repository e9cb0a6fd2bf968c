//! What an operation of our own is: a function of slices with its derivative.
//!
//! A kernel knows no burn and no graph, so that it can be tested against its definition;
//! [`super::extension`] makes an operation of burn of it. It gives the same bytes for any number of
//! threads.

use std::fmt;

use super::profile::Operation;

/// A tensor as a kernel reads it: contiguous, the last dimension fastest.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its sizes.
    pub shape: &'a [usize],
    /// Its values.
    pub values: &'a [f32],
}

/// The gradient of a loss with respect to one input of a kernel.
#[derive(Debug)]
pub enum Gradient {
    /// Nobody asked for it.
    Unwanted,
    /// It is the output's gradient itself: the input was added.
    Passed,
    /// Its values, in the input's shape.
    Values(Vec<f32>),
}

/// An operation on `N` tensors.
///
/// Shapes are what the network made of its own layers: one that does not fit is a bug of the caller
/// and a kernel may panic on it.
pub trait Kernel<const N: usize>: Clone + fmt::Debug + Send + 'static {
    /// What the forward pass leaves to the backward pass besides the inputs: a few numbers.
    type Kept: Clone + fmt::Debug + Send + 'static;

    /// What the time of its passes counts as, forward and backward.
    const COUNTS_AS: [Operation; 2];

    /// The output's sizes for the inputs'.
    fn shape(&self, inputs: [&[usize]; N]) -> Vec<usize>;

    /// Writes every value of the output.
    fn forward(&self, inputs: [View<'_>; N], output: &mut [f32]) -> Self::Kept;

    /// The gradients for the output's gradient `dy`, of the inputs that are `wanted`.
    fn backward(
        &self,
        inputs: [View<'_>; N],
        kept: &Self::Kept,
        dy: &[f32],
        wanted: [bool; N],
    ) -> [Gradient; N];
}

impl Gradient {
    /// What `write` writes into `len` zeros, if it is wanted.
    pub fn when(wanted: bool, len: usize, write: impl FnOnce(&mut [f32])) -> Gradient {
        if !wanted {
            return Gradient::Unwanted;
        }
        let mut values = vec![0.0; len];
        write(&mut values);
        Gradient::Values(values)
    }
}
