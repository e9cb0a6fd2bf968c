//! Signatures: Ed25519 by keys that the federation's root has certified.
//!
//! A signing certificate names its holder by the same URI as the one for TLS and is good for signing
//! alone, so that neither can be used as the other. It travels with every signature; whoever checks one
//! needs the root and nothing else, on the day or years later.

mod authority;
pub mod bytes;
mod known;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

pub use self::authority::{Authority, Holder};
use crate::identity::{self, Identity, Role, Validity};
use crate::names::FederationName;
use crate::{credential, tls, v1};

/// What a signing certificate is good for, as the OID of RFC 9336, `id-kp-documentSigning`.
pub const PURPOSE: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 36];

/// The same in DER.
const PURPOSE_DER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 36];

/// The bytes of an Ed25519 signature.
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// The longest certificate that is looked at.
pub const CERTIFICATE_BYTES_MAX: usize = 8 << 10;

/// Why something cannot be signed, or a signature does not count.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file does not open or is not PEM of the right kind.
    #[error("cannot read the {what} from {}: {source}", path.display())]
    Read {
        /// Which file.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The private key does not read, or others may read it.
    #[error(transparent)]
    KeyFile(#[from] tls::Error),
    /// The private key is none, or another certificate's.
    #[error("{} is not the Ed25519 key of its certificate; `fedctl ca issue` makes both", path.display())]
    Key {
        /// Where.
        path: PathBuf,
    },
    /// A certificate that came is another's, or for another key.
    #[error("the signing certificate that came is not for this holder and this key")]
    NotOurs,
    /// None came.
    #[error("the coordinator gives no signing certificate for this key; its log says why")]
    NotGiven,
    /// A certificate cannot be written.
    #[error("cannot write the signing certificate {}: {source}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The root cannot verify anything.
    #[error("the federation's root cannot verify signatures")]
    Root,
    /// The signer's certificate names nobody.
    #[error("the signer's certificate: {0}")]
    Identity(#[from] identity::Error),
    /// The signer's certificate is not to be believed.
    #[error("the signer's certificate is not one of this federation's for signing: {0}")]
    Certificate(String),
    /// The signer is of another federation.
    #[error("the signer {0} is not of this federation")]
    Federation(Identity),
    /// What was signed is about another federation.
    #[error("what was signed is about federation {0}")]
    Foreign(FederationName),
    /// Somebody signed who may not.
    #[error("{found} signed what only a {must} may sign")]
    Signer {
        /// Who it was.
        found: Role,
        /// Who it must be.
        must: &'static str,
    },
    /// The signature is not one of these bytes.
    #[error("the signature of {0} is not over this")]
    Forged(Role),
    /// The bytes are not an Ed25519 signature.
    #[error("a signature has 64 bytes, this one has {0}")]
    Length(usize),
}

/// Where a signing certificate and its key lie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningFiles {
    /// PEM: the certificate, `NAME.signing.pem`.
    pub certificate: PathBuf,
    /// PEM: its private key, `NAME.signing.key`.
    pub key: PathBuf,
}

impl SigningFiles {
    /// The same files, those with relative paths taken from `folder`.
    pub fn relative_to(&self, folder: &Path) -> SigningFiles {
        SigningFiles { certificate: folder.join(&self.certificate), key: folder.join(&self.key) }
    }

    /// Reads both.
    ///
    /// # Errors
    /// If one does not read or they do not fit together.
    pub fn load(&self) -> Result<Signer, Error> {
        let path = || self.certificate.clone();
        let chain = certificates(CertificateDer::pem_file_iter(&self.certificate));
        let chain =
            chain.map_err(|source| Error::Read { what: CERTIFICATE, path: path(), source })?;
        self.signer(&chain)
    }

    /// Puts another certificate of the same holder and key into the place of the one that is there, with
    /// those between it and the root, PEM. It must be one that counts `now`.
    ///
    /// # Errors
    /// If it is none, another's or for another key, under no root that is trusted here, or the disk fails;
    /// then what was there is there still.
    pub fn recertify(
        &self,
        pem: &str,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<Signer, Error> {
        let held = self.load()?;
        let chain = certificates(Ok(CertificateDer::pem_slice_iter(pem.as_bytes())));
        let next = chain.ok().and_then(|chain| self.signer(&chain).ok());
        let next = next.filter(|next| next.identity == held.identity).ok_or(Error::NotOurs)?;
        authority.holder(next.certificate(), now)?;
        let path = || self.certificate.clone();
        credential::write_certificate(&self.certificate, pem)
            .map_err(|source| Error::Write { path: path(), source })?;
        Ok(next)
    }

    /// The holder of the key that is there, by `chain`.
    fn signer(&self, chain: &[CertificateDer<'_>]) -> Result<Signer, Error> {
        let path = || self.key.clone();
        let pem = tls::key_pem(&self.key)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|source| Error::Read { what: "signing key", path: path(), source })?;
        Signer::new(chain, &key).map_err(|_| Error::Key { path: path() })
    }
}

/// What people are told that a signing certificate is.
const CERTIFICATE: &str = "signing certificate";

/// All certificates of a PEM text, or why it has a part that is none.
fn certificates(
    found: Result<impl Iterator<Item = Result<CertificateDer<'static>, pem::Error>>, pem::Error>,
) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    found?.collect()
}

/// Who signs: a private key and its certificate. Its `Debug` shows no key.
pub struct Signer {
    key: Ed25519KeyPair,
    /// One certificate after the other.
    chain: Vec<u8>,
    identity: Identity,
    validity: Validity,
}

impl Signer {
    /// A signer, by its certificate and those between it and the root.
    ///
    /// # Errors
    /// If the certificate names nobody or the key is not its own.
    pub fn new(
        chain: &[CertificateDer<'_>],
        key: &PrivatePkcs8KeyDer<'_>,
    ) -> Result<Signer, Error> {
        let wrong = || Error::Certificate("its key is another's".into());
        let certificate = chain.first().ok_or_else(wrong)?;
        let identity = Identity::from_certificate(certificate)?;
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der());
        let key = key.map_err(|_| wrong())?;
        let bytes = chain.iter().flat_map(|one| one.iter().copied()).collect();
        let holder = Holder::of(identity.role.clone(), certificate)?;
        let signer = Signer { key, chain: bytes, identity, validity: holder.validity };
        holder.check(PROBE, &signer.sign(PROBE)).map_err(|_| wrong())?;
        Ok(signer)
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificate and those between it and the root, one after the other, as they travel with the
    /// signatures.
    pub fn certificate(&self) -> &[u8] {
        &self.chain
    }

    /// From when to when the certificate is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Signs bytes that say what they are ([`bytes::Bytes`]).
    pub fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.key.sign(message).as_ref());
        Signature(signature)
    }
}

