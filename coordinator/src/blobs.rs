//! Weights on the disk, each file under the BLAKE3 digest of its bytes.
//!
//! ```text
//! blobs/ab/<digest>                           whole, checked, on the disk; never changed
//! blobs/ab/<digest>.rotten                    was whole once, and has changed since; used by nobody
//! staging/<role>-<name>/<digest>.<size>.part  an upload so far; its length, synced, is where it goes on
//! scratch/                                    what the coordinator writes itself; empty after a start
//! ```
//!
//! A file gets its name under `blobs` only after its bytes were hashed and synced, so whoever names
//! a blob that is found here names its bytes. Nothing here knows who may read or write what.
//!
//! A full or broken disk is an error like any other and may be over later. A failed sync is not: the
//! kernel forgets what it could not write, so what was written is deleted, and the process stops
//! ([`Blobs::halt`]).

mod came;
mod download;
mod orphans;
mod pages;
mod rot;
mod staging;
mod upload;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::identity::Role;
use fedpaint_proto::limits::MODEL_BYTES_MAX;
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::weights::sync_folder;
use jiff::Timestamp;

use self::came::Came;
pub use self::download::Download;
pub use self::orphans::{Collection, Freed, ORPHAN_AGE_MAX, Unneeded};
use self::rot::Untold;
pub use self::rot::digest_of;
pub use self::staging::{PART_AGE_MAX, STAGED_BYTES_MAX, STAGED_PARTS_MAX};
pub use self::upload::Upload;
use crate::halt::Halt;

/// The directory of blobs. Clones are the same directory.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
    /// The parts that somebody is writing; one writer each.
    busy: Arc<Mutex<HashSet<PathBuf>>>,
    /// The blobs that this process has told somebody it holds. Whoever deletes a blob holds this lock.
    claims: Arc<Mutex<Claims>>,
    /// Those that were seen to hold finite numbers.
    came: Arc<Came>,
    /// The blobs set aside that the audit log is to be told of.
    untold: Arc<Untold>,
    halt: Halt,
}

/// Blobs that somebody was told are here, who may be about to name them in a row: they are no orphans
/// for now. A claim ends when a row names its blob; where none ever does, two collections later.
#[derive(Debug, Default)]
struct Claims {
    newer: HashSet<Digest>,
    older: HashSet<Digest>,
    /// How many collections are under way. Each has asked which blobs rows name, or is about to: it
    /// may not know a row that is new, so that no claim ends before it does.
    collections: usize,
}

impl Claims {
    fn holds(&self, digest: &Digest) -> bool {
        self.newer.contains(digest) || self.older.contains(digest)
    }

    fn end(&mut self, digest: &Digest) {
        if self.collections == 0 {
            self.newer.remove(digest);
            self.older.remove(digest);
        }
    }
}

/// How much of a blob is here for one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadStatus {
    /// Bytes that are here and on the disk; where the upload goes on.
    pub committed_size: u64,
    /// Whether the blob is whole and checked.
    pub complete: bool,
}

/// Why the directory refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk fails.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The disk does not say that it holds what was written.
    #[error("cannot sync {}: {source}; what the disk holds is not known", path.display())]
    Sync {
        /// Which file, now deleted, or whose folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no such blob.
    #[error("there is no blob {}", .0.short())]
    Unknown(Digest),
    /// The file is not any more what its digest says; it was set aside.
    #[error("the coordinator's copy of blob {} has changed on the disk and was set aside; restore it from a backup", .0.short())]
    Rotten(Digest),
    /// The upload or download begins elsewhere than it can.
    #[error("the upload must go on at byte {committed_size}")]
    WrongOffset {
        /// Where the upload goes on.
        committed_size: u64,
    },
    /// A download begins behind the blob's end.
    #[error("byte {offset} is behind the end of the blob, which has {size}")]
    BehindTheEnd {
        /// Where it should have begun.
        offset: u64,
        /// How long the blob is.
        size: u64,
    },
    /// More bytes came than the blob was said to have.
    #[error("the blob was said to have {size} bytes, and more came")]
    Longer {
        /// How many it was said to have.
        size: u64,
    },
    /// The blob is larger than any may be.
    #[error("the blob has {size} bytes, it may have at most {MODEL_BYTES_MAX} (MODEL_BYTES_MAX)")]
    TooLarge {
        /// How many it is said to have.
        size: u64,
    },
    /// The bytes are not what their digest says; they were deleted.
    #[error("the bytes are not what their digest {} says; upload them again", .0.short())]
    WrongDigest(Digest),
    /// Somebody is writing the same part.
    #[error("another call is uploading; try again when it has ended")]
    Busy,
    /// The sender has too many uploads under way.
    #[error(
        "other calls are uploading: {STAGED_PARTS_MAX} blobs and {STAGED_BYTES_MAX} bytes at once are the \
         most for one sender (STAGED_PARTS_MAX, STAGED_BYTES_MAX); try again when one has ended"
    )]
    Crowded,
}

