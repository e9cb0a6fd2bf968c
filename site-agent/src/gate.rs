//! The one way out of a site: the policy with the files and the clock that it is asked of.
//!
//! Pure judgements are in [`crate::policy::judge`]; here is read what they need: stop files, approvals, the
//! headers of model files. What cannot be read lets nothing through.

use std::path::{Path, PathBuf};

use fedpaint_proto::names::{Digest, RunName};
use fedpaint_proto::plan::{ExchangePlan, SignedPlan};
use fedpaint_proto::rule::Rule;
use fedpaint_proto::weights::{self, ModelFile};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::client::Activity;
use crate::pipe::Trained;
use crate::plans::{self, Plans};
use crate::policy::judge::{self, Moment, Update, Verdict};
use crate::policy::{Policy, Refusal};

/// The stop file that counts whatever the policy says, in the workspace.
pub const STOP_FILE: &str = "stop";

/// The policy of a site, and where what it asks about is found.
#[derive(Debug)]
pub struct Gate {
    policy: Policy,
    plans: Plans,
    stop_files: Vec<PathBuf>,
    now: fn() -> Timestamp,
    zone: TimeZone,
    /// Whether nothing leaves in any case, so that nobody needs to have approved.
    is_rehearsal: bool,
}

impl Gate {
    /// The gate of the site with this workspace and clock.
    pub fn new(policy: Policy, workspace: &Path, now: fn() -> Timestamp) -> Gate {
        let own = Some(workspace.join(STOP_FILE));
        let stop_files = own.into_iter().chain(policy.run.stop_file.clone()).collect();
        let (plans, zone) = (Plans::of(workspace), TimeZone::system());
        Gate { policy, plans, stop_files, now, zone, is_rehearsal: false }
    }

    /// The same for a dry run, which lets nothing out and asks for no approval: it is what one looks at
    /// before one approves.
    #[must_use]
    pub fn for_dry_run(self) -> Gate {
        Gate { is_rehearsal: true, ..self }
    }

    /// Whether nothing leaves in any case.
    pub fn is_for_dry_run(&self) -> bool {
        self.is_rehearsal
    }

    /// What the coordinator is told of what this site does.
    pub fn told(&self, activity: Activity) -> Activity {
        judge::told(&self.policy, activity)
    }

