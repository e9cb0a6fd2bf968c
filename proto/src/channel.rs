//! The gRPC channel of a site or an operator: TCP, through a proxy where there is one, TLS 1.3, HTTP/2,
//! and nobody but the federation's coordinator at the other end.

mod named;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, OtherError};
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::ahead::Ahead;
use crate::congestion;
use crate::enrolment::Pin;
use crate::farewell::{Frames, Heard};
use crate::identity::{Identity, Role};
use crate::limits;
use crate::names::FederationName;
use crate::proxy::{self, Proxy};
use crate::tls;

/// Where the coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A DNS name or an IP address, as in the coordinator's certificate.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Why the coordinator cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not one.
    #[error("{text:?} is not the address of a coordinator: write `https://host:port`")]
    Address {
        /// The text.
        text: String,
    },
    /// Nobody answers, or somebody who is not the coordinator.
    #[error("cannot reach the coordinator at {address}: {reason}")]
    Connect {
        /// Where.
        address: Address,
        /// Why, with what to do.
        reason: String,
    },
    /// Somebody answers, but the certificates do not please both ends. Trying again does not help.
    #[error("the coordinator at {address} and this end do not trust each other: {reason}")]
    Untrusted {
        /// Where.
        address: Address,
        /// Which certificate, and what is wrong with it.
        reason: String,
    },
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

impl std::str::FromStr for Address {
    type Err = Error;
    fn from_str(text: &str) -> Result<Address, Error> {
        let bad = || Error::Address { text: text.chars().take(200).collect() };
        let uri: tonic::codegen::http::Uri = text.parse().map_err(|_| bad())?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        match (uri.scheme_str(), uri.host(), uri.port_u16()) {
            (Some("https"), Some(host), Some(port)) if path == "/" && !host.is_empty() => {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Address { host, port })
            }
            _ => Err(bad()),
        }
    }
}

/// How the coordinator is reached.
#[derive(Clone, Debug)]
pub struct Route {
    /// The proxy to go through, if there is one.
    pub proxy: Option<Proxy>,
    /// How long nothing may come before the other end is asked whether it is still there.
    pub keepalive_interval: Duration,
    /// How long its answer may take before the connection is given up.
    pub keepalive_timeout: Duration,
}

impl Default for Route {
    fn default() -> Route {
        Route {
            proxy: None,
            keepalive_interval: limits::KEEPALIVE_INTERVAL,
            keepalive_timeout: limits::KEEPALIVE_TIMEOUT,
        }
    }
}

/// Connects to the coordinator of `federation`, without a proxy.
///
/// # Errors
/// As [`connect_by`].
pub async fn connect(
    address: &Address,
    federation: &FederationName,
    tls: Arc<ClientConfig>,
) -> Result<Channel, Error> {
    connect_by(&Route::default(), address, federation, tls).await
}

/// Connects to the coordinator of `federation`. The channel reconnects by itself afterwards.
///
/// # Errors
/// If nobody answers in time, or the answer is not from the federation's coordinator.
pub async fn connect_by(
    route: &Route,
    address: &Address,
    federation: &FederationName,
    tls: Arc<ClientConfig>,
) -> Result<Channel, Error> {
    open(route, address, Some(federation), tls).await
}

/// Connects to whatever coordinator the root with this key vouches for, to ask it to join.
///
/// # Errors
/// If nobody answers in time, or the answer is not from a coordinator under that root.
pub async fn join_by(route: &Route, address: &Address, root: Pin) -> Result<Channel, Error> {
    let tls = tls::joining(root).map_err(|error| {
        let (address, reason) = (address.clone(), error.to_string());
        Error::Connect { address, reason }
    })?;
    open(route, address, None, tls).await
}

async fn open(
    route: &Route,
    address: &Address,
    federation: Option<&FederationName>,
    tls: Arc<ClientConfig>,
) -> Result<Channel, Error> {
    let endpoint = endpoint(route, address)?;
    let connect = {
        let (route, address, federation) = (route.clone(), address.clone(), federation.cloned());
        let dial = move |_| {
            dial(route.proxy.clone(), address.clone(), federation.clone(), Arc::clone(&tls))
        };
        service_fn(dial)
    };
    endpoint.connect_with_connector(connect).await.map_err(|error| {
        let address = address.clone();
        match distrust(&error) {
            Some(reason) => Error::Untrusted { address, reason },
            None => Error::Connect { address, reason: innermost(&error) },
        }
    })
}

/// Whose certificate pleased the other end not, if that is what `error`, or what caused it, says.
pub fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        match inner.map(|inner| (inner, inner.downcast_ref::<rustls::Error>())) {
            // Our own verifier's words.
            Some((
                _,
                Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(words)))),
            )) => return Some(words.to_string()),
            Some((_, Some(error))) => return Some(error.to_string()),
            Some((inner, None)) if inner.is::<NotTheCoordinator>() => {
                return Some(inner.to_string());
            }
            _ => cause = error.source(),
        }
    }
    None
}

/// The certificate at the other end is under the root, but not that of our coordinator.
#[derive(Debug)]
struct NotTheCoordinator(Option<FederationName>);

impl std::error::Error for NotTheCoordinator {}

