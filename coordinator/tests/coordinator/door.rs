//! How many may be connected, strangers among them, and for how long who says nothing any more. The limits are
//! small ones that the server is given here; `limits.rs` has those that it is given otherwise. And what a stranger
//! has to prove who has a token.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_coordinator::clock::{Clock, SystemClock};
use fedpaint_coordinator::limits::Limits;
use fedpaint_proto::channel::{self, Address, Route};
use fedpaint_proto::enrolment::{JOIN_BYTES_MAX, Pin};
use fedpaint_proto::identity::Validity;
use fedpaint_proto::names::Digest;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::tls;
use fedpaint_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use fedpaint_proto::v1::identity_service_client::IdentityServiceClient;
use fedpaint_proto::v1::{
    Invite, InviteSiteRequest, JoinRequest, ListEventsRequest, ListSitesRequest, RenewRequest, Seen,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::Code;

use crate::access::metrics;
use crate::bounds::{moved, start_clock};
use crate::federation::{Client, Federation};
use crate::newcomer::Newcomer;
use crate::pki::{Authority, Leaf};
use crate::raw::{ACK, Frame, GOAWAY, PING, Raw, frame};

/// How long a stranger's connection lasts, in `accept.rs`.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(300);

const SECOND: Duration = Duration::from_secs(1);

/// Few connections in all, and fewer of strangers.
const FEW: usize = 2;

/// Connects without a certificate, by the protocol for joining; an error where that is refused.
async fn stranger(federation: &Federation) -> io::Result<Raw> {
    let pin = tls::pin(&federation.authority.der()).unwrap();
    let mut raw = Raw::connect_by(federation.address, tls::joining(pin).unwrap(), &[]).await?;
    raw.ping().await.map(|_| raw)
}

/// Connects as an operator; an error where that is refused.
async fn operator(federation: &Federation, name: &str) -> io::Result<Raw> {
    let uri = format!("spiffe://brain/operator/{name}");
    let files = federation.certificate(&federation.authority, &Leaf::client(&uri));
    let mut raw = Raw::connect_by(federation.address, files.client().unwrap(), &[]).await?;
    raw.ping().await.map(|_| raw)
}

/// Who comes as soon as a place is given back, which takes the other end a moment to see.
async fn comes_in(mut come: impl AsyncFnMut() -> io::Result<Raw>) -> Raw {
    let waiting = async {
        loop {
            match come().await {
                Ok(raw) => return raw,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("a place is given back")
}

#[tokio::test]
async fn strangers_beyond_their_number_are_refused_and_members_are_not() {
    let limits = Limits { strangers_max: FEW, ..Limits::default() };
    let federation = Federation::start_within(limits, Arc::new(SystemClock)).await;
    let mut open = Vec::new();
    for _ in 0..FEW {
        open.push(stranger(&federation).await.unwrap());
    }
    assert!(stranger(&federation).await.is_err(), "one more");
    operator(&federation, "ada").await.unwrap();
    open.pop();
    open.push(comes_in(async || stranger(&federation).await).await);
    for raw in &mut open {
        raw.ping().await.unwrap();
    }
    drop(open);
    federation.stop().await;
}

/// What of the audit log tells of sites that do not believe the coordinator.
async fn distrusts(federation: &Federation) -> Vec<String> {
    let request = ListEventsRequest { after_seq: 0, limit: 0 };
    let events = federation.operator().await.admin.list_events(request).await.unwrap();
    let mut events = events.into_inner().events;
    events.retain(|event| event.kind == "coordinator_distrusted");
    events.into_iter().map(|event| event.detail).collect()
}

#[tokio::test]
async fn a_site_whose_token_names_another_root_sends_nothing_and_its_alert_is_told_and_counted() {
    let federation = Federation::start_within(Limits::default(), Arc::new(SystemClock)).await;
    let address: Address = format!("https://{}", federation.address).parse().unwrap();
    let count = |peer: &str, n| format!("distrusted_total{{peer=\"{peer}\"}} {n}\n");
    assert!(metrics(&federation).await.contains(&count("stranger", 0)), "it can rise from there");
    stranger(&federation).await.unwrap();
    let refused = channel::join_by(&Route::default(), &address, Pin([7; 32])).await.unwrap_err();
    let channel::Error::Untrusted { reason, .. } = &refused else { panic!("{refused}") };
    assert!(reason.contains("not the one that the token names"), "{reason}");
    assert!(reason.contains("the token is as good as before"), "{reason}");
    let waiting = async {
        loop {
            let told = distrusts(&federation).await;
            if !told.is_empty() {
                return told;
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it is told");
    assert!(told.len() == 1 && told[0].contains("(CertificateUnknown)"), "{told:?}");
    let text = metrics(&federation).await;
    for line in [count("stranger", 1), count("member", 0)] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    // A member that is under another root counts as one, and is not told to the audit log.
    let files =
        federation.certificate(&federation.authority, &Leaf::client("spiffe://brain/site/a"));
    std::fs::write(&files.ca, Authority::new().pem()).unwrap();
    federation.connect(&files).await.unwrap_err();
    let counted = async {
        while !metrics(&federation).await.contains(&count("member", 1)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), counted).await.expect("it is counted");
    assert_eq!(distrusts(&federation).await.len(), 1);
    federation.stop().await;
}

#[tokio::test]
async fn a_strangers_message_and_a_request_for_the_next_certificate_are_refused_beyond_their_limit()
{
    let federation = Federation::start_within(Limits::default(), Arc::new(SystemClock)).await;
    let pin = tls::pin(&federation.authority.der()).unwrap();
    let address: Address = format!("https://{}", federation.address).parse().unwrap();
    let channel = channel::join_by(&Route::default(), &address, pin).await.unwrap();
    let csr = vec![7; JOIN_BYTES_MAX];
    let request = JoinRequest { csr: csr.clone(), ..JoinRequest::default() };
    let joining = EnrolmentServiceClient::new(channel).join(request).await.unwrap_err();
    let ada = federation.operator().await;
    let request = RenewRequest { csr, signing_certificate: Vec::new() };
    let renewing = IdentityServiceClient::new(ada.channel).renew(request).await.unwrap_err();
    for refused in [joining, renewing] {
        assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
        let limit = format!("limit is: {JOIN_BYTES_MAX} bytes (JOIN_BYTES_MAX)");
        assert!(refused.message().contains(&limit), "{refused}");
    }
    federation.stop().await;
}

/// A token's secret.
const SECRET: [u8; 32] = [7; 32];

/// Invites `mayo`, whom nobody has to approve.
async fn invite(operator: &mut Client) -> Invite {
    let request = InviteSiteRequest {
        name: "mayo".into(),
        secret_digest: Digest::of(&SECRET).as_bytes().to_vec(),
        auto_approve: true,
        seen: Some(Seen { at: None }),
    };
    operator.admin.invite_site(request).await.unwrap().into_inner().invite.unwrap()
}

#[tokio::test]
async fn a_token_lets_in_who_proves_to_hold_both_keys_and_a_proof_of_less_is_no_try_at_it() {
    let federation = Federation::start_within(Limits::default(), Arc::new(SystemClock)).await;
    let mut ada = federation.operator().await;
    let invited = invite(&mut ada).await;
    let (newcomer, other) = (Newcomer::new(), Newcomer::new());
    let mut door = Newcomer::door(&federation).await;
    let (right, others) = (newcomer.asks(&SECRET), other.asks(&SECRET));
    let proved = |proof: Vec<u8>| JoinRequest { proof, ..right.clone() };
    let over = |site: &str, secret: &[u8; 32]| newcomer.sign(&newcomer.proof_message(site, secret));
    // More of them than the wrong secrets that burn a token.
    for (what, request) in [
        ("none", proved(Vec::new())),
        ("one that is cut short", proved(right.proof[..63].to_vec())),
        ("by another key", proved(other.sign(&newcomer.proof_message("mayo", &SECRET)))),
        ("another's, of its own keys", proved(others.proof)),
        ("over another secret", proved(over("mayo", &[8; 32]))),
        ("over another site", proved(over("oslo", &SECRET))),
        (
            "for another signing key",
            JoinRequest { signing_key: others.signing_key, ..right.clone() },
        ),
        ("for another certificate's key", JoinRequest { csr: others.csr, ..right.clone() }),
    ] {
        let refused = door.join(request).await.unwrap_err();
        assert_eq!(Reason::of(&refused), Some(Reason::InvalidRequest), "{what}: {refused}");
        let told = "not signed by the signing key in it";
        assert!(refused.message().contains(told), "{what}: {refused}");
    }
    let listed = ada.admin.list_sites(ListSitesRequest {}).await.unwrap().into_inner();
    assert_eq!((listed.sites.len(), listed.invites), (0, vec![invited]));
    let let_in = door.join(right).await.unwrap().into_inner();
    assert!(!let_in.certificate_pem.is_empty() && !let_in.signing_certificate_pem.is_empty());
    let request = ListEventsRequest { after_seq: 0, limit: 0 };
    let events = ada.admin.list_events(request).await.unwrap().into_inner().events;
    assert!(events.iter().all(|event| !event.kind.ends_with("_refused")), "{events:?}");
    assert!(events.iter().any(|event| event.kind == "site_enrolled"), "{events:?}");
    federation.stop().await;
}

#[tokio::test]
async fn who_joins_has_a_certificate_of_seven_days_where_nobody_says_otherwise() {
    let clock = start_clock();
    let federation = Federation::start_within(Limits::default(), Arc::new(clock.clone())).await;
    invite(&mut federation.operator().await).await;
    let mut door = Newcomer::door(&federation).await;
    let let_in = door.join(Newcomer::new().asks(&SECRET)).await.unwrap().into_inner();
    let der = CertificateDer::from_pem_slice(let_in.certificate_pem.as_bytes()).unwrap();
    let end = Validity::of_certificate(&der).unwrap().not_after;
    assert_eq!(end.as_second() - clock.now().as_second(), 7 * 86_400);
    federation.stop().await;
}

#[tokio::test]
async fn connections_beyond_their_number_are_refused_whosever_they_are() {
    let limits = Limits { connections_max: FEW, ..Limits::default() };
    let federation = Federation::start_within(limits, Arc::new(SystemClock)).await;
    let mut open = vec![stranger(&federation).await.unwrap()];
    open.push(operator(&federation, "ada").await.unwrap());
    assert!(operator(&federation, "bob").await.is_err(), "one more");
    assert!(stranger(&federation).await.is_err(), "one more");
    open.pop();
    open.push(comes_in(async || operator(&federation, "bob").await).await);
    for raw in &mut open {
        raw.ping().await.unwrap();
    }
    drop(open);
    federation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_connection_ends_after_its_time_and_a_members_does_not() {
    let clock = start_clock();
    let federation = Federation::start_within(Limits::default(), Arc::new(clock.clone())).await;
    let mut unknown = stranger(&federation).await.unwrap();
    let mut known = operator(&federation, "ada").await.unwrap();
    clock.advance(STRANGER_TIMEOUT - SECOND);
    unknown.ping().await.unwrap();
    let end = moved(&clock, SECOND, unknown.wait(GOAWAY, 0)).await.unwrap();
    let told = String::from_utf8(end.payload[8..].to_vec()).unwrap();
    assert!(told.contains("300 s at most (STRANGER_TIMEOUT)"), "{told}");
    unknown.end().await;
    known.ping().await.unwrap();
    drop(known);
    federation.stop().await;
}

#[tokio::test]
async fn a_connection_that_answers_nothing_any_more_is_ended_and_one_that_answers_is_not() {
    /// More than the other end takes to be asked so often as this test asks.
    const ASKED: usize = 10;
    let limits = Limits {
        keepalive_interval: Duration::from_millis(20),
        keepalive_timeout: SECOND,
        ..Limits::default()
    };
    let federation = Federation::start_within(limits, Arc::new(SystemClock)).await;
    let mut answering = operator(&federation, "ada").await.unwrap();
    let mut silent = operator(&federation, "bob").await.unwrap();
    let answers = async {
        let mut asked = 0;
        loop {
            match answering.next().await? {
                Frame { kind: PING, flags: 0, payload, .. } => {
                    answering.send(&frame(PING, ACK, 0, &payload)).await?;
                    asked += 1;
                }
                _ => continue,
            }
            if asked == ASKED {
                return io::Result::Ok(());
            }
        }
    };
    let asked = async {
        loop {
            match silent.next().await {
                Ok(Frame { kind: PING, flags: 0, .. }) => return silent.end().await,
                other => drop(other.unwrap()),
            }
        }
    };
    let (answered, _ended) = tokio::join!(answers, asked);
    answered.unwrap();
    federation.stop().await;
}
