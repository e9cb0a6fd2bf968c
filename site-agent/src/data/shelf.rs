//! Where prepared cases are fetched from: memory, else the cache on the disk, else their files.
//!
//! A case is known by what its files hold, so a file that changes is another case. What is not kept
//! is made again and is the same, bit for bit.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cache::{Cache, Key};
use super::duplicates::Digests;
use super::exam;
use super::labels::LabelScheme;
use super::layout::Case;
use super::lru::Lru;
use super::mask::Mode;
use super::mask::bank::Shape;
use super::prepared::Prepared;
use super::told::words;

/// Prepared cases take this many bytes of memory or address space at most, unless the caller says
/// less.
pub const OPEN_BYTES_DEFAULT: usize = 2 << 30;

/// The domain of the keys; another format of blocks is another domain.
const DOMAIN: &str = "fedpaint 2026 prepared case v3";

/// Files in a folder that is one scan, such as the slices of a series.
const FOLDER_FILES_MAX: usize = 10_000;

/// Prepared cases, wherever they are.
#[derive(Debug)]
pub struct Shelf {
    cache: Option<Cache>,
    open: Mutex<Lru<[u8; 32], Shared>>,
    /// Digests of files that have not changed since.
    digests: Mutex<BTreeMap<PathBuf, (Stamp, blake3::Hash)>>,
    /// The cases that could be prepared.
    sound: Mutex<BTreeMap<[u8; 32], Arc<Sound>>>,
}

/// What is kept of a case that could be prepared: few kilobytes.
#[derive(Debug)]
struct Sound {
    /// The shapes of its tumour, for either mode, as bytes.
    shapes: Vec<(Mode, Vec<u8>)>,
    digests: Digests,
}

/// A prepared case in use.
#[derive(Clone)]
struct Shared(Arc<Prepared>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a case of {} bytes", self.0.bytes())
    }
}

/// A file's identity, length and times: one that was written to since has another.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

impl Shelf {
    /// An empty shelf over `cache`, that keeps `bytes_max` open.
    pub fn new(cache: Option<Cache>, bytes_max: usize) -> Shelf {
        Shelf {
            cache,
            open: Mutex::new(Lru::new(bytes_max)),
            digests: Mutex::default(),
            sound: Mutex::default(),
        }
    }

    /// A prepared case.
    ///
    /// # Errors
    /// [`exam::Error`] if its files cannot be read, do not fit together, or teach nothing.
    pub fn case(
        &self,
        case: &Case,
        scheme: Option<LabelScheme>,
    ) -> Result<Arc<Prepared>, exam::Error> {
        let key = self.key(case, scheme)?;
        if let Some(Shared(found)) = locked(&self.open).get(key.as_bytes()) {
            return Ok(found);
        }
        let cached = self.cache.as_ref().and_then(|cache| cache.load(&key));
        let found = match cached.and_then(|block| Prepared::open(block).ok()) {
            Some(found) => found,
            None => self.prepare(case, scheme, &key)?,
        };
        let (found, bytes) = (Arc::new(found), key.as_bytes());
        locked(&self.sound).entry(*bytes).or_insert_with(|| Arc::new(Sound::of(&found)));
        locked(&self.open).insert(*bytes, Shared(Arc::clone(&found)), found.bytes());
        Ok(found)
    }

    /// Whether a case can be used; a case found sound before is not opened again.
    ///
    /// # Errors
    /// As [`Shelf::case`].
    pub fn check(&self, case: &Case, scheme: Option<LabelScheme>) -> Result<(), exam::Error> {
        self.sound(case, scheme).map(|_| ())
    }

    /// The shapes of a case's tumour that masks of `mode` may take.
    ///
    /// # Errors
    /// As [`Shelf::case`].
    pub fn shapes(
        &self,
        case: &Case,
        scheme: Option<LabelScheme>,
        mode: Mode,
    ) -> Result<Vec<Shape>, exam::Error> {
        let sound = self.sound(case, scheme)?;
        let of_mode = sound.shapes.iter().filter(|(m, _)| *m == mode);
        Ok(of_mode.filter_map(|(_, bytes)| Shape::from_bytes(bytes).ok()).collect())
    }

