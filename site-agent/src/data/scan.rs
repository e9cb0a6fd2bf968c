//! A scan to learn from, with what is known about it: the inputs of slicing, their checks, and the
//! condition vector. It holds no pixel and makes no choice.

use super::example::{CONDITIONS, Region};
use super::grid::{self, check_geometry};
use super::normalise;
use super::volume::Volume;

/// Healthy masks per case unless the caller says otherwise.
pub const MASKS_PER_CASE: usize = 4;

/// The most healthy masks per case.
pub const MASKS_PER_CASE_MAX: usize = 64;

/// Contrasts the condition vector can tell apart.
pub const CONTRASTS: usize = 4;

/// Why a case teaches nothing. No variant names a path or a patient.
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
    /// A lesion label is not a lesion.
    #[error("the lesion map holds {0:?}, which is no lesion")]
    Label(Region),
    /// The number of masks is out of bounds.
    #[error("{0} healthy masks per case are more than {MASKS_PER_CASE_MAX}")]
    Masks(usize),
    /// No slice has enough brain and enough to hide.
    #[error("no slice has enough brain and room to hide anything: leave this case out")]
    NothingToLearn,
    /// The pixels would take too much memory.
    #[error(
        "the training slices take {bytes} bytes, more than {max}: use fewer cases or a smaller image size"
    )]
    TooLarge {
        /// What is needed.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// There is no usable field of view.
    #[error(transparent)]
    Grid(#[from] grid::Error),
    /// There is no usable window of intensities.
    #[error(transparent)]
    Window(#[from] normalise::Error),
}

/// One scan to learn from.
#[derive(Clone, Copy)]
pub struct CaseScan<'a> {
    /// The patient, constant over exams. It seeds the masks and groups cases; it goes nowhere else.
    pub patient: &'a str,
    /// The scan, background 0 (negative voxels count as 0).
    pub image: &'a Volume,
    /// Per voxel the lesion's component, or [`Region::Mixed`] for a lesion of no known component
    /// (which is hidden but never painted); none where there is no segmentation.
    pub lesion: Option<&'a [Option<Region>]>,
    /// The contrast's index: 0 t1n, 1 t1c, 2 t2w, 3 t2f.
    pub contrast: usize,
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
}

/// The condition vector of a slice at `height` (0 lowest, 1 highest) of the brain.
pub(crate) fn condition(contrast: usize, height: f32, lesion: bool) -> [f32; CONDITIONS] {
    let mut condition = [0.0; CONDITIONS];
    condition[contrast] = 1.0;
    condition[CONTRASTS] = height;
    condition[CONTRASTS + 1] = f32::from(u8::from(lesion));
    condition
}

/// Whether the inputs fit together.
pub(crate) fn check(scan: &CaseScan<'_>, options: &SliceOptions) -> Result<(), Error> {
    let expected = scan.image.voxels.len();
    check_geometry(scan.image)?;
    if scan.contrast >= CONTRASTS {
        return Err(Error::Contrast(scan.contrast));
    }
    if options.masks > MASKS_PER_CASE_MAX {
        return Err(Error::Masks(options.masks));
    }
    let Some(lesion) = scan.lesion else { return Ok(()) };
    if lesion.len() != expected {
        return Err(Error::Shape { what: "lesion map", expected, found: lesion.len() });
    }
    let strange = |region: &Region| matches!(region, Region::Healthy | Region::Box);
    lesion.iter().flatten().copied().find(strange).map_or(Ok(()), |r| Err(Error::Label(r)))
}
