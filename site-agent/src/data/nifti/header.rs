//! The header of a NIfTI-1 file: what it claims, checked, and the header of a file to be written.
//!
//! The bytes of a header that was read are kept, so that a result is written with the same ones. It
//! never opens a file.

use nifti::{Endianness, NiftiHeader, NiftiType};

use crate::data::nifti::affine::{self, Affine, Orientation};
use crate::data::nifti::fault::Fault;
use crate::data::nifti::limits::{AXIS_VOXELS_MAX, VOXEL_OFFSET_MAX, VOXELS_MAX};

/// Bytes of a NIfTI-1 header.
pub const HEADER_BYTES: usize = 348;

/// Where the voxels of a written file start: the header and four zero bytes, no extensions.
pub const VOXEL_OFFSET: usize = 352;

/// The grid of a file: its header and how its axes lie in RAS+.
#[derive(Clone, Debug, PartialEq)]
pub struct FileGeometry {
    /// The header as it was read, in the file's byte order. `[HEADER_BYTES]`
    raw: Vec<u8>,
    /// True if the file is big-endian.
    pub(super) big_endian: bool,
    /// Voxels along the file's axes, fastest first.
    pub(super) file_dims: [usize; 3],
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

/// Reads and checks a header.
///
/// # Errors
/// A [`Fault`] that names what the header claims: not NIfTI-1, not 3-D, too large, a type that is
/// no real number, an impossible offset or affine.
pub fn parse(raw: &[u8; HEADER_BYTES]) -> Result<(FileGeometry, Encoding), Fault> {
    let size = i32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
    if size == 540 || size.swap_bytes() == 540 {
        return Err(Fault::NiftiTwo);
    }
    if size != 348 && size.swap_bytes() != 348 {
        return Err(Fault::NotNifti);
    }
    let header = NiftiHeader::from_reader(raw.as_slice()).map_err(|_| Fault::NotNifti)?;
    let big_endian = size != 348;
    if &header.magic == nifti::header::MAGIC_CODE_NI1 {
        return Err(Fault::Pair);
    }
    // The crate tells the byte order by the number of dimensions, which must agree with the size.
    if (header.endianness == Endianness::Big) != big_endian {
        return Err(Fault::NotThreeDimensional(header.dim.to_vec()));
    }
    let file_dims = dimensions(&header)?;
    let encoding = encoding(&header)?;
    let affine = affine::of_header(&header)?;
    let orientation = affine::orientation(&affine, file_dims);
    Ok((FileGeometry { raw: raw.to_vec(), big_endian, file_dims, orientation }, encoding))
}

/// The header of a result that lies exactly over the file of `geometry`: the same bytes but for the
/// voxel type (`f32`, slope 1), the display range and the description.
///
/// # Errors
/// [`Fault::Description`] if the description does not fit its 80 bytes.
pub fn like(geometry: &FileGeometry, description: &str) -> Result<Vec<u8>, Fault> {
    let mut writer = Writer { raw: geometry.raw.clone(), big_endian: geometry.big_endian };
    writer.storage(16, 32);
    writer.description(description)?;
    Ok(writer.raw)
}

/// A little-endian header of a new LPS file (as BraTS has them) of the given voxel type.
///
/// # Errors
/// [`Fault::Description`] if the description does not fit its 80 bytes.
pub fn new_lps(
    file_dims: [usize; 3],
    spacing_mm: [f64; 3],
    origin_mm: [f64; 3],
    data_type: NiftiType,
    description: &str,
) -> Result<Vec<u8>, Fault> {
    let mut writer = Writer { raw: vec![0; HEADER_BYTES], big_endian: false };
    writer.raw[0..4].copy_from_slice(&348_i32.to_le_bytes());
    writer.raw[38] = b'r'; // `regular`, which ANALYZE readers ask for.
    writer.i16(40, 3);
    for axis in 0..3 {
        let dim = i16::try_from(file_dims[axis]).map_err(|_| Fault::TooManyVoxels(file_dims))?;
        writer.i16(42 + 2 * axis, dim);
        writer.f32(80 + 4 * axis, spacing_mm[axis] as f32);
    }
    (4..8).for_each(|axis| writer.i16(40 + 2 * axis, 1));
    writer.f32(76, 1.0);
    writer.storage(data_type as i16, 8 * data_type.size_of() as i16);
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
    Ok(writer.raw)
}

/// Sets fields of a raw header in its byte order. Offsets are those of the NIfTI-1 standard.
struct Writer {
    raw: Vec<u8>,
    big_endian: bool,
}

impl Writer {
    fn i16(&mut self, offset: usize, value: i16) {
        let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.raw[offset..offset + 2].copy_from_slice(&bytes);
    }

