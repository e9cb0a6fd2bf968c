//! Which transfer syntaxes are read, and the names of those that are not: two tables. The codecs are
//! those that need no C++.

use crate::data::dicom::refusal::Refusal;

/// RLE, one segment for each byte of a pixel (PS3.5 annex G).
pub(super) const RLE: &str = "1.2.840.10008.1.2.5";

/// A syntax whose pixels are read.
struct Read {
    uid: &'static str,
    name: &'static str,
    /// The most bytes of a pixel that its decoder gives.
    bytes_max: usize,
}

/// Syntaxes whose pixels are read: uncompressed, RLE, and JPEG with 8 bits or without loss. JPEG
/// Extended may hold 12 bits, for which there is no decoder.
const READ: [Read; 8] = [
    Read { uid: "1.2.840.10008.1.2", name: "Implicit VR Little Endian", bytes_max: 4 },
    Read { uid: "1.2.840.10008.1.2.1", name: "Explicit VR Little Endian", bytes_max: 4 },
    Read { uid: "1.2.840.10008.1.2.2", name: "Explicit VR Big Endian", bytes_max: 4 },
    Read { uid: RLE, name: "RLE Lossless", bytes_max: 2 },
    Read { uid: "1.2.840.10008.1.2.4.50", name: "JPEG Baseline (Process 1)", bytes_max: 1 },
    Read { uid: "1.2.840.10008.1.2.4.51", name: "JPEG Extended (Process 2 and 4)", bytes_max: 1 },
    Read { uid: "1.2.840.10008.1.2.4.57", name: "JPEG Lossless (Process 14)", bytes_max: 2 },
    Read { uid: "1.2.840.10008.1.2.4.70", name: "JPEG Lossless SV1", bytes_max: 2 },
];

