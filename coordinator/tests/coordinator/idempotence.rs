//! Every call that changes something is made twice: the same request gets the same answer, and what happened,
//! happened once. Which calls these are is asked from the table of all. And they come late ([`late`]), and in
//! another order than they were made in ([`order`]).

use std::fmt::Debug;

use fedpaint_coordinator::rules::TABLE;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::{
    EnrollSiteRequest, GetRunRequest, HeartbeatRequest, Idle, InviteSiteRequest, ListEventsRequest,
    ListOperatorsRequest, ListSitesRequest, OperatorRole, PauseRunRequest, ResumeRunRequest,
    RevokeSiteRequest, RoundRef, Run, RunState, Seen, SetOperatorRequest, Site,
};
use fedpaint_proto::wire::{WIRE_VERSION, WIRE_VERSIONS_SERVED};
use prost_types::Timestamp;
use tonic::{Response, Status};

use crate::federation::{Client, Federation};

/// Makes a call twice; both answers, which are the same.
macro_rules! twice {
    ($client:expr, $call:ident, $request:expr) => {{
        let request = $request;
        let first = $client.$call(request.clone()).await;
        let again = $client.$call(request).await;
        let first = first.map(tonic::Response::into_inner).unwrap();
        assert_eq!(again.map(tonic::Response::into_inner).unwrap(), first, stringify!($call));
        first
    }};
}

mod desk;
mod late;
mod members;
mod operators;
mod order;

/// How many entries of a kind the audit log has.
async fn told(operator: &mut Client, kind: &str) -> usize {
    let request = ListEventsRequest { after_seq: 0, limit: 0 };
    let events = operator.admin.list_events(request).await.unwrap().into_inner().events;
    events.iter().filter(|event| event.kind == kind).count()
}

/// That a call came too late.
fn is_stale<T: Debug>(answer: Result<Response<T>, Status>) {
    assert_eq!(Reason::of(&answer.unwrap_err()), Some(Reason::Stale));
}

fn round(number: u32, attempt: u32) -> RoundRef {
    RoundRef { run: "t1".into(), number, attempt }
}

fn seen(at: Option<Timestamp>) -> Option<Seen> {
    Some(Seen { at })
}

fn enroll(revoked_at: Option<Timestamp>) -> EnrollSiteRequest {
    EnrollSiteRequest { name: "mayo".into(), revoked_at }
}

/// For who saw the site as it is there.
fn revoke(site: &Site) -> RevokeSiteRequest {
    RevokeSiteRequest { name: site.name.clone(), seen: seen(site.enrolled_at) }
}

fn invite(secret: &[u8; 32], ends: Option<Timestamp>) -> InviteSiteRequest {
    let secret_digest = fedpaint_proto::names::Digest::of(secret).as_bytes().to_vec();
    let name = "mayo".into();
    InviteSiteRequest { name, secret_digest, auto_approve: false, seen: seen(ends) }
}

fn set(name: &str, role: OperatorRole, since: Option<Timestamp>) -> SetOperatorRequest {
    SetOperatorRequest { name: name.into(), roles: vec![role.into()], seen: seen(since) }
}

fn pause(seen: RoundRef) -> PauseRunRequest {
    PauseRunRequest { name: "t1".into(), round: Some(seen) }
}

fn resume(seen: RoundRef) -> ResumeRunRequest {
    ResumeRunRequest { name: "t1".into(), round: Some(seen) }
}

/// The run, and its newest round.
async fn run(operator: &mut Client) -> (Run, RoundRef) {
    let answer = operator.admin.get_run(GetRunRequest { name: "t1".into() }).await.unwrap();
    let answer = answer.into_inner();
    (answer.run.unwrap(), answer.round.unwrap().r#ref.unwrap())
}

async fn is_active(operator: &mut Client) -> bool {
    run(operator).await.0.state() == RunState::Active
}

/// Whether the site is in.
async fn is_in(operator: &mut Client) -> bool {
    let sites = operator.admin.list_sites(ListSitesRequest {}).await.unwrap().into_inner().sites;
    sites.iter().any(|site| site.name == "mayo" && site.revoked_at.is_none())
}

/// What an operator may do who is listed.
async fn may(operator: &mut Client, name: &str) -> Option<OperatorRole> {
    let listed = operator.admin.list_operators(ListOperatorsRequest {}).await.unwrap();
    let listed = listed.into_inner().operators;
    listed.iter().find(|operator| operator.name == name)?.roles().next()
}

/// Makes the call of this method twice.
async fn repeat(method: &str) {
    match method {
        "Join" => members::join().await,
        "Renew" => members::renew().await,
        "Heartbeat" => members::heartbeat().await,
        "SubmitUpdate" => members::submit_update().await,
        "Upload" => members::upload().await,
        "EnrollSite" => operators::enroll_site().await,
        "RevokeSite" => operators::revoke_site().await,
        "InviteSite" => operators::invite_site().await,
        "ApproveSite" => operators::approve_site().await,
        "RejectSite" => operators::reject_site().await,
        "SetOperator" => operators::set_operator().await,
        "ApproveProposal" => operators::approve_proposal().await,
        "CreateRun" => operators::create_run().await,
        "PauseRun" => operators::pause_run().await,
        "ResumeRun" => operators::resume_run().await,
        "StopRun" => operators::stop_run().await,
        "ReadmitSite" => operators::readmit_site().await,
        "CloseRound" => operators::close_round().await,
        "AbandonRound" => operators::abandon_round().await,
        other => panic!("{other} changes something, and nobody makes it twice"),
    }
}

#[tokio::test]
async fn every_call_that_changes_something_gets_the_same_answer_when_it_is_repeated() {
    let mut calls = 0;
    for rule in TABLE.iter().filter(|rule| rule.changes) {
        repeat(rule.path.rsplit('/').next().unwrap()).await;
        calls += 1;
    }
    assert!(calls >= 19, "{calls}");
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
    let sites = operator.admin.list_sites(ListSitesRequest {}).await.unwrap().into_inner().sites;
    assert_eq!((sites[0].wire_version, &*sites[0].agent_version), (Some(newest), "9.9.9"));
    federation.stop().await;
}
