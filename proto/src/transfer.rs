//! Uploads and downloads that resume: the client's end of the blob service.
//!
//! A transfer that breaks goes on where it broke, and gives up only after it was resumed
//! [`TRANSFER_RETRIES_MAX`] times without a byte moving, waits that the coordinator asked for not counted.
//! Each attempt takes its [`Way`]'s newest channel, so that one whose certificate has ended costs one attempt.
//! Dropping the future at any moment leaves what has moved, and the next transfer goes on from there. Nothing
//! here decides what is moved, and no file appears under its name before all its bytes have come and their
//! digest is right.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Response;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tower::util::MapResponse;

use crate::budget::Budget;
use crate::channel::told;
use crate::framing::{Apart, apart};
use crate::limits::{
    CALL_TIMEOUT, MESSAGE_BYTES_MAX, TRANSFER_RETRIES_MAX, TRANSFER_STALL_TIMEOUT,
};
use crate::names::{Blob, Digest};
use crate::put_off::PutOff;
use crate::reason::{self, Reason};
use crate::v1;
use crate::v1::blob_service_client::BlobServiceClient;

pub mod append;
mod receive;
pub mod room;
mod send;

/// The wait before the first retry; every further one waits twice as long.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);

/// The longest wait. The waits of [`TRANSFER_RETRIES_MAX`] retries together outlast the time that
/// the coordinator needs to see that a connection is dead, and to restart.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Told after every piece that came or was sent: bytes moved so far, counted from the blob's beginning, and
/// the blob's size.
pub type Progress<'a> = dyn FnMut(u64, u64) + Send + 'a;

/// The way to the coordinator.
pub trait Way: Sync {
    /// The newest channel; asked before every attempt, because certificates are renewed meanwhile.
    fn channel(&self) -> Channel;

    /// Told why an attempt broke that is followed by another, for whoever keeps a log.
    fn broke(&self, _status: &Status) {}
}

impl Way for Channel {
    fn channel(&self) -> Channel {
        self.clone()
    }
}

/// Why a transfer failed for good.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file on this side does not open, read, or write.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// Open, read, write, ...
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file to upload is not as long as its blob.
    #[error("{} is {found} bytes long and should be {expected}: it was changed meanwhile", path.display())]
    Length {
        /// Which file.
        path: PathBuf,
        /// How long it is.
        found: u64,
        /// How long the blob is.
        expected: u64,
    },
    /// The coordinator refuses, and would refuse again.
    #[error("the coordinator refuses to {what} blob {}: {}", digest.short(), told(status))]
    Refused {
        /// Take or give.
        what: &'static str,
        /// Which blob.
        digest: Digest,
        /// What it said.
        status: Status,
    },
    /// The connection broke again and again without a byte moving.
    #[error(
        "moving blob {} was resumed {retries} times without getting on, last because: {}",
        digest.short(),
        told(status)
    )]
    Broken {
        /// Which blob.
        digest: Digest,
        /// How often it was resumed.
        retries: u32,
        /// Why it broke last.
        status: Status,
    },
    /// The bytes received are, twice, not what the digest says.
    #[error("the coordinator gave other bytes than those of blob {}, twice", digest.short())]
    Digest {
        /// The digest that was asked for.
        digest: Digest,
    },
}

impl Error {
    /// The coordinator's reason, if it gave one.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused { status, .. } | Self::Broken { status, .. } => Reason::of(status),
            Self::File { .. } | Self::Length { .. } | Self::Digest { .. } => None,
        }
    }

    /// Whether the same transfer may succeed later without anything being changed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Broken { .. })
    }
}

/// Uploads `file`, whose bytes are `blob`, for `purpose`. A blob that the coordinator has already is
/// not sent again. Its retries take their turn in `budget`, beside all others of the caller's.
///
/// # Errors
/// If the file does not read or is not as long as the blob, if the coordinator refuses, or if the
/// transfer does not get on.
pub async fn upload(
    way: &impl Way,
    purpose: v1::UploadPurpose,
    blob: Blob,
    file: &Path,
    budget: &Budget,
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    let patience = Patience::within(budget);
    send::send(way, &purpose, blob, file, progress, &patience).await
}

/// Downloads `blob` to `file`, by way of `<file>.part`. If `file` is there and right, nothing moves, and it is
/// seen to that it lasts.
/// Two transfers to one file must not run at once. Its retries take their turn in `budget`.
///
/// # Errors
/// If the file does not write, if the coordinator refuses or gives other bytes, or if the transfer
/// does not get on.
pub async fn download(
    way: &impl Way,
    blob: Blob,
    file: &Path,
    budget: &Budget,
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    let (keep, patience) = (receive::Keep::Durably, Patience::within(budget));
    receive::receive(way, blob, file, keep, progress, &patience).await
}

