//! Stored pixels of a file as real values. It never knows where they lie.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject};
use dicom_pixeldata::PixelDecoder;

use crate::data::dicom::frame::Scale;
use crate::data::dicom::refusal::Refusal;
use crate::data::dicom::tags::{codes, integer};
use crate::data::dicom::{rle, syntax};

/// How the pixels of a file are stored (PS3.5 8.1.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Storage {
    /// Bytes of a pixel: 1, 2 or 4.
    bytes: usize,
    /// Bits that carry the value.
    bits: u32,
    /// Where the lowest of them is.
    shift: u32,
    /// Two's complement.
    signed: bool,
    /// MONOCHROME1: the lowest value is white.
    inverted: bool,
}

impl Storage {
    /// Bytes of a pixel.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The storage that a header describes.
///
/// # Errors
/// [`Refusal::Colour`], or the attribute that is missing or contradicts another.
pub(super) fn storage(object: &InMemDicomObject) -> Result<Storage, Refusal> {
    let photometric = codes(object, tags::PHOTOMETRIC_INTERPRETATION);
    let inverted = match photometric.first().map(String::as_str) {
        Some("MONOCHROME1") => true,
        Some("MONOCHROME2") => false,
        Some(_) => return Err(Refusal::Colour),
        None => return Err(Refusal::NoPixels),
    };
    if integer(object, tags::SAMPLES_PER_PIXEL).unwrap_or(1) != 1 {
        return Err(Refusal::Colour);
    }
    let need = |tag, name| integer(object, tag).ok_or(Refusal::Attribute(name));
    let allocated = need(tags::BITS_ALLOCATED, "BitsAllocated")?;
    let bits = need(tags::BITS_STORED, "BitsStored")?;
    let high = integer(object, tags::HIGH_BIT).unwrap_or(bits.saturating_sub(1));
    if !matches!(allocated, 8 | 16 | 32) {
        return Err(Refusal::Attribute("BitsAllocated"));
    }
    if bits == 0 || bits > allocated {
        return Err(Refusal::Attribute("BitsStored"));
    }
    if high >= allocated || high + 1 < bits {
        return Err(Refusal::Attribute("HighBit"));
    }
    let signed = match need(tags::PIXEL_REPRESENTATION, "PixelRepresentation")? {
        0 => false,
        1 => true,
        _ => return Err(Refusal::Attribute("PixelRepresentation")),
    };
    let (bits, shift) = (bits as u32, (high + 1 - bits) as u32);
    Ok(Storage { bytes: allocated / 8, bits, shift, signed, inverted })
}

/// The bytes of all frames of a file, little-endian, decompressed.
///
/// # Errors
/// [`Refusal::NoPixels`], [`Refusal::Decode`], [`Refusal::Truncated`] for another size than
/// `pixels` of `storage`.
pub(super) fn bytes(
    object: &DefaultDicomObject,
    storage: &Storage,
    pixels: usize,
) -> Result<Vec<u8>, Refusal> {
    let element = object.get(tags::PIXEL_DATA).ok_or(Refusal::NoPixels)?;
    let bytes = if let Some(fragments) = element.fragments() {
        if object.meta().transfer_syntax().trim_end_matches([' ', '\0']) == syntax::RLE {
            // Each fragment is a frame (PS3.5 A.4.2).
            let size = |tag| integer(object, tag).unwrap_or(0);
            let area = size(tags::ROWS) * size(tags::COLUMNS);
            if fragments.len() * area != pixels {
                return Err(Refusal::Decode);
            }
            fragments.iter().try_for_each(|frame| rle::check(frame, area, storage.bytes))?;
        }
        // The decoders index into what a damaged stream unpacks to, so a panic of theirs is one more
        // way in which a file is damaged. They hold no state that could be left half-changed.
        let decoded = catch_unwind(AssertUnwindSafe(|| object.decode_pixel_data()));
        let decoded = decoded.map_err(|_| Refusal::Decode)?.map_err(|_| Refusal::Decode)?;
        if usize::from(decoded.bits_allocated()) != 8 * storage.bytes {
            return Err(Refusal::Decode);
        }
        decoded.into_data()
    } else {
        element.to_bytes().map_err(|_| Refusal::NoPixels)?.into_owned()
    };
    let expected = pixels * storage.bytes;
    // A value of odd length is padded by one byte, some writers pad more.
    if bytes.len() < expected {
        return Err(Refusal::Truncated { expected, found: bytes.len() });
    }
    Ok(bytes)
}

/// The real values of `pixels.len()` pixels, which `raw` starts with.
pub(super) fn scale_into(raw: &[u8], storage: &Storage, scale: Scale, pixels: &mut [f32]) {
    for (pixel, raw) in pixels.iter_mut().zip(raw.chunks_exact(storage.bytes)) {
        *pixel = (stored(raw, storage) as f64 * scale.slope + scale.intercept) as f32;
    }
}

/// A stored value: the bits from HighBit downwards, with their sign.
fn stored(raw: &[u8], storage: &Storage) -> i64 {
    let word = raw.iter().rev().fold(0_u64, |word, &byte| word << 8 | u64::from(byte));
    let value = (word >> storage.shift & ((1 << storage.bits) - 1)) as i64;
    let range = 1_i64 << storage.bits;
    let value = if storage.signed && value >= range / 2 { value - range } else { value };
    match (storage.inverted, storage.signed) {
        (false, _) => value,
        // The lowest value that the bits can hold changes places with the highest.
        (true, false) => range - 1 - value,
        (true, true) => -1 - value,
    }
}

#[cfg(test)]
mod tests {
    use dicom_core::{DataElement, PrimitiveValue, VR};

