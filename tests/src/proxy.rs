//! A TCP proxy between a site and the coordinator that breaks connections on purpose.
//!
//! It sees TLS and nothing else: bytes, their direction, and when they come. What befalls a connection
//! is decided when it is accepted, by the test. Small buffers, so that little is under way when a
//! connection is cut, as on a long line.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What the kernel may hold of a direction on either side of the proxy.
const SOCKET_BUFFER_BYTES: u32 = 32 << 10;

/// The most bytes that are passed on at once.
const PIECE_BYTES: usize = 16 << 10;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;

/// How long the line must be silent until a request counts as sent.
const SILENCE: Duration = Duration::from_millis(60);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the site to the coordinator.
    Up,
    /// From the coordinator to the site.
    Down,
}

/// Something that befalls a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// It is cut both ways once so many bytes have gone that way.
    Cut {
        /// The direction that is counted.
        way: Way,
        /// Bytes that still arrive.
        after: u64,
    },
    /// One bit of that byte is turned.
    Corrupt {
        /// The direction.
        way: Way,
        /// Which byte, from 0.
        at: u64,
    },
    /// After so many bytes nothing moves that way for a while; then all goes on.
    Stall {
        /// The direction.
        way: Way,
        /// Bytes that still arrive at once.
        after: u64,
        /// How long nothing moves.
        time: Duration,
    },
    /// No more than so many bytes a second go that way.
    Throttle {
        /// The direction.
        way: Way,
        /// The rate.
        bytes_per_s: u64,
    },
    /// After so many bytes upwards, and then `replies` pieces downwards, no answer arrives any more. What
    /// the site still sends gets through; when it is silent, the connection is cut.
    LoseReply {
        /// Bytes upwards before the fault may begin.
        after: u64,
        /// Pieces downwards that still arrive.
        replies: u32,
    },
}

/// What went through a proxy.
#[derive(Debug, Default)]
pub struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
    cut: AtomicU64,
    corrupted: AtomicU64,
    broken_up: AtomicU64,
    broken_down: AtomicU64,
    stalled: AtomicU64,
    throttled: AtomicU64,
    lost_replies: AtomicU64,
}

/// [`Counts`] at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Bytes that came from the site.
    pub up: u64,
    /// Bytes that came from the coordinator.
    pub down: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections cut at a byte.
    pub cut: u64,
    /// Bits turned.
    pub corrupted: u64,
    /// Cuts and turned bits on the way up.
    pub broken_up: u64,
    /// Cuts and turned bits on the way down.
    pub broken_down: u64,
    /// Stalls.
    pub stalled: u64,
    /// Connections that a [`Fault::Throttle`] held.
    pub throttled: u64,
    /// Answers swallowed.
    pub lost_replies: u64,
}

impl Counted {
    /// What went through two proxies.
    pub fn with(self, other: Counted) -> Counted {
        Counted {
            up: self.up + other.up,
            down: self.down + other.down,
            connections: self.connections + other.connections,
            cut: self.cut + other.cut,
            corrupted: self.corrupted + other.corrupted,
            broken_up: self.broken_up + other.broken_up,
            broken_down: self.broken_down + other.broken_down,
            stalled: self.stalled + other.stalled,
            throttled: self.throttled + other.throttled,
            lost_replies: self.lost_replies + other.lost_replies,
        }
    }

    /// Faults that broke a connection.
    pub fn broken(&self) -> u64 {
        self.cut + self.corrupted + self.lost_replies
    }
}

/// Decides what befalls the next connection: nothing, something, or one thing after another.
pub type Plan = Box<dyn FnMut() -> Vec<Fault> + Send>;

/// A proxy that listens until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    counts: Arc<Counts>,
    plan: Arc<Mutex<Plan>>,
    task: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// A proxy to the coordinator at `target`, such as `127.0.0.1:8443`, on a port of its own.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start(target: SocketAddr, plan: Plan) -> anyhow::Result<Proxy> {
        let socket = TcpSocket::new_v4()?;
        // What is accepted inherits them.
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let (counts, plan) = (Arc::new(Counts::default()), Arc::new(Mutex::new(plan)));
        let serve = serve(listener, target, Arc::clone(&counts), Arc::clone(&plan));
        let task = tokio::spawn(serve).abort_handle();
        Ok(Proxy { address, counts, plan, task })
    }

    /// Where a site reaches the coordinator through the proxy.
    pub fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Takes another plan for the connections to come.
    pub fn plan(&self, plan: Plan) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = plan;
    }

    /// What has gone through so far.
    pub fn counted(&self) -> Counted {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let c = &*self.counts;
        Counted {
            up: read(&c.up),
            down: read(&c.down),
            connections: read(&c.connections),
            cut: read(&c.cut),
            corrupted: read(&c.corrupted),
            broken_up: read(&c.broken_up),
            broken_down: read(&c.broken_down),
            stalled: read(&c.stalled),
            throttled: read(&c.throttled),
            lost_replies: read(&c.lost_replies),
        }
    }
}

/// A plan without faults.
pub fn faithful() -> Plan {
    Box::new(Vec::new)
}

