//! What is signed, as bytes: a fixed binary form in which no two statements look alike. It begins with
//! what kind of statement it is, texts and lists tell their length, numbers have eight bytes, the
//! highest first.

use jiff::Timestamp;

/// A statement under construction.
#[derive(Debug)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// A statement of a kind, such as `fedpaint/update/v1`; no kind begins with another.
    pub fn of(kind: &'static str) -> Bytes {
        Bytes(Vec::new()).text(kind)
    }

    /// Adds a text.
    pub fn text(self, text: &str) -> Bytes {
        let mut with = self.number(text.len() as u64);
        with.0.extend_from_slice(text.as_bytes());
        with
    }

    /// Adds a number.
    pub fn number(mut self, number: u64) -> Bytes {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// Adds a digest or a hash.
    pub fn digest(mut self, digest: &[u8; 32]) -> Bytes {
        self.0.extend_from_slice(digest);
        self
    }

    /// Adds a digest that need not be there.
    pub fn digest_or_none(self, digest: Option<&[u8; 32]>) -> Bytes {
        match digest {
            None => self.number(0),
            Some(digest) => self.number(1).digest(digest),
        }
    }

    /// Adds a time, in microseconds since 1970.
    pub fn time(mut self, time: Timestamp) -> Bytes {
        self.0.extend_from_slice(&time.as_microsecond().to_be_bytes());
        self
    }

    /// The bytes.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}
