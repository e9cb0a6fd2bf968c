//! PURE: which updates retention lets go. It is noted, and told the audit log, before the first of them is deleted.

use std::sync::Arc;

use fedpaint_proto::names::RunName;
use jiff::Timestamp;

use super::state::State;
use super::{COORDINATOR, Core, Step};
use crate::records::let_go_until;

impl Core {
    /// Notes that the updates of rounds more than `rounds` behind the newest model of their run are let go.
    pub(super) fn let_go(&self, rounds: u32, now: Timestamp) -> Step {
        let mut next = State::clone(&self.state);
        for run in self.state.runs() {
            let (name, noted) = (run.name(), self.state.let_go_of(run.name()));
            let until = let_go_until(run.committed(), Some(rounds), noted);
            if until > noted {
                Arc::make_mut(&mut next.let_go).insert(name.clone(), until);
            }
        }
        let is_news = next.let_go_since(&self.state).next().is_some();
        match is_news {
            true => self.step(next, COORDINATOR, now, Vec::new()),
            false => self.nothing(),
        }
    }
}

impl State {
    /// Up to which round a run's updates are let go; 0 where none are.
    fn let_go_of(&self, run: &RunName) -> u32 {
        self.let_go.get(run).copied().unwrap_or(0)
    }

    /// The runs of which more is let go than in `before`, and up to which round.
    pub(super) fn let_go_since<'a>(
        &'a self,
        before: &'a State,
    ) -> impl Iterator<Item = (&'a RunName, u32)> {
        let is_news = move |(run, until): &(&RunName, &u32)| before.let_go_of(run) != **until;
        self.let_go.iter().filter(is_news).map(|(run, until)| (run, *until))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::aggregate::Aggregate;
    use crate::driver::core::Request;
    use crate::records::Loaded;
    use crate::round::Event;
    use crate::round::tests::{site, update};
    use crate::run::Run;
    use crate::testing::{START, blob, plan};

    fn committed(rounds: u32) -> Run {
        let name = "brain".parse().unwrap();
        let mut run = Run::create(name, plan(rounds + 1, 1), blob("base"), START);
        for number in 1..=rounds {
            for event in [
                Event::Joined(site("mayo")),
                Event::Closed,
                Event::Reported(site("mayo"), update(&format!("update {number}"))),
                Event::Aggregated(Aggregate::of(blob(&format!("model {number}"))).into()),
            ] {
                run.apply(event, START).unwrap();
            }
            run.open_round(START);
        }
        run
    }

    #[test]
    fn what_is_let_go_is_noted_and_told_once_and_stays_so_however_much_is_to_be_kept_later() {
        let loaded = Loaded { runs: vec![committed(3)], ..Loaded::default() };
        let mut core = Core::load(loaded, Duration::from_secs(5));
        let brain: RunName = "brain".parse().unwrap();
        for (kept, until) in [(3, None), (2, Some(1)), (2, None), (3, None), (0, Some(3))] {
            let step = core.apply(Request::LetGo(kept), START).unwrap();
            let change = step.change();
            let rows = until.map(|until| (&brain, until));
            assert_eq!(change.let_go, Vec::from_iter(rows), "{kept} are kept");
            let told = change.events.iter().map(|event| (event.kind.clone(), event.detail.clone()));
            let word = |until: u32| format!("run brain: updates up to round {until}");
            let words = until.map(|until| ("updates_let_go".to_owned(), word(until)));
            assert_eq!(told.collect::<Vec<_>>(), Vec::from_iter(words));
            core.install(step);
        }
    }
}
