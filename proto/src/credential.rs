//! A certificate and its key as two files that are replaced together: a process that dies in between
//! leaves the old pair or the new one, never one of each.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::failpoint::reach;
use crate::passphrase;
use crate::tls::TlsFiles;
use crate::weights::sync_folder;

/// Everybody may read a certificate.
const CERTIFICATE_MODE: u32 = 0o644;

/// Nobody but its owner may read a key.
const KEY_MODE: u32 = 0o600;

/// A certificate and its key, which no other process replaces or settles while this is held.
#[derive(Debug)]
pub struct Held<'a> {
    files: &'a TlsFiles,
    /// The certificate's folder, locked until this is dropped: it leaves no file behind, and a process
    /// that dies gives it back.
    _folder: File,
}

/// Waits for whoever else replaces the certificate and its key, which takes them a moment.
///
/// # Errors
/// If the certificate's folder cannot be read or locked.
pub fn hold(files: &TlsFiles) -> io::Result<Held<'_>> {
    let folder = files.certificate.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new(".")))?;
    folder.lock()?;
    Ok(Held { files, _folder: folder })
}

/// Puts a certificate and its key into the places of those in `files`.
///
/// # Errors
/// If the disk fails; then the old pair is there still, or [`settle`] finishes the work.
pub fn replace(files: &TlsFiles, certificate_pem: &str, key_pem: &str) -> io::Result<()> {
    hold(files)?.replace(certificate_pem, key_pem)
}

/// Finishes what a process that died has left of [`replace`]; does nothing where nothing was left.
///
/// # Errors
/// If the disk fails.
pub fn settle(files: &TlsFiles) -> io::Result<()> {
    // A folder that may only be read has nothing to settle.
    match next(&files.certificate).try_exists()? || next(&files.key).try_exists()? {
        true => hold(files)?.settle(),
        false => Ok(()),
    }
}

impl Held<'_> {
    /// As [`replace`].
    ///
    /// # Errors
    /// As there.
    pub fn replace(&self, certificate_pem: &str, key_pem: &str) -> io::Result<()> {
        self.settle()?;
        let (certificate, key) = (&self.files.certificate, &self.files.key);
        write(&next(certificate), certificate_pem, CERTIFICATE_MODE)?;
        // From here on the new pair is whole. The certificate goes first, so that a key that waits alone
        // says that it belongs to the certificate which is there.
        let key_pem = passphrase::seal(key_pem).map_err(io::Error::other)?;
        write(&next(key), &key_pem, KEY_MODE)?;
        name(&next(certificate), certificate)?;
        name(&next(key), key)
    }

    /// As [`settle`].
    ///
    /// # Errors
    /// As there.
    pub fn settle(&self) -> io::Result<()> {
        let (certificate, key) = (next(&self.files.certificate), next(&self.files.key));
        if certificate.try_exists()? {
            // Nothing was replaced yet. The key goes first: alone it would be taken for that of the certificate
            // which is there, by whoever settles after a process that died here too.
            if key.try_exists()? {
                remove(&key)?;
            }
            remove(&certificate)?;
        } else if key.try_exists()? {
            name(&key, &self.files.key)?;
        }
        Ok(())
    }
}

/// Writes a new key, readable by its owner alone from the first byte on, and encrypted if the environment
/// has a passphrase ([`passphrase::VARIABLE`]). It is there whole or not at all.
///
/// # Errors
/// If the file is there, or the disk fails.
pub fn write_key(path: &Path, pem: &str) -> io::Result<()> {
    let pem = passphrase::seal(pem).map_err(io::Error::other)?;
    if path.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // Not the name of a key that waits for its certificate, which `settle` would take it for.
    let new = beside(path, ".new");
    if new.try_exists()? {
        remove(&new)?;
    }
    write(&new, &pem, KEY_MODE)?;
    name(&new, path)
}

