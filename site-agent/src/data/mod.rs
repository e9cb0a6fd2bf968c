//! Scans as the model sees them: volumes, cases, masks, slices. Nothing in this folder knows burn,
//! the network, or a key.

pub mod example;
pub mod grid;
pub mod mask;
pub mod normalise;
pub mod stream;
pub mod volume;
