//! Rounds that a site's own policy refuses.

use fedpaint_proto::rule::Rule;

use super::view::Why;
use super::*;

#[tokio::test]
async fn a_round_that_a_site_declines_is_told_once_in_the_audit_log_and_shown_until_it_is_taken() {
    let coordinator = Coordinator::start(1).await;
    let declining = |rule| Beat {
        declined: vec![(round(1, 1), rule), (round(7, 1), rule)],
        ..idle("0.1.0".to_owned())
    };
    let handle = &coordinator.handle;
    for rule in [Rule::Approval, Rule::Approval, Rule::Hours, Rule::Approval, Rule::Hours] {
        coordinator.clock.advance(Duration::from_secs(1));
        let told = handle.heartbeat(&site("mayo"), declining(rule)).await.unwrap().directive;
        assert_eq!(told, Directive::Rest, "it is not asked again");
    }
    let missing = handle.round(&round(1, 1)).await.unwrap().missing;
    let mayo = missing.iter().find(|missing| missing.site == site("mayo")).unwrap();
    assert_eq!(mayo.why, Why::Declined(Rule::Hours));
    assert_eq!(
        mayo.since,
        Some(Timestamp::from_second(5).unwrap()),
        "since it refuses by this rule"
    );
    assert!(mayo.to_string().contains("hours"), "{mayo}");
    coordinator.clock.advance(Duration::from_secs(2));
    handle.heartbeat(&site("mayo"), declining(Rule::Hours)).await.unwrap();
    let missing = handle.round(&round(1, 1)).await.unwrap().missing;
    let mayo = missing.iter().find(|missing| missing.site == site("mayo")).unwrap();
    assert_eq!(mayo.since, Some(Timestamp::from_second(5).unwrap()), "it still does");
    // The rule no longer holds.
    let told = coordinator.beat("mayo", Activity::Idle).await;
    assert!(matches!(told, Directive::Join { .. }), "{told:?}");
    handle.heartbeat(&site("mayo"), declining(Rule::Hours)).await.unwrap();
    let kinds = coordinator.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "site_declined").count(), 2);
}
