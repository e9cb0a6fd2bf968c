//! The data folder's lock: one process at a time writes below it. Its file also says who held the
//! database's lease last, and who held the lock last and may have taken it: whoever holds the lock now
//! knows that those are dead, so that a restart need not wait until their lease ends. Its last line is
//! whoever holds the lock, for who comes meanwhile.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fedpaint_proto::failpoint::reach;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
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
    #[error("{} the data folder {}; stop it first", using(user.as_deref()), path.display())]
    Busy {
        /// Which folder.
        path: PathBuf,
        /// Who, where its lock says so; a `restore` under way does not.
        user: Option<Box<Holder>>,
    },
}

fn using(user: Option<&Holder>) -> String {
    match user {
        Some(Holder { host, pid, since, .. }) => {
            format!("the coordinator with process id {pid} on {host} has since {since} been using")
        }
        None => "another process is using".to_owned(),
    }
}

/// Who uses the folder and has not tried to take the lease yet: a line that is no [`Holder`].
#[derive(Serialize, Deserialize)]
struct User {
    user: Holder,
}

/// A data folder that is ours until this is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: File,
    /// Who held it before: the holder of the lease, and who tried to become it. They are dead.
    dead: Vec<Holder>,
    /// How many bytes of the lock's file those are.
    dead_bytes: u64,
    /// Who this process is, once it has said so.
    own: Option<Holder>,
}

impl Folder {
    /// Makes the folder and takes its lock.
    ///
    /// # Errors
    /// If it cannot be made, or another process has it.
    pub fn take(path: &Path) -> Result<Folder, Error> {
        let fail = |source| Error::Io { path: path.to_owned(), source };
        reach("folder.make").and_then(|()| fs::create_dir_all(path)).map_err(fail)?;
        // What the file holds is read below, so it is not emptied here.
        let options =
            File::options().create(true).truncate(false).read(true).write(true).to_owned();
        let lock = reach("folder.lock").and_then(|()| options.open(path.join(LOCK_FILE)));
        let lock = lock.map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(path, &lock)),
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        let text = read(&lock);
        let dead = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let whole =
            |line: &&str| line.ends_with('\n') && serde_json::from_str::<Holder>(line).is_ok();
        let dead_bytes = text.split_inclusive('\n').take_while(whole).map(str::len).sum::<usize>();
        let (path, dead_bytes) = (path.to_owned(), dead_bytes as u64);
        Ok(Folder { path, lock, dead, dead_bytes, own: None })
    }

    /// Why the folder cannot be taken, where another process has it; nothing is made or written.
    pub fn taken(path: &Path) -> Option<Error> {
        let lock = File::open(path.join(LOCK_FILE)).ok()?;
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(busy(path, &lock)),
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }

    /// Says to whoever comes meanwhile that this process has used the folder since `since`.
    pub fn announce(&mut self, since: Timestamp) {
        let user = User { user: self.own(since) };
        let written = serde_json::to_string(&user).map_err(io::Error::from).and_then(|mut text| {
            text.push('\n');
            reach("folder.announce")?;
            // Who is dead stays noted, whether or not there is room for more.
            self.lock.set_len(self.dead_bytes)?;
            self.lock.seek(SeekFrom::Start(self.dead_bytes))?;
            reach("folder.announce_write")?;
            self.lock.write_all(text.as_bytes())
        });
        if let Err(error) = written {
            warn!(%error, "cannot say in the data folder who uses it");
        }
    }

    /// Who this process is, as a holder of the lease, and who is dead: also itself, which may try again
    /// what has failed. It is noted before the lease is taken, because a crash may come between the two;
    /// and if it is not taken, whoever `held` it until now and is dead still does, so that one stays noted
    /// too, however often a start fails.
    pub fn holder(&mut self, now: Timestamp, held: Option<&Holder>) -> (Holder, Vec<Holder>) {
        let holder = self.own(now);
        let held = held.filter(|held| self.dead.contains(held)).cloned();
        if let Err(error) = self.note(held.as_ref(), &holder) {
            warn!(%error, "cannot note the lease in the data folder: a restart may have to wait for its end");
        }
        let dead = [&self.dead[..], std::slice::from_ref(&holder)].concat();
        (holder, dead)
    }

    /// Who this process is, from the first time on that it was asked.
    fn own(&mut self, now: Timestamp) -> Holder {
        if let Some(own) = &self.own {
            return own.clone();
        }
        let folder = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = folder.display().to_string();
        let own = Holder { host: host(), pid: std::process::id(), folder, since: now };
        self.own.insert(own).clone()
    }

    fn note(&mut self, held: Option<&Holder>, holder: &Holder) -> io::Result<()> {
        let mut text = String::new();
        for holder in held.into_iter().chain([holder]) {
            text += &serde_json::to_string(holder)?;
            text.push('\n');
        }
        reach("folder.note")?;
        self.lock.rewind()?;
        // Written over what was there and cut to its length only then: whoever dies in between leaves what who
        // comes next reads, and a disk that is full takes it where it has taken as much before.
        self.lock.write_all(text.as_bytes())?;
        reach("folder.note_cut")?;
        self.lock.set_len(text.len() as u64)?;
        reach("folder.note_sync")?;
        self.lock.sync_all()
    }
}

