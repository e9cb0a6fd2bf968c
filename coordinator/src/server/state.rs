//! Takes what a coordinator has for itself alone: the data folder, the blobs in it, and the lease of the
//! database. A disk that cannot be used now is waited for, since after a failed sync the process stops and
//! nobody may be there to start it as often as it takes.

use std::path::Path;
use std::time::Duration;

use fedpaint_proto::disk::may_pass;
use tracing::{info, warn};

use super::Error;
use crate::blobs::{self, Blobs};
use crate::clock::Clock;
use crate::config::Config;
use crate::credentials;
use crate::folder::{self, Folder};
use crate::store::{Outcomes, Store};

/// How long opening the database may take, which includes bringing it up to date.
pub(super) const DATABASE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait before a start tries a disk again that is full, broken or read-only.
const START_RETRY_WAIT: Duration = Duration::from_secs(2);

/// How often, so that a disk which does not come back in half an hour ends the start.
const START_RETRIES_MAX: u32 = 900;

/// How often the data folder's lock is tried, and how long between two tries: a program that the last
/// holder was starting as it ended may hold the lock for a moment more.
const LOCK_TRIES_MAX: u32 = 10;
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// What a coordinator has below its data folder, and its database.
pub(super) struct State {
    /// The models and updates.
    pub(super) blobs: Blobs,
    /// The database, with the lease of it.
    pub(super) store: Store,
    /// How many rounds had ended before.
    pub(super) outcomes: Outcomes,
}

/// Takes the data folder and says in it who has it.
///
/// # Errors
/// If it cannot be used, or another process uses it.
pub(super) async fn take_folder(path: &Path, clock: &dyn Clock) -> Result<Folder, Error> {
    let mut tries = 1;
    let mut folder = loop {
        match Folder::take(path) {
            Err(folder::Error::Busy { .. }) if tries < LOCK_TRIES_MAX => {
                tries += 1;
                tokio::time::sleep(LOCK_WAIT).await;
            }
            taken => break taken?,
        }
    };
    folder.announce(clock.now());
    Ok(folder)
}

/// Opens the blobs and the database, and takes the lease. Who has failed to may try again.
///
/// # Errors
/// If either cannot be used, or another coordinator has the lease.
pub(super) async fn open(
    config: &Config,
    clock: &dyn Clock,
    folder: &mut Folder,
) -> Result<State, Error> {
    let blobs = Blobs::open(&config.data, clock.now()).await?;
    let url = config.database();
    let failed = |source| Error::database(&url, source);
    let silent = |_| Error::DatabaseSilent { place: super::without_password(&url) };
    let store = tokio::time::timeout(DATABASE_TIMEOUT, Store::connect(&url)).await;
    let store = store.map_err(silent)?.map_err(failed)?.with_halt(blobs.halt());
    let held = tokio::time::timeout(DATABASE_TIMEOUT, store.lease()).await;
    let held = held.map_err(silent)?.map_err(failed)?;
    let (holder, dead) = folder.holder(clock.now(), held.as_ref().map(|lease| &lease.holder));
    let taken = store.take_lease(&holder, &dead, clock.now());
    let taken = tokio::time::timeout(DATABASE_TIMEOUT, taken).await;
    let store = taken.map_err(silent)?.map_err(failed)?;
    let rows = store.add_checksums().await.map_err(failed)?;
    if rows > 0 {
        info!(rows, "the rows of a database of before have their checksums now");
    }
    let outcomes = store.outcomes().await.map_err(failed)?;
    Ok(State { blobs, store, outcomes })
}

/// Has `step` done again while the disk fails it in a way that may pass, for half an hour. It is told once.
///
/// # Errors
/// Whatever else it fails for, or the last failure of the disk.
pub(super) async fn patiently<T>(
    clock: &dyn Clock,
    mut step: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    for tried in 0..START_RETRIES_MAX {
        match step().await {
            Err(error) if error.may_pass() => {
                if tried == 0 {
                    let (again_s, times_max) = (START_RETRY_WAIT.as_secs(), START_RETRIES_MAX);
                    warn!(%error, again_s, times_max, "the disk cannot be used now, and the start is tried again");
                }
                clock.sleep(START_RETRY_WAIT).await;
            }
            Ok(done) if tried > 0 => {
                info!("the disk can be used again");
                return Ok(done);
            }
            done => return done,
        }
    }
    step().await
}

