//! The training under way, in the workspace's folder `training`: at most one file, named by its digest.
//!
//! It is there so that a trainer which dies costs some steps and not a round. Whatever is wrong with it
//! costs those steps and nothing else: a disk that fails is told once, a file that is damaged or of
//! another training is ignored, one that the training cannot go on from is dropped, and training begins anew.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::Digest;
use fedpaint_proto::weights::BUFFER_BYTES;

use crate::disk::{Places, write_whole};
use crate::train::snapshot::{Error, Key, Snapshot};
use crate::workspace::{blob_of, training_folder};

const PLACES: Places = Places {
    create: "checkpoint.create",
    write: "checkpoint.write",
    sync: "checkpoint.sync",
    rename: "checkpoint.rename",
    folder: "checkpoint.folder",
};

/// The checkpoints of a workspace.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    /// Whether the last one could not be written, so that a full disk is told once.
    failing: Cell<bool>,
}

impl Checkpoints {
    /// Those of `workspace`.
    pub fn of(workspace: &Path) -> Checkpoints {
        Checkpoints { folder: training_folder(workspace), failing: Cell::new(false) }
    }

    /// Where the training of `key` goes on, if it ever came that far.
    pub fn find(&self, key: &Key) -> Option<Snapshot<Vec<f32>>> {
        let found = self.files().unwrap_or_default().into_iter().filter_map(|path| {
            match load(&path, key) {
                Ok(snapshot) => Some(snapshot),
                Err(error @ Error::Foreign(_)) => {
                    tracing::info!("a checkpoint is not gone on with: {error}");
                    None
                }
                Err(error) => {
                    tracing::warn!("a checkpoint is ignored: {error}");
                    None
                }
            }
        });
        found.max_by_key(Snapshot::steps)
    }

    /// Has `train` go on with the training of `key` from its checkpoint, or begin where there is none. If it
    /// cannot go on from that, as `is_unfit` says of its error, the checkpoint is dropped and it begins too.
    ///
    /// # Errors
    /// Those of `train`.
    pub fn go_on<T, E: std::fmt::Display>(
        &self,
        key: &Key,
        is_unfit: impl FnOnce(&E) -> bool,
        mut train: impl FnMut(Option<Snapshot<Vec<f32>>>) -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(from) = self.find(key) else { return train(None) };
        tracing::info!(step = from.steps(), "the training goes on from its checkpoint");
        match train(Some(from)) {
            Err(error) if is_unfit(&error) => {
                tracing::warn!("{error}; it begins anew");
                if let Err(error) = self.drop_all() {
                    tracing::warn!("the checkpoint cannot be dropped: {error}");
                }
                train(None)
            }
            ended => ended,
        }
    }

    /// Keeps where the training of `key` is, in the place of what was kept before. A failure is for
    /// the log alone: the training does not depend on it.
    pub fn keep<T: AsRef<[f32]>>(&self, key: &Key, snapshot: &Snapshot<T>) {
        match self.write(key, snapshot) {
            Ok(()) => self.failing.set(false),
            Err(error) if self.failing.replace(true) => {
                tracing::debug!("the checkpoint cannot be written: {error}");
            }
            Err(error) => {
                let folder = self.folder.display();
                tracing::warn!(
                    "{folder}: the checkpoint cannot be written, training goes on without: {error}"
                );
            }
        }
    }

    fn write<T: AsRef<[f32]>>(&self, key: &Key, snapshot: &Snapshot<T>) -> io::Result<()> {
        let header = snapshot.header(key)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header);
        snapshot.write_numbers(&mut hasher)?;
        let digest = Digest::from(hasher.finalize());
        let path = self.folder.join(digest.to_string());
        write_whole(&path, &PLACES, |file| {
            file.write_all(&header)?;
            snapshot.write_numbers(file)
        })?;
        reach("checkpoint.drop")?;
        for other in self.files()?.into_iter().filter(|other| *other != path) {
            fs::remove_file(other)?;
        }
        Ok(())
    }

    fn drop_all(&self) -> io::Result<()> {
        reach("checkpoint.drop_unfit")?;
        self.files()?.into_iter().try_for_each(fs::remove_file)
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.path())).collect()
    }
}

