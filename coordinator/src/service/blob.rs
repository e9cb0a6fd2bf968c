//! Bytes by digest, in pieces: what is asked for is decided by the driver, what is there by the blobs.
//!
//! A transfer holds one piece in memory. It ends when too few bytes move ([`Pace`]), when the server
//! stops, or when the site at the other end is revoked; what has arrived by then is kept.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use fedpaint_proto::failpoint::reach;
use fedpaint_proto::limits::{CHUNK_BYTES_MAX, MODEL_BYTES_MAX, PIECE_BYTES};
use fedpaint_proto::names::{Blob, Digest, RoundId, RunName};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::statement::manifest_to_wire;
use fedpaint_proto::v1::blob_service_server::BlobService;
use fedpaint_proto::v1::upload_purpose::Purpose;
use fedpaint_proto::v1::upload_request::Part;
use fedpaint_proto::v1::{
    DownloadRequest, DownloadResponse, GetManifestRequest, GetManifestResponse,
    GetUploadStatusRequest, GetUploadStatusResponse, UploadHeader, UploadPurpose, UploadRequest,
    UploadResponse,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, error, info};

use crate::blobs::{self, Download, UploadStatus};
use crate::clock::within;
use crate::driver::Upload;
use crate::service::access::{Caller, Member};
use crate::service::pace::{Pace, TooSlow};
use crate::service::{LAST_WORD_TIMEOUT, Parts, draining, end_draining, parse, status};
use crate::slots::Slot;

/// How many pieces of a download wait for the connection to take them.
const CHUNKS_AHEAD: usize = 8;

/// What bounds the size of an update, in words.
const OF_AN_UPDATE: &str = "as many as its base model and UPDATE_SLACK_BYTES";

/// The blobs, as the wire sees them.
pub(crate) struct Service {
    /// What the service is made from.
    pub(crate) parts: Parts,
}

type Downloads = Pin<Box<dyn Stream<Item = Result<DownloadResponse, Status>> + Send>>;

#[tonic::async_trait]
impl BlobService for Service {
    type DownloadStream = Downloads;

    async fn get_manifest(
        &self,
        request: Request<GetManifestRequest>,
    ) -> Result<Response<GetManifestResponse>, Status> {
        let run: RunName = parse::name(&request.get_ref().run)?;
        let version = request.get_ref().version;
        let manifest = self.parts.driver.manifest(&run, version).await;
        let manifest = manifest_to_wire(&manifest.map_err(status::of_driver)?);
        Ok(Response::new(GetManifestResponse { manifest: Some(manifest) }))
    }

