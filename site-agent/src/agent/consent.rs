//! Which rounds this site takes part in, by its own policy: what was asked, what was declined and why.
//!
//! A round that is declined is told to the coordinator with every heartbeat as long as the rule holds, and
//! no longer: then the coordinator asks again. A run whose updates can never leave is not joined twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use fedpaint_proto::limits::DECLINED_MAX;
use fedpaint_proto::names::{Blob, RoundId, RunName};
use fedpaint_proto::plan::SignedPlan;
use fedpaint_proto::rule::Rule;

use crate::gate::Gate;
use crate::policy::{Refusal, judge};

/// What becomes of a round that could be joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Considered {
    /// It is joined.
    Join,
    /// Its run's plan is not known yet.
    AskForPlan,
    /// The policy refuses it; whether that is news.
    Declined(bool),
}

/// What this site thinks of the federation's runs.
#[derive(Debug)]
pub struct Consent {
    gate: Arc<Gate>,
    /// Plans never change; one that does not read is none.
    plans: BTreeMap<RunName, Option<SignedPlan>>,
    /// The newest round of each run that is declined, and by which rule.
    declined: BTreeMap<RunName, (RoundId, Rule)>,
    /// Runs of which an update was found that may not leave.
    barred: BTreeMap<RunName, Refusal>,
}

impl Consent {
    /// One that has heard of no run.
    pub fn new(gate: Arc<Gate>) -> Consent {
        let (plans, declined, barred) = Default::default();
        Consent { gate, plans, declined, barred }
    }

    /// Notes a run's plan; none is one that this version does not read.
    pub fn learn(&mut self, run: RunName, plan: Option<SignedPlan>) {
        self.plans.insert(run, plan);
    }

    /// Whether a round is to be joined.
    pub fn consider(&mut self, round: &RoundId) -> Considered {
        let Some(outcome) = self.judged(&round.run) else { return Considered::AskForPlan };
        match outcome {
            Ok(()) => {
                self.declined.remove(&round.run);
                Considered::Join
            }
            Err(refusal) => Considered::Declined(self.decline(round, &refusal)),
        }
    }

    /// Whether an update of a whole model as large as `base` could leave, where the run's updates are whole
    /// models; how many sites there will be nobody knows yet.
    pub fn may_fetch(&self, run: &RunName, base: Blob) -> bool {
        let Some(Some(signed)) = self.plans.get(run) else { return false };
        let bytes = if signed.plan.exchange.is_whole_model() { base.size } else { 0 };
        judge::all(judge::round(self.gate.policy(), u32::MAX, bytes, [])).is_ok()
    }

    /// Declines a round, and says so in the site's log where it is news; whether it is.
    pub fn decline(&mut self, round: &RoundId, refusal: &Refusal) -> bool {
        let Refusal { rule, detail } = refusal;
        let held = self.declined.insert(round.run.clone(), (round.clone(), *rule));
        if self.declined.len() > DECLINED_MAX {
            let oldest = self.declined.keys().find(|run| **run != round.run).cloned();
            if let Some(oldest) = oldest {
                self.declined.remove(&oldest);
            }
        }
        let is_news = held != Some((round.clone(), *rule));
        if is_news {
            tracing::warn!(%round, %rule, "refused by this site's policy: {detail}");
        }
        is_news
    }

    /// Notes that a round in hand was refused; its run is not joined again if every round of it would be.
    pub fn refused(&mut self, round: &RoundId, refusal: Refusal) {
        let Refusal { rule, detail } = &refusal;
        tracing::warn!(%round, %rule, "refused by this site's policy: {detail}");
        self.declined.insert(round.run.clone(), (round.clone(), *rule));
        if matches!(rule, Rule::Bytes | Rule::Tensors) {
            self.barred.insert(round.run.clone(), refusal);
        }
    }

    /// Lets go of what the policy no longer refuses, because time has passed, a file has gone, or
    /// somebody has approved.
    pub fn review(&mut self) {
        let runs: Vec<RunName> = self.declined.keys().cloned().collect();
        for run in runs {
            // A run whose plan is not known is asked for again as soon as anything is done at all.
            let outcome = self.judged(&run).unwrap_or_else(|| self.gate.now());
            if outcome.is_ok() {
                self.declined.remove(&run);
            }
        }
    }

    /// What the coordinator is told.
    pub fn declined(&self) -> Vec<(RoundId, Rule)> {
        self.declined.values().cloned().collect()
    }

