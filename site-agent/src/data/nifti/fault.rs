//! What can be wrong with a NIfTI file, in words that name no file.
//!
//! A fault never holds a path: it may be told to a coordinator where a path may not.

use crate::data::nifti::limits::{AXIS_VOXELS_MAX, FILE_BYTES_MAX, VOXELS_MAX};

/// Why a NIfTI file cannot be read or written, without its name.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file cannot be opened, read or written.
    #[error("input/output error: {0}")]
    Io(#[from] std::io::Error),
    /// The file on disk is larger than [`FILE_BYTES_MAX`].
    #[error("the file has {0} bytes, at most {FILE_BYTES_MAX} are read")]
    FileTooLarge(u64),
    /// The path leads to a folder, a pipe or a device.
    #[error("not a regular file")]
    NotAFile,
    /// The gzip stream contradicts its own check sum or structure.
    #[error("the gzip stream is damaged, copy the file anew")]
    Corrupt,
    /// The file does not start as a NIfTI header does.
    #[error("not a NIfTI file, convert it to .nii or .nii.gz")]
    NotNifti,
    /// The header belongs to a pair of .hdr and .img files.
    #[error("a .hdr/.img pair is not read, convert it to one .nii file")]
    Pair,
    /// The image is not one 3-D volume.
    #[error("the image has dimensions {0:?}, one 3-D volume is needed")]
    NotThreeDimensional(Vec<i64>),
    /// The header claims more voxels than are read.
    #[error(
        "the image has {0:?} voxels, at most {AXIS_VOXELS_MAX} along an axis and {VOXELS_MAX} in \
         all are read"
    )]
    TooManyVoxels([i64; 3]),
    /// The voxel type is not a real number.
    #[error("voxels of NIfTI type {0} are not read, convert them to an integer or a float type")]
    DataType(i16),
    /// The header's number of bits per voxel contradicts its voxel type.
    #[error("the header says {bits} bits per voxel, its NIfTI type {data_type} has {expected}")]
    BitsPerVoxel {
        /// The voxel type.
        data_type: i16,
        /// What the header says.
        bits: i16,
        /// What the type has.
        expected: usize,
    },
    /// The header's offset of the first voxel is impossible.
    #[error("the header places the first voxel at byte {0}, which is not possible")]
    VoxelOffset(f64),
    /// The file ends before its last voxel.
    #[error("the file is truncated: {expected} bytes of voxels expected, {found} found")]
    Truncated {
        /// What the header asks for.
        expected: usize,
        /// What the file holds.
        found: usize,
    },
    /// The file goes on for a slice or more where the header says that it ends.
    #[error(
        "the file goes on after the {0} bytes of voxels that its header claims, so the header is \
         not of this image"
    )]
    Surplus(usize),
    /// Voxels are not a number or infinite.
    #[error("{0} voxels are not finite numbers, replace them (0 is background)")]
    NotFinite(usize),
    /// The affine does not say where the voxels lie.
    #[error("the affine is singular, sheared or not finite, so the orientation is unknown")]
    Affine,
    /// Two files that must share one grid have different shapes.
    #[error("its shape is {found:?} (RAS+), the image's is {expected:?}")]
    Shape {
        /// The shape of the reference, in canonical order.
        expected: [usize; 3],
        /// The shape of this file, in canonical order.
        found: [usize; 3],
    },
    /// Two files that must share one grid lie in different places.
    #[error("its affine puts voxels up to {0:.2} mm from the image's, resample it onto the image")]
    Place(f64),
    /// A mask selects nothing.
    #[error("the mask is empty")]
    EmptyMask,
    /// A volume to be written does not have one value per voxel of its grid.
    #[error("{found} values do not fill a volume of {expected} voxels")]
    Length {
        /// The grid's voxels.
        expected: usize,
        /// The values given.
        found: usize,
    },
    /// A value does not fit the integer type it is to be written as.
    #[error("voxel value {0} does not fit the voxel type of the file")]
    Range(f32),
    /// The description is longer than the header's field.
    #[error("the description has {0} bytes, a NIfTI header holds 80")]
    Description(usize),
}
