//! What a run is to do: written by the operator as TOML, validated once, never changed.
//!
//! The model's own shape is not here: a model file describes itself. The coordinator reads the plan's
//! `[round]` and `[aggregation]` and hands the rest on; a site reads `[training]`, and both `[exchange]`.

mod aggregation;
mod exchange;
mod round;
mod signature;

use serde::{Deserialize, Serialize};

pub use self::aggregation::{AggregationPlan, AggregationRule, ServerOptimizer};
pub use self::exchange::{Encoding, ExchangePlan, Part};
pub use self::round::{LatePolicy, RoundPlan};
pub use self::signature::{
    Error as SignerError, NotAKey, PlanKey, PlanSignature, PlanSigner, SignedPlan,
};
use crate::limits::PLAN_BYTES_MAX;
use crate::names::Digest;

/// The plan's format that this version writes and reads.
pub const PLAN_VERSION: u32 = 1;

/// The most rounds of a run.
pub const ROUNDS_MAX: u32 = 100_000;

/// A validated plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunPlan {
    /// The format, [`PLAN_VERSION`].
    pub version: u32,
    /// How many rounds make the run.
    pub rounds: u32,
    /// How a round is held.
    #[serde(default)]
    pub round: RoundPlan,
    /// What a site does in a round.
    #[serde(default)]
    pub training: TrainingPlan,
    /// What the coordinator makes of the sites' updates.
    #[serde(default)]
    pub aggregation: AggregationPlan,
    /// In what form an update travels.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exchange: ExchangePlan,
}

/// What a site does in a round: AdamW for a fixed number of steps, so that a hospital with a hundred
/// times the scans does not train a hundred times as long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingPlan {
    /// Optimiser steps per round.
    pub steps: u32,
    /// Slices per step.
    pub batch: u32,
    /// AdamW's learning rate.
    pub learning_rate: f64,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// The gradient's global norm is clipped to this.
    pub gradient_norm_max: f64,
    /// Steps over which the learning rate rises from 0, in every round.
    pub warmup_steps: u32,
    /// Last steps over which the learning rate falls to 0, in every round.
    pub decay_steps: u32,
    /// Every random draw of the run follows from this.
    pub seed: u64,
    /// Whether slices are varied at random: mirrored, turned, scaled and lit by gamma and bias field.
    pub augment: bool,
    /// Which algorithm draws the masks of healthy tissue.
    pub masks: MaskAlgorithm,
    /// How much the error at each diffusion step counts.
    pub loss_weight: LossWeight,
    /// How often a slice is learnt without its condition, so that painting can be guided by it; without
    /// effect for a model that has no null condition.
    pub condition_drop: f64,
    /// How strongly a site's weights are pulled back to the round's base model: FedProx's mu (Li et al.
    /// 2020, arXiv 1812.06127).
    pub proximal_mu: f64,
    /// What a site's convolutions compute in.
    #[serde(skip_serializing_if = "is_default")]
    pub precision: Precision,
    /// Whether a site keeps less for the way back through the network and computes it again.
    #[serde(skip_serializing_if = "is_default")]
    pub gradient_checkpointing: bool,
    /// The most slices that go through a site's network at once, 0 for the whole batch.
    #[serde(skip_serializing_if = "is_default")]
    pub micro_batch: u32,
}

/// What a site's convolutions compute in. Weights, norms, softmax, loss and optimiser are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits, on every device.
    #[default]
    F32,
    /// 16 bits with the range of f32.
    Bf16,
    /// 16 bits with more digits and less range; the loss is scaled to fit it.
    F16,
}

/// How much the error at each diffusion step counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossWeight {
    /// Every step alike.
    #[default]
    Uniform,
    /// By the signal-to-noise ratio, at most 5 (Hang et al. 2023, arXiv 2303.09556).
    MinSnr,
}

/// Which algorithm draws the masks of healthy tissue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskAlgorithm {
    /// That of the BraTS inpainting challenge as it is meant to be.
    #[default]
    Corrected,
    /// That of the BraTS inpainting challenge as it is, for comparison with published results.
    Compat,
}

