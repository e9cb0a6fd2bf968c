//! The coordinator's directory of blobs, as a model: parts of uploads and named blobs, what of them
//! a power loss leaves, and a disk that is full.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use fedpaint_coordinator::blobs::Error;
use fedpaint_proto::names::{Blob, Digest};

use super::dice::Dice;

/// A file: its bytes, and how many of them a power loss leaves.
#[derive(Clone, Debug, Default)]
struct File {
    bytes: Vec<u8>,
    synced: usize,
}

/// The directory.
#[derive(Debug, Default)]
pub struct Disk {
    /// Whether nothing can be written.
    pub full: bool,
    /// The bug to be found: an upload is named, and its receipt given, before its bytes are synced.
    names_before_sync: bool,
    parts: BTreeMap<(usize, Digest), File>,
    blobs: BTreeMap<Digest, File>,
    damaged: BTreeSet<Digest>,
}

impl Disk {
    /// An empty directory, with the bug or without.
    pub fn new(names_before_sync: bool) -> Disk {
        Disk { names_before_sync, ..Disk::default() }
    }

    /// How much of a blob is here for a site, and whether it is whole.
    pub fn status(&self, site: usize, digest: &Digest) -> (u64, bool) {
        match (self.blobs.get(digest), self.parts.get(&(site, *digest))) {
            (Some(blob), _) => (blob.bytes.len() as u64, true),
            (None, Some(part)) => (part.bytes.len() as u64, false),
            (None, None) => (0, false),
        }
    }

    /// Appends a piece of a site's upload at `offset`; the last one has the blob hashed, synced and
    /// named. Gives the committed size.
    ///
    /// # Errors
    /// As the real directory.
    pub fn append(
        &mut self,
        site: usize,
        blob: &Blob,
        offset: u64,
        piece: &[u8],
    ) -> Result<u64, Error> {
        let (committed_size, complete) = self.status(site, &blob.digest);
        if offset != committed_size {
            return Err(Error::WrongOffset { committed_size });
        }
        if complete {
            return Ok(committed_size);
        }
        self.has_space("write")?;
        let key = (site, blob.digest);
        let part = self.parts.entry(key).or_default();
        part.bytes.extend_from_slice(piece);
        let committed = part.bytes.len() as u64;
        if committed < blob.size {
            return Ok(committed);
        }
        let part = self.parts.remove(&key).unwrap_or_default();
        if Digest::of(&part.bytes) != blob.digest {
            return Err(Error::WrongDigest(blob.digest));
        }
        let synced = !self.names_before_sync;
        self.name(blob.digest, part, synced);
        Ok(committed)
    }

    /// Names what the coordinator wrote itself.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn adopt(&mut self, bytes: &[u8]) -> Result<Blob, Error> {
        self.has_space("write")?;
        let blob = Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
        self.name(blob.digest, File { bytes: bytes.to_vec(), synced: 0 }, true);
        Ok(blob)
    }

    /// The bytes of a blob, if it is here.
    pub fn read(&self, digest: &Digest) -> Option<&[u8]> {
        self.blobs.get(digest).map(|file| file.bytes.as_slice())
    }

    /// The bytes of a blob, if it is here and they are what its digest says.
    pub fn read_whole(&self, digest: &Digest) -> Option<&[u8]> {
        self.read(digest).filter(|bytes| Digest::of(bytes) == *digest)
    }

    /// Sets a blob aside that was found damaged, so that nobody uses it and it can come again.
    pub fn set_aside(&mut self, digest: &Digest) {
        self.blobs.remove(digest);
    }

    /// Flips a bit in one of the blobs; gives which.
    pub fn flip(&mut self, pick: u64) -> Option<Digest> {
        let place = usize::try_from(pick).unwrap_or(0) % self.blobs.len().max(1);
        let (digest, file) = self.blobs.iter_mut().nth(place)?;
        *file.bytes.first_mut()? ^= 1;
        self.damaged.insert(*digest);
        Some(*digest)
    }

    /// Whether a bit of the blob was flipped, and it has not come again.
    pub fn is_damaged(&self, digest: &Digest) -> bool {
        self.damaged.contains(digest)
    }

    /// Takes away what was not synced: an end of a part is missing or is zeros, and so is an end of a
    /// blob that was named too early.
    pub fn lose_power(&mut self, dice: &mut Dice) {
        for file in self.parts.values_mut().chain(self.blobs.values_mut()) {
            let unsynced = (file.bytes.len() - file.synced) as u64;
            if unsynced == 0 {
                continue;
            }
            let kept = file.synced + usize::try_from(dice.below(unsynced + 1)).unwrap_or(0);
            if dice.percent(50) {
                file.bytes.truncate(kept);
            } else {
                file.bytes[kept..].fill(0);
            }
            file.synced = file.bytes.len();
        }
    }

    fn name(&mut self, digest: Digest, mut file: File, synced: bool) {
        if synced {
            file.synced = file.bytes.len();
        }
        self.damaged.remove(&digest);
        self.blobs.insert(digest, file);
    }

    fn has_space(&self, what: &'static str) -> Result<(), Error> {
        if !self.full {
            return Ok(());
        }
        let source = io::Error::from(io::ErrorKind::StorageFull);
        Err(Error::Io { what, path: PathBuf::from("blobs"), source })
    }
}
