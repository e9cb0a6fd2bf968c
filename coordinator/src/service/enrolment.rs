//! The one service that is open to who has no certificate: whoever shows an invitation's secret is noted,
//! and given a certificate once it is approved.
//!
//! A stranger hears of every refusal the same words; the audit log tells them apart.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fedpaint_proto::enrolment::{Keys, SECRET_BYTES};
use fedpaint_proto::identity::Role;
use fedpaint_proto::names::{Digest, SiteName};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::enrolment_service_server::EnrolmentService;
use fedpaint_proto::v1::{JoinRequest, JoinResponse};
use jiff::Timestamp;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::accept::Peer;
use crate::ca::PublicKey;
use crate::driver::{Asking, Joining};
use crate::service::{Parts, parse, status};

/// How soon a site asks again whose approval is awaited.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// How many calls one address may make at once after a pause.
const BURST: u32 = 40;

/// How soon one address may make one call more.
const CALL_EVERY: Duration = Duration::from_secs(2);

/// The most addresses whose calls are counted; beyond it, strangers wait until some are forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// The federation, as a stranger sees it.
pub(crate) struct Service {
    /// What the service is made from.
    pub(crate) parts: Parts,
    /// Counts the calls of each address.
    pub(crate) pace: Arc<Pace>,
}

/// How often each address has called of late.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    calls: Mutex<HashMap<IpAddr, (u32, Timestamp)>>,
}

impl Pace {
    /// Counts a call of an address `now`: a burst, and then one call every [`CALL_EVERY`].
    ///
    /// # Errors
    /// Why it may not call, if it may not.
    fn admit(&self, address: IpAddr, now: Timestamp) -> Result<(), TooOften> {
        // Counts are right after any panic.
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = |since: Timestamp| {
            let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            u32::try_from(passed.as_secs() / CALL_EVERY.as_secs()).unwrap_or(u32::MAX)
        };
        if calls.len() >= ADDRESSES_MAX {
            calls.retain(|_, (made, since)| *made > earned(*since));
        }
        if calls.len() >= ADDRESSES_MAX && !calls.contains_key(&address) {
            return Err(TooOften::Addresses);
        }
        let (made, since) = calls.entry(address).or_insert((0, now));
        let back = earned(*since);
        if back > 0 {
            (*made, *since) = (made.saturating_sub(back), now);
        }
        if *made >= BURST {
            return Err(TooOften::Calls);
        }
        *made += 1;
        Ok(())
    }
}

/// Why an address may not call yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum TooOften {
    #[error(
        "a stranger may make {BURST} calls at once (BURST) and then one every {} s (CALL_EVERY): wait",
        CALL_EVERY.as_secs()
    )]
    Calls,
    #[error(
        "strangers at {ADDRESSES_MAX} addresses call, the most that are counted (ADDRESSES_MAX): wait"
    )]
    Addresses,
}

#[tonic::async_trait]
impl EnrolmentService for Service {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let address = request.extensions().get::<Peer>().map(|peer| peer.address.ip());
        let address =
            address.ok_or_else(|| Reason::NoIdentity.status("the call has no address"))?;
        let now = self.parts.clock.now();
        self.pace.admit(address, now).map_err(|why| {
            warn!(%address, %why, "an address asks to join too often");
            Reason::TooOften.status(why.to_string())
        })?;
        let credentials = self.parts.credentials.borrow().clone();
        let issuer = credentials.issuer.as_ref().ok_or_else(no_issuer)?;
        let request = request.into_inner();
        parse::wire_version(request.wire_version)?;
        let site: SiteName = parse::name(&request.name)?;
        let key = PublicKey::of_request(&request.csr).map_err(parse::invalid)?;
        let secret = <[u8; SECRET_BYTES]>::try_from(&request.secret[..]);
        let secret = secret.map_err(|_| parse::invalid("a secret has 32 bytes"))?;
        let signing = <[u8; 32]>::try_from(&request.signing_key[..]);
        let signing = signing.map_err(|_| parse::invalid("a signing key has 32 bytes"))?;
        let secret = Digest::of(&secret);
        let keys = Keys { tls: key.id(), signing };
        prove(&keys, &site, &secret, &request.proof)?;
        let asking = Asking {
            site: site.clone(),
            secret,
            public_key: key.der().to_vec(),
            signing_key: signing,
            life: issuer.life(&Role::Site(site.clone()), now),
            approvals: self.parts.rules.approvals(),
        };
        let words = keys.words(&site);
        let joining = self.parts.driver.join(asking).await.map_err(|error| {
            info!(%site, %address, %error, "a stranger is refused");
            status::of_driver(error)
        })?;
        let mut response = JoinResponse {
            words,
            next_after: Some(prost_types::Duration {
                seconds: ASK_AGAIN.as_secs() as i64,
                nanos: 0,
            }),
            ..JoinResponse::default()
        };
        if let Joining::Admitted(until) = joining {
            let certified = issuer.certify(&Role::Site(site.clone()), &key, (now, until));
            response.certificate_pem = certified.map_err(|error| status::of_issuer(&error))?;
            let certified = issuer.certify_signing(&Role::Site(site.clone()), &signing, now);
            response.signing_certificate_pem =
                certified.map_err(|error| status::of_issuer(&error))?;
            response.roots_pem = issuer.roots_pem.clone();
            info!(%site, %address, %until, "a certificate is issued to a site that joins");
        }
        Ok(Response::new(response))
    }
}

/// Whether whoever asks has the signing key.
fn prove(keys: &Keys, site: &SiteName, secret: &Digest, proof: &[u8]) -> Result<(), Status> {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    let message = keys.proof_message(site, secret);
    UnparsedPublicKey::new(&ED25519, keys.signing)
        .verify(&message, proof)
        .map_err(|_| parse::invalid("the request is not signed by the signing key in it"))
}

/// Why nobody can join or renew.
pub(crate) fn no_issuer() -> Status {
    Reason::NoIssuer.status(
        "this coordinator issues no certificates: give it an authority by `[issuing]` in its config",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_burst_and_then_one_call_at_a_time_and_others_are_not_held_up() {
        let (pace, [a, b]) = (Pace::default(), [1, 2].map(|n| IpAddr::from([10, 0, 0, n])));
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let admits = |address, seconds| pace.admit(address, at(seconds)).is_ok();
        assert!((0..BURST).all(|_| admits(a, 0)));
        assert_eq!(pace.admit(a, at(1)), Err(TooOften::Calls));
        assert!(admits(b, 1));
        assert!(admits(a, 2) && !admits(a, 2));
        assert!((0..BURST).all(|_| admits(a, 1_000)) && !admits(a, 1_000));
    }
}
