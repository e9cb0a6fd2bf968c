//! The data folder's lock: one process at a time writes below it. Its file also says who held the
//! database's lease last, and who held the lock last and may have taken it: whoever holds the lock now
//! knows that those are dead, so that a restart need not wait until their lease ends.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tracing::warn;

use crate::store::Holder;

/// The file whose lock says that the data folder is in use.
const LOCK_FILE: &str = "coordinator.lock";

/// The longest lock file that is read; two holders take far less.
const LOCK_BYTES_MAX: u64 = 64 << 10;

/// Why the data folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be made, read or written.
    #[error("cannot use the data folder {}: {source}", path.display())]
    Io {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("another coordinator is using the data folder {}; stop it first", path.display())]
    Busy {
        /// Which folder.
        path: PathBuf,
    },
}

/// A data folder that is ours until this is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: File,
    /// Who held it before: the holder of the lease, and who tried to become it. They are dead.
    dead: Vec<Holder>,
}

impl Folder {
    /// Makes the folder and takes its lock.
    ///
    /// # Errors
    /// If it cannot be made, or another process has it.
    pub fn take(path: &Path) -> Result<Folder, Error> {
        let fail = |source| Error::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(fail)?;
        // What the file holds is read below, so it is not emptied here.
        let options =
            File::options().create(true).truncate(false).read(true).write(true).to_owned();
        let mut lock = options.open(path.join(LOCK_FILE)).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        let mut text = String::new();
        // A lock file of an older version is empty; one that does not read only costs time.
        let _ = (&mut lock).take(LOCK_BYTES_MAX).read_to_string(&mut text);
        let dead = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Folder { path: path.to_owned(), lock, dead })
    }

    /// Who held the folder before, and is dead.
    pub fn dead(&self) -> &[Holder] {
        &self.dead
    }

    /// Who this process is, as a holder of the lease from `since` on. It is noted before the lease is
    /// taken, because a crash may come between the two; and if it is not taken, whoever `held` it until
    /// now and is dead still does, so that one stays noted too, however often a start fails.
    pub fn holder(&mut self, since: Timestamp, held: Option<&Holder>) -> Holder {
        let folder = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = folder.display().to_string();
        let holder = Holder { host: host(), pid: std::process::id(), folder, since };
        let held = held.filter(|held| self.dead.contains(held));
        if let Err(error) = self.note(held, &holder) {
            warn!(%error, "cannot note the lease in the data folder: a restart may have to wait for its end");
        }
        holder
    }

    fn note(&mut self, held: Option<&Holder>, holder: &Holder) -> io::Result<()> {
        let mut text = String::new();
        for holder in held.into_iter().chain([holder]) {
            text += &serde_json::to_string(holder)?;
            text.push('\n');
        }
        self.lock.rewind()?;
        self.lock.set_len(0)?;
        self.lock.write_all(text.as_bytes())?;
        self.lock.sync_all()
    }
}

/// What this machine calls itself.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    match name.trim() {
        "" => "an unnamed machine".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_who_knows_the_last_holder_of_the_lease_however_many_starts_failed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = Folder::take(&path).unwrap().holder(at(0), None);
        let mut last = None;
        for second in 1..5 {
            let mut folder = Folder::take(&path).unwrap();
            assert!(matches!(Folder::take(&path), Err(Error::Busy { .. })));
            let known: Vec<Holder> = [first.clone()].into_iter().chain(last).collect();
            assert_eq!(folder.dead(), known);
            // The lease is not taken: the next one has to know that both are dead.
            last = Some(folder.holder(at(second), Some(&first)));
        }
        // It was taken after all, just before the process died.
        let mut folder = Folder::take(&path).unwrap();
        let next = folder.holder(at(5), last.as_ref());
        drop(folder);
        assert_eq!(Folder::take(&path).unwrap().dead(), [last.unwrap(), next]);
        // A stranger's lease is none that this folder can speak for.
        let stranger = Holder { pid: 1, host: "elsewhere".into(), ..first };
        let mut folder = Folder::take(&path).unwrap();
        let own = folder.holder(at(6), Some(&stranger));
        drop(folder);
        assert_eq!(Folder::take(&path).unwrap().dead(), [own]);
        fs::write(path.join(LOCK_FILE), "not a holder").unwrap();
        assert_eq!(Folder::take(&path).unwrap().dead(), []);
    }
}