impl Error {
    /// The reason as it travels.
    pub fn reason(&self) -> Reason {
        match self {
            Error::Io { .. } | Error::Sync { .. } => Reason::Storage,
            Error::Unknown(_) => Reason::BlobUnknown,
            Error::Rotten(_) => Reason::BlobRotten,
            Error::WrongOffset { .. } => Reason::WrongOffset,
            Error::BehindTheEnd { .. } => Reason::InvalidRequest,
            Error::Longer { .. } | Error::TooLarge { .. } => Reason::TooLarge,
            Error::WrongDigest(_) => Reason::WrongDigest,
            Error::Busy | Error::Crowded => Reason::UploadBusy,
        }
    }

    /// Names what was tried with which path; for `map_err`.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { what, path, source }
    }
}

impl Blobs {
    /// Opens the directory, makes its folders, empties `scratch`, and forgets parts of uploads that
    /// nobody has gone on with for [`PART_AGE_MAX`].
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn open(root: &Path, now: Timestamp) -> Result<Blobs, Error> {
        let blobs = Blobs::attach(root);
        let opened = blobs.clone();
        blocking(move || {
            let scratch = opened.root.join("scratch");
            match reach("blob.empty").and_then(|()| fs::remove_dir_all(&scratch)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("empty", &scratch)(e));
                }
                _ => {}
            }
            for folder in [&scratch, &opened.staging()] {
                let made = reach("blob.folders").and_then(|()| fs::create_dir_all(folder));
                made.map_err(Error::io("make the folder", folder))?;
            }
            opened.make_folders()?;
            staging::forget_stale(&opened.staging(), now)
        })
        .await?;
        Ok(blobs)
    }

    /// The directory as another process may be using it: nothing is made, emptied or forgotten.
    pub fn attach(root: &Path) -> Blobs {
        let (busy, claims, came, untold, halt) = Default::default();
        Blobs { root: root.to_owned(), busy, claims, came, untold, halt }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Tells when the process has to end because a sync failed.
    pub fn halt(&self) -> &Halt {
        &self.halt
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("blobs").join(&name[..2]).join(&name)
    }

    /// Where the coordinator itself may write a file called `name` before it is adopted.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.root.join("scratch").join(name)
    }

    /// The blob with this digest, if it is here and whole. It stays for a day at least, or until a row
    /// has named it.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn find(&self, digest: &Digest) -> Result<Option<Blob>, Error> {
        let (blobs, digest) = (self.clone(), *digest);
        blocking(move || {
            let mut claims = lock(&blobs.claims);
            let size = length(&blobs.path(&digest))?;
            if size.is_some() {
                if !claims.holds(&digest) {
                    // A process that died may have renamed it and not synced its folder.
                    blobs.sync_folder_of(&blobs.path(&digest))?;
                }
                claims.newer.insert(digest);
            }
            Ok(size.map(|size| Blob { digest, size }))
        })
        .await
    }

    /// How much of `blob` is here for `sender`: what is told outlasts a power cut.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn upload_status(&self, sender: &Role, blob: &Blob) -> Result<UploadStatus, Error> {
        if let Some(found) = self.find(&blob.digest).await? {
            return Ok(UploadStatus { committed_size: found.size, complete: true });
        }
        let (blobs, part) = (self.clone(), self.part(sender, blob));
        let committed_size = blocking(move || blobs.lasting(&part)).await?.unwrap_or(0);
        Ok(UploadStatus { committed_size, complete: false })
    }

    /// Begins or goes on with an upload at `offset`, which must be the committed size. Dropping the
    /// upload keeps what was written.
    ///
    /// # Errors
    /// If the offset is wrong, the blob too large, the same part being written, or the disk fails.
    pub async fn upload(&self, sender: &Role, blob: Blob, offset: u64) -> Result<Upload, Error> {
        upload::begin(self.clone(), sender.clone(), blob, offset).await
    }

    /// Begins to give a blob from `offset` on.
    ///
    /// # Errors
    /// If there is no such blob, it has changed, the offset is behind its end, or the disk fails.
    pub async fn download(&self, digest: &Digest, offset: u64) -> Result<Download, Error> {
        download::begin(self.clone(), *digest, offset).await
    }

    /// Gives a whole, synced file under `scratch` its name. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn adopt(&self, scratch: &Path, blob: &Blob) -> Result<(), Error> {
        let path = self.path(&blob.digest);
        // Claimed before it has its name, or a collection might take it for an orphan in between.
        lock(&self.claims).newer.insert(blob.digest);
        let was_here = length(&path)?.is_some();
        let renamed = reach("blob.rename").and_then(|()| fs::rename(scratch, &path));
        renamed.map_err(Error::io("rename", scratch))?;
        if let Err(error) = self.sync_folder_of(&path) {
            if !was_here {
                // Its name may not last: nobody is to find it. One that was here had its name before,
                // and rows may name it.
                let _ = fs::remove_file(&path);
            }
            return Err(error);
        }
        Ok(())
    }

    /// Takes note that rows on the disk name these blobs: who was told of them has done what the blobs
    /// were to wait for.
    pub fn are_named(&self, digests: impl Iterator<Item = Digest>) {
        let mut claims = lock(&self.claims);
        digests.for_each(|digest| claims.end(&digest));
    }

    /// Of how many blobs somebody was told who has not named them yet.
    #[cfg(test)]
    pub(crate) fn claims(&self) -> usize {
        let claims = lock(&self.claims);
        claims.newer.union(&claims.older).count()
    }

    /// Makes the folders of blobs once and for all, so that naming a blob syncs its own folder and no
    /// other.
    fn make_folders(&self) -> Result<(), Error> {
        let folder = self.root.join("blobs");
        for byte in 0..=u8::MAX {
            let folder = folder.join(format!("{byte:02x}"));
            // A crash between any two of them leaves what one before the last does.
            let place = if matches!(byte, 0 | u8::MAX) { reach("blob.folders") } else { Ok(()) };
            let made = place.and_then(|()| fs::create_dir_all(&folder));
            made.map_err(Error::io("make the folder", &folder))?;
        }
        for folder in [&folder, &self.root] {
            let opened = reach("blob.folders_sync").and_then(|()| File::open(folder));
            let synced = opened.and_then(|folder| folder.sync_all());
            synced.map_err(|source| Error::Sync { path: folder.clone(), source })?;
        }
        Ok(())
    }

    /// Makes a blob's name last.
    fn sync_folder_of(&self, path: &Path) -> Result<(), Error> {
        let synced = reach("blob.folder").and_then(|()| sync_folder(path));
        synced.map_err(|source| self.failed_sync(path, source))
    }

    /// What was to be synced may or may not be on the disk: has the process end.
    fn failed_sync(&self, path: &Path, source: io::Error) -> Error {
        let error = Error::Sync { path: path.to_owned(), source };
        self.halt.call(error.to_string());
        error
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// The folder of one sender's parts. Roles are fixed words, so no two senders share one.
    fn sender_folder(&self, sender: &Role) -> PathBuf {
        self.staging().join(sender.to_string().replace('/', "-"))
    }

    fn part(&self, sender: &Role, blob: &Blob) -> PathBuf {
        self.sender_folder(sender).join(staging::name(blob))
    }
}

fn length(path: &Path) -> Result<Option<u64>, Error> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", path)(e)),
    }
}

/// A set is right after any panic, so a poisoned lock is no reason to stop.
fn lock<T>(set: &Mutex<T>) -> MutexGuard<'_, T> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs disk work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(panic) => {
            let source = io::Error::other(panic);
            Err(Error::Io { what: "finish work on", path: PathBuf::from("the blobs"), source })
        }
    }
}

#[cfg(test)]
mod tests;