/// Signed once to see that key and certificate belong together.
const PROBE: &[u8] = b"fedpaint/probe/v1";

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; SIGNATURE_BYTES]);

impl Signature {
    /// The signature that has these bytes.
    pub(crate) fn of_bytes(bytes: [u8; SIGNATURE_BYTES]) -> Signature {
        Signature(bytes)
    }

    /// The signature as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Signature {
    type Error = Error;
    fn try_from(bytes: &[u8]) -> Result<Signature, Error> {
        bytes.try_into().map(Signature).map_err(|_| Error::Length(bytes.len()))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", BASE64_STANDARD.encode(self.0))
    }
}

/// What can be signed.
pub trait Statement {
    /// Itself as bytes that no other statement has.
    fn to_bytes(&self) -> Vec<u8>;
}

/// A statement and who vouches for it, not yet believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed<S> {
    /// What is said.
    pub statement: S,
    /// Over [`Statement::to_bytes`].
    #[serde(with = "signature_text")]
    pub signature: Signature,
    /// The signer's certificate and those between it and the root, as DER, one after the other.
    #[serde(with = "base64_text")]
    pub certificate: Vec<u8>,
}

impl<S: Statement> Signed<S> {
    /// Signs a statement.
    pub fn by(signer: &Signer, statement: S) -> Signed<S> {
        let signature = signer.sign(&statement.to_bytes());
        Signed { statement, signature, certificate: signer.certificate().to_vec() }
    }

    /// Who signed it, by a certificate that held at `at`.
    ///
    /// # Errors
    /// If nobody of this federation did.
    pub fn signer(&self, authority: &Authority, at: Timestamp) -> Result<Holder, Error> {
        let holder = authority.holder(&self.certificate, at)?;
        holder.check(&self.statement.to_bytes(), &self.signature)?;
        Ok(holder)
    }

    /// That the coordinator signed it, by a certificate that held at `at`.
    ///
    /// # Errors
    /// If it did not.
    pub fn by_coordinator(&self, authority: &Authority, at: Timestamp) -> Result<Holder, Error> {
        let holder = self.signer(authority, at)?;
        match holder.role {
            Role::Coordinator(_) => Ok(holder),
            found => Err(Error::Signer { found, must: "coordinator" }),
        }
    }
}

impl<S> Signed<S> {
    /// The signature as it travels, beside what it is over.
    pub fn signature_to_wire(&self) -> v1::Signature {
        let (signature, certificate) =
            (self.signature.as_bytes().to_vec(), self.certificate.clone());
        v1::Signature { signature, certificate }
    }

    /// A statement, with a signature that travelled and is not yet believed.
    ///
    /// # Errors
    /// If there is none, or it is not as long as one.
    pub fn from_wire(
        statement: S,
        signature: Option<v1::Signature>,
    ) -> Result<Signed<S>, Malformed> {
        let v1::Signature { signature, certificate } = signature.ok_or(Malformed("signature"))?;
        let signature = Signature::try_from(&signature[..]).map_err(|_| Malformed("signature"))?;
        Ok(Signed { statement, signature, certificate })
    }
}

/// A signature that came without what it is over: the other side says it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unbound {
    signature: Signature,
    certificate: Vec<u8>,
}

impl Unbound {
    /// A signature that travelled.
    ///
    /// # Errors
    /// If it is not as long as one.
    pub fn from_wire(signature: v1::Signature) -> Result<Unbound, Malformed> {
        let Signed { signature, certificate, .. } = Signed::from_wire((), Some(signature))?;
        Ok(Unbound { signature, certificate })
    }

    /// The signature as one over `statement`, not yet believed.
    pub fn over<S>(self, statement: S) -> Signed<S> {
        Signed { statement, signature: self.signature, certificate: self.certificate }
    }
}

/// A part of a signed message is not there, or is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has no {0} that could be one")]
pub struct Malformed(pub &'static str);

/// Bytes as base64 in a text.
mod base64_text {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64_STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A signature as base64 in a text.
pub(crate) mod signature_text {
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    use super::{Signature, base64_text};

    pub(crate) fn serialize<S: Serializer>(bytes: &Signature, to: S) -> Result<S::Ok, S::Error> {
        base64_text::serialize(bytes.as_bytes(), to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Signature, D::Error> {
        Signature::try_from(&base64_text::deserialize(from)?[..]).map_err(D::Error::custom)
    }
}
