//! Who asks to join, with keys of its own and no certificate yet.

use fedpaint_proto::channel::{self, Address, Route};
use fedpaint_proto::enrolment::Keys;
use fedpaint_proto::names::{Digest, SiteName};
use fedpaint_proto::renewal::TlsKey;
use fedpaint_proto::tls;
use fedpaint_proto::v1::JoinRequest;
use fedpaint_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use fedpaint_proto::wire::WIRE_VERSION;
use rcgen::{KeyPair, SigningKey};
use tonic::transport::Channel;

use crate::federation::Federation;

/// Whoever has the token of `mayo` and no certificate.
pub(crate) struct Newcomer {
    tls: TlsKey,
    signing: KeyPair,
}

impl Newcomer {
    pub(crate) fn new() -> Newcomer {
        let signing = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        Newcomer { tls: TlsKey::fresh().unwrap(), signing }
    }

    /// The way in for who has no certificate.
    pub(crate) async fn door(federation: &Federation) -> EnrolmentServiceClient<Channel> {
        let pin = tls::pin(&federation.authority.der()).unwrap();
        let address: Address = format!("https://{}", federation.address).parse().unwrap();
        let channel = channel::join_by(&Route::default(), &address, pin).await.unwrap();
        EnrolmentServiceClient::new(channel)
    }

    fn keys(&self) -> Keys {
        let signing = self.signing.public_key_raw().try_into().unwrap();
        Keys { tls: self.tls.id, signing }
    }

    /// The fingerprint of its keys.
    pub(crate) fn words(&self) -> String {
        self.keys().words(&"mayo".parse().unwrap())
    }

    /// What is to be signed to prove that it holds its keys, for a token of `site` with this secret.
    pub(crate) fn proof_message(&self, site: &str, secret: &[u8; 32]) -> Vec<u8> {
        let site: SiteName = site.parse().unwrap();
        self.keys().proof_message(&site, &Digest::of(secret))
    }

    /// Signs by its signing key.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.signing.sign(message).unwrap()
    }

    /// A request to join, with the proof that it holds its keys.
    pub(crate) fn asks(&self, secret: &[u8; 32]) -> JoinRequest {
        JoinRequest {
            name: "mayo".into(),
            secret: secret.to_vec(),
            csr: self.tls.csr.clone(),
            signing_key: self.keys().signing.to_vec(),
            proof: self.sign(&self.proof_message("mayo", secret)),
            wire_version: WIRE_VERSION,
        }
    }
}
