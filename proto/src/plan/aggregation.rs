//! How the coordinator makes a round's model of the sites' updates: the plan's `[aggregation]`.
//!
//! Only the coordinator acts on it, and a site trains the same whatever is written here. It holds
//! numbers and decides nothing: the steps themselves are the coordinator's.

use serde::{Deserialize, Serialize};

use super::{Error, in_range, is_default};

/// The highest server learning rate.
const RATE_MAX: f64 = 100.0;
/// The highest server learning rate of `adam`: every weight moves by about this much in a round, and
/// weights are themselves a few hundredths. The general default of 1 is so refused, not followed.
const ADAM_RATE_MAX: f64 = 0.1;
/// How fast a late update loses weight, where the plan does not say.
const STALENESS_EXPONENT: f64 = 0.5;
/// The fastest that it may.
const STALENESS_EXPONENT_MAX: f64 = 10.0;

/// The share of a coordinate's values that is left out at either end, where the plan does not say.
const TRIM: f64 = 0.2;
/// How many times the median norm a clipped update may be, where the plan does not say.
const CLIP_FACTOR: f64 = 2.0;
/// The steps to the geometric median, where the plan does not say: it is near after a few (Pillutla et al.
/// 2022, section 5).
const WEISZFELD_STEPS: u32 = 8;
/// The most steps that a plan may ask for.
const WEISZFELD_STEPS_MAX: u32 = 1_000;
/// The fewest sites of which a median is another than their mean.
const MEDIAN_SITES_MIN: u32 = 3;

/// How the coordinator makes a round's model. What the rule makes of the sites' weights, less the base
/// model, is the round's pseudo-gradient D (Reddi et al. 2021, arXiv 2003.00295, algorithm 2); the
/// optimiser takes one step along it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AggregationPlan {
    /// What is done with the pseudo-gradient.
    pub optimizer: ServerOptimizer,
    /// The server's learning rate. At 1 `average` is the weighted mean itself. A step of `adam` is
    /// of about this size in every weight whose pseudo-gradient is above `tau`, so it wants far less.
    pub learning_rate: f64,
    /// How much of the momentum stays from round to round: beta of `momentum`, beta_1 of `adam`.
    pub momentum: f64,
    /// How much of the mean square stays from round to round; `adam` only.
    pub beta_2: f64,
    /// How far `adam` adapts: pseudo-gradients well below it are scaled alike.
    pub tau: f64,
    /// How much stays, from round to round, of the moving average of the global models that is
    /// published beside them; 0 publishes none. Sites never train from it.
    pub ema_decay: f64,
    /// How fast an update loses weight that is folded in rounds late: after s rounds it counts
    /// (1 + s)^-a of its examples, the polynomial of FedAsync (Xie et al. 2019, arXiv 1903.03934).
    /// 0 takes it for fresh.
    #[serde(skip_serializing_if = "is_staleness_default")]
    pub staleness_exponent: f64,
    /// How the sites' updates become one.
    #[serde(skip_serializing_if = "is_default")]
    pub rule: AggregationRule,
    /// The share of the values of each coordinate that is left out at either end, rounded down to whole updates;
    /// `trimmed_mean` only. A plan whose fewest sites would leave out none is refused.
    #[serde(skip_serializing_if = "is_trim_default")]
    pub trim: f64,
    /// How long the difference of an update to its base model may be, as a Euclidean norm; 0 leaves it to
    /// `clip_factor`. `clipped_mean` only.
    #[serde(skip_serializing_if = "is_default")]
    pub clip_norm: f64,
    /// The same in multiples of the median of the round's norms, where `clip_norm` is 0.
    #[serde(skip_serializing_if = "is_clip_factor_default")]
    pub clip_factor: f64,
    /// How many steps are taken to the geometric median, always as many, so that the same updates make the same
    /// bytes; `geometric_median` only.
    #[serde(skip_serializing_if = "is_steps_default")]
    pub weiszfeld_steps: u32,
    /// Whether an update that is unlike the others of its round, in length or direction, is left out of the
    /// round's model until an operator readmits its site. It is told to be so either way.
    #[serde(skip_serializing_if = "is_default")]
    pub quarantine: bool,
    /// The same of updates that are all but the same as another site's: whoever trains by itself sends no such.
    #[serde(skip_serializing_if = "is_default")]
    pub quarantine_twins: bool,
    /// The same of an update whose very file the run was sent for an earlier round.
    #[serde(skip_serializing_if = "is_default")]
    pub quarantine_replays: bool,
}

