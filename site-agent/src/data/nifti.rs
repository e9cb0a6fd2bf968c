//! Scans on disk: `.nii` and `.nii.gz`, NIfTI-1 and NIfTI-2, to [`Volume`] and back.
//!
//! Whatever order and type a file has, a volume is RAS+ and `f32`; the file's own header is kept, so
//! that a result is written to lie exactly over its input. Negative voxels are kept as they are. It
//! never resamples, and it never leaves a half-written file.

pub mod affine;
mod claims;
pub mod fault;
pub mod header;
mod header2;
pub mod limits;
mod voxels;
mod writer;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use nifti::NiftiType;

use crate::data::nifti::claims::Version;
use crate::data::nifti::fault::Fault;
use crate::data::nifti::header::FileGeometry;
use crate::data::nifti::limits::{
    AFFINE_TOLERANCE_MM, FILE_BYTES_MAX, FIRST_ALLOCATION_BYTES, GZIP_RATIO_MAX,
};
use crate::data::volume::Volume;

/// Bytes that are asked of the disk at a time.
const READ_BYTES: usize = 256 << 10;

/// A file that cannot be read or written. Only [`Error::fault`] may leave the site.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {fault}", path = path.display())]
pub struct Error {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, without its name.
    #[source]
    pub fault: Fault,
}

/// A scan in memory and the grid of the file it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// The voxels in RAS+ order.
    pub volume: Volume,
    /// The file's grid.
    pub geometry: FileGeometry,
}

/// How the voxels of a new file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Labels.
    U8,
    /// Intensities, as BraTS has them.
    I16,
    /// Results.
    F32,
}

/// Reads a scan.
///
/// # Errors
/// The path with the [`Fault`]: no such file, not NIfTI, truncated, damaged, too large, voxels that
/// are not finite, an affine without orientation.
pub fn read(path: &Path) -> Result<Scan, Error> {
    let located = |fault| Error { path: path.to_path_buf(), fault };
    // Before it is opened: opening a pipe waits for somebody to write.
    if !std::fs::metadata(path).map_err(|e| located(e.into()))?.is_file() {
        return Err(located(Fault::NotAFile));
    }
    let file = File::open(path).map_err(|e| located(e.into()))?;
    let bytes = file.metadata().map_err(|e| located(e.into()))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(located(Fault::FileTooLarge(bytes)));
    }
    let input = BufReader::with_capacity(READ_BYTES, file.take(FILE_BYTES_MAX));
    decode_stream(input, bytes).map_err(located)
}

/// Reads a scan that must lie on the grid of `geometry`, in whatever order its file has.
///
/// # Errors
/// As [`read`], and [`Fault::Shape`] or [`Fault::Place`] for another grid.
pub fn read_like(path: &Path, geometry: &FileGeometry) -> Result<Volume, Error> {
    on_grid(read(path)?, geometry).map_err(|fault| Error { path: path.to_path_buf(), fault })
}

/// The voxels of a scan that must lie on the grid of `geometry`.
///
/// # Errors
/// [`Fault::Shape`] or [`Fault::Place`] for another grid.
pub fn on_grid(scan: Scan, geometry: &FileGeometry) -> Result<Volume, Fault> {
    let (expected, found) = (geometry.dims(), scan.geometry.dims());
    if expected != found {
        return Err(Fault::Shape { expected, found });
    }
    let apart = affine::largest_distance_mm(geometry.affine(), scan.geometry.affine(), expected);
    if apart > AFFINE_TOLERANCE_MM { Err(Fault::Place(apart)) } else { Ok(scan.volume) }
}

/// Reads a mask on the grid of `geometry`: 1 where the file has 0.5 or more, else 0.
///
/// # Errors
/// As [`read_like`], and [`Fault::EmptyMask`].
pub fn read_mask(path: &Path, geometry: &FileGeometry) -> Result<Volume, Error> {
    let labels = read_like(path, geometry)?;
    let voxels: Vec<f32> =
        labels.voxels.iter().map(|&value| if value >= 0.5 { 1.0 } else { 0.0 }).collect();
    if voxels.iter().all(|&value| value == 0.0) {
        return Err(Error { path: path.to_path_buf(), fault: Fault::EmptyMask });
    }
    Ok(labels.with_voxels(voxels))
}

