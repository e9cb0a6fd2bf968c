//! Why a round refuses an event, why it is abandoned, why a site withdraws: typed, and in words.

use fedpaint_proto::names::SiteName;
use fedpaint_proto::rule::Rule;
use serde::{Deserialize, Serialize};

/// How many sites are named in a reason; the others are counted.
const NAMED_MAX: usize = 5;

/// Why an event does not apply to a round. The round is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody can join any more.
    #[error("selection is over")]
    SelectionOver,
    /// No update is taken any more.
    #[error("the round was sealed without this update, and a late one does not count")]
    ReportingOver,
    /// No update is taken yet.
    #[error("the round is still selecting sites")]
    NotReporting,
    /// No average is due.
    #[error("the round is not aggregating")]
    NotAggregating,
    /// The site has not joined.
    #[error("the site is not a member of the round")]
    NotAMember,
    /// The site has reported another update, or has withdrawn.
    #[error("the site has reported another update or has withdrawn")]
    AlreadyReported,
    /// The operator cannot close a round that too few sites are in.
    #[error("only {have} sites are there, the plan needs {need}")]
    TooFewSites {
        /// How many are there.
        have: u32,
        /// How many the plan needs.
        need: u32,
    },
    /// The round is committed or abandoned.
    #[error("the round is over")]
    RoundOver,
    /// The site cannot join: it still trains an earlier round.
    #[error("the site still trains an earlier round, whose update may come late")]
    TrainsEarlierRound,
}

/// Why a round was abandoned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Abandonment {
    /// Too few sites had joined when selection ended.
    #[error("too few sites: {joined} joined, the plan needs {need}")]
    TooFewSites {
        /// How many had joined.
        joined: u32,
        /// How many the plan needs.
        need: u32,
    },
    /// Too few updates had come, or could still come.
    #[error("too few updates: {reported} came, the plan needs {need}{}", without(.missing))]
    TooFewReports {
        /// How many had come.
        reported: u32,
        /// How many the plan needs.
        need: u32,
        /// Whose had not; empty in a round from before this was kept.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        missing: Vec<SiteName>,
    },
    /// The average could not be made.
    #[error("aggregation failed: {reason}")]
    AggregationFailed {
        /// Why.
        reason: String,
    },
    /// The average was waited for long enough. That is the disk's fault and none of the updates', so that
    /// late ones wait for the next attempt.
    #[error("no average in time: {reason}")]
    NoAverageInTime {
        /// How long, and what kept it.
        reason: String,
    },
    /// An operator gave the round up.
    #[error("given up by an operator: {reason}")]
    ByOperator {
        /// The operator's own words.
        reason: String,
    },
}

/// Why a site gave a round up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Withdrawal {
    /// The agent is being stopped.
    #[error("the agent was stopped")]
    Stopping,
    /// The trainer ended without an answer.
    #[error("the trainer died")]
    TrainerDied,
    /// The trainer ran out of memory.
    #[error("the trainer ran out of memory")]
    OutOfMemory,
    /// The loss, a gradient or a weight was not a finite number.
    #[error("the training was not finite")]
    NotFinite,
    /// Nothing in the site's data can train this plan.
    #[error("the site has no data for this plan")]
    NoData,
    /// The base model does not fit.
    #[error("the site cannot use the base model")]
    BaseModel,
    /// The plan asks for what the agent cannot do.
    #[error("the site cannot follow the plan")]
    Plan,
    /// The device failed or is not there.
    #[error("the site's device failed")]
    Device,
    /// The site's disk is full or broken.
    #[error("the site's disk failed")]
    Disk,
    /// Anything else.
    #[error("the site failed; its own log says why")]
    Internal,
    /// The coordinator had refused the site's update for good.
    #[error("the site's update was refused")]
    UpdateRefused,
    /// The site's own policy refuses the round.
    #[error("the site's own policy refuses it, by the rule {0}")]
    Policy(Rule),
    /// The site trained it to see what would leave.
    #[error("the site only rehearsed the round")]
    DryRun,
    /// What the coordinator had signed does not fit what it had signed before.
    #[error("the site was shown two logs that do not fit together, and has stopped")]
    Log,
    /// The base model's manifest does not fit, or is not what the site knows.
    #[error("the site does not believe the model or the plan; its own log says why")]
    Model,
    /// An operator revoked the site.
    #[error("the site was revoked")]
    Revoked,
}

/// The sites whose update had not come, as the rest of a sentence.
fn without(missing: &[SiteName]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    format!("; without an update of {}", named(missing))
}

/// Sites by name, at most [`NAMED_MAX`] of them: `aachen, mayo and 3 more`.
pub fn named(sites: &[SiteName]) -> String {
    let names =
        |sites: &[SiteName]| sites.iter().map(SiteName::as_str).collect::<Vec<_>>().join(", ");
    match sites.len().saturating_sub(NAMED_MAX) {
        0 => names(sites),
        more => format!("{} and {more} more", names(&sites[..NAMED_MAX])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_who_did_not_report_and_one_from_before_is_still_read() {
        let sites = |n: usize| (0..n).map(|i| format!("site-{i}").parse().unwrap()).collect();
        let reason = |n| Abandonment::TooFewReports { reported: 1, need: 2, missing: sites(n) };
        for (n, text) in [
            (0, "too few updates: 1 came, the plan needs 2"),
            (1, "too few updates: 1 came, the plan needs 2; without an update of site-0"),
            (
                7,
                "too few updates: 1 came, the plan needs 2; without an update of site-0, site-1, \
                 site-2, site-3, site-4 and 2 more",
            ),
        ] {
            assert_eq!(reason(n).to_string(), text);
            let json = serde_json::to_string(&reason(n)).unwrap();
            assert_eq!(serde_json::from_str::<Abandonment>(&json).unwrap(), reason(n));
        }
        let late = Abandonment::NoAverageInTime { reason: "x".to_owned() };
        let json = serde_json::to_string(&late).unwrap();
        assert_eq!(json, r#"{"no_average_in_time":{"reason":"x"}}"#);
        assert_eq!(serde_json::from_str::<Abandonment>(&json).unwrap(), late);
        let old = r#"{"too_few_reports":{"reported":1,"need":2}}"#;
        assert_eq!(serde_json::from_str::<Abandonment>(old).unwrap(), reason(0));
        assert_eq!(serde_json::to_string(&reason(0)).unwrap(), old);
    }
}
