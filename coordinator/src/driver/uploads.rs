//! Updates that are being uploaded: who may, how far they have come, and that their round hears of
//! bytes when its end is near. A part of the [`Handle`]. How far is kept in memory alone: what counts is
//! the file.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fedpaint_proto::names::{Blob, Digest, RoundId, SiteName};
use fedpaint_proto::reason::Reason;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::core::Request;
use super::error::Error;
use super::handle::Handle;
use super::submit;
use super::view::Upload;
use super::work::Message;
use crate::round::ARRIVING_STEP;
use crate::run::Straggler;

/// The most files that a site may upload for one round. It needs one; a few more where what it had was
/// damaged or it began anew.
pub const UPLOADS_MAX: usize = 8;

/// What sites upload. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Uploads(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// The newest upload of each site.
    newest: BTreeMap<SiteName, (RoundId, Upload)>,
    /// The files that each site has begun to upload, by the round that they are for.
    begun: BTreeMap<(SiteName, RoundId), BTreeSet<Digest>>,
}

impl Uploads {
    pub(super) fn note(&self, site: &SiteName, round: &RoundId, upload: Upload) {
        let newest = &mut self.lock().newest;
        match newest.get_mut(site) {
            Some((id, held)) if id == round => *held = upload,
            _ => drop(newest.insert(site.clone(), (round.clone(), upload))),
        }
    }

    pub(super) fn of(&self, site: &SiteName, round: &RoundId) -> Option<Upload> {
        let newest = &self.lock().newest;
        let (id, upload) = newest.get(site)?;
        (id == round).then_some(*upload)
    }

    /// Counts a file that a site begins to upload; whether it may. `is_over` says of which rounds nothing
    /// has to be remembered any more.
    fn begin(
        &self,
        site: &SiteName,
        round: &RoundId,
        file: Digest,
        is_over: impl Fn(&SiteName, &RoundId) -> bool,
    ) -> bool {
        let begun = &mut self.lock().begun;
        let key = (site.clone(), round.clone());
        if !begun.contains_key(&key) {
            begun.retain(|(site, round), _| !is_over(site, round));
        }
        let files = begun.entry(key).or_default();
        if files.len() >= UPLOADS_MAX && !files.contains(&file) {
            return false;
        }
        files.insert(file);
        true
    }

    /// Numbers are right after any panic, so a poisoned lock is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// How large an update the site may upload for a round.
    ///
    /// # Errors
    /// If the round awaits none from it.
    pub fn may_upload(&self, site: &SiteName, round: &RoundId) -> Result<u64, Error> {
        self.state.borrow().may_upload(site, round, self.clock.now())
    }

    /// The same for this very file, which counts as begun: one that the round has from the site already
    /// may be uploaded again, which then moves no byte.
    ///
    /// # Errors
    /// If the round neither awaits an update of the site nor has this one, the site has begun
    /// [`UPLOADS_MAX`] other ones for it, or the database fails. That one comes too late is noted in the audit
    /// log, as where it is submitted.
    pub async fn may_upload_again(
        &self,
        site: &SiteName,
        round: &RoundId,
        blob: &Blob,
    ) -> Result<u64, Error> {
        match self.may_upload(site, round) {
            Err(refused @ Error::Round { .. }) => {
                let Some(refused) = self.not_held(site, round, blob, refused).await? else {
                    return Ok(blob.size);
                };
                if refused.reason() == Reason::ReportingOver {
                    submit::note(self, site, round.clone(), &refused).await?;
                }
                Err(refused)
            }
            Ok(bytes_max) => {
                let (state, now) = (self.state.borrow(), self.clock.now());
                let is_over =
                    |site: &SiteName, round: &RoundId| state.awaits(site, round, now).is_err();
                match self.uploads.begin(site, round, blob.digest, is_over) {
                    true => Ok(bytes_max),
                    false => Err(Error::TooMany {
                        what: "uploads for a round",
                        max: UPLOADS_MAX,
                        limit: "UPLOADS_MAX",
                    }),
                }
            }
            other => other,
        }
    }