/// Writes `volume` as `f32` with the header of the file that `geometry` came from; gzip if the name
/// ends in `.gz`. `description` goes into the header and should say that the image is synthetic.
///
/// # Errors
/// As [`encode_like`], and [`Fault::Io`]. The file appears whole or not.
pub fn write_like(
    path: &Path,
    volume: &Volume,
    geometry: &FileGeometry,
    description: &str,
) -> Result<(), Error> {
    let located = |fault| Error { path: path.to_path_buf(), fault };
    let bytes = encode_like(volume, geometry, description).map_err(located)?;
    write_file(path, &bytes).map_err(|e| located(e.into()))
}

/// The bytes of the file that [`write_like`] writes, before gzip.
///
/// # Errors
/// [`Fault::Shape`] and [`Fault::Length`] if the volume has another grid, [`Fault::Description`] if
/// the description is too long.
pub fn encode_like(
    volume: &Volume,
    geometry: &FileGeometry,
    description: &str,
) -> Result<Vec<u8>, Fault> {
    if volume.dims != geometry.dims() {
        let (expected, found) = (geometry.dims(), volume.dims);
        return Err(Fault::Shape { expected, found });
    }
    check_length(volume)?;
    let mut bytes = writer::like(geometry, description)?;
    let axes = &geometry.orientation.axes;
    let ordered = voxels::to_file_order(&volume.voxels, geometry.file_dims, axes);
    voxels::push_f32(&mut bytes, &ordered, geometry.big_endian);
    Ok(bytes)
}

/// Writes `volume` as a new file whose axes run to the left, the back and the head (LPS), as those
/// of BraTS do; gzip if the name ends in `.gz`.
///
/// # Errors
/// [`Fault::Range`] if a value does not fit the storage, [`Fault::Io`]. The file appears whole or
/// not.
pub fn write_new(
    path: &Path,
    volume: &Volume,
    storage: Storage,
    description: &str,
) -> Result<(), Error> {
    let located = |fault| Error { path: path.to_path_buf(), fault };
    check_length(volume).map_err(located)?;
    let data_type = match storage {
        Storage::U8 => NiftiType::Uint8,
        Storage::I16 => NiftiType::Int16,
        Storage::F32 => NiftiType::Float32,
    };
    let flip = |file_axis, flipped| affine::Axis { file_axis, flipped };
    let axes = [flip(0, true), flip(1, true), flip(2, false)];
    let ordered = voxels::to_file_order(&volume.voxels, volume.dims, &axes);
    let far = |axis: usize| {
        volume.origin_mm[axis] + (volume.dims[axis] as f64 - 1.0) * volume.spacing_mm[axis]
    };
    let origin_mm = [far(0), far(1), volume.origin_mm[2]];
    let mut bytes =
        writer::new_lps(volume.dims, volume.spacing_mm, origin_mm, data_type, description)
            .map_err(located)?;
    voxels::push(&mut bytes, &ordered, data_type).map_err(located)?;
    write_file(path, &bytes).map_err(|e| located(e.into()))
}

/// Reads a scan from the bytes of a file, gzipped or not.
///
/// # Errors
/// As [`read`], without a path.
pub fn decode(bytes: &[u8]) -> Result<Scan, Fault> {
    decode_stream(bytes, bytes.len() as u64)
}

/// Reads a scan from the `length` bytes of `input`, whose first buffer holds at least two of them.
fn decode_stream(mut input: impl BufRead, length: u64) -> Result<Scan, Fault> {
    if input.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        decode_plain(MultiGzDecoder::new(input), length.saturating_mul(GZIP_RATIO_MAX))
    } else {
        decode_plain(input, length)
    }
}

