//! PURE: in which state each site, operator, run and round is, as the rows have it and as the audit log told it
//! last. What was logged does not change, so where the two differ a row did.
//!
//! An entry's words are for people. But they are hashed, so that no version ever says again otherwise what one
//! has said; what is read of them here is what an entry of its kind has always begun with.

use std::collections::BTreeMap;

use fedpaint_proto::names::OperatorName;

use crate::maintenance::Damage;
use crate::records::{EventRow, SiteRow};
use crate::roster::OperatorRow;
use crate::round::{Phase, Round};
use crate::run::{Run, State};

/// A state in a word or two, by what is in it: `site mayo`, `round brain/3.1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct States(BTreeMap<String, String>);

impl States {
    /// Takes note of an entry of the log; of several that tell of the same, the last one counts.
    pub(super) fn hear(&mut self, entry: &EventRow) {
        if let Some((what, state)) = told(&entry.kind, &entry.detail) {
            self.put(what, state);
        }
    }

    /// Takes note of the rows of members.
    pub(super) fn members(
        &mut self,
        sites: &[SiteRow],
        operators: &BTreeMap<OperatorName, OperatorRow>,
    ) {
        for SiteRow { name, revoked_at, .. } in sites {
            let state = if revoked_at.is_some() { "revoked" } else { "enrolled" };
            self.put(format!("site {name}"), state);
        }
        for (name, OperatorRow { roles, .. }) in operators {
            let may = if roles.0.is_empty() { "nothing".to_owned() } else { roles.to_string() };
            self.put(format!("operator {name}"), may);
        }
    }

    /// Takes note of a run's row and of those of its rounds.
    pub(super) fn run(&mut self, run: &Run, rounds: &[Round]) {
        let state = match run.state() {
            State::Active => "active",
            State::Paused { .. } => "paused",
            State::Finished => "finished",
            State::Stopped => "stopped",
        };
        self.put(format!("run {}", run.name()), state);
        for round in rounds {
            let phase = match round.phase() {
                Phase::Selecting { .. } => "selecting",
                Phase::Reporting { .. } => "reporting",
                Phase::Aggregating => "aggregating",
                Phase::Committed(_) => "committed",
                Phase::Abandoned { .. } => "abandoned",
            };
            self.put(format!("round {}", round.id()), phase);
        }
    }

    fn put(&mut self, what: impl Into<String>, state: impl Into<String>) {
        self.0.insert(what.into(), state.into());
    }

    /// What the `rows` have in another state than the log told last, or have not at all.
    pub(super) fn against(&self, rows: &States) -> Vec<Damage> {
        let differs = |(what, told): (&String, &String)| {
            let found = match rows.0.get(what) {
                Some(held) if held == told => return None,
                Some(held) => format!("the audit log told last: {told}; its row says: {held}"),
                None => format!("the audit log told last: {told}; there is no row of it"),
            };
            let todo = "restore a backup: nothing that was logged changes".to_owned();
            Some(Damage { what: what.clone(), found, todo })
        };
        self.0.iter().filter_map(differs).collect()
    }
}

