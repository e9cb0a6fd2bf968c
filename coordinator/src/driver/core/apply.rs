//! What each request changes.

use fedpaint_proto::identity::Role;
use fedpaint_proto::names::{Blob, OperatorName, RoundId, RunName, SiteName};
use fedpaint_proto::plan::SignedPlan;
use jiff::Timestamp;

use super::comings::COMINGS_MAX;
use super::proposals::run_in_words;
use super::refusals::Noted;
use super::request::{Activity, Beat, Command, Request, Stage, Verdict};
use super::state::{Doing, Seen, State};
use super::{COORDINATOR, Core, Step};
use crate::audit::{self, Entry};
use crate::driver::error::Error;
use crate::round::{Event, Phase, Refusal, Update};
use crate::run::{Run, Straggler};

/// The most sites there may be. Each has a connection open.
pub const SITES_MAX: usize = 1_000;

/// The most runs there may be.
pub const RUNS_MAX: usize = 1_000;

/// What there may be [`COMINGS_MAX`] of.
const COMINGS: &str = "comings of a site to one attempt at a round";

pub(super) fn apply(core: &Core, request: Request, now: Timestamp) -> Result<Step, Error> {
    match request {
        Request::Beat(site, beat) => core.beat(site, beat, now),
        Request::Arriving(site, round) => {
            core.state.access(&site)?;
            core.happen(&by_site(&site), &round, Event::Arriving(site), now)
        }
        Request::Report(site, round, update) => core.report(site, &round, update, now),
        Request::Vouched(request, document) => {
            let step = apply(core, *request, now)?;
            Ok(core.vouch(step, document))
        }
        Request::Refused(site, round, detail) => Ok(core.refused(&site, &round, detail, now)),
        Request::KeepDropped(site, noted, update) => core.keep_dropped(&site, *noted, update, now),
        Request::Enroll(actor, site, revoked) => core.enroll(actor, site, revoked, now),
        Request::Revoke(actor, site, seen) => core.revoke(actor, site, seen, now),
        Request::Invite(actor, site, token, seen) => core.invite(actor, site, token, seen, now),
        Request::Approve(actor, site, words, seen) => core.approve(actor, site, &words, seen, now),
        Request::Reject(actor, site, seen) => core.reject(actor, site, seen, now),
        Request::Join(asking) => core.join(asking, now),
        Request::Distrusted(alert) => Ok(core.distrusted(&alert, now)),
        Request::Renew(renewal) => core.renew(renewal, now),
        Request::SetOperator(actor, name, roles, seen) => {
            core.set_operator(actor, name, roles, seen, now)
        }
        Request::ApproveProposal(actor, id, seen) => core.approve_proposal(actor, id, seen, now),
        Request::Export(actor, model, offset) => core.export(actor, model, offset, now),
        Request::Create(actor, name, plan, initial) => {
            core.create(actor, name, *plan, initial, now)
        }
        Request::Command(actor, run, command) => core.command(actor, run, command, now),
        Request::Verdict(actor, round, verdict) => core.verdict(actor, &round, verdict, now),
        Request::Aggregated(round, outcome) => {
            let event = outcome.map_or_else(Event::AggregationFailed, Event::Aggregated);
            core.happen(COORDINATOR, &round, event, now)
        }
        Request::NoAverage(round, reason) => {
            core.happen(COORDINATOR, &round, Event::NoAverage(reason), now)
        }
        Request::Rotten(digests) => {
            Ok(core.step(State::clone(&core.state), COORDINATOR, now, audit::rot::found(&digests)))
        }
        Request::LetGo(rounds) => Ok(core.let_go(rounds, now)),
        Request::Sweep(sweep) => {
            Ok(core.step(State::clone(&core.state), COORDINATOR, now, sweep.entries()))
        }
    }
}

impl Core {
    fn beat(&self, site: SiteName, beat: Beat, now: Timestamp) -> Result<Step, Error> {
        self.state.access(&site)?;
        let Beat { agent_version, wire_version, activity, declined, doubt, .. } = beat;
        let (shown_until, signing_until) = (beat.shown_until, beat.signing_until);
        let doing = match &activity {
            Activity::Training(round, progress) => {
                Some((round.clone(), Doing::Training(*progress)))
            }
            Activity::Uploading(round) => Some((round.clone(), Doing::Uploading)),
            _ => None,
        };
        let mut next = State::clone(&self.state);
        let seen = Seen {
            at: now,
            agent_version,
            wire_version,
            doing,
            since: now,
            shown_until,
            signing_until,
        };
        next.put_seen(site.clone(), seen);
        let mut told = next.put_declined(&site, declined, now);
        told.extend(next.put_doubt(&site, doubt));
        let event = match activity {
            Activity::Joining(round) => Some((round, Event::Joined(site.clone()))),
            Activity::Withdrawing(round, why) => Some((round, Event::Withdrew(site.clone(), why))),
            Activity::Idle | Activity::Training(..) | Activity::Uploading(_) => None,
        };
        // What no longer applies is no error: the answer says what does.
        let late = event.and_then(|(round, event)| {
            if matches!(event, Event::Joined(_)) && next.keeps_out(&site, &round) {
                let (what, max) = (COMINGS, COMINGS_MAX);
                return Some(Error::TooMany { what, max, limit: "COMINGS_MAX" });
            }
            let outcome = happen(&mut next, &round, event, now);
            told.extend(next.note_coming(&self.state, &round, &site));
            outcome.err()
        });
        let step = self.step(next, &by_site(&site), now, told);
        Ok(Step { late, ..step })
    }

