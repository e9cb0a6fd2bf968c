//! How a round is held: the plan's `[round]`. It holds numbers and decides nothing.
//!
//! What came later than the first plans is left out of the canonical form where it is at its default,
//! so that those plans keep their digests and agents of that time read them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Error, in_range, is_default};

/// How much later than planned reporting may end while updates still arrive, where the plan does not
/// say: five minutes, in seconds.
const STRETCH_S: u32 = 300;

/// How many rounds late an update may be, where the plan does not say.
const LATE_ROUNDS_MAX: u32 = 3;

/// How a round is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoundPlan {
    /// With fewer sites than this a round is abandoned.
    pub sites_min: u32,
    /// Selection ends early once this many sites have joined.
    pub sites_goal: u32,
    /// How long sites may join, in seconds.
    pub selection_s: u32,
    /// How long the members may train and report, in seconds.
    pub reporting_s: u32,
    /// After this many abandoned attempts in a row the run pauses.
    pub failures_max: u32,
    /// How much later than planned reporting may end while updates still arrive, in seconds; 0 never
    /// waits.
    #[serde(skip_serializing_if = "is_stretch_default")]
    pub stretch_s: u32,
    /// What becomes of an update that comes when its round is sealed.
    #[serde(skip_serializing_if = "is_default")]
    pub late: LatePolicy,
    /// By how many rounds at most an update may come late and still be folded in.
    #[serde(skip_serializing_if = "is_late_default")]
    pub late_rounds_max: u32,
}

/// What becomes of an update that comes when its round is sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatePolicy {
    /// It does not count, and its site joins the next round.
    #[default]
    Drop,
    /// It counts in the next round that is sealed, for less the later it is.
    Fold,
}

impl Default for RoundPlan {
    fn default() -> RoundPlan {
        RoundPlan {
            sites_min: 2,
            sites_goal: 3,
            selection_s: 120,
            reporting_s: 4 * 3600,
            failures_max: 3,
            stretch_s: STRETCH_S,
            late: LatePolicy::Drop,
            late_rounds_max: LATE_ROUNDS_MAX,
        }
    }
}

impl RoundPlan {
    /// How long sites may join.
    pub fn selection(&self) -> Duration {
        Duration::from_secs(self.selection_s.into())
    }

    /// How long the members may train and report.
    pub fn reporting(&self) -> Duration {
        Duration::from_secs(self.reporting_s.into())
    }

    /// How much later than planned reporting may end while updates still arrive.
    pub fn stretch(&self) -> Duration {
        Duration::from_secs(self.stretch_s.into())
    }

    /// Whether every number is one that a round can be held by.
    pub(super) fn validate(&self) -> Result<(), Error> {
        let RoundPlan { sites_min, sites_goal, selection_s, reporting_s, failures_max, .. } = *self;
        let whole = |field, value: u32, min, max, must| {
            in_range(field, value.to_string(), (min..=max).contains(&value), must)
        };
        whole("round.sites_min", sites_min, 1, 10_000, "from 1 to 10,000")?;
        whole(
            "round.sites_goal",
            sites_goal,
            sites_min,
            10_000,
            "at least round.sites_min and at most 10,000",
        )?;
        whole("round.selection_s", selection_s, 1, 7 * 86_400, "from 1 s to 7 days")?;
        whole("round.reporting_s", reporting_s, 1, 30 * 86_400, "from 1 s to 30 days")?;
        whole("round.failures_max", failures_max, 1, 1_000, "from 1 to 1,000")?;
        whole("round.stretch_s", self.stretch_s, 0, 7 * 86_400, "at most 7 days")?;
        whole("round.late_rounds_max", self.late_rounds_max, 1, 1_000, "from 1 to 1,000")
    }
}

fn is_stretch_default(value: &u32) -> bool {
    *value == STRETCH_S
}

fn is_late_default(value: &u32) -> bool {
    *value == LATE_ROUNDS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::RunPlan;

    #[test]
    fn a_plan_says_what_becomes_of_late_updates_and_one_that_does_not_keeps_its_digest() {
        let text = "version = 1\nrounds = 1\n[round]\nstretch_s = 0\nlate = \"fold\"\n\
                    late_rounds_max = 2\n[aggregation]\nstaleness_exponent = 1.0";
        let plan = RunPlan::from_toml(text).unwrap();
        let RoundPlan { stretch_s, late, late_rounds_max, .. } = plan.round;
        assert_eq!((stretch_s, late, late_rounds_max), (0, LatePolicy::Fold, 2));
        assert_eq!(plan.aggregation.staleness_exponent, 1.0);
        assert_eq!(RunPlan::from_toml(&plan.to_toml()).unwrap(), plan);
        assert!(RunPlan::from_toml(&text.replace("fold", "keep")).is_err());

        let silent = RunPlan::from_toml("version = 1\nrounds = 1").unwrap();
        let said = "version = 1\nrounds = 1\n[round]\nstretch_s = 300\nlate = \"drop\"\n\
                    late_rounds_max = 3\n[aggregation]\nstaleness_exponent = 0.5";
        assert_eq!(RunPlan::from_toml(said).unwrap().digest(), silent.digest());
        // What agents read that know none of them.
        for word in ["stretch", "late", "staleness"] {
            assert!(!silent.to_toml().contains(word), "{word}");
        }
    }

    #[test]
    fn a_number_no_round_can_be_held_by_is_refused_by_the_name_of_its_field() {
        for (field, value) in
            [("stretch_s", "604801"), ("late_rounds_max", "0"), ("sites_goal", "1")]
        {
            let text = format!("version = 1\nrounds = 1\n[round]\n{field} = {value}");
            let error = RunPlan::from_toml(&text).unwrap_err().to_string();
            assert!(error.contains(&format!("round.{field}")), "{error}");
        }
    }
}
