//! TCP and TLS: turns a listener into a stream of connections whose holder is known.
//!
//! The loop never ends on an accept error, and nothing a stranger does holds it up: the handshake
//! runs beside it, bounded in number and in time. It decides who somebody is, never what they may do.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fedpaint_proto::identity::Identity;
use fedpaint_proto::names::FederationName;
use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::Clock;

/// The most connections open at once; another one is closed at once and tries again.
const CONNECTIONS_MAX: usize = 1_024;

/// The most handshakes under way at once.
const HANDSHAKES_MAX: usize = 256;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the loop rests after an accept error, such as too many open files, that lasts a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The holder of the certificate.
    pub(crate) identity: Identity,
    /// Where the connection comes from, for the log.
    pub(crate) address: SocketAddr,
}

/// A connection whose holder is known. It ends when the holder's certificate does.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    expired: Pin<Box<dyn Future<Output = ()> + Send>>,
    // Held for as long as the connection is open.
    _permit: OwnedSemaphorePermit,
}

/// What every connection of a listener has in common.
struct Door {
    tls: TlsAcceptor,
    federation: FederationName,
    clock: Arc<dyn Clock>,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// Accepts connections of members of `federation`, until the stream is dropped.
pub(crate) fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    federation: FederationName,
    clock: Arc<dyn Clock>,
) -> ReceiverStream<io::Result<Connection>> {
    let (connected, connections) = mpsc::channel(1);
    let door = Arc::new(Door {
        tls: TlsAcceptor::from(tls),
        federation,
        clock,
        handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    });
    tokio::spawn(run(listener, door, connected));
    ReceiverStream::new(connections)
}

async fn run(
    listener: TcpListener,
    door: Arc<Door>,
    connected: mpsc::Sender<io::Result<Connection>>,
) {
    loop {
        let accepted = tokio::select! {
            () = connected.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let permits = (
            Arc::clone(&door.handshakes).try_acquire_owned(),
            Arc::clone(&door.connections).try_acquire_owned(),
        );
        let (Ok(handshake), Ok(permit)) = permits else {
            warn!(%address, "too many connections; closed");
            continue;
        };
        let (door, connected) = (Arc::clone(&door), connected.clone());
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, door.enter(tcp, address, permit));
            let shaken = shaken.await.unwrap_or(Err("the handshake took too long".to_owned()));
            drop(handshake);
            match shaken {
                // The receiver is gone only when the server is.
                Ok(connection) => drop(connected.send(Ok(connection)).await),
                Err(reason) => info!(%address, reason, "connection refused"),
            }
        });
    }
}

impl Door {
    /// The handshake, and the reading of the certificate; an error says why, for the log alone.
    async fn enter(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Result<Connection, String> {
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let stream = self.tls.accept(tcp).await.map_err(|e| e.to_string())?;
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.ok_or("no certificate")?;
        let identity = Identity::from_certificate(certificate).map_err(|e| e.to_string())?;
        if identity.federation != self.federation {
            return Err(format!("the certificate is of federation {}", identity.federation));
        }
        let until = not_after(certificate).ok_or("the certificate has no end")?;
        let clock = Arc::clone(&self.clock);
        let expired = Box::pin(async move { clock.sleep_until(until).await });
        debug!(%address, %identity, "connected");
        Ok(Connection { stream, peer: Peer { identity, address }, expired, _permit: permit })
    }
}

/// When a certificate, as DER, ends.
pub(crate) fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    // Later than a timestamp can be is as good as the last timestamp.
    let seconds = certificate.validity().not_after.timestamp();
    Some(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connection {
    fn poll_alive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.expired.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                // A finished future must not be polled again.
                self.expired = Box::pin(std::future::ready(()));
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the certificate has expired"))
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_alive(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_alive(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_alive(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
