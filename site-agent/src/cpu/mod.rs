//! The processor's own operations: what a training step on a CPU spends its time in.
//!
//! burn's own CPU back end leaves most of the machine unused. Feature maps here are channels-last,
//! `[batch, height, width, channels]`, so that a vector of the processor holds neighbouring channels
//! and every operation streams; parameters are in the layout of the model file. Kernels are functions
//! of slices that know no tensor library, model or clock; [`kernels`] gives them their derivatives,
//! and [`extension`] makes operations of burn of them; [`profile`] says which takes how long, when
//! somebody asks. Work is cut into pieces that do not depend on
//! the number of threads, and every sum is taken in one order, so the same inputs give the same bytes
//! on one core and on sixty-four. Nothing here is unsafe.

pub mod attention;
pub mod conv;
pub mod extension;
pub mod kernel;
pub mod kernels;
pub mod linear;
pub mod math;
pub mod norm;
pub mod optimiser;
pub mod pieces;
pub mod product;
pub mod profile;
mod scratch;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod tile;
