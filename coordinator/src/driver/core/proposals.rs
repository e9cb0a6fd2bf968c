//! What takes two persons: it is noted when the first asks for it, and done when that one asks again after
//! a second has approved. And who took a model out, whether that takes two or not.

use std::collections::{BTreeMap, BTreeSet};

use fedpaint_proto::names::{Blob, Digest, OperatorName, RunName};
use fedpaint_proto::plan::RunPlan;
use jiff::Timestamp;

use super::apply::by_operator;
use super::request::Sight;
use super::state::State;
use super::{Core, Step};
use crate::audit::Entry;
use crate::driver::error::Error;
use crate::roster::{PROPOSALS_MAX, Proposal};

/// The most exports that are remembered; whoever resumes one that is forgotten is in the audit log again.
const EXPORTS_MAX: usize = 1_000;

/// Which operators' exports of which models are in the audit log, so that one that is resumed does not fill
/// it. Not kept over a restart.
#[derive(Clone, Debug, Default)]
pub(super) struct Exports(BTreeSet<(OperatorName, Digest)>);

impl Exports {
    /// Remembers one.
    pub(super) fn remember(&mut self, actor: OperatorName, model: Digest) {
        if self.0.len() >= EXPORTS_MAX {
            self.0.clear();
        }
        self.0.insert((actor, model));
    }
}

/// Starting a run by a plan, in words that name all of it: whoever asks chooses the plan, and of a part of its
/// digest two plans could be made.
pub(super) fn run_in_words(name: &RunName, plan: &RunPlan, initial: &Blob) -> String {
    let plan = Digest::of(plan.to_toml().as_bytes());
    format!("create run {name} by plan {plan} from model {}", initial.digest)
}

/// Taking a model out of the federation, in words.
fn export_in_words(model: &Digest) -> String {
    format!("export model {model}")
}

impl Core {
    /// The step that notes what one person asks for; none if two have agreed on it.
    pub(super) fn second_person(
        &self,
        actor: &OperatorName,
        what: String,
        now: Timestamp,
    ) -> Result<Option<Step>, Error> {
        let id = Digest::of(what.as_bytes());
        let held = self.state.roster().proposals.get(&id);
        let held = held.filter(|held| !held.is_over(now) && held.spent_at.is_none());
        if held.is_some_and(|held| held.approved_by.is_some()) {
            return Ok(None);
        }
        let refused = Some(Error::SecondPerson { what: what.clone(), id });
        if held.is_some() {
            return Ok(Some(Step { refused, ..self.nothing() }));
        }
        let mut next = State::clone(&self.state);
        let proposals = &mut next.roster_mut(now).proposals;
        proposals.remove(&id);
        if !make_room(proposals) {
            let (what, limit) = ("proposals", "PROPOSALS_MAX");
            return Err(Error::TooMany { what, max: PROPOSALS_MAX, limit });
        }
        let entry = Entry::new("second_person_needed", what.clone());
        let (asked_by, approved_by, spent_at) = (actor.clone(), None, None);
        proposals.insert(id, Proposal { what, asked_by, asked_at: now, approved_by, spent_at });
        let step = self.step(next, &by_operator(actor.clone()), now, vec![entry]);
        Ok(Some(Step { refused, ..step }))
    }

    /// Notes that an agreement was acted on: for the same once more, two persons are asked again.
    pub(super) fn spend(&self, next: &mut State, what: &str, now: Timestamp) {
        let id = Digest::of(what.as_bytes());
        if self.rules.enrolling
            && let Some(held) = next.roster_mut(now).proposals.get_mut(&id)
        {
            held.spent_at.get_or_insert(now);
        }
    }

    pub(super) fn approve_proposal(
        &self,
        actor: OperatorName,
        id: Digest,
        seen: Sight,
        now: Timestamp,
    ) -> Result<Step, Error> {
        let mut next = State::clone(&self.state);
        let held = next.roster_mut(now).proposals.get_mut(&id);
        let held = held.ok_or(Error::ProposalUnknown(id))?;
        if held.asked_by == actor {
            return Err(Error::SamePerson);
        }
        if held.approved_by.is_some() {
            return Ok(self.nothing());
        }
        // The same was asked for again since, and what was agreed with is spent.
        if !seen.is_of(Some(held.asked_at)) {
            return Err(Error::Stale(format!("proposal {}", id.short())));
        }
        held.approved_by = Some(actor.clone());
        let entry = Entry::new("second_person_agreed", held.what.clone());
        Ok(self.step(next, &by_operator(actor), now, vec![entry]))
    }

    /// Whether an operator may take a model out, from `offset` on; the step notes that it does, or that it is
    /// asked, where that takes two. One that resumes what is noted is not noted again; one that only says so
    /// is.
    pub(super) fn export(
        &self,
        actor: OperatorName,
        model: Digest,
        offset: u64,
        now: Timestamp,
    ) -> Result<Step, Error> {
        let what = export_in_words(&model);
        if self.rules.exporting
            && let Some(noted) = self.second_person(&actor, what.clone(), now)?
        {
            return Ok(noted);
        }
        let exported = (actor, model);
        if offset > 0 && self.exports.0.contains(&exported) {
            return Ok(self.nothing());
        }
        let entry = Entry::new("model_exported", what);
        let by = by_operator(exported.0.clone());
        let step = self.step(State::clone(&self.state), &by, now, vec![entry]);
        Ok(Step { exported: Some(exported), ..step })
    }
}