    /// Why a round that awaits no update of the site does not take this file; none where it has it already.
    async fn not_held(
        &self,
        site: &SiteName,
        round: &RoundId,
        blob: &Blob,
        refused: Error,
    ) -> Result<Option<Error>, Error> {
        let plan = {
            let state = self.state.borrow();
            let run = state.run(&round.run)?;
            if run.has_file(round, site, blob) {
                return Ok(None);
            }
            run.plan().round.clone()
        };
        let Some(past) = self.store.round(round, &plan).await? else { return Ok(Some(refused)) };
        let late = self.store.late(&round.run, round.number, round.number).await?;
        let came = late.iter().any(|(name, Straggler { round: of, late, .. })| {
            name == site && of == round && late.taken().is_some_and(|held| held.weights == *blob)
        });
        let has = came || past.has_file(site, blob);
        Ok((!has).then(|| submit::late_or(&past, site, refused)))
    }

    /// Notes how much of an update has come, and has the round hear of it if its end is near. It waits
    /// for nothing: the next piece tells it again.
    pub fn arriving(&self, site: &SiteName, round: &RoundId, upload: Upload) {
        self.uploads.note(site, round, upload);
        self.note_arrival(site, round);
    }

    /// Has the round hear of a site that would upload its update and was told to come again, as if bytes of it
    /// had come: the site does not pay for our queue.
    pub fn in_line(&self, site: &SiteName, round: &RoundId) {
        self.note_arrival(site, round);
    }

    /// Waits for a check of an update that has come whole. The round hears of it for as long as that
    /// takes, so that the site does not pay for a queue: only its deadline's own bound ends the wait.
    pub(super) async fn while_arriving<T>(
        &self,
        site: &SiteName,
        round: &RoundId,
        check: impl Future<Output = T>,
    ) -> T {
        let mut check = pin!(check);
        loop {
            self.note_arrival(site, round);
            let next = self.clock.now().checked_add(ARRIVING_STEP).unwrap_or(Timestamp::MAX);
            tokio::select! {
                checked = &mut check => return checked,
                () = self.clock.sleep_until(next) => {}
            }
        }
    }

    fn note_arrival(&self, site: &SiteName, round: &RoundId) {
        let notes = {
            let state = self.state.borrow();
            let held = state.round(round);
            held.is_ok_and(|held| held.notes_arrival(site, self.clock.now()))
        };
        if notes {
            let (reply, _) = oneshot::channel();
            let request = Request::Arriving(site.clone(), round.clone());
            // A full mailbox, or a driver that ends, is no reason to keep the bytes waiting.
            let _ = self.mailbox.try_send(Message::Change(request, reply));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_begins_so_many_files_for_a_round_and_goes_on_with_each() {
        let uploads = Uploads::default();
        let site = |name: &str| -> SiteName { name.parse().unwrap() };
        let round = |number| RoundId { run: "brain".parse().unwrap(), number, attempt: 1 };
        let file = |n: usize| Digest::of(n.to_string().as_bytes());
        let begin = |name, number, n| {
            let over = |_: &SiteName, id: &RoundId| *id == round(1) && number > 2;
            uploads.begin(&site(name), &round(number), file(n), over)
        };
        assert!((0..UPLOADS_MAX).all(|n| begin("mayo", 1, n)));
        assert!(!begin("mayo", 1, UPLOADS_MAX));
        assert!((0..UPLOADS_MAX).all(|n| begin("mayo", 1, n)), "again is no other file");
        assert!(begin("oslo", 1, UPLOADS_MAX) && begin("mayo", 2, UPLOADS_MAX));
        assert!(!begin("mayo", 1, UPLOADS_MAX), "another round changes nothing of the first");
        assert!(begin("mayo", 3, 0));
        let kept = uploads.lock().begun.len();
        assert_eq!(kept, 2, "what is over is forgotten");
    }
}
