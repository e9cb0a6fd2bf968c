//! PURE: numbers in fewer bits, and back.
//!
//! `int8` and `int4` are symmetric and by blocks: a block of values shares one scale s, and a value v is
//! kept as the whole number q nearest to v / s, of two the even one. The scale is the least bf16 that is not
//! below the block's greatest magnitude over 127 or 7, so that nothing is clipped, an error is at most half
//! of the scale, and q s is exact in f32 on every machine. A block of zeros has the scale 0. `bf16` is the
//! nearest, of two the even one.
//!
//! ```text
//! a tensor's bytes   block, block, ..., the last of them shorter
//! a block            scale (bf16, little-endian), then
//!   int8             a byte for each value, two's complement
//!   int4             four bits for each value, two's complement, the lower half of a byte first; an odd
//!                    block's last upper half is 0
//! ```

use crate::plan::Encoding;

/// Bytes of a scale.
const SCALE_BYTES: usize = 2;

/// Values that share a scale in `int8`: the scale costs 1/128 of the values' bytes.
const INT8_BLOCK: usize = 256;

/// Values that share a scale in `int4`: the scale costs 1/16 of the values' bytes. Fewer would cost more,
/// more would let one great value take the digits of the others.
const INT4_BLOCK: usize = 64;

/// The greatest magnitude of a number in `int8`, and in `int4`.
const INT8_MAX: i8 = 127;
const INT4_MAX: i8 = 7;

/// The bits of bf16's infinity.
const BF16_INFINITY: u16 = 0x7f80;

/// Why bytes are not numbers, or numbers have no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A number cannot be written.
    #[error("it holds a value that is not a finite number, or too large")]
    NotFinite,
    /// A scale is none.
    #[error("it has a scale that is not a finite number of at least 0")]
    Scale,
}

/// How many values are written and read together: ranges of a tensor begin at a multiple of it.
pub fn block(encoding: Encoding) -> usize {
    match encoding {
        Encoding::F32 | Encoding::Bf16 => 1,
        Encoding::Int8 => INT8_BLOCK,
        Encoding::Int4 => INT4_BLOCK,
    }
}

/// Bytes of `values` values from the beginning of a tensor.
pub fn bytes(encoding: Encoding, values: usize) -> usize {
    let scales = SCALE_BYTES * values.div_ceil(block(encoding));
    match encoding {
        Encoding::F32 => size_of::<f32>() * values,
        Encoding::Bf16 => size_of::<u16>() * values,
        Encoding::Int8 => values + scales,
        // Full blocks are even, so that only the last one may end within a byte.
        Encoding::Int4 => values.div_ceil(2) + scales,
    }
}

/// Writes values, of which the first begins a block, behind what `bytes` holds.
///
/// # Errors
/// If a value is not finite, or is no longer once it is rounded.
pub fn encode(encoding: Encoding, values: &[f32], bytes: &mut Vec<u8>) -> Result<(), Error> {
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Error::NotFinite);
    }
    match encoding {
        Encoding::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Encoding::Bf16 => {
            for value in values {
                let bits = nearest(*value);
                if bits & BF16_INFINITY == BF16_INFINITY {
                    return Err(Error::NotFinite);
                }
                bytes.extend(bits.to_le_bytes());
            }
        }
        Encoding::Int8 => {
            for values in values.chunks(INT8_BLOCK) {
                let scale = put_scale(values, INT8_MAX, bytes)?;
                bytes.extend(values.iter().map(|value| code(*value, scale, INT8_MAX) as u8));
            }
        }
        Encoding::Int4 => {
            for values in values.chunks(INT4_BLOCK) {
                let scale = put_scale(values, INT4_MAX, bytes)?;
                let half = |value: &f32| code(*value, scale, INT4_MAX) as u8 & 0xf;
                let pair = |pair: &[f32]| half(&pair[0]) | pair.get(1).map_or(0, half) << 4;
                bytes.extend(values.chunks(2).map(pair));
            }
        }
    }
    Ok(())
}

/// Reads values that [`encode`] wrote. `bytes` begin with a block and are those of as many values as
/// `values` has room for.
///
/// # Errors
/// If a scale is none. Values that are not finite are given as they are.
pub fn decode(encoding: Encoding, bytes: &[u8], values: &mut [f32]) -> Result<(), Error> {
    debug_assert_eq!(bytes.len(), self::bytes(encoding, values.len()));
    match encoding {
        Encoding::F32 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Encoding::Bf16 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = widened(u16::from_le_bytes(*bytes));
            }
        }
        Encoding::Int8 => {
            let blocks = bytes.chunks(SCALE_BYTES + INT8_BLOCK);
            for (values, bytes) in values.chunks_mut(INT8_BLOCK).zip(blocks) {
                let (scale, codes) = take_scale(bytes)?;
                for (value, code) in values.iter_mut().zip(codes) {
                    *value = f32::from(*code as i8) * scale;
                }
            }
        }
        Encoding::Int4 => {
            let blocks = bytes.chunks(SCALE_BYTES + INT4_BLOCK / 2);
            for (values, bytes) in values.chunks_mut(INT4_BLOCK).zip(blocks) {
                let (scale, codes) = take_scale(bytes)?;
                for (pair, code) in values.chunks_mut(2).zip(codes) {
                    let halves = [(code << 4) as i8 >> 4, *code as i8 >> 4];
                    for (value, half) in pair.iter_mut().zip(halves) {
                        *value = f32::from(half) * scale;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Writes the scale of a block, and gives it.
fn put_scale(values: &[f32], code_max: i8, bytes: &mut Vec<u8>) -> Result<f32, Error> {
    let greatest = values.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    let least = f64::from(greatest) / f64::from(code_max);
    // Cut off rather than rounded, so that it is at most a little too small.
    let mut bits = ((least as f32).to_bits() >> 16) as u16;
    while f64::from(widened(bits)) < least {
        bits += 1;
    }
    let scale = widened(bits);
    if !(f32::from(code_max) * scale).is_finite() {
        return Err(Error::NotFinite);
    }
    bytes.extend(bits.to_le_bytes());
    Ok(scale)
}

/// The whole number nearest to `value / scale`, of two the even one.
fn code(value: f32, scale: f32, code_max: i8) -> i8 {
    if scale == 0.0 {
        return 0;
    }
    let max = f64::from(code_max);
    (f64::from(value) / f64::from(scale)).round_ties_even().clamp(-max, max) as i8
}

fn take_scale(bytes: &[u8]) -> Result<(f32, &[u8]), Error> {
    let (scale, codes) = bytes.split_first_chunk::<SCALE_BYTES>().ok_or(Error::Scale)?;
    let scale = widened(u16::from_le_bytes(*scale));
    match scale.is_finite() && scale.is_sign_positive() {
        true => Ok((scale, codes)),
        false => Err(Error::Scale),
    }
}

fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bits of the nearest bf16, of two the even one; infinity where that is too large.
fn nearest(value: f32) -> u16 {
    let bits = value.to_bits();
    let even = bits >> 16 & 1;
    ((bits + 0x7fff + even) >> 16) as u16
}

#[cfg(test)]
mod tests;
