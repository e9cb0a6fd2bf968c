//! The agent behind its site's own policy, against a coordinator that is made up.

use fedpaint_proto::rule::Rule;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::{PolicyRule, WithdrawalReason};
use fedpaint_site_agent::gate::{Gate, STOP_FILE};
use fedpaint_site_agent::plans::{Approved, Plans};
use fedpaint_site_agent::policy::{Metric, Policy};
use jiff::Timestamp;

use crate::agent::Site;
use crate::fake::{Fake, State, has_stepped, round};
use crate::site::{ENDLESS, PLAN, model, setup};

/// An agent behind this policy.
pub(crate) fn start(fake: &tonic::transport::Channel, policy: Policy) -> Site {
    let workspace = tempfile::tempdir().unwrap();
    let gate = Gate::new(policy, workspace.path(), || Timestamp::UNIX_EPOCH);
    let setup = setup(workspace.path());
    Site::start_behind(gate, workspace, fake.clone(), setup)
}

/// By which rule the agent gave this attempt up, if it did.
fn refused(state: &State, attempt: u32) -> Option<Rule> {
    state.said.iter().find_map(|said| match said {
        Activity::Withdrawing(w)
            if w.round.as_ref() == Some(&round(1, attempt))
                && w.reason() == WithdrawalReason::Policy =>
        {
            Some(w.rule().into())
        }
        _ => None,
    })
}

fn declines(state: &State, rule: Rule) -> bool {
    state.declined.iter().any(|declined| declined.rule() == PolicyRule::from(rule))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_nobody_approved_is_declined_without_joining_and_trained_once_somebody_has() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    let site = start(&channel, Policy::approved_by_a_human());
    fake.until(|state| declines(state, Rule::Approval)).await;
    let plans = Plans::of(site.workspace.path());
    let (digest, shown) = plans.list().unwrap().remove(0);
    assert_eq!(shown.run.as_str(), "brain");
    assert!(fake.state().said.iter().all(|said| matches!(said, Activity::Idle(_))));
    let yes = Approved { by: "ada".into(), at: Timestamp::UNIX_EPOCH };
    plans.approve(digest, &yes).unwrap();
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_file_ends_a_training_under_way_and_no_byte_leaves_until_it_is_gone() {
    let (fake, channel) = Fake::start(ENDLESS, model()).await;
    let site = start(&channel, Policy::open());
    fake.until(|state| has_stepped(state, &round(1, 1))).await;
    let stop = site.workspace.path().join(STOP_FILE);
    std::fs::write(&stop, "").unwrap();
    fake.until(|state| refused(state, 1) == Some(Rule::StopFile)).await;
    fake.until(|state| declines(state, Rule::StopFile)).await;
    fake.state().plan = PLAN.into();
    assert_eq!(fake.state().uploads, 0);
    std::fs::remove_file(&stop).unwrap();
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_another_once_the_round_is_joined_is_judged_as_it_is_then() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    fake.state().plan_once_joined = Some(ENDLESS.into());
    let mut policy = Policy::open();
    policy.plan.steps_max = 1_000;
    let site = start(&channel, policy);
    fake.until(|state| refused(state, 1) == Some(Rule::Steps)).await;
    site.stop().await;
    let state = fake.state();
    assert!(!has_stepped(&state, &round(1, 1)) && state.uploads == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_of_too_few_sites_is_given_up_before_it_is_trained() {
    let (fake, channel) = Fake::start(
        &PLAN.replace("sites_min = 1", "sites_min = 2").replace("sites_goal = 1", "sites_goal = 2"),
        model(),
    )
    .await;
    fake.state().cohort = 1;
    let mut policy = Policy::open();
    policy.round.sites_min = 2;
    let site = start(&channel, policy);
    fake.until(|state| refused(state, 1) == Some(Rule::Cohort)).await;
    assert!(!has_stepped(&fake.state(), &round(1, 1)));
    fake.state().cohort = 2;
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_updates_are_too_large_or_have_a_tensor_that_may_not_leave_is_refused() {
    let mut small = Policy::open();
    small.egress.bytes_per_round_max = 1000;
    let mut named = Policy::open();
    named.egress.tensors = serde_json::from_str("[\"*\", \"!out.*\"]").unwrap();
    for (policy, rule) in [(small, Rule::Bytes), (named, Rule::Tensors)] {
        let (fake, channel) = Fake::start(PLAN, model()).await;
        let site = start(&channel, policy);
        fake.until(|state| refused(state, 1) == Some(rule)).await;
        // The next attempt is not joined at all.
        fake.until(|state| state.declined.iter().any(|d| d.round == Some(round(1, 2)))).await;
        site.stop().await;
        let state = fake.state();
        assert!(!has_stepped(&state, &round(1, 1)) && state.uploads == 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_may_not_leave_are_told_as_0_in_heartbeats_and_in_the_report() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    let mut policy = Policy::open();
    policy.egress.metrics = vec![Metric::Examples, Metric::LossLast];
    let site = start(&channel, policy);
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
    let state = fake.state();
    let submitted = &state.submitted[0];
    let report = submitted.report.unwrap();
    assert!(submitted.examples == 6 && report.loss_last > 0.0);
    assert_eq!((report.steps, report.loss_mean, report.gradient_norm_p99), (0, 0.0, 0.0));
    assert!(!has_stepped(&state, &round(1, 1)));
}
