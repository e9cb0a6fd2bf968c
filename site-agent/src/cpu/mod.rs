//! The network's operations on the processor, written for it: slices in, slices out.
//!
//! burn's own CPU back end leaves most of the machine unused. Activations here are channels-last
//! in memory, `[batch, height, width, channels]`, so that a vector of the processor holds
//! neighbouring channels and every operation streams. Every sum is taken in one order by pieces
//! that do not depend on the number of threads, so the same inputs give the same bytes anywhere.
//! No kernel in this folder knows burn, allocates its result, or is unsafe.

pub mod conv;
mod scratch;
mod tile;