/// How the sites' updates become one. By a mean an update counts as the examples that its site says it has seen;
/// by the others each counts alike, because a site that sends what it should not may say so as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregationRule {
    /// The mean, weighted by examples (McMahan et al. 2017, algorithm 1).
    #[default]
    Mean,
    /// The same after differences to the base model that are too long were made shorter: min(1, C / |d|).
    ClippedMean,
    /// The median of each coordinate (Yin et al. 2018, arXiv 1803.01498, definition 1). A late update counts
    /// like a fresh one.
    Median,
    /// The mean of each coordinate without its lowest and highest values (the same, definition 2). A late update
    /// counts like a fresh one.
    TrimmedMean,
    /// The point whose distances to the updates have the least sum, by smoothed Weiszfeld steps (RFA, Pillutla et
    /// al. 2022, arXiv 1912.13445). A late update counts (1 + s)^-a.
    GeometricMedian,
}

/// What the coordinator does with a round's pseudo-gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerOptimizer {
    /// FedAvg: w += rate D (McMahan et al. 2017, algorithm 1, with the rate of Reddi et al. 2021).
    #[default]
    Average,
    /// FedAvgM: m = beta m + D, w += rate m (Hsu et al. 2019, arXiv 1909.06335, section 4.3).
    Momentum,
    /// FedAdam (Reddi et al. 2021, algorithm 2): m = beta_1 m + (1 - beta_1) D,
    /// v = beta_2 v + (1 - beta_2) D^2, w += rate m / (sqrt(v) + tau); v starts at tau^2.
    Adam,
}

impl Default for AggregationPlan {
    fn default() -> AggregationPlan {
        AggregationPlan {
            optimizer: ServerOptimizer::Average,
            learning_rate: 1.0,
            momentum: 0.9,
            beta_2: 0.99,
            tau: 1e-3,
            ema_decay: 0.9,
            staleness_exponent: STALENESS_EXPONENT,
            rule: AggregationRule::Mean,
            trim: TRIM,
            clip_norm: 0.0,
            clip_factor: CLIP_FACTOR,
            weiszfeld_steps: WEISZFELD_STEPS,
            quarantine: false,
            quarantine_twins: false,
            quarantine_replays: false,
        }
    }
}

impl AggregationPlan {
    /// Whether every number is one that an optimiser can work with, in rounds of at least `sites_min` sites.
    pub(super) fn validate(&self, sites_min: u32) -> Result<(), Error> {
        let real = |field, value: f64, fits: bool, must| {
            in_range(field, value.to_string(), value.is_finite() && fits, must)
        };
        let share = |field, value: f64| {
            real(field, value, (0.0..1.0).contains(&value), "at least 0 and below 1")
        };
        let (rate, tau) = (self.learning_rate, self.tau);
        let (rate_max, must) = match self.optimizer {
            ServerOptimizer::Adam => (ADAM_RATE_MAX, "above 0 and at most 0.1 for adam"),
            _ => (RATE_MAX, "above 0 and at most 100"),
        };
        real("aggregation.learning_rate", rate, rate > 0.0 && rate <= rate_max, must)?;
        share("aggregation.momentum", self.momentum)?;
        share("aggregation.beta_2", self.beta_2)?;
        // The square of tau is kept in 32 bits.
        real("aggregation.tau", tau, (1e-12..=1.0).contains(&tau), "from 1e-12 to 1")?;
        share("aggregation.ema_decay", self.ema_decay)?;
        let exponent = self.staleness_exponent;
        let fits = (0.0..=STALENESS_EXPONENT_MAX).contains(&exponent);
        real("aggregation.staleness_exponent", exponent, fits, "from 0 to 10")?;
        self.validate_rule(sites_min)
    }

