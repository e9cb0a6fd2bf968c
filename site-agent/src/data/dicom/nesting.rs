//! Looks over a data set before the parser does: no element may claim more bytes than the file has,
//! and no sequence may be nested deeper than any real one is.
//!
//! The parser allocates what an element claims and calls itself for each level of nesting, so a file
//! of a few kilobytes could otherwise take gigabytes or the stack. It never keeps a value.

use std::io::{BufRead, ErrorKind, Read, Seek, SeekFrom};

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags, uids};

use crate::data::dicom::refusal::Refusal;

/// Levels of sequences: Enhanced MR has 4, structured reports somewhat more.
const DEPTH_MAX: usize = 32;

/// Elements of one file: an Enhanced file has about 200 for each of thousands of frames.
const ELEMENTS_MAX: usize = 8_000_000;

/// Retired, and still found in archives.
const EXPLICIT_VR_BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";

/// A length that only a delimiter ends.
const UNDEFINED: u32 = u32::MAX;

const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

/// Bytes of one of the numbers of a representation (PS3.5 6.2).
fn unit(vr: Option<VR>) -> u32 {
    match vr {
        Some(VR::OW | VR::SS | VR::US) => 2,
        Some(VR::AT | VR::FL | VR::OF | VR::OL | VR::SL | VR::UL) => 4,
        Some(VR::FD | VR::OD | VR::OV | VR::SV | VR::UV) => 8,
        _ => 1,
    }
}

/// How the elements of a level are written.
#[derive(Clone, Copy, PartialEq)]
struct Encoding {
    big_endian: bool,
    implicit: bool,
}

/// A sequence or an item that is being read.
struct Level {
    /// Where it ends, or none if a delimiter ends it.
    end: Option<u64>,
    encoding: Encoding,
}

/// How many of the `bytes` bytes of a file can be given to the parser: what comes after compressed pixels
/// is not looked at.
///
/// # Errors
/// [`Refusal::DataSet`] if it cannot; [`Refusal::Truncated`] if everything in front of the pixels can;
/// [`Refusal::Io`].
pub(super) fn check(input: impl BufRead + Seek, bytes: u64) -> Result<u64, Refusal> {
    let mut scan = Scan { input, position: 0, bytes };
    match scan.run() {
        Ok(()) => Ok(scan.position),
        Err(Refusal::Io(ErrorKind::UnexpectedEof)) => Err(Refusal::DataSet),
        Err(refusal) => Err(refusal),
    }
}

/// The transfer syntax that the file meta group names.
///
/// # Errors
/// [`Refusal::DataSet`] if it names none; [`Refusal::Io`].
pub(super) fn transfer_syntax(input: impl BufRead + Seek, bytes: u64) -> Result<String, Refusal> {
    let mut scan = Scan { input, position: 0, bytes };
    match scan.skip(132).and_then(|()| scan.meta()) {
        Ok(syntax) if !syntax.is_empty() => Ok(syntax),
        Ok(_) | Err(Refusal::Io(ErrorKind::UnexpectedEof)) => Err(Refusal::DataSet),
        Err(refusal) => Err(refusal),
    }
}

struct Scan<R> {
    input: R,
    position: u64,
    bytes: u64,
}

/// The head of an element.
struct Head {
    tag: Tag,
    vr: Option<VR>,
    length: u32,
}

impl<R: BufRead + Seek> Scan<R> {
    fn run(&mut self) -> Result<(), Refusal> {
        self.skip(132)?;
        let explicit = Encoding { big_endian: false, implicit: false };
        let encoding = match self.meta()?.as_str() {
            uids::IMPLICIT_VR_LITTLE_ENDIAN => Encoding { implicit: true, ..explicit },
            EXPLICIT_VR_BIG_ENDIAN => Encoding { big_endian: true, ..explicit },
            _ => explicit,
        };
        let mut levels: Vec<Level> = vec![Level { end: Some(self.bytes), encoding }];
        for _ in 0..ELEMENTS_MAX {
            while levels.last().is_some_and(|level| level.end.is_some_and(|e| self.position >= e)) {
                levels.pop();
            }
            let Some(level) = levels.last() else { return Ok(()) };
            let encoding = level.encoding;
            let head = self.head(encoding)?;
            match head.tag {
                ITEM_END | SEQUENCE_END => {
                    if levels.len() > 1 {
                        levels.pop();
                    }
                    continue;
                }
                // Encapsulated pixels: fragments, each of its own length, up to a delimiter.
                tags::PIXEL_DATA if head.length == UNDEFINED && levels.len() == 1 => {
                    return self.fragments(encoding);
                }
                _ => {}
            }
            let defined = (head.length != UNDEFINED).then_some(u64::from(head.length));
            let end = defined.map(|length| self.position + length);
            if end.is_some_and(|end| end > self.bytes) {
                return Err(if head.tag == tags::PIXEL_DATA && levels.len() == 1 {
                    let found = (self.bytes - self.position) as usize;
                    Refusal::Truncated { expected: head.length as usize, found }
                } else {
                    Refusal::DataSet
                });
            }
            // The parser reads whole numbers alone and would take the rest for the next element. Nothing
            // comes after pixels.
            let is_last = head.tag == tags::PIXEL_DATA && levels.len() == 1;
            if !is_last && end.is_some() && head.length % unit(head.vr) != 0 {
                return Err(Refusal::DataSet);
            }
            let is_sequence = head.vr == Some(VR::SQ) || head.tag == ITEM;
            if is_sequence || end.is_none() {
                // UN of undefined length holds a sequence in Implicit VR (PS3.5 6.2.2).
                let implicit = encoding.implicit || head.vr == Some(VR::UN);
                levels.push(Level { end, encoding: Encoding { implicit, ..encoding } });
                if levels.len() > 2 * DEPTH_MAX {
                    return Err(Refusal::DataSet);
                }
            } else {
                self.skip(u64::from(head.length))?;
            }
        }
        Err(Refusal::DataSet)
    }

