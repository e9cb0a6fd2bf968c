//! The authority that the coordinator issues certificates with, under the federation's root, which it
//! never holds.

use std::path::PathBuf;
use std::time::Duration;

use fedpaint_proto::enrolment::Pin;
use fedpaint_proto::identity::Role;
use fedpaint_proto::names::FederationName;
use fedpaint_proto::tls::{self, TlsFiles};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ca::{self, Issued, PublicKey, Validity};
use crate::config::Issuing;

/// What issues certificates.
pub(crate) struct Issuer {
    authority: Issued,
    /// Its certificate.
    certificate: CertificateDer<'static>,
    /// How long a certificate lasts of whoever renews it by itself.
    leaf: Duration,
    /// How long an operator's does.
    operator: Duration,
    /// When the authority ends.
    pub(crate) until: Timestamp,
    /// The root that it is under.
    pub(crate) root: CertificateDer<'static>,
    /// By which a site knows that root.
    pub(crate) pin: Pin,
    /// Every root that the coordinator trusts, PEM.
    pub(crate) roots_pem: String,
}

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file does not read.
    #[error("cannot read the {what} from {}: {source}; see `[issuing]` in the config", path.display())]
    Read {
        /// Which file.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The files are not an authority's.
    #[error("{}: {source}; see `[issuing]` in the config", path.display())]
    Authority {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: ca::Error,
    },
    /// The authority is another federation's.
    #[error("{} issues for federation {found}, not for {expected}", path.display())]
    Federation {
        /// The certificate.
        path: PathBuf,
        /// Whose it is.
        found: FederationName,
        /// Whose it must be.
        expected: FederationName,
    },
    /// None of the roots vouches for it.
    #[error("{} is under none of the roots in {}", path.display(), roots.display())]
    NotUnderRoot {
        /// The certificate.
        path: PathBuf,
        /// The roots.
        roots: PathBuf,
    },
    /// A root or a key does not read.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

impl Issuer {
    /// Reads the authority, which must be `federation`'s and under a root of `tls`.
    ///
    /// # Errors
    /// If a file does not read, or they do not fit together.
    pub(crate) fn load(
        issuing: &Issuing,
        tls: &TlsFiles,
        federation: &FederationName,
    ) -> Result<Issuer, Error> {
        let path = || issuing.certificate.clone();
        let read = |what, path: &PathBuf| {
            let text = std::fs::read_to_string(path);
            text.map_err(|source| Error::Read { what, path: path.clone(), source })
        };
        let authority = Issued {
            certificate_pem: read("issuing certificate", &issuing.certificate)?,
            key_pem: tls::key_pem(&issuing.key)?,
        };
        let wrong = |source| Error::Authority { path: path(), source };
        let (found, until) = ca::inspect(&authority).map_err(wrong)?;
        if found != *federation {
            let expected = federation.clone();
            return Err(Error::Federation { path: path(), found, expected });
        }
        let der = tls::certificates("issuing certificate", &issuing.certificate)?;
        let roots = tls.roots()?;
        let no_root = || Error::NotUnderRoot { path: path(), roots: tls.ca.clone() };
        let certificate = der.into_iter().next().ok_or_else(no_root)?;
        let root = roots.iter().find(|root| vouches(root, &certificate));
        let root = root.ok_or_else(no_root)?.clone();
        Ok(Issuer {
            authority,
            certificate,
            leaf: Duration::from_secs(issuing.leaf_s.into()),
            operator: Duration::from_secs(issuing.operator_s.into()),
            until,
            pin: tls::pin(&root).ok_or_else(no_root)?,
            root,
            roots_pem: read("roots", &tls.ca)?,
        })
    }

    /// A certificate of `role` for a key whose private part the holder has, until `until`, with those
    /// between it and the root, PEM.
    ///
    /// # Errors
    /// If the authority ends before, or cryptography fails.
    pub(crate) fn certify(
        &self,
        role: &Role,
        key: &PublicKey,
        (now, until): (Timestamp, Timestamp),
    ) -> Result<String, ca::Error> {
        ca::certify(&self.authority, role, &[], key, Validity::until(now, until.min(self.until)))
    }

    /// The certificate by which `role` signs with an Ed25519 key, with those between it and the root, PEM. What
    /// is signed has to be believed for long, so it ends with the authority.
    ///
    /// # Errors
    /// If the authority has ended, or cryptography fails.
    pub(crate) fn certify_signing(
        &self,
        role: &Role,
        key: &[u8; 32],
        now: Timestamp,
    ) -> Result<String, ca::Error> {
        ca::certify_signing(&self.authority, role, key, Validity::until(now, self.until))
    }

    /// How long a certificate of `role` lasts that is issued `now`: not longer than the authority.
    pub(crate) fn life(&self, role: &Role, now: Timestamp) -> Duration {
        let left = Duration::try_from(now.duration_until(self.until)).unwrap_or_default();
        let life = match role {
            Role::Site(_) | Role::Coordinator(_) => self.leaf,
            Role::Operator(_) => self.operator,
        };
        life.min(left)
    }

    /// Whether it has issued this certificate, DER; what follows it does not matter.
    pub(crate) fn issued(&self, certificate: &[u8]) -> bool {
        vouches(&self.certificate, certificate)
    }

    /// The authority itself, for the coordinator's own certificate.
    pub(crate) fn authority(&self) -> &Issued {
        &self.authority
    }
}

/// Whether `root` has signed `certificate`.
fn vouches(root: &[u8], certificate: &[u8]) -> bool {
    let (Ok((_, root)), Ok((_, certificate))) =
        (X509Certificate::from_der(root), X509Certificate::from_der(certificate))
    else {
        return false;
    };
    certificate.issuer() == root.subject()
        && certificate.verify_signature(Some(root.public_key())).is_ok()
}
