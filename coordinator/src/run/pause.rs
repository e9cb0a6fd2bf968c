//! PURE: a run is paused and goes on, and why it is paused.

use fedpaint_proto::names::RoundId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Run, RunOver, State};
use crate::round::Abandonment;

/// Why a run is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// An operator asked for it.
    #[error("paused by an operator")]
    ByOperator,
    /// Too many attempts in a row were abandoned.
    #[error("{failures} attempts in a row were abandoned, the last because of {last}")]
    TooManyFailures {
        /// How many.
        failures: u32,
        /// Why the last one was.
        last: Abandonment,
    },
}

impl Run {
    /// Begins nothing new and gives the round in hand up. Pausing a paused run changes nothing.
    ///
    /// # Errors
    /// If the run is over.
    pub fn pause(&mut self, now: Timestamp) -> Result<(), RunOver> {
        if self.state == State::Active {
            self.tick(now);
        }
        match self.state {
            State::Active => {
                self.give_up_round("the run was paused", now);
                self.state = State::Paused { reason: Pause::ByOperator };
                Ok(())
            }
            State::Paused { .. } => Ok(()),
            State::Finished | State::Stopped => Err(RunOver),
        }
    }

    /// Goes on after a pause, with a new attempt and a clean count of failures.
    ///
    /// # Errors
    /// If the run is over.
    pub fn resume(&mut self) -> Result<(), RunOver> {
        match self.state {
            State::Active => Ok(()),
            State::Paused { .. } => {
                let RoundId { number, attempt, .. } = *self.round.id();
                self.state = State::Active;
                self.failures = 0;
                self.resumed_from = Some((number, attempt));
                Ok(())
            }
            State::Finished | State::Stopped => Err(RunOver),
        }
    }

    /// The number and attempt of the newest round when the run was last resumed.
    pub fn resumed_from(&self) -> Option<(u32, u32)> {
        self.resumed_from
    }

    /// Whether the run goes on because it was resumed when `seen`, or a later round, was its newest. Each
    /// resumption opens a round of its own, so that whoever saw that one has seen the resumption.
    pub fn resumed_since(&self, seen: &RoundId) -> bool {
        let seen = (seen.number, seen.attempt);
        self.state == State::Active && self.resumed_from.is_some_and(|from| seen <= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{START, blob, plan};

    #[test]
    fn whoever_saw_no_round_since_the_run_was_resumed_has_not_seen_that_it_was() {
        let mut run = Run::create("brain".parse().unwrap(), plan(3, 1), blob("base"), START);
        let first = run.round().id().clone();
        assert!(!run.resumed_since(&first));
        run.pause(START).unwrap();
        assert!(!run.resumed_since(&first), "it is paused as it was asked for");
        run.resume().unwrap();
        assert_eq!(run.resumed_from(), Some((1, 1)));
        run.open_round(START);
        let second = run.round().id().clone();
        run.resume().unwrap();
        assert_eq!(run.resumed_from(), Some((1, 1)), "it was not paused");
        assert!(run.resumed_since(&first) && !run.resumed_since(&second));
        run.pause(START).unwrap();
        assert!(!run.resumed_since(&first), "it does not go on");
    }
}
