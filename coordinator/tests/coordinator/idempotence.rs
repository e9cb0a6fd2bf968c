//! Every call that changes something is made twice: the same request gets the same answer, and what
//! happened, happened once.

use std::sync::Arc;

use fedpaint_coordinator::clock::SystemClock;
use fedpaint_coordinator::limits::Limits;
use fedpaint_proto::given_up;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::{
    AbandonRoundRequest, CloseRoundRequest, CloseRoundResponse, CreateRunRequest,
    EnrollSiteRequest, HeartbeatRequest, Idle, InviteSiteRequest, ListEventsRequest, OperatorRole,
    PauseRunRequest, ReadmitSiteRequest, RejectSiteRequest, ResumeRunRequest, RevokeSiteRequest,
    RoundPhase, RoundRef, SetOperatorRequest, StopRunRequest, WithdrawalReason, Withdrawing,
};
use fedpaint_proto::wire::{WIRE_VERSION, WIRE_VERSIONS_SERVED};
use tonic::{Response, Status};

use crate::blobs::upload;
use crate::federation::{Client, Federation};
use crate::rounds::{blob, create_run, initial, model, update};

/// Makes a call twice; both answers, which are the same.
macro_rules! twice {
    ($client:expr, $service:ident, $call:ident, $request:expr) => {{
        let request = $request;
        let first = $client.$service.$call(request.clone()).await;
        let again = $client.$service.$call(request).await;
        let first = first.map(Response::into_inner).unwrap();
        assert_eq!(again.map(Response::into_inner).unwrap(), first, stringify!($call));
        first
    }};
}

/// How many entries of a kind the audit log has.
async fn told(operator: &mut Client, kind: &str) -> usize {
    let request = ListEventsRequest { after_seq: 0, limit: 0 };
    let events = operator.admin.list_events(request).await.unwrap().into_inner().events;
    events.iter().filter(|event| event.kind == kind).count()
}

fn round(number: u32, attempt: u32) -> RoundRef {
    RoundRef { run: "t1".into(), number, attempt }
}

#[tokio::test]
async fn an_operators_call_that_is_repeated_gets_the_same_answer_and_happens_once() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let name = || "mayo".to_owned();
    twice!(operator, admin, enroll_site, EnrollSiteRequest { name: name(), revoked_at: None });
    twice!(operator, admin, revoke_site, RevokeSiteRequest { name: name() });
    assert_eq!(told(&mut operator, "site_enrolled").await, 1);
    assert_eq!(told(&mut operator, "site_revoked").await, 1);

    let bytes = model(&[1.0]);
    for _ in 0..2 {
        upload(&mut operator, initial(), &bytes).await.unwrap();
    }
    let plan_toml = "version = 1\nrounds = 2\n[round]\nsites_min = 2\nsites_goal = 3\n".to_owned();
    let (initial_model, name) = (Some(blob(&bytes)), "t1".into());
    let request = CreateRunRequest { name, plan_toml, initial_model, plan_signature: None };
    twice!(operator, admin, create_run, request);
    let run = || "t1".to_owned();
    let reason = || "wrong plan".to_owned();
    let abandon = AbandonRoundRequest { round: Some(round(1, 1)), reason: reason() };
    twice!(operator, admin, abandon_round, abandon.clone());
    let other = AbandonRoundRequest { reason: "another".into(), ..abandon };
    let status = operator.admin.abandon_round(other).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::RoundOver), "that is not what was done");
    twice!(operator, admin, pause_run, PauseRunRequest { name: run() });
    twice!(operator, admin, resume_run, ResumeRunRequest { name: run(), round: None });
    let readmit = ReadmitSiteRequest { run: run(), site: "mayo".into() };
    let readmitted = twice!(operator, admin, readmit_site, readmit.clone());
    assert_eq!(readmitted.run.unwrap().readmitted, ["mayo"]);
    twice!(operator, admin, stop_run, StopRunRequest { name: run() });
    operator.admin.readmit_site(readmit).await.unwrap();
    for kind in ["run_created", "run_paused", "run_resumed", "site_readmitted", "run_stopped"] {
        assert_eq!(told(&mut operator, kind).await, 1, "{kind}");
    }
    federation.stop().await;
}

#[tokio::test]
async fn who_is_invited_refused_and_listed_twice_is_so_once() {
    let clock = Arc::new(SystemClock);
    let federation = Federation::start_within(Limits::default(), clock).await;
    let mut operator = federation.operator().await;
    let (name, secret_digest) = ("mayo".to_owned(), vec![7; 32]);
    let invite = InviteSiteRequest { name: name.clone(), secret_digest, auto_approve: false };
    twice!(operator, admin, invite_site, invite);
    twice!(operator, admin, reject_site, RejectSiteRequest { name });
    let roles = vec![OperatorRole::Admin.into()];
    twice!(operator, admin, set_operator, SetOperatorRequest { name: "ada".into(), roles });
    for kind in ["site_invited", "invitation_ended", "operator_set"] {
        assert_eq!(told(&mut operator, kind).await, 1, "{kind}");
    }
    federation.stop().await;
}