    /// What the policy says of a run; nothing as long as its plan is not known.
    fn judged(&self, run: &RunName) -> Option<Result<(), Refusal>> {
        let plan = self.plans.get(run)?;
        Some(match (plan, self.barred.get(run)) {
            (_, Some(refusal)) => Err(refusal.clone()),
            (Some(plan), None) => self.gate.plan(plan),
            (None, None) => {
                let detail = "this version does not read the plan".to_owned();
                Err(Refusal { rule: Rule::Plan, detail })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::names::Digest;
    use fedpaint_proto::plan::RunPlan;
    use jiff::Timestamp;

    use super::*;
    use crate::gate::STOP_FILE;
    use crate::plans::{Approved, Plans};
    use crate::policy::Policy;

    fn round(run: &str, number: u32) -> RoundId {
        RoundId { run: run.parse().unwrap(), number, attempt: 1 }
    }

    fn consent(policy: Policy, folder: &std::path::Path) -> Consent {
        Consent::new(Arc::new(Gate::new(policy, folder, || Timestamp::UNIX_EPOCH)))
    }

    fn plan() -> SignedPlan {
        RunPlan::from_toml("version = 1\nrounds = 1").unwrap().into()
    }

    #[test]
    fn a_round_is_joined_once_its_plan_is_known_and_approved_and_declined_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let mut consent = consent(Policy::approved_by_a_human(), folder.path());
        let first = round("brain", 1);
        assert_eq!(consent.consider(&first), Considered::AskForPlan);
        consent.learn(first.run.clone(), Some(plan()));
        assert_eq!(consent.consider(&first), Considered::Declined(true));
        assert_eq!(consent.consider(&first), Considered::Declined(false), "told once");
        consent.review();
        assert_eq!(consent.declined(), [(first.clone(), Rule::Approval)]);
        let yes = Approved { by: "ada".into(), at: Timestamp::UNIX_EPOCH };
        let plans = Plans::of(folder.path());
        plans.keep(&first.run, &plan(), Timestamp::UNIX_EPOCH).unwrap();
        plans.approve(plan().plan.digest(), &yes).unwrap();
        consent.review();
        assert!(consent.declined().is_empty());
        assert_eq!(consent.consider(&first), Considered::Join);
    }

    #[test]
    fn a_run_whose_updates_may_not_leave_is_not_joined_twice_and_a_small_round_says_nothing_of_others()
     {
        let folder = tempfile::tempdir().unwrap();
        let mut consent = consent(Policy::open(), folder.path());
        for (run, rule, then) in [
            ("large", Rule::Bytes, Considered::Declined(true)),
            ("odd", Rule::Tensors, Considered::Declined(true)),
            ("small", Rule::Cohort, Considered::Join),
        ] {
            consent.learn(run.parse().unwrap(), Some(plan()));
            assert_eq!(consent.consider(&round(run, 1)), Considered::Join);
            consent.refused(&round(run, 1), Refusal { rule, detail: String::new() });
            assert_eq!(consent.consider(&round(run, 2)), then, "{run}");
        }
    }

    #[test]
    fn what_is_told_is_bounded_and_a_plan_that_does_not_read_is_declined() {
        let folder = tempfile::tempdir().unwrap();
        let mut consent = consent(Policy::open(), folder.path());
        for i in 0..=DECLINED_MAX {
            let round = round(&format!("run-{i}"), 1);
            consent.learn(round.run.clone(), None);
            assert_eq!(consent.consider(&round), Considered::Declined(true));
        }
        assert_eq!(consent.declined().len(), DECLINED_MAX);
        assert!(consent.declined().iter().all(|(_, rule)| *rule == Rule::Plan));
    }

    #[test]
    fn a_base_model_is_fetched_before_its_round_is_trained_only_where_its_update_may_leave() {
        let folder = tempfile::tempdir().unwrap();
        let mut policy = Policy::open();
        policy.egress.bytes_per_round_max = 4;
        let mut consent = consent(policy, folder.path());
        let run: RunName = "brain".parse().unwrap();
        let base = |size| Blob { digest: Digest::of(b"base"), size };
        assert!(!consent.may_fetch(&run, base(4)), "nothing is known of the run");
        consent.learn(run.clone(), Some(plan()));
        assert!(consent.may_fetch(&run, base(4)));
        assert!(!consent.may_fetch(&run, base(5)));
        // Of what a form makes smaller the base model's size says nothing.
        let plan = "version = 1\nrounds = 1\n[exchange]\nencoding = \"int8\"";
        consent.learn(run.clone(), Some(RunPlan::from_toml(plan).unwrap().into()));
        assert!(consent.may_fetch(&run, base(5)));
    }

    #[test]
    fn a_stop_file_declines_everything_while_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut consent = consent(Policy::open(), folder.path());
        let first = round("brain", 1);
        consent.learn(first.run.clone(), Some(plan()));
        let stop = folder.path().join(STOP_FILE);
        std::fs::write(&stop, "").unwrap();
        assert_eq!(consent.consider(&first), Considered::Declined(true));
        assert_eq!(consent.declined(), [(first.clone(), Rule::StopFile)]);
        std::fs::remove_file(&stop).unwrap();
        consent.review();
        assert_eq!(consent.consider(&first), Considered::Join);
    }
}