    /// Reads the file meta group; the transfer syntax of the rest.
    fn meta(&mut self) -> Result<String, Refusal> {
        let explicit = Encoding { big_endian: false, implicit: false };
        let mut syntax = String::new();
        while self.position < self.bytes {
            if self.peek_group()? != 2 {
                break;
            }
            let head = self.head(explicit)?;
            if u64::from(head.length) > self.bytes - self.position {
                return Err(Refusal::DataSet);
            }
            if head.tag == tags::TRANSFER_SYNTAX_UID && head.length <= 64 {
                let mut raw = vec![0; head.length as usize];
                self.read(&mut raw)?;
                syntax = String::from_utf8_lossy(&raw).trim_end_matches(['\0', ' ']).to_string();
            } else {
                self.skip(u64::from(head.length))?;
            }
        }
        Ok(syntax)
    }

    fn fragments(&mut self, encoding: Encoding) -> Result<(), Refusal> {
        while self.position < self.bytes {
            let head = self.head(encoding)?;
            // After anything else the parser would go on, amid pixels or behind them.
            match head.tag {
                ITEM => {}
                SEQUENCE_END => return Ok(()),
                _ => return Err(Refusal::DataSet),
            }
            let found = self.bytes - self.position;
            if u64::from(head.length) > found {
                let (expected, found) = (head.length as usize, found as usize);
                return Err(Refusal::Truncated { expected, found });
            }
            self.skip(u64::from(head.length))?;
        }
        Ok(())
    }

    /// Reads tag, value representation and length (PS3.5 7.1).
    fn head(&mut self, encoding: Encoding) -> Result<Head, Refusal> {
        let tag = Tag(self.u16(encoding)?, self.u16(encoding)?);
        if tag.group() == 0xFFFE {
            let length = self.u32(encoding)?;
            // A delimiter has no value (PS3.5 7.5.2).
            let is_sound = tag == ITEM || length == 0;
            return if is_sound {
                Ok(Head { tag, vr: None, length })
            } else {
                Err(Refusal::DataSet)
            };
        }
        if encoding.implicit {
            let vr = StandardDataDictionary.by_tag(tag).map(|entry| entry.vr().relaxed());
            return Ok(Head { tag, vr, length: self.u32(encoding)? });
        }
        let mut name = [0; 2];
        self.read(&mut name)?;
        let long = [
            b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT",
            b"UV",
        ];
        let vr = VR::from_binary(name);
        // The parser reads an unknown representation as UN, which has a long length.
        let length = if vr.is_none() || long.contains(&&name) {
            self.u16(encoding)?;
            self.u32(encoding)?
        } else {
            u32::from(self.u16(encoding)?)
        };
        Ok(Head { tag, vr, length })
    }

    fn peek_group(&mut self) -> Result<u16, Refusal> {
        let seen = self.input.fill_buf()?;
        Ok(if seen.len() >= 2 { u16::from_le_bytes([seen[0], seen[1]]) } else { 0 })
    }

    fn u16(&mut self, encoding: Encoding) -> Result<u16, Refusal> {
        let mut raw = [0; 2];
        self.read(&mut raw)?;
        Ok(if encoding.big_endian { u16::from_be_bytes(raw) } else { u16::from_le_bytes(raw) })
    }

    fn u32(&mut self, encoding: Encoding) -> Result<u32, Refusal> {
        let mut raw = [0; 4];
        self.read(&mut raw)?;
        Ok(if encoding.big_endian { u32::from_be_bytes(raw) } else { u32::from_le_bytes(raw) })
    }

    fn read(&mut self, raw: &mut [u8]) -> Result<(), Refusal> {
        self.input.read_exact(raw)?;
        self.position += raw.len() as u64;
        Ok(())
    }

    /// Passes over bytes, through the buffer where they are few.
    fn skip(&mut self, count: u64) -> Result<(), Refusal> {
        self.position += count;
        if count < 4096 {
            std::io::copy(&mut self.input.by_ref().take(count), &mut std::io::sink())?;
        } else {
            self.input.seek(SeekFrom::Start(self.position))?;
        }
        Ok(())
    }
}
