//! PURE: what the rows of a run must be to each other. The database's own constraints hold within a
//! row; these hold between them.

use crate::maintenance::Damage;
use crate::round::{Counts, Phase, Round};
use crate::run::{Run, State};

/// Everything that is wrong with a run and its rounds, which are all there, oldest first.
pub(super) fn check(run: &Run, rounds: &[Round]) -> Vec<Damage> {
    let mut damage = Vec::new();
    let mut wrong = |what: String, found: String| {
        let todo = "restore a backup: no coordinator writes such rows";
        damage.push(Damage { what, found, todo: todo.to_owned() });
    };
    let (mut base, mut committed, mut due) = (run.initial(), 0, (1, 1));
    for (position, round) in rounds.iter().enumerate() {
        let (id, what) = (round.id(), format!("round {}", round.id()));
        if (id.number, id.attempt) != due {
            let (number, attempt) = due;
            wrong(what.clone(), format!("it comes where {number}.{attempt} should"));
        }
        if round.base() != base {
            let (found, expected) = (round.base().digest.short(), base.digest.short());
            wrong(
                what.clone(),
                format!("its base model is {found}, the one before it made {expected}"),
            );
        }
        if !round.is_over() && position + 1 < rounds.len() {
            wrong(what.clone(), "it is not over, and there is a later one".to_owned());
        }
        let (reported, need) = (Counts::of(round).reported, run.plan().round.sites_min);
        if matches!(round.phase(), Phase::Committed(_)) && reported < need {
            let found = format!("it is made of {reported} updates, its plan asks for {need}");
            wrong(what.clone(), found);
        }
        due = match round.phase() {
            Phase::Committed(made) => {
                (base, committed) = (made.model, id.number);
                (id.number + 1, 1)
            }
            _ => (id.number, id.attempt + 1),
        };
    }
    let what = format!("run {}", run.name());
    if rounds.is_empty() {
        wrong(what.clone(), "it has no round".to_owned());
    }
    if run.model() != base {
        let (found, expected) = (run.model().digest.short(), base.digest.short());
        wrong(what.clone(), format!("its model is {found}, its last round made {expected}"));
    }
    if run.committed() != committed {
        let found = run.committed();
        let found = format!("it counts {found} rounds, its last committed round is {committed}");
        wrong(what.clone(), found);
    }
    let (is_over, planned) = (*run.state() == State::Finished, run.plan().rounds);
    if is_over != (committed >= planned) {
        let is = if is_over { "finished" } else { "not finished" };
        wrong(what, format!("it is {is} after {committed} of {planned} rounds"));
    }
    damage
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fedpaint_proto::names::RoundId;

    use super::*;
    use crate::aggregate::Aggregate;
    use crate::round::{Event, Report, Update};
    use crate::run::{Saved, Tally};
    use crate::testing::{START, blob, plan};

    /// A run that has committed `n` rounds of one site, and all of its rounds.
    fn history(n: u32) -> (Run, Vec<Round>) {
        let mut run = Run::create("brain".parse().unwrap(), plan(9, 1), blob("base"), START);
        let mut rounds = Vec::new();
        for number in 1..=n {
            let site = || "mayo".parse().unwrap();
            let weights = blob(&format!("update {number}"));
            let update = Update { weights, examples: 1, report: Report::default() };
            let made = Aggregate::of(blob(&format!("model {number}")));
            let reported = Event::Reported(site(), update);
            for event in
                [Event::Joined(site()), Event::Closed, reported, Event::Aggregated(made.into())]
            {
                run.apply(event, START).unwrap();
            }
            rounds.push(run.round().clone());
            run.open_round(START);
        }
        rounds.push(run.round().clone());
        (run, rounds)
    }

    #[test]
    fn a_history_that_a_coordinator_writes_is_sound() {
        for n in 0..3 {
            let (run, rounds) = history(n);
            assert_eq!(check(&run, &rounds), []);
        }
    }

    #[test]
    fn each_break_of_the_chain_is_named() {
        let (run, rounds) = history(3);
        let found = |run: &Run, rounds: &[Round]| {
            let damage = check(run, rounds);
            damage.into_iter().map(|d| format!("{}: {}", d.what, d.found)).collect::<Vec<_>>()
        };
        let without_the_second = [rounds[0].clone(), rounds[2].clone(), rounds[3].clone()];
        let lost = found(&run, &without_the_second);
        assert!(lost[0].starts_with("round brain/3.1: it comes where 2.1 should"), "{lost:?}");
        assert!(lost[1].contains("its base model is"), "{lost:?}");
        let behind = found(&run, &rounds[..2]);
        assert!(behind.iter().any(|line| line.contains("its last round made")), "{behind:?}");
        assert!(behind.iter().any(|line| line.contains("it counts 3 rounds")), "{behind:?}");
        assert!(found(&run, &[])[0].contains("no round"));
        let id = RoundId { run: run.name().clone(), number: 1, attempt: 1 };
        let early = Round::open(id, run.initial(), run.plan().round.clone(), START);
        let twice = [vec![early], rounds.clone()].concat();
        assert!(found(&run, &twice).iter().any(|line| line.contains("not over")));
    }

    /// The same run with another plan and in another state.
    fn forged(run: &Run, sites_min: u32, state: State) -> Run {
        let saved = Saved {
            name: run.name().clone(),
            plan: plan(9, sites_min).into(),
            initial: run.initial(),
            created_at: run.created_at(),
            state,
            newest: run.newest(),
            committed: run.committed(),
            failures: run.failures(),
            stragglers: Vec::new(),
            tally: Tally::default(),
            readmitted: BTreeMap::new(),
            resumed_from: None,
        };
        Run::restore(saved, run.round().clone())
    }

    #[test]
    fn a_run_that_its_own_plan_does_not_let_be_as_it_is_is_named() {
        let (run, rounds) = history(2);
        let found = |sites_min, state| {
            let damage = check(&forged(&run, sites_min, state), &rounds);
            damage.into_iter().map(|d| format!("{}: {}", d.what, d.found)).collect::<Vec<_>>()
        };
        assert_eq!(found(1, State::Stopped), [""; 0]);
        let few = "it is made of 1 updates, its plan asks for 2";
        let few = ["brain/1.1", "brain/2.1"].map(|id| format!("round {id}: {few}"));
        assert_eq!(found(2, State::Active), few);
        let finished = found(1, State::Finished);
        assert_eq!(finished, ["run brain: it is finished after 2 of 9 rounds"]);
    }
}
