//! A copy of the whole state as it is at one moment: the database as one SQLite file, whatever the
//! engine is, and every blob that it names, read and compared with its digest on the way. The moment
//! comes first and blobs never change, so a coordinator may run meanwhile.
//!
//! ```text
//! coordinator.db    every row, without the lease
//! blobs/ab/<digest> hard links where that is possible, copies elsewhere
//! manifest.json     written last: a folder without it is no backup
//! ```

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use fedpaint_proto::names::{Blob, Digest, FederationName};
use fedpaint_proto::weights::sync_folder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Error, bar};
use crate::blobs::{Blobs, digest_of};
use crate::config::Config;
use crate::store::{self, Named, Store};

/// The file that says what is in a backup.
pub const MANIFEST: &str = "manifest.json";

/// The database's file in a backup.
pub(super) const DATABASE: &str = "coordinator.db";

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
    /// Every blob: its digest and how long it is.
    pub blobs: BTreeMap<Digest, u64>,
    /// Blobs that rows name and that retention had let go.
    pub spent: Vec<Digest>,
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
/// coordinator's own file.
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
    let database = out.join(DATABASE);
    store::snapshot(&config.database(), &database).await?;
    let moment = Store::open(&store::sqlite_url(&database)).await?;
    let named = moment.named().await?;
    let spent = match config.retention.updates_rounds {
        Some(rounds) => moment.spent(&named, rounds).await?,
        None => HashSet::new(),
    };
    moment.close().await;
    let saved = save_blobs(&Blobs::attach(&config.data), &named, &spent, out, copy)?;
    sync(&database)?;
    let manifest = Manifest {
        version: 1,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        federation: config.federation.clone(),
        made_at: now,
        database: digest_of(&database)?,
        blobs: saved.blobs,
        spent: saved.spent,
    };
    write_manifest(out, &manifest)?;
    let bytes = manifest.blobs.values().sum();
    Ok(Backup { blobs: manifest.blobs.len(), bytes, linked: saved.linked })
}

#[derive(Default)]
struct Saved {
    blobs: BTreeMap<Digest, u64>,
    spent: Vec<Digest>,
    linked: usize,
}

fn save_blobs(
    blobs: &Blobs,
    named: &[Named],
    spent: &HashSet<Digest>,
    out: &Path,
    copy: bool,
) -> Result<Saved, Error> {
    let unique: BTreeMap<Digest, Blob> =
        named.iter().map(|named| (named.blob.digest, named.blob)).collect();
    let bar = bar("saving", unique.values().map(|blob| blob.size).sum());
    let mut saved = Saved::default();
    let to = Blobs::attach(out);
    for (digest, blob) in unique {
        let (from, path) = (blobs.path(&digest), to.path(&digest));
        if !from.exists() && spent.contains(&digest) {
            saved.spent.push(digest);
            continue;
        }
        let folder = path.parent().unwrap_or(out);
        fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        match copy || fs::hard_link(&from, &path).is_err() {
            true => copy_file(&from, &path)?,
            false => saved.linked += 1,
        }
        // What is saved is what was read: a blob that has changed is no backup of itself.
        if digest_of(&path)? != digest {
            return Err(crate::blobs::Error::Rotten(digest).into());
        }
        sync_folder(&path).map_err(Error::io("sync the folder of", &path))?;
        saved.blobs.insert(digest, blob.size);
        bar.inc(blob.size);
    }
    bar.finish_and_clear();
    Ok(saved)
}

fn write_manifest(out: &Path, manifest: &Manifest) -> Result<(), Error> {
    let (path, temporary) = (out.join(MANIFEST), out.join("manifest.json.writing"));
    let text = serde_json::to_string_pretty(manifest).unwrap_or_default();
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_folder(&path)
    });
    written.map_err(Error::io("write", path))
}

/// Copies a file to a name that is not taken, and to the disk.
pub(super) fn copy_file(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map_err(Error::io("copy", from))?;
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
