//! What is to be painted on one slice.

use super::super::spec::CONDITION_LEN;
use crate::data::example::{Example, REGIONS};

/// What to paint.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// The slice in [-1, 1]; what lies under the mask is not read. `[size * size]`
    pub image: &'a [f32],
    /// 1 where to paint. `[size * size]`
    pub mask: &'a [f32],
    /// What to paint where. `[REGIONS * size * size]`
    pub regions: &'a [f32],
    /// The condition vector y.
    pub condition: [f32; CONDITION_LEN],
    /// Names the scan, so that two scans have two noises: [`InpaintJob::key`].
    ///
    /// [`InpaintJob::key`]: crate::data::inpaint::InpaintJob::key
    pub scan: [u8; 32],
    /// Names the slice within its scan.
    pub slice: u64,
}

/// A plane has another number of pixels than the model's slices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slice {index}: its {plane} has {found} pixels, the model's slices have {expected}")]
pub struct SizeError {
    /// Which prompt.
    pub index: usize,
    /// Which plane.
    pub plane: &'static str,
    /// Its pixels.
    pub found: usize,
    /// The pixels it must have.
    pub expected: usize,
}

impl<'a> Prompt<'a> {
    /// The prompt that an example poses: its truth is not read.
    pub fn of(example: &'a Example, scan: [u8; 32], slice: u64) -> Prompt<'a> {
        let Example { image, mask, regions, condition, .. } = example;
        Prompt { image, mask, regions, condition: *condition, scan, slice }
    }
}

/// Whether every prompt's planes have `area` pixels.
///
/// # Errors
/// [`SizeError`] names the first that has not.
pub fn check(prompts: &[Prompt<'_>], area: usize) -> Result<(), SizeError> {
    for (index, prompt) in prompts.iter().enumerate() {
        for (plane, found, expected) in [
            ("image", prompt.image.len(), area),
            ("mask", prompt.mask.len(), area),
            ("regions", prompt.regions.len(), REGIONS * area),
        ] {
            if found != expected {
                return Err(SizeError { index, plane, found, expected });
            }
        }
    }
    Ok(())
}