    fn report(
        &self,
        site: SiteName,
        round: &RoundId,
        update: Update,
        now: Timestamp,
    ) -> Result<Step, Error> {
        self.state.access(&site)?;
        let event = Event::Reported(site.clone(), update);
        let step = self.happen(&by_site(&site), round, event, now)?;
        Ok(Step { noted: Some(Noted::Accepted(site)), ..step })
    }

    fn refused(&self, site: &SiteName, round: &RoundId, detail: String, now: Timestamp) -> Step {
        let Some(noted) = self.refusals.note(&self.state, site, round, &detail) else {
            return self.nothing();
        };
        let entry = Entry::new("update_refused", detail);
        let step = self.step(State::clone(&self.state), &by_site(site), now, vec![entry]);
        Step { noted: Some(noted), ..step }
    }

    fn keep_dropped(
        &self,
        site: &SiteName,
        noted: Straggler,
        update: Update,
        now: Timestamp,
    ) -> Result<Step, Error> {
        self.state.access(site)?;
        let (mut next, run) = (State::clone(&self.state), noted.round.run.clone());
        next.change_run(&run, |run| run.keep_dropped(site, noted, update))?;
        Ok(self.step(next, &by_site(site), now, Vec::new()))
    }

    fn create(
        &self,
        actor: OperatorName,
        name: RunName,
        plan: SignedPlan,
        initial: Blob,
        now: Timestamp,
    ) -> Result<Step, Error> {
        if let Some(run) = self.state.find_run(&name) {
            let same = *run.signed_plan() == plan && run.initial() == initial;
            return if same { Ok(self.nothing()) } else { Err(Error::RunExists(name)) };
        }
        if self.rules.planning {
            let what = run_in_words(&name, &plan.plan, &initial);
            if let Some(noted) = self.second_person(&actor, what, now)? {
                return Ok(noted);
            }
        }
        if self.state.runs().count() >= RUNS_MAX {
            let (what, limit) = ("runs", "RUNS_MAX");
            return Err(Error::TooMany { what, max: RUNS_MAX, limit });
        }
        let mut next = State::clone(&self.state);
        next.add_run(Run::create(name, plan, initial, now));
        Ok(self.step(next, &by_operator(actor), now, Vec::new()))
    }

    fn command(
        &self,
        actor: OperatorName,
        name: RunName,
        command: Command,
        now: Timestamp,
    ) -> Result<Step, Error> {
        if let Command::Readmit(site) = &command
            && self.state.site(site).is_none()
        {
            return Err(Error::SiteUnknown(site.clone()));
        }
        if let Command::Pause(Some(seen)) = &command
            && self.state.run(&name)?.resumed_since(seen)
        {
            return Err(Error::Stale(format!("run {name}")));
        }
        let mut next = State::clone(&self.state);
        let outcome = next.change_run(&name, |run| match command {
            Command::Pause(_) => run.pause(now),
            Command::Resume(Some(seen)) if seen != *run.round().id() => Ok(()),
            // With its next round, so that whoever sees that it goes on sees from where on.
            Command::Resume(_) => run.resume().map(|()| run.open_round(now)),
            Command::Stop => run.stop(now),
            Command::Readmit(site) => run.readmit(site, now),
        })?;
        outcome.map_err(|_| Error::RunOver(name))?;
        Ok(self.step(next, &by_operator(actor), now, Vec::new()))
    }

    fn verdict(
        &self,
        actor: OperatorName,
        round: &RoundId,
        verdict: Verdict,
        now: Timestamp,
    ) -> Result<Step, Error> {
        let event = match verdict {
            Verdict::Close => Event::Closed,
            Verdict::End(stage) => {
                let held = self.state.round(round)?;
                match (stage, held.phase()) {
                    (Stage::Selection, Phase::Selecting { .. })
                    | (Stage::Reporting, Phase::Reporting { .. }) => Event::Closed,
                    (Stage::Reporting, Phase::Selecting { .. }) => {
                        let (round, refusal) = (round.clone(), Refusal::NotReporting);
                        return Err(Error::Round { round, refusal });
                    }
                    _ => return Ok(self.nothing()),
                }
            }
            Verdict::Abandon(reason) => Event::Abandoned(reason),
        };
        self.happen(&by_operator(actor), round, event, now)
    }

    /// Lets an event happen to a round in hand, or to an update that is late for an earlier one.
    fn happen(
        &self,
        actor: &str,
        round: &RoundId,
        event: Event,
        now: Timestamp,
    ) -> Result<Step, Error> {
        let mut next = State::clone(&self.state);
        happen(&mut next, round, event, now)?;
        Ok(self.step(next, actor, now, Vec::new()))
    }
}

fn happen(state: &mut State, id: &RoundId, event: Event, now: Timestamp) -> Result<(), Error> {
    let late = match &event {
        Event::Reported(site, _) | Event::Withdrew(site, _) => {
            state.run(&id.run)?.straggler(id, site).is_some()
        }
        _ => false,
    };
    if !late {
        state.round(id)?;
    }
    let outcome = state.change_run(&id.run, |run| run.apply_to(id, event, now))?;
    outcome.map_err(|refusal| Error::Round { round: id.clone(), refusal })
}

fn by_site(site: &SiteName) -> String {
    Role::Site(site.clone()).to_string()
}

pub(super) fn by_operator(operator: OperatorName) -> String {
    Role::Operator(operator).to_string()
}
