//! A save of which the driver does not learn that it happened.

use super::*;

/// What the driver would save next, were it told that kyoto joins, saved behind its back: as when the
/// connection to the database breaks between the commit and its answer.
async fn join_unnoticed(coordinator: &Coordinator) {
    let loaded = coordinator.store.load().await.unwrap();
    let mut core = core::Core::load(loaded, Duration::from_secs(5));
    let beat = Beat { activity: Activity::Joining(round(1, 1)), ..idle("0.1.0".to_owned()) };
    let request = core::Request::Beat(site("kyoto"), beat);
    let step = core.apply(request, coordinator.clock.now()).unwrap();
    coordinator.store.save(&step.change()).await.unwrap();
    core.install(step);
}

#[tokio::test]
async fn a_driver_that_is_behind_its_database_asks_it_what_holds_and_goes_on() {
    let coordinator = Coordinator::start(1).await;
    join_unnoticed(&coordinator).await;
    let beat = Beat { activity: Activity::Joining(round(1, 1)), ..idle("0.1.0".to_owned()) };
    let failed = coordinator.handle.heartbeat(&site("aachen"), beat).await;
    assert!(matches!(failed, Err(Error::Store(_))), "its entry of the audit log is there already");

    coordinator.join(&["aachen", "mayo"]).await;
    let view = coordinator.handle.round(&round(1, 1)).await.unwrap();
    let members: Vec<&str> = view.members.iter().map(|member| member.site.as_str()).collect();
    assert_eq!(members, ["aachen", "kyoto", "mayo"], "what nobody had noticed holds");
    assert!(matches!(view.phase, Phase::Reporting { .. }));
    for name in ["aachen", "kyoto", "mayo"] {
        coordinator.submit(round(1, 1), name, 2.0, 1).await;
    }
    coordinator.until_committed(1).await;
    let kinds = coordinator.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "site_joined").count(), 3);
}
