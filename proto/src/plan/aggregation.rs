//! How the coordinator makes a round's model of the sites' updates: the plan's `[aggregation]`.
//!
//! Only the coordinator acts on it, and a site trains the same whatever is written here. It holds
//! numbers and decides nothing: the steps themselves are the coordinator's.

use serde::{Deserialize, Serialize};

use super::{Error, in_range};

/// The highest server learning rate.
const RATE_MAX: f64 = 100.0;
/// The highest server learning rate of `adam`: every weight moves by about this much in a round, and
/// weights are themselves a few hundredths. The general default of 1 is so refused, not followed.
const ADAM_RATE_MAX: f64 = 0.1;
/// How fast a late update loses weight, where the plan does not say.
const STALENESS_EXPONENT: f64 = 0.5;
/// The fastest that it may.
const STALENESS_EXPONENT_MAX: f64 = 10.0;

/// How the coordinator makes a round's model. The weighted mean of the sites' weights less the base
/// model is the round's pseudo-gradient D (Reddi et al. 2021, arXiv 2003.00295, algorithm 2); the
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
        }
    }
}

impl AggregationPlan {
    /// Whether every number is one that an optimiser can work with.
    pub(super) fn validate(&self) -> Result<(), Error> {
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
        real("aggregation.staleness_exponent", exponent, fits, "from 0 to 10")
    }
}

fn is_staleness_default(value: &f64) -> bool {
    *value == STALENESS_EXPONENT
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
