//! What this hospital allows: a local file that no plan and no coordinator can override.
//!
//! Deny by default: what the file does not allow is refused, by the name of a [`Rule`]. Everything here
//! is pure; [`crate::gate`] has the files and the clock, and asks before a round is joined, before it is
//! trained, while it is, and once more of the very bytes that would leave. Nothing here can widen what
//! the program would do without a policy.

pub mod hours;
pub mod judge;
pub mod patterns;

use std::path::{Path, PathBuf};

use fedpaint_proto::limits::MODEL_BYTES_MAX;
use fedpaint_proto::names::Digest;
use fedpaint_proto::plan::PlanKey;
use fedpaint_proto::rule::Rule;
use serde::{Deserialize, Serialize};

use self::hours::Hours;
use self::patterns::Patterns;

/// The longest policy file that is read.
pub const POLICY_BYTES_MAX: u64 = 64 << 10;

/// What a site allows.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Which plans.
    pub plan: PlanRules,
    /// With how many others.
    pub round: RoundRules,
    /// What may leave.
    pub egress: EgressRules,
    /// When.
    pub run: RunRules,
}

/// Which plans a site follows.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanRules {
    /// Who must stand behind a plan, one of them; without this nobody has to, and an empty list is nobody
    /// who could.
    pub signers: Option<Vec<PlanKey>>,
    /// Who must have looked at a plan before it is followed.
    pub approval: Approval,
    /// Rounds of a plan.
    pub rounds_max: u32,
    /// Optimiser steps of a round.
    pub steps_max: u32,
    /// Slices of a step.
    pub batch_max: u32,
    /// AdamW's learning rate.
    pub learning_rate_max: f64,
}

/// Who must have looked at a plan before it is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// A human, at each plan that is new: `fedpaint-site-agent plan approve`.
    #[default]
    EachPlan,
    /// Nobody.
    None,
}

/// With how many others a site trains.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoundRules {
    /// The fewest sites of a round, this one counted; 0 is not said, and no round is allowed.
    pub sites_min: u32,
}

/// What may leave a site.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EgressRules {
    /// The size of a round's update.
    pub bytes_per_round_max: u64,
    /// The tensors of an update.
    pub tensors: Patterns,
    /// The numbers beside the weights.
    pub metrics: Vec<Metric>,
}

/// A number that can leave a site beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Slices seen. Without it an update has no weight in the average, so no round is joined.
    Examples,
    /// Steps done and to do, while it trains.
    Progress,
    /// The mean loss of the newest steps, while it trains.
    Loss,
    /// Steps done, in the report.
    Steps,
    /// Mean loss.
    LossMean,
    /// Mean loss of the first quarter of the steps.
    LossFirst,
    /// Mean loss of the last quarter of the steps.
    LossLast,
    /// Median norm of the gradient before clipping.
    GradientNormP50,
    /// 99th percentile of the same.
    GradientNormP99,
}

impl Metric {
    /// Every number there is.
    pub const ALL: [Metric; 9] = [
        Metric::Examples,
        Metric::Progress,
        Metric::Loss,
        Metric::Steps,
        Metric::LossMean,
        Metric::LossFirst,
        Metric::LossLast,
        Metric::GradientNormP50,
        Metric::GradientNormP99,
    ];
}

/// When a site trains.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunRules {
    /// The hours of a day, in the machine's time zone.
    pub hours: Hours,
    /// While there is a file of this name, nothing leaves; beside `stop` in the workspace, which always
    /// counts.
    pub stop_file: Option<PathBuf>,
}

impl Default for PlanRules {
    fn default() -> PlanRules {
        let approval = Approval::EachPlan;
        PlanRules {
            signers: None,
            approval,
            rounds_max: 0,
            steps_max: 0,
            batch_max: 0,
            learning_rate_max: 0.0,
        }
    }
}

/// What the policy forbids, by which rule, and why in words for the site's own log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("the policy's rule {rule} refuses: {detail}")]
pub struct Refusal {
    /// The rule, which leaves the site.
    pub rule: Rule,
    /// The words, which do not.
    pub detail: String,
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not read.
    #[error("cannot read the policy {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a policy.
    #[error("the policy {} does not parse: {reason}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong, on one line.
        reason: String,
    },
}