    /// What the site allows.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Keeps a plan that the coordinator showed, for a human to look at.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn keep(&self, run: &RunName, plan: &SignedPlan) -> Result<Digest, plans::Error> {
        self.plans.keep(run, plan, (self.now)())
    }

    /// Whether anything may be done now.
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn now(&self) -> Result<(), Refusal> {
        judge::all(judge::moment(&self.policy, self.moment()))
    }

    /// Whether this plan may be followed now.
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn plan(&self, plan: &SignedPlan) -> Result<(), Refusal> {
        self.now()?;
        let approved = self.is_rehearsal || self.is_approved(plan.plan.digest())?;
        judge::all(judge::plan(&self.policy, plan, approved))
    }

    /// What each rule says of this plan now.
    pub fn verdicts(&self, plan: &SignedPlan) -> Vec<Verdict> {
        let approved = self.is_approved(plan.plan.digest()).unwrap_or(false);
        let now = judge::moment(&self.policy, self.moment());
        now.into_iter().chain(judge::plan(&self.policy, plan, approved)).collect()
    }

    /// What each rule says of a round of so many sites whose updates of this base model travel in this form.
    ///
    /// # Errors
    /// If the base model is none.
    pub fn round(
        &self,
        cohort: u32,
        form: ExchangePlan,
        base: &Path,
    ) -> Result<Vec<Verdict>, weights::Error> {
        let (tensors, bytes) = ModelFile::open(base)?.update(form)?;
        let names = tensors.iter().map(|tensor| tensor.name.as_str());
        Ok(judge::round(&self.policy, cohort, bytes, names))
    }

    /// What each rule says of a finished update's file, beside its base model.
    ///
    /// # Errors
    /// If a file does not read.
    pub fn update(
        &self,
        trained: &Trained,
        form: ExchangePlan,
        path: &Path,
        base: &Path,
    ) -> Result<Vec<Verdict>, weights::Error> {
        let bytes = std::fs::metadata(path).map_err(|source| weights::Error::Io {
            what: "open",
            path: path.to_owned(),
            source,
        })?;
        let bytes = bytes.len();
        let update = match weights::Update::open(path) {
            Ok(update) => update,
            Err(error @ weights::Error::Io { .. }) => return Err(error),
            Err(error) => {
                let (tensors, differs) = (Vec::new(), Some(error.to_string()));
                let update = Update { bytes, tensors, differs };
                return Ok(judge::update(&self.policy, &update));
            }
        };
        let base = ModelFile::open(base)?;
        let differs = match update.matches(&base, form) {
            Err(mismatch) => Some(mismatch.to_string()),
            Ok(()) if bytes != trained.update.size => {
                Some(format!("{bytes} bytes, {} were trained", trained.update.size))
            }
            Ok(()) => None,
        };
        let tensors = update.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        Ok(judge::update(&self.policy, &Update { bytes, tensors, differs }))
    }

    fn is_approved(&self, plan: Digest) -> Result<bool, Refusal> {
        let approved = self.plans.approved(plan);
        let unread = |e: plans::Error| Refusal { rule: Rule::Approval, detail: e.to_string() };
        approved.map(|approved| approved.is_some()).map_err(unread)
    }

    fn moment(&self) -> Moment {
        let time = self.zone.to_datetime((self.now)()).time();
        // A file of which nobody can say whether it is there stops too.
        let is_there = |file: &PathBuf| file.try_exists().unwrap_or(true);
        Moment { time, is_stopped: self.stop_files.iter().any(is_there) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fedpaint_proto::plan::{Encoding, Part, RunPlan};
    use fedpaint_proto::weights::{Dtype, ModelWriter, Sources, TensorSpec, encode};

    use super::*;
    use crate::pipe::Report;
    use crate::plans::Approved;
    use crate::policy::patterns::Patterns;

    fn plan() -> SignedPlan {
        RunPlan::from_toml("version = 1\nrounds = 1").unwrap().into()
    }

    fn rule(outcome: Result<(), Refusal>) -> Option<Rule> {
        outcome.err().map(|refusal| refusal.rule)
    }

    #[test]
    fn a_site_without_a_policy_file_follows_a_plan_once_a_human_has_approved_it() {
        let folder = tempfile::tempdir().unwrap();
        let gate =
            Gate::new(Policy::approved_by_a_human(), folder.path(), || Timestamp::UNIX_EPOCH);
        let digest = gate.keep(&"brain".parse().unwrap(), &plan()).unwrap();
        assert_eq!(rule(gate.plan(&plan())), Some(Rule::Approval));
        let yes = Approved { by: "ada".into(), at: Timestamp::UNIX_EPOCH };
        Plans::of(folder.path()).approve(digest, &yes).unwrap();
        assert_eq!(rule(gate.plan(&plan())), None);
        assert!(gate.verdicts(&plan()).iter().all(|verdict| verdict.passes));
        let other = RunPlan { rounds: 2, ..plan().plan }.into();
        assert_eq!(rule(gate.plan(&other)), Some(Rule::Approval), "another plan is new");
        assert_eq!(rule(gate.for_dry_run().plan(&other)), None);
    }

    #[test]
    fn what_leaves_is_judged_in_the_form_in_which_it_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let model = |name: &str, value: f32| {
            let spec = |name: &str| TensorSpec {
                name: name.into(),
                dtype: Dtype::F32,
                shape: vec![2_000],
            };
            let specs = vec![spec("input_blocks.0"), spec("out.0")];
            let mut writer = ModelWriter::create(&path(name), specs, &BTreeMap::new()).unwrap();
            (0..2).for_each(|_| writer.write(&[value; 2_000]).unwrap());
            writer.finish().unwrap()
        };
        model("base", 1.0);
        let whole = model("trained", 1.5);
        let mut policy = Policy::open();
        policy.egress.bytes_per_round_max = 3_000;
        policy.egress.tensors =
            toml::from_str::<BTreeMap<String, Patterns>>("tensors = [\"*\", \"!input_blocks.*\"]")
                .unwrap()
                .remove("tensors")
                .unwrap();
        let gate = Gate::new(policy, folder.path(), || Timestamp::UNIX_EPOCH);
        let form = |encoding, part| ExchangePlan { encoding, part };
        for (form, refused) in [
            (form(Encoding::F32, Part::All), Some(Rule::Bytes)),
            (form(Encoding::F32, Part::Decoder), Some(Rule::Bytes)),
            (form(Encoding::Int4, Part::All), Some(Rule::Tensors)),
            (form(Encoding::Int8, Part::Decoder), None),
        ] {
            let judged = judge::all(gate.round(1, form, &path("base")).unwrap());
            assert_eq!(rule(judged), refused, "before it is trained: {form}");
            let (base, trained) = (path("base"), path("trained"));
            let sources = Sources { base: &base, trained: &trained, remainder: None };
            let made = encode(form, sources, &path("update"), &path("left")).unwrap();
            let trained = Trained {
                update: made.update,
                examples: 1,
                report: Report::default(),
                data: whole.digest,
                remainder: None,
            };
            let judged = gate.update(&trained, form, &path("update"), &base).unwrap();
            assert_eq!(rule(judge::all(judged)), refused, "before it leaves: {form}");
            let other = ExchangePlan { encoding: Encoding::Bf16, ..form };
            let judged = gate.update(&trained, other, &path("update"), &base).unwrap();
            assert!(rule(judge::all(judged)).is_some(), "in a form that no plan asked for");
        }
    }

    #[test]
    fn either_stop_file_stops_and_approves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut policy = Policy::open();
        policy.run.stop_file = Some(folder.path().join("halt"));
        let gate = Gate::new(policy, folder.path(), || Timestamp::UNIX_EPOCH);
        assert_eq!(rule(gate.plan(&plan())), None);
        for name in [STOP_FILE, "halt"] {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            assert_eq!(rule(gate.now()), Some(Rule::StopFile), "{name}");
            assert_eq!(rule(gate.plan(&plan())), Some(Rule::StopFile), "{name}");
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(rule(gate.now()), None);
    }
}
