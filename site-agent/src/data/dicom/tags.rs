//! Values out of a DICOM data set, checked at the door. It never says what a value was.

use dicom_core::Tag;
use dicom_object::InMemDicomObject;

use crate::data::dicom::limits::TEXT_BYTES_MAX;

/// A text without its padding, unless it is empty or absurdly long.
pub(super) fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let text = object.get(tag)?.to_str().ok()?;
    let text = text.trim_matches([' ', '\0']);
    (!text.is_empty() && text.len() <= TEXT_BYTES_MAX).then(|| text.to_string())
}

/// The values of a coded attribute, upper case.
pub(super) fn codes(object: &InMemDicomObject, tag: Tag) -> Vec<String> {
    let all = text(object, tag).unwrap_or_default().to_ascii_uppercase();
    all.split('\\').map(|code| code.trim().to_string()).filter(|code| !code.is_empty()).collect()
}

/// The first of the numbers of an attribute, if it is finite.
pub(super) fn number(object: &InMemDicomObject, tag: Tag) -> Option<f64> {
    let numbers = object.get(tag)?.to_multi_float64().ok()?;
    numbers.first().copied().filter(|number| number.is_finite())
}

/// Exactly `N` finite numbers.
pub(super) fn numbers<const N: usize>(object: &InMemDicomObject, tag: Tag) -> Option<[f64; N]> {
    let numbers = object.get(tag)?.to_multi_float64().ok()?;
    let numbers: [f64; N] = numbers.try_into().ok()?;
    numbers.iter().all(|number| number.is_finite()).then_some(numbers)
}

/// A whole number that is not negative.
pub(super) fn integer(object: &InMemDicomObject, tag: Tag) -> Option<usize> {
    object.get(tag)?.to_int::<u32>().ok().map(|number| number as usize)
}

/// The items of a sequence.
pub(super) fn items(object: &InMemDicomObject, tag: Tag) -> &[InMemDicomObject] {
    object.get(tag).and_then(|element| element.items()).unwrap_or_default()
}

/// The first item of a sequence.
pub(super) fn item(object: &InMemDicomObject, tag: Tag) -> Option<&InMemDicomObject> {
    items(object, tag).first()
}
