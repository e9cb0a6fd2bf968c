//! Voxels between bytes and numbers, and between a file's order and RAS+. It never opens a file.

use nifti::NiftiType;

use crate::data::nifti::affine::Axis;
use crate::data::nifti::fault::Fault;
use crate::data::nifti::header::Encoding;

/// The real values of stored voxels, in the file's order.
///
/// # Errors
/// [`Fault::NotFinite`] with the number of voxels that are no finite `f32`.
pub(super) fn decode(
    bytes: &[u8],
    encoding: &Encoding,
    big_endian: bool,
) -> Result<Vec<f32>, Fault> {
    macro_rules! decode_as {
        ($number:ty) => {
            decode_with::<{ size_of::<$number>() }>(bytes, encoding, |raw| {
                let value = if big_endian {
                    <$number>::from_be_bytes(raw)
                } else {
                    <$number>::from_le_bytes(raw)
                };
                f64::from(value)
            })
        };
    }
    let values = match encoding.data_type {
        NiftiType::Uint8 => decode_as!(u8),
        NiftiType::Int8 => decode_as!(i8),
        NiftiType::Int16 => decode_as!(i16),
        NiftiType::Uint16 => decode_as!(u16),
        NiftiType::Int32 => decode_as!(i32),
        NiftiType::Uint32 => decode_as!(u32),
        NiftiType::Float32 => decode_as!(f32),
        NiftiType::Float64 => decode_as!(f64),
        other => return Err(Fault::DataType(other as i16)),
    };
    match values.iter().filter(|value| !value.is_finite()).count() {
        0 => Ok(values),
        count => Err(Fault::NotFinite(count)),
    }
}

/// `values` as `f32` bytes.
pub(super) fn encode_f32(values: &[f32], big_endian: bool) -> Vec<u8> {
    let bytes = |value: &f32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    values.iter().flat_map(bytes).collect()
}

/// `values`, rounded, as little-endian bytes of an integer type, or as they are for `Float32`.
///
/// # Errors
/// [`Fault::Range`] for a value the type cannot hold, [`Fault::DataType`] for a type that new files
/// are not written in.
pub(super) fn encode(values: &[f32], data_type: NiftiType) -> Result<Vec<u8>, Fault> {
    let fits = |low: f32, high: f32| {
        let wrong = values.iter().find(|value| !(low..=high).contains(&value.round()));
        wrong.map_or(Ok(()), |&value| Err(Fault::Range(value)))
    };
    match data_type {
        NiftiType::Uint8 => {
            fits(0.0, 255.0)?;
            Ok(values.iter().map(|value| value.round() as u8).collect())
        }
        NiftiType::Int16 => {
            fits(-32768.0, 32767.0)?;
            Ok(values.iter().flat_map(|value| (value.round() as i16).to_le_bytes()).collect())
        }
        NiftiType::Float32 => Ok(encode_f32(values, false)),
        other => Err(Fault::DataType(other as i16)),
    }
}

/// File order to RAS+ order, x fastest. `axes` says how RAS+ lies in a file of `file_dims` voxels.
pub(super) fn to_canonical(values: &[f32], file_dims: [usize; 3], axes: &[Axis; 3]) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for_each_pair(file_dims, axes, |file_index| out.push(values[file_index]));
    out
}

/// RAS+ order back to file order: the inverse of [`to_canonical`].
pub(super) fn to_file_order(values: &[f32], file_dims: [usize; 3], axes: &[Axis; 3]) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    let mut canonical = values.iter();
    for_each_pair(file_dims, axes, |file_index| {
        if let Some(&value) = canonical.next() {
            out[file_index] = value;
        }
    });
    out
}

/// Calls `visit` with the file's index of every voxel, in RAS+ order, x fastest.
fn for_each_pair(file_dims: [usize; 3], axes: &[Axis; 3], mut visit: impl FnMut(usize)) {
    let strides = [1, file_dims[0], file_dims[0] * file_dims[1]];
    let offsets = axes.map(|axis| {
        let (n, stride) = (file_dims[axis.file_axis], strides[axis.file_axis]);
        (0..n).map(|i| stride * if axis.flipped { n - 1 - i } else { i }).collect::<Vec<usize>>()
    });
    for z in &offsets[2] {
        for y in &offsets[1] {
            for x in &offsets[0] {
                visit(x + y + z);
            }
        }
    }
}

/// Decodes numbers of `N` bytes and scales them.
fn decode_with<const N: usize>(
    bytes: &[u8],
    encoding: &Encoding,
    number: impl Fn([u8; N]) -> f64,
) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&raw| (number(raw) * encoding.slope + encoding.inter) as f32).collect()
}
