//! A tap on the line between a site and the coordinator that holds the keys of both ends: it ends the site's
//! TLS as the coordinator, begins its own as the site, and keeps every byte of either side of that, as it is
//! on the wire and as it was said. For tests of what leaves a site; nobody but a lab has both keys.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::lab::Lab;

/// Connections that are kept before the tap takes no more: tests make few.
const CONNECTIONS_MAX: usize = 1_000;

/// The bytes of one way of one connection.
type Way = Arc<Mutex<Vec<u8>>>;

/// Everything that went by, way by way, so that nothing is torn by what went the other way.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    wire: Arc<Mutex<Vec<Way>>>,
    said: Arc<Mutex<Vec<Way>>>,
}

/// A tap that listens until it is dropped.
pub struct Tap {
    address: SocketAddr,
    kept: Kept,
    task: AbortHandle,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tap {
    /// A tap on the line of `site` to the coordinator of `lab`, on a port of its own.
    ///
    /// # Errors
    /// If a certificate of either does not read, or no port can be had.
    pub async fn start(lab: &Lab, site: &str) -> anyhow::Result<Tap> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, kept) = (listener.local_addr()?, Kept::default());
        let ends = Ends {
            server: lab.tls("main").server(Arc::new(|_| true))?,
            client: lab.tls(site).client()?,
            coordinator: lab.address().trim_start_matches("https://").parse()?,
            kept: kept.clone(),
        };
        let task = tokio::spawn(serve(listener, Arc::new(ends))).abort_handle();
        Ok(Tap { address, kept, task })
    }

    /// Where a site reaches the coordinator through the tap.
    pub fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The port that the tap listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What has gone by so far, as it was on the wire.
    pub fn wire(&self) -> Vec<Vec<u8>> {
        copies(&self.kept.wire)
    }

    /// What has gone by so far, as the ends said it.
    pub fn said(&self) -> Vec<Vec<u8>> {
        copies(&self.kept.said)
    }
}

/// The bytes are right after any panic, so a poisoned lock is no reason to stop.
fn lock<T>(kept: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copies(ways: &Mutex<Vec<Way>>) -> Vec<Vec<u8>> {
    lock(ways).iter().map(|way| lock(way).clone()).collect()
}

/// What it takes to be both ends.
struct Ends {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    coordinator: SocketAddr,
    kept: Kept,
}

async fn serve(listener: TcpListener, ends: Arc<Ends>) {
    for _ in 0..CONNECTIONS_MAX {
        let Ok((site, _)) = listener.accept().await else { return };
        let ends = Arc::clone(&ends);
        // A connection that breaks is the site's to begin again.
        tokio::spawn(async move { ends.connection(site).await });
    }
}

impl Ends {
    async fn connection(&self, site: TcpStream) -> io::Result<()> {
        let Kept { wire, said } = &self.kept;
        let coordinator = TcpStream::connect(self.coordinator).await?;
        site.set_nodelay(true).and_then(|()| coordinator.set_nodelay(true))?;
        let site = TlsAcceptor::from(Arc::clone(&self.server)).accept(Recorder::new(site, wire));
        let name = ServerName::from(self.coordinator.ip());
        let connector = TlsConnector::from(Arc::clone(&self.client));
        let coordinator = connector.connect(name, coordinator);
        let (site, mut coordinator) = tokio::try_join!(site, coordinator)?;
        let mut site = Recorder::new(site, said);
        tokio::io::copy_bidirectional(&mut site, &mut coordinator).await.map(drop)
    }
}

/// A stream whose bytes are kept.
struct Recorder<S> {
    stream: S,
    read: Way,
    written: Way,
}

impl<S> Recorder<S> {
    fn new(stream: S, kept: &Mutex<Vec<Way>>) -> Recorder<S> {
        let (read, written) = (Way::default(), Way::default());
        lock(kept).extend([Arc::clone(&read), Arc::clone(&written)]);
        Recorder { stream, read, written }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorder<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        lock(&self.read).extend_from_slice(&buffer.filled()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recorder<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            lock(&self.written).extend_from_slice(&bytes[..count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