#[tokio::test]
async fn an_operators_call_that_comes_after_it_was_given_up_undoes_nothing() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let enroll = EnrollSiteRequest { name: "mayo".into(), revoked_at: None };
    operator.admin.enroll_site(enroll).await.unwrap();
    let mut request = tonic::Request::new(RevokeSiteRequest { name: "mayo".into() });
    given_up::mark(&mut request, jiff::Timestamp::UNIX_EPOCH);
    let status = operator.admin.revoke_site(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert!(status.message().contains("given this call up"), "{status}");
    assert_eq!(told(&mut operator, "site_revoked").await, 0);
    federation.stop().await;
}

#[tokio::test]
async fn closing_a_phase_twice_does_not_close_the_next_one() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    let bytes = model(&[1.0]);
    upload(&mut operator, initial(), &bytes).await.unwrap();
    let plan_toml = "version = 1\nrounds = 1\n[round]\nsites_min = 1\nsites_goal = 3\n".to_owned();
    let (initial_model, name) = (Some(blob(&bytes)), "t1".into());
    let request = CreateRunRequest { name, plan_toml, initial_model, plan_signature: None };
    operator.admin.create_run(request).await.unwrap();
    for site in &mut sites {
        site.join().await;
    }
    let close =
        |phase: RoundPhase| CloseRoundRequest { round: Some(round(1, 1)), phase: phase.into() };
    let phase = |response: CloseRoundResponse| response.round.unwrap().phase();
    let early = operator.admin.close_round(close(RoundPhase::Reporting)).await.unwrap_err();
    assert_eq!(Reason::of(&early), Some(Reason::NotReporting));
    let closed = twice!(operator, admin, close_round, close(RoundPhase::Selecting));
    assert_eq!(phase(closed), RoundPhase::Reporting);
    let train = sites[0].train().await;
    sites[0].report(&train, &[2.0], 1).await.unwrap();
    let closed = operator.admin.close_round(close(RoundPhase::Selecting)).await.unwrap();
    assert_eq!(phase(closed.into_inner()), RoundPhase::Reporting, "b may report still");
    operator.admin.close_round(close(RoundPhase::Reporting)).await.unwrap();
    operator.admin.close_round(close(RoundPhase::Reporting)).await.unwrap();
    federation.stop().await;
}

#[tokio::test]
async fn a_sites_call_that_is_repeated_gets_the_same_answer_and_happens_once() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    create_run(&mut operator, &[1.0, 2.0]).await;
    for site in &mut sites {
        site.join().await;
    }
    let train = sites[0].train().await;
    let round = train.round.clone().unwrap();
    // Upload and submission are made twice while the round waits for b, and again when it is over.
    for _ in 0..2 {
        sites[0].report(&train, &[2.0, 3.0], 30).await.unwrap();
    }
    let other = upload(&mut sites[0], update(&round), &model(&[9.0, 9.0])).await.unwrap_err();
    assert_eq!(Reason::of(&other), Some(Reason::AlreadyReported));
    sites[1].report(&train, &[2.0, 3.0], 30).await.unwrap();
    for site in &mut sites {
        site.report(&train, &[2.0, 3.0], 30).await.unwrap();
    }
    assert_eq!(told(&mut operator, "update_accepted").await, 2);

    // The next round opens when the first one's average is made.
    while sites[0].join_if_asked().await.is_none_or(|joined| joined.number == 1) {}
    let (reason, rule) = (WithdrawalReason::Disk.into(), 0);
    let round = Some(RoundRef { run: "t1".into(), number: 2, attempt: 1 });
    let request = HeartbeatRequest {
        agent_version: "0.1.0".into(),
        activity: Some(Activity::Withdrawing(Withdrawing { round, reason, rule })),
        wire_version: WIRE_VERSION,
        ..HeartbeatRequest::default()
    };
    sites[0].federation.heartbeat(request.clone()).await.unwrap();
    sites[0].federation.heartbeat(request).await.unwrap();
    assert_eq!(told(&mut operator, "site_left").await, 1);
    federation.stop().await;
}

#[tokio::test]
async fn an_agent_of_another_generation_is_refused_and_one_from_before_versions_is_served() {
    let federation = Federation::start().await;
    let mut site = federation.site("a").await;
    // What an agent from before versions says.
    let answer = site.beat().await.unwrap();
    assert_eq!(answer.wire_version, WIRE_VERSION);
    let idle = |wire_version| HeartbeatRequest {
        agent_version: "9.9.9".into(),
        activity: Some(Activity::Idle(Idle {})),
        wire_version,
        ..HeartbeatRequest::default()
    };
    let newest = *WIRE_VERSIONS_SERVED.end();
    site.federation.heartbeat(idle(newest)).await.unwrap();
    let status: Status = site.federation.heartbeat(idle(newest + 1)).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::WireVersion));
    let mut operator = federation.operator().await;
    let request = fedpaint_proto::v1::ListSitesRequest {};
    let sites = operator.admin.list_sites(request).await.unwrap().into_inner().sites;
    assert_eq!((sites[0].wire_version, &*sites[0].agent_version), (Some(newest), "9.9.9"));
    federation.stop().await;
}
