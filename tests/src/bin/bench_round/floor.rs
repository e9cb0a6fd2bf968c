//! The floor of a round: the same bytes through bare tonic streams by as many clients at once, and every
//! file that a round writes written and synced once. No digest, no database, no average, no waiting.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use std::{io, vec};

use bytes::Bytes;
use fedpaint_proto::channel::{self, Address};
use fedpaint_proto::limits;
use fedpaint_proto::v1::blob_service_client::BlobServiceClient;
use fedpaint_proto::v1::blob_service_server::{BlobService, BlobServiceServer};
use fedpaint_proto::v1::{self, upload_request};
use fedpaint_tests::lab::FEDERATION;
use fedpaint_tests::outcome::quantile;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::machine;

/// How much of a stream may be under way: more than loopback ever needs.
const WINDOW_BYTES: u32 = 8 << 20;

/// How often each part is measured.
const REPEATS: usize = 3;

/// What the floor is made of, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    /// Every client downloads the model, all at once.
    pub(crate) download_s: f64,
    /// Every client uploads as much, all at once.
    pub(crate) upload_s: f64,
    /// Every file that a round writes, as many at once as there are clients.
    pub(crate) files_s: f64,
}

impl Floor {
    /// A round's floor.
    pub(crate) fn seconds(&self) -> f64 {
        self.download_s + self.upload_s + self.files_s
    }
}

/// Gives away and swallows bytes.
struct Bare {
    bytes: usize,
}

type Pieces = tokio_stream::Iter<vec::IntoIter<Result<v1::DownloadResponse, Status>>>;

#[tonic::async_trait]
impl BlobService for Bare {
    async fn get_manifest(
        &self,
        _: Request<v1::GetManifestRequest>,
    ) -> Result<Response<v1::GetManifestResponse>, Status> {
        Ok(Response::new(v1::GetManifestResponse::default()))
    }

    async fn get_upload_status(
        &self,
        _: Request<v1::GetUploadStatusRequest>,
    ) -> Result<Response<v1::GetUploadStatusResponse>, Status> {
        Ok(Response::new(v1::GetUploadStatusResponse::default()))
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let mut parts = request.into_inner();
        let mut committed_size = 0;
        while let Some(part) = parts.message().await? {
            if let Some(upload_request::Part::Data(data)) = part.part {
                committed_size += data.len() as u64;
            }
        }
        Ok(Response::new(v1::UploadResponse { committed_size }))
    }

    type DownloadStream = Pieces;

    async fn download(&self, _: Request<v1::DownloadRequest>) -> Result<Response<Pieces>, Status> {
        let answers = pieces(self.bytes).map(|data| Ok(v1::DownloadResponse { data }));
        Ok(Response::new(tokio_stream::iter(answers.collect::<Vec<_>>())))
    }
}

/// So many bytes in pieces as long as a transfer's, all of them the same memory.
fn pieces(bytes: usize) -> impl Iterator<Item = Bytes> {
    let piece = Bytes::from(vec![7_u8; limits::PIECE_BYTES]);
    let count = bytes.div_ceil(limits::PIECE_BYTES);
    (0..count).map(move |i| piece.slice(..piece.len().min(bytes - i * piece.len())))
}

/// Serves [`Bare`] over mutual TLS on loopback; its port.
///
/// # Errors
/// If no port is free.
pub(crate) async fn serve(bytes: usize, tls: Arc<ServerConfig>) -> io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let acceptor = TlsAcceptor::from(tls);
    let incoming = TcpListenerStream::new(listener).then(move |socket| {
        let acceptor = acceptor.clone();
        async move {
            let socket = socket?;
            socket.set_nodelay(true)?;
            acceptor.accept(socket).await.map(Connection)
        }
    });
    let server = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .max_frame_size(limits::HTTP2_FRAME_BYTES_MAX)
        .add_service(BlobServiceServer::new(Bare { bytes }))
        .serve_with_incoming(incoming);
    // It ends with the program.
    tokio::spawn(server);
    Ok(port)
}

/// A connection whose handshake is over.
struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Measures the floor of a round of so many sites, of each part the median of [`REPEATS`].
///
/// # Errors
/// If a stream breaks or the disk does not take a file.
pub(crate) async fn measure(
    folder: &Path,
    bytes: usize,
    sites: usize,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> anyhow::Result<Floor> {
    let address: Address = format!("https://127.0.0.1:{}", serve(bytes, server).await?).parse()?;
    let federation = FEDERATION.parse()?;
    let mut channels = Vec::new();
    for _ in 0..sites {
        channels.push(channel::connect(&address, &federation, client.clone()).await?);
    }
    let (mut down, mut up, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let begin = Instant::now();
        at_once(&channels, |channel| download(channel, bytes)).await?;
        down.push(begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        at_once(&channels, |channel| upload(channel, bytes)).await?;
        up.push(begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        write_files(folder, bytes, files_of_a_round(sites), sites).await?;
        files.push(begin.elapsed().as_secs_f64());
    }
    let median = |values: &[f64]| quantile(values, 0.5);
    Ok(Floor { download_s: median(&down), upload_s: median(&up), files_s: median(&files) })
}

/// A site keeps the base model and its update, the coordinator each update and their mean.
fn files_of_a_round(sites: usize) -> usize {
    3 * sites + 1
}

/// Has every client do its work at the same time.
async fn at_once<F>(channels: &[Channel], work: impl Fn(Channel) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let tasks: Vec<_> = channels.iter().map(|c| tokio::spawn(work(c.clone()))).collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn download(channel: Channel, bytes: usize) -> anyhow::Result<()> {
    let request = v1::DownloadRequest::default();
    let mut stream = BlobServiceClient::new(channel).download(request).await?.into_inner();
    let mut read = 0;
    while let Some(piece) = stream.message().await? {
        read += piece.data.len();
    }
    anyhow::ensure!(read == bytes, "{read} of {bytes} bytes came");
    Ok(())
}

async fn upload(channel: Channel, bytes: usize) -> anyhow::Result<()> {
    let part = |data| v1::UploadRequest { part: Some(upload_request::Part::Data(data)) };
    let parts = tokio_stream::iter(pieces(bytes).map(part));
    let sent = BlobServiceClient::new(channel).upload(parts).await?.into_inner().committed_size;
    anyhow::ensure!(sent == bytes as u64, "{sent} of {bytes} bytes were taken");
    Ok(())
}

/// Writes and syncs `files` of `bytes` each, `at_once` of them at a time.
async fn write_files(
    folder: &Path,
    bytes: usize,
    files: usize,
    at_once: usize,
) -> anyhow::Result<()> {
    let paths: Vec<PathBuf> = (0..files).map(|i| folder.join(format!("floor-{i}"))).collect();
    for some in paths.chunks(at_once.max(1)) {
        let write =
            |path: PathBuf| tokio::task::spawn_blocking(move || machine::write_file(&path, bytes));
        let writing: Vec<_> = some.iter().cloned().map(write).collect();
        for one in writing {
            one.await??;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_as_many_bytes_as_asked_for() {
        for bytes in [0, 1, limits::PIECE_BYTES, limits::PIECE_BYTES + 1, 1_000_000] {
            let lengths: Vec<usize> = pieces(bytes).map(|piece| piece.len()).collect();
            assert_eq!(lengths.iter().sum::<usize>(), bytes);
            assert!(lengths.iter().all(|length| *length > 0));
        }
    }
}
