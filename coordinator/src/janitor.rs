//! Deletes what nobody needs any more: blobs that no row names, updates that retention lets go, parts
//! of uploads that nobody goes on with. What the coordinator is about to name is never touched, and no blob is
//! deleted that the audit log was not told of before. What it finds set aside it has told, if no entry names it:
//! whoever did that may have ended before it could tell. It looks at one share of all blobs after the other, so that
//! its memory does not grow with their number.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::names::{Blob, Digest, RunName};
use jiff::Timestamp;
use tracing::{info, warn};

use crate::audit::rot;
use crate::audit::sweep::{Spent, Sweep};
use crate::blobs::{Blobs, Collection, Freed};
use crate::clock::Clock;
use crate::config::Retention;
use crate::driver::{Error, Handle};
use crate::metrics::Metrics;
use crate::share::Share;
use crate::store::{Named, Store};

/// How long after a start the first collection is: a restart has better things to do.
const COLLECTION_DELAY: Duration = Duration::from_secs(60);

/// How long between two collections.
const COLLECTION_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long after one that has failed the next one is: a disk that is full waits for nothing more than for it.
const COLLECTION_RETRY: Duration = Duration::from_secs(5);

/// Whom the janitor asks and tells.
pub(crate) struct Keeper {
    /// Knows what rows name.
    pub(crate) store: Store,
    /// Has the files.
    pub(crate) blobs: Blobs,
    /// Tells the audit log.
    pub(crate) driver: Handle,
}

/// Collects soon after the start and then daily, for as long as it is let; one that fails is begun again soon. That
/// it fails is told once, however often it does.
pub(crate) async fn collect_daily(
    keeper: Keeper,
    retention: Retention,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
) {
    let (mut wait, mut fails) = (COLLECTION_DELAY, false);
    loop {
        clock.sleep_until(clock.now().checked_add(wait).unwrap_or(Timestamp::MAX)).await;
        match collect(&keeper, &retention, clock.now()).await {
            Ok(Freed { files, bytes }) => {
                metrics.blobs_freed.inc_by(files);
                metrics.bytes_freed.inc_by(bytes);
                info!(files, bytes, "blobs that nobody needs are deleted");
                (wait, fails) = (COLLECTION_INTERVAL, false);
            }
            Err(error) => {
                let again_s = COLLECTION_RETRY.as_secs();
                if !fails {
                    warn!(%error, again_s, "blobs that nobody needs could not be deleted");
                }
                (wait, fails) = (COLLECTION_RETRY, true);
            }
        }
    }
}

async fn collect(keeper: &Keeper, retention: &Retention, now: Timestamp) -> Result<Freed, Error> {
    let (collection, mut freed) = (keeper.blobs.collection(), Freed::default());
    let mut aside = Vec::new();
    if let Some(rounds) = retention.updates_rounds {
        // Before anything is deleted: what is not there is let go or lost, and rows say which.
        keeper.driver.let_go(rounds).await?;
    }
    for share in Share::of(keeper.store.named_about().await?) {
        let (sweep, found) = find(&keeper.store, &collection, (share, retention), now).await?;
        aside.extend(found);
        if sweep.is_empty() {
            continue;
        }
        let digests = sweep.blobs().map(|blob| blob.digest).collect();
        // The entry before the deed: what is gone was told, whatever ends this process.
        keeper.driver.sweep(sweep).await?;
        let Freed { files, bytes } = collection.delete(digests).await?;
        freed.files += files;
        freed.bytes += bytes;
    }
    collection.end(now).await?;
    tell_rot(keeper, aside).await?;
    Ok(freed)
}

/// Has the audit log told of what was set aside and neither is in it nor waits to be.
async fn tell_rot(keeper: &Keeper, mut aside: Vec<Digest>) -> Result<(), Error> {
    // Asked before the log is read: what waits no more by then is in it.
    let waiting = keeper.blobs.untold();
    aside.retain(|digest| !waiting.contains(digest));
    if !aside.is_empty() {
        let told = keeper.store.rot_told().await?;
        keeper.blobs.tell(rot::untold(aside, &told));
    }
    Ok(())
}

