//! The average of a round's updates, and what the plan keeps beside it, made off the runtime. It
//! reads and writes files and decides nothing: its outcome is an event like any other.
//!
//! What it makes follows from the round's own files and from what the run kept of its last round
//! ([`Sealed`]), so beginning again after a crash makes the same bytes. Every file it reads is compared
//! with its digest before anything that is made of it is used, and every file it writes has its name among the
//! blobs before a row names it.

use std::fs;
use std::future::pending;
use std::panic::resume_unwind;
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
use crate::fedavg::{self, Written};
use crate::run::Run;
use crate::sealed::{Resent, Sealed};

/// The most files that are hashed at once.
const VERIFY_THREADS_MAX: usize = 8;

/// The most files that are hashed beside the arithmetic, each of which is open twice then; more are hashed
/// before it.
pub(crate) const BESIDE_MAX: usize = 64;

/// How long an average is waited for that nobody needs any more, as of a round that an operator gave up.
const UNWANTED_MAX: Duration = Duration::from_secs(10 * 60);

/// An average in the making.
#[derive(Debug)]
pub(super) struct Aggregation {
    round: RoundId,
    /// When it is let go of.
    until: Timestamp,
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
    /// Begins the average of the sealed updates of the run's round in hand, of which some were `resent`. It is
    /// waited for until then.
    pub(super) fn begin(
        blobs: &Blobs,
        run: &Run,
        resent: &Resent,
        until: Timestamp,
    ) -> Aggregation {
        let (round, exempt) = (run.round(), run.exempt(run.round().id().number));
        let of = (exempt, resent);
        let sealed = Sealed::of(round, run.plan(), run.committed(), run.newest(), of);
        let (id, blobs) = (run.round().id().clone(), blobs.clone());
        info!(round = %id, updates = sealed.updates.len(), "aggregation begins");
        let scratch = format!("{}-{}-{}.safetensors", id.run, id.number, id.attempt);
        let task = tokio::task::spawn_blocking(move || {
            let made = aggregate(&blobs, &sealed, &scratch);
            let read: Vec<Digest> = sealed.inputs().iter().map(|(_, blob)| blob.digest).collect();
            tokio::task::spawn_blocking(move || blobs.let_go(read));
            made
        });
        Aggregation { round: id, until, task }
    }

    /// Which round's it is.
    pub(super) fn round(&self) -> &RoundId {
        &self.round
    }

    /// When it is let go of.
    pub(super) fn until(&self) -> Timestamp {
        self.until
    }

    /// Nobody needs it any more: it is waited for a while, so that the next one does not add to its memory,
    /// but not for a disk that is silent.
    pub(super) fn is_unwanted(&mut self, now: Timestamp) {
        let until = now.checked_add(UNWANTED_MAX).unwrap_or(Timestamp::MAX);
        self.until = self.until.min(until);
    }

    /// Whether its end is there to be taken.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// The end of the aggregation that is there, which then is no longer; never if there is none.
    /// Dropping the future loses nothing.
    pub(super) async fn end(slot: &mut Option<Aggregation>) -> Ended {
        let Some(Aggregation { round, task, .. }) = slot else { return pending().await };
        let outcome = task.await.unwrap_or_else(|panic| Err(Failure::Round(panic.to_string())));
        let round = round.clone();
        debug!(%round, is_made = outcome.is_ok(), "aggregation ends");
        *slot = None;
        (round, outcome)
    }
}

fn aggregate(blobs: &Blobs, sealed: &Sealed, scratch: &str) -> Result<Made<Blob>, Failure> {
    let io = |what: &str, error: std::io::Error| Failure::Write(format!("cannot {what}: {error}"));
    let inputs = sealed.inputs();
    reach("aggregate.verify").map_err(|error| io("verify", error))?;
    let average = || {
        reach("aggregate.begin").map_err(|error| io("begin", error))?;
        let job = sealed.job(|digest| blobs.path(digest));
        let made = fedavg::aggregate(&job, &blobs.scratch(scratch));
        made.map_err(|error| not_made(blobs, sealed, error))
    };
    let made = if inputs.len() <= BESIDE_MAX {
        verified_beside(blobs, &inputs, average)?
    } else {
        verify(&inputs, |i| blobs.verify(&inputs[i].1.digest))?;
        average()?
    };
    let adopted = made.files.parts().try_for_each(|file| {
        reach("aggregate.adopt").map_err(|error| io("adopt", error))?;
        let adopted = blobs.adopt(&file.path, &file.blob);
        adopted.map_err(|error| Failure::Write(error.to_string()))
    });
    if let Err(failure) = adopted {
        delete(&made);
        return Err(failure);
    }
    Ok(made.map(|file| file.blob))
}

/// Deletes what was made and is given no name.
fn delete(made: &Made<Written>) {
    for file in made.files.parts() {
        // One that has its name is not here any more, and one that stays is gone with the next start.
        let _ = fs::remove_file(&file.path);
    }
}

