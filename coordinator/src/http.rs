//! `/healthz` and `/metrics`, on their own address, for those who watch the coordinator.
//!
//! Read-only, without TLS and without asking who calls: it says how rounds go, never what is in them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock::{BoxFuture, Clock};
use crate::credentials::Credentials;
use crate::driver::Handle;
use crate::metrics::Book;
use crate::observe::{Observer, show_end};

/// The most connections open at once; the next waits in the listener's queue.
const CONNECTIONS_MAX: usize = 32;

/// How long one connection may last, so that a silent one does not keep its place.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long reading the state for the metrics may take; what is not read then is read next time.
const OBSERVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What OpenMetrics text is called.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages are made from.
#[derive(Clone)]
pub(crate) struct Pages {
    /// Answers whether the coordinator lives, and how its runs go.
    pub(crate) driver: Handle,
    /// The metrics.
    pub(crate) book: Arc<Book>,
    /// Keeps those metrics up to date that follow from the state.
    pub(crate) observer: Arc<Observer>,
    /// The certificates as they are now.
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
}

/// Serves the pages until `stop`.
///
/// # Errors
/// If the listener fails for good.
pub(crate) async fn serve(
    listener: TcpListener,
    pages: Pages,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .with_state(pages);
    axum::serve(Bounded { listener, places, clock }, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn healthz(State(pages): State<Pages>) -> Response {
    match pages.driver.is_alive() {
        true => (StatusCode::OK, "ok\n").into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the driver has ended\n").into_response(),
    }
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let credentials = Arc::clone(&*pages.credentials.borrow());
    // A certificate that is no more has no end.
    pages.book.metrics.certificate_end.clear();
    for (holder, until) in &credentials.expiries {
        show_end(&pages.book.metrics, holder.clone(), *until);
    }
    let observed = pages.observer.observe(&pages.driver, &pages.book.metrics);
    match tokio::time::timeout(OBSERVE_TIMEOUT, observed).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "some metrics are old"),
        Err(_) => warn!("some metrics are old: the driver does not answer"),
    }
    match pages.book.text() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A listener that keeps the number of its connections, and the life of each, within bounds.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
}

/// A connection of [`Bounded`].
struct BoundedStream {
    tcp: TcpStream,
    deadline: BoxFuture,
    // Held for as long as the connection is open.
    _place: Option<OwnedSemaphorePermit>,
}

impl Listener for Bounded {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        // The semaphore is never closed, so there is always a place in the end.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (tcp, address) = Listener::accept(&mut self.listener).await;
        let deadline = self.clock.sleep(CONNECTION_TIMEOUT);
        (BoundedStream { tcp, deadline, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl BoundedStream {
    fn poll_alive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_alive(context)?;
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_alive(context)?;
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
