//! A client's connection that somebody else has a hand in: who sends frames of their own on it, or holds back what
//! the client says. Its last word is heard as on every other.

use std::io;

use fedpaint_proto::farewell::Heard;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Endpoint;
use tower::service_fn;

use crate::federation::{Client, Federation};
use crate::pki::Leaf;
use crate::raw::{Frame, HEADERS, frame, next};

/// The first of somebody else's streams: far behind those of the client on whose connection they are.
pub(crate) const OTHERS: u32 = 1_001;

/// How much waits between a client and the connection.
const BUFFER_BYTES: usize = 64 << 10;

/// What an HTTP/2 connection begins with (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;

/// A client's connection on which frames of somebody else come to the coordinator too, where the client is quiet.
pub(crate) async fn shared(federation: &Federation, uri: &str) -> (Client, mpsc::Sender<Vec<u8>>) {
    let (mut from_there, mut to_there) = tokio::io::split(dial(federation, uri).await);
    let (near, far) = tokio::io::duplex(BUFFER_BYTES);
    let (mut from_client, mut to_client) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Ok(Frame { kind, flags, stream, payload }) = next(&mut from_there).await {
            // Of somebody else's streams the client is to know nothing.
            let known = frame(kind, flags, stream, &payload);
            if stream < OTHERS && to_client.write_all(&known).await.is_err() {
                return;
            }
        }
    });
    let (blows, mut blow) = mpsc::channel::<Vec<u8>>(1);
    tokio::spawn(async move {
        let mut bytes = vec![0; 16 << 10];
        loop {
            let bytes = tokio::select! {
                read = from_client.read(&mut bytes) => match read {
                    Ok(length @ 1..) => bytes[..length].to_vec(),
                    _ => return,
                },
                Some(blow) = blow.recv() => blow,
            };
            if to_there.write_all(&bytes).await.is_err() || to_there.flush().await.is_err() {
                return;
            }
        }
    });
    (over(near).await, blows)
}

/// A client whose first calls, so many, come to the coordinator all at once, and which hears of no limit before.
pub(crate) async fn at_once(federation: &Federation, uri: &str, calls: u32) -> Client {
    let mut there = dial(federation, uri).await;
    let (near, mut far) = tokio::io::duplex(BUFFER_BYTES);
    tokio::spawn(async move {
        let begun = gather(&mut far, calls).await?;
        there.write_all(&begun).await?;
        there.flush().await?;
        tokio::io::copy_bidirectional(&mut far, &mut there).await
    });
    over(near).await
}

/// What a client says until it has begun so many calls.
async fn gather(client: &mut (impl AsyncRead + Unpin), calls: u32) -> io::Result<Vec<u8>> {
    let mut said = vec![0; PREFACE_BYTES];
    client.read_exact(&mut said).await?;
    let mut begun = 0;
    while begun < calls {
        let Frame { kind, flags, stream, payload } = next(client).await?;
        begun += u32::from(kind == HEADERS);
        said.extend(frame(kind, flags, stream, &payload));
    }
    Ok(said)
}

/// A connection of whoever this is.
async fn dial(federation: &Federation, uri: &str) -> TlsStream<TcpStream> {
    let files = federation.certificate(&federation.authority, &Leaf::client(uri));
    let tcp = TcpStream::connect(federation.address).await.unwrap();
    let name = ServerName::from(federation.address.ip());
    TlsConnector::from(files.client().unwrap()).connect(name, tcp).await.unwrap()
}

/// A client over these bytes, which connects once.
async fn over(near: DuplexStream) -> Client {
    let mut near = Some(near);
    let once = service_fn(move |_: Uri| std::future::ready(take(&mut near)));
    let channel = Endpoint::from_static("http://127.0.0.1").connect_with_connector(once).await;
    Client::over(channel.unwrap())
}

/// The connection, the first time.
fn take(near: &mut Option<DuplexStream>) -> io::Result<TokioIo<Heard<DuplexStream>>> {
    let near = near.take().ok_or_else(|| io::Error::other("it is connected once"))?;
    Ok(TokioIo::new(Heard::new(near)))
}
