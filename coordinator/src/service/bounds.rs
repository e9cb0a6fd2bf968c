//! What a call may cost before it is looked into: how long its headers and messages are, how many calls its
//! connection has under way, how many of those are worked on. HTTP/2 and gRPC have such limits themselves and no
//! words for them, so these come first and are told by name.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use fedpaint_proto::enrolment::JOIN_BYTES_MAX;
use fedpaint_proto::framing::Framing;
use fedpaint_proto::limits::{HTTP2_HEADER_LIST_BYTES_MAX, HTTP2_STREAMS_MAX, MESSAGE_BYTES_MAX};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::enrolment_service_server::SERVICE_NAME as ENROLMENT;
use fedpaint_proto::v1::identity_service_server::SERVICE_NAME as IDENTITY;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::info;

use crate::accept::Peer;
use crate::intake::Taking;

/// What HTTP/2 counts for each header beside its bytes (RFC 9113, 6.5.2).
const HEADER_BYTES: usize = 32;

/// Lets those calls through that keep to the limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BoundsLayer;

impl<S> Layer<S> for BoundsLayer {
    type Service = Bounds<S>;

    fn layer(&self, inner: S) -> Bounds<S> {
        Bounds { inner }
    }
}

/// A service behind [`BoundsLayer`].
#[derive(Clone)]
pub(crate) struct Bounds<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Bounds<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The service that is ready is used, and a clone of it left behind.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            // A connection that names nobody is refused behind this.
            let Some(peer) = request.extensions().get::<Peer>().cloned() else {
                return inner.call(request).await;
            };
            let place = match enter(&request, &peer) {
                Ok(place) => place,
                Err(status) => {
                    let Peer { who, address, .. } = &peer;
                    info!(%who, %address, reason = status.message(), "call refused");
                    return Ok(status.into_http());
                }
            };
            // Given back with the head of the answer; the place, with its end.
            let taking = peer.line.intake.call();
            let _turn = peer.line.calls.turn().await;
            let longest = Longest::of(request.uri().path());
            let request = request.map(|body| Body::new(Measured::new(body, longest, taking)));
            let response = inner.call(request).await?;
            Ok(response.map(|body| Body::new(Placed { body, place: Some(place) })))
        })
    }
}

/// The call's place on its connection.
///
/// # Errors
/// If there is none, or the headers are too long.
fn enter<B>(request: &Request<B>, peer: &Peer) -> Result<OwnedSemaphorePermit, Status> {
    let bytes = header_bytes(request);
    if bytes > HTTP2_HEADER_LIST_BYTES_MAX as usize {
        return Err(Reason::TooLong.status(format!(
            "the call's headers have {bytes} bytes, the limit is: {HTTP2_HEADER_LIST_BYTES_MAX} bytes \
             (HTTP2_HEADER_LIST_BYTES_MAX)"
        )));
    }
    peer.line.calls.enter().ok_or_else(|| {
        Reason::TooManyCalls.status(format!(
            "{HTTP2_STREAMS_MAX} calls are under way on this connection, the most it may have \
             (HTTP2_STREAMS_MAX)"
        ))
    })
}

/// How long a call's headers are, as HTTP/2 counts them.
fn header_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let own = [
        (":method", request.method().as_str()),
        (":scheme", uri.scheme_str().unwrap_or_default()),
        (":authority", uri.authority().map_or("", |authority| authority.as_str())),
        (":path", uri.path_and_query().map_or("", |path| path.as_str())),
    ];
    let own = own.iter().map(|(name, value)| name.len() + value.len());
    let more = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    own.chain(more).map(|bytes| bytes + HEADER_BYTES).sum()
}

/// How long the messages of a call may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Longest {
    name: &'static str,
    bytes: usize,
}

impl Longest {
    /// That of most calls.
    const USUAL: Longest = Longest { name: "MESSAGE_BYTES_MAX", bytes: MESSAGE_BYTES_MAX };

    /// That of calls about certificates.
    const JOINING: Longest = Longest { name: "JOIN_BYTES_MAX", bytes: JOIN_BYTES_MAX };

    /// That of the method of this path.
    fn of(path: &str) -> Longest {
        match path.split('/').nth(1) {
            Some(ENROLMENT | IDENTITY) => Longest::JOINING,
            _ => Longest::USUAL,
        }
    }

    fn refuses(self) -> Status {
        let Longest { name, bytes } = self;
        Reason::TooLong
            .status(format!("the message is too large, the limit is: {bytes} bytes ({name})"))
    }
}

/// A message of a usual call is longer than it may be.
pub(super) fn too_long() -> Status {
    Longest::USUAL.refuses()
}

