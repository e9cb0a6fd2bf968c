//! What an operator does to a coordinator's state as a whole: check it, save it, bring it back, and
//! compute its models again. All of it but `restore` works beside a coordinator that runs, reads a
//! moment of its database, and changes nothing.

mod backup;
#[cfg(test)]
mod every_row;
mod fsck;
mod log;
mod replay;
mod restore;
mod rows;
mod states;
mod vouched;

use std::collections::BTreeSet;
use std::path::PathBuf;

use fedpaint_proto::names::{Digest, RunName};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

pub use self::backup::{Backup, MANIFEST, Manifest, backup};
pub use self::fsck::{Damage, Fsck, fsck};
pub use self::replay::{Replay, Replayed, Verdict, replay};
pub use self::restore::{Restored, restore};
use crate::config::Config;
use crate::round::Round;
use crate::run::Run;
use crate::store::{self, Named, Store};
use crate::{blobs, fedavg, folder};

/// The most rounds of a run that are read; more than any plan has.
const ROUNDS_MAX: u32 = 1_000_000;

/// Why the state cannot be checked, saved, brought back or computed again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database fails.
    #[error("cannot use the database: {0}")]
    Store(#[from] store::Error),
    /// The blobs fail.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// The data folder cannot be had.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// A file does not open, read, or write.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// There is something where a new folder is wanted.
    #[error("{} is not empty; give a new folder, nothing is written over", .0.display())]
    NotEmpty(PathBuf),
    /// The folder holds no backup that can be used.
    #[error("{} holds no backup: {reason}", path.display())]
    NoBackup {
        /// Which folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such run.
    #[error("there is no run {0}")]
    RunUnknown(RunName),
    /// The run has not committed the round.
    #[error("run {run} has not committed a round {round}")]
    RoundUnknown {
        /// Which run.
        run: RunName,
        /// Which round.
        round: u32,
    },
    /// A round cannot be computed.
    #[error("round {round} of run {run} cannot be computed: {source}")]
    Average {
        /// Which run.
        run: RunName,
        /// Which round.
        round: u32,
        /// Why.
        source: fedavg::Error,
    },
}

impl Error {
    /// Names what was tried with which path; for `map_err`.
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { what, path, source }
    }
}

/// A moment of the database, read through the same code as the coordinator's own.
struct Moment {
    store: Store,
    /// The copy goes with this.
    _folder: TempDir,
}

impl Moment {
    async fn of(config: &Config) -> Result<Moment, Error> {
        let folder =
            tempfile::tempdir().map_err(Error::io("make a folder in", std::env::temp_dir()))?;
        let file = folder.path().join("moment.db");
        store::snapshot(&config.database(), &file).await?;
        let store = Store::open(&store::sqlite_url(&file)).await?;
        Ok(Moment { store, _folder: folder })
    }

    /// All rounds of a run, oldest first.
    async fn rounds(&self, run: &Run) -> Result<Vec<Round>, Error> {
        Ok(self.store.rounds(run.name(), &run.plan().round, None, ROUNDS_MAX).await?)
    }
}

/// Of blobs that rows of this moment name and that are `missing`, those that retention has not let go, as the
/// rows say, or as the configuration does of a database from before they did. The coordinator may have let go
/// more since, which only another moment of its database tells.
async fn lost(
    config: &Config,
    moment: &Store,
    named: &[Named],
    missing: BTreeSet<Digest>,
) -> Result<BTreeSet<Digest>, Error> {
    let (mut lost, rounds) = (missing, config.retention.updates_rounds);
    let spent = moment.spent(named, rounds).await?;
    lost.retain(|digest| !spent.contains(digest));
    if !lost.is_empty() {
        let now = Moment::of(config).await?;
        let spent = now.store.spent(&now.store.named().await?, rounds).await?;
        lost.retain(|digest| !spent.contains(digest));
    }
    Ok(lost)
}

/// A bar on stderr for `bytes` of work; nothing where nobody watches.
fn bar(what: &'static str, bytes: u64) -> ProgressBar {
    let style = "{msg} {bar:30} {bytes}/{total_bytes} {eta}";
    let bar = ProgressBar::new(bytes).with_message(what);
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        // The template is a constant that parses; a bar of another look does as well.
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::aggregate::Aggregate;
    use crate::round::Event;
    use crate::round::tests::{site, update};
    use crate::store::{Change, SiteRow};
    use crate::testing::{START, blob, plan};

    /// One site reports `update` in the round in hand, which is committed; the next one is opened.
    async fn commit(store: &Store, run: &mut Run, name: &str) {
        let made = Aggregate::of(blob(&format!("model of {name}")));
        let (joined, reported) = (Event::Joined(site("mayo")), update(name));
        let reported = Event::Reported(site("mayo"), reported);
        for event in [joined, Event::Closed, reported, Event::Aggregated(made.into())] {
            let before = run.clone();
            run.apply(event, START).unwrap();
            let change = Change { runs: vec![(Some(&before), run)], ..Change::default() };
            store.save(&change).await.unwrap();
        }
        let before = run.clone();
        run.open_round(START);
        let change = Change { runs: vec![(Some(&before), run)], ..Change::default() };
        store.save(&change).await.unwrap();
    }

    #[tokio::test]
    async fn what_retention_let_go_after_the_moment_that_is_checked_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let text = "federation = \"brain\"\nlisten = \"127.0.0.1:0\"\ndata = \"data\"\n\
                    [retention]\nupdates_rounds = 1\n\
                    [tls]\nca = \"ca\"\ncertificate = \"certificate\"\nkey = \"key\"\n";
        let config = Config::parse(text, &folder.path().join("coordinator.toml")).unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        assert_eq!(config.data, Path::new(&folder.path().join("data")));
        let store = Store::open(&config.database()).await.unwrap();
        let mayo = SiteRow::by_name(site("mayo"), START);
        let mut run = Run::create("brain".parse().unwrap(), plan(9, 1), blob("base"), START);
        let change = Change { sites: vec![&mayo], runs: vec![(None, &run)], ..Change::default() };
        store.save(&change).await.unwrap();
        commit(&store, &mut run, "one").await;

        let moment = Moment::of(&config).await.unwrap();
        let named = moment.store.named().await.unwrap();
        let missing = BTreeSet::from([blob("one").digest]);
        let told = async || lost(&config, &moment.store, &named, missing.clone()).await.unwrap();
        assert_eq!(told().await, missing, "it is of the newest round");
        commit(&store, &mut run, "two").await;
        assert_eq!(told().await, BTreeSet::new(), "and now it is not");
        let change = Change { let_go: vec![(run.name(), 1)], ..Change::default() };
        store.save(&change).await.unwrap();
        commit(&store, &mut run, "three").await;

        // Who keeps everything from now on has not lost what was let go before, nor let go anything since.
        let text = text.replace("[retention]\nupdates_rounds = 1\n", "");
        let config = Config::parse(&text, &folder.path().join("coordinator.toml")).unwrap();
        let moment = Moment::of(&config).await.unwrap();
        let named = moment.store.named().await.unwrap();
        let missing = ["one", "two"].map(|name| blob(name).digest);
        let lost = lost(&config, &moment.store, &named, missing.into()).await.unwrap();
        assert_eq!(lost, BTreeSet::from([blob("two").digest]));
    }
}
