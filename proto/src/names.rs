//! Names and digests: parsed once at the door, trusted inside.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name, that of a DNS label.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name or a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not a name.
    #[error(
        "{text:?} is not a {what} name: use 1 to 63 lower-case letters, digits and inner hyphens, \
         such as `mayo-rochester`"
    )]
    Name {
        /// What the name would name.
        what: &'static str,
        /// The text, cut to a length that can be shown.
        text: String,
    },
    /// The text or the bytes are not a digest.
    #[error("not a BLAKE3 digest: expected 32 bytes, or 64 hexadecimal digits")]
    Digest,
}

fn parse(what: &'static str, text: &str) -> Result<String, Error> {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    let fits = bytes.len() <= NAME_BYTES_MAX && bytes.iter().all(inner);
    if fits && edge(bytes.first()) && edge(bytes.last()) {
        return Ok(text.to_owned());
    }
    Err(Error::Name { what, text: text.chars().take(NAME_BYTES_MAX + 1).collect() })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                parse($what, text).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                parse($what, &text).map(Self)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// The federation: the trust domain of every certificate in it.
    FederationName, "federation"
}
name! {
    /// An institution that trains, such as `mayo-rochester`.
    SiteName, "site"
}
name! {
    /// A person or program that manages the federation.
    OperatorName, "operator"
}
name! {
    /// One training of one model over many rounds, such as `brain-t1`.
    RunName, "run"
}

/// The BLAKE3-256 digest of a blob: its name everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// The digest as bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, enough to tell models apart in a table.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Digest {
        Digest(*hash.as_bytes())
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = Error;
    fn try_from(bytes: &[u8]) -> Result<Digest, Error> {
        bytes.try_into().map(Digest).map_err(|_| Error::Digest)
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(text: &str) -> Result<Digest, Error> {
        // Only the form we print, so that a digest has one spelling in file names and rows.
        if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(Error::Digest);
        }
        blake3::Hash::from_hex(text).map(Digest::from).map_err(|_| Error::Digest)
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;
    fn try_from(text: String) -> Result<Digest, Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A blob by what it is: its digest and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Blob {
    /// BLAKE3-256 of the bytes.
    pub digest: Digest,
    /// The number of bytes.
    pub size: u64,
}

impl From<Blob> for crate::v1::BlobRef {
    fn from(blob: Blob) -> Self {
        Self { digest: blob.digest.as_bytes().to_vec(), size: blob.size }
    }
}

impl TryFrom<&crate::v1::BlobRef> for Blob {
    type Error = Error;
    fn try_from(blob: &crate::v1::BlobRef) -> Result<Blob, Error> {
        Ok(Blob { digest: Digest::try_from(&blob.digest[..])?, size: blob.size })
    }
}

/// One attempt at one round of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoundId {
    /// The run.
    pub run: RunName,
    /// The round's number from 1 on; also the version of the model it makes.
    pub number: u32,
    /// From 1 on; more than 1 after the round was abandoned.
    pub attempt: u32,
}

impl fmt::Display for RoundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.run, self.number, self.attempt)
    }
}

impl From<&RoundId> for crate::v1::RoundRef {
    fn from(id: &RoundId) -> Self {
        Self { run: id.run.to_string(), number: id.number, attempt: id.attempt }
    }
}

impl TryFrom<&crate::v1::RoundRef> for RoundId {
    type Error = Error;
    fn try_from(r: &crate::v1::RoundRef) -> Result<RoundId, Error> {
        Ok(RoundId { run: r.run.parse()?, number: r.number, attempt: r.attempt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label() {
        for good in ["a", "mayo", "mayo-rochester-2", "7t", &"x".repeat(63)] {
            assert_eq!(good.parse::<SiteName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "é", &"x".repeat(64)] {
            assert!(bad.parse::<SiteName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let digest = Digest::of(b"weights");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
        assert!("abc".parse::<Digest>().is_err());
        assert!(Digest::try_from(&[0_u8; 31][..]).is_err());
    }
}
