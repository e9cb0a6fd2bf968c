//! The processor's path: the kernels of a training step on plain slices.
//!
//! Activations are channels-last, `[batch, height, width, channels]`, and parameters are in the
//! layout of the model file. No kernel knows a tensor library, a model or a clock. Work is cut
//! into pieces that do not depend on the number of threads, and every sum is taken in one order,
//! so the same inputs give the same bytes on one core and on sixty-four.

pub mod attention;
pub mod linear;
pub mod math;
pub mod norm;
pub mod optimiser;
pub mod pieces;
pub mod pointwise;
pub mod product;
#[cfg(test)]
mod testing;
