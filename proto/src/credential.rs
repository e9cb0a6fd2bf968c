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

/// Puts a certificate and its key into the places of those in `files`.
///
/// # Errors
/// If the disk fails; then the old pair is there still, or [`settle`] finishes the work.
pub fn replace(files: &TlsFiles, certificate_pem: &str, key_pem: &str) -> io::Result<()> {
    settle(files)?;
    let (certificate, key) = (&files.certificate, &files.key);
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

/// Finishes what a process that died has left of [`replace`]; does nothing where nothing was left.
///
/// # Errors
/// If the disk fails.
pub fn settle(files: &TlsFiles) -> io::Result<()> {
    let (certificate, key) = (next(&files.certificate), next(&files.key));
    if certificate.try_exists()? {
        // Nothing was replaced yet.
        fs::remove_file(&certificate)?;
        if key.try_exists()? {
            fs::remove_file(&key)?;
        }
    } else if key.try_exists()? {
        fs::rename(&key, &files.key)?;
    }
    Ok(())
}

/// Writes a new key, readable by its owner alone from the first byte on, and encrypted if the environment
/// has a passphrase ([`passphrase::VARIABLE`]).
///
/// # Errors
/// If the file is there, or the disk fails.
pub fn write_key(path: &Path, pem: &str) -> io::Result<()> {
    let pem = passphrase::seal(pem).map_err(io::Error::other)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(KEY_MODE).open(path)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()?;
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
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
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
}
