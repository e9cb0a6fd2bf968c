//! SQLite's readers: all are there once a store is open, and none is lost by a caller that goes away.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::*;

/// How often somebody goes away, of each kind.
const TIMES: usize = 500;

/// How long the readers may take to be free again, altogether.
const FREE_MAX: Duration = Duration::from_secs(60);

/// Begins some work and lets go of it after its first step.
async fn give_up(work: impl Future) {
    let mut work = pin!(work);
    poll_fn(|context| Poll::Ready(work.as_mut().poll(context).is_ready())).await;
}

/// Waits until each reader that there is has come back.
async fn all_free(store: &Store) {
    while store.reads.num_idle() < store.reads.size() as usize {
        tokio::task::yield_now().await;
    }
}

/// Descriptors of the database's own files that this process has open; none where the system does not tell.
fn descriptors(folder: &tempfile::TempDir) -> Option<usize> {
    let folder = folder.path().canonicalize().unwrap();
    let open = std::fs::read_dir("/proc/self/fd").ok()?.flatten();
    // One that another test closes meanwhile is none of these.
    let files = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    Some(files.filter(|file| file.starts_with(&folder)).count())
}

#[tokio::test]
async fn all_readers_of_sqlite_are_there_as_soon_as_a_store_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    assert_eq!(store.reads.size(), SQLITE_READERS_MAX);
    store.close().await;
    // Also where the schema is today's already.
    assert_eq!(sqlite(&folder).await.reads.size(), SQLITE_READERS_MAX);
}

#[tokio::test]
async fn whoever_goes_away_while_reading_costs_no_reader_and_no_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    store.save(&Change { events: vec![event(1)], ..Change::default() }).await.unwrap();
    let going_away = async {
        // Each has read once, so that it has every file open that it will ever need.
        let mut readers = vec![];
        for _ in 0..SQLITE_READERS_MAX {
            let mut reader = store.reads.acquire().await.unwrap();
            sqlx::query("SELECT seq FROM event").fetch_all(&mut *reader).await.unwrap();
            readers.push(reader);
        }
        drop(readers);
        all_free(&store).await;
        let before = descriptors(&folder);
        let least = SQLITE_READERS_MAX as usize + 1;
        assert!(before.is_none_or(|before| before >= least), "{before:?}");
        for _ in 0..TIMES {
            give_up(store.reads.acquire()).await;
            give_up(store.events(0, 9)).await;
            all_free(&store).await;
            assert_eq!(store.reads.size(), SQLITE_READERS_MAX);
        }
        assert_eq!(descriptors(&folder), before);
    };
    tokio::time::timeout(FREE_MAX, going_away).await.expect("the readers come back");
    assert_eq!(store.events(0, 9).await.unwrap(), [event(1)]);
}
