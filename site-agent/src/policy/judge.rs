//! What a policy says of a moment, a plan, a round and an update: pure, one named rule a refusal.

use fedpaint_proto::plan::{PlanSignature, SignedPlan};
use fedpaint_proto::rule::Rule;
use jiff::civil::Time;
use serde::Serialize;

use super::{Approval, Metric, Policy, Refusal};
use crate::client::Activity;
use crate::pipe::{Progress, Report};

/// What one rule says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The rule.
    pub rule: Rule,
    /// Whether it lets through.
    pub passes: bool,
    /// What it looked at, for the site's own eyes.
    pub detail: String,
}

/// What the site looks like now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of day, in the machine's time zone.
    pub time: Time,
    /// Whether a stop file is there.
    pub is_stopped: bool,
}

/// An update as it would leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    /// The file's bytes.
    pub bytes: u64,
    /// Its tensors' names.
    pub tensors: Vec<&'a str>,
    /// In what it is not the very file that was trained from this base model, if there is something.
    pub differs: Option<String>,
}

/// The first rule that does not let through.
///
/// # Errors
/// Its refusal.
pub fn all(verdicts: Vec<Verdict>) -> Result<(), Refusal> {
    match verdicts.into_iter().find(|verdict| !verdict.passes) {
        Some(Verdict { rule, detail, .. }) => Err(Refusal { rule, detail }),
        None => Ok(()),
    }
}

/// Whether anything may be done now.
pub fn moment(policy: &Policy, now: Moment) -> Vec<Verdict> {
    let Moment { time, is_stopped } = now;
    let stop = if is_stopped { "a stop file is there" } else { "no stop file is there" };
    let time_of_day = format!("it is {}", time.strftime("%H:%M"));
    vec![
        verdict(Rule::StopFile, !is_stopped, stop.to_owned()),
        verdict(Rule::Hours, policy.run.hours.contain(time), time_of_day),
    ]
}

/// Whether a plan may be followed, `approved` or not by a human here.
pub fn plan(policy: &Policy, signed: &SignedPlan, approved: bool) -> Vec<Verdict> {
    let plan = &signed.plan;
    let (rules, training) = (&policy.plan, &plan.training);
    let needs_none = rules.approval == Approval::None;
    let approval = match (needs_none, approved) {
        (true, _) => "the policy asks for no approval",
        (false, true) => "a human has approved it",
        (false, false) => "nobody has approved it: fedpaint-site-agent plan show, plan approve",
    };
    let at_most = |rule, what: &str, found: u32, max: u32| {
        verdict(rule, found <= max, format!("{found} {what}, at most {max}"))
    };
    let (rate, rate_max) = (training.learning_rate, rules.learning_rate_max);
    let (sites, sites_min) = (plan.round.sites_min, policy.round.sites_min);
    let enough = sites_min > 0 && sites >= sites_min;
    let counts = policy.allows(Metric::Examples);
    let examples = if counts { "may leave" } else { "may not leave, so no update can count" };
    vec![
        of_signers(policy, signed),
        at_most(Rule::Rounds, "rounds", plan.rounds, rules.rounds_max),
        at_most(Rule::Steps, "steps a round", training.steps, rules.steps_max),
        at_most(Rule::Batch, "slices a step", training.batch, rules.batch_max),
        verdict(
            Rule::Optimiser,
            rate <= rate_max,
            format!("learning rate {rate}, at most {rate_max}"),
        ),
        verdict(Rule::Cohort, enough, of_sites("a round may have", sites, sites_min)),
        verdict(Rule::Metrics, counts, format!("the number of slices seen {examples}")),
        // Last, so that nobody is asked to look at what is refused in any case.
        verdict(Rule::Approval, needs_none || approved, approval.to_owned()),
    ]
}

