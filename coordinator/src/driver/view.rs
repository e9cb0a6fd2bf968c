//! What the outside sees of runs, rounds and sites: plain values, with everything in them.

use std::collections::BTreeMap;
use std::fmt;

use fedpaint_proto::names::{Blob, RoundId, RunName, SiteName};
use fedpaint_proto::plan::{PlanSignature, RunPlan};
use fedpaint_proto::rule::Rule;
use jiff::Timestamp;

use super::troubles::Owed;
use crate::round::{Counts, LateUpdate, Member, Phase, Round, Withdrawal};
use crate::run::{Late, Run, State, Straggler, Tally};
use crate::standing::Standing;

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunView {
    /// Its name.
    pub name: RunName,
    /// Where it is; a pause has its reason in it.
    pub state: State,
    /// The plan; `rounds` is how many are planned.
    pub plan: RunPlan,
    /// Who stands behind it, if anybody has signed it.
    pub plan_signature: Option<PlanSignature>,
    /// Rounds committed.
    pub rounds_committed: u32,
    /// The model it started from.
    pub initial_model: Blob,
    /// The newest global model.
    pub model: Blob,
    /// When it was created.
    pub created_at: Timestamp,
    /// Who was missing in committed rounds.
    pub tally: Tally,
    /// Which sites are in no quarantine, and from which round on.
    pub readmitted: BTreeMap<SiteName, u32>,
    /// Which sites took part in none of the committed rounds of a run that is over.
    pub absent: Vec<SiteName>,
    /// What keeps it, in words; not kept over a restart.
    pub trouble: Option<String>,
}

impl RunView {
    /// Why the run is in its state, in words, where there is more to say than the state does: why it
    /// is paused, whose updates the rounds of a run lacked that is over, or what keeps one that is active.
    pub fn reason(&self) -> Option<String> {
        match &self.state {
            State::Paused { reason } => Some(reason.to_string()),
            State::Finished | State::Stopped => {
                self.tally.in_words(self.rounds_committed, &self.absent)
            }
            State::Active => self.trouble.clone(),
        }
    }
}

impl From<&Run> for RunView {
    fn from(run: &Run) -> RunView {
        RunView {
            name: run.name().clone(),
            state: run.state().clone(),
            plan: run.plan().clone(),
            plan_signature: run.signed_plan().signature,
            rounds_committed: run.committed(),
            initial_model: run.initial(),
            model: run.model(),
            created_at: run.created_at(),
            tally: run.tally().clone(),
            readmitted: run.readmitted().clone(),
            absent: Vec::new(),
            trouble: None,
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
    /// How many counted, and how many did not.
    pub counts: Counts,
    /// The late updates of earlier rounds that are part of it.
    pub late: Vec<LateView>,
    /// When reporting was to end, where it goes on longer.
    pub due: Option<Timestamp>,
    /// Whose update is not there, since when and why; told of a round in hand that is asked for.
    pub missing: Vec<MissingView>,
    /// How the updates of a committed round lie to each other.
    pub standings: Vec<Standing>,
    /// The average that is owed, while it aggregates.
    pub average: Option<Owed>,
}

/// A site whose update is not there.
#[derive(Clone, Debug, PartialEq)]
pub struct MissingView {
    /// Its name.
    pub site: SiteName,
    /// Why.
    pub why: Why,
    /// Since when; of a silent site that was not heard of since the coordinator was started, since then or
    /// since the round was opened. None where it was before the start and is not kept.
    pub since: Option<Timestamp>,
    /// When it was last heard of; not kept over a restart.
    pub heard_at: Option<Timestamp>,
    /// How far its training is, as it last told.
    pub progress: Option<Progress>,
    /// How much of its update is here.
    pub upload: Option<Upload>,
}

/// How much of an update is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Bytes that are here.
    pub here: u64,
    /// Bytes that it has.
    pub size: u64,
}

/// Why an update is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The site was enrolled and has not joined the round.
    NeverJoined,
    /// It joined and waits for the round to begin.
    Waiting,
    /// It has not been heard of.
    Silent,
    /// It is to train and has not said that it does.
    NotBegun,
    /// It trains.
    Training,
    /// Its update is on the way.
    Uploading,
    /// It gave the round up or was revoked.
    Withdrew(Withdrawal),
    /// It still trains this earlier round.
    Late(RoundId),
    /// Its own policy refuses the round, by this rule.
    Declined(Rule),
    /// It is in this round of another run.
    Busy(RoundId),
}

