//! Whose signatures count: a federation's roots, and the holder of a certificate under them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::known::Known;
use super::{CERTIFICATE_BYTES_MAX, Error, PURPOSE_DER, Signature};
use crate::identity::{Identity, Role, Validity};
use crate::names::FederationName;

/// The most certificates there may be from a signer to the root, which is not one of them.
const CHAIN_MAX: usize = 3;

/// A federation's root, and so whose signatures count in it.
#[derive(Clone, Debug)]
pub struct Authority {
    federation: FederationName,
    anchors: Vec<TrustAnchor<'static>>,
    /// Whom these roots vouch for is the same for every clone.
    known: Arc<Known>,
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
        Ok(Authority { federation, anchors, known: Arc::default() })
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
        if let Some(holder) = self.known.holder(certificate, at) {
            return Ok(holder);
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
        let holder = Holder::of(identity.role, own)?;
        self.known.add(certificate, &chain, &holder);
        Ok(holder)
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
    /// The holder `role` of a certificate.
    pub(super) fn of(role: Role, certificate: &CertificateDer<'_>) -> Result<Holder, Error> {
        let validity = Validity::of_certificate(certificate)?;
        Ok(Holder { role, validity, certificate: certificate.clone().into_owned() })
    }

    /// The holder's public key; none where it is not an Ed25519 one.
    pub fn key(&self) -> Option<[u8; 32]> {
        let (_, certificate) = X509Certificate::from_der(&self.certificate).ok()?;
        certificate.public_key().subject_public_key.data.as_ref().try_into().ok()
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
