//! One upload under way: it appends to the sender's part, and at the end hashes and names it.
//!
//! Its length on the disk is the whole of its state, so an upload that is dropped anywhere, or whose
//! coordinator dies, goes on where the file ends. Nobody is told an offset before the bytes up to it are
//! synced, so a power cut takes none that a sender counts on. What a cut leaves beyond them is as good as any
//! other bytes: an upload that went on is read from its first byte before it is named.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fedpaint_proto::failpoint::reach;
use fedpaint_proto::identity::Role;
use fedpaint_proto::limits::MODEL_BYTES_MAX;
use fedpaint_proto::names::Blob;
use fedpaint_proto::transfer::append::{Appender, Growing, Stopped};

use super::{Blobs, Error, blocking, length, lock, staging};

/// An upload that may be written to.
#[derive(Debug)]
pub struct Upload {
    blobs: Blobs,
    blob: Blob,
    committed: u64,
    /// Where the part is.
    path: PathBuf,
    /// None when the blob was here already, or a write failed.
    part: Option<Appender<Part>>,
}

/// Where the part is, and the right to write it. The writer takes both along, so that the right cannot be
/// given to another while a write that nobody waits for any more still runs.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    _claim: Claim,
}

#[derive(Debug)]
struct Claim {
    busy: Arc<Mutex<HashSet<PathBuf>>>,
    path: PathBuf,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.busy).remove(&self.path);
    }
}

pub(super) async fn begin(
    blobs: Blobs,
    sender: Role,
    blob: Blob,
    offset: u64,
) -> Result<Upload, Error> {
    if blob.size > MODEL_BYTES_MAX {
        return Err(Error::TooLarge { size: blob.size });
    }
    if let Some(found) = blobs.find(&blob.digest).await? {
        let committed = found.size;
        // From the beginning too: the answer to the call that brought it may have been lost.
        return if offset <= committed {
            Ok(Upload { path: blobs.path(&blob.digest), blobs, blob, committed, part: None })
        } else {
            Err(Error::WrongOffset { committed_size: committed })
        };
    }
    let (folder, path) = (blobs.sender_folder(&sender), blobs.part(&sender, &blob));
    let (to, kept) = (blobs.clone(), path.clone());
    let opened = blocking(move || open(&to, &folder, path, blob.size, offset)).await;
    let (growing, part) = opened?;
    let part = Appender::begin(growing, part, "blob.write");
    Ok(Upload { blobs, blob, committed: offset, path: kept, part: Some(part) })
}

fn open(
    blobs: &Blobs,
    folder: &Path,
    path: PathBuf,
    size: u64,
    offset: u64,
) -> Result<(Growing, Part), Error> {
    let made = reach("blob.part").and_then(|()| fs::create_dir_all(folder));
    made.map_err(Error::io("make the folder", folder))?;
    let mut claimed = lock(&blobs.busy);
    if claimed.contains(&path) {
        return Err(Error::Busy);
    }
    let held = length(&path)?;
    if offset != held.unwrap_or(0) {
        // Others need not wait for its sync.
        drop(claimed);
        let committed_size = blobs.lasting(&path)?.unwrap_or(0);
        return Err(Error::WrongOffset { committed_size });
    }
    if held.is_none() {
        staging::make_room(folder, size, &claimed)?;
    }
    claimed.insert(path.clone());
    drop(claimed);
    let claim = Claim { busy: Arc::clone(&blobs.busy), path: path.clone() };
    let mut options = OpenOptions::new();
    let options = options.create(true).append(true).read(true);
    let file = reach("blob.part_open").and_then(|()| options.open(&path));
    let growing = file.and_then(Growing::of).map_err(Error::io("write", &path))?;
    Ok((growing.looked_at(), Part { path, _claim: claim }))
}

impl Upload {
    /// Bytes that are here or about to be; where the upload goes on.
    pub fn committed_size(&self) -> u64 {
        self.committed
    }

    /// Whether the blob was here before this upload, which then needs no piece.
    pub fn was_here(&self) -> bool {
        self.part.is_none() && self.committed >= self.blob.size
    }

    /// Appends a piece. It may still be under way to the file when this returns.
    ///
    /// # Errors
    /// If more comes than the blob was said to have, or the disk fails. After a failed write the
    /// upload is to be begun anew.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), Error> {
        let bytes = piece.len() as u64;
        if bytes > self.blob.size.saturating_sub(self.committed) {
            return Err(Error::Longer { size: self.blob.size });
        }
        let Some(part) = &self.part else {
            // An earlier write failed; only the file knows where it ends.
            return if bytes == 0 { Ok(()) } else { Err(Error::Busy) };
        };
        if let Err(Stopped) = part.push(piece).await {
            return self.keep().await.and(Err(Error::Busy));
        }
        self.committed += bytes;
        Ok(())
    }

    /// Waits until all that came is in the file, to go on with another time.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn keep(&mut self) -> Result<(), Error> {
        self.settle().await.map(drop)
    }

    async fn settle(&mut self) -> Result<Option<(Growing, Part)>, Error> {
        let Some(part) = self.part.take() else { return Ok(None) };
        part.end().await.map(Some).map_err(Error::io("write", &self.path))
    }

    /// Ends the upload. If it is whole it is synced and named; if not, it is synced and kept to go on with.
    /// Returns the committed size.
    ///
    /// # Errors
    /// If the bytes are not what their digest says (they are deleted), or the disk fails.
    pub async fn finish(mut self) -> Result<u64, Error> {
        let settled = self.settle().await?;
        let Upload { blobs, blob, committed, .. } = self;
        let Some((mut growing, part)) = settled else { return Ok(committed) };
        blocking(move || {
            let path = &part.path;
            if committed != blob.size {
                return Ok(blobs.lasting(path)?.unwrap_or(0));
            }
            let found = reach("blob.hash").and_then(|()| growing.digest());
            if found.map_err(Error::io("read", path))? != blob.digest {
                let removed = reach("blob.wrong").and_then(|()| fs::remove_file(path));
                removed.map_err(Error::io("delete", path))?;
                return Err(Error::WrongDigest(blob.digest));
            }
            let synced = reach("blob.sync").and_then(|()| growing.sync());
            synced.map_err(|source| {
                // Syncing it again would succeed and mean nothing, so it is sent from its start again.
                let _ = fs::remove_file(path);
                blobs.failed_sync(path, source)
            })?;
            blobs.adopt(path, &blob)?;
            if growing.are_finite() {
                blobs.note_finite(blob.digest);
            }
            Ok(committed)
        })
        .await
    }
}
