//! A site that looks at what it could be asked to train, before it takes part.

use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::{
    Event, GetRoundRequest, GetRunPlanRequest, ListEventsRequest, ListSitesRequest, Member,
    OpenRound, PauseRunRequest, PreviewWorkRequest, RoundRef, Site,
};
use fedpaint_proto::wire::{WIRE_VERSION, WIRE_VERSIONS_SERVED};

use crate::blobs::download;
use crate::federation::{Client, Federation};
use crate::rounds::{blob, create_run};

async fn look(site: &mut Client) -> Vec<OpenRound> {
    let request = PreviewWorkRequest { wire_version: WIRE_VERSION };
    site.federation.preview_work(request).await.unwrap().into_inner().rounds
}

/// All that a call of a site's may change: the audit log, the sites and the round's members.
async fn traces(operator: &mut Client) -> (Vec<Event>, Vec<Site>, Vec<Member>) {
    let admin = &mut operator.admin;
    let request = ListEventsRequest { after_seq: 0, limit: 0 };
    let events = admin.list_events(request).await.unwrap().into_inner().events;
    let sites = admin.list_sites(ListSitesRequest {}).await.unwrap().into_inner().sites;
    let request = GetRoundRequest { run: "t1".into(), number: 1, attempt: 1 };
    let round = admin.get_round(request).await.unwrap().into_inner().round.unwrap();
    (events, sites, round.members)
}

#[tokio::test]
async fn a_site_that_looks_reads_all_that_it_would_train_from_and_leaves_no_trace() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut mayo = federation.site("mayo").await;
    assert!(look(&mut mayo).await.is_empty(), "there is no run");
    let base = create_run(&mut operator, &[1.0, 2.0]).await;
    let before = traces(&mut operator).await;
    let round = RoundRef { run: "t1".into(), number: 1, attempt: 1 };
    let expected = OpenRound { round: Some(round), base_model: Some(blob(&base)), cohort: 2 };
    assert_eq!(look(&mut mayo).await, [expected]);
    let plan = GetRunPlanRequest { run: "t1".into() };
    let plan = mayo.federation.get_run_plan(plan).await.unwrap().into_inner();
    assert!(plan.plan_toml.contains("sites_goal = 2"));
    let read = download(&mut mayo, &blob(&base).digest, 0).await.unwrap();
    assert!(read == base, "the base model is another");
    assert_eq!(traces(&mut operator).await, before);
    federation.stop().await;
}

#[tokio::test]
async fn a_site_that_looks_is_told_how_many_it_would_be_one_of_and_nothing_of_a_run_that_is_paused()
{
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut mayo = federation.site("mayo").await;
    let base = create_run(&mut operator, &[1.0, 2.0]).await;
    let mut members = [federation.site("a").await, federation.site("b").await];
    for member in &mut members {
        member.join().await;
    }
    assert_eq!(look(&mut mayo).await[0].cohort, 3, "two and itself");
    assert_eq!(look(&mut members[0]).await[0].cohort, 2, "itself is one of the two");
    operator.admin.pause_run(PauseRunRequest { name: "t1".into(), round: None }).await.unwrap();
    assert!(look(&mut mayo).await.is_empty());
    let status = download(&mut mayo, &blob(&base).digest, 0).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::BlobUnknown));
    let request = PreviewWorkRequest { wire_version: WIRE_VERSIONS_SERVED.end() + 1 };
    let status = mayo.federation.preview_work(request).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::WireVersion));
    federation.stop().await;
}