    async fn get_upload_status(
        &self,
        request: Request<GetUploadStatusRequest>,
    ) -> Result<Response<GetUploadStatusResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let GetUploadStatusRequest { purpose, blob } = request.into_inner();
        let blob = parse::blob(blob.as_ref())?;
        self.may_upload(&caller, purpose, blob).await?;
        let sender = caller.role();
        let held = self.parts.blobs.upload_status(&sender, &blob).await;
        let UploadStatus { committed_size, complete } = held.map_err(status::of_blobs)?;
        Ok(Response::new(GetUploadStatusResponse { committed_size, complete }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let mut parts = request.into_inner();
        let mut pace = Pace::begin(Arc::clone(&self.parts.clock));
        let Some(Part::Header(header)) = self.next(&mut parts, &mut pace).await? else {
            return Err(parse::invalid("an upload begins with a header"));
        };
        let UploadHeader { purpose, blob, offset } = header;
        let blob = parse::blob(blob.as_ref())?;
        let round = self.may_upload(&caller, purpose, blob).await?;
        // A task of its own: a connection that breaks drops this call, and with it the pieces that have
        // come and are not on the disk yet. The task takes them all in before it meets the break.
        let service = Service { parts: self.parts.clone() };
        let slot = self.slot(&caller, round.as_ref())?;
        let taking = tokio::spawn(async move {
            let _slot = slot;
            let from = (&caller, round.as_ref());
            service.take(from, blob, offset, (&mut parts, &mut pace)).await
        });
        let committed_size = taking.await.map_err(|error| {
            error!(%error, "taking an upload in failed");
            Reason::Internal.status("the coordinator failed; its log says how")
        })??;
        // From here on only a reply can be lost.
        let _ = reach("reply.upload");
        Ok(Response::new(UploadResponse { committed_size }))
    }

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Downloads>, Status> {
        let caller = Caller::of(request.extensions())?;
        let DownloadRequest { digest, offset } = request.into_inner();
        let digest = Digest::try_from(&digest[..]).map_err(parse::invalid)?;
        let allowed = self.parts.driver.may_download(&caller.role(), &digest).await;
        allowed.map_err(status::of_driver)?;
        if let Member::Operator(name) = &caller.member {
            let agreed = self.parts.driver.may_export(name, &digest, offset).await;
            agreed.map_err(status::of_driver)?;
        }
        let begun = self.parts.blobs.download(&digest, offset).await;
        let download = begun.map_err(status::of_blobs)?;
        let size = download.size();
        info!(%caller, blob = %digest, offset, size, "download");
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let (last, last_word) = oneshot::channel();
        let pace = Pace::begin(Arc::clone(&self.parts.clock));
        let parts = self.parts.clone();
        tokio::spawn(async move {
            if let Err(too_slow) = give(&parts, &caller, download, pace, &sender).await {
                info!(%caller, %too_slow, "a download is broken off");
                break_off(&parts, &caller, too_slow, (last, &sender)).await;
            }
        });
        let last_word = Some(last_word);
        Ok(Response::new(Box::pin(Given { chunks: ReceiverStream::new(chunks), last_word })))
    }
}

impl Service {
    /// The round that `blob` is an update for, if it is one, once the caller may upload it.
    async fn may_upload(
        &self,
        caller: &Caller,
        purpose: Option<UploadPurpose>,
        blob: Blob,
    ) -> Result<Option<RoundId>, Status> {
        let purpose = purpose.and_then(|purpose| purpose.purpose);
        let (round, bytes_max, limit) = match (parse::present("purpose", purpose)?, &caller.member)
        {
            (Purpose::Update(round), Member::Site(site)) => {
                let round: RoundId = parse::round(Some(&round))?;
                let driver = &self.parts.driver;
                let bytes_max = driver.may_upload_again(site, &round, &blob).await;
                (Some(round), bytes_max.map_err(status::of_driver)?, OF_AN_UPDATE)
            }
            (Purpose::InitialModel(_), Member::Operator(_)) => {
                (None, MODEL_BYTES_MAX, "MODEL_BYTES_MAX")
            }
            (Purpose::Update(_), Member::Operator(_)) => {
                return Err(Reason::WrongRole.status("an operator has no update to upload"));
            }
            (Purpose::InitialModel(_), Member::Site(_)) => {
                return Err(Reason::WrongRole.status("a site may not upload an initial model"));
            }
        };
        if blob.size > bytes_max {
            let size = blob.size;
            let what =
                format!("the blob has {size} bytes, it may have at most {bytes_max} ({limit})");
            return Err(Reason::TooLarge.status(what));
        }
        Ok(round)
    }

    /// A slot for an upload. A caller who has to come again is one of those whom the round waits for: the line
    /// is ours, and no site pays for it with its deadline.
    fn slot(&self, caller: &Caller, round: Option<&RoundId>) -> Result<Slot, Status> {
        let Parts { slots, clock, driver, metrics, .. } = &self.parts;
        slots.take(&caller.role(), clock.now()).map_err(|full| {
            if let (Member::Site(site), Some(round)) = (&caller.member, round) {
                driver.in_line(site, round);
            }
            metrics.uploads_put_off.inc();
            debug!(%caller, %full, "an upload is put off");
            Reason::UploadBusy.status_after(full.to_string(), full.after())
        })
    }

    /// Takes the pieces of `blob` from `offset` on, and keeps what has come whatever happens.
    async fn take(
        &self,
        (caller, round): (&Caller, Option<&RoundId>),
        blob: Blob,
        offset: u64,
        (parts, pace): (&mut Streaming<UploadRequest>, &mut Pace),
    ) -> Result<u64, Status> {
        let begun = self.parts.blobs.upload(&caller.role(), blob, offset).await;
        let mut upload = begun.map_err(status::of_blobs)?;
        info!(%caller, blob = %blob.digest, offset, size = blob.size, "upload");
        if upload.was_here() {
            return Ok(upload.committed_size());
        }
        let taken = self.pieces((caller, round), blob, &mut upload, (parts, pace)).await;
        if let Err(status) = taken {
            // Whoever asks next how much is here is to be told the whole.
            if let Err(error) = upload.keep().await {
                info!(%caller, blob = %blob.digest, %error, "an upload that broke is not all kept");
            }
            return Err(status);
        }
        debug!(%caller, blob = %blob.digest, here = upload.committed_size(), "upload is here");
        let committed_size = upload.finish().await.map_err(status::of_blobs)?;
        debug!(%caller, blob = %blob.digest, committed_size, "upload ended");
        Ok(committed_size)
    }

