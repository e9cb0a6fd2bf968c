//! The headers of files to be written: one like that of the input, and that of a new file as BraTS
//! has them.
//!
//! Extensions of the input are left behind on purpose: they tell how the input came to be (often
//! with the names of a DICOM header), which is not true of a result. It never opens a file.

use nifti::NiftiType;

use crate::data::nifti::claims::Version;
use crate::data::nifti::fault::Fault;
use crate::data::nifti::header::FileGeometry;

/// The header of a result that lies exactly over the file of `geometry`: the same bytes but for the
/// voxel type (`f32`, slope 1), the display range, the offset and the description. The four bytes
/// that say that no extension follows are part of it.
///
/// # Errors
/// [`Fault::Description`] if the description does not fit its 80 bytes.
pub(super) fn like(geometry: &FileGeometry, description: &str) -> Result<Vec<u8>, Fault> {
    let &FileGeometry { version, big_endian, .. } = geometry;
    let mut writer = Writer { raw: geometry.raw.clone(), version, big_endian };
    writer.storage(NiftiType::Float32);
    writer.description(description)?;
    Ok(writer.finish())
}

/// A little-endian NIfTI-1 header of a new LPS file (as BraTS has them) of the given voxel type,
/// with the four bytes that say that no extension follows.
///
/// # Errors
/// [`Fault::Description`] if the description does not fit its 80 bytes, [`Fault::TooManyVoxels`] if
/// an axis does not fit the header.
pub(super) fn new_lps(
    file_dims: [usize; 3],
    spacing_mm: [f64; 3],
    origin_mm: [f64; 3],
    data_type: NiftiType,
    description: &str,
) -> Result<Vec<u8>, Fault> {
    let version = Version::One;
    let mut writer = Writer { raw: vec![0; version.header_bytes()], version, big_endian: false };
    writer.put(0, 348_i32.to_be_bytes());
    writer.raw[38] = b'r'; // `regular`, which ANALYZE readers ask for.
    writer.i16(40, 3);
    for axis in 0..3 {
        let dim = i16::try_from(file_dims[axis])
            .map_err(|_| Fault::TooManyVoxels(file_dims.map(|dim| dim as i64)))?;
        writer.i16(42 + 2 * axis, dim);
        writer.f32(80 + 4 * axis, spacing_mm[axis] as f32);
    }
    (4..8).for_each(|axis| writer.i16(40 + 2 * axis, 1));
    writer.f32(76, 1.0);
    writer.storage(data_type);
    writer.raw[123] = 2; // Units of millimetres.
    writer.i16(252, 1);
    writer.i16(254, 1);
    writer.f32(264, 1.0); // The quaternion (0, 0, 0, 1): half a turn about z.
    for axis in 0..3 {
        writer.f32(268 + 4 * axis, origin_mm[axis] as f32);
        let sign = if axis == 2 { 1.0 } else { -1.0 };
        writer.f32(280 + 20 * axis, (sign * spacing_mm[axis]) as f32);
        writer.f32(292 + 16 * axis, origin_mm[axis] as f32);
    }
    writer.description(description)?;
    Ok(writer.finish())
}

/// Sets fields of a raw header in its byte order. Offsets are those of the standards.
struct Writer {
    raw: Vec<u8>,
    version: Version,
    big_endian: bool,
}

impl Writer {
    /// Puts a number, given with its most significant byte first.
    fn put<const N: usize>(&mut self, offset: usize, mut bytes: [u8; N]) {
        if !self.big_endian {
            bytes.reverse();
        }
        self.raw[offset..offset + N].copy_from_slice(&bytes);
    }

    fn i16(&mut self, offset: usize, value: i16) {
        self.put(offset, value.to_be_bytes());
    }

    fn f32(&mut self, offset: usize, value: f32) {
        self.put(offset, value.to_be_bytes());
    }

    /// The voxel type, unscaled, in a single file without extensions. No display range is claimed.
    fn storage(&mut self, data_type: NiftiType) {
        let (code, bits) = (data_type as i16, 8 * data_type.size_of() as i16);
        let offset = self.version.voxel_offset();
        match self.version {
            Version::One => {
                self.i16(70, code);
                self.i16(72, bits);
                self.f32(108, offset as f32);
                self.f32(112, 1.0);
                [116, 124, 128].into_iter().for_each(|at| self.f32(at, 0.0));
                self.raw[344..348].copy_from_slice(b"n+1\0");
            }
            Version::Two => {
                self.i16(12, code);
                self.i16(14, bits);
                self.put(168, (offset as i64).to_be_bytes());
                self.put(176, 1.0_f64.to_be_bytes());
                [184, 192, 200].into_iter().for_each(|at| self.put(at, 0.0_f64.to_be_bytes()));
            }
        }
    }

    fn description(&mut self, text: &str) -> Result<(), Fault> {
        let bytes = text.as_bytes();
        if bytes.len() > 80 {
            return Err(Fault::Description(bytes.len()));
        }
        let start = match self.version {
            Version::One => 148,
            Version::Two => 240,
        };
        self.raw[start..start + 80].fill(0);
        self.raw[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.raw.extend([0; 4]);
        self.raw
    }
}