/// The same for what is hashed again before each use and can be had again: when it reaches the disk is left
/// to the system, so that nobody waits for it. After a power cut the file may be there and not be right.
///
/// # Errors
/// As [`download`].
pub async fn fetch(
    way: &impl Way,
    blob: Blob,
    file: &Path,
    budget: &Budget,
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    let (keep, patience) = (receive::Keep::ForNow, Patience::within(budget));
    receive::receive(way, blob, file, keep, progress, &patience).await
}

/// Whether `file` is there and is `blob`, so that a [`download`] of that to it moves nothing.
///
/// # Errors
/// If the file does not read.
pub async fn is_there(blob: Blob, file: &Path) -> Result<bool, Error> {
    receive::is_blob(file, blob).await
}

/// The blob that `file` is, to say so before it is uploaded.
///
/// # Errors
/// If the file does not read.
pub async fn blob_of(file: &Path) -> Result<Blob, Error> {
    receive::hash(file).await
}

type Client = BlobServiceClient<MapResponse<Channel, fn(Response<Body>) -> Response<Apart>>>;

/// A client for one attempt, which copies what it is given as seldom as may be.
fn client(way: &impl Way) -> Client {
    let channel = MapResponse::new(way.channel(), apart as _);
    BlobServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// How long a transfer waits, and how often.
#[derive(Clone, Debug)]
struct Patience {
    retries_max: u32,
    backoff_first: Duration,
    backoff_max: Duration,
    stall_timeout: Duration,
    /// The caller's, for all its retries together.
    budget: Budget,
}

impl Patience {
    fn within(budget: &Budget) -> Patience {
        Patience {
            retries_max: TRANSFER_RETRIES_MAX,
            backoff_first: BACKOFF_FIRST,
            backoff_max: BACKOFF_MAX,
            stall_timeout: TRANSFER_STALL_TIMEOUT,
            budget: budget.clone(),
        }
    }

    /// The wait before a retry, from 1 on: doubled each time, and spread by a quarter to either side
    /// so that the sites which one restart cut off do not all come back in the same moment.
    fn backoff(&self, retry: u32, spread: u64) -> Duration {
        let doubled = self.backoff_first.saturating_mul(2_u32.saturating_pow(retry - 1));
        let base = doubled.min(self.backoff_max);
        // From 0.75 to 1.25 in thousandths.
        base * u32::try_from(750 + spread % 501).unwrap_or(1000) / 1000
    }
}

/// The retries of one transfer: how far it ever came, and how often it was resumed since.
#[derive(Debug)]
struct Retries<'a> {
    patience: &'a Patience,
    digest: Digest,
    /// What the coordinator is to do with the blob: take it or give it.
    what: &'static str,
    best: u64,
    resumed: u32,
    put_off: PutOff,
}

impl<'a> Retries<'a> {
    fn new(patience: &'a Patience, digest: Digest, what: &'static str) -> Retries<'a> {
        let put_off = PutOff::new(digest.as_bytes());
        Retries { patience, digest, what, best: 0, resumed: 0, put_off }
    }

    /// The transfer has come to `size` bytes; further than ever before means that it gets on.
    fn reached(&mut self, size: u64) {
        if size > self.best {
            self.best = size;
            self.resumed = 0;
            self.put_off.renew();
        }
    }

    /// Waits before the transfer is resumed after `status`: as long as that says, which is no failure, or else
    /// longer every time.
    ///
    /// # Errors
    /// If it would be refused again, or has been resumed often enough.
    async fn wait(&mut self, way: &impl Way, status: Status) -> Result<(), Error> {
        let Retries { digest, what, .. } = *self;
        if !reason::is_transient(&status) {
            return Err(Error::Refused { what, digest, status });
        }
        if let Some(wait) = self.put_off.wait(&status) {
            tokio::time::sleep(wait).await;
            return Ok(());
        }
        if self.resumed == self.patience.retries_max {
            return Err(Error::Broken { digest, retries: self.resumed, status });
        }
        way.broke(&status);
        self.resumed += 1;
        let backoff = self.patience.backoff(self.resumed, spread(digest, self.resumed));
        tokio::time::sleep(backoff).await;
        self.patience.budget.take().await;
        Ok(())
    }
}

/// A number that differs between processes and retries. It need not be secret or even random, so
/// it takes the process id, which machines that were cut off together hardly share.
fn spread(digest: Digest, retry: u32) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("fedpaint transfer backoff v1");
    hasher.update(digest.as_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    hasher.update(&retry.to_le_bytes());
    let mut word = [0; 8];
    hasher.finalize_xof().fill(&mut word);
    u64::from_le_bytes(word)
}

/// A request for a call that moves no blob.
fn short<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// The status of a stream on which nothing moved for too long.
fn stalled(patience: &Patience) -> Status {
    let waited = patience.stall_timeout.as_secs_f64();
    Status::new(Code::DeadlineExceeded, format!("no byte moved for {waited} s"))
}

/// Runs disk work off the runtime's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// [`Error::File`] from an `io::Error`.
fn file_error(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::File { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
