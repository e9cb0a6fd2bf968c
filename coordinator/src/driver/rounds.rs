//! What operators ask about rounds and do to them: a part of the [`Handle`].

use fedpaint_proto::limits::REASON_BYTES_MAX;
use fedpaint_proto::names::{OperatorName, RoundId, RunName, SiteName};

use super::core::{Moment, Request, Stage, State, Verdict};
use super::error::Error;
use super::handle::Handle;
use super::troubles::Troubles;
use super::view::{ModelView, RoundView, RunView};
use crate::round::{Abandonment, Phase, Refusal};
use crate::run::{self, Run};

/// The most rounds one call is given.
pub const ROUNDS_MAX: u32 = 1_000;

/// The most models one call is given.
pub const MODELS_MAX: u32 = 10_000;

impl Handle {
    /// A run and its round in hand, with whose update is not there, since when and why.
    ///
    /// # Errors
    /// If there is no such run.
    pub fn run_now(&self, name: &RunName) -> Result<(RunView, RoundView), Error> {
        let (troubles, state) = (self.troubles(), self.state.borrow());
        let run = state.run(name)?;
        Ok((state.run_view(run, &troubles), self.round_now(&state, run)))
    }

    /// The round in hand of every active run, in the order of creation.
    pub fn active_rounds(&self) -> Vec<RoundView> {
        let state = self.state.borrow();
        let active = state.runs().filter(|run| *run.state() == run::State::Active);
        active.map(|run| self.round_now(&state, run)).collect()
    }

    /// A round; attempt 0 is its newest.
    ///
    /// # Errors
    /// If there is no such run or round, or the database fails.
    pub async fn round(&self, id: &RoundId) -> Result<RoundView, Error> {
        let plan = self.plan(&id.run)?;
        let found = self.store.round(id, &plan.round).await?;
        let round = found.ok_or_else(|| Error::RoundUnknown(id.clone()))?;
        let number = round.id().number;
        let late = self.store.late(&id.run, number, number).await?;
        let state = self.state.borrow();
        let run = state.run(&id.run)?;
        // What is over does not change any more, so neither does the answer.
        let in_hand = run.round() == &round && !round.is_over();
        Ok(if in_hand {
            self.round_now(&state, run)
        } else {
            let view = state.round_view(&round, &Troubles::default());
            view.with_late(late.iter().map(|(site, straggler)| (site, straggler)))
        })
    }

    /// The newest rounds of a run, every attempt, before the number and attempt `before`, oldest first;
    /// at most `limit`, and 0 is [`ROUNDS_MAX`].
    ///
    /// # Errors
    /// If there is no such run, or the database fails.
    pub async fn rounds(
        &self,
        run: &RunName,
        before: Option<(u32, u32)>,
        limit: u32,
    ) -> Result<Vec<RoundView>, Error> {
        let plan = self.plan(run)?;
        let limit = bounded(limit, ROUNDS_MAX);
        let rounds = self.store.rounds(run, &plan.round, before, limit).await?;
        let late = match (rounds.first(), rounds.last()) {
            (Some(first), Some(last)) => {
                self.store.late(run, first.id().number, last.id().number).await?
            }
            _ => Vec::new(),
        };
        let (troubles, state) = (self.troubles(), self.state.borrow());
        let view = |round| {
            let late = late.iter().map(|(site, straggler)| (site, straggler));
            state.round_view(round, &troubles).with_late(late)
        };
        Ok(rounds.iter().map(view).collect())
    }

    /// The newest global models of a run that are of rounds before `before`, oldest first; at most
    /// `limit`, and 0 is [`MODELS_MAX`].
    ///
    /// # Errors
    /// If there is no such run, or the database fails.
    pub async fn models(
        &self,
        run: &RunName,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<ModelView>, Error> {
        let view = self.run(run)?;
        let limit = bounded(limit, MODELS_MAX);
        let made = self.store.models(run, before, limit).await?;
        let mut models = Vec::with_capacity(made.len() + 1);
        if made.len() < limit as usize {
            let (blob, created_at) = (view.initial_model, view.created_at);
            models.push(ModelView { run: run.clone(), round: 0, blob, ema: None, created_at });
        }
        models.extend(made.into_iter().map(|m| ModelView {
            run: run.clone(),
            round: m.round,
            blob: m.blob,
            ema: m.ema,
            created_at: m.committed_at,
        }));
        Ok(models)
    }

    /// Ends selection or reporting now, if enough sites are there. With a stage, a round that has left
    /// it is no error: the call was made before.
    ///
    /// # Errors
    /// If there is no such round in hand, it refuses, or the database fails.
    pub async fn close_round(
        &self,
        actor: &OperatorName,
        round: &RoundId,
        stage: Option<Stage>,
    ) -> Result<RoundView, Error> {
        let verdict = stage.map_or(Verdict::Close, Verdict::End);
        self.verdict(actor, round, verdict, |_| stage.is_some()).await
    }

    /// Gives a round up; the run tries it again. `reason` is at most [`REASON_BYTES_MAX`] long. A round
    /// that was given up for this reason is no error: the call was made before.
    ///
    /// # Errors
    /// If there is no such round in hand, it is over, or the database fails.
    pub async fn abandon_round(
        &self,
        actor: &OperatorName,
        round: &RoundId,
        reason: &str,
    ) -> Result<RoundView, Error> {
        if reason.len() > REASON_BYTES_MAX {
            let (what, limit) = ("reason", "REASON_BYTES_MAX");
            return Err(Error::TooLong { what, bytes_max: REASON_BYTES_MAX, limit });
        }
        let given_up = Abandonment::ByOperator { reason: reason.to_owned() };
        let done =
            |phase: &Phase| matches!(phase, Phase::Abandoned { reason } if *reason == given_up);
        self.verdict(actor, round, Verdict::Abandon(reason.to_owned()), done).await
    }

    /// `done` says of a round that is over whether the verdict was carried out before.
    async fn verdict(
        &self,
        actor: &OperatorName,
        round: &RoundId,
        verdict: Verdict,
        done: impl Fn(&Phase) -> bool,
    ) -> Result<RoundView, Error> {
        let outcome = self.change(Request::Verdict(actor.clone(), round.clone(), verdict)).await;
        match outcome {
            Ok(()) => self.round(round).await,
            Err(over @ Error::Round { refusal: Refusal::RoundOver, .. }) => {
                let view = self.round(round).await?;
                if done(&view.phase) { Ok(view) } else { Err(over) }
            }
            Err(error) => Err(error),
        }
    }

    fn round_now(&self, state: &State, run: &Run) -> RoundView {
        let upload = |site: &SiteName, round: &RoundId| self.uploads.of(site, round);
        let (now, silent_after) = (self.clock.now(), self.silent_after);
        let moment = Moment { now, started_at: self.started_at, silent_after, upload: &upload };
        let missing = state.missing(run, moment);
        RoundView { missing, ..state.round_view(run.round(), &self.troubles()) }
    }
}

/// What a caller asked for at most, within what one call is given.
pub(super) fn bounded(asked: u32, max: u32) -> u32 {
    if asked == 0 { max } else { asked.min(max) }
}
