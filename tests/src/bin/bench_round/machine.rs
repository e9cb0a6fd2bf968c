//! What this machine can do at most, one thing at a time: memory, hashing, disk, TLS without gRPC.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use serde::Serialize;

/// How much is hashed, copied or sent at a time.
const PIECE_BYTES: usize = 1 << 20;

/// How much memory is copied and hashed: more than any cache holds.
const MEMORY_BYTES: usize = 256 << 20;

/// Rates in MB (10^6 bytes) a second.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Copying memory, read and written bytes counted once, one core.
    pub(crate) memory_copy_mb_s: f64,
    /// BLAKE3 of memory, one core.
    pub(crate) blake3_mb_s: f64,
    /// Writing a file from end to end and syncing it.
    pub(crate) write_sync_mb_s: f64,
    /// TLS 1.3 over loopback without HTTP/2 or gRPC, one connection.
    pub(crate) rustls_mb_s: f64,
}

/// Bytes in so many seconds, as MB a second.
pub(crate) fn rate(bytes: usize, seconds: f64) -> f64 {
    bytes as f64 / 1e6 / seconds
}

/// Measures all of it; `bytes` are written and sent.
///
/// # Errors
/// If a file does not write or the two ends do not trust each other.
pub(crate) fn measure(
    folder: &Path,
    bytes: usize,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> anyhow::Result<Machine> {
    let from = vec![7_u8; MEMORY_BYTES];
    let mut to = vec![0_u8; MEMORY_BYTES];
    let memory_copy_mb_s = rate(MEMORY_BYTES, seconds(|| to.copy_from_slice(black_box(&from))));
    black_box(&to);
    drop(to);
    let blake3_mb_s = rate(MEMORY_BYTES, seconds(|| _ = black_box(blake3::hash(&from))));
    drop(from);
    let begin = Instant::now();
    write_file(&folder.join("floor.bin"), bytes)?;
    let write_sync_mb_s = rate(bytes, begin.elapsed().as_secs_f64());
    let rustls_mb_s = rate(bytes, raw_tls(bytes, server, client)?);
    Ok(Machine { memory_copy_mb_s, blake3_mb_s, write_sync_mb_s, rustls_mb_s })
}

/// The fastest of three.
fn seconds(mut work: impl FnMut()) -> f64 {
    let once = |_| {
        let begin = Instant::now();
        work();
        begin.elapsed().as_secs_f64()
    };
    (0..3).map(once).fold(f64::INFINITY, f64::min)
}

/// Writes a file of `bytes` and syncs it.
///
/// # Errors
/// If the disk does not take it.
pub(crate) fn write_file(path: &Path, bytes: usize) -> io::Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![7_u8; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(piece.len());
        file.write_all(&piece[..now])?;
        left -= now;
    }
    file.sync_all()?;
    std::fs::remove_file(path)
}

/// Sends `bytes` through one TLS connection; the seconds from the first to the last.
fn raw_tls(
    bytes: usize,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> anyhow::Result<f64> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || -> io::Result<()> {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let connection = ServerConnection::new(server).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        // The client says when it is ready, so that the handshake is not measured.
        stream.read_exact(&mut [0])?;
        let piece = vec![7_u8; PIECE_BYTES];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(piece.len());
            stream.write_all(&piece[..now])?;
            left -= now;
        }
        stream.conn.send_close_notify();
        stream.flush()
    });
    let socket = std::net::TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let mut stream = StreamOwned::new(ClientConnection::new(client, name)?, socket);
    stream.write_all(&[1])?;
    let begin = Instant::now();
    let mut piece = vec![0_u8; PIECE_BYTES];
    let mut read = 0;
    while read < bytes {
        match stream.read(&mut piece)? {
            0 => anyhow::bail!("the raw TLS stream ended after {read} bytes"),
            n => read += n,
        }
    }
    let took = begin.elapsed().as_secs_f64();
    drop(stream);
    let sent = sender.join().ok().context("the sender of the raw TLS stream failed")?;
    sent.context("sending through raw TLS")?;
    Ok(took)
}
