//! Philips' private scale slope, however a file stores it. A slope that is there and cannot be
//! understood is refused by name, never passed over: without it the voxels would be silently others.
//!
//! An archive that knows no private attributes writes them with the value representation UN, and
//! Implicit VR writes none at all. The bytes are then those of Implicit VR Little Endian, whatever the
//! transfer syntax of the file is (PS3.5 6.2.2).

use dicom_core::{PrimitiveValue, Tag};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use crate::data::dicom::embedded;
use crate::data::dicom::refusal::Refusal;
use crate::data::dicom::tags::text;

/// The group of both attributes.
const GROUP: u16 = 0x2005;

/// The owner of the scale slope (2005,xx0E), and where scanners write it.
const SLOPE_OWNER: &str = "Philips MR Imaging DD 001";
const SLOPE: Tag = Tag(GROUP, 0x100E);

/// The owner of the sequence (2005,xx0F) that holds it in an Enhanced file, and where scanners write
/// it.
const SEQUENCE_OWNER: &str = "Philips MR Imaging DD 005";
const SEQUENCE: Tag = Tag(GROUP, 0x140F);

/// The slopes that are taken for one. Scanners write about 1e-5 to 1e3; digits that are read as a
/// binary number are far from it.
const SLOPES: std::ops::RangeInclusive<f64> = 1e-8..=1e8;

/// What a refusal calls them.
const SLOPE_NAME: &str = "Philips' scale slope (2005,100E)";
const SEQUENCE_NAME: &str = "Philips' sequence (2005,140F)";

/// The scale slope of a classic file, if it has one.
///
/// # Errors
/// [`Refusal::Attribute`] if it cannot be read or nobody owns it.
pub(super) fn classic(object: &InMemDicomObject) -> Result<Option<f64>, Refusal> {
    check_owned(object, object)?;
    own(object)
}

/// The scale slope of a frame of an Enhanced file: in one of its `groups`, or in the file itself.
///
/// # Errors
/// As [`classic`], and if the sequence that holds it cannot be read.
pub(super) fn enhanced(
    object: &InMemDicomObject,
    groups: &[Option<&InMemDicomObject>],
) -> Result<Option<f64>, Refusal> {
    for group in groups.iter().copied().flatten() {
        check_owned(object, group)?;
        if let Some(sequence) = private(group, SEQUENCE_OWNER, SEQUENCE)
            && let Some(slope) = within(object, sequence)?
        {
            return Ok(Some(slope));
        }
        if let Some(slope) = own(group)? {
            return Ok(Some(slope));
        }
    }
    classic(object)
}

/// The slope in the first item of the sequence.
fn within(object: &InMemDicomObject, sequence: &InMemElement) -> Result<Option<f64>, Refusal> {
    let refused = || Refusal::Attribute(SEQUENCE_NAME);
    let unpacked;
    let items = match (sequence.items(), sequence.value().primitive()) {
        (Some(items), _) => items,
        (None, Some(PrimitiveValue::U8(raw))) => {
            unpacked = embedded::items(raw).map_err(|_| refused())?;
            &unpacked
        }
        (None, Some(PrimitiveValue::Empty)) => &[],
        (None, _) => return Err(refused()),
    };
    let Some(item) = items.first() else { return Ok(None) };
    check_owned(object, item)?;
    own(item)
}

/// The slope that an object or an item itself has.
fn own(object: &InMemDicomObject) -> Result<Option<f64>, Refusal> {
    let Some(element) = private(object, SLOPE_OWNER, SLOPE) else { return Ok(None) };
    let refused = || Refusal::Attribute(SLOPE_NAME);
    let value = match element.value().primitive().ok_or_else(refused)? {
        PrimitiveValue::Empty => return Ok(None),
        PrimitiveValue::U8(raw) => little_endian(raw).ok_or_else(refused)?,
        value => value.to_float64().map_err(|_| refused())?,
    };
    if SLOPES.contains(&value) { Ok(Some(value)) } else { Err(refused()) }
}

/// One floating point number of 4 or 8 bytes.
fn little_endian(raw: &[u8]) -> Option<f64> {
    let single = |raw: [u8; 4]| f64::from(f32::from_le_bytes(raw));
    raw.try_into().map(single).or_else(|_| raw.try_into().map(f64::from_le_bytes)).ok()
}

/// The element of an owner whose blocks may lie anywhere in the group (PS3.5 7.8.1).
fn private<'a>(object: &'a InMemDicomObject, owner: &str, tag: Tag) -> Option<&'a InMemElement> {
    let blocks = (0x10..=0xFF).filter(|&block| owner_of(object, block).as_deref() == Some(owner));
    let mut places = blocks.map(|block| Tag(GROUP, block << 8 | tag.element() & 0xFF));
    places.find_map(|place| object.get(place))
}

/// Who owns a block, if the object says so.
fn owner_of(object: &InMemDicomObject, block: u16) -> Option<String> {
    let element = object.get(Tag(GROUP, block))?;
    let text = match element.value().primitive()? {
        PrimitiveValue::U8(raw) => String::from_utf8_lossy(raw).into_owned(),
        value => value.to_str().into_owned(),
    };
    Some(text.trim_matches([' ', '\0']).to_string())
}

/// That what a scanner of Philips writes where it writes these attributes has an owner: a tool that
/// took the owner away left a number that may or may not be the slope.
fn check_owned(object: &InMemDicomObject, part: &InMemDicomObject) -> Result<(), Refusal> {
    let orphan = |tag: Tag| {
        part.get(tag).is_some() && owner_of(part, tag.element() >> 8).is_none_or(|o| o.is_empty())
    };
    let of_philips = || {
        let maker = text(object, tags::MANUFACTURER).unwrap_or_default();
        maker.to_ascii_lowercase().contains("philips")
    };
    for (tag, name) in [(SLOPE, SLOPE_NAME), (SEQUENCE, SEQUENCE_NAME)] {
        if orphan(tag) && of_philips() {
            return Err(Refusal::Attribute(name));
        }
    }
    Ok(())
}
