//! TCP and TLS: turns a listener into a stream of connections whose holder is known.
//!
//! The loop never ends on an accept error, and nothing a stranger does holds it up: the handshake
//! runs beside it, bounded in number and in time. It decides who somebody is, never what they may do.
//! Whoever finds no place is told by which limit, once there is TLS to say it by.

mod connection;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fedpaint_proto::ahead::Ahead;
use fedpaint_proto::enrolment;
use fedpaint_proto::farewell::Frames;
use fedpaint_proto::identity::{Identity, KeyId, Validity};
use fedpaint_proto::names::FederationName;
use jiff::Timestamp;
use rustls::AlertDescription;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::LazyConfigAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub(crate) use self::connection::Connection;
use self::connection::TlsStream;
use crate::calls::Calls;
use crate::clock::{Clock, within};
use crate::connections::Connections;
use crate::credentials::Credentials;
use crate::driver::Handle;
use crate::intake::Intake;
use crate::limits::{FAREWELLS_MAX, Limits};
use crate::metrics::{Metrics, PEERS, PeerLabel};

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

/// A connection, as far as who serves its calls knows it and can end it. HTTP/2 lets nobody end a call whose
/// answer is not read: the connection is all that there is to take away.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// The calls that are under way.
    pub(crate) calls: Calls,
    /// What came by it and waits for them.
    pub(crate) intake: Intake,
    ended: CancellationToken,
    /// Why it is ended, which is known by then.
    why: Arc<OnceLock<String>>,
}

impl Line {
    /// Ends the connection at once, with every call on it, and tells the other end why.
    pub(crate) fn hang_up(&self, why: impl fmt::Display) {
        // The first reason is the one that counts.
        let _ = self.why.set(why.to_string());
        self.ended.cancel();
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

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Member { identity, .. } => write!(f, "{}", identity.role),
            Who::Stranger => f.write_str("a stranger"),
        }
    }
}

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
    /// Counts who does not believe the coordinator.
    pub(crate) metrics: Metrics,
}

/// What bounds the number of a listener's connections.
#[derive(Clone)]
struct Bounds {
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    farewells: Arc<Semaphore>,
}

/// A connection's place among all, and among strangers'.
type Permits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// Whether there is a place.
enum Room {
    /// This one.
    Place(OwnedSemaphorePermit),
    /// There is none, and the caller is to be told so.
    Full(Refusal),
}

/// Why a connection is not taken, and the turn to tell it.
struct Refusal {
    words: String,
    _turn: OwnedSemaphorePermit,
}

impl Refusal {
    /// Ends a connection by these words, and gives them to the log.
    async fn tell(self, stream: TlsStream) -> String {
        let Refusal { words, _turn } = self;
        tell(stream, words).await
    }
}

/// Ends a connection of which nobody has said anything by these words, and gives them to the log.
async fn tell(mut stream: TlsStream, words: String) -> String {
    if let Some(bytes) = Frames::default().last_word(&words) {
        // Whoever has gone does not hear it.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
    }
    words
}

impl Bounds {
    fn of(limits: &Limits) -> Bounds {
        let so_many = |max| Arc::new(Semaphore::new(max));
        Bounds {
            handshakes: so_many(limits.handshakes_max),
            connections: so_many(limits.connections_max),
            strangers: so_many(limits.strangers_max),
            farewells: so_many(FAREWELLS_MAX),
        }
    }

    /// A place among `these`, or where there is none a turn to say so.
    ///
    /// # Errors
    /// The words, if there is not even that.
    fn place(
        &self,
        these: &Arc<Semaphore>,
        words: impl FnOnce() -> String,
    ) -> Result<Room, String> {
        if let Ok(place) = Arc::clone(these).try_acquire_owned() {
            return Ok(Room::Place(place));
        }
        let words = words();
        match Arc::clone(&self.farewells).try_acquire_owned() {
            Ok(turn) => Ok(Room::Full(Refusal { words, _turn: turn })),
            Err(_) => Err(words),
        }
    }
}

