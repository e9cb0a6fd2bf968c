//! A sequence inside a value that the parser left alone because it did not know what it was. It is
//! looked over as a file is before the parser sees it.

use std::io::Cursor;

use dicom_dictionary_std::tags;
use dicom_object::{InMemDicomObject, from_reader};

use crate::data::dicom::nesting;
use crate::data::dicom::refusal::Refusal;
use crate::data::dicom::tags::items as items_of;

/// The file meta group of a file in Implicit VR Little Endian: its own length and the transfer syntax.
const META: &[u8; 38] = b"\x02\0\0\0UL\x04\0\x1a\0\0\0\x02\0\x10\0UI\x12\x001.2.840.10008.1.2\0";

/// A tag that the dictionary knows to be a sequence, whose items are read as they come.
const SEQUENCE: [u8; 4] = [0x08, 0x00, 0x40, 0x11];

/// The items whose bytes are `raw`, in Implicit VR Little Endian as a value of unknown representation
/// is (PS3.5 6.2.2).
///
/// # Errors
/// [`Refusal::DataSet`] if they are no items.
pub(super) fn items(raw: &[u8]) -> Result<Vec<InMemDicomObject>, Refusal> {
    let length = u32::try_from(raw.len()).map_err(|_| Refusal::DataSet)?;
    let file = [&[0; 128][..], b"DICM", META, &SEQUENCE, &length.to_le_bytes(), raw].concat();
    nesting::check(Cursor::new(&file), file.len() as u64)?;
    let object = from_reader(file.as_slice()).map_err(|_| Refusal::DataSet)?;
    Ok(items_of(&object, tags::REFERENCED_IMAGE_SEQUENCE).to_vec())
}
