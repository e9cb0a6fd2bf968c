//! The parts of unfinished uploads: bounded per sender, on the disk before anybody counts on them, forgotten
//! when nobody goes on with them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::limits::MODEL_BYTES_MAX;
use fedpaint_proto::names::Blob;
use fedpaint_proto::weights::sync_folder;
use jiff::{SignedDuration, Timestamp};

use super::{Blobs, Error};

/// The most unfinished uploads of one sender that are kept.
pub const STAGED_PARTS_MAX: usize = 4;

/// The most bytes of one sender's unfinished uploads that are kept, whole lengths counted.
pub const STAGED_BYTES_MAX: u64 = 2 * MODEL_BYTES_MAX;

/// How long an unfinished upload is kept after its last byte; a site that comes back later sends it
/// from the start.
pub const PART_AGE_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);

struct Part {
    path: PathBuf,
    /// Those of the whole.
    bytes: u64,
    written_at: SystemTime,
}

impl Blobs {
    /// How many bytes of a part outlast a power cut, after bringing those to the disk that are there now, and
    /// the names of the part and of its sender's folder. Nothing if there is no such part. Blocks on the disk.
    pub(super) fn lasting(&self, part: &Path) -> Result<Option<u64>, Error> {
        let file = match File::open(part) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", part)(e)),
        };
        // Whoever writes to it meanwhile makes it longer than what is told.
        let bytes = file.metadata().map_err(Error::io("look at", part))?.len();
        if bytes == 0 {
            return Ok(Some(0));
        }
        let synced = reach("blob.part_sync").and_then(|()| {
            file.sync_data()?;
            sync_folder(part)?;
            part.parent().map_or(Ok(()), sync_folder)
        });
        synced.map_err(|source| {
            // Syncing it again would succeed and mean nothing, so it is sent from its start again.
            let _ = fs::remove_file(part);
            self.failed_sync(part, source)
        })?;
        Ok(Some(bytes))
    }
}

/// Makes room in a sender's folder for another upload of `size` bytes: the parts that were written
/// longest ago go first, those that somebody is writing now stay.
pub(super) fn make_room(folder: &Path, size: u64, busy: &HashSet<PathBuf>) -> Result<(), Error> {
    let mut parts = parts(folder)?;
    parts.sort_by(|a, b| (b.written_at, &b.path).cmp(&(a.written_at, &a.path)));
    let fits = |parts: &[Part]| {
        let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
        parts.len() < STAGED_PARTS_MAX && bytes.saturating_add(size) <= STAGED_BYTES_MAX
    };
    while !fits(&parts) {
        let oldest = parts.iter().rposition(|part| !busy.contains(&part.path));
        let oldest = parts.remove(oldest.ok_or(Error::Crowded)?);
        let removed = reach("blob.room").and_then(|()| fs::remove_file(&oldest.path));
        removed.map_err(Error::io("delete", &oldest.path))?;
    }
    Ok(())
}

/// Deletes the parts of every sender that were last written more than [`PART_AGE_MAX`] before `now`.
pub(super) fn forget_stale(staging: &Path, now: Timestamp) -> Result<(), Error> {
    let folders = fs::read_dir(staging).map_err(Error::io("read the folder", staging))?;
    for folder in folders {
        let folder = folder.map_err(Error::io("read the folder", staging))?.path();
        for part in parts(&folder)? {
            // A part from the future, or from before any time there is, is left to `make_room`.
            let age = Timestamp::try_from(part.written_at).map(|then| now.duration_since(then));
            if age.is_ok_and(|age| age > PART_AGE_MAX) {
                let removed = reach("blob.forget").and_then(|()| fs::remove_file(&part.path));
                removed.map_err(Error::io("delete", &part.path))?;
            }
        }
    }
    Ok(())
}

fn parts(folder: &Path) -> Result<Vec<Part>, Error> {
    let failed = || Error::io("read the folder", folder);
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let metadata = entry.metadata().map_err(failed())?;
        let written_at = metadata.modified().map_err(failed())?;
        let path = entry.path();
        let bytes = whole_bytes(&path).unwrap_or(metadata.len());
        parts.push(Part { path, bytes, written_at });
    }
    Ok(parts)
}

/// The name of the part of a blob. It tells how long the whole is to be, so that room can be counted
/// that is not taken yet.
pub(super) fn name(blob: &Blob) -> String {
    format!("{}.{}.part", blob.digest, blob.size)
}

/// How long the whole is to be of which this is a part.
fn whole_bytes(part: &Path) -> Option<u64> {
    let name = part.file_name()?.to_str()?.strip_suffix(".part")?;
    name.rsplit_once('.')?.1.parse().ok()
}
