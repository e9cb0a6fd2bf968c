//! One connection from the handshake to its end, which is the end of the certificate or comes before it. Where a
//! limit is the reason the other end is told so by the connection's last word.
//!
//! Bytes go through it as they are; it knows who is at the other end and nothing of what is said.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use fedpaint_proto::ahead::Ahead;
use fedpaint_proto::farewell::Frames;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;
use tracing::info;

use super::{Peer, Permits, STRANGER_TIMEOUT, Who};
use crate::clock::BoxFuture;
use crate::connections::Place;

/// Bytes over TLS.
pub(super) type TlsStream = server::TlsStream<Ahead<TcpStream>>;

/// A connection whose holder is known. It ends when the holder's certificate does, or when the holder
/// is shut out.
pub(crate) struct Connection {
    stream: TlsStream,
    peer: Peer,
    expired: BoxFuture,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    hung_up: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Why it has ended, once it has; futures that are finished are not polled again.
    ended: Option<End>,
    /// What was sent.
    frames: Frames,
    // Held for as long as the connection is open.
    _permits: Permits,
    _place: Option<Place>,
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the holder of the certificate is shut out")]
    ShutOut,
    #[error("the certificate has expired")]
    Expired,
    #[error(
        "a stranger's connection lasts {} s at most (STRANGER_TIMEOUT)",
        STRANGER_TIMEOUT.as_secs()
    )]
    Stayed,
    #[error("{0}")]
    HungUp(String),
}

impl End {
    fn is_a_limit(&self) -> bool {
        matches!(self, End::Stayed | End::HungUp(_))
    }
}

impl Connection {
    /// A connection that lasts until `expired` at most.
    pub(super) fn new(
        stream: TlsStream,
        peer: Peer,
        expired: BoxFuture,
        permits: Permits,
        place: Option<Place>,
    ) -> Connection {
        let cut = place.as_ref().map(|place| place.cut().clone());
        let cut = cut.unwrap_or_default();
        Connection {
            stream,
            expired,
            cut: Box::pin(cut.cancelled_owned()),
            hung_up: Box::pin(peer.line.ended.clone().cancelled_owned()),
            peer,
            ended: None,
            frames: Frames::default(),
            _permits: permits,
            _place: place,
        }
    }

    /// An error once the connection is to end; until then the task is woken when it is.
    fn poll_alive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.ended.is_none() {
            self.ended = self.poll_end(context);
            self.say_why(context);
        }
        match &self.ended {
            None => Ok(()),
            Some(end) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, end.to_string())),
        }
    }

    fn poll_end(&mut self, context: &mut Context<'_>) -> Option<End> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Some(End::ShutOut);
        }
        if self.hung_up.as_mut().poll(context).is_ready() {
            let why = self.peer.line.why.get().cloned();
            return Some(End::HungUp(why.unwrap_or_default()));
        }
        if self.expired.as_mut().poll(context).is_ready() {
            return Some(match self.peer.who {
                Who::Member { .. } => End::Expired,
                Who::Stranger => End::Stayed,
            });
        }
        None
    }

    /// Says which limit ends the connection, as far as the other end takes it at once: whoever does not read
    /// must not hold up the end by it.
    fn say_why(&mut self, context: &mut Context<'_>) {
        let Some(end) = self.ended.as_ref().filter(|end| end.is_a_limit()) else { return };
        let Some(bytes) = self.frames.last_word(&end.to_string()) else { return };
        let mut stream = Pin::new(&mut self.stream);
        let _ = stream.as_mut().poll_write(context, &bytes);
        let _ = stream.as_mut().poll_flush(context);
        let _ = stream.poll_shutdown(context);
    }

    /// Takes note of what was sent: the limits of HTTP/2's library end a connection from above.
    fn sent(&mut self, bytes: &[u8]) {
        if let Some((_, farewell)) = self.frames.pass(bytes) {
            let Peer { who, address, .. } = &self.peer;
            info!(%who, %address, reason = farewell.why(), "a connection is ended");
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_alive(context)?;
        if !self.peer.line.intake.has_room(context) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.peer.line.intake.came(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_alive(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.sent(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_alive(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, pieces))?;
        let mut left = written;
        for piece in pieces {
            let taken = piece.len().min(left);
            self.sent(&piece[..taken]);
            left -= taken;
        }
        Poll::Ready(Ok(written))
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