/// Whether a round that was joined may be trained: `cohort` sites are in it (0: the coordinator does not
/// say), and an update would have about `bytes` and these `tensors`.
pub fn round<'a>(
    policy: &Policy,
    cohort: u32,
    bytes: u64,
    tensors: impl IntoIterator<Item = &'a str>,
) -> Vec<Verdict> {
    let sites_min = policy.round.sites_min;
    // A single site is there in any case: this one.
    let enough = sites_min > 0 && cohort.max(1) >= sites_min;
    vec![
        verdict(Rule::Cohort, enough, of_sites("the round has", cohort, sites_min)),
        of_bytes(policy, bytes),
        of_tensors(policy, tensors),
    ]
}

/// Whether an update may leave.
pub fn update(policy: &Policy, update: &Update<'_>) -> Vec<Verdict> {
    let same = update.differs.is_none();
    let kept = update.differs.clone();
    let kept = kept.unwrap_or_else(|| "a version of its base model".to_owned());
    vec![
        of_bytes(policy, update.bytes),
        verdict(Rule::Tensors, same, kept),
        of_tensors(policy, update.tensors.iter().copied()),
    ]
}

fn of_signers(policy: &Policy, signed: &SignedPlan) -> Verdict {
    let (passes, detail) = match (&policy.plan.signers, &signed.signature) {
        (None, _) => (true, "the policy asks for no signature".to_owned()),
        (Some(_), None) => (false, "nobody has signed it".to_owned()),
        (Some(signers), Some(PlanSignature { key, .. })) if !signers.contains(key) => {
            (false, format!("it is signed by {key}, whom plan.signers does not name"))
        }
        (Some(_), Some(signature)) if !signature.is_over(&signed.plan) => {
            (false, format!("the signature of {} is not over this plan", signature.key))
        }
        (Some(_), Some(signature)) => (true, format!("{} has signed it", signature.key)),
    };
    verdict(Rule::Signers, passes, detail)
}

fn of_bytes(policy: &Policy, bytes: u64) -> Verdict {
    let max = policy.egress.bytes_per_round_max;
    verdict(Rule::Bytes, bytes <= max, format!("{bytes} bytes a round, at most {max}"))
}

fn of_tensors<'a>(policy: &Policy, names: impl IntoIterator<Item = &'a str>) -> Verdict {
    let names: Vec<&str> = names.into_iter().collect();
    match names.iter().find(|name| !policy.egress.tensors.allow(name)) {
        Some(name) => verdict(Rule::Tensors, false, format!("tensor {name} may not leave")),
        None => verdict(Rule::Tensors, true, format!("all {} tensors may leave", names.len())),
    }
}

fn of_sites(what: &str, sites: u32, sites_min: u32) -> String {
    match sites_min {
        0 => "the policy's round.sites_min does not say how many sites are enough".to_owned(),
        _ => format!("{what} {sites} sites, at least {sites_min}"),
    }
}

fn verdict(rule: Rule, passes: bool, detail: String) -> Verdict {
    Verdict { rule, passes, detail }
}

/// What the coordinator is told of what this site does: steps that may not leave are 0.
pub fn told(policy: &Policy, activity: Activity) -> Activity {
    let Activity::Training(round, Progress { step, steps, loss }) = activity else {
        return activity;
    };
    let [step, steps] = if policy.allows(Metric::Progress) { [step, steps] } else { [0; 2] };
    let loss = loss.filter(|_| policy.allows(Metric::Loss));
    Activity::Training(round, Progress { step, steps, loss })
}

