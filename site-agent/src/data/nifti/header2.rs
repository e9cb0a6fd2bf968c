//! A NIfTI-2 header, byte by byte, by the offsets of the standard (nifti2.h): the `nifti` crate
//! knows only NIfTI-1. It never believes what it reads.

use crate::data::nifti::claims::{Claims, Pose};
use crate::data::nifti::fault::Fault;

/// A single file. The last four bytes show whether a transfer changed line ends.
const MAGIC: &[u8; 8] = b"n+2\0\r\n\x1a\n";

/// A pair of .hdr and .img files.
const MAGIC_PAIR: &[u8; 4] = b"ni2\0";

/// The claims of a NIfTI-2 header of 540 bytes.
///
/// # Errors
/// [`Fault::NotNifti`], [`Fault::Pair`] by its magic, and [`Fault::NotThreeDimensional`] if its
/// number of dimensions is impossible.
pub(super) fn claims(raw: &[u8], big_endian: bool) -> Result<Claims, Fault> {
    let fields = Fields { raw, big_endian };
    let magic: [u8; 8] = fields.bytes(4)?;
    if magic.starts_with(MAGIC_PAIR) {
        return Err(Fault::Pair);
    }
    if &magic != MAGIC {
        return Err(Fault::NotNifti);
    }
    let row = |at: usize| -> Result<[f64; 4], Fault> {
        Ok([fields.f64(at)?, fields.f64(at + 8)?, fields.f64(at + 16)?, fields.f64(at + 24)?])
    };
    let three = |at: usize| -> Result<[f64; 3], Fault> {
        Ok([fields.f64(at)?, fields.f64(at + 8)?, fields.f64(at + 16)?])
    };
    Ok(Claims {
        dims: dims(&fields)?,
        data_type: i16::from_be_bytes(fields.ordered(12)?),
        bits: i16::from_be_bytes(fields.ordered(14)?),
        offset_bytes: fields.i64(168)? as f64,
        slope: fields.f64(176)?,
        inter: fields.f64(184)?,
        pose: Pose {
            sform_code: fields.i32(348)?,
            sform: [row(400)?, row(432)?, row(464)?],
            qform_code: fields.i32(344)?,
            quaternion: three(352)?,
            offset_mm: three(376)?,
            pixdim: row(104)?,
        },
    })
}

/// The sizes that `dim` holds, as many as its first number says.
fn dims(fields: &Fields<'_>) -> Result<Vec<i64>, Fault> {
    let dim = (0..8).map(|i| fields.i64(16 + 8 * i)).collect::<Result<Vec<i64>, Fault>>()?;
    match usize::try_from(dim[0]) {
        Ok(count @ 1..=7) => Ok(dim[1..=count].to_vec()),
        _ => Err(Fault::NotThreeDimensional(dim)),
    }
}

/// Numbers at byte offsets of a header, in its byte order.
struct Fields<'a> {
    raw: &'a [u8],
    big_endian: bool,
}

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], Fault> {
        self.raw.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Fault::NotNifti)
    }

    /// The bytes of a number, the most significant first.
    fn ordered<const N: usize>(&self, at: usize) -> Result<[u8; N], Fault> {
        let mut bytes = self.bytes(at)?;
        if !self.big_endian {
            bytes.reverse();
        }
        Ok(bytes)
    }

    fn i32(&self, at: usize) -> Result<i32, Fault> {
        self.ordered(at).map(i32::from_be_bytes)
    }

    fn i64(&self, at: usize) -> Result<i64, Fault> {
        self.ordered(at).map(i64::from_be_bytes)
    }

    fn f64(&self, at: usize) -> Result<f64, Fault> {
        self.ordered(at).map(f64::from_be_bytes)
    }
}
