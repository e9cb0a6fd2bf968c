//! The average of a round's updates, and what the plan keeps beside it, made off the runtime. It
//! reads and writes files and decides nothing: its outcome is an event like any other.
//!
//! What it makes follows from the round's own files and from what the run kept of its last round
//! ([`Sealed`]), so beginning again after a crash makes the same bytes. Every file it reads is compared
//! with its digest first, and every file it writes has its name among the blobs before a row names it.

use std::future::pending;
use std::thread;
use std::time::Duration;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::weights;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tracing::{debug, info};

use crate::aggregate::Made;
use crate::blobs::{self, Blobs};
use crate::fedavg;
use crate::run::Run;
use crate::sealed::Sealed;

/// How often an average is begun again because a file does not read; then the round is given up.
const READ_RETRIES_MAX: u32 = 12;

/// How long a round's average may take, beginning again included; then the round is given up. The largest
/// models take minutes, so that this is a disk that has been full, or silent, for a day.
const AGGREGATION_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The most files that are hashed at once.
const VERIFY_THREADS_MAX: usize = 8;

/// An average in the making.
#[derive(Debug)]
pub(super) struct Aggregation {
    round: RoundId,
    task: JoinHandle<Result<Made<Blob>, Failure>>,
}

/// Which round's aggregation has ended, and how.
pub(super) type Ended = (RoundId, Result<Made<Blob>, Failure>);

/// Why there is no average.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The disk does not take what is written, as when it is full: the round is none the worse.
    Write(String),
    /// The disk does not give what it holds. It may yet.
    Read(String),
    /// These files have no average.
    Round(String),
}

impl Aggregation {
    /// Begins the average of the sealed updates of the run's round in hand.
    pub(super) fn begin(blobs: &Blobs, run: &Run) -> Aggregation {
        let (round, exempt) = (run.round(), run.exempt(run.round().id().number));
        let sealed = Sealed::of(round, run.plan(), run.committed(), run.newest(), exempt);
        let (id, blobs) = (run.round().id().clone(), blobs.clone());
        info!(round = %id, updates = sealed.updates.len(), "aggregation begins");
        let scratch = format!("{}-{}-{}.safetensors", id.run, id.number, id.attempt);
        let task = tokio::task::spawn_blocking(move || {
            let made = aggregate(&blobs, &sealed, &scratch);
            let read: Vec<Digest> = sealed.inputs().iter().map(|(_, blob)| blob.digest).collect();
            tokio::task::spawn_blocking(move || blobs.let_go(read));
            made
        });
        Aggregation { round: id, task }
    }

    /// The end of the aggregation that is there, which then is no longer; never if there is none.
    /// Dropping the future loses nothing.
    pub(super) async fn end(slot: &mut Option<Aggregation>) -> Ended {
        let Some(Aggregation { round, task }) = slot else { return pending().await };
        let outcome = task.await.unwrap_or_else(|panic| Err(Failure::Round(panic.to_string())));
        let round = round.clone();
        debug!(%round, is_made = outcome.is_ok(), "aggregation ends");
        *slot = None;
        (round, outcome)
    }
}

fn aggregate(blobs: &Blobs, sealed: &Sealed, scratch: &str) -> Result<Made<Blob>, Failure> {
    let io = |what: &str, error: std::io::Error| Failure::Write(format!("cannot {what}: {error}"));
    reach("aggregate.verify").map_err(|error| io("verify", error))?;
    verify(blobs, &sealed.inputs())?;
    reach("aggregate.begin").map_err(|error| io("begin", error))?;
    let job = sealed.job(|digest| blobs.path(digest));
    let made = fedavg::aggregate(&job, &blobs.scratch(scratch));
    let made = made.map_err(|error| not_made(blobs, sealed, error))?;
    for file in made.files.parts() {
        reach("aggregate.adopt").map_err(|error| io("adopt", error))?;
        let adopted = blobs.adopt(&file.path, &file.blob);
        adopted.map_err(|error| Failure::Write(error.to_string()))?;
    }
    Ok(made.map(|file| file.blob))
}

/// Hashes every file that is read, several at a time; of what is wrong the first in their order is told.
fn verify(blobs: &Blobs, inputs: &[(String, Blob)]) -> Result<(), Failure> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(VERIFY_THREADS_MAX);
    let each = |turn: usize| {
        let own = inputs.iter().enumerate().skip(turn).step_by(threads);
        let verified = own.map(|(i, (_, blob))| (i, blobs.verify(blob)));
        verified.filter_map(|(i, verified)| Some((i, verified.err()?))).next()
    };
    let wrong = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|turn| scope.spawn(move || each(turn))).collect();
        // A thread that has panicked passes it on.
        let others = others.into_iter().filter_map(|other| match other.join() {
            Ok(wrong) => wrong,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        each(0).into_iter().chain(others).min_by_key(|(i, _)| *i)
    });
    match wrong {
        None => Ok(()),
        Some((i, error)) => Err(unusable(&inputs[i].0, error)),
    }
}

fn unusable(whose: &str, error: blobs::Error) -> Failure {
    let told = format!("{whose} cannot be used: {error}");
    match error {
        blobs::Error::Io { .. } => Failure::Read(told),
        _ => Failure::Round(told),
    }
}

