//! A run as it changes, for whoever watches it.

use std::sync::Arc;

use fedpaint_proto::names::RunName;
use tokio::sync::watch;

use super::core::State;
use super::troubles::Troubles;
use super::view::{RoundView, RunView};

/// A run and its newest round, at once and whenever either changes.
#[derive(Debug)]
pub struct Watch {
    state: watch::Receiver<Arc<State>>,
    troubles: watch::Receiver<Arc<Troubles>>,
    run: RunName,
    last: Option<(RunView, RoundView)>,
}

impl Watch {
    pub(super) fn new(
        state: watch::Receiver<Arc<State>>,
        troubles: watch::Receiver<Arc<Troubles>>,
        run: RunName,
    ) -> Watch {
        Watch { state, troubles, run, last: None }
    }

    /// The next state that differs from the last; none after the run's end or the driver's. Whoever
    /// is slow to ask misses what lay between. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<(RunView, RoundView)> {
        let ended = |last: &(RunView, RoundView)| {
            matches!(last.0.state, crate::run::State::Finished | crate::run::State::Stopped)
        };
        if self.last.as_ref().is_some_and(ended) {
            return None;
        }
        loop {
            let state = Arc::clone(&self.state.borrow_and_update());
            let run = state.find_run(&self.run)?;
            let troubles = Arc::clone(&self.troubles.borrow_and_update());
            let round = state.round_view(run.round(), &troubles);
            let now = (state.run_view(run, &troubles), round);
            if self.last.as_ref() != Some(&now) {
                self.last = Some(now.clone());
                return Some(now);
            }
            let changed = tokio::select! {
                changed = self.state.changed() => changed,
                changed = self.troubles.changed() => changed,
            };
            changed.ok()?;
        }
    }
}
