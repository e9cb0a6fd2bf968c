//! Scans as the model sees them: volumes, cases, masks, slices. Nothing in this folder knows burn,
//! the network, or a key.

mod compose;
pub mod dicom;
pub mod example;
pub mod grid;
pub mod image;
pub mod inpaint;
pub mod labels;
pub mod layout;
pub mod mask;
pub mod nifti;
pub mod normalise;
#[cfg(test)]
mod phantom_for_tests;
mod plan;
pub mod pool;
pub mod scan;
pub mod slices;
pub mod split;
pub mod stream;
pub mod volume;