    async fn pieces(
        &self,
        (caller, round): (&Caller, Option<&RoundId>),
        blob: Blob,
        upload: &mut blobs::Upload,
        (parts, pace): (&mut Streaming<UploadRequest>, &mut Pace),
    ) -> Result<(), Status> {
        while let Some(part) = self.next(parts, pace).await? {
            let Part::Data(data) = part else {
                return Err(parse::invalid("an upload has one header"));
            };
            caller.still_may(&self.parts.driver)?;
            // What is here already may be more than the header says.
            let left = blob.size.saturating_sub(upload.committed_size());
            if data.is_empty() || data.len() > CHUNK_BYTES_MAX || data.len() as u64 > left {
                let bytes = data.len();
                let what = format_args!(
                    "a piece has {bytes} bytes, it must have from 1 to {CHUNK_BYTES_MAX} \
                     (CHUNK_BYTES_MAX), and no more than the {left} that are left"
                );
                return Err(parse::invalid(what));
            }
            let bytes = data.len();
            self.parts.metrics.bytes_in.inc_by(bytes as u64);
            upload.write(data).await.map_err(status::of_blobs)?;
            pace.moved(bytes);
            if let (Member::Site(site), Some(round)) = (&caller.member, round) {
                let (here, size) = (upload.committed_size(), blob.size);
                self.parts.driver.arriving(site, round, Upload { here, size });
            }
        }
        Ok(())
    }

    /// The next part of an upload, unless too little comes for too long or the server stops.
    async fn next(
        &self,
        parts: &mut Streaming<UploadRequest>,
        pace: &mut Pace,
    ) -> Result<Option<Part>, Status> {
        let message = tokio::select! {
            () = self.parts.stop.cancelled() => return Err(draining()),
            message = pace.keep(parts.message()) => message,
        };
        match message.map_err(|slow| Reason::TooSlow.status(slow.to_string()))?? {
            None => Ok(None),
            Some(UploadRequest { part: Some(part) }) => Ok(Some(part)),
            Some(UploadRequest { part: None }) => {
                Err(parse::invalid("a part of an upload is a header or data"))
            }
        }
    }
}

/// What a caller is given of a blob, until a last word that waits behind no piece.
struct Given {
    chunks: ReceiverStream<Result<DownloadResponse, Status>>,
    last_word: Option<oneshot::Receiver<Status>>,
}

impl Stream for Given {
    type Item = Result<DownloadResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(last_word) = &mut self.last_word
            && let Poll::Ready(said) = Pin::new(last_word).poll(context)
        {
            self.last_word = None;
            if let Ok(status) = said {
                return Poll::Ready(Some(Err(status)));
            }
        }
        Pin::new(&mut self.chunks).poll_next(context)
    }
}

/// Ends a download by which too little moves: with the reason where the caller's window lets the answer end, and
/// otherwise with the connection, whose last word the reason is then. Nothing else gets past what is not read.
async fn break_off(
    parts: &Parts,
    caller: &Caller,
    why: TooSlow,
    (last, chunks): (oneshot::Sender<Status>, &mpsc::Sender<Result<DownloadResponse, Status>>),
) {
    // Who has gone meanwhile does not hear it.
    let _ = last.send(Reason::TooSlow.status(why.to_string()));
    if within(&*parts.clock, LAST_WORD_TIMEOUT, chunks.closed()).await.is_none() {
        info!(%caller, "its connection is cut, for the last word is not taken either");
        caller.hang_up(why);
    }
}

/// Sends a blob's bytes until it ends and all of them are taken, or until nobody takes them.
async fn give(
    parts: &Parts,
    caller: &Caller,
    mut download: Download,
    mut pace: Pace,
    chunks: &mpsc::Sender<Result<DownloadResponse, Status>>,
) -> Result<(), TooSlow> {
    loop {
        let (chunk, bytes) = match next_chunk(parts, caller, &mut download).await {
            Ok(data) => {
                parts.metrics.bytes_out.inc_by(data.len() as u64);
                let bytes = data.len();
                (Ok(DownloadResponse { data }), bytes)
            }
            Err(status) => (Err(status), 0),
        };
        if chunk.is_ok() && bytes == 0 {
            break;
        }
        let sent = tokio::select! {
            () = parts.stop.cancelled() => {
                end_draining(chunks).await;
                return Ok(());
            }
            sent = pace.keep(chunks.send(chunk)) => sent?,
        };
        // The reader is gone, or has heard why there is no more.
        if sent.is_err() || bytes == 0 {
            return Ok(());
        }
        pace.moved(bytes);
    }
    // What waits to be taken is given up as what waits to be sent is.
    for free in chunks.capacity() + 1..=CHUNKS_AHEAD {
        tokio::select! {
            () = parts.stop.cancelled() => return Ok(()),
            // Either there is more room, or the reader is gone and nothing is waited for.
            room = pace.keep(chunks.reserve_many(free)) => drop(room?),
        }
        pace.moved(PIECE_BYTES);
    }
    debug!(%caller, "download ended");
    Ok(())
}

/// The next piece; nothing at the end.
async fn next_chunk(
    parts: &Parts,
    caller: &Caller,
    download: &mut Download,
) -> Result<Bytes, Status> {
    caller.still_may(&parts.driver)?;
    download.next(PIECE_BYTES).await.map_err(status::of_blobs)
}
