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

    /// A request to join, with the proof that it holds the keys.
    pub(crate) fn asks(&self, secret: &[u8; 32]) -> JoinRequest {
        let (site, keys) = ("mayo".parse::<SiteName>().unwrap(), self.keys());
        let proof = keys.proof_message(&site, &Digest::of(secret));
        JoinRequest {
            name: site.to_string(),
            secret: secret.to_vec(),
            csr: self.tls.csr.clone(),
            signing_key: keys.signing.to_vec(),
            proof: self.signing.sign(&proof).unwrap(),
            wire_version: WIRE_VERSION,
        }
    }
}
