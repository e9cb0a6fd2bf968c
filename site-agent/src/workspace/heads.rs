//! The heads of the coordinator's log, on the disk: the last one that was believed, and the proof where one
//! came that does not fit.
//!
//! ```text
//! workspace/
//!   head.json            the last head that was believed
//!   evidence/<when>.json heads that do not fit together, and what was accepted in place of what
//! ```

use std::fs;
use std::io;
use std::path::PathBuf;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::log::SignedHead;
use fedpaint_proto::signing::Authority;
use jiff::Timestamp;
use serde::Serialize;

use super::{Error, Workspace, write_sealed};
use crate::disk::{Places, write_whole};
use crate::lineage::History;
use crate::seal;
use crate::witness::{self, Proof};

/// The longest head that is read.
const HEAD_BYTES_MAX: u64 = 64 << 10;

const HEAD: Places = Places {
    create: "workspace.head_create",
    write: "workspace.head_write",
    sync: "workspace.head_sync",
    rename: "workspace.head_rename",
    folder: "workspace.head_folder",
};

const EVIDENCE: Places = Places {
    create: "workspace.evidence_create",
    write: "workspace.evidence_write",
    sync: "workspace.evidence_sync",
    rename: "workspace.evidence_rename",
    folder: "workspace.evidence_folder",
};

impl Workspace {
    /// The last head that was believed; none where none ever was.
    ///
    /// # Errors
    /// If the file is there and is not what was written: what was believed must not be forgotten.
    pub fn head(&self) -> Result<Option<SignedHead>, Error> {
        let path = self.head_path();
        let io = |source| Error::Io { path: path.clone(), source };
        match reach("workspace.head_read").and_then(|()| fs::metadata(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
            Ok(found) if found.len() > HEAD_BYTES_MAX => {
                return Err(Error::Damaged { path });
            }
            Ok(_) => {}
        }
        let text = fs::read(&path).map_err(io)?;
        seal::read(&text).map(Some).ok_or(Error::Damaged { path })
    }

    /// The same for who knows the federation's root, by which a head that an older agent has kept shows
    /// whether it is what was written.
    ///
    /// # Errors
    /// As [`Workspace::head`].
    pub fn head_of(&self, authority: &Authority) -> Result<Option<SignedHead>, Error> {
        match self.head()? {
            Some(head) if witness::is_harmed(authority, &head) => {
                Err(Error::Damaged { path: self.head_path() })
            }
            head => Ok(head),
        }
    }

    /// Keeps a head that was believed in place of the last one.
    ///
    /// # Errors
    /// If the disk fails; then the last one is still there.
    pub fn keep_head(&self, head: &SignedHead) -> Result<(), Error> {
        write_sealed(self.head_path(), &HEAD, head)
    }

    /// Keeps the proof that the log was changed. Where it lies.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn keep_proof(&self, proof: &Proof) -> Result<PathBuf, Error> {
        self.keep_evidence(proof.told.statement.at, proof)
    }

    /// Takes a head that the site's people were given, whatever was believed before, and forgets what was
    /// trained; both are kept as evidence.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn accept_head(&self, head: &SignedHead, now: Timestamp) -> Result<(), Error> {
        let before = match self.head() {
            Ok(before) => before,
            Err(Error::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        let history = self.history().unwrap_or_default();
        let accepted = Accepted { before, accepted: head, history };
        self.keep_evidence(now, &accepted)?;
        self.keep_head(head)?;
        // A coordinator that went back in time asks for rounds again.
        let path = self.folder.join("history.json");
        match reach("workspace.history_drop").and_then(|()| fs::remove_file(&path)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    fn keep_evidence(&self, at: Timestamp, evidence: &impl Serialize) -> Result<PathBuf, Error> {
        let folder = self.folder.join("evidence");
        let made = reach("workspace.evidence").and_then(|()| fs::create_dir_all(&folder));
        made.map_err(|source| Error::Io { path: folder.clone(), source })?;
        let path = folder.join(format!("{}.json", at.as_microsecond()));
        write(path.clone(), &EVIDENCE, evidence)?;
        Ok(path)
    }

    fn head_path(&self) -> PathBuf {
        self.folder.join("head.json")
    }
}

/// A head that was taken by hand.
#[derive(Serialize)]
struct Accepted<'a> {
    before: Option<SignedHead>,
    accepted: &'a SignedHead,
    history: History,
}

/// Writes a value as JSON, whole or not.
pub(super) fn write(path: PathBuf, places: &Places, what: &impl Serialize) -> Result<(), Error> {
    let written = write_whole(&path, places, |file| Ok(serde_json::to_writer_pretty(file, what)?));
    written.map_err(|source| Error::Io { path, source })
}
