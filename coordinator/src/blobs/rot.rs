//! Bytes that have changed on the disk since they were checked. Before a blob is used it is hashed
//! again; what is not any more what its digest says is set aside under another name, so that nobody
//! uses it and whoever has the right bytes may bring them again. Whoever writes the audit log hears of it
//! here, whichever use has found it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::Digest;
use tokio::sync::Notify;
use tracing::error;

use super::{Blobs, Error, length, lock};

/// What the name of a file ends with, behind a point, that was set aside.
pub(super) const ROTTEN: &str = "rotten";

/// The blobs that were set aside, by this process or one before it, and the audit log was not told of yet. Each was a
/// file that had to be brought first, so that there are no more than there were files.
#[derive(Debug, Default)]
pub(super) struct Untold {
    found: Mutex<BTreeSet<Digest>>,
    news: Notify,
}

impl Blobs {
    /// The blobs that were set aside and the audit log was not told of yet.
    pub fn untold(&self) -> Vec<Digest> {
        lock(&self.untold.found).iter().copied().collect()
    }

    /// Has the audit log told of these too, which another process set aside and did not live to tell.
    pub fn tell(&self, digests: Vec<Digest>) {
        if !digests.is_empty() {
            lock(&self.untold.found).extend(digests);
            self.untold.news.notify_one();
        }
    }

    /// Takes note that the audit log was told of these.
    pub fn are_told(&self, digests: &[Digest]) {
        let mut found = lock(&self.untold.found);
        for digest in digests {
            found.remove(digest);
        }
    }

    /// Waits until a blob was set aside since the last time. For one who waits; dropping the future loses nothing.
    pub async fn rots(&self) {
        self.untold.news.notified().await;
    }

    /// Reads a blob from its first byte to its last, and sets it aside if it is not what its digest
    /// says. Blocks on the disk.
    ///
    /// # Errors
    /// If there is no such blob, it has changed, or the disk fails.
    pub fn verify(&self, digest: &Digest) -> Result<(), Error> {
        self.open_to_verify(digest)?.verify()
    }

    /// Opens a blob for [`Opened::verify`]. Blocks on the disk.
    ///
    /// # Errors
    /// If there is no such blob, or the disk fails.
    pub(crate) fn open_to_verify(&self, digest: &Digest) -> Result<Opened<'_>, Error> {
        let path = self.path(digest);
        if length(&path)?.is_none() {
            return Err(self.absence(*digest));
        }
        let file = reach("blob.hash").and_then(|()| File::open(&path));
        let file = file.map_err(Error::io("read", &path))?;
        Ok(Opened { blobs: self, digest: *digest, file })
    }

    /// Takes the name of its digest from a file that was read and does not deserve it, if it has it still.
    pub(super) fn set_aside(&self, digest: Digest, read: &File) -> Error {
        let (path, rotten) = (self.path(&digest), self.rotten(&digest));
        match has_name(read, &path) {
            // Who took it has told, and what has the name by now may be the right bytes, brought meanwhile.
            Ok(false) => return Error::Rotten(digest),
            Ok(true) => {}
            Err(error) => {
                error!(%error, blob = %digest, "a blob that has changed cannot be looked at");
                return Error::Rotten(digest);
            }
        }
        error!(blob = %digest, to = %rotten.display(), "a blob has changed on the disk and is set aside");
        match reach("blob.rot").and_then(|()| fs::rename(&path, &rotten)) {
            Ok(()) => {
                lock(&self.untold.found).insert(digest);
                self.untold.news.notify_one();
            }
            // It is found again before its next use.
            Err(error) => {
                error!(%error, blob = %digest, "a blob that has changed cannot be set aside");
            }
        }
        Error::Rotten(digest)
    }

    /// Why there is no blob of this digest.
    pub(super) fn absence(&self, digest: Digest) -> Error {
        match self.rotten(&digest).exists() {
            true => Error::Rotten(digest),
            false => Error::Unknown(digest),
        }
    }

    fn rotten(&self, digest: &Digest) -> PathBuf {
        self.path(digest).with_extension(ROTTEN)
    }
}

/// A blob that is open to be compared with its digest, whatever becomes of its name meanwhile.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    blobs: &'a Blobs,
    digest: Digest,
    file: File,
}

impl Opened<'_> {
    /// Reads it from its first byte to its last, and sets it aside if it is not what its digest says. For once:
    /// it is read from where it was read to. Blocks on the disk.
    ///
    /// # Errors
    /// If it has changed, or the disk fails.
    pub(crate) fn verify(&self) -> Result<(), Error> {
        let Opened { blobs, digest, file } = self;
        let found = hash(file).map_err(Error::io("read", &blobs.path(digest)))?;
        if found == *digest { Ok(()) } else { Err(blobs.set_aside(*digest, file)) }
    }
}

/// The digest of a file's bytes as they are now. Blocks on the disk.
///
/// # Errors
/// If the file does not read.
pub fn digest_of(path: &Path) -> Result<Digest, Error> {
    let file = reach("blob.hash").and_then(|()| File::open(path));
    file.and_then(|file| hash(&file)).map_err(Error::io("read", path))
}

/// Whether a file that was opened by this name is what one would open by it now.
fn has_name(opened: &File, path: &Path) -> io::Result<bool> {
    let opened = opened.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn hash(file: &File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(Digest::from(hasher.finalize()))
}
