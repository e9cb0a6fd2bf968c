//! How scans become slices: the options, and the condition vector. It holds no pixel and makes no
//! choice.

use super::example::CONDITIONS;
use super::grid;
use super::mask::Mode;
use super::normalise;

/// Healthy masks per case unless the caller says otherwise.
pub const MASKS_PER_CASE: usize = 4;

/// The most healthy masks per case.
pub const MASKS_PER_CASE_MAX: usize = 64;

/// Contrasts the condition vector can tell apart.
pub const CONTRASTS: usize = 4;

/// What cannot be learnt from, or painted in. No variant names a path or a patient.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// Two inputs do not belong together.
    #[error("the {what} has {found} voxels where the image has {expected}")]
    Shape {
        /// Which input.
        what: &'static str,
        /// Voxels of the image.
        expected: usize,
        /// Voxels of the other.
        found: usize,
    },
    /// The contrast's index has no place in the condition vector.
    #[error("contrast {0} is not one of the {CONTRASTS} known")]
    Contrast(usize),
    /// The number of masks is out of bounds.
    #[error("{0} healthy masks per case are more than {MASKS_PER_CASE_MAX}")]
    Masks(usize),
    /// There is no usable field of view.
    #[error(transparent)]
    Grid(#[from] grid::Error),
    /// There is no usable window of intensities.
    #[error(transparent)]
    Window(#[from] normalise::Error),
}

/// How cases become slices.
#[derive(Clone, Copy, Debug)]
pub struct SliceOptions {
    /// Pixels along a side, the model's image size.
    pub size: usize,
    /// Healthy masks per case, see [`MASKS_PER_CASE`].
    pub masks: usize,
    /// The run's seed.
    pub seed: u64,
    /// The round, so that each round hides other tissue.
    pub round: u64,
    /// How healthy masks are drawn.
    pub mode: Mode,
    /// Whether examples are turned, scaled and lit at random.
    pub augment: bool,
}

/// The condition vector of a slice at `height` (0 lowest, 1 highest) of the brain.
pub(crate) fn condition(contrast: usize, height: f32, lesion: bool) -> [f32; CONDITIONS] {
    let mut condition = [0.0; CONDITIONS];
    condition[contrast] = 1.0;
    condition[CONTRASTS] = height;
    condition[CONTRASTS + 1] = f32::from(u8::from(lesion));
    condition
}
