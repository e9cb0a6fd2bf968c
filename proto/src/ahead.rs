//! A connection of which more is read at once than is asked for: rustls asks for 4 KiB at a time, and each of those is
//! a call of the system, five for a record. What comes is handed on as it is, in its order.
//!
//! There is room for it only while something comes: most connections are quiet most of the time.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read at once: about two records of TLS.
const AHEAD_BYTES: usize = 32 << 10;

/// A connection, and what was read of it and not asked for yet.
#[derive(Debug)]
pub struct Ahead<S> {
    stream: S,
    /// None while nothing comes.
    room: Option<Box<[u8]>>,
    /// Where in the room lies what was not asked for yet.
    from: usize,
    to: usize,
}

impl<S> Ahead<S> {
    /// A connection of which nothing was read yet.
    pub fn new(stream: S) -> Ahead<S> {
        Ahead { stream, room: None, from: 0, to: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.from == me.to {
            let room = me.room.get_or_insert_with(|| vec![0; AHEAD_BYTES].into_boxed_slice());
            let mut read = ReadBuf::new(room);
            match Pin::new(&mut me.stream).poll_read(context, &mut read) {
                Poll::Ready(Ok(())) => (me.from, me.to) = (0, read.filled().len()),
                nothing => {
                    me.room = None;
                    return nothing;
                }
            }
        }
        let bytes = (me.to - me.from).min(buffer.remaining());
        if let Some(room) = &me.room {
            buffer.put_slice(&room[me.from..me.from + bytes]);
        }
        me.from += bytes;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn every_byte_comes_once_in_its_order_and_then_the_end_whatever_is_asked_for_at_once() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        let (near, mut far) = tokio::io::duplex(40_000);
        let sent = bytes.clone();
        let sending = tokio::spawn(async move {
            for piece in sent.chunks(33_333) {
                far.write_all(piece).await.unwrap();
            }
        });
        let (mut ahead, mut read) = (Ahead::new(near), Vec::new());
        for asked in [1, 4_096, 50_000].into_iter().cycle() {
            let mut part = vec![0; asked];
            let came = ahead.read(&mut part).await.unwrap();
            read.extend_from_slice(&part[..came]);
            if came == 0 {
                break;
            }
        }
        assert!(read == bytes);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_comes_has_no_room() {
        let (near, mut far) = tokio::io::duplex(100);
        let mut ahead = Ahead::new(near);
        far.write_all(b"ab").await.unwrap();
        assert_eq!(ahead.read_u8().await.unwrap(), b'a');
        assert!(ahead.room.is_some());
        assert_eq!(ahead.read_u8().await.unwrap(), b'b');
        let mut part = [0; 8];
        let polled = poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut part);
            Poll::Ready(Pin::new(&mut ahead).poll_read(context, &mut buffer).is_pending())
        });
        assert!(polled.await);
        assert!(ahead.room.is_none());
    }
}
