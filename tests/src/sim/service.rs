//! The coordinator's services, as a model of the real ones in `service/` and `driver/submit.rs`: what
//! a site asks becomes a question to the real core, and its disk.

use std::time::Duration;

use fedpaint_coordinator::driver::Error;
use fedpaint_coordinator::driver::core::{Beat, Request, Review, Submission, is_kept, review};
use fedpaint_coordinator::round::{Member, Update};
use fedpaint_proto::names::{Blob, Digest, RoundId, SiteName};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::wire::WIRE_VERSION;
use fedpaint_site_agent::client::Activity;

use super::coordinator::Stopped;
use super::ledger::Invariant;
use super::network::{Ask, Failed, Heard};
use super::site;
use super::world::{Bug, Event, World};

impl World {
    /// Answers a site's call; none if the answer comes later.
    pub(super) fn serve(
        &mut self,
        site: usize,
        call: u64,
        ask: Ask,
    ) -> Option<Result<Heard, Failed>> {
        let served = match ask {
            Ask::Beat(activity) => self.serve_beat(site, &activity),
            Ask::Status(blob) => self.serve_status(site, &blob),
            Ask::Piece { round, blob, offset, bytes } => {
                self.serve_piece(site, &round, &blob, (offset, &bytes))
            }
            Ask::Base(digest) => self.serve_base(site, &digest),
            Ask::Submit(submission) => match self.serve_submission(site, call, submission) {
                Ok(None) => return None,
                Ok(Some(heard)) => Ok(heard),
                Err(stopped) => Err(stopped),
            },
        };
        self.work();
        Some(served.map_err(|stopped| match stopped {
            Stopped::Refused(reason) => Failed::Refused(reason),
            Stopped::Dead => Failed::Network,
        }))
    }

    fn serve_beat(&mut self, site: usize, activity: &Activity) -> Result<Heard, Stopped> {
        let name = self.sites[site].name.clone();
        let beat = Beat {
            agent_version: "0.1.0".to_owned(),
            wire_version: WIRE_VERSION,
            activity: site::to_coordinator(activity),
            declined: Vec::new(),
            doubt: None,
            shown_until: None,
            signing_until: None,
        };
        self.request(Request::Beat(name.clone(), beat))?;
        self.settle()?;
        let answer = self.process()?.core.answer(&name);
        self.ledger.told(&name, &answer.directive, &self.coordinator.database);
        if answer.log != *self.coordinator.database.log() {
            let size = answer.log.tree.size();
            let detail =
                format!("site {site} is told of a log of {size} entries that was not saved");
            self.ledger.broke(Invariant::Heads, detail);
        }
        Ok(Heard::Directive(site::from_coordinator(answer.directive), answer.next_after))
    }

    fn serve_status(&mut self, site: usize, blob: &Blob) -> Result<Heard, Stopped> {
        let name = self.sites[site].name.clone();
        self.process()?.core.state().access(&name)?;
        let (size, complete) = self.coordinator.disk.status(site, &blob.digest);
        Ok(Heard::Committed(size, complete))
    }

    fn serve_piece(
        &mut self,
        site: usize,
        round: &RoundId,
        blob: &Blob,
        (offset, bytes): (u64, &[u8]),
    ) -> Result<Heard, Stopped> {
        let (name, now) = (self.sites[site].name.clone(), self.clock());
        let state = std::sync::Arc::clone(self.process()?.core.state());
        let bytes_max = match state.may_upload(&name, round, now) {
            // What the round has already may be uploaded again, which then moves no byte.
            Err(refused @ Error::Round { .. }) => {
                let past = self.coordinator.database.round(round);
                let run = state.run(&round.run)?;
                let has = run.has_file(round, &name, blob)
                    || past.is_some_and(|past| past.has_file(&name, blob));
                if !has {
                    return Err(refused.into());
                }
                blob.size
            }
            other => other?,
        };
        if blob.size > bytes_max {
            return Err(Stopped::Refused(Reason::TooLarge));
        }
        self.note_arrival(&name, round);
        let taken = self.coordinator.disk.append(site, blob, offset, bytes);
        let committed = taken.map_err(|error| Stopped::Refused(error.reason()))?;
        Ok(Heard::Committed(committed, committed == blob.size))
    }

    /// Has a round hear of an update that is arriving, if its end is near.
    fn note_arrival(&mut self, name: &SiteName, round: &RoundId) {
        let now = self.clock();
        let Ok(process) = self.process() else { return };
        let held = process.core.state().round(round);
        if held.is_ok_and(|held| held.notes_arrival(name, now)) {
            // What comes next tells it again.
            let _ = self.request(Request::Arriving(name.clone(), round.clone()));
        }
    }

