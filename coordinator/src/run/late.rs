//! Stragglers: members that had not reported when their round was sealed. In a run that folds late updates in
//! their update may still come; in one that drops them it is dropped at once, with the reason. What is brought
//! after that is refused and kept with its row ([`Run::keep_dropped`]); it counts nowhere. PURE, like the run it
//! belongs to.
//!
//! ```text
//!                 the update comes       a round is sealed       that round commits
//!  Training ──────────────▶ Reported ──────────────▶ Sealed ──────────────▶ Folded
//!     │                        │    ◀───────────────────┘
//!     │ too late, withdrawn    │       it is abandoned, but for what
//!     │                        │       could not be averaged: dropped
//!     ▼ or revoked             ▼ the run ends, the site is revoked
//!  Dropped ◀───────────────────┘
//! ```
//!
//! A straggler whose own round is abandoned is dropped: the next attempt trains the same bytes again,
//! and they would count twice.

use std::collections::BTreeMap;

use fedpaint_proto::names::{Blob, RoundId, SiteName};
use fedpaint_proto::plan::LatePolicy;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Run;
use crate::round::{Abandonment, LateUpdate, Member, Phase, Refusal, Update, Withdrawal};

/// A member that had not reported when its round was sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct Straggler {
    /// The round that it trains for, or trained for.
    pub round: RoundId,
    /// The model that it trains from.
    pub base: Blob,
    /// When its round was sealed.
    pub since: Timestamp,
    /// Where its update is.
    pub late: Late,
}

/// Where a late update is.
#[derive(Clone, Debug, PartialEq)]
pub enum Late {
    /// It is in the making.
    Training,
    /// It came, and waits for the next round that is sealed.
    Reported(Update),
    /// It is part of the round in hand, which aggregates.
    Sealed(Update),
    /// It counted in the round in hand.
    Folded(Update),
    /// It does not count.
    Dropped {
        /// What had come.
        update: Option<Update>,
        /// Why.
        why: Drop,
    },
}

impl Late {
    /// The update, if it has come.
    pub fn update(&self) -> Option<&Update> {
        match self {
            Late::Training => None,
            Late::Reported(update) | Late::Sealed(update) | Late::Folded(update) => Some(update),
            Late::Dropped { update, .. } => update.as_ref(),
        }
    }

    /// The update, if it was accepted: not what was kept though its plan had dropped it before it came.
    pub fn taken(&self) -> Option<&Update> {
        match self {
            Late::Dropped { why: Drop::ByPlan | Drop::TooLate, .. } => None,
            late => late.update(),
        }
    }

    /// The same in words, for who looks at the round that it was trained for.
    pub fn in_words(&self) -> String {
        match self {
            Late::Training => {
                "missing when the round was sealed; its update may come late".to_owned()
            }
            Late::Reported(_) => "its update came late and waits for the next round".to_owned(),
            Late::Sealed(_) => "its update came late and is part of a later round".to_owned(),
            Late::Folded(_) => "its update came late and counted in a later round".to_owned(),
            Late::Dropped { update: None, why } => format!("no update in time, and dropped: {why}"),
            Late::Dropped { update: Some(_), why } => {
                format!("its update came late and was dropped: {why}")
            }
        }
    }

    /// Whether it can come, or count, no more.
    pub fn is_settled(&self) -> bool {
        matches!(self, Late::Folded(_) | Late::Dropped { .. })
    }
}

/// Why a late update does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Drop {
    /// The run folds no late update in.
    #[error("a late update does not count, by [round] late")]
    ByPlan,
    /// The last round that it could have been folded into was sealed without it.
    #[error("no round that it may be folded into is left, by [round] late_rounds_max or [rounds]")]
    TooLate,
    /// Its own round was abandoned and is tried again.
    #[error("its own round was abandoned after all and is tried again")]
    RoundAbandoned,
    /// The attempt that had folded it in could not be averaged. It may be what cannot be read, and would
    /// then fail every attempt to come; its site trains on from newer models.
    #[error("the round that it was folded into could not be averaged")]
    AggregationFailed,
    /// The run ended.
    #[error("the run is over")]
    RunOver,
    /// The site gave it up.
    #[error("{0}")]
    Withdrew(Withdrawal),
    /// An operator revoked the site.
    #[error("the site was revoked")]
    Revoked,
}

