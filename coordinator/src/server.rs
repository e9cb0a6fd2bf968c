//! Config to server: checks, binds, builds the parts, serves, drains with a deadline.
//!
//! Everything that can be refused is refused before the data folder is touched.

mod state;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::congestion;
use fedpaint_proto::identity::{Identity, KeyId};
use fedpaint_proto::limits;
use fedpaint_proto::names::FederationName;
use fedpaint_proto::tls::Judge;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::state::{DATABASE_TIMEOUT, State, patiently, take_folder};
use crate::accept::{Door, accept};
use crate::blobs::{self, Blobs};
use crate::clock::Clock;
use crate::config::{Config, Retention, UnsignedUpdates};
use crate::connections::{Connections, keep_out};
use crate::credentials::{self, Credentials, Files, keep_fresh};
use crate::driver::{self, Handle, Options};
use crate::evidence::Notary;
use crate::folder::{self, Folder};
use crate::halt::Halt;
use crate::heap;
use crate::http::{self, Pages};
use crate::janitor::{self, Keeper};
use crate::limits::{HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_STREAM_WINDOW_BYTES, Limits};
use crate::metrics::Book;
use crate::observe::Observer;
use crate::roster::TwoPersons;
use crate::service::access::AccessLayer;
use crate::service::bounds::BoundsLayer;
use crate::service::{self, Parts};
use crate::slots::Slots;
use crate::store::{self, LEASE_RENEWAL, Outcomes, Store};

/// How long calls under way may take to end once the server stops, and after them the driver.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A listener, and where it really listens.
type Bound = (TcpListener, SocketAddr);

