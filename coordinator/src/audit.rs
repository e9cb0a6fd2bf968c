//! What a change was, in words for the audit log: derived from the run before and after, so no
//! change can be saved without its entry. What is forgotten of the [`roster`], what a [`sweep`] of the
//! blobs deletes and which of them are found to [`rot`] have their words beside it.

pub mod roster;
pub mod rot;
pub mod sweep;

use fedpaint_proto::names::SiteName;
use fedpaint_proto::plan::LatePolicy;

use crate::round::{Counts, Member, Phase, Round, Stretch, named};
use crate::run::{Drop, Late, Run, State, Straggler};

/// What happened: one word for programs, and the same for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// One word, such as `round_committed`.
    pub kind: &'static str,
    /// The same for people, with the names.
    pub detail: String,
}

impl Entry {
    /// An entry.
    pub fn new(kind: &'static str, detail: impl Into<String>) -> Entry {
        Entry { kind, detail: detail.into() }
    }
}

/// The entries that a change of one run makes. `absent` are the sites that took part in none of its rounds,
/// of a run that has just ended.
pub fn changes(before: Option<&Run>, after: &Run, absent: &[SiteName]) -> Vec<Entry> {
    let mut entries = Vec::new();
    if before.is_none() {
        let (name, plan, model) = (after.name(), after.plan(), after.initial().digest.short());
        let mut detail = format!("run {name}: {} rounds planned, from model {model}", plan.rounds);
        if let Some(signature) = &after.signed_plan().signature {
            detail.push_str(&format!("; the plan is signed by {}", signature.key));
        }
        entries.push(Entry::new("run_created", detail));
    }
    let round_before = before.map(Run::round).filter(|round| round.id() == after.round().id());
    round_changes(round_before, after.round(), &mut entries);
    if sealed(after.round()) && !round_before.is_some_and(sealed) {
        entries.extend(missing(after));
    }
    for (site, straggler) in after.stragglers() {
        let held = before.and_then(|before| before.straggler(&straggler.round, site));
        entries.extend(late_change(held, site, straggler));
    }
    for (site, from) in after.readmitted() {
        if before.is_none_or(|before| !before.readmitted().contains_key(site)) {
            let detail = format!("run {}: site {site}, from round {from} on", after.name());
            entries.push(Entry::new("site_readmitted", detail));
        }
    }
    if let Some(before) = before.filter(|before| before.state() != after.state()) {
        entries.push(state_change(before, after, absent));
    }
    entries
}

fn state_change(before: &Run, after: &Run, absent: &[SiteName]) -> Entry {
    let name = after.name();
    match after.state() {
        State::Active => {
            let was = if before.is_over() { "over" } else { "paused" };
            Entry::new("run_resumed", format!("run {name}: goes on, was {was}"))
        }
        State::Paused { reason } => Entry::new("run_paused", format!("run {name}: {reason}")),
        State::Finished => {
            let (rounds, model) = (after.committed(), after.model().digest.short());
            let mut detail = format!("run {name}: {rounds} rounds made model {model}");
            if let Some(short) = after.tally().in_words(rounds, absent) {
                detail.push_str(&format!("; {short}"));
            }
            Entry::new("run_finished", detail)
        }
        State::Stopped => {
            Entry::new("run_stopped", format!("run {name}: after {} rounds", after.committed()))
        }
    }
}

fn sealed(round: &Round) -> bool {
    *round.phase() == Phase::Aggregating
}

/// Whose update is not part of the round that was just sealed, and what becomes of it.
fn missing(run: &Run) -> impl Iterator<Item = Entry> {
    let (id, plan) = (run.round().id(), &run.plan().round);
    let waiting = run.round().members().iter().filter(|(_, member)| **member == Member::Joined);
    let last = id.number.saturating_add(plan.late_rounds_max).min(run.plan().rounds);
    let fate = match plan.late {
        LatePolicy::Fold if last > id.number => {
            format!("its update may come late, until round {last} is sealed")
        }
        LatePolicy::Fold => "no round is left that a late update could be folded into".to_owned(),
        LatePolicy::Drop => "a late update does not count, by the plan".to_owned(),
    };
    waiting.map(move |(site, _)| {
        let detail = format!("round {id}: site {site} had not reported when it was sealed; {fate}");
        Entry::new("site_missing", detail)
    })
}

fn late_change(before: Option<&Straggler>, site: &SiteName, after: &Straggler) -> Option<Entry> {
    if before.is_some_and(|before| before.late == after.late) {
        return None;
    }
    let id = &after.round;
    Some(match &after.late {
        // That it was missing, and whether it may still come, is told with its round.
        Late::Training => return None,
        Late::Dropped { update: None, why: Drop::ByPlan | Drop::TooLate } if before.is_none() => {
            return None;
        }
        Late::Dropped { update: Some(update), why: why @ (Drop::ByPlan | Drop::TooLate) } => {
            let (examples, weights) = (update.examples, update.weights.digest.short());
            let detail =
                format!("round {id}: site {site}, {examples} examples, model {weights}; {why}");
            Entry::new("late_update_kept", detail)
        }
        Late::Reported(_) if matches!(before.map(|b| &b.late), Some(Late::Sealed(_))) => {
            let detail = format!("round {id}: site {site}, for the next attempt after all");
            Entry::new("late_update_waits", detail)
        }
        Late::Reported(update) => {
            let (examples, weights) = (update.examples, update.weights.digest.short());
            let detail = format!("round {id}: site {site}, {examples} examples, model {weights}");
            Entry::new("late_update_accepted", detail)
        }
        Late::Sealed(update) => {
            let weights = update.weights.digest.short();
            let detail = format!("round {id}: site {site}, model {weights} is part of this round");
            Entry::new("late_update_sealed", detail)
        }
        Late::Folded(_) => Entry::new("late_update_folded", format!("round {id}: site {site}")),
        Late::Dropped { why, .. } => {
            Entry::new("late_update_dropped", format!("round {id}: site {site}, {why}"))
        }
    })
}

