//! One upload under way: it appends to the sender's part, and at the end hashes and names it.
//!
//! Its length on the disk is the whole of its state, so an upload that is dropped anywhere, or whose
//! coordinator dies, goes on where the file ends.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fedpaint_proto::failpoint::reach;
use fedpaint_proto::identity::Role;
use fedpaint_proto::limits::MODEL_BYTES_MAX;
use fedpaint_proto::names::Blob;

use super::rot::digest_of;
use super::{Blobs, Error, blocking, length, lock, staging};

/// An upload that may be written to.
#[derive(Debug)]
pub struct Upload {
    blobs: Blobs,
    blob: Blob,
    committed: u64,
    /// None when the blob was here already, or a write failed.
    part: Option<Part>,
}

/// The file, and the right to write it. Work that blocks takes both along, so that the right cannot
/// be given to another while a write that nobody waits for any more still runs.
#[derive(Debug)]
struct Part {
    file: File,
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
        return Err(Error::TooLarge { max: MODEL_BYTES_MAX });
    }
    if let Some(found) = blobs.find(&blob.digest).await? {
        let committed = found.size;
        return if offset == committed {
            Ok(Upload { blobs, blob, committed, part: None })
        } else {
            Err(Error::WrongOffset { committed_size: committed })
        };
    }
    let (folder, path) = (blobs.sender_folder(&sender), blobs.part(&sender, &blob));
    let busy = Arc::clone(&blobs.busy);
    let part = blocking(move || open(&folder, path, &busy, blob.size, offset)).await?;
    Ok(Upload { blobs, blob, committed: offset, part: Some(part) })
}

fn open(
    folder: &Path,
    path: PathBuf,
    busy: &Arc<Mutex<HashSet<PathBuf>>>,
    size: u64,
    offset: u64,
) -> Result<Part, Error> {
    let made = reach("blob.part").and_then(|()| fs::create_dir_all(folder));
    made.map_err(Error::io("make the folder", folder))?;
    let mut claimed = lock(busy);
    if claimed.contains(&path) {
        return Err(Error::Busy);
    }
    let held = length(&path)?;
    let committed_size = held.unwrap_or(0);
    if offset != committed_size {
        return Err(Error::WrongOffset { committed_size });
    }
    if held.is_none() {
        staging::make_room(folder, size, &claimed)?;
    }
    claimed.insert(path.clone());
    drop(claimed);
    let claim = Claim { busy: Arc::clone(busy), path: path.clone() };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.map_err(Error::io("write", &path))?;
    Ok(Part { file, path, _claim: claim })
}

impl Upload {
    /// Bytes that are here; where the upload goes on.
    pub fn committed_size(&self) -> u64 {
        self.committed
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// If more comes than the blob was said to have, or the disk fails. After a failed write the
    /// upload is to be begun anew.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), Error> {
        let bytes = piece.len() as u64;
        if bytes > self.blob.size.saturating_sub(self.committed) {
            return Err(Error::TooLarge { max: self.blob.size });
        }
        let Some(mut part) = self.part.take() else {
            // An earlier write was given up or failed; only the file knows where it ends.
            return if bytes == 0 { Ok(()) } else { Err(Error::Busy) };
        };
        let part = blocking(move || {
            let written = reach("blob.write").and_then(|()| part.file.write_all(&piece));
            written.map_err(Error::io("write", &part.path))?;
            Ok(part)
        });
        self.part = Some(part.await?);
        self.committed += bytes;
        Ok(())
    }

    /// Ends the upload. If it is whole it is hashed, synced and named; if not, it is kept to go on
    /// with. Returns the committed size.
    ///
    /// # Errors
    /// If the bytes are not what their digest says (they are deleted), or the disk fails.
    pub async fn finish(self) -> Result<u64, Error> {
        let Upload { blobs, blob, committed, part } = self;
        let Some(part) = part else { return Ok(committed) };
        if committed < blob.size {
            return Ok(committed);
        }
        blocking(move || {
            let found = digest_of(&part.path)?;
            if found != blob.digest {
                fs::remove_file(&part.path).map_err(Error::io("delete", &part.path))?;
                return Err(Error::WrongDigest(blob.digest));
            }
            let synced = reach("blob.sync").and_then(|()| part.file.sync_all());
            synced.map_err(|source| {
                // Syncing it again would succeed and mean nothing, so it is sent from its start again.
                let _ = fs::remove_file(&part.path);
                blobs.failed_sync(&part.path, source)
            })?;
            blobs.adopt(&part.path, &blob)?;
            Ok(committed)
        })
        .await
    }
}