    fn serve_base(&mut self, site: usize, digest: &Digest) -> Result<Heard, Stopped> {
        let name = self.sites[site].name.clone();
        let blob = self.process()?.core.state().may_download(&name, digest)?;
        let Some(bytes) = self.coordinator.disk.read(&blob.digest) else {
            if self.coordinator.disk.is_damaged(digest) {
                return Err(Stopped::Refused(Reason::BlobRotten));
            }
            let detail = format!("{} is to be had and not there", digest.short());
            self.ledger.broke(Invariant::NamedBlobs, detail);
            return Err(Stopped::Refused(Reason::BlobUnknown));
        };
        Ok(Heard::Bytes(bytes.to_vec()))
    }

    /// None if the update is being read.
    fn serve_submission(
        &mut self,
        site: usize,
        call: u64,
        submission: Submission,
    ) -> Result<Option<Heard>, Stopped> {
        let (name, now) = (self.sites[site].name.clone(), self.clock());
        let process = self.process()?;
        let boot = process.boot;
        match review(process.core.state(), &name, &submission, now) {
            Ok(Review::Check(update)) => {
                self.note_arrival(&name, &submission.round);
                let wait = Duration::from_millis(self.dice.between(5, 2_000));
                self.after(wait, Event::Checked { boot, site, call, submission, update });
                return Ok(None);
            }
            Ok(Review::Held) => {}
            Ok(Review::Past(over)) => {
                let (database, update) = (&self.coordinator.database, submission.update());
                let past = database.round(&submission.round);
                let late = database.straggler(&submission.round, &name);
                let late = late.and_then(|late| late.late.taken());
                if !past.is_some_and(|past| past.holds(&name, &update))
                    && !late.is_some_and(|held| held.is(&update))
                {
                    return Err(self.refuse(site, &submission, over));
                }
            }
            Err(error) => return Err(self.refuse(site, &submission, error)),
        }
        Ok(Some(self.receipt(site, &submission)))
    }

    /// The update was read: it is applied, and its receipt given.
    pub(super) fn checked(
        &mut self,
        boot: u64,
        (site, call): (usize, u64),
        submission: &Submission,
        update: Update,
    ) {
        if self.process().map(|process| process.boot).ok() != Some(boot) {
            return;
        }
        let digest = submission.weights.digest;
        let applied = if self.coordinator.disk.read_whole(&digest).is_some() {
            let name = self.sites[site].name.clone();
            let request = Request::Report(name, submission.round.clone(), update);
            let saved = match self.request(request) {
                Err(Stopped::Refused(Reason::Internal)) if self.bug == Some(Bug::AckBeforeSave) => {
                    Ok(())
                }
                saved => saved,
            };
            saved.map(|()| self.receipt(site, submission))
        } else {
            // Found damaged, or gone before it was asked for: to be uploaded again.
            self.coordinator.disk.set_aside(&digest);
            Err(self.refuse(site, submission, Error::BlobUnknown(digest)))
        };
        self.work();
        match applied {
            Ok(heard) => self.answer(site, call, Ok(heard)),
            Err(Stopped::Refused(reason)) => self.answer(site, call, Err(Failed::Refused(reason))),
            Err(Stopped::Dead) => {}
        }
    }

    fn receipt(&mut self, site: usize, submission: &Submission) -> Heard {
        let name = self.sites[site].name.clone();
        self.ledger.receipt(&submission.round, &name, submission.weights.digest);
        self.note(format_args!("{name} has its receipt for {}", submission.round));
        Heard::Receipt
    }

    /// Notes in the audit log why an update was refused.
    fn refuse(&mut self, site: usize, submission: &Submission, error: Error) -> Stopped {
        let (name, round) = (self.sites[site].name.clone(), submission.round.clone());
        let (database, weights) = (&self.coordinator.database, submission.weights);
        let late = database.straggler(&round, &name).and_then(|late| late.late.taken());
        let held = match database.round(&round).and_then(|held| held.members().get(&name)) {
            Some(Member::Reported(held)) => Some(held),
            _ => late,
        };
        let same = held.is_some_and(|held| held.weights == weights);
        if same && !matches!(error, Error::NotEnrolled(_) | Error::Revoked(_)) {
            let detail = format!("round {round} holds what {name} is refused: {error}");
            self.ledger.broke(Invariant::Acknowledged, detail);
        }
        let detail = format!("round {round}: site {name}, {error}");
        let noted = self.request(Request::Refused(name, round, detail));
        match noted.and_then(|()| self.keep(site, submission)) {
            Ok(()) => error.into(),
            Err(stopped) => stopped,
        }
    }

    /// Keeps an update that was dropped before it came, if it is here whole.
    fn keep(&mut self, site: usize, submission: &Submission) -> Result<(), Stopped> {
        let name = self.sites[site].name.clone();
        let noted = self.coordinator.database.straggler(&submission.round, &name).cloned();
        let Some(noted) = noted.filter(|noted| is_kept(noted, submission)) else { return Ok(()) };
        if self.coordinator.disk.read_whole(&submission.weights.digest).is_none() {
            return Ok(());
        }
        self.request(Request::KeepDropped(name, Box::new(noted), submission.update()))
    }
}
