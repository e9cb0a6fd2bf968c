//! Two calls that were made of the same sight, in both orders: the second finds what the first has left, and either
//! changes nothing of it or is refused. So the outcome is that of one of the two alone, or of both as they were
//! made, and whoever is refused hears it.

use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::OperatorRole;

use super::operators::{open, running};
use super::{
    enroll, is_active, is_in, is_stale, may, pause, resume, revoke, round, run, set, told,
};

#[tokio::test]
async fn a_run_that_is_paused_goes_on_whether_its_resumption_or_another_pause_comes_first() {
    for pause_first in [true, false] {
        let (federation, mut ada) = running().await;
        ada.admin.pause_run(pause(round(1, 1))).await.unwrap();
        let (_, newest) = run(&mut ada).await;
        let (pauses, resumes) = (pause(newest.clone()), resume(newest));
        if pause_first {
            ada.admin.pause_run(pauses).await.unwrap();
            ada.admin.resume_run(resumes).await.unwrap();
        } else {
            ada.admin.resume_run(resumes).await.unwrap();
            is_stale(ada.admin.pause_run(pauses).await);
        }
        assert!(is_active(&mut ada).await, "pause first: {pause_first}");
        for kind in ["run_paused", "run_resumed"] {
            assert_eq!(told(&mut ada, kind).await, 1, "{kind}");
        }
        federation.stop().await;
    }
}

#[tokio::test]
async fn a_run_that_was_paused_and_goes_on_is_not_paused_by_the_pause_that_comes_behind() {
    for late in [false, true] {
        let (federation, mut ada) = running().await;
        let (pauses, resumes) = (pause(round(1, 1)), resume(round(1, 1)));
        ada.admin.pause_run(pauses.clone()).await.unwrap();
        ada.admin.resume_run(resumes.clone()).await.unwrap();
        // Both come once more, in either order.
        if late {
            ada.admin.resume_run(resumes).await.unwrap();
            is_stale(ada.admin.pause_run(pauses).await);
        } else {
            is_stale(ada.admin.pause_run(pauses).await);
            ada.admin.resume_run(resumes).await.unwrap();
        }
        assert!(is_active(&mut ada).await);
        assert_eq!(run(&mut ada).await.1, round(1, 2), "nothing was given up");
        federation.stop().await;
    }
}

#[tokio::test]
async fn a_site_is_in_or_out_alike_whether_its_revocation_or_its_enrolment_comes_first() {
    for revoke_first in [true, false] {
        let (federation, mut ada) = open().await;
        let site = ada.admin.enroll_site(enroll(None)).await.unwrap().into_inner().site.unwrap();
        // Of a site that is in: it is out in the end, and who would let it in hears that it was revoked.
        if revoke_first {
            ada.admin.revoke_site(revoke(&site)).await.unwrap();
            let refused = ada.admin.enroll_site(enroll(None)).await.unwrap_err();
            assert_eq!(Reason::of(&refused), Some(Reason::Revoked));
        } else {
            ada.admin.enroll_site(enroll(None)).await.unwrap();
            ada.admin.revoke_site(revoke(&site)).await.unwrap();
        }
        assert!(!is_in(&mut ada).await);
        // Of one that is out: it is in in the end, and who would revoke it hears that it was let in again.
        let out = ada.admin.revoke_site(revoke(&site)).await.unwrap().into_inner().site.unwrap();
        if revoke_first {
            ada.admin.revoke_site(revoke(&out)).await.unwrap();
            ada.admin.enroll_site(enroll(out.revoked_at)).await.unwrap();
        } else {
            ada.admin.enroll_site(enroll(out.revoked_at)).await.unwrap();
            is_stale(ada.admin.revoke_site(revoke(&out)).await);
        }
        assert!(is_in(&mut ada).await);
        assert_eq!(told(&mut ada, "site_revoked").await, 1);
        assert_eq!(told(&mut ada, "site_enrolled").await, 2);
        federation.stop().await;
    }
}

#[tokio::test]
async fn of_two_who_set_what_an_operator_may_do_the_first_does_and_the_second_hears_it() {
    for swapped in [false, true] {
        let (federation, mut ada) = open().await;
        ada.admin.set_operator(set("ada", OperatorRole::Admin, None)).await.unwrap();
        let mut roles = [OperatorRole::Viewer, OperatorRole::Runner];
        if swapped {
            roles.reverse();
        }
        let [first, second] = roles;
        ada.admin.set_operator(set("bob", first, None)).await.unwrap();
        is_stale(ada.admin.set_operator(set("bob", second, None)).await);
        assert_eq!(may(&mut ada, "bob").await, Some(first));
        assert_eq!(told(&mut ada, "operator_set").await, 2);
        federation.stop().await;
    }
}
