//! The header of a NIfTI file: what it claims, checked, and how its voxels lie in RAS+.
//!
//! The bytes of a header that was read are kept, so that a result is written with the same ones. It
//! never opens a file.

use nifti::NiftiType;

use crate::data::nifti::affine::{self, Affine, Orientation, Source};
use crate::data::nifti::claims::{self, Claims, Version};
use crate::data::nifti::fault::Fault;
use crate::data::nifti::header2;
use crate::data::nifti::limits::{AXIS_VOXELS_MAX, VOXEL_OFFSET_MAX, VOXELS_MAX};

/// The grid of a file: its header and how its axes lie in RAS+.
#[derive(Clone, Debug, PartialEq)]
pub struct FileGeometry {
    /// The header as it was read, in the file's byte order. `[version.header_bytes()]`
    pub(super) raw: Vec<u8>,
    /// Which header it is.
    pub(super) version: Version,
    /// True if the file is big-endian.
    pub(super) big_endian: bool,
    /// Voxels along the file's axes, fastest first.
    pub(super) file_dims: [usize; 3],
    /// Which of the header's transforms placed the voxels.
    source: Source,
    /// The grid seen from RAS+.
    pub(super) orientation: Orientation,
}

impl FileGeometry {
    /// Voxels along x, y and z of RAS+.
    pub fn dims(&self) -> [usize; 3] {
        self.orientation.dims
    }

    /// The affine that maps canonical voxels (x, y, z, 1) to RAS+ millimetres, as the file has it:
    /// it may be rotated a little against the axes.
    pub fn affine(&self) -> &Affine {
        &self.orientation.affine
    }

    /// Which of the header's transforms placed the voxels: left and right are only known if it is
    /// not [`Source::VoxelSizes`].
    pub fn source(&self) -> Source {
        self.source
    }

    /// The axis of RAS+ (0 x, 1 y, 2 z) that the file's first and fastest axis runs along.
    pub fn first_axis(&self) -> usize {
        self.orientation.axes.iter().position(|axis| axis.file_axis == 0).unwrap_or(0)
    }

    /// Where the file's axes point, fastest first, as in `LPS`.
    pub fn axis_codes(&self) -> String {
        let mut codes = ['?'; 3];
        for (axis, names) in self.orientation.axes.iter().zip([['R', 'L'], ['A', 'P'], ['S', 'I']])
        {
            codes[axis.file_axis] = names[usize::from(axis.flipped)];
        }
        codes.iter().collect()
    }
}

/// What is needed to find and understand the voxels of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Encoding {
    /// The voxel type.
    pub data_type: NiftiType,
    /// Where the first voxel starts, from the start of the file.
    pub offset_bytes: u64,
    /// The real value is `slope * stored + inter`.
    pub slope: f64,
    /// See `slope`.
    pub inter: f64,
}

/// Checks the header in `raw`, which holds as many bytes as `version` has.
///
/// # Errors
/// A [`Fault`] that names what the header claims: not NIfTI, not 3-D, too large, a type that is no
/// real number, an impossible offset or affine.
pub(super) fn parse(
    raw: Vec<u8>,
    version: Version,
    big_endian: bool,
) -> Result<(FileGeometry, Encoding), Fault> {
    let claims = match version {
        Version::One => claims::of_first(&raw, big_endian)?,
        Version::Two => header2::claims(&raw, big_endian)?,
    };
    let file_dims = dimensions(&claims.dims)?;
    let encoding = encoding(&claims, version)?;
    let (affine, source) = affine::of_pose(&claims.pose)?;
    let orientation = affine::orientation(&affine, file_dims);
    let geometry = FileGeometry { raw, version, big_endian, file_dims, source, orientation };
    Ok((geometry, encoding))
}

/// The three dimensions, where any others are 1.
fn dimensions(claimed: &[i64]) -> Result<[usize; 3], Fault> {
    let not_three = || Fault::NotThreeDimensional(claimed.to_vec());
    let [x, y, z, rest @ ..] = claimed else {
        return Err(not_three());
    };
    let dims = [*x, *y, *z];
    if rest.iter().any(|&dim| dim != 1) || dims.iter().any(|&dim| dim < 1) {
        return Err(not_three());
    }
    let fits = |dim: i64| usize::try_from(dim).ok().filter(|&dim| dim <= AXIS_VOXELS_MAX);
    let [Some(x), Some(y), Some(z)] = dims.map(fits) else {
        return Err(Fault::TooManyVoxels(dims));
    };
    if x * y * z > VOXELS_MAX {
        return Err(Fault::TooManyVoxels(dims));
    }
    Ok([x, y, z])
}

/// Voxel type, offset and scaling.
fn encoding(claims: &Claims, version: Version) -> Result<Encoding, Fault> {
    let data_type = data_type(claims.data_type).ok_or(Fault::DataType(claims.data_type))?;
    let expected = 8 * data_type.size_of();
    if usize::try_from(claims.bits) != Ok(expected) {
        let (data_type, bits) = (claims.data_type, claims.bits);
        return Err(Fault::BitsPerVoxel { data_type, bits, expected });
    }
    // Some writers leave 0 in a single file, where the voxels can only follow the header.
    let offset = match claims.offset_bytes {
        0.0 => version.voxel_offset() as f64,
        offset => offset,
    };
    let possible = (version.header_bytes() as f64..=VOXEL_OFFSET_MAX as f64).contains(&offset);
    if !possible || offset.fract() != 0.0 {
        return Err(Fault::VoxelOffset(claims.offset_bytes));
    }
    // A slope of 0 or not finite means no scaling (NIfTI-1 standard).
    let scaled = claims.slope != 0.0 && claims.slope.is_finite();
    let inter = if claims.inter.is_finite() { claims.inter } else { 0.0 };
    let (slope, inter) = if scaled { (claims.slope, inter) } else { (1.0, 0.0) };
    Ok(Encoding { data_type, offset_bytes: offset as u64, slope, inter })
}

/// The voxel types that hold one real number.
fn data_type(code: i16) -> Option<NiftiType> {
    let known = [
        NiftiType::Uint8,
        NiftiType::Int8,
        NiftiType::Int16,
        NiftiType::Uint16,
        NiftiType::Int32,
        NiftiType::Uint32,
        NiftiType::Float32,
        NiftiType::Float64,
    ];
    known.into_iter().find(|&data_type| data_type as i16 == code)
}