async fn serve(
    listener: TcpListener,
    target: SocketAddr,
    counts: Arc<Counts>,
    plan: Arc<Mutex<Plan>>,
) {
    // Dropped with this task, so that no connection outlives the proxy.
    let mut connections = JoinSet::new();
    while let Ok((site, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        counts.connections.fetch_add(1, Ordering::Relaxed);
        let faults = (plan.lock().unwrap_or_else(PoisonError::into_inner))();
        connections.spawn(connection(site, target, faults, Arc::clone(&counts)));
    }
}

async fn connection(site: TcpStream, target: SocketAddr, faults: Vec<Fault>, counts: Arc<Counts>) {
    let Ok(coordinator) = dial(target).await else { return };
    let nodelay = site.set_nodelay(true).and_then(|()| coordinator.set_nodelay(true));
    if nodelay.is_err() {
        // One end is gone already.
        return;
    }
    let (site_in, site_out) = site.into_split();
    let (coordinator_in, coordinator_out) = coordinator.into_split();
    let progress = watch::Sender::new(0);
    let (sent, counts) = (progress.subscribe(), &*counts);
    let faults = &faults[..];
    let up = Pump { way: Way::Up, faults, counts, done: 0 };
    let down = Pump { way: Way::Down, faults, counts, done: 0 };
    let mut up = pin!(up.run(site_in, coordinator_out, Some(&progress), None));
    let mut down = pin!(down.run(coordinator_in, site_out, None, Some(sent)));
    // An end that has no more to say may still listen; a broken way takes the other with it.
    tokio::select! {
        end = &mut up => if end == End::Closed { down.await; },
        end = &mut down => if end == End::Closed { up.await; },
    }
}

async fn dial(target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.connect(target).await
}

/// How a way ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The sender has no more to say, and the receiver was told.
    Closed,
    /// The connection is of no use any more.
    Broken,
}

/// One way of one connection.
struct Pump<'a> {
    way: Way,
    faults: &'a [Fault],
    counts: &'a Counts,
    /// Bytes passed on so far.
    done: u64,
}

impl Pump<'_> {
    /// Passes bytes on until either end closes or the fault cuts the connection. `progress` tells the
    /// other way how much went this way.
    async fn run(
        mut self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        progress: Option<&watch::Sender<u64>>,
        sent: Option<watch::Receiver<u64>>,
    ) -> End {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut answers = 0;
        loop {
            let bytes = match from.read(&mut buffer).await {
                Ok(0) if to.shutdown().await.is_ok() => return End::Closed,
                Ok(0) | Err(_) => return End::Broken,
                Ok(bytes) => bytes,
            };
            self.count(bytes);
            if let Some(sent) = &sent
                && let Some((after, replies)) = self.loses_reply()
                && *sent.borrow() >= after
            {
                answers += 1;
                if answers > replies {
                    self.swallow(from, sent.clone()).await;
                    return End::Broken;
                }
            }
            let piece = &mut buffer[..bytes];
            let kept = self.befall(piece).await;
            if to.write_all(&piece[..kept]).await.is_err() {
                return End::Broken;
            }
            self.done += kept as u64;
            if let Some(progress) = progress {
                progress.send_replace(self.done);
            }
            if kept < bytes {
                self.count_broken(&self.counts.cut);
                // What went through is to arrive, so the end is told before the rest is dropped.
                let _ = to.shutdown().await;
                return End::Broken;
            }
        }
    }

    fn count(&self, bytes: usize) {
        let count = if self.way == Way::Up { &self.counts.up } else { &self.counts.down };
        count.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts what broke the connection, by its kind and by its way.
    fn count_broken(&self, kind: &AtomicU64) {
        let Counts { broken_up, broken_down, .. } = self.counts;
        let way = if self.way == Way::Up { broken_up } else { broken_down };
        kind.fetch_add(1, Ordering::Relaxed);
        way.fetch_add(1, Ordering::Relaxed);
    }

    fn loses_reply(&self) -> Option<(u64, u32)> {
        self.faults.iter().find_map(|fault| match *fault {
            Fault::LoseReply { after, replies } => Some((after, replies)),
            _ => None,
        })
    }

    /// Has the faults happen to a piece; how much of it is still passed on.
    async fn befall(&self, piece: &mut [u8]) -> usize {
        let range = self.done..self.done + piece.len() as u64;
        let mut kept = piece.len();
        for fault in self.faults {
            match *fault {
                Fault::Cut { way, after } if way == self.way && range.contains(&after) => {
                    kept = kept.min((after - self.done) as usize);
                }
                Fault::Corrupt { way, at } if way == self.way && range.contains(&at) => {
                    piece[(at - self.done) as usize] ^= 1 << (at % 8);
                    self.count_broken(&self.counts.corrupted);
                }
                Fault::Stall { way, after, time } if way == self.way && range.contains(&after) => {
                    self.counts.stalled.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(time).await;
                }
                Fault::Throttle { way, bytes_per_s } if way == self.way => {
                    if self.done == 0 {
                        self.counts.throttled.fetch_add(1, Ordering::Relaxed);
                    }
                    let time = piece.len() as f64 / bytes_per_s.max(1) as f64;
                    tokio::time::sleep(Duration::from_secs_f64(time)).await;
                }
                _ => {}
            }
        }
        kept
    }

    /// Lets no answer through any more, until the site has sent all it had to say.
    async fn swallow(&self, mut from: OwnedReadHalf, mut sent: watch::Receiver<u64>) {
        self.counts.lost_replies.fetch_add(1, Ordering::Relaxed);
        let drain = async {
            let mut buffer = vec![0; PIECE_BYTES];
            while let Ok(1..) = from.read(&mut buffer).await {}
        };
        let silent = async {
            while tokio::time::timeout(SILENCE, sent.changed()).await.is_ok_and(|c| c.is_ok()) {}
        };
        // Answers are taken off the coordinator's hands, as a line does before it breaks.
        tokio::select! {
            () = drain => {}
            () = silent => {}
        }
    }
}

#[cfg(test)]
mod tests;