/// What an entry is about and in which state it is from then on, if that is what the entry tells.
fn told<'a>(kind: &'a str, detail: &'a str) -> Option<(&'a str, &'a str)> {
    let (what, said) = detail.split_once(':').unwrap_or((detail, ""));
    let state = match kind {
        "site_enrolled" => "enrolled",
        "site_revoked" => "revoked",
        "operator_set" => said.strip_prefix(" may ")?,
        "run_created" | "run_resumed" => "active",
        "run_paused" => "paused",
        "run_finished" => "finished",
        "run_stopped" => "stopped",
        "round_opened" => "selecting",
        "round_reporting" => "reporting",
        "round_aggregating" => "aggregating",
        "round_committed" => "committed",
        "round_abandoned" => "abandoned",
        _ => return None,
    };
    let (begins, _) = kind.split_once('_')?;
    let name = what.strip_prefix(begins)?.strip_prefix(' ')?;
    (!name.is_empty() && !name.contains(' ')).then_some((what, state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::changes;
    use crate::round::Event;
    use crate::round::tests::{site, update};
    use crate::testing::{START, blob, plan};

    fn entry(kind: &str, detail: &str) -> EventRow {
        let (actor, kind, detail) = ("coordinator".into(), kind.into(), detail.into());
        EventRow { seq: 1, at: START, actor, kind, detail, document: None }
    }

    /// What is found where the log told this and the rows of members are these.
    fn found(log: &[(&str, &str)], sites: &[SiteRow], roles: &str) -> Vec<String> {
        let (mut told, mut rows) = (States::default(), States::default());
        log.iter().for_each(|(kind, detail)| told.hear(&entry(kind, detail)));
        let row = OperatorRow { roles: roles.parse().unwrap(), since: START };
        rows.members(sites, &BTreeMap::from([("ada".parse().unwrap(), row)]));
        told.against(&rows).into_iter().map(|d| format!("{}: {}", d.what, d.found)).collect()
    }

    #[test]
    fn a_member_is_what_the_log_told_last_and_what_is_not_is_named() {
        let mayo = SiteRow::by_name(site("mayo"), START);
        let revoked = SiteRow { revoked_at: Some(START), ..mayo.clone() };
        let log = [
            ("site_enrolled", "site mayo: keys a-b, invited by ada, approved by bob"),
            ("site_revoked", "site mayo"),
            ("site_enrolled", "site mayo"),
            ("operator_set", "operator ada: may nothing"),
            ("operator_set", "operator ada: may viewer runner"),
            ("site_invited", "site oslo: until tomorrow, to be approved"),
            ("run_created", ""),
        ];
        let mayo = [mayo];
        assert_eq!(found(&log, &mayo, "viewer runner"), [""; 0]);
        let told = found(&log, &[revoked], "viewer runner");
        assert_eq!(told, ["site mayo: the audit log told last: enrolled; its row says: revoked"]);
        let told = found(&log, &[], "viewer runner");
        assert_eq!(told, ["site mayo: the audit log told last: enrolled; there is no row of it"]);
        assert!(found(&log, &mayo, "admin")[0].contains("viewer runner; its row says: admin"));
        assert!(found(&log, &mayo, "")[0].contains("its row says: nothing"));
    }

    #[test]
    fn a_run_and_its_rounds_are_what_their_own_entries_told_after_every_step() {
        let mut run = Run::create("brain".parse().unwrap(), plan(2, 1), blob("base"), START);
        let mut told = States::default();
        let mut hear = |before: Option<&Run>, run: &Run| {
            for change in changes(before, run, &[]) {
                told.hear(&entry(change.kind, &change.detail));
            }
            let mut rows = States::default();
            rows.run(run, std::slice::from_ref(run.round()));
            let named = format!("round {}", run.round().id());
            let damage = told.against(&rows);
            // Of earlier rounds no row is shown here.
            assert!(damage.iter().all(|d| d.what.starts_with("round ") && d.what != named));
            (told.clone(), rows)
        };
        hear(None, &run);
        let made = crate::aggregate::Aggregate::of(blob("model"));
        for event in [
            Event::Joined(site("mayo")),
            Event::Closed,
            Event::Reported(site("mayo"), update("one")),
            Event::Aggregated(made.into()),
        ] {
            let before = run.clone();
            run.apply(event, START).unwrap();
            hear(Some(&before), &run);
        }
        let changes_of: [fn(&mut Run); 4] = [
            |run| run.open_round(START),
            |run| run.pause(START).unwrap(),
            |run| run.resume().unwrap(),
            |run| run.stop(START).unwrap(),
        ];
        for change in changes_of {
            let before = run.clone();
            change(&mut run);
            hear(Some(&before), &run);
        }
        let (told, mut rows) = hear(Some(&run), &run);
        rows.put("run brain", "active");
        assert!(told.against(&rows).iter().any(|damage| damage.what == "run brain"));
    }
}
