//! A site's policy and a plan that is held against it: first the policy, and behind a NUL the plan.

use fedpaint_proto::plan::{RunPlan, SignedPlan};
use fedpaint_site_agent::policy::judge::{self, Update};
use fedpaint_site_agent::policy::{Approval, Error, Metric, POLICY_BYTES_MAX, Policy};

/// A text is a policy, or refused on one line; and what a policy lets through it has named, be it a plan, a
/// round or an update.
///
/// # Panics
/// If it is not so.
pub fn any(bytes: &[u8]) -> bool {
    let (policy, plan) = match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[][..]),
    };
    let policy = match super::as_file(policy, Policy::load) {
        Ok((policy, _)) => policy,
        Err(refusal @ Error::Parse { .. }) => {
            assert!(!refusal.to_string().contains('\n'));
            return false;
        }
        // Not UTF-8.
        Err(Error::Read { .. }) => return false,
    };
    assert!(bytes.len() as u64 <= POLICY_BYTES_MAX + 1 + plan.len() as u64);
    let plan = std::str::from_utf8(plan).ok().and_then(|text| RunPlan::from_toml(text).ok());
    let plan = plan.unwrap_or_else(a_plan);
    lets_through_what_it_names(&policy, &plan.into());
    true
}

fn a_plan() -> RunPlan {
    RunPlan::from_toml("version = 1\nrounds = 1").expect("the shortest plan")
}

fn lets_through_what_it_names(policy: &Policy, signed: &SignedPlan) {
    let plan = &signed.plan;
    let passes = |verdicts| judge::all(verdicts).is_ok();
    let human = policy.plan.approval == Approval::EachPlan;
    for approved in [false, true] {
        if passes(judge::plan(policy, signed, approved)) {
            let rules = &policy.plan;
            assert!(approved || !human);
            assert_eq!(rules.signers, None, "nobody has signed it");
            assert!(plan.rounds <= rules.rounds_max && plan.training.steps <= rules.steps_max);
            assert!(plan.training.batch <= rules.batch_max);
            assert!(plan.training.learning_rate <= rules.learning_rate_max);
            assert!(plan.round.sites_min >= policy.round.sites_min && policy.round.sites_min > 0);
            assert!(policy.egress.metrics.contains(&Metric::Examples));
        }
    }
    let most = policy.egress.bytes_per_round_max;
    let Some(more) = most.checked_add(1) else { return };
    assert!(!passes(judge::round(policy, u32::MAX, more, ["out.weight"])));
    let update = |bytes, differs| Update { bytes, tensors: vec!["out.weight"], differs };
    assert!(!passes(judge::update(policy, &update(more, None))));
    assert!(!passes(judge::update(policy, &update(0, Some("tensor scans".into())))));
    let named = policy.egress.tensors.allow("out.weight");
    assert_eq!(passes(judge::update(policy, &update(most, None))), named);
}
