//! The download: appends to a part, asks for the rest where it broke, and names the file only when its
//! digest is right.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::append::{Appender, Growing};
use super::{
    Client, Error, Patience, Progress, Retries, Way, blocking, client, file_error, stalled,
};
use crate::failpoint::reach;
use crate::names::{Blob, Digest};
use crate::v1;
use crate::weights::sync_folder;

/// How often the part is looked at while somebody else writes it.
const LOCK_TRIES_MAX: u32 = 100;

/// How long between two looks; with the tries, longer than the slowest disk takes for one piece.
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// What becomes of a file in a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It is on the disk before it has its name.
    Durably,
    /// It may be lost or torn.
    ForNow,
}

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
    way: &impl Way,
    blob: Blob,
    path: &Path,
    keep: Keep,
    progress: &mut Progress<'_>,
    patience: &Patience,
) -> Result<(), Error> {
    if is_blob(path, blob).await? {
        if keep == Keep::Durably {
            settle(path).await?;
        }
        progress(blob.size, blob.size);
        return Ok(());
    }
    let part = part_of(path);
    // A part may be torn by a crash or be of other bytes, so one whole download more is worth it.
    for restarted in [false, true] {
        let growing = open(&part, blob.size, keep).await?;
        let filled = fill(way, blob, &part, growing, progress, patience).await;
        if filled.is_err() {
            remove_if_empty(&part).await;
        }
        if let Some(growing) = filled?
            && digest(growing, &part, keep).await? == blob.digest
        {
            return publish(part, path, keep).await;
        }
        reach("workspace.part_drop").map_err(file_error("remove", &part))?;
        tokio::fs::remove_file(&part).await.map_err(file_error("remove", &part))?;
        if restarted {
            break;
        }
    }
    Err(Error::Digest { digest: blob.digest })
}

/// The digest of the part, once it is as safe as it is to be.
async fn digest(growing: Growing, part: &Path, keep: Keep) -> Result<Digest, Error> {
    let mut growing = match keep {
        Keep::Durably => on_the_disk(growing, part).await?,
        Keep::ForNow => growing,
    };
    blocking(move || growing.digest()).await.map_err(file_error("read", part))
}

async fn on_the_disk(mut growing: Growing, part: &Path) -> Result<Growing, Error> {
    let synced = blocking(move || {
        reach("download.sync")?;
        growing.sync()?;
        Ok(growing)
    });
    let synced = synced.await;
    if synced.is_err() {
        // What failed to reach the disk may read well now and not after a power cut.
        let _ = tokio::fs::remove_file(part).await;
    }
    synced.map_err(file_error("write", part))
}

/// Where the bytes gather.
fn part_of(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    PathBuf::from(part)
}

/// Opens the part for appending; one that is longer than the blob cannot become it and is emptied.
async fn open(part: &Path, size: u64, keep: Keep) -> Result<Growing, Error> {
    for _ in 0..LOCK_TRIES_MAX {
        let path = part.to_owned();
        let opened = blocking(move || open_locked(&path, size, keep)).await;
        if let Some(growing) = opened.map_err(file_error("open", part))? {
            return Ok(growing);
        }
        tokio::time::sleep(LOCK_WAIT).await;
    }
    let busy = std::io::Error::other("another download is writing it");
    Err(file_error("open", part)(busy))
}

/// None while somebody else has the part open: a download that was dropped leaves its last write
/// under way, and the part's length is not settled before it is done.
fn open_locked(part: &Path, size: u64, keep: Keep) -> std::io::Result<Option<Growing>> {
    reach("workspace.part_open")?;
    let file = std::fs::File::options().create(true).append(true).read(true).open(part)?;
    // A file system that knows no locks gets along without.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        return Ok(None);
    }
    if file.metadata()?.len() > size {
        reach("workspace.part_cut")?;
        file.set_len(0)?;
    }
    let growing = match keep {
        Keep::Durably => Growing::of(file),
        Keep::ForNow => Growing::unhurried(file),
    };
    growing.map(Some)
}

