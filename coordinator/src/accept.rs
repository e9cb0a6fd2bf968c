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

use fedpaint_proto::enrolment;
use fedpaint_proto::identity::{Identity, KeyId, Validity};
use fedpaint_proto::names::FederationName;
use jiff::Timestamp;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};

use crate::clock::{Clock, within};
use crate::connections::{Connections, Place};
use crate::credentials::Credentials;
use crate::driver::Handle;
use crate::limits::Limits;

/// How long a stranger's connection lasts at most; whoever waits for an approval connects anew.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the loop rests after an accept error, such as too many open files, that lasts a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// By the certificate.
    pub(crate) who: Who,
    /// Where the connection comes from, for the log, and by which strangers are counted.
    pub(crate) address: SocketAddr,
    /// The connection itself, to be ended.
    pub(crate) line: Line,
}

/// A connection, as far as who serves its calls can end it. HTTP/2 lets nobody end a call whose answer is
/// not read: the connection is all that there is to take away.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line(CancellationToken);

impl Line {
    /// Ends the connection at once, with every call on it.
    pub(crate) fn hang_up(&self) {
        self.0.cancel();
    }
}

/// Who shows which certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The holder of a certificate of the federation.
    Member {
        /// The holder.
        identity: Identity,
        /// The certificate's key.
        key: KeyId,
        /// When the certificate ends.
        until: Timestamp,
    },
    /// Somebody without a certificate, who came by the protocol for joining.
    Stranger,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Who::Member { identity, .. } => write!(f, "{}", identity.role),
            Who::Stranger => f.write_str("a stranger"),
        }
    }
}

/// A connection whose holder is known. It ends when the holder's certificate does, or when the holder
/// is shut out.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    expired: Pin<Box<dyn Future<Output = ()> + Send>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    hung_up: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Why it has ended, once it has; futures that are finished are not polled again.
    ended: Option<&'static str>,
    // Held for as long as the connection is open.
    _permits: Permits,
    _place: Option<Place>,
}

/// A connection's place among all, and among strangers'.
type Permits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// What every connection of a listener has in common.
pub(crate) struct Door {
    /// Whom the certificates must be of.
    pub(crate) federation: FederationName,
    /// The handshakes' own rules, which change with the certificates.
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
    /// Tells when a certificate ends.
    pub(crate) clock: Arc<dyn Clock>,
    /// Knows who is shut out.
    pub(crate) driver: Handle,
    /// Every connection that is open.
    pub(crate) connections: Connections,
    /// How many there may be.
    pub(crate) limits: Limits,
}

/// What bounds the number of a listener's connections.
#[derive(Clone)]
struct Bounds {
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// Accepts connections of members of the federation, until the stream is dropped.
pub(crate) fn accept(listener: TcpListener, door: Door) -> ReceiverStream<io::Result<Connection>> {
    let (connected, connections) = mpsc::channel(1);
    let Limits { handshakes_max, connections_max, strangers_max, .. } = door.limits;
    let bounds = Bounds {
        handshakes: Arc::new(Semaphore::new(handshakes_max)),
        connections: Arc::new(Semaphore::new(connections_max)),
        strangers: Arc::new(Semaphore::new(strangers_max)),
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
    let Limits { handshakes_max, connections_max, .. } = door.limits;
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
            warn!(%address, handshakes_max, "too many handshakes under way; closed");
            continue;
        };
        let Ok(permit) = Arc::clone(&bounds.connections).try_acquire_owned() else {
            warn!(%address, connections_max, "too many connections open; closed");
            continue;
        };
        let (door, connected, bounds) = (Arc::clone(&door), connected.clone(), bounds.clone());
        tokio::spawn(async move {
            let entering = door.enter(tcp, address, permit, &bounds);
            let shaken = within(&*door.clock, HANDSHAKE_TIMEOUT, entering).await;
            let late =
                || Err(format!("the handshake took more than {} s", HANDSHAKE_TIMEOUT.as_secs()));
            let shaken = shaken.unwrap_or_else(late);
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
        bounds: &Bounds,
    ) -> Result<Connection, String> {
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let hello = LazyConfigAcceptor::new(Acceptor::default(), tcp);
        let hello = hello.await.map_err(|e| e.to_string())?;
        let joining = hello
            .client_hello()
            .alpn()
            .is_some_and(|mut offered| offered.any(|protocol| protocol == enrolment::ALPN));
        let credentials = Arc::clone(&*self.credentials.borrow());
        if let Some(strangers) = credentials.strangers.as_ref().filter(|_| joining) {
            let stranger = Arc::clone(&bounds.strangers).try_acquire_owned();
            let stranger = stranger.map_err(|_| {
                let max = self.limits.strangers_max;
                format!("{max} strangers are connected, the most there may be")
            })?;
            let stream =
                hello.into_stream(Arc::clone(strangers)).await.map_err(|e| e.to_string())?;
            return Ok(self.stranger(stream, address, (permit, Some(stranger))));
        }
        let stream = hello.into_stream(Arc::clone(&credentials.server));
        let stream = stream.await.map_err(|e| e.to_string())?;
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.ok_or("no certificate")?;
        let identity = Identity::from_certificate(certificate).map_err(|e| e.to_string())?;
        if identity.federation != self.federation {
            return Err(format!("the certificate is of federation {}", identity.federation));
        }
        let key = KeyId::of_certificate(certificate).map_err(|e| e.to_string())?;
        let until = Validity::of_certificate(certificate).map_err(|e| e.to_string())?.not_after;
        let place = self.connections.enter(&identity.role, key)?;
        // Looked at again once it can be cut: it may have been shut out since the handshake.
        if self.driver.shuts_out(&identity.role, &key) {
            return Err(format!("{} is shut out", identity.role));
        }
        let clock = Arc::clone(&self.clock);
        let expired = Box::pin(async move { clock.sleep_until(until).await });
        let cut = Box::pin(place.cut().clone().cancelled_owned());
        debug!(%address, %identity, "connected");
        let line = Line::default();
        let hung_up = Box::pin(line.0.clone().cancelled_owned());
        let peer = Peer { who: Who::Member { identity, key, until }, address, line };
        let (_permits, _place) = ((permit, None), Some(place));
        Ok(Connection { stream, peer, expired, cut, hung_up, ended: None, _permits, _place })
    }

    /// A connection that ends soon, whatever happens on it.
    fn stranger(
        &self,
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        _permits: Permits,
    ) -> Connection {
        debug!(%address, "a stranger is connected");
        let line = Line::default();
        let hung_up = Box::pin(line.0.clone().cancelled_owned());
        let peer = Peer { who: Who::Stranger, address, line };
        let expired = self.clock.sleep(STRANGER_TIMEOUT);
        let cut = Box::pin(CancellationToken::new().cancelled_owned());
        Connection { stream, peer, expired, cut, hung_up, ended: None, _permits, _place: None }
    }
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
            } else if self.hung_up.as_mut().poll(context).is_ready() {
                self.ended = Some("a reader was too slow");
            } else if self.expired.as_mut().poll(context).is_ready() {
                self.ended = Some("the certificate has expired, or a stranger stayed too long");
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
