//! Calls that come when what they saw has changed: they are refused, and undo nothing that was done since. And
//! calls that their caller has given up.

use fedpaint_proto::given_up;
use fedpaint_proto::v1::{
    ApproveSiteRequest, Invite, InviteSiteRequest, ListSitesRequest, OperatorRole, PauseRunRequest,
    RejectSiteRequest, RevokeSiteRequest, RunState,
};

use super::operators::{RULES, agree, open, proposal, running};
use super::{
    enroll, invite, is_active, is_in, is_stale, may, pause, resume, revoke, round, run, seen, set,
    told,
};
use crate::federation::{Client, Federation};
use crate::newcomer::Newcomer;

#[tokio::test]
async fn an_operators_call_that_comes_after_it_was_given_up_undoes_nothing() {
    let (federation, mut ada) = open().await;
    let site = ada.admin.enroll_site(enroll(None)).await.unwrap().into_inner().site.unwrap();
    let mut request = tonic::Request::new(revoke(&site));
    given_up::mark(&mut request, jiff::Timestamp::UNIX_EPOCH);
    let status = ada.admin.revoke_site(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert!(status.message().contains("given this call up"), "{status}");
    assert_eq!(told(&mut ada, "site_revoked").await, 0);
    federation.stop().await;
}

#[tokio::test]
async fn a_pause_from_before_the_run_was_resumed_pauses_nothing() {
    let (federation, mut ada) = running().await;
    ada.admin.pause_run(pause(round(1, 1))).await.unwrap();
    ada.admin.resume_run(resume(round(1, 1))).await.unwrap();
    is_stale(ada.admin.pause_run(pause(round(1, 1))).await);
    assert!(is_active(&mut ada).await);
    // Nor after a restart, which knows that it was resumed.
    let (folder, authority) = federation.stop().await;
    let clock = std::sync::Arc::new(fedpaint_coordinator::clock::SystemClock);
    let federation = Federation::start_in(folder, authority, clock).await;
    let mut ada = federation.operator().await;
    is_stale(ada.admin.pause_run(pause(round(1, 1))).await);
    // Whoever has seen that it goes on pauses it, and so does an older program that says nothing of it.
    let (_, newest) = run(&mut ada).await;
    let paused = ada.admin.pause_run(pause(newest.clone())).await.unwrap().into_inner();
    assert_eq!(paused.run.unwrap().state(), RunState::Paused);
    ada.admin.pause_run(pause(round(1, 1))).await.unwrap();
    ada.admin.resume_run(resume(newest)).await.unwrap();
    let unsaid = PauseRunRequest { name: "t1".into(), round: None };
    ada.admin.pause_run(unsaid).await.unwrap();
    assert_eq!(told(&mut ada, "run_paused").await, 3);
    federation.stop().await;
}

#[tokio::test]
async fn a_revocation_from_before_its_site_was_let_in_again_shuts_nobody_out() {
    let (federation, mut ada) = open().await;
    let first = ada.admin.enroll_site(enroll(None)).await.unwrap().into_inner().site.unwrap();
    let out = ada.admin.revoke_site(revoke(&first)).await.unwrap().into_inner().site.unwrap();
    let again = ada.admin.enroll_site(enroll(out.revoked_at)).await.unwrap();
    is_stale(ada.admin.revoke_site(revoke(&first)).await);
    assert!(is_in(&mut ada).await);
    ada.admin.revoke_site(revoke(&again.into_inner().site.unwrap())).await.unwrap();
    // Whoever is out is out, whatever the call saw.
    ada.admin.revoke_site(revoke(&first)).await.unwrap();
    let unsaid = RevokeSiteRequest { name: "mayo".into(), seen: None };
    ada.admin.revoke_site(unsaid).await.unwrap();
    assert!(!is_in(&mut ada).await);
    assert_eq!(told(&mut ada, "site_revoked").await, 2);
    federation.stop().await;
}

/// Who asks to join and until when.
async fn invited(ada: &mut Client, request: InviteSiteRequest) -> Invite {
    ada.admin.invite_site(request).await.unwrap().into_inner().invite.unwrap()
}

fn reject(invite: &Invite) -> RejectSiteRequest {
    RejectSiteRequest { name: invite.site.clone(), seen: seen(invite.expires_at) }
}

#[tokio::test]
async fn calls_about_an_invitation_that_was_ended_change_nothing_of_the_next_one() {
    let (old, next) = ([1; 32], [2; 32]);
    let (federation, mut ada) = open().await;
    let (newcomer, mut door) = (Newcomer::new(), Newcomer::door(&federation).await);
    let first = invited(&mut ada, invite(&old, None)).await;
    door.join(newcomer.asks(&old)).await.unwrap();
    ada.admin.reject_site(reject(&first)).await.unwrap();
    // The token that was ended is not good again, though there is no invitation, as the call saw.
    is_stale(ada.admin.invite_site(invite(&old, None)).await);
    let second = invited(&mut ada, invite(&next, None)).await;
    door.join(newcomer.asks(&next)).await.unwrap();

    is_stale(ada.admin.invite_site(invite(&old, None)).await);
    is_stale(ada.admin.invite_site(invite(&[3; 32], None)).await);
    is_stale(ada.admin.reject_site(reject(&first)).await);
    let approve = |seen_first: bool| {
        let ends = if seen_first { first.expires_at } else { second.expires_at };
        ApproveSiteRequest { name: "mayo".into(), words: newcomer.words(), seen: seen(ends) }
    };
    is_stale(ada.admin.approve_site(approve(true)).await);
    let held = ada.admin.list_sites(ListSitesRequest {}).await.unwrap().into_inner().invites;
    assert_eq!((held[0].expires_at, held[0].approved_by.len()), (second.expires_at, 0));
    ada.admin.approve_site(approve(false)).await.unwrap();
    ada.admin.reject_site(reject(&second)).await.unwrap();
    federation.stop().await;
}

#[tokio::test]
async fn what_an_operator_may_do_is_not_set_back_by_a_call_from_before() {
    let (federation, mut ada) = open().await;
    ada.admin.set_operator(set("ada", OperatorRole::Admin, None)).await.unwrap();
    let viewer = set("bob", OperatorRole::Viewer, None);
    let listed = ada.admin.set_operator(viewer.clone()).await.unwrap().into_inner().operator;
    let runner = set("bob", OperatorRole::Runner, listed.unwrap().since);
    ada.admin.set_operator(runner).await.unwrap();
    is_stale(ada.admin.set_operator(viewer).await);
    assert_eq!(may(&mut ada, "bob").await, Some(OperatorRole::Runner));
    federation.stop().await;
}

#[tokio::test]
async fn an_approval_of_what_was_done_is_none_of_the_same_once_more() {
    let federation = Federation::start_with(RULES).await;
    let mut ada = federation.operator().await;
    let mut bob = federation.client("spiffe://brain/operator/bob").await;
    ada.admin.enroll_site(enroll(None)).await.unwrap_err();
    let late = agree(&proposal(&mut bob).await);
    bob.admin.approve_proposal(late.clone()).await.unwrap();
    let site = ada.admin.enroll_site(enroll(None)).await.unwrap().into_inner().site.unwrap();
    let out = ada.admin.revoke_site(revoke(&site)).await.unwrap().into_inner().site.unwrap();
    ada.admin.enroll_site(enroll(out.revoked_at)).await.unwrap_err();
    is_stale(bob.admin.approve_proposal(late).await);
    ada.admin.enroll_site(enroll(out.revoked_at)).await.unwrap_err();
    let again = agree(&proposal(&mut bob).await);
    bob.admin.approve_proposal(again).await.unwrap();
    ada.admin.enroll_site(enroll(out.revoked_at)).await.unwrap();
    assert!(is_in(&mut ada).await);
    federation.stop().await;
}
