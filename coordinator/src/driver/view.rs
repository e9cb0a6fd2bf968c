//! What the outside sees of runs, rounds and sites: plain values, with everything in them.

use fedpaint_proto::names::{Blob, RoundId, RunName, SiteName};
use fedpaint_proto::plan::RunPlan;
use jiff::Timestamp;

use crate::round::{Member, Phase, Round};
use crate::run::{Run, State};

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunView {
    /// Its name.
    pub name: RunName,
    /// Where it is; a pause has its reason in it.
    pub state: State,
    /// The plan; `rounds` is how many are planned.
    pub plan: RunPlan,
    /// Rounds committed.
    pub rounds_committed: u32,
    /// The model it started from.
    pub initial_model: Blob,
    /// The newest global model.
    pub model: Blob,
    /// When it was created.
    pub created_at: Timestamp,
}

impl RunView {
    /// Why the run is in its state, in words, where there is more to say than the state does.
    pub fn reason(&self) -> Option<String> {
        match &self.state {
            State::Paused { reason } => Some(reason.to_string()),
            State::Active | State::Finished | State::Stopped => None,
        }
    }
}

impl From<&Run> for RunView {
    fn from(run: &Run) -> RunView {
        RunView {
            name: run.name().clone(),
            state: run.state().clone(),
            plan: run.plan().clone(),
            rounds_committed: run.committed(),
            initial_model: run.initial(),
            model: run.model(),
            created_at: run.created_at(),
        }
    }
}

/// A round.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundView {
    /// Which round and attempt.
    pub id: RoundId,
    /// Where it is, with its deadline, its model or the reason of its end.
    pub phase: Phase,
    /// The model the sites train from.
    pub base: Blob,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it was committed or abandoned.
    pub closed_at: Option<Timestamp>,
    /// The sites in it, by name.
    pub members: Vec<MemberView>,
}

impl RoundView {
    /// When the phase ends by itself, while selecting or reporting.
    pub fn until(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Selecting { until } | Phase::Reporting { until } => Some(until),
            Phase::Aggregating | Phase::Committed(_) | Phase::Abandoned { .. } => None,
        }
    }

    /// The model the round made.
    pub fn model(&self) -> Option<Blob> {
        match self.phase {
            Phase::Committed(made) => Some(made.model),
            _ => None,
        }
    }

    /// Why the round was abandoned, in words.
    pub fn reason(&self) -> Option<String> {
        match &self.phase {
            Phase::Abandoned { reason } => Some(reason.to_string()),
            _ => None,
        }
    }

    pub(super) fn new(
        round: &Round,
        progress: impl Fn(&SiteName) -> Option<Progress>,
    ) -> RoundView {
        let member = |(site, state): (&SiteName, &Member)| MemberView {
            site: site.clone(),
            state: state.clone(),
            progress: progress(site),
        };
        RoundView {
            id: round.id().clone(),
            phase: round.phase().clone(),
            base: round.base(),
            opened_at: round.opened_at(),
            closed_at: round.closed_at(),
            members: round.members().iter().map(member).collect(),
        }
    }
}

/// A site in a round.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberView {
    /// Its name.
    pub site: SiteName,
    /// What it has done; an update or the reason of a withdrawal is in it.
    pub state: Member,
    /// How far it is, as it last told; not kept over a restart.
    pub progress: Option<Progress>,
}

/// How far a site is in its training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u32,
    /// Steps to do.
    pub steps: u32,
    /// The newest loss.
    pub loss: f64,
}

/// A site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteView {
    /// Its name.
    pub name: SiteName,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Its last heartbeat; not kept over a restart.
    pub seen_at: Option<Timestamp>,
    /// Its agent's version, as it last said; not kept over a restart.
    pub agent_version: Option<String>,
}

/// A global model: what a run started from, or what a round made.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelView {
    /// The run.
    pub run: RunName,
    /// 0 is the initial model, n the model of round n.
    pub round: u32,
    /// The file.
    pub blob: Blob,
    /// The moving average of the run's models up to this one, where the plan asks for it.
    pub ema: Option<Blob>,
    /// When the run was created or the round committed.
    pub created_at: Timestamp,
}