/// A download that was refused leaves nothing; one that broke leaves what there is to resume.
async fn remove_if_empty(part: &Path) {
    let length = tokio::fs::metadata(part).await.map(|metadata| metadata.len());
    if matches!(length, Ok(0)) {
        // The refusal is what the caller must hear of; an empty file in the way is not.
        let _ = tokio::fs::remove_file(part).await;
    }
}

/// Fills the part to the blob's size. None if more bytes came than that.
async fn fill(
    way: &impl Way,
    blob: Blob,
    part: &Path,
    mut growing: Growing,
    progress: &mut Progress<'_>,
    patience: &Patience,
) -> Result<Option<Growing>, Error> {
    let mut retries = Retries::new(patience, blob.digest, "give");
    progress(growing.length(), blob.size);
    while growing.length() < blob.size {
        let done = growing.length();
        retries.reached(done);
        let ask = v1::DownloadRequest { digest: blob.digest.as_bytes().to_vec(), offset: done };
        let appender = Appender::begin(growing, (), "workspace.part_write");
        let client = client(way);
        let end = append(&client, ask, blob.size, &appender, progress, patience).await;
        // What the stream broke on is told only after all that it brought is in the part.
        (growing, ()) = appender.end().await.map_err(file_error("write", part))?;
        match end {
            End::Whole => {}
            End::TooMany => return Ok(None),
            End::Broken(status) => {
                retries.reached(growing.length());
                retries.wait(way, status).await?;
            }
        }
    }
    Ok(Some(growing))
}

/// Appends what one stream brings.
async fn append(
    client: &Client,
    ask: v1::DownloadRequest,
    size: u64,
    part: &Appender<()>,
    progress: &mut Progress<'_>,
    patience: &Patience,
) -> End {
    let mut done = ask.offset;
    let mut deadline = Instant::now() + patience.stall_timeout;
    let mut client = client.clone();
    let mut stream = match timeout_at(deadline, client.download(ask)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return End::Broken(status),
        Err(_) => return End::Broken(stalled(patience)),
    };
    while done < size {
        let data = match timeout_at(deadline, stream.message()).await {
            Ok(Ok(Some(message))) => message.data,
            Ok(Ok(None)) => {
                let text = format!("it gave {done} of {size} bytes and ended the download");
                return End::Broken(Status::unavailable(text));
            }
            Ok(Err(status)) => return End::Broken(status),
            Err(_) => return End::Broken(stalled(patience)),
        };
        if data.len() as u64 > size - done {
            return End::TooMany;
        }
        if data.is_empty() {
            continue;
        }
        done += data.len() as u64;
        if part.push(data).await.is_err() {
            // The part, not the stream, has failed, and says so when it is ended.
            return End::Whole;
        }
        deadline = Instant::now() + patience.stall_timeout;
        progress(done, size);
    }
    // The stream must end here; a further byte means that the blob's size was not the truth.
    match timeout_at(deadline, stream.message()).await {
        Ok(Ok(Some(message))) if !message.data.is_empty() => End::TooMany,
        _ => End::Whole,
    }
}

/// Has a file that is there last: whoever gave it its name may have been failed by the disk behind that.
async fn settle(path: &Path) -> Result<(), Error> {
    let there = path.to_owned();
    let settled = move || {
        reach("download.sync")?;
        std::fs::File::open(&there)?.sync_all()?;
        reach("download.folder")?;
        sync_folder(&there)
    };
    blocking(settled).await.map_err(file_error("write", path))
}

/// Whether the file is there and has the blob's bytes.
pub(super) async fn is_blob(path: &Path, blob: Blob) -> Result<bool, Error> {
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

/// Gives the part the file's name.
async fn publish(part: PathBuf, path: &Path, keep: Keep) -> Result<(), Error> {
    reach("workspace.part_rename").map_err(file_error("write", path))?;
    tokio::fs::rename(&part, path).await.map_err(file_error("write", path))?;
    if keep == Keep::ForNow {
        return Ok(());
    }
    let named = path.to_owned();
    let folder = move || {
        reach("download.folder")?;
        sync_folder(&named)
    };
    blocking(folder).await.map_err(file_error("write", path))
}
