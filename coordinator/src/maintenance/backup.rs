//! A copy of the whole state as it is at one moment: the database as one SQLite file, whatever the
//! engine is, and every blob that it names, read and compared with its digest on the way. The moment
//! comes first and blobs never change, so a coordinator may run meanwhile.
//!
//! ```text
//! coordinator.db    every row, without the lease
//! blobs/ab/<digest> hard links where that is possible, copies elsewhere
//! manifest.json     written last: a folder without it is no backup
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::{Blob, Digest, FederationName};
use fedpaint_proto::weights::sync_folder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Error, bar, lost};
use crate::blobs::{Blobs, digest_of};
use crate::config::Config;
use crate::store::{self, Named, Store};

/// The file that says what is in a backup.
pub const MANIFEST: &str = "manifest.json";

/// What it is called before it is whole.
const MANIFEST_WRITING: &str = "manifest.json.writing";

/// The database's file in a backup.
pub(super) const DATABASE: &str = "coordinator.db";

/// The longest manifest that is written or read: a million blobs.
const MANIFEST_BYTES_MAX: u64 = 128 << 20;

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this description.
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// Whose state it is.
    pub federation: FederationName,
    /// When it was begun.
    pub made_at: Timestamp,
    /// The digest of the database's file.
    pub database: Digest,
    /// Every blob: its digest and how long it is. What retention had let go is not among them.
    pub blobs: BTreeMap<Digest, u64>,
}

/// What was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// How many blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them are links to the coordinator's own files.
    pub linked: usize,
}

/// Saves the state that `config` names to the new folder `out`. With `copy`, no blob is a link to the
/// coordinator's own file. Where that fails the folder is left empty, so that the same call may be made again.
///
/// # Errors
/// If there is something in `out`, a blob is missing or has changed, or a disk fails.
pub async fn backup(
    config: &Config,
    out: &Path,
    copy: bool,
    now: Timestamp,
) -> Result<Backup, Error> {
    new_folder(out)?;
    let saved = save(config, out, copy, now).await;
    if saved.is_err() {
        delete(out);
    }
    saved
}

/// Deletes what a backup that failed has written. On a disk that does not let it, the next one says that the folder
/// is not empty.
fn delete(out: &Path) {
    let _ = fs::remove_dir_all(out.join("blobs"));
    for end in ["", "-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(out.join(format!("{DATABASE}{end}")));
    }
    for name in [MANIFEST, MANIFEST_WRITING] {
        let _ = fs::remove_file(out.join(name));
    }
}

/// Saves it to a folder that is empty.
async fn save(config: &Config, out: &Path, copy: bool, now: Timestamp) -> Result<Backup, Error> {
    let database = out.join(DATABASE);
    reach("backup.database").map_err(Error::io("write", &database))?;
    store::snapshot(&config.database(), &database).await?;
    let moment = Store::open(&store::sqlite_url(&database)).await?;
    let named = moment.named().await?;
    let saved = save_blobs(&Blobs::attach(&config.data), &named, out, copy)?;
    let lost = lost(config, &moment, &named, saved.missing).await?;
    moment.close().await;
    if let Some(lost) = lost.first() {
        return Err(crate::blobs::Error::Unknown(*lost).into());
    }
    sync(&database)?;
    let manifest = Manifest {
        version: 1,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        federation: config.federation.clone(),
        made_at: now,
        database: digest_of(&database)?,
        blobs: saved.blobs,
    };
    write_manifest(out, &manifest)?;
    let bytes = manifest.blobs.values().sum();
    Ok(Backup { blobs: manifest.blobs.len(), bytes, linked: saved.linked })
}

#[derive(Default)]
struct Saved {
    blobs: BTreeMap<Digest, u64>,
    missing: BTreeSet<Digest>,
    linked: usize,
}