/// What the coordinator is told of a training: what may not leave is 0.
pub fn report(policy: &Policy, report: Report) -> Report {
    let let_out = |metric, value: f64| if policy.allows(metric) { value } else { 0.0 };
    Report {
        steps: if policy.allows(Metric::Steps) { report.steps } else { 0 },
        loss_mean: let_out(Metric::LossMean, report.loss_mean),
        loss_first: let_out(Metric::LossFirst, report.loss_first),
        loss_last: let_out(Metric::LossLast, report.loss_last),
        gradient_norm_p50: let_out(Metric::GradientNormP50, report.gradient_norm_p50),
        gradient_norm_p99: let_out(Metric::GradientNormP99, report.gradient_norm_p99),
    }
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::plan::{PlanSigner, RunPlan};
    use jiff::civil::time;
    use rustls::pki_types::PrivatePkcs8KeyDer;

    use super::*;

    fn a_plan(more: &str) -> SignedPlan {
        RunPlan::from_toml(&format!("version = 1\nrounds = 5\n{more}")).unwrap().into()
    }

    fn signer() -> PlanSigner {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        PlanSigner::new(&PrivatePkcs8KeyDer::from(key.serialize_der())).unwrap()
    }

    /// A policy that allows just what the default plan asks for.
    fn tight() -> Policy {
        let mut policy = Policy::open();
        policy.plan.rounds_max = 5;
        policy.plan.steps_max = 200;
        policy.plan.batch_max = 8;
        policy.plan.learning_rate_max = 1e-4;
        policy.round.sites_min = 2;
        policy
    }

    fn refused(verdicts: Vec<Verdict>) -> Option<Rule> {
        all(verdicts).err().map(|refusal| refusal.rule)
    }

    #[test]
    fn a_plan_that_keeps_to_the_policy_passes_and_each_step_beyond_it_is_refused_by_its_rule() {
        let policy = tight();
        assert_eq!(refused(plan(&policy, &a_plan(""), false)), None);
        for (more, rule) in [
            ("[training]\nsteps = 201", Rule::Steps),
            ("[training]\nbatch = 9", Rule::Batch),
            ("[training]\nlearning_rate = 1.1e-4", Rule::Optimiser),
            ("[round]\nsites_min = 1", Rule::Cohort),
        ] {
            assert_eq!(refused(plan(&policy, &a_plan(more), true)), Some(rule), "{more}");
        }
        let longer = RunPlan { rounds: 6, ..a_plan("").plan }.into();
        assert_eq!(refused(plan(&policy, &longer, true)), Some(Rule::Rounds));
    }

    #[test]
    fn where_the_policy_names_signers_a_plan_is_followed_with_the_signature_of_one_and_no_other() {
        let (ada, bob, eve) = (signer(), signer(), signer());
        let mut policy = tight();
        let signed = |more: &str, signature| SignedPlan { signature, ..a_plan(more) };
        let this = &a_plan("").plan;
        assert_eq!(refused(plan(&policy, &a_plan(""), false)), None, "nobody is asked for");
        policy.plan.signers = Some(vec![ada.key(), bob.key()]);
        for good in [&ada, &bob] {
            let signed = signed("", Some(good.sign(this)));
            assert_eq!(refused(plan(&policy, &signed, false)), None);
        }
        let forged = PlanSignature { key: ada.key(), ..eve.sign(this) };
        for (hostile, word) in [
            (a_plan(""), "nobody has signed it"),
            (signed("", Some(eve.sign(this))), "does not name"),
            (signed("", Some(forged)), "is not over this plan"),
            (signed("[training]\nseed = 2", Some(ada.sign(this))), "is not over this plan"),
        ] {
            let refusal = all(plan(&policy, &hostile, true)).unwrap_err();
            assert_eq!(refusal.rule, Rule::Signers);
            assert!(refusal.detail.contains(word), "{refusal}");
        }
        policy.plan.signers = Some(Vec::new());
        let signed = signed("", Some(ada.sign(this)));
        assert_eq!(refused(plan(&policy, &signed, true)), Some(Rule::Signers), "nobody is named");
    }

    #[test]
    fn a_plan_waits_for_a_human_unless_the_policy_says_that_it_need_not() {
        let policy = Policy { plan: Policy::approved_by_a_human().plan, ..tight() };
        assert_eq!(refused(plan(&policy, &a_plan(""), false)), Some(Rule::Approval));
        assert_eq!(refused(plan(&policy, &a_plan(""), true)), None);
    }

    #[test]
    fn a_policy_that_says_nothing_refuses_everything_by_every_rule_of_a_plan_but_its_signers() {
        let silent = Policy::default();
        let verdicts = plan(&silent, &a_plan(""), false);
        // Who has signed is a rule for who names signers; a human's look is asked for without it.
        let rest = verdicts.iter().filter(|verdict| verdict.rule != Rule::Signers);
        assert!(rest.clone().count() > 6 && rest.clone().all(|v| !v.passes), "{verdicts:?}");
        let now = Moment { time: time(12, 0, 0, 0), is_stopped: false };
        assert_eq!(refused(moment(&silent, now)), Some(Rule::Hours));
        let verdicts = round(&silent, 100, 1, ["out.weight"]);
        assert!(verdicts.iter().all(|verdict| !verdict.passes), "{verdicts:?}");
    }

    #[test]
    fn a_stop_file_goes_before_everything_and_hours_are_kept() {
        let mut policy = Policy::open();
        let at = |hour, is_stopped| Moment { time: time(hour, 0, 0, 0), is_stopped };
        assert_eq!(refused(moment(&policy, at(3, false))), None);
        assert_eq!(refused(moment(&policy, at(3, true))), Some(Rule::StopFile));
        policy.run.hours = serde_json::from_str("[\"19:00-06:00\"]").unwrap();
        assert_eq!(refused(moment(&policy, at(3, false))), None);
        assert_eq!(refused(moment(&policy, at(12, false))), Some(Rule::Hours));
    }

    #[test]
    fn a_round_of_too_few_sites_too_many_bytes_or_another_tensor_is_not_trained() {
        let mut policy = tight();
        policy.egress.bytes_per_round_max = 100;
        policy.egress.tensors = serde_json::from_str("[\"out.*\"]").unwrap();
        let judged = |cohort, bytes, tensor| refused(round(&policy, cohort, bytes, [tensor]));
        assert_eq!(judged(2, 100, "out.weight"), None);
        assert_eq!(judged(1, 100, "out.weight"), Some(Rule::Cohort));
        assert_eq!(judged(0, 100, "out.weight"), Some(Rule::Cohort), "nobody says how many");
        assert_eq!(judged(2, 101, "out.weight"), Some(Rule::Bytes));
        assert_eq!(judged(2, 100, "embedding"), Some(Rule::Tensors));
        // One site is there in any case, so that a coordinator which does not say will do.
        assert_eq!(refused(round(&Policy::open(), 0, 100, ["x"])), None);
    }

    #[test]
    fn an_update_leaves_only_as_the_version_of_its_base_model_that_it_says_it_is() {
        let policy = Policy::open();
        let good = Update { bytes: 9, tensors: vec!["out"], differs: None };
        assert_eq!(refused(update(&policy, &good)), None);
        let other = Update { differs: Some("tensor scans".into()), ..good.clone() };
        assert_eq!(refused(update(&policy, &other)), Some(Rule::Tensors));
        let mut small = Policy::open();
        small.egress.bytes_per_round_max = 8;
        assert_eq!(refused(update(&small, &good)), Some(Rule::Bytes));
    }

    #[test]
    fn numbers_that_may_not_leave_are_0() {
        let mut policy = Policy::open();
        policy.egress.metrics = vec![Metric::Examples, Metric::LossMean, Metric::Progress];
        let all = Report {
            steps: 9,
            loss_mean: 1.0,
            loss_first: 2.0,
            loss_last: 3.0,
            gradient_norm_p50: 4.0,
            gradient_norm_p99: 5.0,
        };
        let only = Report { loss_mean: 1.0, ..Report::default() };
        assert_eq!(report(&policy, all), only);
        assert_eq!(report(&Policy::open(), all), all);
        let round =
            fedpaint_proto::names::RoundId { run: "brain".parse().unwrap(), number: 1, attempt: 1 };
        let training =
            |loss| Activity::Training(round.clone(), Progress { step: 2, steps: 3, loss });
        assert_eq!(told(&policy, training(Some(0.5))), training(None));
        policy.egress.metrics.clear();
        let silent = Activity::Training(round.clone(), Progress::default());
        assert_eq!(told(&policy, training(Some(0.5))), silent);
    }
}
