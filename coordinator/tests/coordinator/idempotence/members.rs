//! What sites and who would be one say, each twice; and a member's next certificate.

use std::sync::Arc;
use std::time::Duration;

use fedpaint_coordinator::clock::{Clock, ManualClock, SystemClock};
use fedpaint_coordinator::limits::Limits;
use fedpaint_proto::identity::{Identity, KeyId, Validity};
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::renewal::TlsKey;
use fedpaint_proto::signing::{Signed, Signer};
use fedpaint_proto::statement::Envelope;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::identity_service_client::IdentityServiceClient;
use fedpaint_proto::v1::upload_request::Part;
use fedpaint_proto::v1::{
    ApproveSiteRequest, GetRunPlanRequest, HeartbeatRequest, JoinResponse, Joining, Receipt,
    RenewRequest, RoundRef, SubmitUpdateRequest, Training, TrainingProgress, UploadHeader,
    UploadPurpose, UploadRequest, UploadResponse, WithdrawalReason, Withdrawing,
};
use fedpaint_proto::wire::WIRE_VERSION;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::{invite, round, told};
use crate::blobs;
use crate::federation::{Client, Federation};
use crate::newcomer::Newcomer;
use crate::rounds::{blob, create_run, initial, model, submission, update};

const MINUTE: Duration = Duration::from_secs(60);

/// What a certificate says, but for its number, its signature and since when it holds: those are of the call
/// that it answers.
fn says(pem: &str) -> (Identity, KeyId, Timestamp) {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let until = Validity::of_certificate(&der).unwrap().not_after;
    (Identity::from_certificate(&der).unwrap(), KeyId::of_certificate(&der).unwrap(), until)
}

pub(super) async fn join() {
    let secret = [7; 32];
    let clock = ManualClock::new(SystemClock.now());
    let federation = Federation::start_within(Limits::default(), Arc::new(clock.clone())).await;
    let mut ada = federation.operator().await;
    ada.admin.invite_site(invite(&secret, None)).await.unwrap();
    let (newcomer, mut door) = (Newcomer::new(), Newcomer::door(&federation).await);
    let waits = twice!(door, join, newcomer.asks(&secret));
    assert!(waits.certificate_pem.is_empty() && waits.words == newcomer.words());
    let approve = ApproveSiteRequest { name: "mayo".into(), words: waits.words, seen: None };
    ada.admin.approve_site(approve).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(door.join(newcomer.asks(&secret)).await.unwrap().into_inner());
        clock.advance(MINUTE);
    }
    let both = |answer: &JoinResponse| {
        [says(&answer.certificate_pem), says(&answer.signing_certificate_pem)]
    };
    assert_eq!(both(&answers[1]), both(&answers[0]));
    let rest = |answer: &JoinResponse| JoinResponse {
        certificate_pem: String::new(),
        signing_certificate_pem: String::new(),
        ..answer.clone()
    };
    assert_eq!(rest(&answers[1]), rest(&answers[0]));
    for kind in ["site_asks", "site_enrolled"] {
        assert_eq!(told(&mut ada, kind).await, 1, "{kind}");
    }
    federation.stop().await;
}

pub(super) async fn renew() {
    let clock = ManualClock::new(SystemClock.now());
    let federation = Federation::start_within(Limits::default(), Arc::new(clock.clone())).await;
    let mut ada = federation.operator().await;
    let mut identity = IdentityServiceClient::new(ada.channel.clone());
    let csr = TlsKey::fresh().unwrap().csr;
    let request = RenewRequest { csr, signing_certificate: Vec::new() };
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(identity.renew(request.clone()).await.unwrap().into_inner());
        clock.advance(MINUTE);
    }
    let [first, again] = &answers[..] else { panic!("two calls were made") };
    assert_eq!(says(&again.certificate_pem), says(&first.certificate_pem));
    assert_eq!(again.not_after, first.not_after);
    assert!(first.signing_certificate_pem.is_empty() && again.signing_certificate_pem.is_empty());
    assert_eq!(told(&mut ada, "certificate_renewed").await, 1);
    federation.stop().await;
}

pub(super) async fn heartbeat() {
    let federation = Federation::start().await;
    let mut ada = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    create_run(&mut ada, &[1.0, 2.0]).await;
    let id = || Some(round(1, 1));
    let beat = |activity| HeartbeatRequest {
        agent_version: "0.1.0".into(),
        activity: Some(activity),
        wire_version: WIRE_VERSION,
        ..HeartbeatRequest::default()
    };
    let joins = || beat(Activity::Joining(Joining { round: id() }));
    let (reason, rule) = (WithdrawalReason::Disk.into(), 0);
    let leaves = beat(Activity::Withdrawing(Withdrawing { round: id(), reason, rule }));
    twice!(sites[0].federation, heartbeat, joins());
    twice!(sites[0].federation, heartbeat, leaves);
    assert_eq!(told(&mut ada, "site_joined").await, 1);
    assert_eq!(told(&mut ada, "site_left").await, 1);
    for site in &mut sites {
        twice!(site.federation, heartbeat, joins());
    }
    assert_eq!(told(&mut ada, "site_joined").await, 3);
    let progress = Some(TrainingProgress { step: 3, steps: 7, loss: Some(0.25) });
    let trains = beat(Activity::Training(Training { round: id(), progress }));
    twice!(sites[0].federation, heartbeat, trains);
    federation.stop().await;
}

/// One call with all of `bytes`, as if nothing of them were there.
async fn send(client: &mut Client, purpose: UploadPurpose, bytes: &[u8]) -> UploadResponse {
    let header = UploadHeader { purpose: Some(purpose), blob: Some(blob(bytes)), offset: 0 };
    let parts = [Part::Header(header), Part::Data(bytes.to_vec().into())];
    let parts = parts.map(|part| UploadRequest { part: Some(part) });
    client.blobs.upload(tokio_stream::iter(parts)).await.unwrap().into_inner()
}

