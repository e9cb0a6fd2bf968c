//! Where gRPC's messages begin and end in the bytes of a call (gRPC over HTTP/2, "Length-Prefixed-Message"), and a
//! body that gives each message's prefix apart from its bytes.
//!
//! Who reads messages makes room for one when its prefix is there. Where the message came with its prefix it makes that
//! room beside the bytes that it has, which it copies once more; behind a prefix alone it copies nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

/// What gRPC writes before a message: whether it is compressed, and its length.
pub const PREFIX_BYTES: usize = 5;

/// How far the bytes of a call have come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framing {
    prefix: [u8; PREFIX_BYTES],
    /// How many bytes of the prefix have come: all of them while the message comes.
    have: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

/// Bytes that are all of one prefix, or all of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How many.
    pub bytes: usize,
    /// How long the message is whose prefix ends with them.
    pub message_bytes: Option<usize>,
}

impl Framing {
    /// Takes note of the first run of the next bytes; it is none of them only where there are none.
    pub fn run(&mut self, bytes: &[u8]) -> Run {
        if self.have == PREFIX_BYTES {
            let taken = bytes.len().min(self.left);
            self.left -= taken;
            if self.left == 0 {
                self.have = 0;
            }
            return Run { bytes: taken, message_bytes: None };
        }
        let more = &bytes[..bytes.len().min(PREFIX_BYTES - self.have)];
        self.prefix[self.have..self.have + more.len()].copy_from_slice(more);
        self.have += more.len();
        if self.have < PREFIX_BYTES {
            return Run { bytes: more.len(), message_bytes: None };
        }
        let [_, a, b, c, d] = self.prefix;
        let message_bytes = u32::from_be_bytes([a, b, c, d]) as usize;
        self.left = message_bytes;
        if message_bytes == 0 {
            self.have = 0;
        }
        Run { bytes: more.len(), message_bytes: Some(message_bytes) }
    }
}

/// An answer's body, run by run.
#[derive(Debug)]
pub struct Apart {
    body: tonic::body::Body,
    framing: Framing,
    /// What has come and was not given yet.
    rest: Bytes,
}

/// The answer with its body run by run.
pub fn apart(answer: Response<tonic::body::Body>) -> Response<Apart> {
    answer.map(|body| Apart { body, framing: Framing::default(), rest: Bytes::new() })
}

impl Body for Apart {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = self.get_mut();
        if me.rest.is_empty() {
            match ready!(Pin::new(&mut me.body).poll_frame(context)) {
                Some(Ok(frame)) if frame.is_data() => {
                    me.rest = frame.into_data().unwrap_or_default();
                }
                other => return Poll::Ready(other),
            }
        }
        let run = me.framing.run(&me.rest);
        Poll::Ready(Some(Ok(Frame::data(me.rest.split_to(run.bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use super::*;

    /// A body of these pieces.
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    /// A message of so many bytes behind its prefix.
    fn message(bytes: usize) -> Vec<u8> {
        let length = u32::try_from(bytes).unwrap().to_be_bytes();
        [&[0][..], &length, &vec![0xff; bytes]].concat()
    }

    const LENGTHS: [usize; 7] = [0, 3, 0, 1, 5, 1_000, 0];

    fn call() -> Vec<u8> {
        LENGTHS.map(message).concat()
    }

    #[test]
    fn each_message_is_told_with_its_prefix_in_whatever_pieces_it_comes() {
        let call = call();
        for piece in [1, 3, 4, 5, 6, 7, 1_000, call.len()] {
            let (mut framing, mut told) = (Framing::default(), Vec::new());
            for mut bytes in call.chunks(piece) {
                while !bytes.is_empty() {
                    let run = framing.run(bytes);
                    told.extend(run.message_bytes);
                    assert!(run.bytes > 0, "{piece}");
                    bytes = &bytes[run.bytes..];
                }
            }
            assert_eq!(told, LENGTHS, "{piece}");
        }
    }

    #[tokio::test]
    async fn a_body_gives_every_byte_once_and_no_prefix_together_with_what_follows() {
        let call = call();
        for piece in [1, 4, 6, 1_000, call.len()] {
            let pieces = Pieces(call.chunks(piece).map(Bytes::copy_from_slice).collect());
            let mut body = apart(Response::new(tonic::body::Body::new(pieces))).into_body();
            let (mut given, mut whole_prefixes) = (Vec::new(), 0);
            while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
            {
                let data = frame.unwrap().into_data().unwrap();
                // A byte of a message is not one of a prefix of so few bytes.
                let of_message = data.iter().filter(|byte| **byte == 0xff).count();
                assert!(of_message == 0 || of_message == data.len(), "{piece}: {data:?}");
                whole_prefixes += usize::from(data.len() == PREFIX_BYTES && of_message == 0);
                given.extend_from_slice(&data);
            }
            assert!(given == call, "{piece}");
            assert!(piece < PREFIX_BYTES || whole_prefixes > 0, "{piece}");
        }
    }
}
