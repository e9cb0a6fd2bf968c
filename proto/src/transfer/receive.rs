//! The download: appends to a part, asks for the rest where it broke, and names the file only when its
//! digest is right.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::{Client, Error, Patience, Progress, Retries, file_error, stalled};
use crate::failpoint::reach;
use crate::names::{Blob, Digest};
use crate::v1;
use crate::weights::sync_folder;

/// How often the part is looked at while somebody else writes it.
const LOCK_TRIES_MAX: u32 = 100;

/// How long between two looks; with the tries, longer than the slowest disk takes for one piece.
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// How one stream ended.
enum End {
    /// Every byte has come.
    Whole,
    /// More bytes came than the blob has.
    TooMany,
    /// The stream broke.
    Broken(Status),
}

pub(super) async fn receive(
    client: &Client,
    blob: Blob,
    path: &Path,
    progress: &mut Progress<'_>,
    patience: &Patience,
) -> Result<(), Error> {
    if is_blob(path, blob).await? {
        progress(blob.size, blob.size);
        return Ok(());
    }
    let part = part_of(path);
    // A part may be torn by a crash or be of other bytes, so one whole download more is worth it.
    for restarted in [false, true] {
        let mut file = open(&part, blob.size).await?;
        let filled = fill(client, blob, &part, &mut file, progress, patience).await;
        if filled.is_err() {
            remove_if_empty(&part).await;
        }
        if filled? {
            let synced = match reach("workspace.part_sync") {
                Ok(()) => file.sync_all().await,
                Err(error) => Err(error),
            };
            if let Err(error) = synced {
                // What failed to reach the disk may read well now and not after a power cut.
                let _ = tokio::fs::remove_file(&part).await;
                return Err(file_error("write", &part)(error));
            }
            if is_blob(&part, blob).await? {
                return publish(part, path).await;
            }
        }
        drop(file);
        tokio::fs::remove_file(&part).await.map_err(file_error("remove", &part))?;
        if restarted {
            break;
        }
    }
    Err(Error::Digest { digest: blob.digest })
}

/// Where the bytes gather.
fn part_of(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    PathBuf::from(part)
}

/// Opens the part for appending; one that is longer than the blob cannot become it and is emptied.
async fn open(part: &Path, size: u64) -> Result<File, Error> {
    for _ in 0..LOCK_TRIES_MAX {
        let path = part.to_owned();
        let opened = blocking(move || open_locked(&path, size)).await;
        if let Some(file) = opened.map_err(file_error("open", part))? {
            return Ok(File::from_std(file));
        }
        tokio::time::sleep(LOCK_WAIT).await;
    }
    let busy = std::io::Error::other("another download is writing it");
    Err(file_error("open", part)(busy))
}

/// None while somebody else has the part open: a download that was dropped leaves its last write
/// under way, and the part's length is not settled before it is done.
fn open_locked(part: &Path, size: u64) -> std::io::Result<Option<std::fs::File>> {
    reach("workspace.part_open")?;
    let file = std::fs::File::options().create(true).append(true).open(part)?;
    // A file system that knows no locks gets along without.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        return Ok(None);
    }
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    Ok(Some(file))
}

/// A download that was refused leaves nothing; one that broke leaves what there is to resume.
async fn remove_if_empty(part: &Path) {
    let length = tokio::fs::metadata(part).await.map(|metadata| metadata.len());
    if matches!(length, Ok(0)) {
        // The refusal is what the caller must hear of; an empty file in the way is not.
        let _ = tokio::fs::remove_file(part).await;
    }
}

/// Fills the part to the blob's size. False if more bytes came than that.
async fn fill(
    client: &Client,
    blob: Blob,
    part: &Path,
    file: &mut File,
    progress: &mut Progress<'_>,
    patience: &Patience,
) -> Result<bool, Error> {
    let mut retries = Retries::new(patience, blob.digest, "give");
    let mut done = file.metadata().await.map_err(file_error("read", part))?.len();
    progress(done, blob.size);
    while done < blob.size {
        retries.reached(done);
        let ask = v1::DownloadRequest { digest: blob.digest.as_bytes().to_vec(), offset: done };
        let mut written = |bytes| {
            done += bytes;
            progress(done, blob.size);
        };
        let end = append(client, ask, blob.size, file, &mut written, patience).await;
        match end.map_err(file_error("write", part))? {
            End::Whole => {}
            End::TooMany => return Ok(false),
            End::Broken(status) => {
                retries.reached(done);
                retries.wait(status).await?;
            }
        }
    }
    Ok(true)
}

/// Appends what one stream brings.
async fn append(
    client: &Client,
    ask: v1::DownloadRequest,
    size: u64,
    file: &mut File,
    written: &mut (dyn FnMut(u64) + Send),
    patience: &Patience,
) -> std::io::Result<End> {
    let mut done = ask.offset;
    let mut deadline = Instant::now() + patience.stall_timeout;
    let mut client = client.clone();
    let mut stream = match timeout_at(deadline, client.download(ask)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Ok(End::Broken(status)),
        Err(_) => return Ok(End::Broken(stalled(patience))),
    };
    while done < size {
        let data = match timeout_at(deadline, stream.message()).await {
            Ok(Ok(Some(message))) => message.data,
            Ok(Ok(None)) => {
                let text = format!("it gave {done} of {size} bytes and ended the download");
                return Ok(End::Broken(Status::unavailable(text)));
            }
            Ok(Err(status)) => return Ok(End::Broken(status)),
            Err(_) => return Ok(End::Broken(stalled(patience))),
        };
        if data.len() as u64 > size - done {
            return Ok(End::TooMany);
        }
        reach("workspace.part_write")?;
        file.write_all(&data).await?;
        // A piece counts once it is with the system: only then does the part have it when we are dropped.
        file.flush().await?;
        if !data.is_empty() {
            done += data.len() as u64;
            deadline = Instant::now() + patience.stall_timeout;
            written(data.len() as u64);
        }
    }
    // The stream must end here; a further byte means that the blob's size was not the truth.
    match timeout_at(deadline, stream.message()).await {
        Ok(Ok(Some(message))) if !message.data.is_empty() => Ok(End::TooMany),
        _ => Ok(End::Whole),
    }
}

/// Whether the file is there and has the blob's bytes.
async fn is_blob(path: &Path, blob: Blob) -> Result<bool, Error> {
    let length = match tokio::fs::metadata(path).await {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(file_error("read", path)(error)),
    };
    if length != blob.size {
        return Ok(false);
    }
    Ok(hash(path).await? == blob)
}

/// The blob that a file is.
pub(super) async fn hash(path: &Path) -> Result<Blob, Error> {
    let hashed = path.to_owned();
    blocking(move || blob_of(&hashed)).await.map_err(file_error("read", path))
}

fn blob_of(path: &Path) -> std::io::Result<Blob> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    Ok(Blob { digest: Digest::from(hasher.finalize()), size: hasher.count() })
}

/// Gives the part, which is on the disk, the file's name.
async fn publish(part: PathBuf, path: &Path) -> Result<(), Error> {
    reach("workspace.part_rename").map_err(file_error("write", path))?;
    tokio::fs::rename(&part, path).await.map_err(file_error("write", path))?;
    let named = path.to_owned();
    let folder = move || {
        reach("workspace.part_folder")?;
        sync_folder(&named)
    };
    blocking(folder).await.map_err(file_error("write", path))
}

/// Runs disk work off the runtime's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
