//! The upload: asks how much the coordinator has, sends the rest, and begins again where it broke.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::room::Room;
use super::{
    Client, Error, Patience, Progress, Retries, Way, blocking, client, file_error, short, stalled,
};
use crate::at_once::{self, AT_ONCE_BYTES};
use crate::failpoint::reach;
use crate::limits::PIECE_BYTES;
use crate::names::Blob;
use crate::reason::Reason;
use crate::v1;

/// How many pieces are read ahead of the network.
const PIECES_AHEAD: usize = 8;

/// How much is read at a time of a file that is not in memory: several pieces, because each read is a way to another
/// thread.
const BLOCK_BYTES: usize = 8 * PIECE_BYTES;

/// How an attempt ended that did not bring the blob over.
enum Break {
    /// This side's file failed; there is nothing to resume.
    File(Error),
    /// The other side or the network.
    Remote(Status),
}

impl From<Status> for Break {
    fn from(status: Status) -> Break {
        Break::Remote(status)
    }
}

pub(super) async fn send(
    way: &impl Way,
    purpose: &v1::UploadPurpose,
    blob: Blob,
    path: &Path,
    progress: &mut Progress<'_>,
    patience: &Patience,
) -> Result<(), Error> {
    let file = open(path, blob).await?;
    let mut retries = Retries::new(patience, blob.digest, "take");
    // What the coordinator had may be torn by a crash, so one whole upload more is worth it.
    let mut restarted = false;
    loop {
        let client = client(way);
        let sent = attempt(&client, purpose, blob, path, &file, progress, &mut retries).await;
        match sent {
            Ok(()) => return Ok(()),
            Err(Break::File(error)) => return Err(error),
            Err(Break::Remote(status))
                if Reason::of(&status) == Some(Reason::WrongDigest) && !restarted =>
            {
                way.broke(&status);
                restarted = true;
                retries = Retries::new(patience, blob.digest, "take");
            }
            Err(Break::Remote(status)) => retries.wait(way, status).await?,
        }
    }
}

async fn open(path: &Path, blob: Blob) -> Result<Arc<File>, Error> {
    let opened = path.to_owned();
    let open = move || {
        reach("upload.open")?;
        let file = File::open(opened)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    };
    let (file, found) = blocking(open).await.map_err(file_error("open", path))?;
    if found != blob.size {
        return Err(Error::Length { path: path.to_owned(), found, expected: blob.size });
    }
    Ok(Arc::new(file))
}

async fn attempt(
    client: &Client,
    purpose: &v1::UploadPurpose,
    blob: Blob,
    path: &Path,
    file: &Arc<File>,
    progress: &mut Progress<'_>,
    retries: &mut Retries<'_>,
) -> Result<(), Break> {
    reach("upload.status").map_err(|e| Break::File(file_error("read", path)(e)))?;
    let ask =
        v1::GetUploadStatusRequest { purpose: Some(purpose.clone()), blob: Some(blob.into()) };
    let held = client.clone().get_upload_status(short(ask)).await?.into_inner();
    if held.complete {
        progress(blob.size, blob.size);
        return Ok(());
    }
    let offset = held.committed_size;
    if offset > blob.size {
        let text = format!("it says that it has {offset} bytes of a blob of {}", blob.size);
        return Err(Status::data_loss(text).into());
    }
    retries.reached(offset);

    let (pieces, stream) = mpsc::channel(PIECES_AHEAD);
    let header =
        v1::UploadHeader { purpose: Some(purpose.clone()), blob: Some(blob.into()), offset };
    let mut client = client.clone();
    let mut call = pin!(client.upload(ReceiverStream::new(stream)));
    let feed = feed(pieces, header, blob.size, path, file, progress, retries.patience);
    let reply = tokio::select! {
        // An answer before the last piece is a refusal: there is no use in sending the rest.
        reply = &mut call => reply,
        fed = feed => {
            fed?;
            let answered = tokio::time::timeout(retries.patience.stall_timeout, call).await;
            answered.unwrap_or_else(|_| Err(stalled(retries.patience)))
        }
    };
    let committed = reply?.into_inner().committed_size;
    reach("upload.reply").map_err(|e| Break::File(file_error("read", path)(e)))?;
    retries.reached(committed);
    if committed == blob.size {
        return Ok(());
    }
    let text = format!("it took {committed} of {} bytes and ended the upload", blob.size);
    Err(Status::unavailable(text).into())
}

/// Hands the pieces to the call, as fast as it takes them.
async fn feed(
    pieces: mpsc::Sender<v1::UploadRequest>,
    header: v1::UploadHeader,
    size: u64,
    path: &Path,
    file: &Arc<File>,
    progress: &mut Progress<'_>,
    patience: &Patience,
) -> Result<(), Break> {
    let mut done = header.offset;
    let (mut ahead, mut room) = (Bytes::new(), Room::default());
    let mut part = v1::upload_request::Part::Header(header);
    loop {
        let message = v1::UploadRequest { part: Some(part) };
        match tokio::time::timeout(patience.stall_timeout, pieces.send(message)).await {
            Ok(Ok(())) => progress(done, size),
            // The call is over; it, not we, knows why.
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(stalled(patience).into()),
        }
        if done == size {
            return Ok(());
        }
        if ahead.is_empty() {
            let read = read(file, done, size - done, room).await;
            (ahead, room) = read.map_err(|e| Break::File(file_error("read", path)(e)))?;
        }
        let piece = ahead.split_to(ahead.len().min(PIECE_BYTES));
        done += piece.len() as u64;
        part = v1::upload_request::Part::Data(piece);
    }
}

/// The next of the bytes that are left of the file.
async fn read(file: &Arc<File>, from: u64, left: u64, mut room: Room) -> io::Result<(Bytes, Room)> {
    reach("upload.read")?;
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    let mut block = room.take(left.min(AT_ONCE_BYTES));
    if at_once::read(file, from, &mut block)? {
        return Ok((room.give(block), room));
    }
    let file = Arc::clone(file);
    blocking(move || {
        block.resize(left.min(BLOCK_BYTES), 0);
        file.read_exact_at(&mut block, from)?;
        Ok((room.give(block), room))
    })
    .await
}