/// Also when what was uploaded has been submitted, and when its round is over.
pub(super) async fn upload() {
    let federation = Federation::start().await;
    let mut ada = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    let bytes = model(&[1.0, 2.0]);
    let first = send(&mut ada, initial(), &bytes).await;
    assert_eq!(first.committed_size, bytes.len() as u64);
    assert_eq!(send(&mut ada, initial(), &bytes).await, first);

    create_run(&mut ada, &[1.0, 2.0]).await;
    for site in &mut sites {
        site.join().await;
    }
    let train = sites[0].train().await;
    let purpose = || update(train.round.as_ref().unwrap());
    let bytes = model(&[2.0, 3.0]);
    let first = send(&mut sites[0], purpose(), &bytes).await;
    assert_eq!(send(&mut sites[0], purpose(), &bytes).await, first);
    sites[0].report(&train, &[2.0, 3.0], 30).await.unwrap();
    assert_eq!(send(&mut sites[0], purpose(), &bytes).await, first);
    let other = blobs::upload(&mut sites[0], purpose(), &model(&[9.0, 9.0])).await.unwrap_err();
    assert_eq!(Reason::of(&other), Some(Reason::AlreadyReported));
    sites[1].report(&train, &[4.0, 5.0], 30).await.unwrap();
    // The next round opens when the first one's average is made.
    while sites[0].join_if_asked().await.is_none_or(|joined| joined.number == 1) {}
    assert_eq!(send(&mut sites[0], purpose(), &bytes).await, first);
    federation.stop().await;
}

/// The same, signed by the site `a`.
fn signed(
    federation: &Federation,
    plan: &str,
    request: SubmitUpdateRequest,
) -> SubmitUpdateRequest {
    let made = federation.authority.issue_signing("spiffe://brain/site/a");
    let certificate = CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(made.key_pem.as_bytes()).unwrap();
    let envelope = Envelope {
        federation: "brain".parse().unwrap(),
        round: RoundId::try_from(request.round.as_ref().unwrap()).unwrap(),
        site: "a".parse().unwrap(),
        base: Digest::try_from(&request.base_model_digest[..]).unwrap(),
        plan: Digest::of(plan.as_bytes()),
        update: Blob::try_from(request.weights.as_ref().unwrap()).unwrap(),
        examples: request.examples,
    };
    let signed = Signed::by(&Signer::new(&[certificate], &key).unwrap(), envelope);
    SubmitUpdateRequest { signature: Some(signed.signature_to_wire()), ..request }
}

/// The receipt is the same. What it is proven to be in is the log as it is by then.
pub(super) async fn submit_update() {
    let federation = Federation::start_signing().await;
    let mut ada = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    create_run(&mut ada, &[1.0, 2.0]).await;
    for site in &mut sites {
        site.join().await;
    }
    let train = sites[0].train().await;
    let plan = GetRunPlanRequest { run: "t1".into() };
    let plan = sites[0].federation.get_run_plan(plan).await.unwrap().into_inner().plan_toml;
    let purpose = update(train.round.as_ref().unwrap());
    blobs::upload(&mut sites[0], purpose, &model(&[2.0, 3.0])).await.unwrap();
    let request = signed(&federation, &plan, submission(&train, &[2.0, 3.0], 30));
    let mut receipts = Vec::new();
    for other in ["c", "d"] {
        let answer = sites[0].federation.submit_update(request.clone()).await.unwrap();
        receipts.push(answer.into_inner().receipt.unwrap());
        federation.site(other).await;
    }
    let size = |receipt: &Receipt| receipt.head.as_ref().unwrap().size;
    assert!(size(&receipts[0]) < size(&receipts[1]));
    let word = |receipt: &Receipt| Receipt { head: None, inclusion: vec![], ..receipt.clone() };
    assert_eq!(word(&receipts[1]), word(&receipts[0]));
    let other = signed(&federation, &plan, submission(&train, &[2.0, 3.0], 31));
    for _ in 0..2 {
        let status = sites[0].federation.submit_update(other.clone()).await.unwrap_err();
        assert_eq!(Reason::of(&status), Some(Reason::AlreadyReported));
    }
    for (kind, times) in [("update_accepted", 1), ("update_refused", 1)] {
        assert_eq!(told(&mut ada, kind).await, times, "{kind}");
    }
    federation.stop().await;
}

#[tokio::test]
async fn an_update_that_is_submitted_again_when_its_round_is_over_gets_the_same_answer() {
    let federation = Federation::start().await;
    let mut ada = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    create_run(&mut ada, &[1.0, 2.0]).await;
    for site in &mut sites {
        site.join().await;
    }
    let train = sites[0].train().await;
    let round: &RoundRef = train.round.as_ref().unwrap();
    let values: [[f32; 2]; 2] = [[2.0, 3.0], [4.0, 5.0]];
    let mut answers = Vec::new();
    for (site, values) in sites.iter_mut().zip(&values) {
        blobs::upload(site, update(round), &model(values)).await.unwrap();
        answers.push(twice!(site.federation, submit_update, submission(&train, values, 30)));
    }
    // The next round opens when the first one's average is made.
    while sites[0].join_if_asked().await.is_none_or(|joined| joined.number == 1) {}
    for (site, (values, answer)) in sites.iter_mut().zip(values.iter().zip(answers)) {
        let again = twice!(site.federation, submit_update, submission(&train, values, 30));
        assert_eq!(again, answer);
    }
    assert_eq!(told(&mut ada, "update_accepted").await, 2);
    federation.stop().await;
}