/// What a lock's file holds. That of an older version may be empty; one that does not read only costs time.
fn read(lock: &File) -> String {
    let mut text = String::new();
    let _ = lock.take(LOCK_BYTES_MAX).read_to_string(&mut text);
    text
}

/// Another process has the folder: the one of the last line, which is a holder's once the lease was taken.
fn busy(path: &Path, lock: &File) -> Error {
    let text = read(lock);
    let user = text.lines().last().and_then(|line| {
        let user = serde_json::from_str(line).map(|User { user }| user);
        user.or_else(|_| serde_json::from_str(line)).ok()
    });
    Error::Busy { path: path.to_owned(), user: user.map(Box::new) }
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
        let (first, dead) = Folder::take(&path).unwrap().holder(at(0), None);
        assert_eq!(dead, std::slice::from_ref(&first), "it may try again");
        let mut last = None;
        for second in 1..5 {
            let mut folder = Folder::take(&path).unwrap();
            folder.announce(at(second));
            assert!(matches!(Folder::take(&path), Err(Error::Busy { .. })));
            let known: Vec<Holder> = [first.clone()].into_iter().chain(last).collect();
            assert_eq!(folder.dead, known);
            // The lease is not taken: the next one has to know that both are dead.
            last = Some(folder.holder(at(second + 100), Some(&first)).0);
            assert_eq!(last.as_ref().map(|last| last.since), Some(at(second)));
        }
        // It was taken after all, just before the process died.
        let mut folder = Folder::take(&path).unwrap();
        let (next, _) = folder.holder(at(5), last.as_ref());
        drop(folder);
        assert_eq!(Folder::take(&path).unwrap().dead, [last.unwrap(), next]);
        // A stranger's lease is none that this folder can speak for.
        let stranger = Holder { pid: 1, host: "elsewhere".into(), ..first };
        let mut folder = Folder::take(&path).unwrap();
        let (own, _) = folder.holder(at(6), Some(&stranger));
        drop(folder);
        assert_eq!(Folder::take(&path).unwrap().dead, [own]);
        fs::write(path.join(LOCK_FILE), "not a holder").unwrap();
        assert_eq!(Folder::take(&path).unwrap().dead, []);
    }

    #[test]
    fn who_dies_while_it_notes_itself_leaves_a_note_that_tells_of_all_who_are_dead() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let at = |second| Timestamp::from_second(second).unwrap();
        let (first, _) = Folder::take(&path).unwrap().holder(at(0), None);
        let mut folder = Folder::take(&path).unwrap();
        folder.announce(at(1));
        let before = fs::read_to_string(path.join(LOCK_FILE)).unwrap();
        let (second, _) = folder.holder(at(2), Some(&first));
        drop(folder);
        let after = fs::read_to_string(path.join(LOCK_FILE)).unwrap();
        // Died before the rest of what was there was cut off, which here is longer.
        let longer = format!("{before}{before}");
        let torn = format!("{after}{}", &longer[after.len()..]);
        fs::write(path.join(LOCK_FILE), torn).unwrap();
        let mut folder = Folder::take(&path).unwrap();
        assert!(folder.dead.contains(&first) && folder.dead.contains(&second), "{:?}", folder.dead);
        // What is left of it is in nobody's way.
        let (third, _) = folder.holder(at(3), Some(&first));
        drop(folder);
        assert_eq!(Folder::take(&path).unwrap().dead, [first, third]);
    }

    #[test]
    fn who_comes_to_a_folder_that_is_in_use_hears_who_uses_it_and_the_dead_stay_known() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(Folder::taken(&path).is_none() && !path.exists(), "a look makes nothing");
        let (first, _) = Folder::take(&path).unwrap().holder(at(0), None);
        assert!(Folder::taken(&path).is_none());
        // Starts that fail before they come to the lease leave nothing behind.
        for second in 1..4 {
            let mut folder = Folder::take(&path).unwrap();
            assert_eq!(folder.dead, std::slice::from_ref(&first));
            folder.announce(at(second));
            let told = Folder::take(&path).unwrap_err().to_string();
            assert_eq!(Folder::taken(&path).unwrap().to_string(), told);
            let who = format!("process id {} on {}", std::process::id(), first.host);
            assert!(told.contains(&who), "{told}");
            assert!(told.contains(&format!("since {}", at(second))), "{told}");
            assert!(told.contains(&path.display().to_string()), "{told}");
        }
        let mut folder = Folder::take(&path).unwrap();
        folder.announce(at(4));
        folder.holder(at(5), Some(&first));
        let told = Folder::take(&path).unwrap_err().to_string();
        assert!(told.contains(&format!("since {}", at(4))), "{told}");
        drop(folder);
        // Who says nothing, as `restore`, is only there.
        fs::remove_file(path.join(LOCK_FILE)).unwrap();
        let _folder = Folder::take(&path).unwrap();
        let told = Folder::take(&path).unwrap_err().to_string();
        assert!(told.starts_with("another process is using the data folder"), "{told}");
    }
}