    fn validate_rule(&self, sites_min: u32) -> Result<(), Error> {
        let real = |field, value: f64, fits: bool, must| {
            in_range(field, value.to_string(), value.is_finite() && fits, must)
        };
        let (trim, norm, factor) = (self.trim, self.clip_norm, self.clip_factor);
        real("aggregation.trim", trim, (0.0..0.5).contains(&trim), "at least 0 and below 0.5")?;
        real("aggregation.clip_norm", norm, norm >= 0.0, "at least 0")?;
        let fits = factor > 0.0 && factor <= 1e6;
        real("aggregation.clip_factor", factor, fits, "above 0 and at most 1e6")?;
        let steps = self.weiszfeld_steps;
        let fits = (1..=WEISZFELD_STEPS_MAX).contains(&steps);
        in_range("aggregation.weiszfeld_steps", steps.to_string(), fits, "from 1 to 1,000")?;
        let said = || sites_min.to_string();
        match self.rule {
            AggregationRule::Mean | AggregationRule::ClippedMean => Ok(()),
            AggregationRule::Median | AggregationRule::GeometricMedian => in_range(
                "round.sites_min",
                said(),
                sites_min >= MEDIAN_SITES_MIN,
                "at least 3 where updates are aggregated by a median",
            ),
            AggregationRule::TrimmedMean => in_range(
                "round.sites_min",
                said(),
                self.trimmed(sites_min as usize) >= 1,
                "so many that aggregation.trim of them is at least one",
            ),
        }
    }

    /// How many values of so many are left out at either end by `trimmed_mean`.
    pub fn trimmed(&self, updates: usize) -> usize {
        (self.trim * updates as f64) as usize
    }

    /// Whether the rule or a quarantine asks for the updates' lengths and directions before it counts one.
    pub fn compares_first(&self) -> bool {
        let asks = [AggregationRule::ClippedMean, AggregationRule::GeometricMedian];
        let quarantines = [self.quarantine, self.quarantine_twins, self.quarantine_replays];
        quarantines.contains(&true) || asks.contains(&self.rule)
    }
}

fn is_staleness_default(value: &f64) -> bool {
    *value == STALENESS_EXPONENT
}

fn is_trim_default(value: &f64) -> bool {
    *value == TRIM
}

fn is_clip_factor_default(value: &f64) -> bool {
    *value == CLIP_FACTOR
}