/// Reads a checkpoint whose bytes are those that were written.
fn load(path: &Path, key: &Key) -> Result<Snapshot<Vec<f32>>, Error> {
    reach("checkpoint.read")?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let named = name.parse::<Digest>().map_err(|_| Error::Format("it was never whole".into()))?;
    if blob_of(path)?.is_none_or(|blob| blob.digest != named) {
        return Err(Error::Format("its bytes are not those that were written".into()));
    }
    Snapshot::read(&mut BufReader::with_capacity(BUFFER_BYTES, File::open(path)?), key)
}

/// Which build of this program runs: its version and the file it was started from, for another build
/// may round otherwise and then the two halves of a training would not be one.
pub fn build() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let file = std::env::current_exe().and_then(fs::metadata);
    match file.and_then(|file| Ok((file.len(), file.modified()?))) {
        Ok((bytes, changed)) => {
            let since = changed.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            format!("{version} {bytes} {}", since.as_nanos())
        }
        Err(_) => version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::precision::Precision;
    use crate::train::optimiser::Memory;
    use crate::train::report::Course;
    use crate::train::scaling::LossScale;

    fn key(number: u32) -> Key {
        Key {
            run: "brain".parse().unwrap(),
            number,
            site: "mayo".parse().unwrap(),
            plan: Digest::of(b"plan"),
            base: Digest::of(b"base"),
            data: Digest::of(b"scans"),
            machine: "cpu".into(),
            build: build(),
        }
    }

    fn after(steps: usize) -> Snapshot<Vec<f32>> {
        Snapshot {
            course: Course {
                losses: vec![0.5; steps],
                norms: vec![1.0; steps],
                ..Course::default()
            },
            scale: LossScale::new(Precision::F32),
            memory: Memory {
                steps: steps as u32,
                tensors: vec![vec![steps as f32; 100]],
                stock: None,
            },
        }
    }

    fn checkpoints() -> (tempfile::TempDir, Checkpoints) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(folder.path());
        fs::create_dir_all(&checkpoints.folder).unwrap();
        (folder, checkpoints)
    }

    #[test]
    fn the_newest_checkpoint_alone_is_kept_and_found_for_its_training() {
        let (_folder, checkpoints) = checkpoints();
        assert_eq!(checkpoints.find(&key(1)), None);
        for steps in [10, 20] {
            checkpoints.keep(&key(1), &after(steps));
            assert_eq!(checkpoints.find(&key(1)), Some(after(steps)));
            assert_eq!(checkpoints.files().unwrap().len(), 1);
        }
        assert_eq!(checkpoints.find(&key(2)), None);
        checkpoints.keep(&key(2), &after(5));
        assert_eq!(checkpoints.find(&key(1)), None);
        assert_eq!(checkpoints.files().unwrap().len(), 1);
    }

    #[test]
    fn a_crash_between_two_checkpoints_leaves_the_one_with_more_steps() {
        let (folder, checkpoints) = checkpoints();
        checkpoints.keep(&key(1), &after(10));
        let first = checkpoints.files().unwrap().remove(0);
        let copy = folder.path().join("copy");
        fs::copy(&first, &copy).unwrap();
        checkpoints.keep(&key(1), &after(20));
        fs::rename(copy, first).unwrap();
        fs::write(checkpoints.folder.join("half.writing"), b"half").unwrap();
        assert_eq!(checkpoints.find(&key(1)), Some(after(20)));
    }

    #[test]
    fn a_single_flipped_bit_anywhere_is_found_before_use() {
        let (_folder, checkpoints) = checkpoints();
        checkpoints.keep(&key(1), &after(3));
        let path = checkpoints.files().unwrap().remove(0);
        let whole = fs::read(&path).unwrap();
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            assert_eq!(checkpoints.find(&key(1)), None, "bit {bit}");
        }
        fs::write(&path, whole).unwrap();
        assert_eq!(checkpoints.find(&key(1)), Some(after(3)));
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_ends_nothing() {
        let (_folder, checkpoints) = checkpoints();
        fs::remove_dir(&checkpoints.folder).unwrap();
        checkpoints.keep(&key(1), &after(3));
        assert!(checkpoints.failing.get());
        assert_eq!(checkpoints.find(&key(1)), None);
        fs::create_dir(&checkpoints.folder).unwrap();
        checkpoints.keep(&key(1), &after(4));
        assert!(!checkpoints.failing.get());
    }
}
