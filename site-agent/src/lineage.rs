//! What a site makes of the models it is to train from: pure. Each comes with a manifest that the
//! coordinator has signed, and follows from the one that the site trained before. A coordinator that shows
//! a site another model, an older round or another plan than before is refused, with what is wrong. What
//! the site allows at all is for its policy to say.

use std::collections::BTreeMap;

use fedpaint_proto::names::{Blob, Digest, RoundId, RunName};
use fedpaint_proto::signing::{self, Authority, Signed};
use fedpaint_proto::statement::Manifest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a site trained last in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Last {
    /// The round's number.
    pub number: u32,
    /// The model that it was trained from.
    pub base: Digest,
    /// The run's plan, as the digest of its text.
    pub plan: Digest,
}

/// What a site trained last, by run.
pub type History = BTreeMap<RunName, Last>;

/// What a site is asked to train.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Which attempt at which round.
    pub round: &'a RoundId,
    /// From which model.
    pub base: Blob,
    /// By which plan, as the digest of its text.
    pub plan: Digest,
}

/// Why a site does not train what it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nobody who may has signed the manifest.
    #[error("the base model's manifest does not count: {0}")]
    Signature(#[from] signing::Error),
    /// The manifest is of another run.
    #[error("the base model's manifest is of run {0}")]
    OtherRun(RunName),
    /// The manifest is of another version than the round begins from.
    #[error("round {number} begins from version {}, the manifest is of version {found}", number.saturating_sub(1))]
    Version {
        /// The round.
        number: u32,
        /// What the manifest is of.
        found: u32,
    },
    /// The manifest is of another model than the one that is to be trained.
    #[error("the base model is {}, its manifest is of model {}", told.short(), signed.short())]
    OtherBase {
        /// What the site was told to train.
        told: Digest,
        /// What was signed.
        signed: Digest,
    },
    /// The manifest is of a model of another plan.
    #[error("the plan is not the one that the base model was made by")]
    OtherPlan,
    /// The plan is another than the one that the site trained by.
    #[error("the plan is not the one that this site has trained the run by")]
    PlanChanged,
    /// The site has trained a later round.
    #[error("round {number} is to be trained, this site has trained round {trained}")]
    Replayed {
        /// What is to be trained.
        number: u32,
        /// What was.
        trained: u32,
    },
    /// The round begins from another model than the site was given for it before.
    #[error("round {number} began from model {}, and now from {}", was.short(), is.short())]
    OtherModel {
        /// The round.
        number: u32,
        /// What the site trained from.
        was: Digest,
        /// What it is to train from.
        is: Digest,
    },
    /// The model does not follow from the one that the site trained from.
    #[error("the base model was not made from the model that this site trained from, {}", trained.short())]
    Parent {
        /// What the site trained from.
        trained: Digest,
    },
}

/// Judges what a site is asked to train, at `now` by its clock.
///
/// # Errors
/// Why it does not train it.
pub fn judge(
    authority: &Authority,
    last: Option<&Last>,
    asked: &Asked<'_>,
    manifest: &Signed<Manifest>,
    now: Timestamp,
) -> Result<(), Refusal> {
    manifest.by_coordinator(authority, now)?;
    let (number, base) = (asked.round.number, asked.base);
    let Manifest { run, version, model, plan, parent, .. } = &manifest.statement;
    if *run != asked.round.run {
        return Err(Refusal::OtherRun(run.clone()));
    }
    if u64::from(*version) + 1 != u64::from(number) {
        return Err(Refusal::Version { number, found: *version });
    }
    if *model != base {
        return Err(Refusal::OtherBase { told: base.digest, signed: model.digest });
    }
    if *plan != asked.plan {
        return Err(Refusal::OtherPlan);
    }
    let Some(last) = last else { return Ok(()) };
    if last.plan != asked.plan {
        return Err(Refusal::PlanChanged);
    }
    if number < last.number {
        return Err(Refusal::Replayed { number, trained: last.number });
    }
    if number == last.number && base.digest != last.base {
        return Err(Refusal::OtherModel { number, was: last.base, is: base.digest });
    }
    if last.number.checked_add(1) == Some(number) && *parent != Some(last.base) {
        return Err(Refusal::Parent { trained: last.base });
    }
    Ok(())
}