/// Hashes every file that is read while the average is made of them, so that neither waits for the other. What is
/// made of a file that is wrong is deleted, and whatever the average says of it, what is wrong is told.
fn verified_beside(
    blobs: &Blobs,
    inputs: &[(String, Blob)],
    average: impl FnOnce() -> Result<Made<Written>, Failure>,
) -> Result<Made<Written>, Failure> {
    let open = |(whose, blob): &(String, Blob)| {
        blobs.open_to_verify(&blob.digest).map_err(|error| unusable(whose, error))
    };
    // All of them first, so that what is hashed is what is there when the average begins.
    let opened = inputs.iter().map(open).collect::<Result<Vec<_>, Failure>>()?;
    let (verified, made) = thread::scope(|scope| {
        let verifying = scope.spawn(|| verify(inputs, |i| opened[i].verify()));
        let made = average();
        match verifying.join() {
            Ok(verified) => (verified, made),
            Err(panic) => resume_unwind(panic),
        }
    });
    if let (Err(_), Ok(made)) = (&verified, &made) {
        delete(made);
    }
    verified.and(made)
}

/// Has every file that is read compared with its digest, several at a time; of what is wrong the first in their
/// order is told.
fn verify(
    inputs: &[(String, Blob)],
    compare: impl Fn(usize) -> Result<(), blobs::Error> + Sync,
) -> Result<(), Failure> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(VERIFY_THREADS_MAX);
    let each = |turn: usize| {
        let mut own = (turn..inputs.len()).step_by(threads);
        own.find_map(|i| Some((i, compare(i).err()?)))
    };
    let wrong = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|turn| scope.spawn(move || each(turn))).collect();
        // A thread that has panicked passes it on.
        let others = others.into_iter().filter_map(|other| match other.join() {
            Ok(wrong) => wrong,
            Err(panic) => resume_unwind(panic),
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::aggregate::Aggregate;
    use crate::sealed::SealedUpdate;
    use crate::testing::{START, blob, plan, write_model};

    #[tokio::test]
    async fn a_file_that_does_not_read_while_it_is_averaged_is_read_again_and_says_whose_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), START).await.unwrap();
        let site = "mayo".parse().unwrap();
        let (weights, stale, resent) = (blob("update"), None, false);
        let update = SealedUpdate { site, weights, examples: 1, stale, resent };
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

    #[tokio::test]
    async fn a_rotten_update_is_named_however_many_there_are_and_nothing_stays_of_the_average() {
        for updates in [3, BESIDE_MAX] {
            let folder = tempfile::tempdir().unwrap();
            let blobs = Blobs::open(folder.path(), START).await.unwrap();
            let put = |name: &str, value: f32| {
                let scratch = blobs.scratch(name);
                let model = write_model(&scratch, &[("w", &[value, -value])]);
                blobs.adopt(&scratch, &model).unwrap();
                model
            };
            let update = |at: usize| {
                let site = format!("site-{at:02}").parse().unwrap();
                let weights = put("update", at as f32 + 2.0);
                SealedUpdate { site, weights, examples: 1, stale: None, resent: false }
            };
            let updates: Vec<SealedUpdate> = (0..updates).map(update).collect();
            let (plan, previous) = (plan(1, 1).aggregation, Aggregate::of(put("base", 1.0)));
            let sealed = Sealed { plan, committed: 0, previous, updates, quarantine: None };
            // With the base model there is one too many to be hashed beside the average, or there is not.
            assert_eq!(sealed.inputs().len() > BESIDE_MAX, sealed.updates.len() == BESIDE_MAX);
            let scratch = || fs::read_dir(blobs.scratch("")).unwrap().count();
            aggregate(&blobs, &sealed, "brain-1-1.safetensors").unwrap();
            assert_eq!(scratch(), 0);

            let rotten = &sealed.updates[1];
            let path = blobs.path(&rotten.weights.digest);
            let mut bytes = fs::read(&path).unwrap();
            // Of its last number, so that there is an average.
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&path, bytes).unwrap();
            let failure = aggregate(&blobs, &sealed, "brain-1-2.safetensors").unwrap_err();
            let begins = format!("the update of site {} cannot be used: ", rotten.site);
            let Failure::Round(told) = &failure else { panic!("{failure:?}") };
            assert!(told.starts_with(&begins), "{told}");
            assert_eq!(scratch(), 0);
        }
    }

    #[tokio::test]
    async fn nothing_stays_in_scratch_of_an_average_that_cannot_be_given_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), START).await.unwrap();
        let scratch = blobs.scratch("made");
        let base = write_model(&scratch, &[("w", &[1.0])]);
        blobs.adopt(&scratch, &base).unwrap();
        let update = |(site, value): (&str, f32)| {
            let weights = write_model(&scratch, &[("w", &[value])]);
            blobs.adopt(&scratch, &weights).unwrap();
            let (site, stale, resent) = (site.parse().unwrap(), None, false);
            SealedUpdate { site, weights, examples: 1, stale, resent }
        };
        // Two, whose mean is neither of them.
        let updates = [("mayo", 2.0), ("ucsf", 4.0)].map(update).to_vec();
        let (plan, previous) = (plan(1, 2).aggregation, Aggregate::of(base));
        let quarantine = None;
        let sealed = Sealed { plan, committed: 0, previous, updates, quarantine };
        let made = aggregate(&blobs, &sealed, "first").unwrap().files.model;
        // A folder has the name that it would have.
        let path = blobs.path(&made.digest);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let failure = aggregate(&blobs, &sealed, "second").unwrap_err();
        assert!(matches!(failure, Failure::Write(_)), "{failure:?}");
        assert_eq!(fs::read_dir(blobs.scratch("")).unwrap().count(), 0);
    }
}