    use super::*;

    fn header(photometric: &str, words: [u16; 5]) -> InMemDicomObject {
        let mut object = InMemDicomObject::new_empty();
        object.put_str(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric);
        let names = [
            tags::SAMPLES_PER_PIXEL,
            tags::BITS_ALLOCATED,
            tags::BITS_STORED,
            tags::HIGH_BIT,
            tags::PIXEL_REPRESENTATION,
        ];
        for (tag, word) in names.into_iter().zip(words) {
            object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(word)));
        }
        object
    }

    fn value(photometric: &str, words: [u16; 5], raw: &[u8]) -> f32 {
        let mut pixel = [0.0];
        let storage = storage(&header(photometric, words)).unwrap();
        scale_into(raw, &storage, Scale { slope: 1.0, intercept: 0.0 }, &mut pixel);
        pixel[0]
    }

    #[test]
    fn only_the_stored_bits_count_with_their_sign() {
        let raw = 0xA5F3_u16.to_le_bytes();
        assert_eq!(value("MONOCHROME2", [1, 16, 16, 15, 0], &raw), f32::from(0xA5F3_u16));
        assert_eq!(value("MONOCHROME2", [1, 16, 12, 11, 0], &raw), f32::from(0x5F3_u16));
        assert_eq!(value("MONOCHROME2", [1, 16, 12, 15, 0], &raw), f32::from(0xA5F_u16));
        assert_eq!(value("MONOCHROME2", [1, 16, 12, 15, 1], &raw), f32::from(0xA5F_i16 - 0x1000));
        assert_eq!(value("MONOCHROME2", [1, 16, 16, 15, 1], &raw), f32::from(0xA5F3_u16 as i16));
        assert_eq!(value("MONOCHROME2", [1, 8, 8, 7, 0], &[200]), 200.0);
        let wide = (-70_000_i32).to_le_bytes();
        assert_eq!(value("MONOCHROME2", [1, 32, 32, 31, 1], &wide), -70_000.0);
    }

    #[test]
    fn monochrome1_changes_black_and_white() {
        assert_eq!(value("MONOCHROME1", [1, 16, 12, 11, 0], &[0, 0]), 4095.0);
        assert_eq!(value("MONOCHROME1", [1, 16, 12, 11, 1], &[0xFF, 0x0F]), 0.0);
        assert_eq!(value("MONOCHROME1", [1, 16, 12, 11, 1], &[0, 0x08]), 2047.0);
    }

    #[test]
    fn colours_and_contradictory_bits_are_refused() {
        let refused = |photometric, words| storage(&header(photometric, words)).unwrap_err();
        assert_eq!(refused("RGB", [3, 8, 8, 7, 0]), Refusal::Colour);
        assert_eq!(refused("PALETTE COLOR", [1, 8, 8, 7, 0]), Refusal::Colour);
        assert_eq!(refused("MONOCHROME2", [3, 8, 8, 7, 0]), Refusal::Colour);
        for (words, name) in [
            ([1, 12, 12, 11, 0], "BitsAllocated"),
            ([1, 16, 17, 16, 0], "BitsStored"),
            ([1, 16, 0, 0, 0], "BitsStored"),
            ([1, 16, 12, 10, 0], "HighBit"),
            ([1, 16, 12, 16, 0], "HighBit"),
            ([1, 16, 12, 11, 2], "PixelRepresentation"),
        ] {
            assert_eq!(refused("MONOCHROME2", words), Refusal::Attribute(name));
        }
    }
}
