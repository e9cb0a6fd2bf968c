//! What operators ask for, each twice.

use std::sync::Arc;

use fedpaint_coordinator::clock::SystemClock;
use fedpaint_coordinator::limits::Limits;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::{
    AbandonRoundRequest, ApproveProposalRequest, ApproveSiteRequest, CloseRoundRequest,
    CloseRoundResponse, CreateRunRequest, ListProposalsRequest, OperatorRole, Proposal,
    ReadmitSiteRequest, RejectSiteRequest, RoundPhase, StopRunRequest,
};

use super::{enroll, invite, pause, resume, revoke, round, run, seen, set, told};
use crate::blobs::upload;
use crate::federation::{Client, Federation};
use crate::newcomer::Newcomer;
use crate::rounds::{self, blob, initial, model};

/// A token's secret.
const SECRET: [u8; 32] = [7; 32];

/// Letting a site in takes two.
pub(super) const RULES: &str = "[two_persons]\nenrolling = true\n";

/// A federation that strangers may ask to join, and an operator.
pub(super) async fn open() -> (Federation, Client) {
    let federation = Federation::start_within(Limits::default(), Arc::new(SystemClock)).await;
    let operator = federation.operator().await;
    (federation, operator)
}

/// One with the run `t1`, and an operator.
pub(super) async fn running() -> (Federation, Client) {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    rounds::create_run(&mut operator, &[1.0]).await;
    (federation, operator)
}

/// The one proposal that waits.
pub(super) async fn proposal(operator: &mut Client) -> Proposal {
    let listed = operator.admin.list_proposals(ListProposalsRequest {}).await.unwrap();
    let mut proposals = listed.into_inner().proposals;
    assert_eq!(proposals.len(), 1, "{proposals:?}");
    proposals.remove(0)
}

pub(super) fn agree(proposal: &Proposal) -> ApproveProposalRequest {
    ApproveProposalRequest { id: proposal.id.clone(), seen: seen(proposal.asked_at) }
}

pub(super) async fn enroll_site() {
    let (federation, mut ada) = open().await;
    let site = twice!(ada.admin, enroll_site, enroll(None)).site.unwrap();
    let out = ada.admin.revoke_site(revoke(&site)).await.unwrap().into_inner().site.unwrap();
    twice!(ada.admin, enroll_site, enroll(out.revoked_at));
    assert_eq!(told(&mut ada, "site_enrolled").await, 2);
    federation.stop().await;
}

pub(super) async fn revoke_site() {
    let (federation, mut ada) = open().await;
    let site = ada.admin.enroll_site(enroll(None)).await.unwrap().into_inner().site.unwrap();
    twice!(ada.admin, revoke_site, revoke(&site));
    assert_eq!(told(&mut ada, "site_revoked").await, 1);
    federation.stop().await;
}

pub(super) async fn invite_site() {
    let (federation, mut ada) = open().await;
    let first = twice!(ada.admin, invite_site, invite(&SECRET, None)).invite.unwrap();
    twice!(ada.admin, invite_site, invite(&[8; 32], first.expires_at));
    assert_eq!(told(&mut ada, "site_invited").await, 2);
    federation.stop().await;
}

pub(super) async fn approve_site() {
    let (federation, mut ada) = open().await;
    let invited = ada.admin.invite_site(invite(&SECRET, None)).await.unwrap().into_inner();
    let (newcomer, mut door) = (Newcomer::new(), Newcomer::door(&federation).await);
    door.join(newcomer.asks(&SECRET)).await.unwrap();
    let seen = seen(invited.invite.unwrap().expires_at);
    let request = ApproveSiteRequest { name: "mayo".into(), words: newcomer.words(), seen };
    twice!(ada.admin, approve_site, request.clone());
    // It is the same once the site is in, but for that it is.
    door.join(newcomer.asks(&SECRET)).await.unwrap();
    let invite = twice!(ada.admin, approve_site, request).invite.unwrap();
    assert!(invite.admitted && invite.approved_by == ["ada"], "{invite:?}");
    assert_eq!(told(&mut ada, "site_approved").await, 1);
    federation.stop().await;
}

pub(super) async fn reject_site() {
    let (federation, mut ada) = open().await;
    let invited = ada.admin.invite_site(invite(&SECRET, None)).await.unwrap().into_inner();
    let seen = seen(invited.invite.unwrap().expires_at);
    twice!(ada.admin, reject_site, RejectSiteRequest { name: "mayo".into(), seen });
    assert_eq!(told(&mut ada, "invitation_ended").await, 1);
    federation.stop().await;
}

pub(super) async fn set_operator() {
    let (federation, mut ada) = open().await;
    let listed = twice!(ada.admin, set_operator, set("ada", OperatorRole::Admin, None));
    assert_eq!(listed.operator.unwrap().name, "ada");
    twice!(ada.admin, set_operator, set("bob", OperatorRole::Viewer, None));
    assert_eq!(told(&mut ada, "operator_set").await, 2);
    federation.stop().await;
}

