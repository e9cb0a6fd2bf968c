//! Which transfer syntaxes are read: a table. The codecs are those that need no C++.

use crate::data::dicom::refusal::Refusal;

/// Syntaxes whose pixels are read: uncompressed, RLE, and JPEG with 8 bits or without loss.
const READ: [&str; 8] = [
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
];

/// Syntaxes that are refused by name (PS3.6 table A-1).
const REFUSED: [(&str, &str); 16] = [
    ("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed Explicit VR Little Endian"),
    ("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian"),
    ("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless"),
    ("1.2.840.10008.1.2.4.81", "JPEG-LS Near-Lossless"),
    ("1.2.840.10008.1.2.4.90", "JPEG 2000 Lossless"),
    ("1.2.840.10008.1.2.4.91", "JPEG 2000"),
    ("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2 Lossless"),
    ("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2"),
    ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level"),
    ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile / Level 4.1"),
    ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
    ("1.2.840.10008.1.2.4.112", "JPEG XL"),
    ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Lossless"),
    ("1.2.840.10008.1.2.4.202", "High-Throughput JPEG 2000 with RPCL Lossless"),
    ("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000"),
    ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression"),
];

/// Whether files of this transfer syntax are read.
///
/// # Errors
/// [`Refusal::Syntax`] for one that is known, [`Refusal::UnknownSyntax`] for any other.
pub(super) fn check(uid: &str) -> Result<(), Refusal> {
    let uid = uid.trim_end_matches([' ', '\0']);
    if READ.contains(&uid) {
        return Ok(());
    }
    let known = REFUSED.iter().find(|(refused, _)| *refused == uid);
    Err(known.map_or(Refusal::UnknownSyntax, |&(uid, name)| Refusal::Syntax { name, uid }))
}