    fn f32(&mut self, offset: usize, value: f32) {
        let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.raw[offset..offset + 4].copy_from_slice(&bytes);
    }

    /// The voxel type, unscaled, in a single file without extensions.
    fn storage(&mut self, data_type: i16, bits: i16) {
        self.i16(70, data_type);
        self.i16(72, bits);
        self.f32(108, VOXEL_OFFSET as f32);
        self.f32(112, 1.0);
        self.f32(116, 0.0);
        self.f32(124, 0.0); // cal_max and cal_min: no display range is claimed.
        self.f32(128, 0.0);
        self.raw[344..348].copy_from_slice(b"n+1\0");
    }

    fn description(&mut self, text: &str) -> Result<(), Fault> {
        let bytes = text.as_bytes();
        if bytes.len() > 80 {
            return Err(Fault::Description(bytes.len()));
        }
        self.raw[148..228].fill(0);
        self.raw[148..148 + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// The three dimensions, where any others are 1.
fn dimensions(header: &NiftiHeader) -> Result<[usize; 3], Fault> {
    let dims = header.dim().map_err(|_| Fault::NotThreeDimensional(header.dim.to_vec()))?;
    if dims.len() < 3 || dims[3..].iter().any(|&dim| dim != 1) {
        return Err(Fault::NotThreeDimensional(dims.to_vec()));
    }
    let dims = [dims[0], dims[1], dims[2]].map(usize::from);
    let voxels: usize = dims.iter().product();
    if dims.iter().any(|&dim| dim > AXIS_VOXELS_MAX) || voxels > VOXELS_MAX {
        return Err(Fault::TooManyVoxels(dims));
    }
    Ok(dims)
}

/// Voxel type, offset and scaling.
fn encoding(header: &NiftiHeader) -> Result<Encoding, Fault> {
    let data_type = header.data_type().map_err(|_| Fault::DataType(header.datatype))?;
    match data_type {
        NiftiType::Uint8
        | NiftiType::Int8
        | NiftiType::Int16
        | NiftiType::Uint16
        | NiftiType::Int32
        | NiftiType::Uint32
        | NiftiType::Float32
        | NiftiType::Float64 => {}
        _ => return Err(Fault::DataType(header.datatype)),
    }
    let expected = 8 * data_type.size_of();
    if usize::try_from(header.bitpix) != Ok(expected) {
        let (data_type, bits) = (header.datatype, header.bitpix);
        return Err(Fault::BitsPerVoxel { data_type, bits, expected });
    }
    // Some writers leave 0 in a single file, where the voxels can only follow the header.
    let offset = if header.vox_offset == 0.0 { VOXEL_OFFSET as f32 } else { header.vox_offset };
    let possible = (HEADER_BYTES as f32..=VOXEL_OFFSET_MAX as f32).contains(&offset);
    if !possible || offset.fract() != 0.0 {
        return Err(Fault::VoxelOffset(header.vox_offset));
    }
    // A slope of 0 or not finite means no scaling (NIfTI-1 standard).
    let scaled = header.scl_slope != 0.0 && header.scl_slope.is_finite();
    let inter = if header.scl_inter.is_finite() { f64::from(header.scl_inter) } else { 0.0 };
    let (slope, inter) = if scaled { (f64::from(header.scl_slope), inter) } else { (1.0, 0.0) };
    Ok(Encoding { data_type, offset_bytes: offset as u64, slope, inter })
}
