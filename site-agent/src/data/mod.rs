//! Scans as the model sees them: volumes, cases, masks, slices. Nothing in this folder knows burn,
//! the network, or a key.

pub mod augment;
pub mod census;
mod compose;
pub mod example;
pub mod grid;
pub mod inpaint;
pub mod labels;
pub mod layout;
pub mod manifest;
pub mod mask;
pub mod nifti;
pub mod normalise;
#[cfg(test)]
mod phantom_for_tests;
mod plan;
pub mod pool;
pub mod problem;
pub mod scan;
pub mod slices;
pub mod split;
pub mod stream;
pub mod volume;
