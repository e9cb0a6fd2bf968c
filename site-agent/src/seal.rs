//! A record with the digest of its own bytes, so that a disk that loses bits is found out before what it gives
//! back is used.
//!
//! The digest is in the record's file, because two files can be parted by a crash, and is white space after
//! the JSON, so that whatever reads JSON reads the record as before: `fedctl`, an older agent. What an older
//! agent wrote has none, and is taken as it is; so is a record that has lost its seal to the last blank.
//! Nothing here opens a file.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value as JSON with its seal.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn sealed(what: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(what)?;
    let seal = seal_of(&bytes);
    bytes.extend(seal);
    Ok(bytes)
}

/// The value that was written; none if the bytes are others now, or are of no such value.
pub fn read<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    serde_json::from_slice(content(text)?).ok()
}

/// What was sealed, which is JSON or was never sealed; none if the bytes are others now.
pub fn content(text: &[u8]) -> Option<&[u8]> {
    let content = text.trim_ascii_end();
    let seal = &text[content.len()..];
    // An older agent ended a record with one end of a line at most. Whatever is longer is a seal, or was one.
    let is_an_older_agents = matches!(seal, b"" | b"\n");
    (is_an_older_agents || seal == seal_of(content)).then_some(content)
}

/// The digest of `content` between two ends of lines, the lowest bit of each byte first: a space for 0, a tab
/// for 1. They differ in three bits.
fn seal_of(content: &[u8]) -> Vec<u8> {
    let digest = blake3::hash(content);
    let bits = digest.as_bytes().iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1));
    let blanks = bits.map(|bit| if bit == 0 { b' ' } else { b'\t' });
    std::iter::once(b'\n').chain(blanks).chain([b'\n']).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Value = BTreeMap<String, u32>;

    fn value() -> Value {
        [("brain".to_owned(), 8)].into()
    }

    fn sealed() -> Vec<u8> {
        super::sealed(&value()).unwrap()
    }

    #[test]
    fn a_record_with_one_bit_flipped_anywhere_is_none_at_all() {
        let whole = sealed();
        assert_eq!(read(&whole), Some(value()));
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read::<Value>(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn a_record_of_an_older_agent_is_read_and_an_older_agent_reads_a_sealed_one() {
        let older = serde_json::to_vec(&value()).unwrap();
        assert_eq!(read(&older), Some(value()));
        assert_eq!(read(&[&older[..], b"\n"].concat()), Some(value()));
        assert_eq!(serde_json::from_slice::<Value>(&sealed()).unwrap(), value());
    }

    #[test]
    fn a_record_cut_off_anywhere_is_none_unless_it_is_what_an_older_agent_wrote() {
        let whole = sealed();
        let content = serde_json::to_vec_pretty(&value()).unwrap().len();
        // With no blank of the seal left these are the bytes of an older agent: nothing tells them apart.
        let older = [content, content + 1];
        for len in 0..whole.len() {
            let believed = older.contains(&len).then(value);
            assert_eq!(read(&whole[..len]), believed, "{len} of {}", whole.len());
        }
    }
}