impl Default for TrainingPlan {
    fn default() -> TrainingPlan {
        TrainingPlan {
            steps: 200,
            batch: 8,
            learning_rate: 1e-4,
            weight_decay: 0.0,
            gradient_norm_max: 1.0,
            warmup_steps: 0,
            decay_steps: 0,
            seed: 1,
            augment: true,
            masks: MaskAlgorithm::Corrected,
            loss_weight: LossWeight::Uniform,
            condition_drop: 0.1,
            proximal_mu: 0.0,
            precision: Precision::F32,
            gradient_checkpointing: false,
            micro_batch: 0,
        }
    }
}

/// Why a plan is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is too long to be a plan.
    #[error(
        "the plan is {bytes} bytes long, more than the {PLAN_BYTES_MAX} a plan may have (PLAN_BYTES_MAX)"
    )]
    TooLong {
        /// The text's length.
        bytes: usize,
    },
    /// The text is not TOML of the plan's shape.
    #[error("the plan does not parse: {0}")]
    Parse(#[from] toml::de::Error),
    /// The plan is of another version.
    #[error("the plan's version is {found}, this program reads version {PLAN_VERSION}")]
    Version {
        /// The version in the plan.
        found: u32,
    },
    /// A value is out of its range.
    #[error("the plan's {field} is {value}, it must be {must}")]
    Range {
        /// The field as written in the plan.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        must: &'static str,
    },
}

impl RunPlan {
    /// Reads and validates a plan.
    ///
    /// # Errors
    /// If the text is too long, not a plan, or a value is out of its range.
    pub fn from_toml(text: &str) -> Result<RunPlan, Error> {
        if text.len() > PLAN_BYTES_MAX {
            return Err(Error::TooLong { bytes: text.len() });
        }
        let plan: RunPlan = toml::from_str(text)?;
        plan.validate()?;
        Ok(plan)
    }

