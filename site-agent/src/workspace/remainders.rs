//! What updates have left out, on the disk, and how far it is accounted for.
//!
//! ```text
//! workspace/
//!   remainders/<digest>  what an update left out
//!   remainders.json      by run: the update that was accepted last, what it was made with and left out
//! ```
//! What an update leaves out takes the place of what it was made with only once the update is known to be
//! accepted. Until then a round that is trained again, or tried again, is made with the same, and so gives
//! the same bytes: nothing is added twice. An update whose acceptance is in doubt, because the agent or the
//! network ended before it was told, is noted before it is submitted, and the doubt is settled before
//! another round is trained: nothing is forgotten. One that was accepted in an attempt that was abandoned, and
//! of which no later attempt has heard, is in no model: once that is known, what it was made with is carried on
//! in the place of what it left out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::{Blob, Digest, RoundId, RunName};
use serde::{Deserialize, Serialize};

use super::{Error, RECORD, Record, Workspace, blob_of, read_record, write_sealed};
use crate::disk::Places;
use crate::pipe::{Assignment, Trained};
use crate::seal;

/// Of how many runs it is kept, the newest: each costs twice the room of a model.
const RUNS_MAX: usize = 4;

/// The longest `remainders.json` that is read.
const BOOK_BYTES_MAX: u64 = 16 << 10;

const BOOK: Places = Places {
    create: "workspace.remainders_create",
    write: "workspace.remainders_write",
    sync: "workspace.remainders_sync",
    rename: "workspace.remainders_rename",
    folder: "workspace.remainders_folder",
};

/// Where what an update left out lies in the workspace `folder`.
pub fn remainder_path(folder: &Path, digest: Digest) -> PathBuf {
    folder.join("remainders").join(digest.to_string())
}

/// The update of a run that was accepted last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    run: RunName,
    plan: Digest,
    number: u32,
    /// The attempt that accepted it, and the update, until it is known to be a part of a model or of none. A
    /// book of before they were noted has none.
    #[serde(default)]
    open: Option<(u32, Digest)>,
    /// What it was made with.
    before: Option<Blob>,
    /// What it left out.
    after: Blob,
}

/// An update that was accepted, and of which nobody here knows whether a model is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The round's number.
    pub number: u32,
    /// The attempt that accepted it.
    pub attempt: u32,
    /// The update.
    pub update: Digest,
}

/// An update that was submitted, and of which nobody here knows whether it was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Doubt {
    /// The attempt that it was submitted for.
    pub round: RoundId,
    /// The run's plan.
    pub plan: Digest,
    /// The model that it was trained from.
    pub base: Blob,
    /// The update.
    pub trained: Trained,
}

impl Workspace {
    /// What the update of round `number` is made with: what the last accepted one of the run left out, or
    /// if that was of this very round what it was made with itself.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn carried(&self, run: &RunName, number: u32, plan: Digest) -> Result<Option<Blob>, Error> {
        let book = self.book()?;
        let last = book.into_iter().find(|last| last.run == *run && last.plan == plan);
        let carried = last.and_then(|last| match last.number {
            before if before < number => Some(last.after),
            same if same == number => last.before,
            // The coordinator has gone back in time, to what is no longer known.
            _ => None,
        });
        let Some(blob) = carried else { return Ok(None) };
        let path = remainder_path(&self.folder, blob.digest);
        let found = blob_of(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        if found == Some(blob) {
            return Ok(Some(blob));
        }
        tracing::warn!(
            "{}: what the last update left out is lost: its disk loses bits",
            path.display()
        );
        Ok(None)
    }

