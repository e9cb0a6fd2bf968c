//! The folder that agent and trainer share: models and updates by digest, and what the agent must
//! remember over a crash.
//!
//! ```text
//! workspace/
//!   lock              held by the agent that runs here
//!   models/<digest>   base models
//!   updates/<digest>  trained models
//!   training/<digest> how far the training under way is, see `checkpoints`
//!   plans/<digest>.*  plans that were shown, and who has approved them, see `plans`
//!   stop              while it is there, nothing leaves, see `gate`
//!   trained.json      which update answers which round, and what data it learnt from
//!   split.json        which scans trained and which are held out: the trainer's alone
//!   scans-cache/      prepared scans: the trainer's alone, the agent never opens it
//!   head.json         the coordinator's log, as it was last believed, see `heads`
//!   history.json      what was trained last, and receipts/, see `ledger`
//!   remainders/       what updates have left out, see `remainders`
//!   evidence/         what proves that the log was changed
//! ```
//! A file has its name only when it is whole, and but for an update that is not remembered yet on the disk;
//! an update is used by its digest alone, and what the agent must remember has a digest of its own, see `seal`.
//! But for what the trainer prepares of scans
//! none is ever put here, and beside that the folder never holds more than the newest base model, the
//! newest update, the newest checkpoint, a transfer under way, and where updates are rounded what a few of
//! them left out.

mod heads;
mod ledger;
mod remainders;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fedpaint_proto::disk::may_pass;
use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::{Blob, Digest, RunName};
use fedpaint_proto::weights::sync_folder;
use serde::{Deserialize, Serialize};

pub use self::remainders::{Doubt, Open, remainder_path};
use crate::disk::{Places, write_whole};
use crate::pipe::{Assignment, Trained};
use crate::seal;

/// The longest `trained.json` that is read.
const RECORD_BYTES_MAX: u64 = 16 << 10;

const RECORD: Places = Places {
    create: "workspace.record_create",
    write: "workspace.record_write",
    sync: "workspace.record_sync",
    rename: "workspace.record_rename",
    folder: "workspace.record_folder",
};

/// Why the workspace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder fails.
    #[error("the workspace's {}: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What must not be forgotten does not read, or is not what was written.
    #[error(
        "the workspace's {} is not as it was written, its disk may lose bits: ask the coordinator's operator for a head (`fedctl audit head`) \
         and take it with `fedpaint-site-agent head accept`", path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// Another agent runs here.
    #[error(
        "the workspace {} is in use by another agent: stop it, or give this one its own `workspace`",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// Whether it may pass by itself: a disk that is full now.
    pub fn may_pass(&self) -> bool {
        matches!(self, Error::Io { source, .. } if may_pass(source))
    }
}

/// Where a base model lies in the workspace `folder`.
pub fn model_path(folder: &Path, digest: Digest) -> PathBuf {
    folder.join("models").join(digest.to_string())
}

/// Where an update lies in the workspace `folder`.
pub fn update_path(folder: &Path, digest: Digest) -> PathBuf {
    folder.join("updates").join(digest.to_string())
}

/// Where the trainer remembers which patients train in the workspace `folder`.
pub fn split_path(folder: &Path) -> PathBuf {
    folder.join("split.json")
}

/// Where the trainer keeps how far it is in the workspace `folder`.
pub fn training_folder(folder: &Path) -> PathBuf {
    folder.join("training")
}

/// The agent's hold on the workspace; another agent cannot take it meanwhile.
#[derive(Debug)]
pub struct Workspace {
    folder: PathBuf,
    /// Held while the history is changed.
    noting: Mutex<()>,
    /// Held while the record or the book of remainders is changed: what a job that was given up has begun on the
    /// disk goes on beside the next one's.
    changing: Mutex<()>,
    /// The base model of the newest job, held while others are dropped: one that was given up may still be at
    /// that when the next one's model comes.
    wanted: Mutex<Option<Digest>>,
    /// The lock ends with the file.
    _lock: File,
}

/// The update that answers a round: the same for every attempt at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    run: RunName,
    number: u32,
    plan: Digest,
    base: Blob,
    trained: Trained,
    /// What the update was made with that an earlier one had left out.
    #[serde(default)]
    remainder: Option<Blob>,
    /// The attempt that it was submitted for, until it is known whether it was accepted; only where it has
    /// left something out.
    #[serde(default)]
    submitted: Option<u32>,
}

impl Record {
    fn new(assignment: &Assignment, trained: Trained) -> Record {
        let Assignment { run, number, base, plan_toml, remainder, .. } = assignment;
        let plan = Digest::of(plan_toml.as_bytes());
        Record {
            run: run.clone(),
            number: *number,
            plan,
            base: *base,
            trained,
            remainder: *remainder,
            submitted: None,
        }
    }
}

