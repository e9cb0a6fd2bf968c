//! Scans as the model sees them: volumes, cases, masks, slices. Nothing in this folder knows burn,
//! the network, or a key.

pub mod augment;
pub mod cache;
pub mod census;
mod compose;
pub mod dicom;
pub mod duplicates;
pub mod exam;
pub mod example;
pub mod grid;
pub mod image;
pub mod inpaint;
pub mod labels;
pub mod layout;
mod lru;
pub mod manifest;
pub mod mask;
#[cfg(test)]
mod multitask_tests;
pub mod nifti;
pub mod normalise;
#[cfg(test)]
mod phantom_for_tests;
mod plan;
pub mod pool;
pub mod prefetch;
pub mod prepared;
pub mod problem;
pub mod readers;
pub mod scan;
pub mod shelf;
pub mod slices;
pub mod split;
pub mod stream;
pub mod told;
pub mod volume;
