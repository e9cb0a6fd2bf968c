//! Connections as no honest client makes them. Each goes on until the process is killed, and tells now and then
//! how far it is.

#[expect(clippy::unwrap_used, reason = "what the tests read that have it too")]
#[expect(dead_code, reason = "some of it is for those tests alone")]
#[path = "../../../../../coordinator/tests/coordinator/raw.rs"]
mod raw;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fedpaint_proto::limits::HTTP2_FRAME_BYTES_MAX;
use fedpaint_proto::tls::TlsFiles;
use rustls::ClientConfig;
use rustls::client::Resumption;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use self::raw::{DATA, END_HEADERS, HEADERS, Raw, call, frame, reset};

/// Calls that exist.
const HEARTBEAT: &str = "/fedpaint.v1.FederationService/Heartbeat";
const UPLOAD: &str = "/fedpaint.v1.BlobService/Upload";

/// Clients that send a byte a second.
const SLOW: u64 = 64;

/// How many work at once of those that are in a hurry: fewer than a holder's connections may be.
const HURRIED: u64 = 16;

/// Streams that are begun and reset in one blow.
const BLOW: u32 = 1_000;

/// How often it is told how far an attack is.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// How long a slow client waits between two bytes.
const SECOND: Duration = Duration::from_secs(1);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Attack {
    /// Handshakes, prefaces, headers and uploads of a byte a second.
    Slow,
    /// Handshakes by whole, one after the other, half of them without a certificate.
    Handshakes,
    /// Streams that are reset as soon as they are begun.
    Resets,
    /// Frames and messages that are longer than they may be.
    Oversized,
}

impl Attack {
    /// All of them.
    pub(super) const ALL: [Attack; 4] =
        [Attack::Slow, Attack::Handshakes, Attack::Resets, Attack::Oversized];

    /// How far it must come at least: connections that are slow, handshakes, resets, frames.
    pub(super) fn count(self) -> u64 {
        match self {
            Attack::Slow => SLOW,
            Attack::Handshakes => 5_000,
            Attack::Resets => 100_000,
            Attack::Oversized => 1_000,
        }
    }

    /// Its name in the figures.
    pub(super) fn name(self) -> &'static str {
        match self {
            Attack::Slow => "slow",
            Attack::Handshakes => "handshakes",
            Attack::Resets => "resets",
            Attack::Oversized => "oversized",
        }
    }
}

/// Whom an attack is on, and as whom it comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) attack: Attack,
    pub(super) address: SocketAddr,
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// An attack under way, as each of its clients has it.
#[derive(Clone)]
struct Clients {
    address: SocketAddr,
    member: Arc<ClientConfig>,
    nobody: Arc<ClientConfig>,
    count: Arc<AtomicU64>,
}

/// Attacks until it is killed, and tells how far it is.
///
/// # Errors
/// If the certificate does not read.
pub(super) async fn run(target: Target, mut tell: impl FnMut(u64)) -> anyhow::Result<()> {
    let Target { attack, address, ca, certificate, key } = target;
    let files = TlsFiles { ca, certificate, key };
    let member = files.client()?;
    let mut nobody = ClientConfig::clone(&*member);
    nobody.client_auth_cert_resolver = Arc::new(Nobody);
    nobody.resumption = Resumption::disabled();
    let clients = Clients { address, member, nobody: Arc::new(nobody), count: Arc::default() };
    let mut running = JoinSet::new();
    let many = if attack == Attack::Slow { SLOW } else { HURRIED };
    for n in 0..many {
        let clients = clients.clone();
        running.spawn(async move {
            loop {
                // However a connection ends, the next one is made.
                let _ = match attack {
                    Attack::Slow => clients.slow(n).await,
                    Attack::Handshakes => clients.handshake(n).await,
                    Attack::Resets => clients.resets().await,
                    Attack::Oversized => clients.oversized(n).await,
                };
                tokio::task::yield_now().await;
            }
        });
    }
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        let count = clients.count.load(Ordering::Relaxed);
        if count > 0 {
            tell(count);
        }
    }
}