/// Reads header and voxels. Memory grows with what the input holds, not with what it claims: at once
/// it takes no more than the `possible` bytes that it may hold.
fn decode_plain(mut input: impl Read, possible: u64) -> Result<Scan, Fault> {
    let (geometry, encoding) = read_header(&mut input)?;
    let size = encoding.data_type.size_of();
    let expected = geometry.file_dims.iter().product::<usize>() * size;
    let failed = |e, found| stream_fault(e, expected, found);
    let skipped = encoding.offset_bytes - geometry.version.header_bytes() as u64;
    let mut leading = input.by_ref().take(skipped);
    std::io::copy(&mut leading, &mut std::io::sink()).map_err(|e| failed(e, 0))?;
    let possible = usize::try_from(possible).unwrap_or(usize::MAX).max(FIRST_ALLOCATION_BYTES);
    let mut bytes = Vec::with_capacity(expected.min(possible));
    if let Err(e) = input.by_ref().take(expected as u64).read_to_end(&mut bytes) {
        return Err(failed(e, bytes.len()));
    }
    if bytes.len() != expected {
        return Err(Fault::Truncated { expected, found: bytes.len() });
    }
    // Reading on to the end has gzip compare its check sum. Some writers pad, by less than a slice.
    let slice_bytes = (geometry.file_dims[0] * geometry.file_dims[1] * size) as u64;
    let surplus = std::io::copy(&mut input.take(slice_bytes), &mut std::io::sink());
    if surplus.map_err(|e| failed(e, expected))? == slice_bytes {
        return Err(Fault::Surplus(expected));
    }
    let seen = &geometry.orientation;
    let &FileGeometry { file_dims, big_endian, .. } = &geometry;
    let volume = Volume {
        dims: seen.dims,
        spacing_mm: seen.spacing_mm,
        origin_mm: [0, 1, 2].map(|row: usize| seen.affine[row][3]),
        voxels: voxels::decode(bytes, &encoding, big_endian, file_dims, &seen.axes)?,
    };
    Ok(Scan { volume, geometry })
}

/// Reads and checks the header.
fn read_header(input: &mut impl Read) -> Result<(FileGeometry, header::Encoding), Fault> {
    // A file that ends in its header, or whose compressed stream does, was never a scan.
    let failed = |e| stream_fault(e, Version::One.header_bytes(), 0);
    let mut raw = Vec::with_capacity(Version::Two.header_bytes());
    input.take(4).read_to_end(&mut raw).map_err(failed)?;
    let start = raw.first_chunk().ok_or(Fault::NotNifti)?;
    let (version, big_endian) = claims::version(*start).ok_or(Fault::NotNifti)?;
    let rest = version.header_bytes() - raw.len();
    input.take(rest as u64).read_to_end(&mut raw).map_err(failed)?;
    if raw.len() != version.header_bytes() {
        return Err(Fault::NotNifti);
    }
    header::parse(raw, version, big_endian)
}

/// What reading a stream of `expected` bytes of voxels says when it fails after `found` of them.
fn stream_fault(error: std::io::Error, expected: usize, found: usize) -> Fault {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Fault::Truncated { expected, found },
        // The kinds with which flate2 refuses a stream; no file gives them.
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => Fault::Corrupt,
        _ => Fault::Io(error),
    }
}

/// A volume made by hand may lie about its size.
fn check_length(volume: &Volume) -> Result<(), Fault> {
    let expected = volume.dims.iter().product();
    let found = volume.voxels.len();
    if found == expected { Ok(()) } else { Err(Fault::Length { expected, found }) }
}

/// Writes to a temporary file beside `path`, fsyncs, and renames.
fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder)?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        // Scans are mostly background: the fastest level already takes that away.
        let mut gzip = GzEncoder::new(temporary.as_file_mut(), Compression::fast());
        gzip.write_all(bytes)?;
        gzip.finish()?;
    } else {
        temporary.as_file_mut().write_all(bytes)?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod fixture_tests;
#[cfg(test)]
mod round_trip_tests;
#[cfg(test)]
mod tests;
