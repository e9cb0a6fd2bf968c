//! Keys that are made at the site and never leave it, and the requests for certificates for them.

use fedpaint_proto::enrolment::Keys;
use fedpaint_proto::identity::KeyId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SigningKey};

/// A key for TLS, ECDSA P-256, and the request for a certificate for it.
pub struct TlsKey {
    /// The private key, PKCS #8 as PEM.
    pub key_pem: String,
    /// The request, PKCS #10 as DER; it names nobody, because the coordinator decides what is in a
    /// certificate.
    pub csr: Vec<u8>,
    /// The key's name.
    pub id: KeyId,
}

/// The key that a site signs with, Ed25519.
pub struct SiteKey(KeyPair);

impl TlsKey {
    /// Makes a key.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn fresh() -> Result<TlsKey, rcgen::Error> {
        TlsKey::of(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
    }

    /// A key that was made before.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn of_pem(pem: &str) -> Result<TlsKey, rcgen::Error> {
        TlsKey::of(&KeyPair::from_pem(pem)?)
    }

    fn of(key: &KeyPair) -> Result<TlsKey, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(TlsKey {
            key_pem: key.serialize_pem(),
            csr: params.serialize_request(key)?.der().to_vec(),
            id: KeyId::of_public_key(&key.subject_public_key_info()),
        })
    }
}

impl SiteKey {
    /// Makes a key.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn fresh() -> Result<SiteKey, rcgen::Error> {
        KeyPair::generate_for(&rcgen::PKCS_ED25519).map(SiteKey)
    }

    /// A key that was made before, PKCS #8 as PEM.
    ///
    /// # Errors
    /// If it does not parse, or is of another kind.
    pub fn of_pem(pem: &str) -> Result<SiteKey, rcgen::Error> {
        let key = KeyPair::from_pem(pem)?;
        match key.algorithm() == &rcgen::PKCS_ED25519 {
            true => Ok(SiteKey(key)),
            false => Err(rcgen::Error::UnsupportedSignatureAlgorithm),
        }
    }

    /// The private key, PKCS #8 as PEM.
    pub fn key_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The public key, 32 bytes.
    ///
    /// # Errors
    /// Never in practice: every Ed25519 key has 32 bytes.
    pub fn public(&self) -> Result<[u8; 32], rcgen::Error> {
        self.0.public_key_raw().try_into().map_err(|_| rcgen::Error::KeyGenerationUnavailable)
    }

    /// Both keys, as the coordinator will know them.
    ///
    /// # Errors
    /// As [`SiteKey::public`].
    pub fn with(&self, tls: &TlsKey) -> Result<Keys, rcgen::Error> {
        Ok(Keys { tls: tls.id, signing: self.public()? })
    }

    /// Signs a message.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}