fn save_blobs(blobs: &Blobs, named: &[Named], out: &Path, copy: bool) -> Result<Saved, Error> {
    let unique: BTreeMap<Digest, Blob> =
        named.iter().map(|named| (named.blob.digest, named.blob)).collect();
    let bar = bar("saving", unique.values().map(|blob| blob.size).sum());
    let mut saved = Saved::default();
    let to = Blobs::attach(out);
    for (digest, blob) in unique {
        let (from, path) = (blobs.path(&digest), to.path(&digest));
        let folder = path.parent().unwrap_or(out);
        fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        if !copy && fs::hard_link(&from, &path).is_ok() {
            saved.linked += 1;
        } else if let Err(error) = copy_file("backup.blob", &from, &path) {
            if from.exists() {
                return Err(error);
            }
            saved.missing.insert(digest);
            continue;
        }
        // What is saved is what was read: a blob that has changed is no backup of itself.
        if digest_of(&path)? != digest {
            return Err(crate::blobs::Error::Rotten(digest).into());
        }
        sync_name(&path)?;
        saved.blobs.insert(digest, blob.size);
        bar.inc(blob.size);
    }
    bar.finish_and_clear();
    Ok(saved)
}

/// Writes the manifest and reads it back: one that `restore` would refuse is no manifest.
fn write_manifest(out: &Path, manifest: &Manifest) -> Result<(), Error> {
    let (path, temporary) = (out.join(MANIFEST), out.join(MANIFEST_WRITING));
    let text = serde_json::to_string_pretty(manifest).map_err(std::io::Error::from);
    let text = text.map_err(Error::io("write", &path))?;
    let written = File::create(&temporary).and_then(|mut file| {
        reach("backup.manifest")?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_folder(&path)
    });
    written.map_err(Error::io("write", &path))?;
    if read_manifest(out)? == *manifest {
        return Ok(());
    }
    let reason = format!("{MANIFEST} is not what was written");
    Err(Error::NoBackup { path: out.to_owned(), reason })
}

/// What the backup in `from` says of itself.
///
/// # Errors
/// If it says nothing, or nothing that can be used.
pub(super) fn read_manifest(from: &Path) -> Result<Manifest, Error> {
    let path = from.join(MANIFEST);
    let none = |reason: String| Error::NoBackup { path: from.to_owned(), reason };
    let bytes = fs::metadata(&path).map_err(|e| none(format!("{MANIFEST}: {e}")))?.len();
    if bytes > MANIFEST_BYTES_MAX {
        return Err(none(format!("{MANIFEST} has {bytes} bytes, more than it may have")));
    }
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|e| none(format!("{MANIFEST} does not parse: {e}")))?;
    match manifest.version {
        1 => Ok(manifest),
        other => Err(none(format!("its version is {other}, this program reads 1"))),
    }
}

/// Makes the name of a blob last, and that of its folder.
pub(super) fn sync_name(blob: &Path) -> Result<(), Error> {
    let synced = sync_folder(blob).and_then(|()| blob.parent().map_or(Ok(()), sync_folder));
    synced.map_err(Error::io("sync the folder of", blob))
}

/// Copies a file to a name that is not taken, and to the disk.
pub(super) fn copy_file(place: &'static str, from: &Path, to: &Path) -> Result<(), Error> {
    reach(place).and_then(|()| fs::copy(from, to)).map_err(Error::io("copy", from))?;
    sync(to)
}

fn sync(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(Error::io("sync", path))
}

/// Makes a folder, or takes one that is empty.
fn new_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io("make the folder", path))?;
    let mut entries = fs::read_dir(path).map_err(Error::io("read the folder", path))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Error::NotEmpty(PathBuf::from(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{START, blob};

    #[test]
    fn a_manifest_that_could_not_be_restored_is_no_success() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = ["a", "b"].map(|text| (blob(text).digest, 1)).into();
        let manifest = Manifest {
            version: 1,
            program: "0.1.0".to_owned(),
            federation: "brain".parse().unwrap(),
            made_at: START,
            database: blob("database").digest,
            blobs,
        };
        write_manifest(folder.path(), &manifest).unwrap();
        assert_eq!(read_manifest(folder.path()).unwrap(), manifest);
        let long = Manifest { program: "x".repeat(MANIFEST_BYTES_MAX as usize), ..manifest };
        let refused = write_manifest(folder.path(), &long).unwrap_err().to_string();
        assert!(refused.contains("more than it may have"), "{refused}");
    }
}
