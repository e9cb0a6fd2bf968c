//! A certificate and its key as two files that are replaced together: a process that dies in between
//! leaves the old pair or the new one, never one of each.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
        fs::rename(next(certificate), certificate)?;
        sync_folder(certificate)?;
        fs::rename(next(key), key)?;
        sync_folder(key)
    }

    /// As [`settle`].
    ///
    /// # Errors
    /// As there.
    pub fn settle(&self) -> io::Result<()> {
        let (certificate, key) = (next(&self.files.certificate), next(&self.files.key));
        if certificate.try_exists()? {
            // Nothing was replaced yet.
            fs::remove_file(&certificate)?;
            if key.try_exists()? {
                fs::remove_file(&key)?;
            }
        } else if key.try_exists()? {
            fs::rename(&key, &self.files.key)?;
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
        fs::remove_file(&new)?;
    }
    write(&new, &pem, KEY_MODE)?;
    fs::rename(&new, path)?;
    sync_folder(path)
}

/// Writes a certificate under a name that has none, or another one.
///
/// # Errors
/// If the disk fails; then what was there is there still.
pub fn write_certificate(path: &Path, pem: &str) -> io::Result<()> {
    let next = next(path);
    if next.try_exists()? {
        fs::remove_file(&next)?;
    }
    write(&next, pem, CERTIFICATE_MODE)?;
    fs::rename(&next, path)?;
    sync_folder(path)
}

fn write(path: &Path, pem: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file: File = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()
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
