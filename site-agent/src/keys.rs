//! The key that a site signs with, made there and never leaving it. That for TLS is every member's:
//! [`fedpaint_proto::renewal`].

use fedpaint_proto::enrolment::Keys;
use fedpaint_proto::renewal::TlsKey;
use rcgen::{KeyPair, SigningKey};

/// The key that a site signs with, Ed25519.
pub struct SiteKey(KeyPair);

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
