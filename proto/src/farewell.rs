//! The last word of a connection. HTTP/2 ends one by a frame that has room for a text, which its libraries send
//! and hardly show: here it becomes the error of every call that was under way.
//!
//! Frames are looked at as they come by and never changed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::{
    FAREWELL_BYTES_MAX, HTTP2_FRAME_BYTES_MAX, HTTP2_HEADER_FRAMES_MAX,
    HTTP2_HEADER_LIST_BYTES_HARD_MAX, HTTP2_HEADER_LIST_BYTES_MAX, LOCAL_RESETS_MAX,
    PENDING_RESETS_MAX,
};
use crate::text;

/// A frame begins with its length (three bytes), kind, flags, and stream (four bytes).
const HEAD_BYTES: usize = 9;

/// The kinds that matter here (RFC 9113, 6.5 and 6.8).
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// What stands before a GOAWAY's text: the last stream that was looked at, and an error.
const FIXED_BYTES: usize = 8;

/// As the last stream: nothing is said of which calls were done.
const ANY_STREAM: u32 = 0x7fff_ffff;

/// The errors that matter here (RFC 9113, 7): a frame that is too long, headers that do not unpack, and of whoever
/// asks too much.
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Why the other end closed a connection, as it said itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator closed the connection: {0}")]
pub struct Farewell(String);

impl Farewell {
    /// The reason alone.
    pub fn why(&self) -> &str {
        &self.0
    }

    /// What a GOAWAY says; nothing where it is not an error, or has no text and an error that has many causes.
    fn read(payload: &[u8]) -> Option<Farewell> {
        let error: [u8; 4] = payload.get(4..FIXED_BYTES)?.try_into().ok()?;
        let said = payload.get(FIXED_BYTES..)?;
        match (u32::from_be_bytes(error), said) {
            (0, _) => None,
            (error, []) => unsaid(error).map(Farewell),
            _ => Some(Farewell(meaning(&String::from_utf8_lossy(said)))),
        }
    }
}

impl From<Farewell> for io::Error {
    fn from(farewell: Farewell) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, farewell)
    }
}

/// What an error means without a text, where h2 has one cause for it.
fn unsaid(error: u32) -> Option<String> {
    match error {
        FRAME_SIZE_ERROR => Some(format!(
            "a frame was longer than {HTTP2_FRAME_BYTES_MAX} bytes (HTTP2_FRAME_BYTES_MAX)"
        )),
        // A string of headers that are too long already, which goes on from frame to frame.
        COMPRESSION_ERROR => Some(format!(
            "the headers of a call went on far beyond {HTTP2_HEADER_LIST_BYTES_HARD_MAX} bytes \
             (HTTP2_HEADER_LIST_BYTES_HARD_MAX)"
        )),
        _ => None,
    }
}

/// What a text means: h2's own ones name no limit.
fn meaning(said: &str) -> String {
    match said {
        "too_many_resets" => format!(
            "more than {PENDING_RESETS_MAX} streams were reset before they were calls \
             (PENDING_RESETS_MAX)"
        ),
        "too_many_internal_resets" => format!(
            "more than {LOCAL_RESETS_MAX} streams had to be reset for errors (LOCAL_RESETS_MAX)"
        ),
        "header_list_way_too_large" => format!(
            "the headers of a call were far beyond {HTTP2_HEADER_LIST_BYTES_MAX} bytes \
             (HTTP2_HEADER_LIST_BYTES_MAX)"
        ),
        "too_many_continuations" => format!(
            "the headers of a call came in more than {HTTP2_HEADER_FRAMES_MAX} frames \
             (HTTP2_HEADER_FRAMES_MAX)"
        ),
        "too_many_data_frames" => {
            "too many small frames waited to be read (data_frame_budget of h2)".to_owned()
        }
        own => text::line(own, FAREWELL_BYTES_MAX),
    }
}

/// The frames that one end sends, from the connection's first byte on.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; HEAD_BYTES],
    /// How many bytes of the head have come: all of them while the payload comes.
    have: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
    /// The payload of a GOAWAY, as far as anybody reads it.
    payload: Vec<u8>,
    /// Whether a frame has come.
    begun: bool,
    /// Whether a GOAWAY has.
    leaving: bool,
    /// Whether there is no more to be looked at.
    over: bool,
}

