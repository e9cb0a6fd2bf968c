//! The rules of a site's own policy, by name: why a site refuses, in a form that may leave it.
//!
//! What a rule allows is the site's secret; that it was the reason is not. `site-agent/src/policy.rs`
//! has the policy itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::v1::PolicyRule;

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident = $name:literal;)*) => {
        /// A rule of a site's own policy.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
            /// One that this version does not know.
            Unknown,
        }

        impl Rule {
            /// Every rule there is.
            pub const ALL: &[Rule] = &[$(Rule::$rule,)*];

            /// The rule's name in logs and reports.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Rule::$rule => $name,)*
                    Rule::Unknown => "unknown",
                }
            }
        }

        impl From<Rule> for PolicyRule {
            fn from(rule: Rule) -> PolicyRule {
                match rule {
                    $(Rule::$rule => PolicyRule::$rule,)*
                    Rule::Unknown => PolicyRule::Unspecified,
                }
            }
        }

        impl From<PolicyRule> for Rule {
            fn from(rule: PolicyRule) -> Rule {
                match rule {
                    $(PolicyRule::$rule => Rule::$rule,)*
                    PolicyRule::Unspecified => Rule::Unknown,
                }
            }
        }
    };
}

rules! {
    /// The stop file is there.
    StopFile = "stop_file";
    /// It is outside of the hours in which the site trains.
    Hours = "hours";
    /// Nobody at the site has approved the plan.
    Approval = "approval";
    /// No signer whom the site trusts has signed the plan.
    Signers = "signers";
    /// The plan is not one that the site reads.
    Plan = "plan";
    /// The plan has more rounds than the site allows.
    Rounds = "rounds";
    /// A round has more optimiser steps than the site allows.
    Steps = "steps";
    /// A step has more slices than the site allows.
    Batch = "batch";
    /// The optimiser's numbers are beyond what the site allows.
    Optimiser = "optimiser";
    /// A round may have, or has, fewer sites than the site allows.
    Cohort = "cohort";
    /// An update has more bytes than the site allows.
    Bytes = "bytes";
    /// An update has a tensor that the site does not let out, or is no version of its base model.
    Tensors = "tensors";
    /// The site does not let out a number without which an update does not count.
    Metrics = "metrics";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_travels_and_one_of_a_later_version_is_unknown() {
        for &rule in Rule::ALL {
            let wire = i32::from(PolicyRule::from(rule));
            assert_eq!(Rule::from(PolicyRule::try_from(wire).unwrap()), rule);
            assert_eq!(serde_json::to_string(&rule).unwrap(), format!("\"{rule}\""));
        }
        assert_eq!(Rule::from(PolicyRule::try_from(99).unwrap_or_default()), Rule::Unknown);
    }
}
