//! TLS 1.3 with a certificate on both ends; no tickets, no session store.
//!
//! Without resumption every connection proves its certificate anew, so that a refused certificate
//! cannot come back on an old session.

mod joining;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

pub use self::joining::joining;
use crate::enrolment::{self, Pin};
use crate::passphrase;

/// The one application protocol: HTTP/2.
const ALPN: &[u8] = b"h2";

/// The longest file of a private key.
const KEY_BYTES_MAX: u64 = 64 << 10;

/// The longest name of an issuer that is repeated to people.
const ISSUER_CHARS_MAX: usize = 200;

/// Where one end's certificate, its key and the federation's root lie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// PEM: the federation's root certificate.
    pub ca: PathBuf,
    /// PEM: this end's certificate, then any between it and the root.
    pub certificate: PathBuf,
    /// PEM: the certificate's private key.
    pub key: PathBuf,
}

/// Why TLS cannot be set up.
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
    /// A file holds no certificate.
    #[error("{} holds no certificate", path.display())]
    Empty {
        /// Where.
        path: PathBuf,
    },
    /// The build promises FIPS-approved cryptography, and something is not.
    #[error(
        "this build has the feature `fips`, and TLS would use what FIPS 140-3 does not approve"
    )]
    NotApproved,
    /// A private key is encrypted, and with another passphrase.
    #[error("cannot use the private key {}: {source}", path.display())]
    Passphrase {
        /// The key.
        path: PathBuf,
        /// Why.
        source: passphrase::Error,
    },
    /// Others than its owner may read a private key.
    #[error(
        "{} may be read by others than its owner (mode {mode:o}): run `chmod 600` on it, and ask for a \
         new certificate if others were there",
        path.display()
    )]
    Exposed {
        /// The key.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Root, certificate and key do not fit together.
    #[error("the certificate in {}, its key and the root do not fit together: {source}", path.display())]
    Mismatch {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The root cannot verify clients.
    #[error("the root in {} cannot verify certificates: {reason}", path.display())]
    Root {
        /// The root.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Has the last word on a certificate that is under the root and valid now: `false` refuses it in the
/// handshake, as revoked.
pub type Judge = Arc<dyn Fn(&CertificateDer<'_>) -> bool + Send + Sync>;

/// The SHA-256 of a certificate's public key; none if it does not parse.
pub fn pin(certificate: &[u8]) -> Option<Pin> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(Pin::of_public_key(certificate.public_key().raw))
}

struct Material {
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl TlsFiles {
    /// The same files, those with relative paths taken from `folder`.
    pub fn relative_to(&self, folder: &Path) -> TlsFiles {
        TlsFiles {
            ca: folder.join(&self.ca),
            certificate: folder.join(&self.certificate),
            key: folder.join(&self.key),
        }
    }

    /// This end's own certificate.
    ///
    /// # Errors
    /// If the file does not hold one.
    pub fn own_certificate(&self) -> Result<CertificateDer<'static>, Error> {
        let chain = certificates("certificate", &self.certificate)?;
        chain.into_iter().next().ok_or_else(|| Error::Empty { path: self.certificate.clone() })
    }

    /// The federation's roots: two while one takes over from the other.
    ///
    /// # Errors
    /// If the file does not hold one.
    pub fn roots(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        certificates("root certificate", &self.ca)
    }

    fn load(&self) -> Result<Material, Error> {
        let mut roots = RootCertStore::empty();
        for root in self.roots()? {
            roots
                .add(root)
                .map_err(|e| Error::Root { path: self.ca.clone(), reason: e.to_string() })?;
        }
        let chain = certificates("certificate", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem(&self.key)?.as_bytes());
        let key = key.map_err(|source| Error::Read {
            what: "private key",
            path: self.key.clone(),
            source,
        })?;
        Ok(Material { roots, chain, key })
    }

    /// The coordinator's end: takes no connection without a certificate under the root that `judge`
    /// takes too.
    ///
    /// # Errors
    /// If a file is missing, malformed, or does not fit the others.
    pub fn server(&self, judge: Judge) -> Result<Arc<ServerConfig>, Error> {
        let Material { roots, chain, key } = self.load()?;
        let own = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|e| Error::Root { path: self.ca.clone(), reason: e.to_string() })?;
        let verifier = Arc::new(JudgedVerifier { own, judge });
        let mismatch = |source| Error::Mismatch { path: self.certificate.clone(), source };
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(mismatch)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(mismatch)?;
        approved(config.fips())?;
        Ok(without_resumption(config, ALPN))
    }

    /// The coordinator's end for who has no certificate yet. `root` is shown with the chain, because a
    /// site that joins knows it by a digest alone.
    ///
    /// # Errors
    /// If a file is missing, malformed, or does not fit the others.
    pub fn strangers(&self, root: &CertificateDer<'static>) -> Result<Arc<ServerConfig>, Error> {
        let Material { mut chain, key, .. } = self.load()?;
        chain.push(root.clone());
        let mismatch = |source| Error::Mismatch { path: self.certificate.clone(), source };
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(mismatch)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(mismatch)?;
        approved(config.fips())?;
        Ok(without_resumption(config, enrolment::ALPN))
    }

    /// A site's or an operator's end: trusts the federation's root alone.
    ///
    /// # Errors
    /// If a file is missing, malformed, or does not fit the others.
    pub fn client(&self) -> Result<Arc<ClientConfig>, Error> {
        let Material { roots, chain, key } = self.load()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|e| Error::Root { path: self.ca.clone(), reason: e.to_string() })?;
        let mismatch = |source| Error::Mismatch { path: self.certificate.clone(), source };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(mismatch)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier(verifier)))
            .with_client_auth_cert(chain, key)
            .map_err(mismatch)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        approved(config.fips())?;
        Ok(Arc::new(config))
    }
}