impl Frames {
    /// Takes note of the next bytes. Once they say why the connection ends: the reason, and at which of these
    /// bytes the frame that says so begins, which is 0 if it began before.
    pub fn pass(&mut self, bytes: &[u8]) -> Option<(usize, Farewell)> {
        let (mut at, mut begins) = (0, 0);
        while !self.over && at < bytes.len() {
            if self.have == 0 {
                begins = at;
            }
            let rest = &bytes[at..];
            at += match self.have < HEAD_BYTES {
                true => self.head(rest),
                false => self.payload(rest),
            };
            if let Some(farewell) = self.end_of_frame() {
                self.over = true;
                return Some((begins, farewell));
            }
        }
        None
    }

    /// Takes from these bytes what is missing of a head; how many those are.
    fn head(&mut self, bytes: &[u8]) -> usize {
        let more = bytes.len().min(HEAD_BYTES - self.have);
        self.head[self.have..self.have + more].copy_from_slice(&bytes[..more]);
        self.have += more;
        if self.have == HEAD_BYTES {
            let [a, b, c, ..] = self.head;
            self.left = u32::from_be_bytes([0, a, b, c]) as usize;
            self.begun = true;
        }
        more
    }

    /// Takes from these bytes what is missing of a payload; how many those are.
    fn payload(&mut self, bytes: &[u8]) -> usize {
        let more = bytes.len().min(self.left);
        if self.is_goaway() {
            let room = FIXED_BYTES + FAREWELL_BYTES_MAX - self.payload.len();
            self.payload.extend_from_slice(&bytes[..more.min(room)]);
        }
        self.left -= more;
        more
    }

    /// What a frame says that has come to its end.
    fn end_of_frame(&mut self) -> Option<Farewell> {
        if self.have < HEAD_BYTES || self.left > 0 {
            return None;
        }
        self.have = 0;
        if !self.is_goaway() {
            return None;
        }
        self.leaving = true;
        Farewell::read(&std::mem::take(&mut self.payload))
    }

    fn is_goaway(&self) -> bool {
        self.head[3] == GOAWAY
    }

    /// The bytes that end the connection with these words. None in the middle of a frame, and where it was said
    /// before that the connection ends.
    pub fn last_word(&self, words: &str) -> Option<Vec<u8>> {
        if self.have > 0 || self.leaving {
            return None;
        }
        let words = text::line(words, FAREWELL_BYTES_MAX);
        // Whoever has said nothing yet begins with its settings.
        let mut bytes = if self.begun { Vec::new() } else { frame(SETTINGS, &[]) };
        let fixed = [ANY_STREAM.to_be_bytes(), ENHANCE_YOUR_CALM.to_be_bytes()].concat();
        bytes.extend(frame(GOAWAY, &[&fixed[..], words.as_bytes()].concat()));
        Some(bytes)
    }
}

/// A frame of the connection itself.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    // It is short, so that its length has its place in three bytes.
    let [_, _, _, _, _, a, b, c] = (payload.len() as u64).to_be_bytes();
    [&[a, b, c, kind, 0, 0, 0, 0, 0][..], payload].concat()
}

/// A connection whose last word is the error of whatever is under way on it.
#[derive(Debug)]
pub struct Heard<S> {
    stream: S,
    frames: Frames,
    farewell: Option<Farewell>,
}

impl<S> Heard<S> {
    /// A connection of which nothing was read yet.
    pub fn new(stream: S) -> Heard<S> {
        Heard { stream, frames: Frames::default(), farewell: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if let Some(farewell) = &me.farewell {
            return Poll::Ready(Err(farewell.clone().into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut me.stream).poll_read(context, buffer))?;
        if let Some((at, farewell)) = me.frames.pass(&buffer.filled()[before..]) {
            me.farewell = Some(farewell.clone());
            // What came before the last word is read first; HTTP/2 itself does not get to see it.
            buffer.set_filled(before + at);
            if at == 0 {
                return Poll::Ready(Err(farewell.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
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
        pieces: &[io::IoSlice<'_>],
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
mod tests;