impl Error {
    /// The database at `url` cannot be used.
    pub(super) fn database(url: &str, source: crate::store::Error) -> Error {
        Error::Database { place: super::without_password(url), source }
    }

    /// Whether a disk is full, broken or read-only now. A failed sync is none of these: what the disk holds
    /// is not known then.
    fn may_pass(&self) -> bool {
        match self {
            Error::Folder(folder::Error::Io { source, .. })
            | Error::Blobs(blobs::Error::Io { source, .. })
            | Error::Credentials(credentials::Error::Settle { source, .. }) => may_pass(source),
            Error::Database { source, .. } => source.may_pass(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use jiff::Timestamp;
    use rustix::io::Errno;

    use super::*;
    use crate::clock::ManualClock;
    use crate::store;

    fn folder(errno: Errno) -> Error {
        folder::Error::Io { path: "data".into(), source: errno.into() }.into()
    }

    /// A start whose first tries fail so, and then no more; how it ends and how often it was tried. The clock
    /// is moved by what is to be waited, and no further.
    async fn start(failures: u32, error: fn() -> Error) -> (Result<u32, Error>, u32) {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let tries = std::cell::Cell::new(0);
        let ended = {
            let mut starting = Box::pin(patiently(&clock, async || {
                tries.set(tries.get() + 1);
                if tries.get() <= failures { Err(error()) } else { Ok(7) }
            }));
            loop {
                let now = poll_fn(|context| Poll::Ready(starting.as_mut().poll(context))).await;
                match now {
                    Poll::Ready(ended) => break ended,
                    Poll::Pending => clock.advance(START_RETRY_WAIT),
                }
                // The runtime lets nobody go on for ever without a pause.
                tokio::task::yield_now().await;
            }
        };
        (ended, tries.get())
    }

    #[tokio::test]
    async fn a_disk_that_may_be_well_again_is_tried_again_for_half_an_hour_and_nothing_else_is() {
        let full = || folder(Errno::NOSPC);
        assert!(matches!(start(0, full).await, (Ok(7), 1)));
        assert!(matches!(start(3, full).await, (Ok(7), 4)));
        assert!(matches!(start(START_RETRIES_MAX, full).await, (Ok(7), _)));
        let (ended, tries) = start(u32::MAX, full).await;
        assert!(ended.unwrap_err().to_string().contains("cannot use the data folder data"));
        assert_eq!(tries, START_RETRIES_MAX + 1);
        let passing: [fn() -> Error; 4] = [
            || Error::Blobs(blobs::Error::io("empty", Path::new("x"))(Errno::IO.into())),
            || Error::database("sqlite:x", store::Error::Io(Errno::ROFS.into())),
            || {
                let full = sqlx::Error::Io(Errno::NOSPC.into());
                Error::database("sqlite:x", store::Error::Uncertain(full))
            },
            || {
                let (path, source) = ("x".into(), Errno::IO.into());
                credentials::Error::Settle { path, source }.into()
            },
        ];
        for broken in passing {
            assert!(matches!(start(2, broken).await, (Ok(7), 3)));
        }
        let lasting: [fn() -> Error; 4] = [
            || folder(Errno::ACCESS),
            || folder::Error::Busy { path: "data".into(), user: None }.into(),
            || {
                let (path, source) = ("x".into(), Errno::IO.into());
                Error::Blobs(blobs::Error::Sync { path, source })
            },
            || Error::database("sqlite:x", store::Error::Fenced),
        ];
        for error in lasting {
            assert!(matches!(start(1, error).await, (Err(_), 1)));
        }
    }
}
