//! Whoever reads a stream of messages, and how long it may let one wait: a call that nobody reads would keep
//! its task, and what that holds, for ever.

use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::limits::TRANSFER_STALL_TIMEOUT;
use fedpaint_proto::reason::Reason;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Parts, draining};
use crate::clock::{Clock, within};

/// How long a reader may take until there is room for the next message.
pub(super) const READ_TIMEOUT: Duration = TRANSFER_STALL_TIMEOUT;

/// One message waits to be read, and beside it there is room for the word by which the stream ends.
const ROOM: usize = 2;

/// The reader of one stream.
pub(super) struct Reader<T> {
    sender: mpsc::Sender<Result<T, Status>>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
}

/// The stream has ended: nothing more is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Over;

/// A reader, and what it reads.
pub(super) fn begin<T>(parts: &Parts) -> (Reader<T>, ReceiverStream<Result<T, Status>>) {
    let (sender, messages) = mpsc::channel(ROOM);
    let (clock, stop) = (Arc::clone(&parts.clock), parts.stop.clone());
    (Reader { sender, clock, stop }, ReceiverStream::new(messages))
}

impl<T> Reader<T> {
    /// What comes of `work`; nothing where the server stops, which the reader is told, or it has gone.
    pub(super) async fn unless_gone<W>(&self, work: impl Future<Output = W>) -> Option<W> {
        tokio::select! {
            () = self.stop.cancelled() => {
                self.end(draining());
                None
            }
            () = self.sender.closed() => None,
            done = work => Some(done),
        }
    }

    /// Hands the next message over, once the one before the last was read.
    ///
    /// # Errors
    /// If the reader has gone or takes too long, or the server stops; then the stream has ended, with the
    /// reason as its last word.
    pub(super) async fn give(&self, message: T) -> Result<(), Over> {
        // Both places: one stays free for the last word.
        let room = within(&*self.clock, READ_TIMEOUT, self.sender.reserve_many(ROOM));
        match self.unless_gone(room).await {
            Some(Some(Ok(mut room))) => {
                if let Some(place) = room.next() {
                    place.send(Ok(message));
                }
                Ok(())
            }
            Some(None) => {
                let seconds = READ_TIMEOUT.as_secs();
                self.end(Reason::TooSlow.status(format!(
                    "the next message was not read for {seconds} s, the most it may wait \
                     (READ_TIMEOUT)"
                )));
                Err(Over)
            }
            Some(Some(Err(_))) | None => Err(Over),
        }
    }

    /// Ends the stream with a word, for a mere end would look as if all had been said.
    pub(super) fn end(&self, why: Status) {
        // Who has gone does not hear it; there is room for it otherwise.
        let _ = self.sender.try_send(Err(why));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use jiff::Timestamp;
    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::*;
    use crate::clock::ManualClock;

    const SECOND: Duration = Duration::from_secs(1);

    fn begin() -> (ManualClock, Reader<u32>, ReceiverStream<Result<u32, Status>>) {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let (sender, messages) = mpsc::channel(ROOM);
        let reader =
            Reader { sender, clock: Arc::new(clock.clone()), stop: CancellationToken::new() };
        (clock, reader, ReceiverStream::new(messages))
    }

    async fn now<W>(work: &mut (impl Future<Output = W> + Unpin)) -> Option<W> {
        poll_fn(|context| match std::pin::Pin::new(&mut *work).poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// What is left of a stream, and the word by which it ends.
    async fn rest(mut messages: ReceiverStream<Result<u32, Status>>) -> (Vec<u32>, Option<Status>) {
        let mut read = Vec::new();
        while let Some(message) = messages.next().await {
            match message {
                Ok(message) => read.push(message),
                Err(status) => {
                    assert!(messages.next().await.is_none(), "a last word is the last");
                    return (read, Some(status));
                }
            }
        }
        (read, None)
    }

    #[tokio::test]
    async fn who_reads_slowly_gets_everything_and_who_never_reads_is_told_the_limit() {
        let (clock, reader, mut messages) = begin();
        for n in 0..3 {
            reader.give(n).await.unwrap();
            let mut next = Box::pin(reader.give(n + 10));
            assert_eq!(now(&mut next).await, None, "one message waits at a time");
            clock.advance(READ_TIMEOUT - SECOND);
            assert_eq!(now(&mut next).await, None);
            assert_eq!(messages.next().await.unwrap().unwrap(), n);
            assert_eq!(next.await, Ok(()));
            assert_eq!(messages.next().await.unwrap().unwrap(), n + 10);
        }
        reader.give(1).await.unwrap();
        let mut next = Box::pin(reader.give(2));
        assert_eq!(now(&mut next).await, None);
        clock.advance(READ_TIMEOUT);
        assert_eq!(now(&mut next).await, Some(Err(Over)));
        drop(next);
        drop(reader);
        let (read, why) = rest(messages).await;
        let why = why.unwrap();
        assert_eq!((read, why.code()), (vec![1], Code::DeadlineExceeded));
        assert!(why.message().contains("was not read for 60 s"), "{why}");
    }

    #[tokio::test]
    async fn a_server_that_stops_waits_for_no_reader_and_tells_each() {
        let (_clock, reader, messages) = begin();
        reader.give(1).await.unwrap();
        let mut next = Box::pin(reader.give(2));
        assert_eq!(now(&mut next).await, None);
        reader.stop.cancel();
        assert_eq!(next.await, Err(Over));
        drop(reader);
        let (read, why) = rest(messages).await;
        assert_eq!((read, why.unwrap().code()), (vec![1], draining().code()));
        let (_clock, reader, messages) = begin();
        drop(messages);
        assert_eq!(reader.give(1).await, Err(Over), "nobody reads it");
        assert_eq!(reader.unless_gone(std::future::pending::<()>()).await, None);
    }
}
