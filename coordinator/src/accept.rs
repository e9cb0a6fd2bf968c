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

use fedpaint_proto::identity::{Identity, KeyId};
use fedpaint_proto::names::FederationName;
use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::Clock;
use crate::connections::{Connections, Place};
use crate::driver::Handle;

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
    /// The certificate's key.
    pub(crate) key: KeyId,
    /// Where the connection comes from, for the log.
    pub(crate) address: SocketAddr,
}

/// A connection whose holder is known. It ends when the holder's certificate does, or when the holder
/// is shut out.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    expired: Pin<Box<dyn Future<Output = ()> + Send>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Why it has ended, once it has; futures that are finished are not polled again.
    ended: Option<&'static str>,
    // Both are held for as long as the connection is open.
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

/// What every connection of a listener has in common.
pub(crate) struct Door {
    /// Whom the certificates must be of.
    pub(crate) federation: FederationName,
    /// The handshake's own rules.
    pub(crate) tls: Arc<ServerConfig>,
    /// Tells when a certificate ends.
    pub(crate) clock: Arc<dyn Clock>,
    /// Knows who is shut out.
    pub(crate) driver: Handle,
    /// Every connection that is open.
    pub(crate) connections: Connections,
}

/// What bounds the number of a listener's connections.
struct Bounds {
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// Accepts connections of members of the federation, until the stream is dropped.
pub(crate) fn accept(listener: TcpListener, door: Door) -> ReceiverStream<io::Result<Connection>> {
    let (connected, connections) = mpsc::channel(1);
    let bounds = Bounds {
        handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    };
    tokio::spawn(run(listener, Arc::new(door), bounds, connected));
    ReceiverStream::new(connections)
}

async fn run(
    listener: TcpListener,
    door: Arc<Door>,
    bounds: Bounds,
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
        let Ok(handshake) = Arc::clone(&bounds.handshakes).try_acquire_owned() else {
            warn!(%address, HANDSHAKES_MAX, "too many handshakes under way; closed");
            continue;
        };
        let Ok(permit) = Arc::clone(&bounds.connections).try_acquire_owned() else {
            warn!(%address, CONNECTIONS_MAX, "too many connections open; closed");
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
        let tls = TlsAcceptor::from(Arc::clone(&self.tls));
        let stream = tls.accept(tcp).await.map_err(|e| e.to_string())?;
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.ok_or("no certificate")?;
        let identity = Identity::from_certificate(certificate).map_err(|e| e.to_string())?;
        if identity.federation != self.federation {
            return Err(format!("the certificate is of federation {}", identity.federation));
        }
        let key = KeyId::of_certificate(certificate).map_err(|e| e.to_string())?;
        let until = not_after(certificate).ok_or("the certificate has no end")?;
        let place = self.connections.enter(&identity.role, key)?;
        // Looked at again once it can be cut: it may have been shut out since the handshake.
        if self.driver.shuts_out(&identity.role, &key) {
            return Err(format!("{} is shut out", identity.role));
        }
        let clock = Arc::clone(&self.clock);
        let expired = Box::pin(async move { clock.sleep_until(until).await });
        let cut = Box::pin(place.cut().clone().cancelled_owned());
        debug!(%address, %identity, "connected");
        let peer = Peer { identity, key, address };
        let (_permit, _place) = (permit, place);
        Ok(Connection { stream, peer, expired, cut, ended: None, _permit, _place })
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
    /// An error once the connection is to end; until then the task is woken when it is.
    fn poll_alive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.ended.is_none() {
            if self.cut.as_mut().poll(context).is_ready() {
                self.ended = Some("the holder of the certificate is shut out");
            } else if self.expired.as_mut().poll(context).is_ready() {
                self.ended = Some("the certificate has expired");
            }
        }
        match self.ended {
            None => Ok(()),
            Some(why) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)),
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

    // Whoever does not read holds up a flush, and must not hold up the end by it.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_alive(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_alive(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