/// Why the server cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificates or keys cannot be used.
    #[error(transparent)]
    Credentials(#[from] credentials::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; free it or set another `{field}` in the config")]
    Bind {
        /// The field in the config.
        field: &'static str,
        /// What it says.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The data folder cannot be used, or another coordinator uses it.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// The models' folder cannot be used.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// The database cannot be used.
    #[error("cannot use the database {place}: {source}; see `database` in the config")]
    Database {
        /// Which database, without its password.
        place: String,
        /// Why.
        source: store::Error,
    },
    /// The database does not answer.
    #[error("the database {place} has not answered for {} s; see `database` in the config", DATABASE_TIMEOUT.as_secs())]
    DatabaseSilent {
        /// Which database, without its password.
        place: String,
    },
    /// The process must not go on: a sync failed, or another coordinator writes.
    #[error("the coordinator had to stop: {0}")]
    Halted(String),
    /// The server failed while it ran.
    #[error("the server failed: {0}")]
    Serve(String),
}

/// A coordinator that listens and is ready to serve.
pub struct Server {
    federation: FederationName,
    files: Files,
    credentials: Credentials,
    notary: Option<Arc<Notary>>,
    rules: TwoPersons,
    clock: Arc<dyn Clock>,
    listener: TcpListener,
    address: SocketAddr,
    sending: Option<String>,
    status_listener: TcpListener,
    status_address: SocketAddr,
    blobs: Blobs,
    driver: Handle,
    driving: JoinHandle<()>,
    stop_driver: CancellationToken,
    store: Store,
    /// How many rounds had ended before.
    outcomes: Outcomes,
    halt: Halt,
    retention: Retention,
    limits: Limits,
    // Held for as long as the data folder is in use.
    folder: Folder,
}

impl Server {
    /// Checks the configuration, binds both addresses and takes up the state where it was left. Where a
    /// disk cannot be used now this takes as long as [`state::patiently`] waits; whoever drops it meanwhile
    /// leaves what a crash would.
    ///
    /// # Errors
    /// If anything in the configuration cannot be used; nothing is written then.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Server, Error> {
        let files = Files::of(&config);
        // Nobody is judged yet: this finds out whether the files will do.
        let seal = files.seal(clock.now())?;
        patiently(&*clock, async || {
            Ok(files.load(Arc::new(|_| true), seal.clone(), clock.now())?)
        })
        .await?;
        let unsigned = config.unsigned_updates == UnsignedUpdates::Accept;
        let notary = seal.map(|seal| Arc::new(Notary::sealing(seal, unsigned)));
        let (at, status_at) = match listen(&config).await {
            Ok(both) => both,
            // It is hardly by chance that who has our address also has our data.
            Err(error) => return Err(Folder::taken(&config.data).map_or(error, Error::Folder)),
        };
        let ((listener, address), (status_listener, status_address)) = (at, status_at);
        let sending = congestion::ask(&listener);
        let mut folder =
            patiently(&*clock, async || take_folder(&config.data, &*clock).await).await?;
        let (heartbeat, rules) = (config.heartbeat(), config.two_persons);
        let options = Options { heartbeat, rules, notary: notary.clone() };
        let stop_driver = CancellationToken::new();
        let opened = patiently(&*clock, async || {
            let state = state::open(&config, &*clock, &mut folder).await?;
            let (store, blobs) = (state.store.clone(), state.blobs.clone());
            let (time, stop) = (Arc::clone(&clock), stop_driver.clone());
            let started = driver::start(options.clone(), store, blobs, time, stop).await;
            let started = started.map_err(|error| Error::database(&config.database(), error))?;
            Ok((state, started))
        });
        let (State { blobs, store, outcomes }, (driver, driving)) = opened.await?;
        let halt = blobs.halt().clone();
        // They may have been replaced while the database was waited for.
        let seal = files.seal(clock.now())?;
        if let (Some(notary), Some(seal)) = (&notary, &seal) {
            notary.take(Arc::clone(seal));
        }
        let credentials = files.load(judge(driver.clone()), seal, clock.now())?;
        if config.signing.is_none() {
            warn!("nothing is signed: the config has no `signing`");
        }
        Ok(Server {
            federation: config.federation.clone(),
            files,
            credentials,
            notary,
            rules: config.two_persons,
            clock,
            listener,
            address,
            sending,
            status_listener,
            status_address,
            blobs,
            driver,
            driving,
            stop_driver,
            store,
            outcomes,
            halt,
            retention: config.retention,
            limits: Limits::default(),
            folder,
        })
    }

    /// The same server with other limits on its connections.
    pub fn with_limits(self, limits: Limits) -> Server {
        Server { limits, ..self }
    }

    /// Where sites and operators reach the server; the port is a real one even if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// By what its connections send, where the system says that.
    pub fn sending(&self) -> Option<&str> {
        self.sending.as_deref()
    }

    /// Where `/healthz` and `/metrics` are.
    pub fn status_address(&self) -> SocketAddr {
        self.status_address
    }

    /// Serves until `stop`, then lets the calls under way end, for a bounded time.
    ///
    /// # Errors
    /// If serving fails, the driver ends before it is told to, or the process must not go on; then
    /// nothing is waited for.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), Error> {
        let Server { federation, clock, listener, status_listener, store, halt, .. } = self;
        let Server { files, credentials, notary, rules, .. } = self;
        let Server { blobs, driver, mut driving, stop_driver, retention, limits, .. } = self;
        // Ours until the end.
        let _folder = self.folder;
        // Whatever makes the server stop, every part of it is told.
        let stop = stop.child_token();
        let book = Arc::new(Book::new());
        let (shown, credentials) = watch::channel(Arc::new(credentials));
        let judge = judge(driver.clone());
        let fresh = tokio::spawn(keep_fresh(files, (shown, notary), judge, Arc::clone(&clock)));
        let parts = Parts {
            credentials: credentials.clone(),
            rules,
            clock: Arc::clone(&clock),
            federation: federation.clone(),
            driver: driver.clone(),
            blobs: blobs.clone(),
            slots: Slots::new(limits.upload_slots),
            metrics: book.metrics.clone(),
            stop: stop.clone(),
        };
        let lease = tokio::spawn(keep_lease(store.clone(), Arc::clone(&clock), halt.clone()));
        let keeper = Keeper { store: store.clone(), blobs: blobs.clone(), driver: driver.clone() };
        let (time, counts) = (Arc::clone(&clock), book.metrics.clone());
        let janitor = tokio::spawn(janitor::collect_daily(keeper, retention, time, counts));
        let tidying = tokio::spawn(heap::give_back_often(Arc::clone(&clock)));
        let connections = Connections::default();
        let guard = tokio::spawn(keep_out(connections.clone(), driver.clone()));
        let (own, time) = (driver.clone(), Arc::clone(&clock));
        let metrics = book.metrics.clone();
        let door = Door {
            federation,
            credentials,
            clock: time,
            driver: own,
            connections,
            limits,
            metrics,
        };
        let incoming = accept(listener, door);
        let grpc = tonic_server(&limits)
            .layer(BoundsLayer)
            .layer(AccessLayer::new(driver.clone(), Arc::clone(&clock)))
            .add_routes(service::routes(&parts))
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let observer = Arc::new(Observer::new(self.outcomes, blobs.root(), &book.metrics));
        let pages =
            Pages { driver: driver.clone(), book, observer, credentials: parts.credentials };
        let status =
            tokio::spawn(http::serve(status_listener, pages, Arc::clone(&clock), stop.clone()));
        let over = stop.clone().drop_guard();
        let grpc = tokio::spawn(async move {
            // However serving ends, a panic included, the rest is told.
            let _over = over;
            grpc.await
        });

        let driver_ended = tokio::select! {
            biased;
            why = halt.reached() => return Err(Error::Halted(why)),
            () = stop.cancelled() => false,
            _ = &mut driving => true,
        };
        stop.cancel();
        let outcome = tokio::select! {
            biased;
            why = halt.reached() => return Err(Error::Halted(why)),
            outcome = drain(grpc, status) => outcome,
        };
        stop_driver.cancel();
        lease.abort();
        janitor.abort();
        tidying.abort();
        guard.abort();
        fresh.abort();
        if driver_ended {
            return Err(Error::Serve("the driver ended before it was told to".to_owned()));
        }
        match tokio::time::timeout(DRAIN_TIMEOUT, &mut driving).await {
            Ok(ended) => {
                ended.map_err(|error| Error::Serve(format!("the driver died: {error}")))?;
            }
            Err(_) => {
                warn!("the database did not answer in time; what it was asked last may be undone");
                driving.abort();
            }
        }
        // Whoever comes next need not wait; if this fails it has to.
        if let Err(error) = store.renew_lease(clock.now(), true).await {
            warn!(%error, "the lease of the database could not be given back");
        }
        outcome
    }
}