impl fmt::Display for MissingView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::NeverJoined => f.write_str("has not joined")?,
            Why::Waiting => f.write_str("joined, waits for the round to begin")?,
            Why::Silent => match self.heard_at {
                Some(time) => write!(f, "not heard of since {time}")?,
                None => f.write_str("not heard of since the coordinator was started")?,
            },
            Why::NotBegun => f.write_str("joined, has not begun to train")?,
            Why::Training => f.write_str("training")?,
            Why::Uploading => f.write_str("uploading")?,
            Why::Withdrew(why) => write!(f, "withdrew: {why}")?,
            Why::Late(round) => write!(f, "late: trains round {round}")?,
            Why::Busy(round) => write!(f, "busy with round {round} of another run")?,
            Why::Declined(rule) => write!(f, "declined, by the rule {rule} of its own policy")?,
        }
        match (self.upload, self.progress) {
            (Some(Upload { here, size }), _) => write!(f, ", {here} of {size} bytes"),
            (None, Some(Progress { step, steps, .. })) => write!(f, ", step {step} of {steps}"),
            (None, None) => Ok(()),
        }
    }
}

/// A late update that is part of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct LateView {
    /// Whose it is.
    pub site: SiteName,
    /// What came.
    pub late: LateUpdate,
    /// How many rounds late it is.
    pub staleness: u32,
}

impl RoundView {
    /// When the phase ends by itself, while selecting or reporting; when the round is given up, while it
    /// aggregates and its turn has come.
    pub fn until(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Selecting { until } | Phase::Reporting { until } => Some(until),
            Phase::Aggregating => self.average.as_ref().and_then(|average| average.until),
            Phase::Committed(_) | Phase::Abandoned { .. } => None,
        }
    }

    /// The model the round made.
    pub fn model(&self) -> Option<Blob> {
        match self.phase {
            Phase::Committed(made) => Some(made.model),
            _ => None,
        }
    }

    /// Why the round was abandoned, or why it has no average yet, in words.
    pub fn reason(&self) -> Option<String> {
        match &self.phase {
            Phase::Abandoned { reason } => Some(reason.to_string()),
            Phase::Aggregating => self.average.as_ref().and_then(Owed::in_words),
            Phase::Selecting { .. } | Phase::Reporting { .. } | Phase::Committed(_) => None,
        }
    }

    pub(super) fn new(
        round: &Round,
        progress: impl Fn(&SiteName) -> Option<Progress>,
    ) -> RoundView {
        let member = |(site, state): (&SiteName, &Member)| MemberView {
            site: site.clone(),
            state: state.clone(),
            since: round.since(site),
            progress: progress(site),
            late: None,
        };
        let number = round.id().number;
        let late = |(site, late): (&SiteName, &LateUpdate)| LateView {
            site: site.clone(),
            late: late.clone(),
            staleness: late.staleness(number),
        };
        RoundView {
            id: round.id().clone(),
            phase: round.phase().clone(),
            base: round.base(),
            opened_at: round.opened_at(),
            closed_at: round.closed_at(),
            members: round.members().iter().map(member).collect(),
            counts: Counts::of(round),
            late: round.late().iter().map(late).collect(),
            due: round.stretch().map(|stretch| stretch.due),
            missing: Vec::new(),
            standings: round.standings().to_vec(),
            average: None,
        }
    }

    /// The same with what becomes of the updates that had not come when it was sealed.
    pub(super) fn with_late<'a>(
        mut self,
        stragglers: impl Iterator<Item = (&'a SiteName, &'a Straggler)>,
    ) -> RoundView {
        for (site, Straggler { round, late, .. }) in stragglers {
            let member = self.members.iter_mut().find(|member| member.site == *site);
            if let Some(member) = member.filter(|_| *round == self.id) {
                member.late = Some(late.clone());
            }
        }
        self
    }
}

/// A site in a round.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberView {
    /// Its name.
    pub site: SiteName,
    /// What it has done; an update or the reason of a withdrawal is in it.
    pub state: Member,
    /// When it came into this state, where that is known.
    pub since: Option<Timestamp>,
    /// How far it is, as it last told; not kept over a restart.
    pub progress: Option<Progress>,
    /// What becomes of its update, if that had not come when the round was sealed.
    pub late: Option<Late>,
}

/// How far a site is in its training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u32,
    /// Steps to do.
    pub steps: u32,
    /// The mean loss of its last steps, once it has told one.
    pub loss: Option<f64>,
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
    /// The protocol's version that its agent speaks; not kept over a restart.
    pub wire_version: Option<u32>,
    /// When it last joined by a token.
    pub joined_at: Option<Timestamp>,
    /// The Ed25519 key that it joined with.
    pub signing_key: Option<[u8; 32]>,
    /// When the certificate ends that it showed last; not kept over a restart. Where it has shown none since it
    /// was let in, the newest that the coordinator issued to it.
    pub certificate_until: Option<Timestamp>,
    /// When the certificate ends that it last said it signs with; not kept over a restart.
    pub signing_until: Option<Timestamp>,
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