/// Refuses what is not FIPS-approved, in a build that promises it.
fn approved(fips: bool) -> Result<(), Error> {
    match cfg!(feature = "fips") && !fips {
        true => Err(Error::NotApproved),
        false => Ok(()),
    }
}

/// No tickets, no session store, no early data: every connection proves its certificate anew.
fn without_resumption(mut config: ServerConfig, protocol: &[u8]) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![protocol.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// rustls's own verifier, with the judge behind it.
struct JudgedVerifier {
    own: Arc<dyn ClientCertVerifier>,
    judge: Judge,
}

impl fmt::Debug for JudgedVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JudgedVerifier").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for JudgedVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.own.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.own.verify_client_cert(end_entity, intermediates, now)?;
        match (self.judge)(end_entity) {
            true => Ok(verified),
            false => Err(CertificateError::Revoked.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.own.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.own.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.own.supported_verify_schemes()
    }
}

/// rustls's own verifier, which names whose certificate it refuses: between a hospital and the world
/// there may be a proxy that opens TLS, and only its name tells the people there what to do.
#[derive(Debug)]
struct Verifier(Arc<WebPkiServerVerifier>);

/// The certificate at the other end is under another root than the federation's.
#[derive(Debug, thiserror::Error)]
#[error(
    "it was issued by {issuer:?} and not by the federation's root: if that is a proxy that opens TLS, \
     have it leave this connection alone"
)]
struct ForeignIssuer {
    issuer: String,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Verifier(own) = self;
        let verified =
            own.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|error| match error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                let foreign = ForeignIssuer { issuer: issuer_of(end_entity) };
                CertificateError::Other(OtherError(Arc::new(foreign))).into()
            }
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The issuer as a certificate that nobody vouches for writes it: for people, and for nothing else.
fn issuer_of(certificate: &CertificateDer<'_>) -> String {
    let parsed = X509Certificate::from_der(certificate);
    let issuer = parsed.map_or("nobody".into(), |(_, parsed)| parsed.issuer().to_string());
    issuer.chars().filter(|c| !c.is_control()).take(ISSUER_CHARS_MAX).collect()
}

/// What TLS, certificates and signatures are computed by, for logs and people: asked of the module itself.
pub fn cryptography() -> &'static str {
    match provider().fips() {
        true => "AWS-LC's FIPS module",
        false => "AWS-LC",
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A private key, PEM, from a file that nobody but its owner may read; decrypted, where it is encrypted.
///
/// # Errors
/// If it does not read, or others may read it too.
pub fn key_pem(path: &Path) -> Result<String, Error> {
    let read = |source| Error::Read {
        what: "private key",
        path: path.to_owned(),
        source: pem::Error::Io(source),
    };
    let mut file = File::open(path).map_err(read)?;
    let mode = file.metadata().map_err(read)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.to_owned(), mode: mode & 0o777 });
    }
    let mut text = String::new();
    file.by_ref().take(KEY_BYTES_MAX).read_to_string(&mut text).map_err(read)?;
    passphrase::open(text).map_err(|source| Error::Passphrase { path: path.to_owned(), source })
}

/// The certificates in a PEM file, which `what` names.
///
/// # Errors
/// If it does not read or holds none.
pub fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = |source| Error::Read { what, path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(read)?;
    if chain.is_empty() {
        return Err(Error::Empty { path: path.to_owned() });
    }
    Ok(chain)
}