fn is_steps_default(value: &u32) -> bool {
    *value == WEISZFELD_STEPS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::RunPlan;

    fn plan(aggregation: &str) -> Result<RunPlan, Error> {
        RunPlan::from_toml(&format!("version = 1\nrounds = 1\n[aggregation]\n{aggregation}"))
    }

    #[test]
    fn a_plan_without_a_word_on_it_takes_the_plain_mean_and_keeps_a_moving_average() {
        let silent = RunPlan::from_toml("version = 1\nrounds = 1").unwrap().aggregation;
        assert_eq!(silent, AggregationPlan::default());
        let kept = (silent.optimizer, silent.learning_rate, silent.ema_decay);
        assert_eq!(kept, (ServerOptimizer::Average, 1.0, 0.9));
    }

    #[test]
    fn every_optimizer_is_named_in_the_plan_and_its_canonical_form_reads_back() {
        for (word, optimizer) in [
            ("average", ServerOptimizer::Average),
            ("momentum", ServerOptimizer::Momentum),
            ("adam", ServerOptimizer::Adam),
        ] {
            let text = format!("optimizer = \"{word}\"\nlearning_rate = 0.01\nema_decay = 0");
            let plan = plan(&text).unwrap();
            assert_eq!(plan.aggregation.optimizer, optimizer);
            assert_eq!((plan.aggregation.learning_rate, plan.aggregation.ema_decay), (0.01, 0.0));
            assert_eq!(RunPlan::from_toml(&plan.to_toml()).unwrap(), plan);
        }
    }

    #[test]
    fn every_rule_is_named_in_the_plan_and_one_that_is_silent_keeps_its_digest() {
        let of = |text: &str| {
            let round = "[round]\nsites_min = 5\nsites_goal = 5\n";
            RunPlan::from_toml(&format!("version = 1\nrounds = 1\n{round}[aggregation]\n{text}"))
        };
        for (word, rule) in [
            ("mean", AggregationRule::Mean),
            ("clipped_mean", AggregationRule::ClippedMean),
            ("median", AggregationRule::Median),
            ("trimmed_mean", AggregationRule::TrimmedMean),
            ("geometric_median", AggregationRule::GeometricMedian),
        ] {
            let plan = of(&format!("rule = \"{word}\"\nquarantine = true\ntrim = 0.25")).unwrap();
            assert_eq!((plan.aggregation.rule, plan.aggregation.trim), (rule, 0.25));
            assert_eq!(RunPlan::from_toml(&plan.to_toml()).unwrap(), plan);
            assert!(!plan.to_toml().contains("quarantine_"), "as before there was another");
        }
        assert!(of("rule = \"krum\"").is_err());
        let silent = of("").unwrap();
        let said = "rule = \"mean\"\ntrim = 0.2\nclip_norm = 0\nclip_factor = 2\nweiszfeld_steps = 8\n\
                    quarantine = false\nquarantine_twins = false\nquarantine_replays = false";
        assert_eq!(of(said).unwrap().digest(), silent.digest());
        // What agents read that know none of them.
        for word in ["rule", "trim", "clip", "weiszfeld", "quarantine"] {
            assert!(!silent.to_toml().contains(word), "{word}");
        }
    }

    #[test]
    fn each_quarantine_is_named_by_itself_and_has_the_updates_compared_before_one_counts() {
        let none = AggregationPlan::default();
        assert!(!none.compares_first());
        for (word, wanted) in [
            ("quarantine", AggregationPlan { quarantine: true, ..none.clone() }),
            ("quarantine_twins", AggregationPlan { quarantine_twins: true, ..none.clone() }),
            ("quarantine_replays", AggregationPlan { quarantine_replays: true, ..none.clone() }),
        ] {
            let found = plan(&format!("{word} = true")).unwrap();
            assert_eq!(found.aggregation, wanted);
            assert!(found.aggregation.compares_first(), "{word}");
            assert_eq!(RunPlan::from_toml(&found.to_toml()).unwrap(), found);
            assert_eq!(found.to_toml().matches("quarantine").count(), 1, "{word}");
        }
    }

    #[test]
    fn a_rule_that_would_leave_out_nobody_of_the_fewest_sites_is_refused() {
        let of = |sites_min: u32, text: &str| {
            let round = format!("[round]\nsites_min = {sites_min}\nsites_goal = 99\n");
            RunPlan::from_toml(&format!("version = 1\nrounds = 1\n{round}[aggregation]\n{text}"))
        };
        for (rule, few, enough) in [
            ("rule = \"trimmed_mean\"", 4, 5),
            ("rule = \"trimmed_mean\"\ntrim = 0.1", 9, 10),
            ("rule = \"median\"", 2, 3),
            ("rule = \"geometric_median\"", 2, 3),
        ] {
            let error = of(few, rule).unwrap_err().to_string();
            assert!(error.contains("round.sites_min"), "{error}");
            assert!(of(enough, rule).is_ok(), "{rule}");
        }
        let never = "rule = \"trimmed_mean\"\ntrim = 0.0";
        assert!(of(99, never).is_err(), "it would be the mean under another name");
        assert!(of(1, "rule = \"clipped_mean\"").is_ok());
        for (field, value) in [
            ("trim", "0.5"),
            ("trim", "nan"),
            ("clip_norm", "-1.0"),
            ("clip_norm", "inf"),
            ("clip_factor", "0.0"),
            ("clip_factor", "nan"),
            ("weiszfeld_steps", "0"),
            ("weiszfeld_steps", "1001"),
        ] {
            let error = of(5, &format!("{field} = {value}")).unwrap_err().to_string();
            assert!(error.contains(&format!("aggregation.{field}")), "{error}");
        }
    }

    #[test]
    fn adam_is_refused_a_rate_that_would_throw_the_model_away_such_as_the_default() {
        for text in ["optimizer = \"adam\"", "optimizer = \"adam\"\nlearning_rate = 0.2"] {
            let error = plan(text).unwrap_err().to_string();
            assert!(error.contains("at most 0.1 for adam"), "{error}");
        }
        assert!(plan("optimizer = \"adam\"\nlearning_rate = 0.1").is_ok());
        assert!(plan("optimizer = \"momentum\"").is_ok());
    }

    #[test]
    fn a_number_no_optimizer_can_work_with_is_refused_by_the_name_of_its_field() {
        for field in
            ["learning_rate", "momentum", "beta_2", "tau", "ema_decay", "staleness_exponent"]
        {
            for value in ["nan", "inf", "-0.5", "1e9"] {
                let error = plan(&format!("{field} = {value}")).unwrap_err().to_string();
                assert!(error.contains(&format!("aggregation.{field} is")), "{error}");
            }
        }
        for (field, value) in
            [("learning_rate", 0.0), ("tau", 0.0), ("momentum", 1.0), ("ema_decay", 1.0)]
        {
            let error = plan(&format!("{field} = {value:?}")).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        for text in ["optimizer = \"adagrad\"", "beta_1 = 0.9"] {
            assert!(matches!(plan(text), Err(Error::Parse(_))), "{text}");
        }
    }
}
