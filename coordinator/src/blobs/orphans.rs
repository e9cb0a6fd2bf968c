//! Blobs that no row names: what a crash left between a file and its row, and updates that were
//! refused. They are deleted once they are old, and never while somebody may still name them.

use std::collections::HashSet;
use std::fs::{self, DirEntry};
use std::path::Path;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::Digest;
use jiff::{SignedDuration, Timestamp};

use super::{Blobs, Error, blocking, lock, staging};

/// How old a blob is before it counts as one that nobody will name: a site that has uploaded its
/// update may submit it this much later.
pub const ORPHAN_AGE_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// How many files.
    pub files: u64,
    /// How many bytes they had.
    pub bytes: u64,
}

/// A collection of what nobody needs. It is begun before anybody asks which blobs rows name, so that
/// what comes to be named from then on stays.
#[derive(Debug)]
pub struct Collection(Blobs);

impl Drop for Collection {
    fn drop(&mut self) {
        lock(&self.0.claims).collections -= 1;
    }
}

impl Collection {
    /// Deletes the blobs that are not among the `named` ones and are older than [`ORPHAN_AGE_MAX`]; the
    /// `spent` ones, which rows name and nothing needs any more; and old parts of uploads. What
    /// somebody was told of lately, and has not named in a row, stays until the collection after the
    /// next.
    ///
    /// # Errors
    /// If the disk fails; what was deleted before that stays deleted.
    pub async fn collect(
        self,
        named: HashSet<Digest>,
        spent: Vec<Digest>,
        now: Timestamp,
    ) -> Result<Freed, Error> {
        // The work has the collection with it, which is over when the work is, whoever still waits.
        blocking(move || {
            let (blobs, mut freed) = (&self.0, Freed::default());
            for folder in entries(&blobs.root.join("blobs"))? {
                for entry in entries(&folder.path())? {
                    if blobs.is_orphan(&entry, &named, now) {
                        blobs.delete(&entry.path(), &mut freed)?;
                    }
                }
            }
            for digest in spent {
                let path = blobs.path(&digest);
                if path.exists() {
                    blobs.delete(&path, &mut freed)?;
                }
            }
            staging::forget_stale(&blobs.staging(), now)?;
            let mut claims = lock(&blobs.claims);
            claims.older = std::mem::take(&mut claims.newer);
            Ok(freed)
        })
        .await
    }
}

impl Blobs {
    /// Begins a collection.
    pub fn collection(&self) -> Collection {
        lock(&self.claims).collections += 1;
        Collection(self.clone())
    }

    /// Every file under `blobs` whose name is a digest. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn list(&self) -> Result<Vec<Digest>, Error> {
        let mut found = Vec::new();
        for folder in entries(&self.root.join("blobs"))? {
            let files = entries(&folder.path())?;
            found.extend(files.iter().filter_map(digest));
        }
        Ok(found)
    }

    /// What is set aside keeps its other name, and is left to the operator.
    fn is_orphan(&self, entry: &DirEntry, named: &HashSet<Digest>, now: Timestamp) -> bool {
        let Some(digest) = digest(entry) else { return false };
        if named.contains(&digest) {
            return false;
        }
        let written_at = entry.metadata().and_then(|metadata| metadata.modified());
        let written_at = written_at.ok().and_then(|then| Timestamp::try_from(then).ok());
        // A file from the future, or from before any time there is, is nobody's to judge.
        written_at.is_some_and(|then| now.duration_since(then) > ORPHAN_AGE_MAX)
    }

    fn delete(&self, path: &Path, freed: &mut Freed) -> Result<(), Error> {
        let claims = lock(&self.claims);
        let digest = path.file_name().and_then(|name| name.to_str()?.parse::<Digest>().ok());
        if digest.is_some_and(|digest| claims.holds(&digest)) {
            return Ok(());
        }
        let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
        let deleted = reach("blob.delete").and_then(|()| fs::remove_file(path));
        deleted.map_err(Error::io("delete", path))?;
        drop(claims);
        freed.files += 1;
        freed.bytes += bytes;
        Ok(())
    }
}

fn digest(entry: &DirEntry) -> Option<Digest> {
    entry.file_name().to_str()?.parse().ok()
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, Error> {
    let read = fs::read_dir(folder).and_then(Iterator::collect);
    read.map_err(Error::io("read the folder", folder))
}