/// Has no certificate, whoever asks for one.
#[derive(Debug)]
struct Nobody;

impl rustls::client::ResolvesClientCert for Nobody {
    fn resolve(
        &self,
        _roots: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

impl Clients {
    fn counted(&self, more: u64) {
        self.count.fetch_add(more, Ordering::Relaxed);
    }

    async fn member(&self) -> io::Result<Raw> {
        Raw::connect_by(self.address, Arc::clone(&self.member), &[]).await
    }

    /// Some connection of a byte a second.
    async fn slow(&self, n: u64) -> io::Result<()> {
        // A handshake's first record, which is announced and comes byte by byte.
        let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 500]].concat();
        let headers = frame(HEADERS, END_HEADERS, 1, &call(HEARTBEAT, &[]));
        if n.is_multiple_of(4) {
            let mut tcp = TcpStream::connect(self.address).await?;
            self.counted(1);
            return drip(&mut tcp, &hello).await;
        }
        let mut raw = self.member().await?;
        self.counted(1);
        match n % 4 {
            // The head of a frame.
            1 => drip(&mut raw.writer, &[0; 9]).await,
            2 => drip(&mut raw.writer, &headers).await,
            _ => {
                raw.send(&frame(HEADERS, END_HEADERS, 1, &call(UPLOAD, &[]))).await?;
                loop {
                    raw.send(&frame(DATA, 0, 1, &[0])).await?;
                    tokio::time::sleep(SECOND).await;
                }
            }
        }
    }

    /// A handshake of who has a certificate, or has none.
    async fn handshake(&self, n: u64) -> io::Result<()> {
        let config = if n.is_multiple_of(2) { &self.member } else { &self.nobody };
        let raw = Raw::connect_by(self.address, Arc::clone(config), &[]).await;
        self.counted(1);
        let mut raw = raw?;
        // The answer to a certificate, or to none.
        raw.reader.read(&mut [0; 64]).await.map(drop)
    }

    /// Blow after blow of streams that are begun and reset, until the connection is ended for it.
    async fn resets(&self) -> io::Result<()> {
        let headers = call(HEARTBEAT, &[]);
        let Raw { mut reader, mut writer } = self.member().await?;
        let deaf = tokio::spawn(async move {
            // Whoever does not read is ended for that, by its own system.
            let mut bytes = [0; 4_096];
            while let Ok(1..) = reader.read(&mut bytes).await {}
        });
        let mut from = 0;
        loop {
            let stream = |n: u32| 2 * n + 1;
            let one = |n| {
                let begin = frame(HEADERS, END_HEADERS, stream(n), &headers);
                [begin, reset(stream(n))].concat()
            };
            let blow: Vec<u8> = (from..from + BLOW).flat_map(one).collect();
            if writer.write_all(&blow).await.is_err() {
                deaf.abort();
                return Ok(());
            }
            self.counted(BLOW.into());
            from += BLOW;
        }
    }

    /// A frame that is longer than it may be, or a message that says that it is.
    async fn oversized(&self, n: u64) -> io::Result<()> {
        let mut raw = self.member().await?;
        if n.is_multiple_of(2) {
            raw.send(&frame(DATA, 0, 1, &vec![7; HTTP2_FRAME_BYTES_MAX as usize + 1])).await?;
        } else {
            raw.send(&frame(HEADERS, END_HEADERS, 1, &call(HEARTBEAT, &[]))).await?;
            let message = [&[0, 0xff, 0xff, 0xff, 0xff][..], &[7; 100_000]].concat();
            raw.send(&frame(DATA, 0, 1, &message)).await?;
        }
        self.counted(1);
        // Until it is ended, or the message refused.
        while let Ok(came) = raw.next().await {
            if came.kind == HEADERS || came.kind == raw::GOAWAY {
                break;
            }
        }
        Ok(())
    }
}

/// Sends a byte a second, and then nothing any more; an error when nobody takes them.
async fn drip(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        to.write_all(&[*byte]).await?;
        to.flush().await?;
        tokio::time::sleep(SECOND).await;
    }
    std::future::pending().await
}
