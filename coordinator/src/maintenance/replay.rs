//! Computes the models of committed rounds again, from the updates that were kept, and compares what
//! comes out with what was published: the evidence that a model is the average it says it is.

use std::fmt;
use std::path::Path;

use fedpaint_proto::names::{Blob, RunName};
use serde::Serialize;

use super::{Error, Moment};
use crate::aggregate::Aggregate;
use crate::blobs::{self, Blobs};
use crate::config::Config;
use crate::fedavg;
use crate::round::{Phase, Round};
use crate::run::Run;
use crate::sealed::{Resent, Sealed};

/// What computing a run's rounds again has come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// Which run.
    pub run: RunName,
    /// Whether no round came out otherwise than it was published.
    pub equal: bool,
    /// Every committed round that was asked for.
    pub rounds: Vec<Replayed>,
}

/// What one round has come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Which round.
    pub round: u32,
    /// Over how many updates.
    pub updates: usize,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of computing a round again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The very bytes that were published.
    Equal,
    /// Other bytes.
    Different {
        /// Which file of the round.
        what: &'static str,
        /// What was published.
        published: String,
        /// What came out.
        computed: String,
    },
    /// It cannot be computed: what it follows from is not kept any more.
    Gone {
        /// What is missing.
        what: String,
    },
    /// What it follows from has changed on the disk.
    Rotten {
        /// What has changed.
        what: String,
    },
}

/// Computes the committed rounds of `run` again, or the one `round`.
///
/// # Errors
/// If there is no such run or round, or a disk fails.
pub async fn replay(config: &Config, run: &RunName, round: Option<u32>) -> Result<Replay, Error> {
    let moment = Moment::of(config).await?;
    let held = moment.store.load().await?.runs.into_iter().find(|held| held.name() == run);
    let held = held.ok_or_else(|| Error::RunUnknown(run.clone()))?;
    let mut rounds = Vec::new();
    for of in moment.rounds(&held).await? {
        let is_asked = round.is_none_or(|asked| asked == of.id().number);
        let resent = match of.phase() {
            Phase::Committed(_) if is_asked => Some(moment.store.resent(of.id()).await?),
            _ => None,
        };
        rounds.push((of, resent));
    }
    let (blobs, name) = (Blobs::attach(&config.data), run.clone());
    // The arithmetic would hold up the runtime.
    let replayed = tokio::task::spawn_blocking(move || replay_rounds(&blobs, &held, &rounds));
    let replayed = replayed.await.map_err(|panic| Error::Io {
        what: "compute again",
        path: format!("run {name}").into(),
        source: std::io::Error::other(panic),
    })??;
    if let (Some(round), true) = (round, replayed.is_empty()) {
        return Err(Error::RoundUnknown { run: run.clone(), round });
    }
    let wrong =
        |r: &Replayed| matches!(r.verdict, Verdict::Different { .. } | Verdict::Rotten { .. });
    Ok(Replay { run: run.clone(), equal: !replayed.iter().any(wrong), rounds: replayed })
}

/// Computes those rounds again of which it is known which updates were resent.
fn replay_rounds(
    blobs: &Blobs,
    run: &Run,
    rounds: &[(Round, Option<Resent>)],
) -> Result<Vec<Replayed>, Error> {
    let scratch =
        tempfile::tempdir().map_err(Error::io("make a folder in", std::env::temp_dir()))?;
    let mut previous = Aggregate::of(run.initial());
    let mut replayed = Vec::new();
    for (round, resent) in rounds {
        let Phase::Committed(made) = round.phase() else { continue };
        let number = round.id().number;
        if let Some(resent) = resent {
            let of = (run.exempt(number), resent);
            let sealed = Sealed::of(round, run.plan(), number - 1, previous, of);
            let failed = |source| Error::Average { run: run.name().clone(), round: number, source };
            let verdict = replay_round(blobs, &sealed, made, scratch.path())?;
            let verdict = verdict.map_err(failed)?;
            replayed.push(Replayed { round: number, updates: sealed.updates.len(), verdict });
        }
        previous = *made;
    }
    Ok(replayed)
}

fn replay_round(
    blobs: &Blobs,
    sealed: &Sealed,
    made: &Aggregate<Blob>,
    scratch: &Path,
) -> Result<Result<Verdict, fedavg::Error>, Error> {
    for (what, blob) in sealed.inputs() {
        let path = blobs.path(&blob.digest);
        if !path.exists() {
            return Ok(Ok(Verdict::Gone { what }));
        }
        if blobs::digest_of(&path)? != blob.digest {
            return Ok(Ok(Verdict::Rotten { what }));
        }
    }
    let job = sealed.job(|digest| blobs.path(digest));
    Ok(fedavg::aggregate(&job, &scratch.join("model")).map(|computed| {
        let computed = computed.files.map(|file| file.blob);
        let parts = |of: &Aggregate<Blob>| {
            [
                ("the model", Some(of.model)),
                ("the moving average", of.ema),
                ("the momentum", of.momentum),
                ("the second moment", of.second_moment),
            ]
        };
        let pairs = parts(made).into_iter().zip(parts(&computed));
        let differs = pairs.into_iter().find(|(published, computed)| published != computed);
        match differs {
            None => Verdict::Equal,
            Some(((what, published), (_, computed))) => {
                let text =
                    |blob: Option<Blob>| blob.map_or("none".into(), |b| b.digest.to_string());
                Verdict::Different { what, published: text(published), computed: text(computed) }
            }
        }
    }))
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Replayed { round, updates, verdict } in &self.rounds {
            let told = match verdict {
                Verdict::Equal => "equal".to_owned(),
                Verdict::Different { what, published, computed } => {
                    format!(
                        "different: {what} was published as {published}, computed as {computed}"
                    )
                }
                Verdict::Gone { what } => format!("not computed: {what} is not kept any more"),
                Verdict::Rotten { what } => {
                    format!(
                        "not computed: {what} has changed on the disk; restore it from a backup"
                    )
                }
            };
            writeln!(f, "round {round}, {updates} updates: {told}")?;
        }
        Ok(())
    }
}
