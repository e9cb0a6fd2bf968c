//! Updates that are being uploaded: who may, how far they have come, and that their round hears of
//! bytes when its end is near. A part of the [`Handle`]. How far is kept in memory alone: what counts is
//! the file.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fedpaint_proto::names::{Blob, RoundId, SiteName};
use tokio::sync::oneshot;

use super::core::Request;
use super::error::Error;
use super::handle::Handle;
use super::view::Upload;
use super::work::Message;

/// The newest upload of each site. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Uploads(Arc<Mutex<BTreeMap<SiteName, (RoundId, Upload)>>>);

impl Uploads {
    pub(super) fn note(&self, site: &SiteName, round: &RoundId, upload: Upload) {
        let mut all = self.lock();
        match all.get_mut(site) {
            Some((id, held)) if id == round => *held = upload,
            _ => drop(all.insert(site.clone(), (round.clone(), upload))),
        }
    }

    pub(super) fn of(&self, site: &SiteName, round: &RoundId) -> Option<Upload> {
        let all = self.lock();
        let (id, upload) = all.get(site)?;
        (id == round).then_some(*upload)
    }

    /// Numbers are right after any panic, so a poisoned lock is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SiteName, (RoundId, Upload)>> {
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

    /// The same for this very file: one that the round has from the site already may be uploaded again,
    /// which then moves no byte.
    ///
    /// # Errors
    /// If the round neither awaits an update of the site nor has this one, or the database fails.
    pub async fn may_upload_again(
        &self,
        site: &SiteName,
        round: &RoundId,
        blob: &Blob,
    ) -> Result<u64, Error> {
        match self.may_upload(site, round) {
            Err(refused @ Error::Round { .. }) => {
                let has = self.has_file(site, round, blob).await?;
                if has { Ok(blob.size) } else { Err(refused) }
            }
            other => other,
        }
    }

    async fn has_file(&self, site: &SiteName, round: &RoundId, blob: &Blob) -> Result<bool, Error> {
        let plan = {
            let state = self.state.borrow();
            let run = state.run(&round.run)?;
            if run.has_file(round, site, blob) {
                return Ok(true);
            }
            run.plan().round.clone()
        };
        let past = self.store.round(round, &plan).await?;
        Ok(past.is_some_and(|past| past.has_file(site, blob)))
    }

    /// Notes how much of an update has come, and has the round hear of it if its end is near. It waits
    /// for nothing: the next piece tells it again.
    pub fn arriving(&self, site: &SiteName, round: &RoundId, upload: Upload) {
        self.uploads.note(site, round, upload);
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