/// All other syntaxes of PS3.6 table A-1, retired ones too, and the one of GE's archives.
const REFUSED: [(&str, &str); 56] = [
    ("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed Explicit VR Little Endian"),
    ("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian"),
    ("1.2.840.10008.1.2.4.52", "JPEG Extended (Process 3 and 5)"),
    ("1.2.840.10008.1.2.4.53", "JPEG Spectral Selection, Non-Hierarchical (Process 6 and 8)"),
    ("1.2.840.10008.1.2.4.54", "JPEG Spectral Selection, Non-Hierarchical (Process 7 and 9)"),
    ("1.2.840.10008.1.2.4.55", "JPEG Full Progression, Non-Hierarchical (Process 10 and 12)"),
    ("1.2.840.10008.1.2.4.56", "JPEG Full Progression, Non-Hierarchical (Process 11 and 13)"),
    ("1.2.840.10008.1.2.4.58", "JPEG Lossless, Non-Hierarchical (Process 15)"),
    ("1.2.840.10008.1.2.4.59", "JPEG Extended, Hierarchical (Process 16 and 18)"),
    ("1.2.840.10008.1.2.4.60", "JPEG Extended, Hierarchical (Process 17 and 19)"),
    ("1.2.840.10008.1.2.4.61", "JPEG Spectral Selection, Hierarchical (Process 20 and 22)"),
    ("1.2.840.10008.1.2.4.62", "JPEG Spectral Selection, Hierarchical (Process 21 and 23)"),
    ("1.2.840.10008.1.2.4.63", "JPEG Full Progression, Hierarchical (Process 24 and 26)"),
    ("1.2.840.10008.1.2.4.64", "JPEG Full Progression, Hierarchical (Process 25 and 27)"),
    ("1.2.840.10008.1.2.4.65", "JPEG Lossless, Hierarchical (Process 28)"),
    ("1.2.840.10008.1.2.4.66", "JPEG Lossless, Hierarchical (Process 29)"),
    ("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless"),
    ("1.2.840.10008.1.2.4.81", "JPEG-LS Near-Lossless"),
    ("1.2.840.10008.1.2.4.90", "JPEG 2000 Lossless"),
    ("1.2.840.10008.1.2.4.91", "JPEG 2000"),
    ("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2 Lossless"),
    ("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2"),
    ("1.2.840.10008.1.2.4.94", "JPIP Referenced"),
    ("1.2.840.10008.1.2.4.95", "JPIP Referenced Deflate"),
    ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level"),
    ("1.2.840.10008.1.2.4.100.1", "Fragmentable MPEG2 Main Profile / Main Level"),
    ("1.2.840.10008.1.2.4.101", "MPEG2 Main Profile / High Level"),
    ("1.2.840.10008.1.2.4.101.1", "Fragmentable MPEG2 Main Profile / High Level"),
    ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile / Level 4.1"),
    ("1.2.840.10008.1.2.4.102.1", "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.1"),
    ("1.2.840.10008.1.2.4.103", "MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1"),
    (
        "1.2.840.10008.1.2.4.103.1",
        "Fragmentable MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
    ),
    ("1.2.840.10008.1.2.4.104", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video"),
    (
        "1.2.840.10008.1.2.4.104.1",
        "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
    ),
    ("1.2.840.10008.1.2.4.105", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video"),
    (
        "1.2.840.10008.1.2.4.105.1",
        "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
    ),
    ("1.2.840.10008.1.2.4.106", "MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2"),
    ("1.2.840.10008.1.2.4.106.1", "Fragmentable MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2"),
    ("1.2.840.10008.1.2.4.107", "HEVC/H.265 Main Profile / Level 5.1"),
    ("1.2.840.10008.1.2.4.108", "HEVC/H.265 Main 10 Profile / Level 5.1"),
    ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
    ("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression"),
    ("1.2.840.10008.1.2.4.112", "JPEG XL"),
    ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Lossless"),
    ("1.2.840.10008.1.2.4.202", "High-Throughput JPEG 2000 with RPCL Lossless"),
    ("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000"),
    ("1.2.840.10008.1.2.4.204", "JPIP HTJ2K Referenced"),
    ("1.2.840.10008.1.2.4.205", "JPIP HTJ2K Referenced Deflate"),
    ("1.2.840.10008.1.2.6.1", "RFC 2557 MIME encapsulation"),
    ("1.2.840.10008.1.2.6.2", "XML Encoding"),
    ("1.2.840.10008.1.2.7.1", "SMPTE ST 2110-20 Uncompressed Progressive Active Video"),
    ("1.2.840.10008.1.2.7.2", "SMPTE ST 2110-20 Uncompressed Interlaced Active Video"),
    ("1.2.840.10008.1.2.7.3", "SMPTE ST 2110-30 PCM Digital Audio"),
    ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression"),
    ("1.2.840.10008.1.20", "Papyrus 3 Implicit VR Little Endian"),
    ("1.2.840.113619.5.2", "GE Private Implicit VR Little Endian with Big Endian Pixels"),
];

/// Whether files of this transfer syntax are read.
///
/// # Errors
/// [`Refusal::Syntax`] for one that is known, [`Refusal::UnknownSyntax`] for any other.
pub(super) fn check(uid: &str) -> Result<(), Refusal> {
    if READ.iter().any(|read| read.uid == uid) {
        return Ok(());
    }
    let known = REFUSED.iter().find(|(refused, _)| *refused == uid);
    Err(known.map_or(Refusal::UnknownSyntax, |&(uid, name)| Refusal::Syntax { name, uid }))
}

/// Whether pixels of `bytes` bytes are read in a syntax that is.
///
/// # Errors
/// [`Refusal::SyntaxBits`] if its decoder gives fewer.
pub(super) fn check_bytes(uid: &str, bytes: usize) -> Result<(), Refusal> {
    match READ.iter().find(|read| read.uid == uid && read.bytes_max < bytes) {
        Some(&Read { uid, name, .. }) => Err(Refusal::SyntaxBits { name, uid, bits: 8 * bytes }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_syntax_is_in_one_table_once() {
        let read = READ.iter().map(|read| read.uid);
        let all: Vec<&str> = read.chain(REFUSED.iter().map(|(uid, _)| *uid)).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert!(all.iter().all(|uid| uid.len() <= 64 && !uid.ends_with('.')));
    }
}
