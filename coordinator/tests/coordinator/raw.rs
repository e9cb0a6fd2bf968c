//! A client that speaks HTTP/2 frame by frame over real TLS, and so says what no library would. `trials floods`
//! reads this file too.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::tls::TlsFiles;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The settings by their numbers.
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_FRAME_SIZE: u16 = 5;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;

/// Errors by their numbers.
pub(crate) const CANCEL: u32 = 8;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// How long a frame may take until a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest frame that is read.
const FRAME_BYTES_MAX: usize = 2 << 20;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The number at a place of the payload: of a reset and of the end of a connection, its error.
    pub(crate) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// An open connection.
pub(crate) struct Raw {
    pub(crate) reader: ReadHalf<TlsStream<TcpStream>>,
    pub(crate) writer: WriteHalf<TlsStream<TcpStream>>,
}

impl Raw {
    /// Connects, and says these settings.
    pub(crate) async fn connect(
        address: SocketAddr,
        files: &TlsFiles,
        settings: &[(u16, u32)],
    ) -> Raw {
        Raw::connect_by(address, files.client().unwrap(), settings).await.unwrap()
    }

    /// Connects by a configuration of TLS; an error where the other end does not have it.
    pub(crate) async fn connect_by(
        address: SocketAddr,
        config: Arc<ClientConfig>,
        settings: &[(u16, u32)],
    ) -> io::Result<Raw> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::from(address.ip());
        let tls = TlsConnector::from(config).connect(name, tcp).await?;
        let (reader, writer) = tokio::io::split(tls);
        let mut raw = Raw { reader, writer };
        let said = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat());
        let said = frame(SETTINGS, 0, 0, &said.collect::<Vec<u8>>());
        raw.send(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &said].concat()).await?;
        Ok(raw)
    }

    /// Sends bytes, such as frames.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }

    /// The next frame; an error when the connection has ended.
    pub(crate) async fn next(&mut self) -> io::Result<Frame> {
        next(&mut self.reader).await
    }

    /// The next frame of a kind, and of a stream.
    pub(crate) async fn wait(&mut self, kind: u8, stream: u32) -> io::Result<Frame> {
        loop {
            let found = self.next().await?;
            if (found.kind, found.stream) == (kind, stream) {
                return Ok(found);
            }
        }
    }

    /// The end of the connection, which the other end makes.
    pub(crate) async fn end(&mut self) -> io::Error {
        loop {
            if let Err(end) = self.next().await {
                return end;
            }
        }
    }

    /// Waits until the other end has taken in all that was sent; the frames that came meanwhile.
    pub(crate) async fn ping(&mut self) -> io::Result<Vec<Frame>> {
        self.send(&frame(PING, 0, 0, b"bounded?")).await?;
        let mut came = Vec::new();
        loop {
            match self.next().await? {
                Frame { kind: PING, flags: ACK, .. } => return Ok(came),
                other => came.push(other),
            }
        }
    }
}

/// The next frame that `reader` brings.
pub(crate) async fn next(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let read = async {
        let mut head = [0; 9];
        reader.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        assert!(length <= FRAME_BYTES_MAX, "{length}");
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff;
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    };
    tokio::time::timeout(PATIENCE, read).await.expect("a frame, or the end of the connection")
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head, payload.to_vec()].concat()
}

/// The headers of a call, each written out (RFC 7541, 6.2.2), with more of them.
pub(crate) fn call(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let own = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "127.0.0.1"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    own.iter().chain(more).flat_map(|(name, value)| header(name, value)).collect()
}

/// One header, written out.
pub(crate) fn header(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &text(name), &text(value)].concat()
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A number of seven bits, and what is beyond in pieces of seven (RFC 7541, 5.1).
    let mut left = text.len();
    if left < 127 {
        bytes.push(left as u8);
    } else {
        bytes.push(127);
        left -= 127;
        while left >= 128 {
            bytes.push((left % 128) as u8 | 128);
            left /= 128;
        }
        bytes.push(left as u8);
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// The reset of a stream.
pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}