/// What can happen to a late update.
#[derive(Clone, Debug, PartialEq)]
pub enum LateEvent {
    /// It was checked and accepted.
    Reported(Update),
    /// The site gives it up.
    Withdrew(Withdrawal),
}

impl Run {
    /// The stragglers, by the number of their round and their name: those whose update may still count,
    /// and those that were settled in the round in hand.
    pub fn stragglers(&self) -> impl Iterator<Item = (&SiteName, &Straggler)> {
        self.stragglers.iter().map(|((_, site), straggler)| (site, straggler))
    }

    /// The straggler `site` of this very round and attempt.
    pub fn straggler(&self, id: &RoundId, site: &SiteName) -> Option<&Straggler> {
        let straggler = self.stragglers.get(&(id.number, site.clone()))?;
        (straggler.round == *id).then_some(straggler)
    }

    /// The round that `site` trains late, if it does.
    pub fn trains_late(&self, site: &SiteName) -> Option<&Straggler> {
        let training =
            |(name, s): &(&SiteName, &Straggler)| *name == site && s.late == Late::Training;
        self.stragglers().find(training).map(|(_, straggler)| straggler)
    }

    /// How many sites still train an earlier round.
    pub(super) fn busy(&self) -> usize {
        self.stragglers.values().filter(|straggler| straggler.late == Late::Training).count()
    }

    /// When at the latest, by the plan, a straggler's update can still come.
    pub(super) fn late_until(&self, straggler: &Straggler) -> Timestamp {
        let plan = &self.plan.plan.round;
        let last =
            straggler.round.number.saturating_add(plan.late_rounds_max).min(self.plan.plan.rounds);
        let rounds = last.saturating_sub(self.round.id().number) + 1;
        let span = (plan.selection() + plan.reporting()).saturating_mul(rounds);
        self.round.opened_at().checked_add(span).unwrap_or(Timestamp::MAX)
    }

    /// Whether a late update for `id` could be accepted from `site`: the model that it is trained from.
    ///
    /// # Errors
    /// Why it could not.
    pub(super) fn awaits_late(&self, id: &RoundId, site: &SiteName) -> Result<Blob, Refusal> {
        let straggler = self.straggler(id, site).ok_or(Refusal::ReportingOver)?;
        match straggler.late {
            Late::Training => Ok(straggler.base),
            Late::Reported(_) | Late::Sealed(_) | Late::Folded(_) => Err(Refusal::AlreadyReported),
            Late::Dropped { .. } => Err(Refusal::ReportingOver),
        }
    }

    /// Lets an event happen to a straggler. One that has happened before is no error.
    ///
    /// # Errors
    /// If it does not apply; then nothing has changed.
    pub(super) fn apply_late(
        &mut self,
        id: &RoundId,
        site: &SiteName,
        event: LateEvent,
    ) -> Result<(), Refusal> {
        let key = (id.number, site.clone());
        let straggler = self.stragglers.get_mut(&key).filter(|straggler| straggler.round == *id);
        let straggler = straggler.ok_or(Refusal::NotAMember)?;
        match (&straggler.late, event) {
            (Late::Training, LateEvent::Reported(update)) => {
                straggler.late = Late::Reported(update);
                Ok(())
            }
            (Late::Training, LateEvent::Withdrew(why)) => {
                straggler.late = Late::Dropped { update: None, why: Drop::Withdrew(why) };
                Ok(())
            }
            (late, LateEvent::Reported(update)) => match late.taken() {
                Some(held) if held.is(&update) => Ok(()),
                Some(_) => Err(Refusal::AlreadyReported),
                None => Err(Refusal::ReportingOver),
            },
            (Late::Dropped { why: Drop::Withdrew(_), .. }, LateEvent::Withdrew(_)) => Ok(()),
            (_, LateEvent::Withdrew(_)) => Err(Refusal::AlreadyReported),
        }
    }

