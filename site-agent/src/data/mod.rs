//! Scans as the model sees them: volumes, cases, masks, slices. Nothing in this folder knows burn,
//! the network, or a key.

pub mod example;
pub mod labels;
pub mod layout;
pub mod nifti;
pub mod split;
pub mod volume;
