//! A member's next certificate: a fresh key, over the connection that the old certificate made. Whoever
//! signs keeps the key for that, which what it has signed is judged by, and is given a certificate for it
//! by the authority as it is now.
//!
//! What the coordinator answers is looked at before anything is replaced, so that a member is never left
//! with a certificate that is not its own.

use std::io;

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::channel;
use crate::credential;
use crate::identity::{Identity, KeyId, Validity};
use crate::limits::CALL_TIMEOUT;
use crate::signing::{self, Authority, SigningFiles};
use crate::tls::{self, TlsFiles};
use crate::v1::RenewRequest;
use crate::v1::identity_service_client::IdentityServiceClient;

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

/// Why a certificate is not renewed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cryptographic library fails.
    #[error("cannot make a key: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The certificate that is there cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The coordinator refuses, or does not answer.
    #[error("the coordinator refuses: {}", channel::told(.0))]
    Refused(Box<Status>),
    /// What came is another's certificate, or none.
    #[error("the coordinator sent a certificate that is not for this holder and this key")]
    NotOurs,
    /// The new certificate cannot be written.
    #[error("cannot write the certificate: {0}")]
    Write(#[from] io::Error),
}

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

/// What became of a renewal.
#[derive(Debug)]
pub struct Renewed {
    /// When the certificate for TLS that is there now is valid.
    pub validity: Validity,
    /// Why the signing certificate is the one from before, where there is one.
    pub unsigned: Option<signing::Error>,
}

/// Renews the certificate in `files` with this key, by a connection that was made with it, and replaces it and
/// its key; and the certificate in `signing`, for the key that is there. Where another process has replaced the
/// first meanwhile, theirs stays. What fails is tried again with the same key, so that the coordinator need not
/// remember one for each try.
///
/// # Errors
/// If the coordinator refuses or does not answer, or the disk fails; then the old pair is good still.
pub async fn renew(
    channel: Channel,
    files: &TlsFiles,
    key: &TlsKey,
    signing: Option<(&SigningFiles, Timestamp)>,
) -> Result<Renewed, Error> {
    let held = files.own_certificate()?;
    let signer = signing.map(|(signing, _)| signing.load());
    let shown = signer.as_ref().and_then(|signer| signer.as_ref().ok());
    let signing_certificate = shown.map_or_else(Vec::new, |held| held.certificate().to_vec());
    let mut request = Request::new(RenewRequest { csr: key.csr.clone(), signing_certificate });
    request.set_timeout(CALL_TIMEOUT);
    let renewed = IdentityServiceClient::new(channel).renew(request).await;
    let renewed = renewed.map_err(|status| Error::Refused(Box::new(status)))?.into_inner();
    let validity = fits(&renewed.certificate_pem, &key.id, &held).ok_or(Error::NotOurs)?;
    // Before the pair: whoever dies in between renews again, and is given both. One that cannot be had keeps
    // nobody from the other, without which there is no connection.
    let unsigned = match (signing, signer) {
        (Some((signing, now)), Some(Ok(_))) => {
            resign(files, signing, &renewed.signing_certificate_pem, &held, now).err()
        }
        (_, Some(Err(error))) => Some(error),
        _ => None,
    };
    let place = credential::hold(files)?;
    place.settle()?;
    let found = files.own_certificate()?;
    if found != held {
        let validity = Validity::of_certificate(&found).map_err(|_| Error::NotOurs)?;
        return Ok(Renewed { validity, unsigned });
    }
    place.replace(&renewed.certificate_pem, &key.key_pem)?;
    Ok(Renewed { validity, unsigned })
}

/// Replaces the signing certificate by the one that came, if it counts by the roots that are trusted here.
fn resign(
    files: &TlsFiles,
    signing: &SigningFiles,
    pem: &str,
    held: &[u8],
    now: Timestamp,
) -> Result<(), signing::Error> {
    if pem.is_empty() {
        return Err(signing::Error::NotGiven);
    }
    let federation = Identity::from_certificate(held)?.federation;
    let authority = Authority::load(federation, &files.ca)?;
    signing.recertify(pem, &authority, now).map(drop)
}

/// When a certificate is valid, if it is for this key and whoever holds the certificate `held`.
fn fits(pem: &str, key: &KeyId, held: &[u8]) -> Option<Validity> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let ours = KeyId::of_certificate(&der).ok()? == *key
        && Identity::from_certificate(&der).ok()? == Identity::from_certificate(held).ok()?;
    ours.then(|| Validity::of_certificate(&der).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedIssuer, SanType};

    use super::*;

    #[test]
    fn only_a_certificate_of_the_same_holder_and_for_the_fresh_key_is_taken() {
        let issuer = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(CertificateParams::default(), issuer).unwrap();
        let certificate = |uri: &str, key: &KeyPair| {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
            params.signed_by(key, &issuer).unwrap()
        };
        let (ada, eve) = ("spiffe://brain/operator/ada", "spiffe://brain/operator/eve");
        let (old, fresh) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let held = certificate(ada, &old);
        let id = TlsKey::of(&fresh).unwrap().id;
        let taken = |pem: &str| fits(pem, &id, held.der()).is_some();
        assert!(taken(&certificate(ada, &fresh).pem()));
        assert!(!taken(&certificate(ada, &old).pem()), "the old key");
        assert!(!taken(&certificate(eve, &fresh).pem()), "another holder");
        assert!(!taken(&fresh.serialize_pem()) && !taken(""), "no certificate");
    }
}
