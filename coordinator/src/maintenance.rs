//! What an operator does to a coordinator's state as a whole: check it, save it, bring it back, and
//! compute its models again. All of it but `restore` works beside a coordinator that runs, reads a
//! moment of its database, and changes nothing.

mod backup;
mod fsck;
mod replay;
mod restore;
mod rows;

use std::path::PathBuf;

use fedpaint_proto::names::RunName;
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

pub use self::backup::{Backup, MANIFEST, Manifest, backup};
pub use self::fsck::{Damage, Fsck, fsck};
pub use self::replay::{Replay, Replayed, Verdict, replay};
pub use self::restore::{Restored, restore};
use crate::config::Config;
use crate::round::Round;
use crate::run::Run;
use crate::store::{self, Store};
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

    /// Every run with all of its rounds, oldest first.
    async fn runs(&self) -> Result<Vec<(Run, Vec<Round>)>, Error> {
        let mut all = Vec::new();
        for run in self.store.load().await?.runs {
            let rounds = self.store.rounds(run.name(), &run.plan().round, ROUNDS_MAX).await?;
            all.push((run, rounds));
        }
        Ok(all)
    }
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
