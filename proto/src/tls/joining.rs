//! A site's end of a connection while it has no certificate yet: it knows the root by the digest of its
//! key, and has the other end show it.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};

use super::{approved, pin, provider};
use crate::enrolment::{ALPN, Pin};

/// Trusts the root with this key alone, and shows no certificate.
///
/// # Errors
/// If the build promises FIPS-approved cryptography and this is not; TLS 1.3 is compiled in.
pub fn joining(root: Pin) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedVerifier { root, provider: provider() }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    approved(config.fips()).map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Arc::new(config))
}

/// Takes the chain that ends in the root whose key is known by its digest.
#[derive(Debug)]
struct PinnedVerifier {
    root: Pin,
    provider: Arc<CryptoProvider>,
}

/// None of the certificates at the other end is the root that the token names.
#[derive(Debug, thiserror::Error)]
#[error(
    "the root there is not the one that the token names, so that nothing was sent and the token is as good as \
     before: is the address right, or is there a proxy that opens TLS?"
)]
struct AnotherRoot;

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let another = || CertificateError::Other(OtherError(Arc::new(AnotherRoot)));
        let root = intermediates.iter().find(|shown| pin(shown) == Some(self.root));
        let mut roots = RootCertStore::empty();
        roots.add(root.ok_or_else(another)?.clone().into_owned())?;
        let provider = Arc::clone(&self.provider);
        let own = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let own = own.map_err(|error| rustls::Error::General(error.to_string()))?;
        own.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