/// What nobody needs of a share, and what of it was set aside.
async fn find(
    store: &Store,
    collection: &Arc<Collection>,
    (share, retention): (Share, &Retention),
    now: Timestamp,
) -> Result<(Sweep, Vec<Digest>), Error> {
    let named = store.named_of(&share).await?;
    let spent = match retention.updates_rounds {
        Some(_) => store.spent(&named, None).await?,
        None => HashSet::new(),
    };
    let rounds = rounds(&named, &spent);
    let named = named.iter().map(|named| named.blob.digest).collect();
    let found = collection.find(share, named, spent, now).await?;
    let of_run = |blob: Blob| {
        let (run, round) = rounds.get(&blob.digest).cloned()?;
        Some(Spent { run, round, blob })
    };
    let spent = found.spent.into_iter().filter_map(of_run).collect();
    Ok((Sweep { orphans: found.orphans, spent }, found.aside))
}

/// For which run each update was that is spent, and the newest round that it counted in.
fn rounds(named: &[Named], spent: &HashSet<Digest>) -> BTreeMap<Digest, (RunName, u32)> {
    let mut rounds = BTreeMap::<Digest, (RunName, u32)>::new();
    for Named { blob, update_of, .. } in named.iter().filter(|n| spent.contains(&n.blob.digest)) {
        if let Some((run, number)) = update_of
            && rounds.get(&blob.digest).is_none_or(|(_, held)| held < number)
        {
            rounds.insert(blob.digest, (run.clone(), *number));
        }
    }
    rounds
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::clock::{BoxFuture, ManualClock};
    use crate::driver::{self, Options};
    use crate::metrics::Book;
    use crate::roster::TwoPersons;
    use crate::round::tests::site;
    use crate::round::{Event, Report, Update};
    use crate::run::Run;
    use crate::store::{Change, SiteRow};
    use crate::testing::{START, plan, write_model};

    /// A disk and a database with a run of one committed round, by an update that retention lets go of.
    struct House {
        folder: tempfile::TempDir,
        store: Store,
        model: Blob,
        update: Blob,
        orphan: Blob,
    }

    async fn house() -> House {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), START).await.unwrap();
        let store = Store::open(&format!("sqlite:{}/db", folder.path().display())).await.unwrap();
        let put = |name: &str, value: f32| {
            let scratch = blobs.scratch(name);
            let model = write_model(&scratch, &[("w", &[value])]);
            blobs.adopt(&scratch, &model).unwrap();
            model
        };
        let [model, update, orphan] = [("model", 1.0), ("update", 2.0), ("orphan", 3.0)]
            .map(|(name, value)| put(name, value));
        let mayo = SiteRow::by_name(site("mayo"), START);
        let mut run = Run::create("brain".parse().unwrap(), plan(1, 1), model, START);
        let report = Report::default();
        for event in [
            Event::Joined(site("mayo")),
            Event::Closed,
            Event::Reported(site("mayo"), Update { weights: update, examples: 1, report }),
            Event::Aggregated(crate::aggregate::Aggregate::of(model).into()),
        ] {
            run.apply(event, START).unwrap();
        }
        let change = Change { sites: vec![&mayo], runs: vec![(None, &run)], ..Change::default() };
        store.save(&change).await.unwrap();
        House { folder, store, model, update, orphan }
    }

    impl House {
        /// Another process: the one that adopted the files would not delete them yet.
        async fn keeper(&self) -> (Keeper, CancellationToken, JoinHandle<()>) {
            let (store, stop) = (self.store.clone(), CancellationToken::new());
            let blobs = Blobs::open(self.folder.path(), START).await.unwrap();
            let (heartbeat, rules) = (Duration::from_secs(5), TwoPersons::default());
            let options = Options { heartbeat, rules, notary: None };
            let clock = Arc::new(ManualClock::new(START));
            let started = driver::start(options, store.clone(), blobs.clone(), clock, stop.clone());
            let (driver, driving) = started.await.unwrap();
            (Keeper { store, blobs, driver }, stop, driving)
        }

        fn here(&self, keeper: &Keeper) -> [bool; 3] {
            [self.model, self.update, self.orphan]
                .map(|blob| keeper.blobs.path(&blob.digest).exists())
        }
    }

    /// Long after the files were written.
    fn later() -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the file system tells real times")]
        let now = Timestamp::now();
        now.checked_add(jiff::SignedDuration::from_hours(8 * 24)).unwrap()
    }

    /// A clock that also says until when somebody waits.
    struct Awaited {
        clock: ManualClock,
        until: mpsc::UnboundedSender<Timestamp>,
    }

    impl Clock for Awaited {
        fn now(&self) -> Timestamp {
            self.clock.now()
        }

        fn sleep_until(&self, time: Timestamp) -> BoxFuture {
            // Who does not listen any more misses nothing.
            let _ = self.until.send(time);
            self.clock.sleep_until(time)
        }
    }

    /// Of no round at all, which a configuration cannot ask for.
    const NONE_KEPT: Retention = Retention { updates_rounds: Some(0) };

    #[tokio::test]
    async fn what_a_row_names_stays_and_what_none_names_or_retention_lets_go_is_told_and_gone() {
        let house = house().await;
        let (keeper, ..) = house.keeper().await;
        let freed = collect(&keeper, &Retention::default(), later()).await.unwrap();
        assert_eq!(freed, Freed { files: 1, bytes: house.orphan.size });
        assert_eq!(house.here(&keeper), [true, true, false]);
        let freed = collect(&keeper, &NONE_KEPT, later()).await.unwrap();
        assert_eq!(freed, Freed { files: 1, bytes: house.update.size });
        assert_eq!(house.here(&keeper), [true, false, false]);
        assert_eq!(collect(&keeper, &NONE_KEPT, later()).await.unwrap(), Freed::default());

        let told = house.store.events(0, 9).await.unwrap();
        let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["blobs_orphaned", "updates_let_go", "blobs_spent"], "each once");
        assert!(told[0].detail.contains(&house.orphan.digest.short()), "{told:?}");
        assert_eq!(told[1].detail, "run brain: updates up to round 1");
        let spent = &told[2].detail;
        assert!(spent.starts_with("run brain: updates of rounds 1 to 1"), "{spent}");
        assert!(spent.contains(&house.update.digest.short()), "{spent}");
    }

    #[tokio::test]
    async fn a_collection_that_fails_is_begun_again_within_seconds_and_the_next_is_a_day_later() {
        let house = house().await;
        let (keeper, ..) = house.keeper().await;
        let (until, mut waits) = mpsc::unbounded_channel();
        let clock = ManualClock::new(later());
        let awaited = Arc::new(Awaited { clock: clock.clone(), until });
        let (orphan, metrics) = (keeper.blobs.path(&house.orphan.digest), Book::new().metrics);
        // The folder of blobs does not read for as long as it is elsewhere.
        let (blobs, away) = (house.folder.path().join("blobs"), house.folder.path().join("away"));
        std::fs::rename(&blobs, &away).unwrap();
        let freed = metrics.blobs_freed.clone();
        let janitor = tokio::spawn(collect_daily(keeper, Retention::default(), awaited, metrics));
        for wait in [COLLECTION_DELAY, COLLECTION_RETRY] {
            assert_eq!(waits.recv().await, clock.now().checked_add(wait).ok());
            clock.advance(wait);
        }
        assert_eq!(waits.recv().await, clock.now().checked_add(COLLECTION_RETRY).ok());
        std::fs::rename(&away, &blobs).unwrap();
        clock.advance(COLLECTION_RETRY);
        assert_eq!(waits.recv().await, clock.now().checked_add(COLLECTION_INTERVAL).ok());
        assert_eq!((freed.get(), orphan.exists()), (1, false));
        janitor.abort();
    }

    #[tokio::test]
    async fn what_a_process_set_aside_and_did_not_live_to_tell_is_told_once_by_those_after_it() {
        let house = house().await;
        // Nobody listens to this one.
        let dead = Blobs::attach(house.folder.path());
        std::fs::write(dead.path(&house.update.digest), "rot").unwrap();
        dead.verify(&house.update.digest).unwrap_err();
        for _ in 0..2 {
            let (keeper, stop, driving) = house.keeper().await;
            for _ in 0..2 {
                collect(&keeper, &Retention::default(), later()).await.unwrap();
                // The driver tells what is owed before it hears what comes later.
                keeper.driver.sweep(Sweep::default()).await.unwrap();
                assert!(keeper.blobs.untold().is_empty());
            }
            stop.cancel();
            driving.await.unwrap();
        }
        let mut told = house.store.events(0, 9).await.unwrap();
        told.retain(|event| event.kind == "blob_rotten");
        let named = format!("blob {}: changed on the disk, and set aside", house.update.digest);
        let told: Vec<&str> = told.iter().map(|event| event.detail.as_str()).collect();
        assert_eq!(told, [named]);
    }

    #[tokio::test]
    async fn nothing_is_deleted_that_the_audit_log_was_not_told_of() {
        let house = house().await;
        let (keeper, stop, driving) = house.keeper().await;
        stop.cancel();
        driving.await.unwrap();
        for retention in [NONE_KEPT, Retention::default()] {
            let untold = collect(&keeper, &retention, later()).await.unwrap_err();
            assert!(matches!(untold, Error::Draining), "{untold}");
            assert_eq!(house.here(&keeper), [true; 3]);
        }
    }
}
