//! What a site makes of the models it is to train from: pure. Each comes with a manifest that the
//! coordinator has signed, and follows from the one that the site trained before, over every round that the
//! site has missed meanwhile. A coordinator that shows a site another model, an older round or another plan
//! than before is refused, with what is wrong. What the site allows at all is for its policy to say.

use std::collections::BTreeMap;

use fedpaint_proto::names::{Blob, Digest, RoundId, RunName};
use fedpaint_proto::plan::ROUNDS_MAX;
use fedpaint_proto::signing::{self, Authority, Malformed, Signed};
use fedpaint_proto::statement::Manifest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a site trained last in a run, or how far it has followed the run since.
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
    /// It is none, or not signed at all.
    #[error("the base model's manifest does not count: {0}")]
    Malformed(#[from] Malformed),
    /// No run has that many rounds.
    #[error("round {number} is to be trained, no run has more than {ROUNDS_MAX}")]
    Beyond {
        /// The round.
        number: u32,
    },
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
    /// The same of a model that was made meanwhile, and that the base model is said to follow from.
    #[error("the model of round {version} was not made from the one before it, {}, which this site was shown", before.short())]
    Descent {
        /// The round that made it.
        version: u32,
        /// What it must have been made from.
        before: Digest,
    },
}

/// The way from what a site trained last to what it is to train, over the models of the rounds that it missed.
#[derive(Debug)]
pub struct Descent<'a> {
    asked: Asked<'a>,
    reached: Last,
}

impl<'a> Descent<'a> {
    /// The way from `last`.
    pub fn new(last: Last, asked: Asked<'a>) -> Descent<'a> {
        Descent { asked, reached: last }
    }

    /// The version whose manifest is to be shown next; none where [`judge`] can say the rest.
    pub fn version(&self) -> Option<u32> {
        let version = self.reached.number;
        (version < self.asked.round.number.saturating_sub(1)).then_some(version)
    }

    /// Judges the manifest of that version, at `now` by the site's clock.
    ///
    /// # Errors
    /// Why the site does not train what it is asked to.
    pub fn step(
        &mut self,
        authority: &Authority,
        manifest: &Signed<Manifest>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let (version, before) = (self.reached.number, self.reached.base);
        let number = version.saturating_add(1);
        signed(authority, (&self.asked.round.run, number), manifest, now)?;
        let Manifest { model, plan, parent, .. } = &manifest.statement;
        if *plan != self.asked.plan {
            return Err(Refusal::OtherPlan);
        }
        if *parent != Some(before) {
            return Err(Refusal::Descent { version, before });
        }
        self.reached = Last { number, base: model.digest, plan: *plan };
        Ok(())
    }

    /// How far the run was followed: as if this site had trained that round.
    pub fn reached(&self) -> &Last {
        &self.reached
    }
}

/// Judges what a site is asked to train, at `now` by its clock. That the model follows from the one of `last` is
/// seen where no round was missed; else [`Descent`] leads from one to the other, and ends at a later `last`.
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
    let (number, base) = (asked.round.number, asked.base);
    if number > ROUNDS_MAX {
        return Err(Refusal::Beyond { number });
    }
    signed(authority, (&asked.round.run, number), manifest, now)?;
    let Manifest { model, plan, parent, .. } = &manifest.statement;
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

/// That the coordinator has signed the manifest of the model of a run that round `number` begins from.
fn signed(
    authority: &Authority,
    (asked, number): (&RunName, u32),
    manifest: &Signed<Manifest>,
    now: Timestamp,
) -> Result<(), Refusal> {
    manifest.by_coordinator(authority, now)?;
    let Manifest { run, version, .. } = &manifest.statement;
    if run != asked {
        return Err(Refusal::OtherRun(run.clone()));
    }
    if u64::from(*version) + 1 != u64::from(number) {
        return Err(Refusal::Version { number, found: *version });
    }
    Ok(())
}
