//! A backup back into an empty data folder and an empty database. Everything is compared with its
//! digest before anything is written, and the rows are written last and at once. Where that fails the blobs that
//! were written before are deleted, so that the same call may be made again.

use std::fs;
use std::path::Path;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::weights::sync_folder;
use serde::Serialize;

use super::backup::{DATABASE, copy_file, read_manifest, sync_name};
use super::{Error, Fsck, Manifest, bar, fsck};
use crate::blobs::{Blobs, digest_of};
use crate::config::Config;
use crate::folder::Folder;
use crate::store;

/// What was brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// How many blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What the check of it found.
    pub fsck: Fsck,
}

/// Brings the backup in `from` back to where `config` says, and checks it there.
///
/// # Errors
/// If it is not whole, there is something where it is to go, a coordinator runs there, or a disk
/// fails.
pub async fn restore(config: &Config, from: &Path) -> Result<Restored, Error> {
    let manifest = read_manifest(from)?;
    let none = |reason: &str| Error::NoBackup { path: from.to_owned(), reason: reason.to_owned() };
    if manifest.federation != config.federation {
        let theirs = &manifest.federation;
        return Err(none(&format!("it is of federation {theirs}, the config is not")));
    }
    let database = from.join(DATABASE);
    if digest_of(&database)? != manifest.database {
        return Err(none("its database has changed since it was made"));
    }
    let _folder = Folder::take(&config.data)?;
    let blobs = Blobs::attach(&config.data);
    let target = config.data.join("blobs");
    if target.exists() && !blobs.list()?.is_empty() {
        return Err(Error::NotEmpty(target));
    }
    if let Err(error) = bring_back(config, &manifest, &Blobs::attach(from), &blobs).await {
        // Rows that may be there name these blobs.
        let rows_may_be_there = matches!(error, Error::Store(store::Error::Uncertain(_)));
        for digest in manifest.blobs.keys().filter(|_| !rows_may_be_there) {
            // On a disk that does not let it, the next try says that the folder is not empty.
            let _ = fs::remove_file(blobs.path(digest));
        }
        return Err(error);
    }
    let bytes = manifest.blobs.values().sum();
    let fsck = fsck(config).await?;
    Ok(Restored { blobs: manifest.blobs.len(), bytes, fsck })
}

/// The blobs first, then the rows.
async fn bring_back(
    config: &Config,
    manifest: &Manifest,
    from: &Blobs,
    to: &Blobs,
) -> Result<(), Error> {
    restore_blobs(from, to, manifest)?;
    let target = config.data.join("blobs");
    let synced = reach("restore.folder").and_then(|()| sync_folder(&target));
    synced.map_err(Error::io("sync the folder of", &target))?;
    let scratch =
        tempfile::tempdir().map_err(Error::io("make a folder in", std::env::temp_dir()))?;
    // Opening a database changes its file, and a backup stays as it is.
    let copy = scratch.path().join(DATABASE);
    copy_file("restore.database", &from.root().join(DATABASE), &copy)?;
    Ok(store::restore(&copy, &config.database()).await?)
}

fn restore_blobs(from: &Blobs, to: &Blobs, manifest: &Manifest) -> Result<(), Error> {
    let bar = bar("restoring", manifest.blobs.values().sum());
    for (digest, size) in &manifest.blobs {
        let (source, target) = (from.path(digest), to.path(digest));
        let folder = target.parent().unwrap_or(&target);
        fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        copy_file("restore.blob", &source, &target)?;
        if digest_of(&target)? != *digest {
            return Err(crate::blobs::Error::Rotten(*digest).into());
        }
        // Blob before row, after a power loss too.
        sync_name(&target)?;
        bar.inc(*size);
    }
    bar.finish_and_clear();
    Ok(())
}
