//! Signatures: Ed25519 by keys that the federation's root has certified.
//!
//! A signing certificate names its holder by the same URI as the one for TLS and is good for signing
//! alone, so that neither can be used as the other. It travels with every signature; whoever checks one
//! needs the root and nothing else, on the day or years later.

pub mod bytes;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{self, Identity, Role, Validity};
use crate::names::FederationName;
use crate::{tls, v1};

/// What a signing certificate is good for, as the OID of RFC 9336, `id-kp-documentSigning`.
pub const PURPOSE: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 36];

/// The same in DER.
const PURPOSE_DER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 36];

/// The bytes of an Ed25519 signature.
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// The longest certificate that is looked at.
pub const CERTIFICATE_BYTES_MAX: usize = 8 << 10;

/// The most certificates there may be from a signer to the root, which is not one of them.
const CHAIN_MAX: usize = 3;

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
        let read = |what, path: &PathBuf| {
            let path = path.clone();
            move |source| Error::Read { what, path, source }
        };
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(|chain| chain.collect::<Result<Vec<_>, _>>())
            .map_err(read("signing certificate", &self.certificate))?;
        let pem = tls::key_pem(&self.key)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(read("signing key", &self.key))?;
        let wrong = || Error::Key { path: self.key.clone() };
        Signer::new(&chain, &key).map_err(|_| wrong())
    }
}

/// Who signs: a private key and its certificate. Its `Debug` shows no key.
pub struct Signer {
    key: Ed25519KeyPair,
    /// One certificate after the other.
    chain: Vec<u8>,
    identity: Identity,
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
        let signer = Signer { key, chain: bytes, identity };
        let holder = Holder {
            role: signer.identity.role.clone(),
            validity: Validity::of_certificate(certificate)?,
            certificate: certificate.clone().into_owned(),
        };
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

/// A federation's root, and so whose signatures count in it.
#[derive(Clone, Debug)]
pub struct Authority {
    federation: FederationName,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Authority {
    /// The authority of a federation's root certificates, as PEM at `path`.
    ///
    /// # Errors
    /// If the file holds no certificate that can be a root.
    pub fn load(federation: FederationName, path: &Path) -> Result<Authority, Error> {
        let read = |source| Error::Read { what: "root certificate", path: path.into(), source };
        let roots = CertificateDer::pem_file_iter(path)
            .and_then(|roots| roots.collect::<Result<Vec<_>, _>>())
            .map_err(read)?;
        Authority::new(federation, &roots)
    }

    /// The authority of a federation's root certificates.
    ///
    /// # Errors
    /// If there is none, or one that cannot be a root.
    pub fn new(
        federation: FederationName,
        roots: &[CertificateDer<'_>],
    ) -> Result<Authority, Error> {
        let anchor = |root| webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned());
        let anchors: Result<Vec<_>, _> = roots.iter().map(anchor).collect();
        let anchors = anchors.ok().filter(|anchors| !anchors.is_empty()).ok_or(Error::Root)?;
        Ok(Authority { federation, anchors })
    }

    /// The federation.
    pub fn federation(&self) -> &FederationName {
        &self.federation
    }

    /// The holder of a signing certificate that holds at `at`.
    ///
    /// # Errors
    /// If the root has not issued it for signing, it did not hold then, or it names nobody here.
    pub fn holder(&self, certificate: &[u8], at: Timestamp) -> Result<Holder, Error> {
        let wrong = |what: &dyn fmt::Display| Error::Certificate(what.to_string());
        if certificate.len() > CERTIFICATE_BYTES_MAX {
            return Err(wrong(&"it is too long"));
        }
        let chain = split(certificate);
        let [own, between @ ..] = &chain[..] else { return Err(wrong(&"there is none")) };
        let identity = Identity::from_certificate(own)?;
        if identity.federation != self.federation {
            return Err(Error::Federation(identity));
        }
        let seconds = u64::try_from(at.as_second()).map_err(|_| wrong(&"before all time"))?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        // An authority between the root and the signer says nothing of purposes, the signer must.
        if !is_for_signing(own) {
            return Err(wrong(&"it is for another purpose"));
        }
        let usage = KeyUsage::required_if_present(PURPOSE_DER);
        EndEntityCert::try_from(own)
            .and_then(|end| {
                let algorithms = webpki::ALL_VERIFICATION_ALGS;
                let anchors = &self.anchors;
                end.verify_for_usage(algorithms, anchors, between, at, usage, None, None).map(drop)
            })
            .map_err(|error| wrong(&error))?;
        let validity = Validity::of_certificate(own)?;
        Ok(Holder { role: identity.role, validity, certificate: own.clone().into_owned() })
    }
}

/// Whether a certificate is for signing and nothing else.
fn is_for_signing(certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let usage = certificate.extended_key_usage().ok().flatten();
    usage.is_some_and(|usage| match &usage.value.other[..] {
        [one] => one.as_bytes() == PURPOSE_DER && !usage.value.any,
        _ => false,
    })
}

/// Certificates that stand one after the other; what is none ends them.
fn split(mut bytes: &[u8]) -> Vec<CertificateDer<'_>> {
    let mut chain = Vec::new();
    while chain.len() < CHAIN_MAX
        && let Ok((rest, _)) = X509Certificate::from_der(bytes)
    {
        let (one, rest) = bytes.split_at(bytes.len() - rest.len());
        chain.push(CertificateDer::from(one));
        bytes = rest;
    }
    chain
}

/// The holder of a certificate that was believed.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Who it is.
    pub role: Role,
    /// When the certificate holds.
    pub validity: Validity,
    certificate: CertificateDer<'static>,
}

impl Holder {
    /// Whether this is the holder's public key.
    pub fn has_key(&self, key: &[u8; 32]) -> bool {
        X509Certificate::from_der(&self.certificate).is_ok_and(|(_, certificate)| {
            certificate.public_key().subject_public_key.data.as_ref() == key
        })
    }

    /// That the holder signed `message`.
    ///
    /// # Errors
    /// If it did not.
    pub fn check(&self, message: &[u8], signature: &Signature) -> Result<(), Error> {
        let checked = EndEntityCert::try_from(&self.certificate).and_then(|end| {
            end.verify_signature(webpki::aws_lc_rs::ED25519, message, signature.as_bytes())
        });
        checked.map_err(|_| Error::Forged(self.role.clone()))
    }
}

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
