//! A certificate authority for tests, which also makes the certificates nobody should make.

use std::path::Path;

use fedpaint_coordinator::ca::{self, Issued};
use fedpaint_coordinator::clock::{Clock, SystemClock};
use fedpaint_proto::identity::Identity;
use fedpaint_proto::tls::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

/// A root, and what it takes to sign with it.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What is to be in a certificate.
#[derive(Clone)]
pub(crate) struct Leaf<'a> {
    pub(crate) uris: Vec<&'a str>,
    pub(crate) usage: ExtendedKeyUsagePurpose,
    /// How long from now on it holds; less than nothing for one that has expired.
    pub(crate) holds: Duration,
}

impl<'a> Leaf<'a> {
    /// An ordinary certificate of a site or an operator.
    pub(crate) fn client(uri: &'a str) -> Leaf<'a> {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        // Two days of seven are over, so that it is not to be renewed yet.
        Leaf { uris: vec![uri], usage, holds: Duration::days(5) }
    }

    /// An ordinary certificate of a coordinator on loopback.
    pub(crate) fn server(uri: &'a str) -> Leaf<'a> {
        Leaf { usage: ExtendedKeyUsagePurpose::ServerAuth, ..Leaf::client(uri) }
    }
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Whose authority it is, for a coordinator that issues with it.
        params.subject_alt_names = vec![SanType::URI("spiffe://brain".try_into().unwrap())];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer }
    }

    /// The root, as PEM.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The root, as DER.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// Writes the root and its key into `folder`, for who is to issue certificates itself.
    pub(crate) fn hand_out(&self, folder: &Path) {
        std::fs::write(folder.join("issuing.pem"), self.pem()).unwrap();
        let key = self.issuer.key().serialize_pem();
        fedpaint_proto::credential::write_key(&folder.join("issuing.key"), &key).unwrap();
    }

    /// What `uri` signs with that outlives a connection: its certificate and the key.
    pub(crate) fn issue_signing(&self, uri: &str) -> Issued {
        let key_pem = self.issuer.key().serialize_pem();
        let authority = Issued { certificate_pem: self.pem(), key_pem };
        let validity = ca::Validity::days(SystemClock.now(), 30).unwrap();
        let role = uri.parse::<Identity>().unwrap().role;
        ca::issue_signing(&authority, &role, validity).unwrap()
    }

    /// Writes a certificate, its key and the root into `folder`.
    pub(crate) fn issue(&self, folder: &Path, name: &str, leaf: &Leaf<'_>) -> TlsFiles {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        for uri in &leaf.uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
        }
        params.extended_key_usages = vec![leaf.usage.clone()];
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(2);
        params.not_after = now + leaf.holds;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = TlsFiles {
            ca: folder.join("ca.pem"),
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        };
        std::fs::write(&files.ca, self.pem()).unwrap();
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        // Again, for a name that was issued before.
        let _ = std::fs::remove_file(&files.key);
        fedpaint_proto::credential::write_key(&files.key, &key.serialize_pem()).unwrap();
        files
    }
}