fn round_changes(before: Option<&Round>, after: &Round, entries: &mut Vec<Entry>) {
    let id = after.id();
    if before.is_none() {
        let base = after.base().digest.short();
        entries.push(Entry::new("round_opened", format!("round {id}: base model {base}")));
    }
    for (site, member) in after.members() {
        if before.and_then(|before| before.members().get(site)) == Some(member) {
            continue;
        }
        entries.push(match member {
            Member::Joined => Entry::new("site_joined", format!("round {id}: site {site}")),
            Member::Reported(update) => {
                let (examples, weights) = (update.examples, update.weights.digest.short());
                let detail =
                    format!("round {id}: site {site}, {examples} examples, model {weights}");
                Entry::new("update_accepted", detail)
            }
            Member::Withdrawn(why) => {
                Entry::new("site_withdrew", format!("round {id}: site {site}, {why}"))
            }
        });
    }
    let gone = before.into_iter().flat_map(|before| before.members().keys());
    for site in gone.filter(|site| !after.members().contains_key(*site)) {
        entries.push(Entry::new("site_left", format!("round {id}: site {site}")));
    }
    if let (Some(before), Some(stretch)) = (before, after.stretch()) {
        entries.extend(stretched(before, after, stretch));
    }
    if before.is_some_and(|before| {
        std::mem::discriminant(before.phase()) != std::mem::discriminant(after.phase())
    }) {
        entries.push(phase_change(after));
        entries.extend(outliers(after));
    }
}

/// That a deadline waits for updates under way, and each time that it moves: the round notes bytes of a site so
/// seldom ([`crate::round::ARRIVING_STEP`]) that these are few.
fn stretched(before: &Round, after: &Round, stretch: &Stretch) -> Option<Entry> {
    let (id, due) = (after.id(), stretch.due);
    let sites = named(&stretch.arriving.keys().cloned().collect::<Vec<_>>());
    match (before.stretch(), after.phase()) {
        (None, _) => {
            let detail = format!("round {id}: was due {due}, goes on while {sites} still uploads");
            Some(Entry::new("round_stretched", detail))
        }
        (Some(held), Phase::Reporting { until }) if held != stretch => {
            let who = if sites.is_empty() { "nobody".to_owned() } else { sites };
            let detail = format!("round {id}: until {until}, while {who} still uploads");
            Some(Entry::new("round_deadline_moved", detail))
        }
        // That it does not wait any more is told with how it ended.
        (Some(_), _) => None,
    }
}

/// Whose update of a round that was just committed is told, and why.
fn outliers(round: &Round) -> impl Iterator<Item = Entry> {
    let id = round.id();
    round.standings().iter().filter_map(move |standing| {
        let outlier = standing.outlier?;
        let (kind, fate) = match standing.excluded {
            true => ("update_quarantined", "the model has nothing of it"),
            false => ("update_outlier", "it counted"),
        };
        let detail = format!("round {id}: {standing}, {outlier}; {fate}");
        Some(Entry::new(kind, detail))
    })
}

fn phase_change(round: &Round) -> Entry {
    let id = round.id();
    match round.phase() {
        Phase::Selecting { until } => {
            Entry::new("round_selecting", format!("round {id}: until {until}"))
        }
        Phase::Reporting { until } => {
            let sites = round.members().len();
            Entry::new("round_reporting", format!("round {id}: {sites} sites until {until}"))
        }
        Phase::Aggregating => Entry::new("round_aggregating", format!("round {id}")),
        Phase::Committed(made) => {
            let counts = Counts::of(round);
            let model = made.model.digest.short();
            let mut detail = format!("round {id}: model {model} of {counts}");
            if let Some(ema) = made.ema {
                detail.push_str(&format!(", moving average {}", ema.digest.short()));
            }
            Entry::new("round_committed", detail)
        }
        Phase::Abandoned { reason } => {
            Entry::new("round_abandoned", format!("round {id}: {reason}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::round::Event;
    use crate::testing::{START, blob, plan};

    fn kinds(before: Option<&Run>, after: &Run) -> Vec<&'static str> {
        changes(before, after, &[]).into_iter().map(|entry| entry.kind).collect()
    }

    #[test]
    fn every_change_of_a_run_is_told_and_what_did_not_change_is_not() {
        let created = Run::create("brain".parse().unwrap(), plan(1, 2), blob("base"), START);
        assert_eq!(kinds(None, &created), ["run_created", "round_opened"]);
        assert_eq!(changes(Some(&created), &created, &[]), []);

        let mut joined = created.clone();
        joined.apply(Event::Joined("mayo".parse().unwrap()), START).unwrap();
        assert_eq!(kinds(Some(&created), &joined), ["site_joined"]);
        assert_eq!(kinds(Some(&joined), &created), ["site_left"]);

        let mut over = joined.clone();
        over.tick(START.checked_add(Duration::from_secs(3600)).unwrap());
        assert_eq!(kinds(Some(&joined), &over), ["round_abandoned"]);

        let mut paused = joined.clone();
        paused.pause(START).unwrap();
        assert_eq!(kinds(Some(&joined), &paused), ["round_abandoned", "run_paused"]);
    }
}