impl Workspace {
    /// Takes the workspace `folder`, making it where there is none.
    ///
    /// # Errors
    /// If the folder cannot be written, or another agent has it.
    pub fn open(folder: &Path) -> Result<Workspace, Error> {
        for sub in ["models", "updates", "training", "remainders"] {
            let path = folder.join(sub);
            reach("workspace.folders")
                .and_then(|()| fs::create_dir_all(&path))
                .map_err(|source| Error::Io { path, source })?;
        }
        let path = folder.join("lock");
        let lock = reach("workspace.lock").and_then(|()| File::create(&path));
        let lock = lock.map_err(|source| Error::Io { path: path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => {
                let (noting, changing, wanted) = Default::default();
                let folder = folder.to_owned();
                Ok(Workspace { folder, noting, changing, wanted, _lock: lock })
            }
            Err(TryLockError::WouldBlock) => Err(Error::InUse { path: folder.to_owned() }),
            Err(TryLockError::Error(source)) => Err(Error::Io { path, source }),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Brings the update of an assignment to the disk and remembers it, so that a crash does not train it
    /// again, and drops every other one and the checkpoint.
    ///
    /// # Errors
    /// If the disk fails; nothing half-written is left.
    pub fn remember(&self, assignment: &Assignment, trained: Trained) -> Result<(), Error> {
        self.sync_update(trained.update.digest)?;
        let _one = self.changing();
        self.write_record(&Record::new(assignment, trained))?;
        self.keep_only("updates", "workspace.drop_updates", &[trained.update.digest])?;
        self.keep_only("training", "workspace.drop_training", &[])?;
        self.keep_remainders()
    }

    /// What it guards is on the disk, whole after every write, whoever panicked.
    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_update(&self, digest: Digest) -> Result<(), Error> {
        let path = update_path(&self.folder, digest);
        let sync = || {
            reach("workspace.update_sync")?;
            File::open(&path)?.sync_all()?;
            reach("workspace.update_folder")?;
            sync_folder(&path)
        };
        sync().map_err(|source| Error::Io { path: path.clone(), source })
    }

    /// Forgets the update, because the coordinator refused it.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn forget(&self) -> Result<(), Error> {
        let _one = self.changing();
        let path = self.record_path();
        match reach("workspace.forget").and_then(|()| fs::remove_file(&path)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Has a base model stay, whatever is dropped from now on.
    pub fn want_model(&self, digest: Digest) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
    }

    /// Drops every base model, whole or in part, but the one that was wanted last.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn drop_models(&self) -> Result<(), Error> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        self.keep_only("models", "workspace.drop_models", wanted.as_slice())
    }

    fn keep_only(&self, sub: &str, place: &'static str, kept: &[Digest]) -> Result<(), Error> {
        let path = self.folder.join(sub);
        let kept: Vec<String> = kept.iter().map(Digest::to_string).collect();
        let drop_others = || {
            reach(place)?;
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                let name = entry.file_name();
                // What begins with the digest is the file itself or a transfer of it.
                if kept.iter().any(|kept| name.to_string_lossy().starts_with(kept)) {
                    continue;
                }
                match fs::remove_file(entry.path()) {
                    // A trainer that is being stopped has given it its name just now.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
            Ok(())
        };
        drop_others().map_err(|source| Error::Io { path: path.clone(), source })
    }

    fn record_path(&self) -> PathBuf {
        record_path(&self.folder)
    }
}

fn record_path(folder: &Path) -> PathBuf {
    folder.join("trained.json")
}

/// The update that was trained for this assignment from this `data` before, if the workspace `folder`
/// still has it unharmed. It is the trainer that asks, because the agent does not know the data.
///
/// # Errors
/// If the record or the update is there and does not read.
pub fn trained(
    folder: &Path,
    assignment: &Assignment,
    data: Digest,
) -> io::Result<Option<Trained>> {
    let Some(record) = read_record(&record_path(folder))? else { return Ok(None) };
    let Trained { update, data: learnt, remainder, .. } = record.trained;
    let expected =
        Record { submitted: record.submitted, ..Record::new(assignment, record.trained) };
    let unharmed = learnt == data
        && record == expected
        && blob_of(&update_path(folder, update.digest))? == Some(update)
        && match remainder {
            Some(left) => blob_of(&remainder_path(folder, left.digest))? == Some(left),
            None => true,
        };
    Ok(unharmed.then_some(record.trained))
}

/// Writes a value as JSON with its seal, whole or not.
fn write_sealed(path: PathBuf, places: &Places, what: &impl Serialize) -> Result<(), Error> {
    let written = write_whole(&path, places, |file| file.write_all(&seal::sealed(what)?));
    written.map_err(|source| Error::Io { path, source })
}

/// What is remembered, if anything. A record that is not as it was written, or of another version, is as good as
/// none: the round is trained again.
fn read_record(path: &Path) -> io::Result<Option<Record>> {
    match reach("workspace.record_read").and_then(|()| fs::metadata(path)) {
        Ok(found) if found.len() <= RECORD_BYTES_MAX => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let record = seal::read(&fs::read(path)?);
    if record.is_none() {
        tracing::warn!("{} is not as it was written: the round is trained again", path.display());
    }
    Ok(record)
}

/// What a file is, or none where there is no file.
///
/// # Errors
/// If the file is there and does not read.
pub fn blob_of(path: &Path) -> io::Result<Option<Blob>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(Some(Blob { digest: Digest::from(hasher.finalize()), size: hasher.count() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipe::Report;

    fn assignment(number: u32, base: &[u8]) -> Assignment {
        Assignment {
            run: "brain".parse().unwrap(),
            number,
            site: "mayo".parse().unwrap(),
            plan_toml: String::new(),
            base: Blob { digest: Digest::of(base), size: base.len() as u64 },
            remainder: None,
        }
    }

    fn data() -> Digest {
        Digest::of(b"scans")
    }

    fn again(workspace: &Workspace, assignment: &Assignment) -> Option<Trained> {
        trained(workspace.folder(), assignment, data()).unwrap()
    }

    fn train(workspace: &Workspace, bytes: &[u8]) -> Trained {
        let update = Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
        fs::write(update_path(workspace.folder(), update.digest), bytes).unwrap();
        Trained { update, examples: 8, report: Report::default(), data: data(), remainder: None }
    }

    #[test]
    fn an_update_is_remembered_over_a_crash_for_its_round_base_and_data_alone() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let update = train(&workspace, b"update");
        workspace.remember(&assignment(3, b"base"), update).unwrap();
        drop(workspace);
        let workspace = Workspace::open(folder.path()).unwrap();
        assert_eq!(again(&workspace, &assignment(3, b"base")), Some(update));
        assert_eq!(again(&workspace, &assignment(4, b"base")), None);
        assert_eq!(again(&workspace, &assignment(3, b"other base")), None);
        let fewer = Digest::of(b"all scans but one");
        assert_eq!(trained(folder.path(), &assignment(3, b"base"), fewer).unwrap(), None);
        workspace.forget().unwrap();
        workspace.forget().unwrap();
        assert_eq!(again(&workspace, &assignment(3, b"base")), None);
    }

    #[test]
    fn a_harmed_update_or_record_is_trained_again() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let update = train(&workspace, b"update");
        workspace.remember(&assignment(1, b"base"), update).unwrap();
        let path = update_path(folder.path(), update.update.digest);
        fs::write(&path, b"updatf").unwrap();
        assert_eq!(again(&workspace, &assignment(1, b"base")), None);
        fs::remove_file(&path).unwrap();
        assert_eq!(again(&workspace, &assignment(1, b"base")), None);
        fs::write(workspace.record_path(), b"{").unwrap();
        assert_eq!(again(&workspace, &assignment(1, b"base")), None);
    }

    #[test]
    fn a_record_with_one_bit_flipped_anywhere_is_trained_again_and_never_believed() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let update = train(&workspace, b"update");
        workspace.remember(&assignment(1, b"base"), update).unwrap();
        let whole = fs::read(workspace.record_path()).unwrap();
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(workspace.record_path(), bytes).unwrap();
            assert_eq!(again(&workspace, &assignment(1, b"base")), None, "bit {bit}");
        }
        fs::write(workspace.record_path(), whole).unwrap();
        assert_eq!(again(&workspace, &assignment(1, b"base")), Some(update));
    }

    #[test]
    fn a_record_that_an_older_agent_wrote_is_as_good() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let update = train(&workspace, b"update");
        let record = Record::new(&assignment(1, b"base"), update);
        fs::write(workspace.record_path(), serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(again(&workspace, &assignment(1, b"base")), Some(update));
    }

    #[test]
    fn only_the_newest_base_and_update_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        train(&workspace, b"old");
        let newest = train(&workspace, b"new");
        workspace.remember(&assignment(2, b"base"), newest).unwrap();
        let names = |sub: &str| -> Vec<String> {
            let entries = fs::read_dir(folder.path().join(sub)).unwrap();
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert_eq!(names("updates"), [newest.update.digest.to_string()]);
        let kept = Digest::of(b"kept");
        for name in [kept.to_string(), Digest::of(b"old").to_string(), "x.part".into()] {
            fs::write(folder.path().join("models").join(name), b"").unwrap();
        }
        workspace.want_model(Digest::of(b"old"));
        workspace.want_model(kept);
        workspace.drop_models().unwrap();
        assert_eq!(names("models"), [kept.to_string()]);
    }

    #[test]
    fn a_second_agent_in_the_same_workspace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = Workspace::open(folder.path()).unwrap();
        assert!(matches!(Workspace::open(folder.path()), Err(Error::InUse { .. })));
        drop(first);
        assert!(Workspace::open(folder.path()).is_ok());
    }
}