    /// Keeps what `site` brings after its plan has dropped it: `noted` is the straggler as it was noted then. It is
    /// refused as ever and counts nowhere, but is in a row from now on, so that its file is named and it is told
    /// that it came. Of each site one for a past round is kept while a round is in hand, so that what is
    /// remembered does not grow with rounds. Repeating it changes nothing.
    pub(crate) fn keep_dropped(&mut self, site: &SiteName, noted: Straggler, update: Update) {
        let in_hand = self.round.id();
        let is_past = |straggler: &Straggler| straggler.round != *in_hand;
        let is_kept = |late: &Late| late.update().is_some() && late.taken().is_none();
        if is_past(&noted) {
            let kept = |(name, held): (&SiteName, &Straggler)| {
                name == site && is_past(held) && is_kept(&held.late)
            };
            // Of another attempt at the number in hand nothing is kept: its bytes are trained again.
            if noted.round.number >= in_hand.number || self.stragglers().any(kept) {
                return;
            }
        }
        let held = self.straggler(&noted.round, site).unwrap_or(&noted);
        let Late::Dropped { update: None, why: why @ (Drop::ByPlan | Drop::TooLate) } = held.late
        else {
            return;
        };
        let late = Late::Dropped { update: Some(update), why };
        let key = (noted.round.number, site.clone());
        self.stragglers.insert(key, Straggler { late, ..noted });
    }

    /// The round in hand was sealed: what came late becomes part of it, who can come no more is let go,
    /// and its own members that have not reported are stragglers from now on.
    pub(super) fn seal(&mut self, now: Timestamp) {
        if self.plan.plan.round.late == LatePolicy::Drop {
            return self.note_missing(now, &Late::Dropped { update: None, why: Drop::ByPlan });
        }
        let id = self.round.id().clone();
        let (max, last) =
            (self.plan.plan.round.late_rounds_max, id.number >= self.plan.plan.rounds);
        let mut late = BTreeMap::new();
        for ((number, site), straggler) in &mut self.stragglers {
            match &straggler.late {
                Late::Reported(update) => {
                    let (round, base) = (straggler.round.clone(), straggler.base);
                    let update = update.clone();
                    straggler.late = Late::Sealed(update.clone());
                    late.insert(site.clone(), LateUpdate { round, base, update });
                }
                Late::Training if last || number.saturating_add(max) <= id.number => {
                    straggler.late = Late::Dropped { update: None, why: Drop::TooLate };
                }
                _ => {}
            }
        }
        self.round.fold(late);
        let none_left = Late::Dropped { update: None, why: Drop::TooLate };
        self.note_missing(now, if last { &none_left } else { &Late::Training });
    }

    /// Notes the members that have not reported when the round in hand is sealed, and what becomes of their
    /// updates.
    fn note_missing(&mut self, now: Timestamp, late: &Late) {
        let (id, base) = (self.round.id().clone(), self.round.base());
        let waiting = self.round.members().iter().filter(|(_, m)| **m == Member::Joined);
        for (site, _) in waiting {
            let (round, late) = (id.clone(), late.clone());
            let straggler = Straggler { round, base, since: now, late };
            self.stragglers.insert((id.number, site.clone()), straggler);
        }
    }

    /// The round in hand is over: what it folded in has counted, waits again, or
    /// is let go where the average could not be made.
    pub(super) fn settle_stragglers(&mut self) {
        let committed = matches!(self.round.phase(), Phase::Committed(_));
        let failed = matches!(
            self.round.phase(),
            Phase::Abandoned { reason: Abandonment::AggregationFailed { .. } }
        );
        let id = self.round.id().clone();
        for straggler in self.stragglers.values_mut() {
            match std::mem::replace(&mut straggler.late, Late::Training) {
                Late::Sealed(update) if committed => straggler.late = Late::Folded(update),
                Late::Sealed(update) if failed => {
                    let (update, why) = (Some(update), Drop::AggregationFailed);
                    straggler.late = Late::Dropped { update, why };
                }
                Late::Sealed(update) => straggler.late = Late::Reported(update),
                late @ (Late::Training | Late::Reported(_))
                    if !committed && straggler.round == id =>
                {
                    let update = late.update().cloned();
                    straggler.late = Late::Dropped { update, why: Drop::RoundAbandoned };
                }
                other => straggler.late = other,
            }
        }
    }

    /// Lets go of every straggler that `which` names and that is not part of the round in hand. Repeating
    /// it changes nothing.
    pub(crate) fn drop_stragglers(&mut self, why: Drop, which: impl Fn(&SiteName) -> bool) {
        for ((_, site), straggler) in &mut self.stragglers {
            let waits = matches!(straggler.late, Late::Training | Late::Reported(_));
            if waits && which(site) {
                let update = straggler.late.update().cloned();
                straggler.late = Late::Dropped { update, why };
            }
        }
    }

    /// Forgets those who were settled in a round that is no longer in hand.
    pub(super) fn forget_settled(&mut self) {
        self.stragglers.retain(|_, straggler| !straggler.late.is_settled());
    }
}

#[cfg(test)]
mod tests;