/// Writes a certificate under a name that has none, or another one.
///
/// # Errors
/// If the disk fails; then what was there is there still.
pub fn write_certificate(path: &Path, pem: &str) -> io::Result<()> {
    let next = next(path);
    if next.try_exists()? {
        remove(&next)?;
    }
    write(&next, pem, CERTIFICATE_MODE)?;
    name(&next, path)
}

fn write(path: &Path, pem: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    reach("credential.create")?;
    let mut file: File = options.write(true).create_new(true).mode(mode).open(path)?;
    reach("credential.write")?;
    file.write_all(pem.as_bytes())?;
    reach("credential.sync")?;
    file.sync_all()
}

/// Gives a file that is whole and on the disk its name, for good.
fn name(made: &Path, path: &Path) -> io::Result<()> {
    reach("credential.rename")?;
    fs::rename(made, path)?;
    reach("credential.folder")?;
    sync_folder(path)
}

/// Removes what a process that died has left.
fn remove(left: &Path) -> io::Result<()> {
    reach("credential.remove")?;
    fs::remove_file(left)
}

/// Where a file waits to take the place of `path`.
fn next(path: &Path) -> PathBuf {
    beside(path, ".next")
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files(folder: &Path) -> TlsFiles {
        let file = |name: &str| folder.join(name);
        let files = TlsFiles { ca: file("ca"), certificate: file("c.pem"), key: file("c.key") };
        fs::write(&files.certificate, "old certificate").unwrap();
        fs::write(&files.key, "old key").unwrap();
        files
    }

    fn held(files: &TlsFiles) -> (String, String) {
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        (read(&files.certificate), read(&files.key))
    }

    #[test]
    fn a_pair_is_replaced_and_only_the_owner_reads_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        replace(&files, "new certificate", "new key").unwrap();
        assert_eq!(held(&files), ("new certificate".into(), "new key".into()));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&files.certificate), mode(&files.key)), (0o644, 0o600));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_process_that_dies_in_between_leaves_the_old_pair_or_the_new_one() {
        let (old, new) = (("old certificate", "old key"), ("new certificate", "new key"));
        for (steps, left) in [(1, old), (2, old), (3, new), (4, new)] {
            let folder = tempfile::tempdir().unwrap();
            let files = files(folder.path());
            write(&next(&files.certificate), "new certificate", CERTIFICATE_MODE).unwrap();
            if steps > 1 {
                write(&next(&files.key), "new key", KEY_MODE).unwrap();
            }
            if steps > 2 {
                fs::rename(next(&files.certificate), &files.certificate).unwrap();
            }
            if steps > 3 {
                fs::rename(next(&files.key), &files.key).unwrap();
            }
            settle(&files).unwrap();
            assert_eq!(held(&files), (left.0.into(), left.1.into()), "after {steps} steps");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn who_dies_while_it_settles_leaves_no_key_that_the_next_one_would_take_for_the_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        write(&next(&files.key), "new key", KEY_MODE).unwrap();
        // No file, so that the certificate that waits cannot be removed: settling ends there.
        fs::create_dir(next(&files.certificate)).unwrap();
        settle(&files).unwrap_err();
        fs::remove_dir(next(&files.certificate)).unwrap();
        settle(&files).unwrap();
        assert_eq!(held(&files), ("old certificate".into(), "old key".into()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_new_key_takes_no_keys_place_and_what_died_half_written_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let error = write_key(&files.key, "new key").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(&files.key).unwrap();
        write(&beside(&files.key, ".new"), "new k", KEY_MODE).unwrap();
        settle(&files).unwrap();
        assert!(!files.key.exists());
        write_key(&files.key, "new key").unwrap();
        assert_eq!(held(&files).1, "new key");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn while_one_process_replaces_a_pair_another_waits() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let first = hold(&files).unwrap();
        let other = File::open(folder.path()).unwrap();
        assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
        first.replace("new certificate", "new key").unwrap();
        drop(first);
        other.try_lock().unwrap();
        assert_eq!(held(&files), ("new certificate".into(), "new key".into()));
    }
}
