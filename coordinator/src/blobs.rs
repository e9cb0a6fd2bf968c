//! Weights on the disk, each file under the BLAKE3 digest of its bytes.
//!
//! ```text
//! blobs/ab/<digest>                  whole, checked, on the disk; never changed
//! staging/<role>-<name>/<digest>.part  an upload so far; its length is where it goes on
//! scratch/                           what the coordinator writes itself; empty after a start
//! ```
//!
//! A file gets its name under `blobs` only after its bytes were hashed and synced, so whoever names
//! a blob that is found here names its bytes. Nothing here knows who may read or write what.

mod staging;
mod upload;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fedpaint_proto::identity::Role;
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::weights::sync_folder;
use jiff::Timestamp;

pub use self::staging::{PART_AGE_MAX, STAGED_BYTES_MAX, STAGED_PARTS_MAX};
pub use self::upload::Upload;

/// The directory of blobs. Clones are the same directory.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
    /// The parts that somebody is writing; one writer each.
    busy: Arc<Mutex<HashSet<PathBuf>>>,
}

/// How much of a blob is here for one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadStatus {
    /// Bytes that are here; where the upload goes on.
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
    /// There is no such blob.
    #[error("there is no blob {}", .0.short())]
    Unknown(Digest),
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
    /// More bytes came than the blob was said to have, or it is larger than any may be.
    #[error("the blob may have {max} bytes and no more")]
    TooLarge {
        /// How many it may have.
        max: u64,
    },
    /// The bytes are not what their digest says; they were deleted.
    #[error("the bytes are not what their digest {} says; upload them again", .0.short())]
    WrongDigest(Digest),
    /// Somebody is writing the same part, or all of the sender's parts.
    #[error("another call is uploading; try again when it has ended")]
    Busy,
}

impl Error {
    /// The reason as it travels.
    pub fn reason(&self) -> Reason {
        match self {
            Error::Io { .. } => Reason::Internal,
            Error::Unknown(_) => Reason::BlobUnknown,
            Error::WrongOffset { .. } => Reason::WrongOffset,
            Error::BehindTheEnd { .. } => Reason::InvalidRequest,
            Error::TooLarge { .. } => Reason::TooLarge,
            Error::WrongDigest(_) => Reason::WrongDigest,
            Error::Busy => Reason::UploadBusy,
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
        let blobs = Blobs { root: root.to_owned(), busy: Arc::default() };
        let opened = blobs.clone();
        blocking(move || {
            let scratch = opened.root.join("scratch");
            match fs::remove_dir_all(&scratch) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("empty", &scratch)(e));
                }
                _ => {}
            }
            for folder in [&scratch, &opened.root.join("blobs"), &opened.staging()] {
                fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
            }
            staging::forget_stale(&opened.staging(), now)
        })
        .await?;
        Ok(blobs)
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

    /// The blob with this digest, if it is here and whole.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn find(&self, digest: &Digest) -> Result<Option<Blob>, Error> {
        let (path, digest) = (self.path(digest), *digest);
        let size = blocking(move || length(&path)).await?;
        Ok(size.map(|size| Blob { digest, size }))
    }

    /// How much of `blob` is here for `sender`.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn upload_status(&self, sender: &Role, blob: &Blob) -> Result<UploadStatus, Error> {
        if let Some(found) = self.find(&blob.digest).await? {
            return Ok(UploadStatus { committed_size: found.size, complete: true });
        }
        let part = self.part(sender, &blob.digest);
        let committed_size = blocking(move || length(&part)).await?.unwrap_or(0);
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

    /// Opens a blob for reading at `offset`; the number is the blob's whole size.
    ///
    /// # Errors
    /// If there is no such blob, the offset is behind its end, or the disk fails.
    pub async fn read(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<(tokio::fs::File, u64), Error> {
        let (path, digest) = (self.path(digest), *digest);
        let (file, size) = blocking(move || {
            let size = length(&path)?.ok_or(Error::Unknown(digest))?;
            if offset > size {
                return Err(Error::BehindTheEnd { offset, size });
            }
            let mut file = File::open(&path).map_err(Error::io("open", &path))?;
            file.seek(SeekFrom::Start(offset)).map_err(Error::io("read", &path))?;
            Ok((file, size))
        })
        .await?;
        Ok((tokio::fs::File::from_std(file), size))
    }

    /// Gives a whole, synced file under `scratch` its name. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn adopt(&self, scratch: &Path, blob: &Blob) -> Result<(), Error> {
        let path = self.path(&blob.digest);
        // The digest's own folder may be new: its entry must last as well as the file's.
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
            sync_folder(folder).map_err(Error::io("sync the folder of", folder))?;
        }
        fs::rename(scratch, &path).map_err(Error::io("rename", scratch))?;
        sync_folder(&path).map_err(Error::io("sync the folder of", &path))
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// The folder of one sender's parts. Roles are fixed words, so no two senders share one.
    fn sender_folder(&self, sender: &Role) -> PathBuf {
        self.staging().join(sender.to_string().replace('/', "-"))
    }

    fn part(&self, sender: &Role, digest: &Digest) -> PathBuf {
        self.sender_folder(sender).join(format!("{digest}.part"))
    }
}

fn length(path: &Path) -> Result<Option<u64>, Error> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", path)(e)),
    }
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
