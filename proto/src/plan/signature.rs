//! Who stands behind a plan: a person's Ed25519 key, which no authority certifies and which a site names in
//! its own policy. So neither the coordinator nor the federation's root can speak for that person. A plan is
//! signed by the digest of its canonical form, for whatever run has it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::{self, PemObject};
use serde::{Deserialize, Serialize};

use super::RunPlan;
use crate::names::Digest;
use crate::signing::bytes::Bytes;
use crate::signing::{Malformed, SIGNATURE_BYTES, Signature, signature_text};
use crate::{tls, v1};

/// How a key is written: this and 64 hexadecimal digits.
const PREFIX: &str = "ed25519:";

/// A public key that plans are signed with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlanKey([u8; 32]);

/// A text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key that signs plans is `ed25519:` and 64 hexadecimal digits, as `fedctl plan keygen` writes it"
)]
pub struct NotAKey;

/// Why a plan cannot be signed with a key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not read, or others may read it.
    #[error(transparent)]
    File(#[from] tls::Error),
    /// The file is not PEM.
    #[error("cannot read the key {}: {source}", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The file is another kind of key.
    #[error("{} is no Ed25519 key; `fedctl plan keygen` makes one", path.display())]
    Kind {
        /// Which file.
        path: PathBuf,
    },
}

/// Somebody's signature over a plan, not yet believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanSignature {
    /// Whose key it is said to be by.
    pub key: PlanKey,
    /// Over the plan's digest.
    #[serde(with = "signature_text")]
    pub signature: Signature,
}

/// A plan, and who is said to stand behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedPlan {
    /// The plan.
    pub plan: RunPlan,
    /// The signature, if it has one.
    pub signature: Option<PlanSignature>,
}

impl From<RunPlan> for SignedPlan {
    fn from(plan: RunPlan) -> SignedPlan {
        SignedPlan { plan, signature: None }
    }
}

impl PlanSignature {
    /// Whether it is its key's signature over this plan.
    pub fn is_over(&self, plan: &RunPlan) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.key.0);
        key.verify(&statement(plan.digest()), self.signature.as_bytes()).is_ok()
    }

    /// The signature as it travels.
    pub fn to_wire(&self) -> v1::PlanSignature {
        let (key, signature) = (self.key.0.to_vec(), self.signature.as_bytes().to_vec());
        v1::PlanSignature { key, signature }
    }

    /// A signature that travelled.
    ///
    /// # Errors
    /// If a part of it has another length than one.
    pub fn from_wire(wire: &v1::PlanSignature) -> Result<PlanSignature, Malformed> {
        let key = wire.key[..].try_into().map_err(|_| Malformed("key"))?;
        let signature = Signature::try_from(&wire.signature[..]);
        let signature = signature.map_err(|_| Malformed("signature"))?;
        Ok(PlanSignature { key: PlanKey(key), signature })
    }
}

/// What is signed.
fn statement(plan: Digest) -> Vec<u8> {
    Bytes::of("fedpaint/plan/v1").digest(plan.as_bytes()).done()
}

/// A private key that plans are signed with. Its `Debug` shows the public one.
pub struct PlanSigner {
    pair: Ed25519KeyPair,
    key: PlanKey,
}

impl PlanSigner {
    /// Reads a key, PEM, which nobody but its owner may read.
    ///
    /// # Errors
    /// If the file does not read, others may read it, or it is another kind of key.
    pub fn load(path: &Path) -> Result<PlanSigner, Error> {
        let pem = tls::key_pem(path)?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(|source| Error::Pem { path: path.to_owned(), source })?;
        let kind = || Error::Kind { path: path.to_owned() };
        PlanSigner::new(&der).ok_or_else(kind)
    }

    /// The same of a key in memory; none if it is another kind of key.
    pub fn new(der: &PrivatePkcs8KeyDer<'_>) -> Option<PlanSigner> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).ok()?;
        let key = PlanKey(pair.public_key().as_ref().try_into().ok()?);
        Some(PlanSigner { pair, key })
    }

    /// Its public key.
    pub fn key(&self) -> PlanKey {
        self.key
    }

    /// Signs a plan.
    pub fn sign(&self, plan: &RunPlan) -> PlanSignature {
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.copy_from_slice(self.pair.sign(&statement(plan.digest())).as_ref());
        PlanSignature { key: self.key, signature: Signature::of_bytes(bytes) }
    }
}

impl fmt::Debug for PlanSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanSigner").field("key", &self.key).finish_non_exhaustive()
    }
}

impl fmt::Display for PlanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PlanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PlanKey {
    type Err = NotAKey;
    fn from_str(text: &str) -> Result<PlanKey, NotAKey> {
        let digits = text.strip_prefix(PREFIX).ok_or(NotAKey)?;
        // 32 bytes in hexadecimal digits are what a digest is too.
        digits.parse().map(|bytes: Digest| PlanKey(*bytes.as_bytes())).map_err(|_| NotAKey)
    }
}

impl TryFrom<String> for PlanKey {
    type Error = NotAKey;
    fn try_from(text: String) -> Result<PlanKey, NotAKey> {
        text.parse()
    }
}

impl From<PlanKey> for String {
    fn from(key: PlanKey) -> String {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> PlanSigner {
        #[expect(clippy::disallowed_methods, reason = "each signer has a key of its own")]
        let random = aws_lc_rs::rand::SystemRandom::new();
        let der = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        PlanSigner::new(&PrivatePkcs8KeyDer::from(der.as_ref())).unwrap()
    }

    fn plan(rounds: u32) -> RunPlan {
        RunPlan::from_toml(&format!("version = 1\nrounds = {rounds}")).unwrap()
    }

    #[test]
    fn a_signature_holds_for_its_plan_however_that_is_written_and_for_no_other_plan_or_key() {
        let (ada, bob) = (signer(), signer());
        let signed = ada.sign(&plan(3));
        assert!(signed.is_over(&plan(3)));
        let spelt_out =
            RunPlan::from_toml("rounds = 3 # as before\nversion = 1\n[round]\n").unwrap();
        assert!(signed.is_over(&spelt_out));
        assert!(!signed.is_over(&plan(4)));
        assert!(!PlanSignature { key: bob.key(), ..signed }.is_over(&plan(3)));
    }

    #[test]
    fn what_is_signed_is_the_digest_after_what_it_is() {
        let digest = plan(3).digest();
        let said = [&16_u64.to_be_bytes()[..], b"fedpaint/plan/v1", digest.as_bytes()].concat();
        assert_eq!(statement(digest), said);
    }

    #[test]
    fn keys_and_signatures_read_as_they_were_written_and_nothing_else_does() {
        let ada = signer();
        let text = ada.key().to_string();
        assert_eq!(text.parse(), Ok(ada.key()));
        assert_eq!(text.len(), PREFIX.len() + 64);
        for wrong in ["", "ed25519:", &text[1..], &text[..text.len() - 1], &format!("{text}0")] {
            assert_eq!(wrong.parse::<PlanKey>(), Err(NotAKey), "{wrong}");
        }
        let signed = ada.sign(&plan(1));
        let json = serde_json::to_string(&signed).unwrap();
        assert_eq!(serde_json::from_str::<PlanSignature>(&json).unwrap(), signed);
        assert_eq!(PlanSignature::from_wire(&signed.to_wire()), Ok(signed));
        let short = v1::PlanSignature { signature: vec![0; 63], ..signed.to_wire() };
        assert_eq!(PlanSignature::from_wire(&short), Err(Malformed("signature")));
    }
}
