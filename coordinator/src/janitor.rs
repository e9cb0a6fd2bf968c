//! Deletes what nobody needs any more: blobs that no row names, updates that retention lets go, parts
//! of uploads that nobody goes on with. What the coordinator is about to name is never touched. It looks at
//! one share of all blobs after the other, so that its memory does not grow with their number.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use crate::blobs::{Blobs, Freed};
use crate::clock::Clock;
use crate::config::Retention;
use crate::metrics::Metrics;
use crate::share::Share;
use crate::{blobs, store};

/// How long after a start the first collection is: a restart has better things to do.
const COLLECTION_DELAY: Duration = Duration::from_secs(60);

/// How long between two collections.
const COLLECTION_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
}

/// Collects soon after the start and then daily, for as long as it is let.
pub(crate) async fn collect_daily(
    store: store::Store,
    blobs: Blobs,
    retention: Retention,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
) {
    let mut wait = COLLECTION_DELAY;
    loop {
        clock.sleep_until(clock.now().checked_add(wait).unwrap_or(Timestamp::MAX)).await;
        wait = COLLECTION_INTERVAL;
        match collect(&store, &blobs, &retention, clock.now()).await {
            Ok(Freed { files, bytes }) => {
                metrics.blobs_freed.inc_by(files);
                metrics.bytes_freed.inc_by(bytes);
                info!(files, bytes, "blobs that nobody needs are deleted");
            }
            Err(error) => warn!(%error, "blobs that nobody needs could not be deleted"),
        }
    }
}

async fn collect(
    store: &store::Store,
    blobs: &Blobs,
    retention: &Retention,
    now: Timestamp,
) -> Result<Freed, Error> {
    let (collection, mut freed) = (blobs.collection(), Freed::default());
    for share in Share::of(store.named_about().await?) {
        let named = store.named_of(&share).await?;
        let spent = match retention.updates_rounds {
            Some(rounds) => store.spent(&named, rounds).await?,
            None => HashSet::new(),
        };
        let named = named.iter().map(|named| named.blob.digest).collect();
        let Freed { files, bytes } = collection.collect(share, named, spent, now).await?;
        freed.files += files;
        freed.bytes += bytes;
    }
    collection.end(now).await?;
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Run;
    use crate::store::{Change, Store};
    use crate::testing::{START, plan, write_model};

    #[tokio::test]
    async fn what_a_row_names_stays_and_what_none_names_goes_when_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), START).await.unwrap();
        let store = Store::open(&format!("sqlite:{}/db", folder.path().display())).await.unwrap();
        let put = |name: &str, value: f32| {
            let scratch = blobs.scratch(name);
            let model = write_model(&scratch, &[("w", &[value])]);
            blobs.adopt(&scratch, &model).unwrap();
            model
        };
        let (named, orphan) = (put("named", 1.0), put("orphan", 2.0));
        let run = Run::create("brain".parse().unwrap(), plan(1, 1), named, START);
        let change = Change { runs: vec![(None, &run)], ..Change::default() };
        store.save(&change).await.unwrap();

        // Another process: this one would not delete what it has just adopted.
        let blobs = Blobs::open(folder.path(), START).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "the file system tells real times")]
        let later = Timestamp::now().checked_add(jiff::SignedDuration::from_hours(8 * 24)).unwrap();
        let freed = collect(&store, &blobs, &Retention::default(), later).await.unwrap();
        assert_eq!(freed, Freed { files: 1, bytes: orphan.size });
        assert!(blobs.path(&named.digest).exists() && !blobs.path(&orphan.digest).exists());
    }
}
