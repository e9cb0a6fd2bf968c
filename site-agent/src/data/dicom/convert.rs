//! A series as a NIfTI-1 file, in the order in which its slices lie. It never reorders a voxel.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::data::dicom::series::Voxels;
use crate::data::dicom::stack::Grid;

/// Bytes of a NIfTI-1 header.
const HEADER_BYTES: usize = 348;

/// Where the voxels start: the header and four zero bytes, no extensions.
const VOXEL_OFFSET: usize = 352;

/// NIfTI's numbers of the two types that are written, with their bits.
const INT16: (i16, i16) = (4, 16);
const FLOAT32: (i16, i16) = (16, 32);

/// The bytes of a `.nii` file: `i16` where every value is a whole number that fits, else `f32`.
pub(super) fn nifti_bytes(voxels: &Voxels) -> Vec<u8> {
    let whole = |value: &f32| value.fract() == 0.0 && (-32768.0..=32767.0).contains(value);
    let integers = voxels.values.iter().all(whole);
    let mut bytes = header(&voxels.grid, if integers { INT16 } else { FLOAT32 });
    if integers {
        bytes.extend(voxels.values.iter().flat_map(|&value| (value as i16).to_le_bytes()));
    } else {
        bytes.extend(voxels.values.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

/// The bytes of a `.nii.gz` file.
///
/// # Errors
/// None that memory would not give.
pub fn nifti_gz(voxels: &Voxels) -> std::io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&nifti_bytes(voxels))?;
    gzip.finish()
}

/// A header with an sform in scanner coordinates, and nothing that the series says of its patient.
fn header(grid: &Grid, (data_type, bits): (i16, i16)) -> Vec<u8> {
    let mut raw = vec![0; VOXEL_OFFSET];
    let mut put =
        |offset: usize, bytes: &[u8]| raw[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &(HEADER_BYTES as i32).to_le_bytes());
    put(38, b"r");
    // A grid has at most 1024 voxels along an axis.
    let dims = [3, grid.dims[0], grid.dims[1], grid.dims[2], 1, 1, 1, 1].map(|dim| dim as i16);
    let [x, y, z] = grid.spacing_mm().map(|spacing| spacing as f32);
    for axis in 0..8 {
        put(40 + 2 * axis, &dims[axis].to_le_bytes());
        put(76 + 4 * axis, &[1.0, x, y, z, 0.0, 0.0, 0.0, 0.0][axis].to_le_bytes());
    }
    put(70, &data_type.to_le_bytes());
    put(72, &bits.to_le_bytes());
    put(108, &(VOXEL_OFFSET as f32).to_le_bytes());
    put(112, &1.0_f32.to_le_bytes());
    put(123, &[2]); // Millimetres.
    put(148, b"converted from DICOM");
    put(254, &1_i16.to_le_bytes()); // The sform holds scanner coordinates.
    for (index, value) in grid.affine.iter().flatten().enumerate() {
        put(280 + 4 * index, &(*value as f32).to_le_bytes());
    }
    put(344, b"n+1\0");
    raw
}
