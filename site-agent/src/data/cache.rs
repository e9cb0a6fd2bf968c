//! Prepared cases on the site's own disk: a folder of blocks named by what they were made from.
//!
//! It may be deleted at any moment and shared by several processes. A block is whole or absent, is
//! used only if its checksum holds, and never takes more room than is allowed. Nothing in it leaves
//! the site.

mod map;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use memmap2::Mmap;

use super::prepared::Block;
use super::told::words;
use crate::failpoint::reach;

/// The folder of blocks inside the one that was named. Another version begins another one.
const FOLDER: &str = "prepared-v1";

/// The first bytes of a block's file.
const MAGIC: &[u8; 8] = b"fedpcas1";

/// Bytes before the block: the magic, its length, its checksum.
const HEAD_BYTES: usize = 8 + 8 + 32;

/// How the files of blocks end.
const EXTENSION: &str = "case";

/// How the names of unfinished files begin.
const UNFINISHED: &str = ".filling-";

/// An unfinished file as old as this is of a process that died.
const UNFINISHED_MAX: Duration = Duration::from_secs(3600);

/// What a block was made from.
pub type Key = blake3::Hash;

/// A folder that cannot be a cache.
#[derive(Debug, thiserror::Error)]
#[error("the cache {}: {source}, name a folder on a local disk that this user may write", path.display())]
pub struct Error {
    /// The folder.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl Error {
    /// The same for a log, which may be sent to others: it names no path.
    pub fn told(&self) -> String {
        let source = words(&self.source);
        format!(
            "the cache, `data.cache`: {source}, name a folder on a local disk that this user may write"
        )
    }
}

/// A cache in use.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    bytes_max: u64,
    /// By the file system's own clock; blocks used since are never evicted.
    opened: SystemTime,
    /// The files whose checksums held, as they were then.
    sound: Mutex<BTreeMap<[u8; 32], Identity>>,
}

/// A file as the system knows it: another one in its place differs.
type Identity = (u64, u64, u64);

impl Cache {
    /// Opens the cache in `folder`, which is made if it is not there, readable by its owner alone.
    ///
    /// # Errors
    /// [`Error`] if the folder cannot be made or written.
    pub fn open(folder: &Path, mib_max: u64) -> Result<Cache, Error> {
        let located = |source| Error { path: folder.to_path_buf(), source };
        let inner = folder.join(FOLDER);
        let make = || {
            reach("cache.make")?;
            DirBuilder::new().recursive(true).mode(0o700).create(&inner)?;
            reach("cache.mode")?;
            fs::set_permissions(&inner, Permissions::from_mode(0o700))?;
            reach("cache.probe")
        };
        make().map_err(located)?;
        let probe = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&inner);
        let opened = probe.and_then(|probe| probe.as_file().metadata()?.modified());
        let opened = opened.map_err(located)?;
        let cache = Cache {
            folder: inner,
            bytes_max: mib_max.saturating_mul(1 << 20),
            opened,
            sound: Mutex::default(),
        };
        cache.sweep();
        Ok(cache)
    }

    /// The block of `key`, mapped. None if there is none, or it is damaged or does not read: then it is
    /// removed.
    pub fn load(&self, key: &Key) -> Option<Block> {
        let path = self.path(key);
        let file = File::open(&path).ok()?;
        match self.check(key, &file) {
            // Such as no address space left: the block is made in memory instead.
            Ok(bytes) => Some(Box::new(Mapped(map::map(&file, bytes).ok()?))),
            Err(error) => {
                tracing::warn!(entry = %key, "an entry of the cache is made again: {error}");
                // Another process may have been faster.
                let _ = reach("cache.remove").and_then(|()| fs::remove_file(&path));
                None
            }
        }
    }

    /// Keeps a block, in place of those not used for longest; false if there is no room for it.
    ///
    /// # Errors
    /// If the disk is full or broken.
    pub fn store(&self, key: &Key, block: &[u8]) -> io::Result<bool> {
        // One block is written at a time, by whatever process, so that the bound holds. The lock is
        // held until its file is closed, when this returns or the process dies.
        let lock = self.folder.with_extension("lock");
        reach("cache.lock")?;
        let lock = File::options().create(true).append(true).open(lock)?;
        lock.lock()?;
        if !self.make_room((block.len() + HEAD_BYTES) as u64)? {
            return Ok(false);
        }
        reach("cache.create")?;
        let mut temporary =
            tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.folder)?;
        let file = temporary.as_file_mut();
        reach("cache.write")?;
        file.write_all(MAGIC)?;
        file.write_all(&(block.len() as u64).to_le_bytes())?;
        file.write_all(blake3::hash(block).as_bytes())?;
        file.write_all(block)?;
        reach("cache.sync")?;
        file.sync_all()?;
        reach("cache.rename")?;
        temporary.persist(self.path(key))?;
        reach("cache.folder")?;
        File::open(&self.folder)?.sync_all()?;
        Ok(true)
    }

    /// Reads a file once, so that a disk that has lost a part of it says so here and not by a signal
    /// where the map is used. Gives its length.
    fn check(&self, key: &Key, file: &File) -> io::Result<u64> {
        let metadata = file.metadata()?;
        let identity = (metadata.ino(), metadata.len(), metadata.dev());
        let lock = || self.sound.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().get(key.as_bytes()) != Some(&identity) {
            check(file, metadata.len())?;
            lock().insert(*key.as_bytes(), identity);
            // Used last now; an entry that cannot be touched is merely evicted sooner.
            let _ = file.set_modified(self.opened);
        }
        Ok(metadata.len())
    }

    /// Removes what was used least recently until `bytes` more fit, but nothing used since the cache
    /// was opened: a cohort larger than the cache would otherwise write it all again every round.
    fn make_room(&self, bytes: u64) -> io::Result<bool> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            // Another process may have removed it meanwhile.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let is_block = path.extension().is_some_and(|e| e == EXTENSION);
            let used = metadata.modified()?;
            entries.push((used, path, metadata.len(), is_block));
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, _, bytes, _)| bytes).sum();
        for (used, path, length, is_block) in entries {
            if total.saturating_add(bytes) <= self.bytes_max {
                break;
            }
            let remove = || reach("cache.drop").and_then(|()| fs::remove_file(path));
            if is_block && used < self.opened && remove().is_ok() {
                total -= length;
            }
        }
        Ok(total.saturating_add(bytes) <= self.bytes_max)
    }

    /// Removes what processes that died have left half-written.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let unfinished = entry.file_name().to_string_lossy().starts_with(UNFINISHED);
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            let age = written.ok().and_then(|at| self.opened.duration_since(at).ok());
            if unfinished && age.is_some_and(|age| age > UNFINISHED_MAX) {
                // It is in nobody's way but the disk's.
                let _ = reach("cache.sweep").and_then(|()| fs::remove_file(entry.path()));
            }
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{key}.{EXTENSION}"))
    }
}

/// Reads the `bytes` of a block's file and compares them with what its head says.
fn check(mut file: impl Read, bytes: u64) -> io::Result<()> {
    let mut head = [0; HEAD_BYTES];
    file.read_exact(&mut head)?;
    let length = head[8..16].try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    let is_whole = head[..8] == *MAGIC
        && length > 0
        && Some(length) == bytes.checked_sub(HEAD_BYTES as u64)
        && hasher.count() == length
        && head[16..] == *hasher.finalize().as_bytes();
    is_whole.then_some(()).ok_or_else(|| io::Error::other("its bytes are not those written"))
}

/// A mapped file as the block that follows its head.
struct Mapped(Mmap);

impl std::ops::Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.get(HEAD_BYTES..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
