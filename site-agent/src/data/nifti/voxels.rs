//! Voxels between bytes and numbers, and between a file's order and RAS+. It never opens a file.

use nifti::NiftiType;

use crate::data::nifti::affine::Axis;
use crate::data::nifti::fault::Fault;
use crate::data::nifti::header::Encoding;

/// Voxels along the sides of the tiles in which a file's axes are exchanged: a tile's cache lines on
/// both sides fit the first cache.
const TILE_VOXELS: usize = 32;

/// The real values of stored voxels in RAS+ order, x fastest. `axes` says how RAS+ lies in a file of
/// `file_dims` voxels, and `bytes` holds exactly these.
///
/// # Errors
/// [`Fault::NotFinite`] with the number of voxels that are no finite `f32`.
pub(super) fn decode(
    mut bytes: Vec<u8>,
    encoding: &Encoding,
    big_endian: bool,
    file_dims: [usize; 3],
    axes: &[Axis; 3],
) -> Result<Vec<f32>, Fault> {
    if big_endian && encoding.data_type.size_of() > 1 {
        bytes.chunks_exact_mut(encoding.data_type.size_of()).for_each(<[u8]>::reverse);
    }
    let lay = Lay::new(file_dims, axes);
    let &Encoding { slope, inter, .. } = encoding;
    macro_rules! decode_as {
        ($number:ty) => {
            // Apart from being faster, a value that is not scaled stays bit for bit what it is.
            if slope == 1.0 && inter == 0.0 {
                canonical(&bytes, &lay, |raw| <$number>::from_le_bytes(raw) as f32)
            } else {
                canonical(&bytes, &lay, |raw| {
                    (f64::from(<$number>::from_le_bytes(raw)) * slope + inter) as f32
                })
            }
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
    if all_finite(&values) {
        return Ok(values);
    }
    Err(Fault::NotFinite(values.iter().filter(|value| !value.is_finite()).count()))
}

/// Without a branch per voxel, so that several are looked at at once.
fn all_finite(values: &[f32]) -> bool {
    values.chunks(1024).all(|some| some.iter().fold(true, |all, value| all & value.is_finite()))
}

/// Adds `values` to `out` as `f32` bytes.
pub(super) fn push_f32(out: &mut Vec<u8>, values: &[f32], big_endian: bool) {
    let bytes = |value: &f32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    out.extend(values.iter().flat_map(bytes));
}

/// Adds `values` to `out`, rounded, as little-endian bytes of an integer type, or as they are for
/// `Float32`.
///
/// # Errors
/// [`Fault::Range`] for a value the type cannot hold, [`Fault::DataType`] for a type that new files
/// are not written in.
pub(super) fn push(out: &mut Vec<u8>, values: &[f32], data_type: NiftiType) -> Result<(), Fault> {
    let fits = |low: f32, high: f32| {
        let wrong = values.iter().find(|value| !(low..=high).contains(&value.round()));
        wrong.map_or(Ok(()), |&value| Err(Fault::Range(value)))
    };
    match data_type {
        NiftiType::Uint8 => {
            fits(0.0, 255.0)?;
            out.extend(values.iter().map(|value| value.round() as u8));
        }
        NiftiType::Int16 => {
            fits(-32768.0, 32767.0)?;
            out.extend(values.iter().flat_map(|value| (value.round() as i16).to_le_bytes()));
        }
        NiftiType::Float32 => push_f32(out, values, false),
        other => return Err(Fault::DataType(other as i16)),
    }
    Ok(())
}

/// RAS+ order to the order of a file of `file_dims` voxels: the inverse of what [`decode`] does.
pub(super) fn to_file_order(values: &[f32], file_dims: [usize; 3], axes: &[Axis; 3]) -> Vec<f32> {
    let [xs, ys, zs] = Lay::new(file_dims, axes).offsets;
    let mut out = vec![0.0; values.len()];
    let mut canonical = values.iter();
    for z in &zs {
        for y in &ys {
            for (x, &value) in xs.iter().zip(canonical.by_ref()) {
                out[x + y + z] = value;
            }
        }
    }
    out
}

/// Where canonical voxels lie in a file.
struct Lay {
    /// For x, y and z, what each step along it adds to the file's index.
    offsets: [Vec<usize>; 3],
    /// The canonical axis that is the file's fastest.
    fastest: usize,
}

impl Lay {
    fn new(file_dims: [usize; 3], axes: &[Axis; 3]) -> Lay {
        let strides = [1, file_dims[0], file_dims[0] * file_dims[1]];
        let offsets = axes.map(|axis| {
            let (n, stride) = (file_dims[axis.file_axis], strides[axis.file_axis]);
            (0..n).map(|i| stride * if axis.flipped { n - 1 - i } else { i }).collect()
        });
        let fastest = axes.iter().position(|axis| axis.file_axis == 0).unwrap_or(0);
        Lay { offsets, fastest }
    }
}

/// Decodes little-endian numbers of `N` bytes into canonical order.
fn canonical<const N: usize>(bytes: &[u8], lay: &Lay, number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<N>();
    if lay.fastest == 0 { by_rows(values, lay, number) } else { by_tiles(values, lay, number) }
}

/// Where x is the file's fastest axis too, rows stay rows, forwards or backwards.
fn by_rows<const N: usize>(
    values: &[[u8; N]],
    lay: &Lay,
    number: impl Fn([u8; N]) -> f32,
) -> Vec<f32> {
    let [xs, ys, zs] = &lay.offsets;
    let backwards = xs.first() > xs.last();
    let mut out = Vec::with_capacity(values.len());
    for z in zs {
        for y in ys {
            let row = &values[y + z..y + z + xs.len()];
            if backwards {
                out.extend(row.iter().rev().map(|&raw| number(raw)));
            } else {
                out.extend(row.iter().map(|&raw| number(raw)));
            }
        }
    }
    out
}

/// Where another axis is the file's fastest, tiles of it and x keep both sides in the cache.
fn by_tiles<const N: usize>(
    values: &[[u8; N]],
    lay: &Lay,
    number: impl Fn([u8; N]) -> f32,
) -> Vec<f32> {
    let [xs, ys, _] = &lay.offsets;
    let strides = [1, xs.len(), xs.len() * ys.len()];
    let (along, across) = if lay.fastest == 1 { (1, 2) } else { (2, 1) };
    let mut out = vec![0.0; values.len()];
    for (c, across_offset) in lay.offsets[across].iter().enumerate() {
        for (block, along_tile) in lay.offsets[along].chunks(TILE_VOXELS).enumerate() {
            for (x_block, x_tile) in xs.chunks(TILE_VOXELS).enumerate() {
                for (a, along_offset) in along_tile.iter().enumerate() {
                    let row = c * strides[across]
                        + (block * TILE_VOXELS + a) * strides[along]
                        + x_block * TILE_VOXELS;
                    let base = across_offset + along_offset;
                    for (value, x) in out[row..row + x_tile.len()].iter_mut().zip(x_tile) {
                        *value = number(values[base + x]);
                    }
                }
            }
        }
    }
    out
}