pub(super) async fn approve_proposal() {
    let federation = Federation::start_with(RULES).await;
    let mut ada = federation.operator().await;
    let mut bob = federation.client("spiffe://brain/operator/bob").await;
    for _ in 0..2 {
        let refused = ada.admin.enroll_site(enroll(None)).await.unwrap_err();
        assert_eq!(Reason::of(&refused), Some(Reason::SecondPerson));
    }
    let agree = agree(&proposal(&mut bob).await);
    twice!(bob.admin, approve_proposal, agree.clone());
    twice!(ada.admin, enroll_site, enroll(None));
    // What was agreed with is spent; that it was stays so.
    twice!(bob.admin, approve_proposal, agree);
    for kind in ["second_person_needed", "second_person_agreed", "site_enrolled"] {
        assert_eq!(told(&mut ada, kind).await, 1, "{kind}");
    }
    federation.stop().await;
}

pub(super) async fn create_run() {
    let (federation, mut ada) = open().await;
    let bytes = model(&[1.0]);
    upload(&mut ada, initial(), &bytes).await.unwrap();
    let plan_toml = "version = 1\nrounds = 2\n[round]\nsites_min = 2\nsites_goal = 3\n".into();
    let (initial_model, name) = (Some(blob(&bytes)), "t1".into());
    let request = CreateRunRequest { name, plan_toml, initial_model, plan_signature: None };
    twice!(ada.admin, create_run, request.clone());
    // And when it is over, but for that it is.
    ada.admin.stop_run(StopRunRequest { name: "t1".into() }).await.unwrap();
    twice!(ada.admin, create_run, request);
    assert_eq!(told(&mut ada, "run_created").await, 1);
    federation.stop().await;
}

pub(super) async fn pause_run() {
    let (federation, mut ada) = running().await;
    twice!(ada.admin, pause_run, pause(round(1, 1)));
    assert_eq!(told(&mut ada, "run_paused").await, 1);
    federation.stop().await;
}

pub(super) async fn resume_run() {
    let (federation, mut ada) = running().await;
    ada.admin.pause_run(pause(round(1, 1))).await.unwrap();
    twice!(ada.admin, resume_run, resume(round(1, 1)));
    assert_eq!(told(&mut ada, "run_resumed").await, 1);
    assert_eq!(run(&mut ada).await.1, round(1, 2));
    federation.stop().await;
}

pub(super) async fn stop_run() {
    let (federation, mut ada) = running().await;
    twice!(ada.admin, stop_run, StopRunRequest { name: "t1".into() });
    assert_eq!(told(&mut ada, "run_stopped").await, 1);
    federation.stop().await;
}

pub(super) async fn readmit_site() {
    let (federation, mut ada) = running().await;
    ada.admin.enroll_site(enroll(None)).await.unwrap();
    let readmit = ReadmitSiteRequest { run: "t1".into(), site: "mayo".into() };
    let readmitted = twice!(ada.admin, readmit_site, readmit.clone());
    assert_eq!(readmitted.run.unwrap().readmitted, ["mayo"]);
    ada.admin.stop_run(StopRunRequest { name: "t1".into() }).await.unwrap();
    twice!(ada.admin, readmit_site, readmit);
    assert_eq!(told(&mut ada, "site_readmitted").await, 1);
    federation.stop().await;
}

pub(super) async fn abandon_round() {
    let (federation, mut ada) = running().await;
    let abandon = AbandonRoundRequest { round: Some(round(1, 1)), reason: "wrong plan".into() };
    twice!(ada.admin, abandon_round, abandon.clone());
    let other = AbandonRoundRequest { reason: "another".into(), ..abandon };
    let status = ada.admin.abandon_round(other).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::RoundOver), "that is not what was done");
    assert_eq!(told(&mut ada, "round_abandoned").await, 1);
    federation.stop().await;
}

/// Closing a phase twice does not close the next one.
pub(super) async fn close_round() {
    let federation = Federation::start().await;
    let mut ada = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    let bytes = model(&[1.0]);
    upload(&mut ada, initial(), &bytes).await.unwrap();
    let plan_toml = "version = 1\nrounds = 1\n[round]\nsites_min = 1\nsites_goal = 3\n".into();
    let (initial_model, name) = (Some(blob(&bytes)), "t1".into());
    let request = CreateRunRequest { name, plan_toml, initial_model, plan_signature: None };
    ada.admin.create_run(request).await.unwrap();
    for site in &mut sites {
        site.join().await;
    }
    let close =
        |phase: RoundPhase| CloseRoundRequest { round: Some(round(1, 1)), phase: phase.into() };
    let phase = |response: CloseRoundResponse| response.round.unwrap().phase();
    let early = ada.admin.close_round(close(RoundPhase::Reporting)).await.unwrap_err();
    assert_eq!(Reason::of(&early), Some(Reason::NotReporting));
    let closed = twice!(ada.admin, close_round, close(RoundPhase::Selecting));
    assert_eq!(phase(closed), RoundPhase::Reporting);
    let train = sites[0].train().await;
    sites[0].report(&train, &[2.0], 1).await.unwrap();
    let closed = ada.admin.close_round(close(RoundPhase::Selecting)).await.unwrap();
    assert_eq!(phase(closed.into_inner()), RoundPhase::Reporting, "b may report still");
    // What it answers is the round as it is by then, which its average ends by itself.
    for _ in 0..2 {
        ada.admin.close_round(close(RoundPhase::Reporting)).await.unwrap();
    }
    assert_eq!(told(&mut ada, "round_reporting").await, 1);
    assert_eq!(told(&mut ada, "round_aggregating").await, 1);
    federation.stop().await;
}
