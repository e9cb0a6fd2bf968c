//! A run's plan, as an operator writes it and a coordinator hands it on.

use fedpaint_proto::limits::PLAN_BYTES_MAX;
use fedpaint_proto::plan::RunPlan;

/// A text is a plan whose canonical form fits where a plan fits and reads back as the same plan with the same
/// digest; or it is refused.
///
/// # Panics
/// If it is not so.
pub fn any(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match RunPlan::from_toml(text) {
        Ok(plan) => {
            let canonical = plan.to_toml();
            assert!(canonical.len() <= PLAN_BYTES_MAX);
            let again = RunPlan::from_toml(&canonical).expect("a canonical form is a plan");
            assert_eq!((&again, again.digest()), (&plan, plan.digest()));
            assert_eq!(again.to_toml(), canonical);
            true
        }
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty());
            false
        }
    }
}
