//! TCP and TLS: turns a listener into a stream of connections whose holder is known.
//!
//! The loop never ends on an accept error, and nothing a stranger does holds it up: the handshake
//! runs beside it, bounded in number and in time. It decides who somebody is, never what they may do.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use fedpaint_proto::identity::{Identity, Role};
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

/// The most connections one holder of a certificate may have open, so that none can take the places
/// of all others. A site that loses its network leaves some behind until keep-alive finds them dead.
const CONNECTIONS_PER_PEER_MAX: usize = 32;

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
    // Both are held for as long as the connection is open.
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

/// How many connections each holder of a certificate has open.
type Places = Arc<Mutex<HashMap<Role, usize>>>;

/// One connection of a holder, counted.
struct Place {
    places: Places,
    role: Role,
}

/// What every connection of a listener has in common.
struct Door {
    tls: TlsAcceptor,
    federation: FederationName,
    clock: Arc<dyn Clock>,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    places: Places,
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
        places: Places::default(),
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
        let place = Place::take(&self.places, &identity.role)
            .ok_or_else(|| format!("{} has too many connections open", identity.role))?;
        let until = not_after(certificate).ok_or("the certificate has no end")?;
        let clock = Arc::clone(&self.clock);
        let expired = Box::pin(async move { clock.sleep_until(until).await });
        debug!(%address, %identity, "connected");
        let peer = Peer { identity, address };
        Ok(Connection { stream, peer, expired, _permit: permit, _place: place })
    }
}

impl Place {
    fn take(places: &Places, role: &Role) -> Option<Place> {
        let mut open = lock(places);
        let count = open.entry(role.clone()).or_default();
        if *count >= CONNECTIONS_PER_PEER_MAX {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(places), role: role.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.places);
        match open.get_mut(&self.role) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.role)),
        }
    }
}

/// Counts are right after any panic, so a poisoned lock is no reason to stop.
fn lock(places: &Mutex<HashMap<Role, usize>>) -> MutexGuard<'_, HashMap<Role, usize>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_places_of_others_and_a_place_is_given_back() {
        let places = Places::default();
        let role = |name: &str| Role::Site(name.parse().unwrap());
        let mut taken: Vec<Place> = (0..CONNECTIONS_PER_PEER_MAX)
            .map(|_| Place::take(&places, &role("a")).unwrap())
            .collect();
        assert!(Place::take(&places, &role("a")).is_none());
        assert!(Place::take(&places, &role("b")).is_some());
        taken.pop();
        taken.push(Place::take(&places, &role("a")).unwrap());
        drop(taken);
        assert!(lock(&places).is_empty());
    }
}
