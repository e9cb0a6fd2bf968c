//! A site's policy and a plan that is held against it: first the policy, and behind a NUL the plan as it travels, with
//! the signature of whoever is said to stand behind it.

use fedpaint_proto::plan::{PlanKey, RunPlan, SignedPlan};
use fedpaint_proto::v1::GetRunPlanResponse;
use fedpaint_site_agent::client::PlanTold;
use fedpaint_site_agent::policy::judge::{self, Update};
use fedpaint_site_agent::policy::{Approval, Error, Metric, POLICY_BYTES_MAX, Policy};
use prost::Message;

/// The longest words about an answer of the coordinator's.
const REFUSAL_BYTES_MAX: usize = 300;

/// The public key of `tests/fixtures/signing/mayo.signing.key`.
pub const SIGNER: &str = "ed25519:214b123bc915d6d9895252daed92bf38c396e53055469b7f3f53c1617ac7a2fd";

/// The only plan that it has ever signed, as TOML.
pub const SIGNED_ONCE: &str = "version = 1\nrounds = 3\n";

/// A text is a policy, or refused on one line; and what a policy lets through it has named, be it a plan, a
/// round or an update.
///
/// # Panics
/// If it is not so.
pub fn any(bytes: &[u8]) -> bool {
    follows(bytes).is_some()
}

/// Whether a site of this policy follows the plan behind it once a human has approved it, if it is a policy.
///
/// # Panics
/// If it lets through what it has not named.
pub fn follows(bytes: &[u8]) -> Option<bool> {
    let (policy, plan) = match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[][..]),
    };
    let policy = match super::as_file(policy, Policy::load) {
        Ok((policy, _)) => policy,
        Err(refusal @ Error::Parse { .. }) => {
            assert!(!refusal.to_string().contains('\n'));
            return None;
        }
        // Not UTF-8.
        Err(Error::Read { .. }) => return None,
    };
    assert!(bytes.len() as u64 <= POLICY_BYTES_MAX + 1 + plan.len() as u64);
    Some(lets_through_what_it_names(&policy, &told(plan).unwrap_or_else(a_plan)))
}

/// The plan that a coordinator tells by these bytes, as the agent reads it.
fn told(bytes: &[u8]) -> Option<SignedPlan> {
    let answer = GetRunPlanResponse::decode(bytes).ok()?;
    match PlanTold::from_wire(answer) {
        Ok(told) => told.read().ok(),
        Err(refusal) => {
            super::is_a_line(refusal.message(), REFUSAL_BYTES_MAX);
            None
        }
    }
}

fn a_plan() -> SignedPlan {
    RunPlan::from_toml("version = 1\nrounds = 1").expect("the shortest plan").into()
}

/// Who stands behind a plan that passes is somebody whom the policy names, and has signed this very plan.
fn is_signed_by_whom_it_names(signers: &[PlanKey], signed: &SignedPlan) {
    let signature = signed.signature.expect("the signature of a plan that passes");
    assert!(signers.contains(&signature.key) && signature.is_over(&signed.plan));
    let only: PlanKey = SIGNER.parse().expect("a key");
    if signers == [only] {
        let once = RunPlan::from_toml(SIGNED_ONCE).expect("a plan");
        assert_eq!(signed.plan, once, "it has signed nothing else");
    }
}

/// Whether the plan passes once it is approved.
fn lets_through_what_it_names(policy: &Policy, signed: &SignedPlan) -> bool {
    let plan = &signed.plan;
    let passes = |verdicts| judge::all(verdicts).is_ok();
    let human = policy.plan.approval == Approval::EachPlan;
    for approved in [false, true] {
        if passes(judge::plan(policy, signed, approved)) {
            let rules = &policy.plan;
            assert!(approved || !human);
            if let Some(signers) = &rules.signers {
                is_signed_by_whom_it_names(signers, signed);
            }
            assert!(plan.rounds <= rules.rounds_max && plan.training.steps <= rules.steps_max);
            assert!(plan.training.batch <= rules.batch_max);
            assert!(plan.training.learning_rate <= rules.learning_rate_max);
            assert!(plan.round.sites_min >= policy.round.sites_min && policy.round.sites_min > 0);
            assert!(policy.egress.metrics.contains(&Metric::Examples));
        }
    }
    what_leaves_is_named(policy);
    passes(judge::plan(policy, signed, true))
}

fn what_leaves_is_named(policy: &Policy) {
    let passes = |verdicts| judge::all(verdicts).is_ok();
    let most = policy.egress.bytes_per_round_max;
    let Some(more) = most.checked_add(1) else { return };
    assert!(!passes(judge::round(policy, u32::MAX, more, ["out.weight"])));
    let update = |bytes, differs| Update { bytes, tensors: vec!["out.weight"], differs };
    assert!(!passes(judge::update(policy, &update(more, None))));
    assert!(!passes(judge::update(policy, &update(0, Some("tensor scans".into())))));
    let named = policy.egress.tensors.allow("out.weight");
    assert_eq!(passes(judge::update(policy, &update(most, None))), named);
}