/// The body of a request, run by run (see [`framing`](fedpaint_proto::framing)), up to a message that says that it
/// is too long.
struct Measured {
    body: Body,
    longest: Longest,
    framing: Framing,
    /// What has come and was not given yet.
    rest: Bytes,
    /// None once the request has ended.
    taking: Option<Taking>,
}

impl Measured {
    fn new(body: Body, longest: Longest, taking: Taking) -> Measured {
        let (framing, rest) = Default::default();
        Measured { body, longest, framing, rest, taking: Some(taking) }
    }

    /// Takes note of what the call takes of its connection.
    fn takes(&mut self, frame: &Poll<Option<Result<Frame<Bytes>, Status>>>) {
        let Some(taking) = &self.taking else { return };
        match frame {
            Poll::Pending => taking.is_dry(),
            Poll::Ready(Some(Ok(frame))) if !http_body::Body::is_end_stream(&self.body) => {
                taking.took(frame.data_ref().map_or(0, Bytes::len));
            }
            Poll::Ready(_) => self.taking = None,
        }
    }

    /// The next run of what has come.
    ///
    /// # Errors
    /// If a message begins that is too long.
    fn run(&mut self) -> Result<Bytes, Status> {
        let run = self.framing.run(&self.rest);
        match run.message_bytes.is_some_and(|bytes| bytes > self.longest.bytes) {
            true => Err(self.longest.refuses()),
            false => Ok(self.rest.split_to(run.bytes)),
        }
    }
}

impl http_body::Body for Measured {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = self.get_mut();
        if me.rest.is_empty() {
            let frame = Pin::new(&mut me.body).poll_frame(context);
            me.takes(&frame);
            match ready!(frame) {
                Some(Ok(frame)) if frame.is_data() => {
                    me.rest = frame.into_data().unwrap_or_default();
                }
                other => return Poll::Ready(other),
            }
        }
        Poll::Ready(Some(me.run().map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The body of an answer, until whose end the call has its place.
struct Placed {
    body: Body,
    place: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for Placed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = self.get_mut();
        let frame = ready!(Pin::new(&mut me.body).poll_frame(context));
        // What comes next on this connection may come as soon as these are read.
        if !matches!(&frame, Some(Ok(frame)) if !frame.is_trailers()) {
            me.place = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::framing::PREFIX_BYTES;

    use super::*;
    use crate::intake::Intake;

    /// A message of so many bytes behind its prefix.
    fn message(bytes: usize) -> Vec<u8> {
        let length = u32::try_from(bytes).unwrap().to_be_bytes();
        [&[0][..], &length, &vec![0xff; bytes]].concat()
    }

    fn pass(bytes: &[u8], piece: usize) -> bool {
        let mut measured = Measured::new(Body::empty(), Longest::JOINING, Intake::default().call());
        bytes.chunks(piece).all(|piece| {
            measured.rest = Bytes::copy_from_slice(piece);
            while !measured.rest.is_empty() {
                if measured.run().is_err() {
                    return false;
                }
            }
            true
        })
    }

    #[test]
    fn each_message_is_measured_in_whatever_pieces_it_comes() {
        let fits = [message(JOIN_BYTES_MAX), message(0), message(1), message(7)].concat();
        let not = [message(0), message(9), message(JOIN_BYTES_MAX + 1)].concat();
        for piece in [1, 3, 4, 5, 6, 1_000, 1 << 20] {
            assert!(pass(&fits, piece), "{piece}");
            assert!(!pass(&not, piece), "{piece}");
            // It is known by the prefix alone.
            assert!(!pass(&not[..2 * PREFIX_BYTES + 9 + PREFIX_BYTES], piece), "{piece}");
        }
    }

    #[test]
    fn headers_are_counted_as_http2_does() {
        let request = Request::builder()
            .method("POST")
            .uri("http://fed/a.B/C")
            .header("te", "trailers")
            .body(())
            .unwrap();
        // RFC 9113, 6.5.2: name, value and 32 bytes of each.
        let own = (7 + 4) + (7 + 4) + (10 + 3) + (5 + 6);
        assert_eq!(header_bytes(&request), own + 2 + 8 + 5 * 32);
    }

    #[test]
    fn a_call_about_certificates_has_shorter_messages() {
        assert_eq!(Longest::of("/fedpaint.v1.EnrolmentService/Join"), Longest::JOINING);
        assert_eq!(Longest::of("/fedpaint.v1.IdentityService/Renew"), Longest::JOINING);
        assert_eq!(Longest::of("/fedpaint.v1.BlobService/Upload"), Longest::USUAL);
        assert_eq!(Longest::of(""), Longest::USUAL);
    }
}