impl std::fmt::Display for NotTheCoordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the certificate there is not that of a coordinator")?;
        self.0.as_ref().map_or(Ok(()), |federation| write!(f, " of federation {federation}"))
    }
}

fn endpoint(route: &Route, address: &Address) -> Result<Endpoint, Error> {
    let bad = |_| Error::Address { text: address.to_string() };
    // The scheme is http because TLS is ours, below tonic.
    let host = if address.host.contains(':') {
        format!("[{}]", address.host)
    } else {
        address.host.clone()
    };
    let endpoint = Endpoint::from_shared(format!("http://{host}:{}", address.port)).map_err(bad)?;
    Ok(endpoint
        // As large as the path needs: a window that is not full on its way is memory here.
        .http2_adaptive_window(true)
        // A piece of a model comes as one frame, not as four and a rest.
        .max_frame_size(limits::HTTP2_FRAME_BYTES_MAX)
        .http2_max_header_list_size(limits::HTTP2_HEADER_LIST_BYTES_MAX)
        .http2_keep_alive_interval(route.keepalive_interval)
        .keep_alive_timeout(route.keepalive_timeout)
        .keep_alive_while_idle(true))
}

type Stream = TokioIo<Heard<TlsStream<Ahead<TcpStream>>>>;

async fn dial(
    proxy: Option<Proxy>,
    address: Address,
    federation: Option<FederationName>,
    tls: Arc<ClientConfig>,
) -> Result<Stream, std::io::Error> {
    let name = ServerName::try_from(address.host.clone()).map_err(std::io::Error::other)?;
    let tcp = reach(proxy.as_ref(), &address).await?;
    tcp.set_nodelay(true)?;
    congestion::ask(&tcp);
    let connect = TlsConnector::from(tls).connect(name, Ahead::new(tcp));
    let mut stream = in_time("no TLS handshake", connect).await.map_err(turned_away)?;
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let identity = certificate.map(|c| Identity::from_certificate(c));
    match identity {
        Some(Ok(Identity { federation: theirs, role: Role::Coordinator(_) }))
            if federation.as_ref().is_none_or(|ours| *ours == theirs) => {}
        _ => return Err(std::io::Error::other(NotTheCoordinator(federation))),
    }
    // TLS 1.3 has the coordinator judge our certificate when for us the handshake is over: only its
    // first bytes, HTTP/2's settings, tell that it took us in, if it does not say there why it does not.
    let first = in_time("no HTTP/2", stream.fill_buf()).await;
    match first.map(|bytes| (bytes.is_empty(), Frames::default().pass(bytes))) {
        Ok((_, Some((_, farewell)))) => return Err(farewell.into()),
        Ok((false, None)) => return Ok(TokioIo::new(Heard::new(stream))),
        Ok((true, None)) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error),
    }
    Err(std::io::Error::new(
        ErrorKind::ConnectionAborted,
        "it closes the connection at once, its log may say why",
    ))
}

/// What it may mean that a connection is closed before TLS, where nothing can be said yet.
fn turned_away(error: std::io::Error) -> std::io::Error {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            std::io::Error::new(
                ErrorKind::ConnectionAborted,
                "it closes the connection before TLS, as a coordinator does with more handshakes or \
                 connections than it takes (HANDSHAKES_MAX, CONNECTIONS_MAX), and with a handshake that \
                 takes too long (HANDSHAKE_TIMEOUT); its log may say why",
            )
        }
        _ => error,
    }
}

/// Bytes to the coordinator, directly or by a tunnel.
async fn reach(proxy: Option<&Proxy>, address: &Address) -> std::io::Result<TcpStream> {
    let Some(proxy) = proxy else {
        let tcp = TcpStream::connect((address.host.as_str(), address.port));
        return in_time("no answer", tcp).await;
    };
    let said = |error: std::io::Error| match error.get_ref() {
        // It says itself that it is the proxy's.
        Some(_) => error,
        None => std::io::Error::new(error.kind(), format!("the proxy {proxy}: {error}")),
    };
    let tcp = TcpStream::connect((proxy.host.as_str(), proxy.port));
    let mut tcp = in_time("no answer of the proxy", tcp).await.map_err(said)?;
    let asked = proxy::ask(&mut tcp, proxy, address);
    in_time("no tunnel of the proxy", asked).await.map_err(said)?;
    Ok(tcp)
}

async fn in_time<T>(
    what: &str,
    work: impl Future<Output = std::io::Result<T>>,
) -> std::io::Result<T> {
    match tokio::time::timeout(limits::CONNECT_TIMEOUT, work).await {
        Ok(done) => done,
        Err(_) => Err(std::io::Error::new(
            ErrorKind::TimedOut,
            format!("{what} within {} s", limits::CONNECT_TIMEOUT.as_secs()),
        )),
    }
}

/// What a call that failed says: the coordinator's words, or what lies beneath where the failure is of this end,
/// such as the last word of a connection. A limit has its name in it, whoever keeps to it.
pub fn told(status: &Status) -> String {
    let said = match std::error::Error::source(status) {
        Some(cause) => innermost(cause),
        None => status.message().to_owned(),
    };
    named::meaning(&said).unwrap_or(said)
}

/// The text of the cause at the bottom: tonic's own says only "transport error".
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;