/// Refuses the certificates of who was shut out, by a look at the newest state.
fn judge(driver: Handle) -> Judge {
    Arc::new(move |certificate| {
        let named = (Identity::from_certificate(certificate), KeyId::of_certificate(certificate));
        match named {
            (Ok(identity), Ok(key)) => !driver.shuts_out(&identity.role, &key),
            // It names nobody, which the door says better.
            _ => true,
        }
    })
}

/// Renews the lease of the database for as long as it is ours. A database that does not answer is
/// asked again: the lease is lost only when another coordinator takes it. After a failed sync nothing is asked any
/// more, as after one of a save.
async fn keep_lease(store: Store, clock: Arc<dyn Clock>, halt: Halt) {
    loop {
        let next = clock.now().checked_add(LEASE_RENEWAL).unwrap_or(Timestamp::MAX);
        clock.sleep_until(next).await;
        match store.renew_lease(clock.now(), false).await {
            Ok(()) => {}
            Err(error) if error.is_fatal() => return halt.call(error.to_string()),
            Err(error) => warn!(%error, "the lease of the database could not be renewed"),
        }
    }
}

/// Waits for both servers to end, but not for ever.
async fn drain(
    grpc: JoinHandle<Result<(), tonic::transport::Error>>,
    status: JoinHandle<io::Result<()>>,
) -> Result<(), Error> {
    let (grpc_abort, status_abort) = (grpc.abort_handle(), status.abort_handle());
    let both = async {
        match grpc.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Error::Serve(error.to_string())),
            Err(error) => return Err(Error::Serve(error.to_string())),
        }
        if let Ok(Err(error)) = status.await {
            error!(%error, "the status pages failed");
        }
        Ok(())
    };
    match tokio::time::timeout(DRAIN_TIMEOUT, both).await {
        Ok(outcome) => {
            info!("drained");
            outcome
        }
        Err(_) => {
            warn!("some calls did not end in time and are cut");
            grpc_abort.abort();
            status_abort.abort();
            Ok(())
        }
    }
}

/// HTTP/2 with its own limits. Those on calls are above the ones that a caller is told (`service/bounds`).
fn tonic_server(bounds: &Limits) -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::HTTP2_FRAME_BYTES_MAX)
        .max_concurrent_streams(limits::HTTP2_STREAMS_HARD_MAX)
        .http2_max_header_list_size(limits::HTTP2_HEADER_LIST_BYTES_HARD_MAX)
        .http2_keepalive_interval(Some(bounds.keepalive_interval))
        .http2_keepalive_timeout(Some(bounds.keepalive_timeout))
        .http2_max_pending_accept_reset_streams(Some(limits::PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(limits::LOCAL_RESETS_MAX))
}

/// Binds both addresses.
async fn listen(config: &Config) -> Result<(Bound, Bound), Error> {
    let listener = bind("listen", config.listen).await?;
    Ok((listener, bind("status_listen", config.status_listen).await?))
}

async fn bind(field: &'static str, address: SocketAddr) -> Result<Bound, Error> {
    let fail = |source| Error::Bind { field, address, source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

/// A database's URL as it may be shown: who logs in, and how, is left out.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_databases_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("postgres://fed:a@b@db.example/fed", "postgres://db.example/fed"),
            ("postgres://db/fed", "postgres://db/fed"),
            ("sqlite:/srv/a@b/fed.db", "sqlite:/srv/a@b/fed.db"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