    /// The update of a run that was accepted last, if it is of a round before `number` and nobody knows yet
    /// whether a model is made of it.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open_update(
        &self,
        run: &RunName,
        number: u32,
        plan: Digest,
    ) -> Result<Option<Open>, Error> {
        let book = self.book()?;
        let last = book.into_iter().find(|last| last.run == *run && last.plan == plan);
        Ok(last.filter(|last| last.number < number).and_then(|last| {
            let (attempt, update) = last.open?;
            Some(Open { number: last.number, attempt, update })
        }))
    }

    /// Notes whether the update of a run that was accepted last is a part of a model. If it is of none, the
    /// next is made with what it was made with.
    ///
    /// # Errors
    /// If the disk fails; then it stays open.
    pub fn close_update(&self, run: &RunName, is_counted: bool) -> Result<(), Error> {
        let _one = self.changing();
        let closed = |last: Accepted| match (last.run == *run, is_counted, last.before) {
            (false, ..) => Some(last),
            (true, true, _) => Some(Accepted { open: None, ..last }),
            (true, false, before) => Some(Accepted { open: None, after: before?, ..last }),
        };
        let book: Vec<Accepted> = self.book()?.into_iter().filter_map(closed).collect();
        self.write_book(&book)?;
        self.keep_remainders()
    }

    /// Notes that the update of an assignment is about to be submitted for an attempt.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn submitting(
        &self,
        assignment: &Assignment,
        trained: Trained,
        attempt: u32,
    ) -> Result<(), Error> {
        let _one = self.changing();
        let record = Record { submitted: Some(attempt), ..Record::new(assignment, trained) };
        self.write_record(&record)
    }

    /// The update that was submitted last, if it has left something out and nobody knows whether it was
    /// accepted.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn doubt(&self) -> Result<Option<Doubt>, Error> {
        let Some((record, attempt, _)) = self.submitted()? else { return Ok(None) };
        let Record { run, number, plan, base, trained, .. } = record;
        let round = RoundId { run, number, attempt };
        Ok(Some(Doubt { round, plan, base, trained }))
    }

    /// Settles the doubt: what the update left out is what the next is made with, if it was accepted.
    ///
    /// # Errors
    /// If the disk fails; then the doubt stays.
    pub fn settle(&self, is_accepted: bool) -> Result<(), Error> {
        let _one = self.changing();
        let Some((record, attempt, after)) = self.submitted()? else { return Ok(()) };
        if is_accepted {
            let Record { run, number, plan, remainder: before, trained, .. } = record.clone();
            let open = Some((attempt, trained.update.digest));
            let mut book = self.book()?;
            book.retain(|last| last.run != run);
            book.push(Accepted { run, plan, number, open, before, after });
            let first = book.len().saturating_sub(RUNS_MAX);
            self.write_book(&book.split_off(first))?;
        }
        self.write_record(&Record { submitted: None, ..record })?;
        self.keep_remainders()
    }

    /// Drops what no accepted update and not the remembered one was made with or left out.
    pub(super) fn keep_remainders(&self) -> Result<(), Error> {
        let accepted = self.book()?.into_iter().flat_map(|last| [last.before, Some(last.after)]);
        let record = self.record()?;
        let remembered = record.map(|record| [record.remainder, record.trained.remainder]);
        let kept = accepted.chain(remembered.into_iter().flatten()).flatten();
        let kept: Vec<Digest> = kept.map(|blob| blob.digest).collect();
        self.keep_only("remainders", "workspace.drop_remainders", &kept)
    }

    /// The remembered update, the attempt that it was submitted for, and what it left out, if it was
    /// submitted and has left something out.
    fn submitted(&self) -> Result<Option<(Record, u32, Blob)>, Error> {
        let record = self.record()?;
        Ok(record.and_then(|record| {
            let (attempt, after) = (record.submitted?, record.trained.remainder?);
            Some((record, attempt, after))
        }))
    }

    fn record(&self) -> Result<Option<Record>, Error> {
        let path = self.record_path();
        read_record(&path).map_err(|source| Error::Io { path, source })
    }

    pub(super) fn write_record(&self, record: &Record) -> Result<(), Error> {
        write_sealed(self.record_path(), &RECORD, record)
    }

    fn book_path(&self) -> PathBuf {
        self.folder.join("remainders.json")
    }

    fn write_book(&self, book: &[Accepted]) -> Result<(), Error> {
        write_sealed(self.book_path(), &BOOK, &book)
    }

    /// The accepted updates, the newest last.
    fn book(&self) -> Result<Vec<Accepted>, Error> {
        let path = self.book_path();
        match reach("workspace.remainders_read").and_then(|()| fs::metadata(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::Io { path, source }),
            Ok(found) if found.len() > BOOK_BYTES_MAX => return Ok(self.unread_book()),
            Ok(_) => {}
        }
        let text = fs::read(&path).map_err(|source| Error::Io { path, source })?;
        Ok(seal::read(&text).unwrap_or_else(|| self.unread_book()))
    }

    /// What was left out is as good as lost, which costs some digits and no round.
    fn unread_book(&self) -> Vec<Accepted> {
        let path = self.book_path();
        tracing::warn!("{} does not read: what updates left out is forgotten", path.display());
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
