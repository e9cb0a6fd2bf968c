//! PURE: whether every weight of a model file is a finite number, told of its bytes as they pass.
//!
//! What comes over the network is hashed on its way and need not be read again to look at its weights. The bytes
//! behind the header are taken for f32 numbers, whatever the header says: of a file of other numbers the answer
//! means nothing.

use super::PREFIX_BYTES;

/// The bytes of an f32 number.
const WORD_BYTES: usize = size_of::<f32>();

/// All ones where a number is infinite or none.
const EXPONENT: u32 = 0x7f80_0000;

/// What has passed of a file, from its first byte on.
#[derive(Clone, Debug)]
pub struct Passing {
    /// The header's length, as far as it has come.
    prefix: Vec<u8>,
    /// Bytes of the header that are still to come, once its length has.
    header: u64,
    /// The number that has come in part.
    word: Vec<u8>,
    are_finite: bool,
}

impl Default for Passing {
    fn default() -> Passing {
        Passing { prefix: Vec::new(), header: 0, word: Vec::new(), are_finite: true }
    }
}

impl Passing {
    /// Looks at the next bytes.
    pub fn see(&mut self, mut bytes: &[u8]) {
        let prefix = PREFIX_BYTES as usize;
        if self.prefix.len() < prefix {
            let taken = take(&mut bytes, prefix - self.prefix.len());
            self.prefix.extend_from_slice(taken);
            if let Some(length) = self.prefix.first_chunk() {
                self.header = u64::from_le_bytes(*length);
            }
        }
        let header = usize::try_from(self.header).unwrap_or(usize::MAX);
        self.header -= take(&mut bytes, header).len() as u64;
        if !self.word.is_empty() {
            self.word.extend_from_slice(take(&mut bytes, WORD_BYTES - self.word.len()));
            if let Some(word) = self.word.first_chunk() {
                self.are_finite &= is_finite(*word);
                self.word.clear();
            }
        }
        let (words, rest) = bytes.as_chunks();
        // Without a branch per number, so that the compiler makes vectors of it.
        self.are_finite &= words.iter().fold(true, |finite, word| finite & is_finite(*word));
        self.word.extend_from_slice(rest);
    }

    /// Whether all that has passed is a header and finite numbers.
    pub fn are_finite(&self) -> bool {
        let is_whole = self.prefix.len() == PREFIX_BYTES as usize && self.header == 0;
        is_whole && self.word.is_empty() && self.are_finite
    }
}

fn is_finite(word: [u8; WORD_BYTES]) -> bool {
    u32::from_le_bytes(word) & EXPONENT != EXPONENT
}

/// The first of the bytes, so many or all that there are, which the others are left of.
fn take<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(bytes.len().min(most));
    *bytes = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of these numbers behind a header of so many bytes.
    fn file(header: usize, values: &[f32]) -> Vec<u8> {
        let mut bytes = (header as u64).to_le_bytes().to_vec();
        bytes.resize(bytes.len() + header, 0xff);
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    fn passed(bytes: &[u8], piece: usize) -> bool {
        let mut passing = Passing::default();
        bytes.chunks(piece).for_each(|piece| passing.see(piece));
        passing.are_finite()
    }

    #[test]
    fn in_whatever_pieces_a_file_comes_one_number_that_is_not_finite_is_found_wherever_it_lies() {
        let finite = [0.0, -0.0, 1.5, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-42, -7.0, 3.0];
        for header in [0, 1, 3, 8, 77] {
            for piece in [1, 2, 3, 5, 18, 1_000] {
                assert!(passed(&file(header, &finite), piece), "{header} {piece}");
                for at in 0..finite.len() {
                    for wrong in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                        let mut values = finite;
                        values[at] = wrong;
                        assert!(!passed(&file(header, &values), piece), "{header} {piece} {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_ends_within_its_header_or_a_number_is_not_said_to_be_finite() {
        let bytes = file(16, &[1.0, 2.0]);
        for end in 0..bytes.len() {
            let is_whole = end >= 24 && end % 4 == 0;
            assert_eq!(passed(&bytes[..end], 7), is_whole, "{end}");
        }
        assert!(!passed(&u64::MAX.to_le_bytes(), 3));
    }
}