    /// The digests of a case's scans, to find one that another case has too.
    ///
    /// # Errors
    /// As [`Shelf::case`].
    pub fn digests(
        &self,
        case: &Case,
        scheme: Option<LabelScheme>,
    ) -> Result<Digests, exam::Error> {
        Ok(self.sound(case, scheme)?.digests.clone())
    }

    /// What is kept of a case, which is opened unless it is known.
    fn sound(&self, case: &Case, scheme: Option<LabelScheme>) -> Result<Arc<Sound>, exam::Error> {
        let key = self.key(case, scheme)?;
        if let Some(known) = locked(&self.sound).get(key.as_bytes()) {
            return Ok(Arc::clone(known));
        }
        Ok(Arc::new(Sound::of(&*self.case(case, scheme)?)))
    }

    fn prepare(
        &self,
        case: &Case,
        scheme: Option<LabelScheme>,
        key: &Key,
    ) -> Result<Prepared, exam::Error> {
        let block = exam::prepare(case, scheme)?;
        if self.key(case, scheme)? != *key {
            return Err(exam::Error::Changed { case: case.name.clone() });
        }
        let stored = self.cache.as_ref().map_or(Ok(false), |cache| cache.store(key, &block));
        if let Err(error) = &stored {
            // The training goes on without: it is slower, not other.
            let error = words(error);
            tracing::warn!("the cache cannot be written: {error}");
        }
        let mapped = match (stored, &self.cache) {
            (Ok(true), Some(cache)) => cache.load(key),
            _ => None,
        };
        Prepared::open(mapped.unwrap_or_else(|| Box::new(block)))
            .map_err(|_| exam::Error::Changed { case: case.name.clone() })
    }

    /// What a case's block is made from: its files' bytes, what they are, what labels mean.
    fn key(&self, case: &Case, scheme: Option<LabelScheme>) -> Result<Key, exam::Error> {
        let mut hasher = blake3::Hasher::new_derive_key(DOMAIN);
        for (&contrast, path) in &case.scans {
            hasher.update(&[contrast as u8]).update(self.digest(path)?.as_bytes());
        }
        if let Some(path) = &case.segmentation {
            let scheme = format!("{scheme:?}");
            hasher.update(&[u8::MAX, scheme.len() as u8]).update(scheme.as_bytes());
            hasher.update(self.digest(path)?.as_bytes());
        }
        Ok(hasher.finalize())
    }

    /// The BLAKE3 digest of a file's bytes; of a folder, that of its files' digests, sorted.
    ///
    /// # Errors
    /// The path, if it does not read.
    pub fn digest(&self, path: &Path) -> Result<blake3::Hash, exam::Error> {
        let located = |error: io::Error| {
            let fault = error.into();
            super::image::Error::from(super::nifti::Error { path: path.to_path_buf(), fault })
                .into()
        };
        let metadata = fs::metadata(path).map_err(located)?;
        if metadata.is_dir() {
            return self.folder_digest(path).map_err(located);
        }
        self.file_digest(path, &metadata).map_err(located)
    }

    fn folder_digest(&self, path: &Path) -> io::Result<blake3::Hash> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            let metadata = fs::metadata(&path)?;
            if metadata.is_file() {
                digests.push(*self.file_digest(&path, &metadata)?.as_bytes());
            }
            if digests.len() > FOLDER_FILES_MAX {
                return Err(io::Error::other("too many files for one scan"));
            }
        }
        digests.sort_unstable();
        Ok(blake3::hash(digests.as_flattened()))
    }

    fn file_digest(&self, path: &Path, metadata: &fs::Metadata) -> io::Result<blake3::Hash> {
        let stamp = stamp(metadata);
        if let Some((seen, digest)) = locked(&self.digests).get(path)
            && *seen == stamp
        {
            return Ok(*digest);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        let digest = hasher.finalize();
        locked(&self.digests).insert(path.to_path_buf(), (stamp, digest));
        Ok(digest)
    }
}

impl Sound {
    fn of(case: &Prepared) -> Sound {
        let of = |mode| case.shapes(mode).into_iter().map(move |shape| (mode, shape.to_bytes()));
        let shapes = [Mode::Corrected, Mode::Compat].into_iter().flat_map(of).collect();
        Sound { shapes, digests: case.digests() }
    }
}

fn stamp(m: &fs::Metadata) -> Stamp {
    (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