/// Accepts connections of members of the federation, until the stream is dropped.
pub(crate) fn accept(listener: TcpListener, door: Door) -> ReceiverStream<io::Result<Connection>> {
    let (connected, connections) = mpsc::channel(1);
    let bounds = Bounds::of(&door.limits);
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
    let words = || {
        format!("{connections_max} connections are open, the most there may be (CONNECTIONS_MAX)")
    };
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
            warn!(%address, handshakes_max, "too many handshakes under way (HANDSHAKES_MAX); closed");
            continue;
        };
        let room = match bounds.place(&bounds.connections, words) {
            Ok(room) => room,
            Err(reason) => {
                warn!(%address, reason, "a connection is closed without a word");
                continue;
            }
        };
        let (door, connected, bounds) = (Arc::clone(&door), connected.clone(), bounds.clone());
        tokio::spawn(async move {
            let entering = door.enter(tcp, address, room, &bounds);
            let shaken = within(&*door.clock, HANDSHAKE_TIMEOUT, entering).await;
            let seconds = HANDSHAKE_TIMEOUT.as_secs();
            let late =
                || Err(format!("the handshake took more than {seconds} s (HANDSHAKE_TIMEOUT)"));
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

/// The alert by which the other end has said that a certificate does not please it, if that is what ended a handshake.
fn distrust(error: &io::Error) -> Option<AlertDescription> {
    use AlertDescription as A;
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match error {
        rustls::Error::AlertReceived(
            alert @ (A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::DecryptError),
        ) => Some(*alert),
        _ => None,
    }
}

impl Door {
    /// The handshake, and what it takes to be let in; an error says why not, for the log. The caller hears of it
    /// where a limit is the reason.
    async fn enter(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        room: Room,
        bounds: &Bounds,
    ) -> Result<Connection, String> {
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let hello = LazyConfigAcceptor::new(Acceptor::default(), Ahead::new(tcp));
        let hello = hello.await.map_err(|e| e.to_string())?;
        let joining = hello
            .client_hello()
            .alpn()
            .is_some_and(|mut offered| offered.any(|protocol| protocol == enrolment::ALPN));
        let credentials = Arc::clone(&*self.credentials.borrow());
        let [member, stranger] = &PEERS;
        let Some(strangers) = credentials.strangers.as_ref().filter(|_| joining) else {
            let stream = hello.into_stream(Arc::clone(&credentials.server));
            let stream = stream.await.map_err(|error| {
                self.distrusts(member, &error);
                error.to_string()
            })?;
            return match room {
                Room::Place(permit) => self.member(stream, address, permit).await,
                Room::Full(refusal) => Err(refusal.tell(stream).await),
            };
        };
        let max = self.limits.strangers_max;
        let words =
            || format!("{max} strangers are connected, the most there may be (STRANGERS_MAX)");
        let place = bounds.place(&bounds.strangers, words)?;
        let stream = match hello.into_stream(Arc::clone(strangers)).await {
            Ok(stream) => stream,
            Err(error) => {
                if let Some(alert) = self.distrusts(stranger, &error) {
                    // Within the handshake's time and among so many of them: whoever floods waits with it.
                    self.tell_distrust(alert).await;
                }
                return Err(error.to_string());
            }
        };
        match (room, place) {
            (Room::Place(permit), Room::Place(place)) => {
                Ok(self.stranger(stream, address, (permit, Some(place))))
            }
            (Room::Full(refusal), _) | (_, Room::Full(refusal)) => Err(refusal.tell(stream).await),
        }
    }

    /// By which alert the other end has ended a handshake, and is counted, where that is because it does not believe
    /// the coordinator's certificate.
    fn distrusts(&self, peer: &PeerLabel, error: &io::Error) -> Option<AlertDescription> {
        let alert = distrust(error)?;
        self.metrics.handshakes_distrusted.get_or_create(peer).inc();
        Some(alert)
    }

    /// Has the audit log told that a stranger does not believe the coordinator: its token names another root, or
    /// somebody shows it another coordinator's address.
    async fn tell_distrust(&self, alert: AlertDescription) {
        if let Err(error) = self.driver.distrusted(&format!("{alert:?}")).await {
            warn!(%error, "the audit log is not told of a site that does not believe this coordinator");
        }
    }

    /// The connection of whoever has shown a certificate, if it is one of the federation's.
    async fn member(
        &self,
        stream: TlsStream,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Result<Connection, String> {
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.ok_or("no certificate")?;
        let identity = Identity::from_certificate(certificate).map_err(|e| e.to_string())?;
        if identity.federation != self.federation {
            return Err(format!("the certificate is of federation {}", identity.federation));
        }
        let key = KeyId::of_certificate(certificate).map_err(|e| e.to_string())?;
        let until = Validity::of_certificate(certificate).map_err(|e| e.to_string())?.not_after;
        let place = match self.connections.enter(&identity.role, key) {
            Ok(place) => place,
            Err(words) => return Err(tell(stream, words).await),
        };
        // Looked at again once it can be cut: it may have been shut out since the handshake.
        if self.driver.shuts_out(&identity.role, &key) {
            return Err(format!("{} is shut out", identity.role));
        }
        let clock = Arc::clone(&self.clock);
        let expired = Box::pin(async move { clock.sleep_until(until).await });
        debug!(%address, %identity, "connected");
        let who = Who::Member { identity, key, until };
        let peer = Peer { who, address, line: Line::default() };
        Ok(Connection::new(stream, peer, expired, (permit, None), Some(place)))
    }

    /// A connection that ends soon, whatever happens on it.
    fn stranger(&self, stream: TlsStream, address: SocketAddr, permits: Permits) -> Connection {
        debug!(%address, "a stranger is connected");
        let peer = Peer { who: Who::Stranger, address, line: Line::default() };
        Connection::new(stream, peer, self.clock.sleep(STRANGER_TIMEOUT), permits, None)
    }
}
