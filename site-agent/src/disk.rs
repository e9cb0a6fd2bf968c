//! Files that are whole or not there, and how long a disk that fails is waited for.
//!
//! Nothing here knows what is written. What fails on the way to the disk is never trusted: it is
//! removed, and the caller writes it anew.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::hashed::Hashed;
use fedpaint_proto::names::Blob;
use fedpaint_proto::weights::sync_folder;
use fedpaint_proto::writeback::Writeback;

/// How long to wait before a disk that failed is tried again: room may have been made.
pub const RETRY_WAIT: Duration = Duration::from_secs(2);

/// How often, so that a disk which does not come back in half an hour ends the round.
pub const RETRIES_MAX: u32 = 900;

/// The places where a test may break the writing of one kind of file, see
/// [`fedpaint_proto::failpoint`].
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Before the temporary file is made.
    pub create: &'static str,
    /// Before it is written.
    pub write: &'static str,
    /// Before it is brought to the disk.
    pub sync: &'static str,
    /// Before it is given its name.
    pub rename: &'static str,
    /// Before its name is brought to the disk.
    pub folder: &'static str,
}

/// Has `fill` write a file beside `path`, brings it to the disk and gives it the name `path`.
///
/// # Errors
/// If the disk fails; then nothing half-written is left, and `path` is what it was, or the new file
/// whole.
pub fn write_whole(
    path: &Path,
    places: &Places,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary_of(path);
    let written = written(&temporary, path, places, fill);
    if written.is_err() {
        // A file whose sync failed may read well now and not after a power cut. If even this fails,
        // the next writing empties it first.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn written(
    temporary: &Path,
    path: &Path,
    places: &Places,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    reach(places.create)?;
    let mut file = Writeback::new(File::create(temporary)?, 0);
    reach(places.write)?;
    fill(&mut file)?;
    file.flush()?;
    reach(places.sync)?;
    file.whole()?.sync_all()?;
    reach(places.rename)?;
    fs::rename(temporary, path)?;
    // The rename is durable once the folder is.
    reach(places.folder)?;
    sync_folder(path)
}

/// Has `fill` write a file called `making` in `folder`, which then has the digest of its bytes for a name. It
/// is whole and not yet on the disk: whoever reads it again compares the digest, and trusts no name.
///
/// # Errors
/// If the disk fails; then there is no such file.
pub fn write_by_digest(
    folder: &Path,
    making: &str,
    [create, write, rename]: [&'static str; 3],
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<Blob> {
    let temporary = folder.join(making);
    let written = || {
        reach(create)?;
        let mut file = Hashed::new(File::create(&temporary)?);
        reach(write)?;
        fill(&mut file)?;
        let (_, blob) = file.whole()?;
        reach(rename)?;
        fs::rename(&temporary, folder.join(blob.digest.to_string()))?;
        Ok(blob)
    };
    written().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Where a file is while it is not whole.
fn temporary_of(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".writing");
    PathBuf::from(temporary)
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::disk::may_pass;
    use fedpaint_proto::names::Digest;
    use fedpaint_proto::weights::BUFFER_BYTES;
    use rustix::io::Errno;

    use super::*;

    const PLACES: Places = Places {
        create: "a.create",
        write: "a.write",
        sync: "a.sync",
        rename: "a.rename",
        folder: "a.folder",
    };

    #[test]
    fn a_file_that_could_not_be_written_leaves_what_was_there_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        write_whole(&path, &PLACES, |file| file.write_all(b"first")).unwrap();
        let full = |file: &mut dyn Write| {
            file.write_all(b"sec")?;
            Err(Errno::NOSPC.into())
        };
        let error = write_whole(&path, &PLACES, full).unwrap_err();
        assert!(may_pass(&error));
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_by_digest_has_the_digest_of_its_bytes_for_a_name_or_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let places = ["a.create", "a.write", "a.rename"];
        let full = |file: &mut dyn Write| {
            file.write_all(b"sec")?;
            Err(Errno::NOSPC.into())
        };
        write_by_digest(folder.path(), "made", places, full).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let bytes = vec![7; 3 * BUFFER_BYTES + 5];
        let fill = |file: &mut dyn Write| bytes.chunks(1_000).try_for_each(|c| file.write_all(c));
        let blob = write_by_digest(folder.path(), "made", places, fill).unwrap();
        assert_eq!(blob, Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 });
        assert_eq!(fs::read(folder.path().join(blob.digest.to_string())).unwrap(), bytes);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
