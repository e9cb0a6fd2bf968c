//! Why a DICOM file or series is not used.
//!
//! No variant holds a path, a name, a UID, a date or any text of a file: what is said here may be shown
//! wherever the site shows things.

use crate::data::dicom::limits::{
    DEPTH_MAX, ENTRIES_MAX, FILE_BYTES_MAX, FRAMES_MAX, SLICES_MIN, SPACING_TOLERANCE,
};
use crate::data::nifti::limits::{AXIS_VOXELS_MAX, VOXELS_MAX};

/// Why a file, a series or a folder is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The disk or its permissions.
    #[error("input/output error: {0}")]
    Io(std::io::ErrorKind),
    /// There is more in the folder than is looked at.
    #[error("more than {ENTRIES_MAX} entries, split the folder")]
    TooManyEntries,
    /// Folders are nested deeper than is looked at.
    #[error("folders nested more than {DEPTH_MAX} deep, flatten the export")]
    TooDeep,
    /// There is no series that could be read.
    #[error("no readable MR series in this folder")]
    NoSeries,
    /// The folder is to be one scan but holds more.
    #[error("{0} series in this folder, put one series into a folder of its own")]
    SeveralSeries(usize),
    /// Files of the folder are damaged, so that slices may be missing at an end unnoticed.
    #[error("{0} DICOM files cannot be read, export the series again")]
    Damaged(usize),
    /// The file is larger than is read.
    #[error("a file has {0} bytes, at most {FILE_BYTES_MAX} are read")]
    FileTooLarge(u64),
    /// The file is no DICOM data set that can be parsed.
    #[error("the DICOM data set is damaged or cut short, export it again")]
    DataSet,
    /// The transfer syntax has no decoder here.
    #[error(
        "transfer syntax {name} ({uid}) is not decoded here, export uncompressed or convert with \
         `gdcmconv --raw` or `dcmconv`"
    )]
    Syntax {
        /// Its name in PS3.6.
        name: &'static str,
        /// Its registered UID, which identifies a format and nobody.
        uid: &'static str,
    },
    /// The transfer syntax has a decoder here, but not for pixels of so many bits.
    #[error(
        "transfer syntax {name} ({uid}) is not decoded here for {bits} bits per pixel, export \
         uncompressed or convert with `gdcmconv --raw` or `dcmconv`"
    )]
    SyntaxBits {
        /// Its name in PS3.6.
        name: &'static str,
        /// Its registered UID.
        uid: &'static str,
        /// BitsAllocated.
        bits: usize,
    },
    /// The transfer syntax is in no table.
    #[error("the transfer syntax is unknown, export as Explicit VR Little Endian")]
    UnknownSyntax,
    /// The image says that text is burned into its pixels.
    #[error("BurnedInAnnotation is YES: the pixels may name the patient, export without it")]
    BurnedIn,
    /// The modality is not MR.
    #[error("the modality is not MR")]
    NotMr,
    /// The image has colours.
    #[error("a colour image, one MONOCHROME1 or MONOCHROME2 sample per pixel is needed")]
    Colour,
    /// There are no pixels, or they are floats.
    #[error("no integer pixel data")]
    NoPixels,
    /// An attribute without which the image cannot be placed or read.
    #[error("{0} is missing or not usable")]
    Attribute(&'static str),
    /// The pixel data has another size than the header says.
    #[error("the pixel data is truncated: {expected} bytes expected, {found} found")]
    Truncated {
        /// What the header asks for.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// The decoder failed.
    #[error("the compressed pixels cannot be decoded, export uncompressed")]
    Decode,
    /// Not enough slices.
    #[error("{0} slices, at least {SLICES_MIN} make a volume")]
    TooFewSlices(usize),
    /// More frames than are read.
    #[error("{0} frames, at most {FRAMES_MAX} are read")]
    TooManyFrames(usize),
    /// More voxels than are read.
    #[error(
        "{0:?} voxels, at most {AXIS_VOXELS_MAX} along an axis and {VOXELS_MAX} in all are read"
    )]
    TooManyVoxels([usize; 3]),
    /// Slices of several matrices.
    #[error("the slices have different numbers of rows or columns")]
    SizeChanges,
    /// Slices of several pixel spacings.
    #[error("the slices have different pixel spacings")]
    PixelSpacingChanges,
    /// Slices that are scaled in two ways, which have nothing to do with each other.
    #[error(
        "only some slices have Philips' scale slope (2005,100E), export all with their private \
         attributes or all without"
    )]
    MixedScales,
    /// Slices that point in several directions, as those of a localiser do.
    #[error("the slices have different orientations")]
    OrientationChanges,
    /// Several images of one place: echoes, times, diffusion directions, or a copy.
    #[error(
        "{0} slices lie where another one does: export one echo, one time point and no copies as a \
         series"
    )]
    DuplicatePosition(usize),
    /// Slices are missing inside the stack.
    #[error("{0} slices are missing between the first and the last")]
    MissingSlices(usize),
    /// The steps between slices differ.
    #[error(
        "the spacing of the slices varies by {:.1} %, at most {} % is read", 100.0 * .0,
        100.0 * SPACING_TOLERANCE
    )]
    UnevenSpacing(f64),
    /// The stack is sheared.
    #[error("each slice is shifted sideways ({0:.1} degrees of tilt), resample the series first")]
    Tilt(f64),
    /// The pixels are not finite once they are scaled.
    #[error("{0} voxels are not finite numbers after rescaling")]
    NotFinite(usize),
    /// A result has another grid than its series.
    #[error("the result has {found:?} voxels (RAS+), its series has {expected:?}")]
    Shape {
        /// The series' grid.
        expected: [usize; 3],
        /// The result's.
        found: [usize; 3],
    },
    /// The folder to be written is there already.
    #[error("exists already, choose another folder or remove it")]
    Exists,
    /// The file cannot be encoded.
    #[error("the data set cannot be written")]
    Encode,
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        Refusal::Io(error.kind())
    }
}