fn not_made(blobs: &Blobs, sealed: &Sealed, error: fedavg::Error) -> Failure {
    match error {
        fedavg::Error::Weights(error) if error.is_failed_write() => {
            if error.is_failed_sync() {
                blobs.halt().call(error.to_string());
            }
            Failure::Write(error.to_string())
        }
        fedavg::Error::Weights(error @ weights::Error::Io { .. }) => {
            let whose = whose(blobs, sealed, &error).unwrap_or_else(|| "a file".to_owned());
            Failure::Read(format!("{whose} cannot be used: {error}"))
        }
        error @ fedavg::Error::Thread(_) => Failure::Write(error.to_string()),
        error => Failure::Round(error.to_string()),
    }
}

/// What people call the file that does not open or read.
fn whose(blobs: &Blobs, sealed: &Sealed, error: &weights::Error) -> Option<String> {
    let weights::Error::Io { path, .. } = error else { return None };
    let mut inputs = sealed.inputs().into_iter();
    inputs.find(|(_, blob)| blobs.path(&blob.digest) == *path).map(|(whose, _)| whose)
}

/// How long a round's average is waited for, and how often its files may not read in a row. A disk that does not
/// take what is written is no fault of the round's, and is not counted.
#[derive(Debug, Default)]
pub(super) struct Patience(Option<Waiting>);

/// The round that is waited for.
#[derive(Debug)]
struct Waiting {
    round: RoundId,
    since: Timestamp,
    unread: u32,
    /// Why its average was begun again last.
    told: String,
}

impl Patience {
    /// Notes that the average of `round` is owed at `now`; until when it is waited for. It begins anew with
    /// another round, and with another process: whoever was not there has not waited.
    pub(super) fn owes(&mut self, round: &RoundId, now: Timestamp) -> Timestamp {
        if self.0.as_ref().is_none_or(|waiting| waiting.round != *round) {
            let (round, told) = (round.clone(), "it has not ended".to_owned());
            self.0 = Some(Waiting { round, since: now, unread: 0, told });
        }
        let since = self.0.as_ref().map_or(now, |waiting| waiting.since);
        since.checked_add(AGGREGATION_MAX).unwrap_or(Timestamp::MAX)
    }

    /// Notes why the average is to be begun again.
    pub(super) fn tell(&mut self, why: &str) {
        if let Some(waiting) = &mut self.0 {
            waiting.told = why.to_owned();
        }
    }

    /// Notes that the files did not read once more; whether the average is to be begun again.
    pub(super) fn again(&mut self) -> bool {
        let Some(waiting) = &mut self.0 else { return true };
        let again = waiting.unread < READ_RETRIES_MAX;
        waiting.unread += u32::from(again);
        again
    }

    /// Why a round is given up that was waited for long enough.
    pub(super) fn over(&self) -> String {
        let told = self.0.as_ref().map_or("", |waiting| &waiting.told);
        let hours = AGGREGATION_MAX.as_secs() / 3_600;
        format!("there was no average within {hours} hours: {told}")
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::aggregate::Aggregate;
    use crate::sealed::SealedUpdate;
    use crate::testing::{START, blob, plan};

    #[tokio::test]
    async fn a_file_that_does_not_read_while_it_is_averaged_is_read_again_and_says_whose_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), START).await.unwrap();
        let site = "mayo".parse().unwrap();
        let update = SealedUpdate { site, weights: blob("update"), examples: 1, stale: None };
        let (plan, previous) = (plan(1, 1).aggregation, Aggregate::of(blob("base")));
        let (updates, quarantine) = (vec![update], None);
        let sealed = Sealed { plan, committed: 0, previous, updates, quarantine };
        let not_made = |what, path: PathBuf| {
            let source = io::Error::other("broken");
            not_made(&blobs, &sealed, weights::Error::Io { what, path, source }.into())
        };
        let path = |text| blobs.path(&blob(text).digest);
        for (what, text, begins) in [
            ("open", "update", "the update of site mayo cannot be used: cannot open "),
            ("read", "base", "the base model cannot be used: cannot read "),
        ] {
            let failure = not_made(what, path(text));
            let Failure::Read(told) = &failure else { panic!("{failure:?}") };
            assert!(told.starts_with(begins), "{told}");
        }
        assert!(matches!(not_made("write", Path::new("x").into()), Failure::Write(_)));
    }

    #[test]
    fn each_round_has_its_own_patience_with_files_that_do_not_read_and_a_day_in_all() {
        let round = |number| RoundId { run: "brain".parse().unwrap(), number, attempt: 1 };
        let later = |hours| START + jiff::SignedDuration::from_hours(hours);
        let mut patience = Patience::default();
        assert_eq!(patience.owes(&round(1), START), later(24));
        for _ in 0..READ_RETRIES_MAX {
            assert!(patience.again());
        }
        assert!(!patience.again());
        assert_eq!(patience.owes(&round(1), later(3)), later(24));
        assert_eq!(patience.over(), "there was no average within 24 hours: it has not ended");
        patience.tell("no space");
        assert_eq!(patience.over(), "there was no average within 24 hours: no space");

        assert_eq!(patience.owes(&round(2), later(3)), later(27), "another round begins anew");
        assert!(patience.again());
        assert_eq!(patience.over(), "there was no average within 24 hours: it has not ended");
    }
}