impl Policy {
    /// What holds at a site that has no policy file: a human approves each plan, with all that it asks
    /// for. So no plan is followed that nobody at the site has seen, and no file has to be written first.
    pub fn approved_by_a_human() -> Policy {
        Policy {
            plan: PlanRules { approval: Approval::EachPlan, ..Policy::open().plan },
            ..Policy::open()
        }
    }

    /// Everything that the program can do, for tests and for who trusts the federation that far.
    pub fn open() -> Policy {
        Policy {
            plan: PlanRules {
                signers: None,
                approval: Approval::None,
                // What a plan may say at most, see `fedpaint_proto::plan`.
                rounds_max: 100_000,
                steps_max: 1_000_000,
                batch_max: 1_024,
                learning_rate_max: 1.0,
            },
            round: RoundRules { sites_min: 1 },
            egress: EgressRules {
                bytes_per_round_max: MODEL_BYTES_MAX,
                tensors: Patterns::all(),
                metrics: Metric::ALL.into(),
            },
            run: RunRules { hours: Hours::always(), stop_file: None },
        }
    }

    /// Reads a policy, and says what its file's bytes are.
    ///
    /// # Errors
    /// If it is missing, too long, or has a field that is none.
    pub fn load(path: &Path) -> Result<(Policy, Digest), Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        let wrong = |reason| Error::Parse { path: path.to_owned(), reason };
        if bytes > POLICY_BYTES_MAX {
            let reason = format!("{bytes} bytes are more than the {POLICY_BYTES_MAX} allowed");
            return Err(wrong(reason));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let mut policy = Policy::from_toml(&text).map_err(wrong)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        policy.run.stop_file = policy.run.stop_file.map(|file| folder.join(file));
        Ok((policy, Digest::of(text.as_bytes())))
    }

    /// Parses a policy; what is wrong with it, on one line.
    fn from_toml(text: &str) -> Result<Policy, String> {
        let policy: Policy = toml::from_str(text).map_err(|error: toml::de::Error| {
            let line = error.span().map(|span| text[..span.start].lines().count().max(1));
            let at = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            format!("{at}{}", error.message().replace('\n', " "))
        })?;
        let rate = policy.plan.learning_rate_max;
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(format!("plan.learning_rate_max is {rate}, it must be 0 or more"));
        }
        Ok(policy)
    }

    /// Whether this number may leave.
    pub fn allows(&self, metric: Metric) -> bool {
        self.egress.metrics.contains(&metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_in_deploy_parses_and_an_empty_file_allows_nothing() {
        let sample = include_str!("../../deploy/policy.toml");
        let policy = Policy::from_toml(sample).unwrap();
        assert_eq!(policy.plan.approval, Approval::EachPlan);
        assert!(policy.egress.bytes_per_round_max > 0 && policy.allows(Metric::Examples));
        let empty = Policy::from_toml("").unwrap();
        assert_eq!(empty, Policy::default());
        assert!(Metric::ALL.iter().all(|metric| !empty.allows(*metric)));
        assert_eq!(empty.plan.approval, Approval::EachPlan);
    }

    #[test]
    fn a_policy_with_a_field_that_is_none_is_refused_on_one_line_that_names_it() {
        for (text, named) in [
            ("[plan]\nsteps = 3", "steps"),
            ("[egres]\n", "egres"),
            ("[egress]\nmetrics = [\"patients\"]", "patients"),
            ("[run]\nhours = [\"19:00\"]", "hours"),
            ("[plan]\nlearning_rate_max = nan", "learning_rate_max"),
            ("[plan]\napproval = \"sometimes\"", "sometimes"),
            ("[plan]\nsigners = [\"ada\"]", "64 hexadecimal digits"),
        ] {
            let error = Policy::from_toml(text).unwrap_err();
            assert!(error.contains(named) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_stop_file_is_relative_to_the_policy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, "[run]\nstop_file = \"halt\"").unwrap();
        let (policy, digest) = Policy::load(&path).unwrap();
        assert_eq!(policy.run.stop_file, Some(folder.path().join("halt")));
        assert_eq!(digest, Digest::of(&std::fs::read(&path).unwrap()));
        let missing = Policy::load(&folder.path().join("none.toml")).unwrap_err().to_string();
        assert!(missing.contains("none.toml"), "{missing}");
    }
}
