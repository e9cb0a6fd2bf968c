//! What a site keeps of what it has trained, on the disk: what each run's last round began from, and the
//! receipts.
//!
//! ```text
//! workspace/
//!   history.json                         what was trained last, by run
//!   receipts/<run>-<number>-<attempt>.json
//! ```

use std::fs;
use std::io;
use std::sync::PoisonError;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::{RoundId, RunName};

use super::heads::write;
use super::{Error, Workspace, write_sealed};
use crate::disk::Places;
use crate::lineage::{History, Last};
use crate::receipt::Kept;
use crate::seal;

/// The longest history that is read: thousands of runs.
const HISTORY_BYTES_MAX: u64 = 4 << 20;

const HISTORY: Places = Places {
    create: "workspace.history_create",
    write: "workspace.history_write",
    sync: "workspace.history_sync",
    rename: "workspace.history_rename",
    folder: "workspace.history_folder",
};

const RECEIPT: Places = Places {
    create: "workspace.receipt_create",
    write: "workspace.receipt_write",
    sync: "workspace.receipt_sync",
    rename: "workspace.receipt_rename",
    folder: "workspace.receipt_folder",
};

impl Workspace {
    /// What was trained last, by run.
    ///
    /// # Errors
    /// If the file is there and is not what was written: what was trained must not be forgotten, or an older
    /// round would be trained again.
    pub fn history(&self) -> Result<History, Error> {
        let path = self.folder.join("history.json");
        match reach("workspace.history_read").and_then(|()| fs::metadata(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(History::new()),
            Err(source) => return Err(Error::Io { path, source }),
            Ok(found) if found.len() > HISTORY_BYTES_MAX => return Err(Error::Damaged { path }),
            Ok(_) => {}
        }
        let text = fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        seal::read(&text).ok_or(Error::Damaged { path })
    }

    /// Notes what is about to be trained in a run. A later round that is noted already stays.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn note(&self, run: &RunName, last: Last) -> Result<(), Error> {
        // A round that was given up may still be at it when the next one begins.
        let _one = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut history = self.history()?;
        let is_later = |noted: &Last| *noted == last || noted.number > last.number;
        if history.get(run).is_some_and(is_later) {
            return Ok(());
        }
        history.insert(run.clone(), last);
        write_sealed(self.folder.join("history.json"), &HISTORY, &history)
    }

    /// Keeps a receipt.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn keep_receipt(&self, round: &RoundId, receipt: &Kept) -> Result<(), Error> {
        let folder = self.folder.join("receipts");
        let made = reach("workspace.receipts").and_then(|()| fs::create_dir_all(&folder));
        made.map_err(|source| Error::Io { path: folder.clone(), source })?;
        let RoundId { run, number, attempt } = round;
        write(folder.join(format!("{run}-{number}-{attempt}.json")), &RECEIPT, receipt)
    }
}
