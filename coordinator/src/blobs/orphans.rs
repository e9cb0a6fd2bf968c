//! Blobs that no row names: what a crash left between a file and its row, and updates that were
//! refused. They are deleted once they are old, and never while somebody may still name them.

use std::collections::HashSet;
use std::fs::{self, DirEntry};
use std::path::Path;
use std::sync::Arc;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::{Blob, Digest};
use jiff::{SignedDuration, Timestamp};

use super::rot::ROTTEN;
use super::{Blobs, Error, blocking, length, lock, staging};
use crate::share::Share;

/// How old a blob is before it counts as one that nobody will name: a site that has uploaded its
/// update may submit it this much later.
pub const ORPHAN_AGE_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The most orphans of a share that are found at once; those beyond wait for the next collection.
const UNNEEDED_MAX: usize = 1 << 16;

/// What nobody needs of a share.
#[derive(Debug, Default)]
pub struct Unneeded {
    /// What no row names and is old.
    pub orphans: Vec<Blob>,
    /// What rows name and nothing needs any more.
    pub spent: Vec<Blob>,
    /// What was found to have changed and was set aside, whenever that was. It is not deleted.
    pub aside: Vec<Digest>,
}

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
    /// The blobs of a share that are not among the `named` ones and are older than [`ORPHAN_AGE_MAX`], and
    /// the `spent` ones, which rows name and nothing needs any more. What somebody was told of lately, and
    /// has not named in a row, is needed until the collection after the next.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn find(
        self: &Arc<Self>,
        share: Share,
        named: HashSet<Digest>,
        spent: HashSet<Digest>,
        now: Timestamp,
    ) -> Result<Unneeded, Error> {
        // The work has a part in the collection, which is not over before the work is, whoever waits.
        let collection = Arc::clone(self);
        blocking(move || {
            let (blobs, mut found) = (&collection.0, Unneeded::default());
            let (first, last) = share.bounds();
            let is_of_share = |folder: &&DirEntry| {
                let name = folder.file_name();
                name.to_str().is_some_and(|name| (&*first..=&*last).contains(&name))
            };
            'looking: for folder in entries(&blobs.root.join("blobs"))?.iter().filter(is_of_share) {
                for entry in entries(&folder.path())? {
                    // What is set aside keeps its other name, and is left to the operator.
                    found.aside.extend(aside(&entry).filter(|digest| share.has(digest)));
                    let Some(digest) = digest(&entry).filter(|digest| share.has(digest)) else {
                        continue;
                    };
                    if !named.contains(&digest) && is_old(&entry, now) {
                        found.orphans.extend(blobs.unclaimed(&digest)?);
                    }
                    if found.orphans.len() == UNNEEDED_MAX {
                        break 'looking;
                    }
                }
            }
            for digest in &spent {
                found.spent.extend(blobs.unclaimed(digest)?);
            }
            Ok(found)
        })
        .await
    }

    /// Deletes what was found, but for what somebody was told of meanwhile.
    ///
    /// # Errors
    /// If the disk fails; what was deleted before that stays deleted.
    pub async fn delete(self: &Arc<Self>, digests: Vec<Digest>) -> Result<Freed, Error> {
        let collection = Arc::clone(self);
        blocking(move || {
            let mut freed = Freed::default();
            for digest in &digests {
                collection.0.delete(digest, &mut freed)?;
            }
            Ok(freed)
        })
        .await
    }

    /// Ends the collection: forgets old parts of uploads, and who was told of what before the last one.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn end(self: Arc<Self>, now: Timestamp) -> Result<(), Error> {
        blocking(move || {
            let blobs = &self.0;
            let mut claims = lock(&blobs.claims);
            claims.older = std::mem::take(&mut claims.newer);
            drop(claims);
            staging::forget_stale(&blobs.staging(), now)
        })
        .await
    }
}

impl Blobs {
    /// Begins a collection.
    pub fn collection(&self) -> Arc<Collection> {
        lock(&self.claims).collections += 1;
        Arc::new(Collection(self.clone()))
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

    /// The blob with this digest, if it is here and nobody was told so lately.
    fn unclaimed(&self, digest: &Digest) -> Result<Option<Blob>, Error> {
        let size = length(&self.path(digest))?.filter(|_| !lock(&self.claims).holds(digest));
        Ok(size.map(|size| Blob { digest: *digest, size }))
    }

    fn delete(&self, digest: &Digest, freed: &mut Freed) -> Result<(), Error> {
        let path = self.path(digest);
        // Held until the file is gone: nobody is told meanwhile that it is here.
        let claims = lock(&self.claims);
        let Some(bytes) = length(&path)?.filter(|_| !claims.holds(digest)) else { return Ok(()) };
        let deleted = reach("blob.delete").and_then(|()| fs::remove_file(&path));
        deleted.map_err(Error::io("delete", &path))?;
        freed.files += 1;
        freed.bytes += bytes;
        Ok(())
    }
}

/// Whether a file is so old that nobody will name it any more.
fn is_old(entry: &DirEntry, now: Timestamp) -> bool {
    let written_at = entry.metadata().and_then(|metadata| metadata.modified());
    let written_at = written_at.ok().and_then(|then| Timestamp::try_from(then).ok());
    // A file from the future, or from before any time there is, is nobody's to judge.
    written_at.is_some_and(|then| now.duration_since(then) > ORPHAN_AGE_MAX)
}

fn digest(entry: &DirEntry) -> Option<Digest> {
    entry.file_name().to_str()?.parse().ok()
}

/// The blob that was set aside as this file, if one was.
fn aside(entry: &DirEntry) -> Option<Digest> {
    let name = entry.file_name();
    name.to_str()?.strip_suffix(ROTTEN)?.strip_suffix('.')?.parse().ok()
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, Error> {
    let read = fs::read_dir(folder).and_then(Iterator::collect);
    read.map_err(Error::io("read the folder", folder))
}
