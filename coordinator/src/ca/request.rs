//! What is taken from a certificate request: its public key, and nothing else.
//!
//! A request may name anybody, ask to be an authority or to last for a century; none of it is looked at.

use fedpaint_proto::enrolment::CSR_BYTES_MAX;
use fedpaint_proto::identity::KeyId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// What the DER of every ECDSA P-256 key begins with: the algorithm, the curve, and a point that is not
/// compressed (RFC 5480).
const P256_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// Bytes of the DER of an ECDSA P-256 key.
const P256_BYTES: usize = P256_PREFIX.len() + 64;

/// An ECDSA P-256 public key whose holder has shown to have the private one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is too long.
    #[error("a certificate request may have {CSR_BYTES_MAX} bytes at most (CSR_BYTES_MAX)")]
    TooLong,
    /// It does not parse.
    #[error("the certificate request does not parse: it must be PKCS #10, DER")]
    Malformed,
    /// The key in it is of another kind.
    #[error("the key of a certificate request must be ECDSA P-256")]
    Key,
    /// It is not signed by the key in it.
    #[error("the certificate request is not signed by its own key")]
    Signature,
}

impl PublicKey {
    /// The key in a request, PKCS #10 as DER, which must be signed by it.
    ///
    /// # Errors
    /// If it is too long, does not parse, has a key of another kind, or is not signed by it.
    pub fn of_request(der: &[u8]) -> Result<PublicKey, Error> {
        if der.len() > CSR_BYTES_MAX {
            return Err(Error::TooLong);
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| Error::Malformed)?;
        if !rest.is_empty() {
            return Err(Error::Malformed);
        }
        let key = PublicKey::of_der(request.certification_request_info.subject_pki.raw)?;
        request.verify_signature().map_err(|_| Error::Signature)?;
        Ok(key)
    }

    /// A key that was taken from a request before.
    ///
    /// # Errors
    /// If it is of another kind.
    pub fn of_der(spki: &[u8]) -> Result<PublicKey, Error> {
        match spki.starts_with(&P256_PREFIX) && spki.len() == P256_BYTES {
            true => Ok(PublicKey(spki.to_vec())),
            false => Err(Error::Key),
        }
    }

    /// The key as DER, `SubjectPublicKeyInfo`.
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// The key's name.
    pub fn id(&self) -> KeyId {
        KeyId::of_public_key(&self.0)
    }
}
