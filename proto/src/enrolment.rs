//! What a site and the coordinator must agree on while the site has no certificate yet: the join token,
//! the words that people compare, and what the site signs.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::identity::KeyId;
use crate::names::{Digest, SiteName};

/// The application protocol (ALPN) by which the service for strangers is asked for; the others are not
/// there under it.
pub const ALPN: &[u8] = b"fedpaint-join/1";

/// Bytes of a token's secret.
pub const SECRET_BYTES: usize = 32;

/// The longest certificate request, DER.
pub const CSR_BYTES_MAX: usize = 4 << 10;

/// The longest message to the service for strangers.
pub const JOIN_BYTES_MAX: usize = 16 << 10;

/// The first part of every token.
const PREFIX: &str = "fedjoin1";

/// The words of a fingerprint; each tells two bytes.
const WORDS: usize = 6;

/// SHA-256 of a public key, as DER: by it a site knows the root that it was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

/// What an operator hands to a site, once: which site it is, by which root it knows the coordinator, and
/// a secret. Without `Debug`, so that no log shows the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The site it is for.
    pub site: SiteName,
    /// The root's key.
    pub root: Pin,
    /// Known to who made the token and who was given it; the coordinator holds a digest of it.
    pub secret: [u8; SECRET_BYTES],
}

/// The text is not a join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "that is not a join token: it is one line, `fedjoin1.SITE.….…`, as `fedctl site invite` prints it"
)]
pub struct NotAToken;

impl Pin {
    /// The pin of a public key, as DER (`SubjectPublicKeyInfo`).
    pub fn of_public_key(spki: &[u8]) -> Pin {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki);
        let mut pin = [0; 32];
        pin.copy_from_slice(digest.as_ref());
        Pin(pin)
    }
}

impl Token {
    /// What the coordinator holds of the secret.
    pub fn secret_digest(&self) -> Digest {
        Digest::of(&self.secret)
    }
}

impl FromStr for Token {
    type Err = NotAToken;
    fn from_str(text: &str) -> Result<Token, NotAToken> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [PREFIX, site, root, secret] = parts[..] else { return Err(NotAToken) };
        let bytes =
            |text: &str| -> Option<[u8; 32]> { URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok() };
        Ok(Token {
            site: site.parse().map_err(|_| NotAToken)?,
            root: Pin(bytes(root).ok_or(NotAToken)?),
            secret: bytes(secret).ok_or(NotAToken)?,
        })
    }
}

impl fmt::Display for Token {
    /// The token itself, secret and all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [root, secret] = [self.root.0, self.secret].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        write!(f, "{PREFIX}.{}.{root}.{secret}", self.site)
    }
}

/// The keys of a site that asks to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Of the certificate that it asks for.
    pub tls: KeyId,
    /// Ed25519: what it will sign with.
    pub signing: [u8; 32],
}

impl Keys {
    /// What both ends show, six words that people read to each other: 96 bits of a digest of the site's
    /// name and both keys, each word two bytes as a proquint (arXiv 0901.4016).
    pub fn words(&self, site: &SiteName) -> String {
        let digest = self.digest("fedpaint/join-words/v1", site);
        let words = digest.as_bytes().chunks_exact(2).take(WORDS);
        words
            .map(|two| proquint(u16::from_be_bytes([two[0], two[1]])))
            .collect::<Vec<_>>()
            .join("-")
    }

    /// What the signing key signs, to prove that whoever holds the token holds it too.
    pub fn proof_message(&self, site: &SiteName, secret: &Digest) -> Vec<u8> {
        let digest = self.digest("fedpaint/join-proof/v1", site);
        [&digest.as_bytes()[..], secret.as_bytes()].concat()
    }

    fn digest(&self, domain: &str, site: &SiteName) -> Digest {
        // The two texts end with a byte that is in neither, and what follows has one length.
        let text = format!("{domain}\0{site}\0{}", self.tls);
        Digest::of(&[text.as_bytes(), &self.signing].concat())
    }
}

/// Two bytes as a word that can be said: consonant, vowel, consonant, vowel, consonant.
fn proquint(value: u16) -> String {
    const CONSONANTS: &[u8; 16] = b"bdfghjklmnprstvz";
    const VOWELS: &[u8; 4] = b"aiou";
    let consonant = |shift: u16| CONSONANTS[usize::from(value >> shift & 15)] as char;
    let vowel = |shift: u16| VOWELS[usize::from(value >> shift & 3)] as char;
    [consonant(12), vowel(10), consonant(6), vowel(4), consonant(0)].iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            site: "mayo".parse().unwrap(),
            root: Pin::of_public_key(b"key"),
            secret: [7; SECRET_BYTES],
        }
    }

    #[test]
    fn a_token_is_its_text_and_nothing_else_is_a_token() {
        let text = token().to_string();
        assert!(text.starts_with("fedjoin1.mayo.") && text.len() == 14 + 43 + 1 + 43, "{text}");
        assert!(format!(" {text}\n").parse::<Token>().ok() == Some(token()));
        for bad in [
            "",
            "fedjoin2.mayo.a.b",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}A"),
            &format!("{text}.x"),
            &text.replace("mayo", "Mayo"),
        ] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }

    #[test]
    fn words_are_those_of_the_published_examples_and_tell_keys_and_sites_apart() {
        // 127.0.0.1 and 63.84.220.193, from the proquint paper.
        let spoken = [0x7f00, 0x0001, 0x3f54, 0xdcc1].map(proquint);
        assert_eq!(spoken, ["lusab", "babad", "gutih", "tugad"]);
        let keys = |tls: &str, signing| Keys { tls: KeyId::of_public_key(tls.as_bytes()), signing };
        let (mayo, oslo) = ("mayo".parse().unwrap(), "oslo".parse().unwrap());
        let words = [
            keys("a", [1; 32]).words(&mayo),
            keys("b", [1; 32]).words(&mayo),
            keys("a", [2; 32]).words(&mayo),
            keys("a", [1; 32]).words(&oslo),
        ];
        assert!(words.iter().all(|words| words.len() == 35), "{words:?}");
        let mut apart = words.to_vec();
        apart.sort();
        apart.dedup();
        assert_eq!(apart.len(), 4, "{words:?}");
    }
}
