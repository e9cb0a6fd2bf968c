//! What a header says, whichever of NIfTI-1 and NIfTI-2 it is.
//!
//! Everything here is a claim of a file and nothing is checked yet: [`super::header`] decides what
//! is believed. It never sees a voxel.

use nifti::{Endianness, NiftiHeader};

use crate::data::nifti::affine::Affine;
use crate::data::nifti::fault::Fault;

/// The two versions of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 348 bytes, `f32` geometry.
    One,
    /// 540 bytes, `f64` geometry.
    Two,
}

impl Version {
    /// Bytes of a header.
    pub(super) fn header_bytes(self) -> usize {
        match self {
            Version::One => 348,
            Version::Two => 540,
        }
    }

    /// Where the voxels of a file without extensions start: after the header and four bytes that
    /// say that there are none.
    pub(super) fn voxel_offset(self) -> usize {
        self.header_bytes() + 4
    }
}

/// A header's fields that matter for finding, decoding and placing voxels.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    /// The sizes of the image, fastest axis first, as many as the header says it has.
    pub(super) dims: Vec<i64>,
    /// The NIfTI code of the voxel type.
    pub(super) data_type: i16,
    /// Bits per voxel.
    pub(super) bits: i16,
    /// The first voxel's place in the file, in bytes.
    pub(super) offset_bytes: f64,
    /// `scl_slope`.
    pub(super) slope: f64,
    /// `scl_inter`.
    pub(super) inter: f64,
    /// Where the voxels lie.
    pub(super) pose: Pose,
}

/// The three ways in which a header can place its voxels.
#[derive(Clone, Debug)]
pub(super) struct Pose {
    /// Above 0 if `sform` is meant.
    pub(super) sform_code: i32,
    /// `srow_x`, `srow_y`, `srow_z`.
    pub(super) sform: Affine,
    /// Above 0 if the quaternion is meant.
    pub(super) qform_code: i32,
    /// `quatern_b`, `quatern_c`, `quatern_d`.
    pub(super) quaternion: [f64; 3],
    /// `qoffset_x`, `qoffset_y`, `qoffset_z` in millimetres.
    pub(super) offset_mm: [f64; 3],
    /// `pixdim[0..4]`: the sign of the third axis, and the voxel's edges in millimetres.
    pub(super) pixdim: [f64; 4],
}

/// The version and byte order (true if big-endian) of a header, by the four bytes that hold its
/// length, if it is one.
pub(super) fn version(start: [u8; 4]) -> Option<(Version, bool)> {
    let (little, big) = (i32::from_le_bytes(start), i32::from_be_bytes(start));
    match (little, big) {
        (348, _) => Some((Version::One, false)),
        (_, 348) => Some((Version::One, true)),
        (540, _) => Some((Version::Two, false)),
        (_, 540) => Some((Version::Two, true)),
        _ => None,
    }
}

/// The claims of a NIfTI-1 header.
///
/// # Errors
/// [`Fault::NotNifti`], [`Fault::Pair`] by its magic, and [`Fault::NotThreeDimensional`].
pub(super) fn of_first(raw: &[u8], big_endian: bool) -> Result<Claims, Fault> {
    let header = NiftiHeader::from_reader(raw).map_err(|_| Fault::NotNifti)?;
    if &header.magic == nifti::header::MAGIC_CODE_NI1 {
        return Err(Fault::Pair);
    }
    let claimed = || Fault::NotThreeDimensional(header.dim.map(i64::from).to_vec());
    // The crate tells the byte order by the number of dimensions, which must agree with the length.
    if (header.endianness == Endianness::Big) != big_endian {
        return Err(claimed());
    }
    let dims = header.dim().map_err(|_| claimed())?;
    let [p0, p1, p2, p3, ..] = header.pixdim;
    Ok(Claims {
        dims: dims.iter().map(|&dim| dim.into()).collect(),
        data_type: header.datatype,
        bits: header.bitpix,
        offset_bytes: header.vox_offset.into(),
        slope: header.scl_slope.into(),
        inter: header.scl_inter.into(),
        pose: Pose {
            sform_code: header.sform_code.into(),
            sform: [header.srow_x, header.srow_y, header.srow_z].map(|row| row.map(f64::from)),
            qform_code: header.qform_code.into(),
            quaternion: [header.quatern_b, header.quatern_c, header.quatern_d].map(f64::from),
            offset_mm: [header.quatern_x, header.quatern_y, header.quatern_z].map(f64::from),
            pixdim: [p0, p1, p2, p3].map(f64::from),
        },
    })
}
