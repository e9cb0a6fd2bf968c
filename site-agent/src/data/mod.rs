//! Scans as the model sees them: volumes, cases, masks, slices. Nothing in this folder knows burn,
//! the network, or a key.

pub mod example;
pub mod volume;
