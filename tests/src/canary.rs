//! A secret that is planted where a site keeps its own, and looked for wherever something may leave it: as it
//! is, and as it would look on its way.

use blake3::hash;

/// The characters that HTTP/2's header compression gives five bits (RFC 7541, appendix B), with their codes.
const FIVE_BITS: [(char, u8); 10] = [
    ('0', 0),
    ('1', 1),
    ('2', 2),
    ('a', 3),
    ('c', 4),
    ('e', 5),
    ('i', 6),
    ('o', 7),
    ('s', 8),
    ('t', 9),
];

/// A secret text.
#[derive(Clone, Debug)]
pub struct Canary {
    /// What it stands for.
    pub what: &'static str,
    text: String,
}

impl Canary {
    /// A canary; of the letters `a c e i o s t 0 1 2` it is found in compressed headers too.
    pub fn new(what: &'static str, text: &str) -> Canary {
        Canary { what, text: text.to_owned() }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The ways in which it is looked for.
    fn forms(&self) -> Vec<(&'static str, Vec<u8>)> {
        let text = self.text.as_str();
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        let digest = hash(text.as_bytes());
        let mut forms = vec![
            ("itself", text.as_bytes().to_vec()),
            ("UTF-16", wide),
            ("hexadecimal", hex.into_bytes()),
            ("its digest", digest.as_bytes().to_vec()),
            ("its digest as text", digest.to_hex().as_bytes().to_vec()),
        ];
        forms.extend((0..8).filter_map(|shift| Some(("compressed", self.compressed(shift)?))));
        forms
    }

    /// The bytes that are wholly the text's own where HTTP/2 compresses it from bit `shift` of a byte on.
    fn compressed(&self, shift: usize) -> Option<Vec<u8>> {
        let code = |c: char| FIVE_BITS.iter().find(|(of, _)| *of == c).map(|(_, code)| *code);
        let codes: Option<Vec<u8>> = self.text.chars().map(code).collect();
        let bits = codes?.into_iter().flat_map(|code| (0..5).rev().map(move |bit| code >> bit & 1));
        // The first byte may begin with another text's bits.
        let bits: Vec<u8> = bits.skip((8 - shift) % 8).collect();
        let bytes =
            bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |made, bit| made << 1 | bit));
        Some(bytes.collect())
    }

    /// In which form `bytes` hold it, if they do. Case is not looked at.
    pub fn found_in(&self, bytes: &[u8]) -> Option<&'static str> {
        let lower = bytes.to_ascii_lowercase();
        let found = self.forms().into_iter().find(|(form, needle)| {
            let needle =
                if *form == "itself" { needle.to_ascii_lowercase() } else { needle.clone() };
            let hay = if *form == "itself" { &lower } else { bytes };
            contains(hay, &needle)
        });
        found.map(|(form, _)| form)
    }
}

/// Whether `hay` holds `needle`.
fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let mut left = hay;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = &left[at + 1..];
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_found_in_every_form_and_not_where_it_is_not() {
        let canary = Canary::new("a name", "ostacio2tacit1");
        for (form, bytes) in canary.forms() {
            let padded = [b"\x07before", &bytes[..], b"after\xff"].concat();
            assert_eq!(canary.found_in(&padded), Some(form));
        }
        assert_eq!(canary.found_in(b"its OSTACIO2tacit1 here"), Some("itself"));
        assert_eq!(canary.found_in(b"ostacio2tacit and no more"), None);
        assert_eq!(canary.found_in(b""), None);
    }

    #[test]
    fn a_compressed_canary_is_found_at_any_bit() {
        // `302` is an example of RFC 7541, C.6.1, where five bits of `0` and `2` are seen: 6402.
        let canary = Canary::new("a name", "ostacio2tacit1");
        let code = |c: char| FIVE_BITS.iter().find(|(of, _)| *of == c).unwrap().1;
        let bits: Vec<u8> = canary
            .text()
            .chars()
            .flat_map(|c| (0..5).rev().map(move |b| code(c) >> b & 1))
            .collect();
        for before in 0..8 {
            let mut all = vec![1; before];
            all.extend(&bits);
            all.resize(all.len().next_multiple_of(8), 1);
            let bytes: Vec<u8> = all
                .chunks(8)
                .map(|byte| byte.iter().fold(0, |made, bit| made << 1 | bit))
                .collect();
            assert_eq!(canary.found_in(&bytes), Some("compressed"), "{before}");
        }
        // `302`: 6 bits of `3`, then `0` and `2`.
        let redirect = Canary::new("a code", "02").compressed(6).unwrap();
        assert_eq!(redirect, [0x02]);
    }
}