    /// The plan in its canonical form, every default written out but those of how a site computes, of
    /// what comes late and of the form of updates: plans from before these could be chosen keep their digests, and agents of
    /// that time read them.
    ///
    /// # Panics
    /// Never: a plan is a table of numbers and words, which TOML can always hold once validated.
    pub fn to_toml(&self) -> String {
        #[expect(
            clippy::expect_used,
            reason = "a table of validated numbers and words is always TOML"
        )]
        toml::to_string(self).expect("a plan is representable as TOML")
    }

    /// The digest of the canonical form.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_toml().as_bytes())
    }

    fn validate(&self) -> Result<(), Error> {
        if self.version != PLAN_VERSION {
            return Err(Error::Version { found: self.version });
        }
        let t = &self.training;
        let whole = |field, value: u32, min, max, must| {
            in_range(field, value.to_string(), (min..=max).contains(&value), must)
        };
        let real = |field, value: f64, fits: bool, must| {
            in_range(field, value.to_string(), value.is_finite() && fits, must)
        };
        whole("rounds", self.rounds, 1, ROUNDS_MAX, "from 1 to 100,000")?;
        self.round.validate()?;
        self.aggregation.validate(self.round.sites_min)?;
        whole("training.steps", t.steps, 1, 1_000_000, "from 1 to 1,000,000")?;
        whole("training.batch", t.batch, 1, 1_024, "from 1 to 1,024")?;
        whole("training.warmup_steps", t.warmup_steps, 0, 1_000_000, "at most 1,000,000")?;
        whole("training.decay_steps", t.decay_steps, 0, 1_000_000, "at most 1,000,000")?;
        let rate = t.learning_rate;
        real("training.learning_rate", rate, rate > 0.0 && rate <= 1.0, "above 0 and at most 1")?;
        let decay = t.weight_decay;
        real("training.weight_decay", decay, (0.0..=1.0).contains(&decay), "from 0 to 1")?;
        let norm = t.gradient_norm_max;
        real("training.gradient_norm_max", norm, norm > 0.0, "above 0")?;
        let drop = t.condition_drop;
        real("training.condition_drop", drop, (0.0..=1.0).contains(&drop), "from 0 to 1")?;
        let mu = t.proximal_mu;
        real("training.proximal_mu", mu, (0.0..=100.0).contains(&mu), "from 0 to 100")?;
        whole("training.micro_batch", t.micro_batch, 0, 1_024, "at most 1,024")?;
        // TOML has no larger whole number.
        let fits = i64::try_from(t.seed).is_ok();
        in_range("training.seed", t.seed.to_string(), fits, "at most 2^63 - 1")
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn in_range(
    field: &'static str,
    value: String,
    fits: bool,
    must: &'static str,
) -> Result<(), Error> {
    if fits { Ok(()) } else { Err(Error::Range { field, value, must }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_plan_gets_defaults_and_its_canonical_form_reads_back() {
        let plan = RunPlan::from_toml("version = 1\nrounds = 5").unwrap();
        assert_eq!(plan.round, RoundPlan::default());
        assert_eq!(RunPlan::from_toml(&plan.to_toml()).unwrap(), plan);
    }

    #[test]
    fn a_plan_says_how_slices_are_varied_and_masks_are_drawn() {
        let text = "version = 1\nrounds = 1\n[training]\naugment = false\nmasks = \"compat\"";
        let plan = RunPlan::from_toml(text).unwrap();
        assert!(!plan.training.augment && plan.training.masks == MaskAlgorithm::Compat);
        assert_eq!(RunPlan::from_toml(&plan.to_toml()).unwrap(), plan);
        assert!(RunPlan::from_toml(&text.replace("compat", "official")).is_err());
    }

    #[test]
    fn a_plan_says_how_errors_are_weighed_conditions_dropped_and_weights_pulled() {
        let text = "version = 1\nrounds = 1\n[training]\nloss_weight = \"min_snr\"\n\
                    condition_drop = 0.25\nproximal_mu = 0.01";
        let plan = RunPlan::from_toml(text).unwrap();
        let TrainingPlan { loss_weight, condition_drop, proximal_mu, .. } = plan.training;
        assert_eq!((loss_weight, condition_drop), (LossWeight::MinSnr, 0.25));
        assert_eq!(proximal_mu, 0.01);
        assert_eq!(RunPlan::from_toml(&plan.to_toml()).unwrap(), plan);
        assert!(RunPlan::from_toml(&text.replace("min_snr", "snr")).is_err());
    }

    #[test]
    fn a_plan_says_how_a_site_computes_and_one_that_does_not_keeps_its_digest() {
        let text = "version = 1\nrounds = 1\n[training]\nprecision = \"bf16\"\n\
                    gradient_checkpointing = true\nmicro_batch = 4";
        let plan = RunPlan::from_toml(text).unwrap();
        let TrainingPlan { precision, gradient_checkpointing, micro_batch, .. } = plan.training;
        assert_eq!((precision, gradient_checkpointing), (Precision::Bf16, true));
        assert_eq!(micro_batch, 4);
        assert_eq!(RunPlan::from_toml(&plan.to_toml()).unwrap(), plan);
        assert!(RunPlan::from_toml(&text.replace("bf16", "f8")).is_err());
        let silent = RunPlan::from_toml("version = 1\nrounds = 1").unwrap();
        let said = "version = 1\nrounds = 1\n[training]\nprecision = \"f32\"\nmicro_batch = 0";
        assert_eq!(RunPlan::from_toml(said).unwrap().digest(), silent.digest());
        // What agents read that know none of the three.
        for word in ["precision", "gradient_checkpointing", "micro_batch"] {
            assert!(!silent.to_toml().contains(word), "{word}");
        }
    }

    #[test]
    fn a_plan_out_of_range_is_refused_by_the_name_of_the_field() {
        for (text, field) in [
            ("version = 1\nrounds = 0", "rounds"),
            ("version = 1\nrounds = 1\n[round]\nsites_min = 3\nsites_goal = 2", "sites_goal"),
            ("version = 1\nrounds = 1\n[training]\nbatch = 0", "training.batch"),
            ("version = 1\nrounds = 1\n[training]\nlearning_rate = nan", "learning_rate"),
            ("version = 1\nrounds = 1\n[training]\nlearningrate = 1", "learningrate"),
            ("version = 1\nrounds = 1\n[training]\ncondition_drop = 1.5", "condition_drop"),
            ("version = 1\nrounds = 1\n[training]\nproximal_mu = -1.0", "proximal_mu"),
            ("version = 1\nrounds = 1\n[training]\nproximal_mu = inf", "proximal_mu"),
            ("version = 1\nrounds = 1\n[training]\nmicro_batch = 1025", "micro_batch"),
            ("version = 2\nrounds = 1", "version"),
        ] {
            let error = RunPlan::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        let long = RunPlan::from_toml(&" ".repeat(PLAN_BYTES_MAX + 1)).unwrap_err();
        assert!(matches!(long, Error::TooLong { .. }), "{long}");
        assert!(long.to_string().ends_with("(PLAN_BYTES_MAX)"), "{long}");
    }
}