/// Whether there is room for one proposal more. Those that were acted on make room for those that wait.
fn make_room(proposals: &mut BTreeMap<Digest, Proposal>) -> bool {
    if proposals.len() < PROPOSALS_MAX {
        return true;
    }
    let spent = proposals.iter().filter_map(|(id, held)| Some((held.spent_at?, *id)));
    let Some((_, oldest)) = spent.min() else { return false };
    proposals.remove(&oldest).is_some()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fedpaint_proto::reason::Reason;

    use super::*;
    use crate::driver::core::Request;
    use crate::records::{EventRow, Loaded};
    use crate::roster::TwoPersons;
    use crate::testing::{START, blob, plan};

    fn core() -> Core {
        let rules = TwoPersons { enrolling: true, planning: true, exporting: true };
        Core::load(Loaded::default(), Duration::from_secs(5)).with_rules(rules)
    }

    fn named(name: &str) -> OperatorName {
        name.parse().unwrap()
    }

    /// As the shell does it: what is noted is kept although the request is refused.
    fn apply(core: &mut Core, request: Request, now: Timestamp) -> Result<(), Error> {
        let mut step = core.apply(request, now)?;
        let refused = step.take_refused();
        core.install(step);
        refused.map_or(Ok(()), Err)
    }

    /// Bob agrees.
    fn approve(id: Digest) -> Request {
        Request::ApproveProposal(named("bob"), id, Sight::Unsaid)
    }

    /// By which another one approves.
    fn asked(core: &mut Core, request: Request, now: Timestamp) -> Digest {
        match apply(core, request, now) {
            Err(Error::SecondPerson { id, .. }) => id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_run_takes_a_second_person_who_is_another_and_agrees_to_this_very_plan() {
        let mut core = core();
        let create = |rounds| {
            let name = "brain".parse().unwrap();
            Request::Create(named("ada"), name, Box::new(plan(rounds, 2).into()), blob("base"))
        };
        let id = asked(&mut core, create(1), START);
        assert_eq!(asked(&mut core, create(1), START), id, "asked again, noted once");
        assert!(core.state().runs().next().is_none());
        let approve = |name, id| Request::ApproveProposal(named(name), id, Sight::Unsaid);
        let own = apply(&mut core, approve("ada", id), START).unwrap_err();
        assert!(matches!(own, Error::SamePerson));
        let unknown = apply(&mut core, approve("bob", Digest::of(b"x")), START).unwrap_err();
        assert_eq!(unknown.reason(), Reason::ProposalUnknown);
        apply(&mut core, approve("bob", id), START).unwrap();
        // By the whole of the plan's digest: of its beginning two plans could be made.
        let words = run_in_words(&"brain".parse().unwrap(), &plan(1, 2), &blob("base"));
        let digest = Digest::of(plan(1, 2).to_toml().as_bytes());
        assert!(
            id == Digest::of(words.as_bytes()) && words.contains(&digest.to_string()),
            "{words}"
        );
        // Another plan is another matter.
        assert_ne!(asked(&mut core, create(2), START), id);
        apply(&mut core, create(1), START).unwrap();
        assert_eq!(core.state().runs().count(), 1);
    }

    #[test]
    fn no_operator_lets_a_site_in_alone_by_its_name_or_by_an_invitation_that_needs_no_approval() {
        let mut core = core();
        let enroll = || Request::Enroll(named("ada"), "mayo".parse().unwrap(), None);
        let id = asked(&mut core, enroll(), START);
        assert!(core.state().site(&"mayo".parse().unwrap()).is_none());
        apply(&mut core, approve(id), START).unwrap();
        apply(&mut core, enroll(), START).unwrap();
        assert!(core.state().site(&"mayo".parse().unwrap()).is_some());
        apply(&mut core, enroll(), START).unwrap();
        // Nor back in, by an agreement from before it was shut out.
        let later = START.checked_add(Duration::from_secs(60)).unwrap();
        let revoke = Request::Revoke(named("ada"), "mayo".parse().unwrap(), Sight::Unsaid);
        apply(&mut core, revoke, later).unwrap();
        let again = Request::Enroll(named("ada"), "mayo".parse().unwrap(), Some(later));
        assert_eq!(asked(&mut core, again, later), id);

        let invite = |auto_approve| {
            let (site, secret) = ("kyoto".parse().unwrap(), Digest::of(b"secret"));
            Request::Invite(named("ada"), site, (secret, auto_approve), Sight::Unsaid)
        };
        let id = asked(&mut core, invite(true), START);
        assert!(core.state().roster().invites.is_empty());
        apply(&mut core, invite(false), START).unwrap();
        assert_eq!(core.state().roster().invites.len(), 1);
        apply(&mut core, approve(id), START).unwrap();
        apply(&mut core, invite(true), START).unwrap();
        apply(&mut core, invite(true), START).unwrap();
        let (site, secret) = ("kyoto".parse().unwrap(), Digest::of(b"another secret"));
        let more = Request::Invite(named("ada"), site, (secret, true), Sight::Unsaid);
        assert_eq!(asked(&mut core, more, START), id, "one agreement, one invitation");
    }

    #[test]
    fn an_approval_that_is_repeated_after_it_was_acted_on_is_one_and_agrees_with_nothing_since() {
        let mut core = core();
        let mayo = || "mayo".parse().unwrap();
        let enroll = |revoked| Request::Enroll(named("ada"), mayo(), revoked);
        let agree = |id, seen| Request::ApproveProposal(named("bob"), id, Sight::Of(seen));
        let id = asked(&mut core, enroll(None), START);
        apply(&mut core, agree(id, START), START).unwrap();
        apply(&mut core, enroll(None), START).unwrap();
        let before = core.log().tree.size();
        apply(&mut core, agree(id, START), START).unwrap();
        assert_eq!(core.log().tree.size(), before, "nothing has happened");
        let later = START.checked_add(Duration::from_secs(60)).unwrap();
        apply(&mut core, Request::Revoke(named("ada"), mayo(), Sight::Unsaid), later).unwrap();
        assert_eq!(asked(&mut core, enroll(Some(later)), later), id);
        let late = apply(&mut core, agree(id, START), later).unwrap_err();
        assert_eq!(late.reason(), Reason::Stale);
        assert_eq!(asked(&mut core, enroll(Some(later)), later), id, "nobody has agreed");
        apply(&mut core, agree(id, later), later).unwrap();
        apply(&mut core, enroll(Some(later)), later).unwrap();
    }

    #[test]
    fn what_was_acted_on_makes_room_for_what_waits() {
        let mut core = core();
        let enroll = |n| Request::Enroll(named("ada"), format!("site-{n}").parse().unwrap(), None);
        let first = asked(&mut core, enroll(0), START);
        for n in 1..PROPOSALS_MAX {
            asked(&mut core, enroll(n), START);
        }
        let full = apply(&mut core, enroll(PROPOSALS_MAX), START).unwrap_err();
        assert!(full.to_string().ends_with("(PROPOSALS_MAX)"), "{full}");
        apply(&mut core, approve(first), START).unwrap();
        apply(&mut core, enroll(0), START).unwrap();
        let what = core.state().roster().proposals[&first].what.clone();
        let mut step = core.apply(enroll(PROPOSALS_MAX), START).unwrap();
        assert!(matches!(step.take_refused(), Some(Error::SecondPerson { .. })));
        let told = |event: &&EventRow| event.kind == "proposal_forgotten";
        let told: Vec<&EventRow> = step.events.iter().filter(told).collect();
        assert!(told.len() == 1 && told[0].detail.starts_with(&what), "{:?}", step.events);
        core.install(step);
        assert!(!core.state().roster().proposals.contains_key(&first));
    }

    #[test]
    fn an_approval_to_export_a_model_is_for_that_model_and_a_day() {
        let mut core = core();
        let export = |text: &str| Request::Export(named("ada"), blob(text).digest, 0);
        let id = asked(&mut core, export("model"), START);
        apply(&mut core, approve(id), START).unwrap();
        for _ in 0..2 {
            apply(&mut core, export("model"), START).unwrap();
        }
        asked(&mut core, export("other"), START);
        let next_day = START.checked_add(Duration::from_secs(24 * 3600)).unwrap();
        assert_eq!(asked(&mut core, export("model"), next_day), id);
    }

    #[test]
    fn who_takes_a_model_out_is_in_the_audit_log_once_however_often_it_is_resumed() {
        for rules in
            [TwoPersons::default(), TwoPersons { exporting: true, ..TwoPersons::default() }]
        {
            let mut core = Core::load(Loaded::default(), Duration::from_secs(5)).with_rules(rules);
            let model = blob("model").digest;
            let export = |name, offset| Request::Export(named(name), model, offset);
            if rules.exporting {
                let id = asked(&mut core, export("ada", 0), START);
                apply(&mut core, approve(id), START).unwrap();
            }
            // Who skips the beginning, as bob does, has not resumed anything.
            for (name, offset, told) in
                [("ada", 0, 1), ("ada", 7, 0), ("bob", 1, 1), ("bob", 2, 0), ("ada", 0, 1)]
            {
                let step = core.apply(export(name, offset), START).unwrap();
                let events = &step.events;
                assert_eq!(events.len(), told, "{name} from {offset}");
                let actor = format!("operator/{name}");
                assert!(events.iter().all(|event| {
                    let is_told = event.kind == "model_exported" && event.actor == actor;
                    is_told && event.detail == export_in_words(&model)
                }));
                core.install(step);
            }
        }
    }
}
