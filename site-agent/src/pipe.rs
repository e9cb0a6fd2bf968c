//! The pipe between the agent and its trainer: what they say to each other, and how it is framed.
//!
//! A frame is the length of its body (u32, little-endian) and the body, one JSON value. Weights never
//! go through the pipe, they are files in the workspace; nor does a voxel, a patient or a key. What
//! comes from the other end is bounded and parsed before it is believed.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use fedpaint_proto::names::{Blob, Digest, RunName, SiteName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::settings::{ComputeSettings, DataSettings, RehearsalSettings};

/// The version of what is said here; both ends must speak the same.
pub const PIPE_VERSION: u32 = 5;

/// The longest body of a frame: a plan of the greatest length, escaped, and room.
pub const FRAME_BYTES_MAX: usize = 512 << 10;

/// The longest text for the log in a frame; longer ones are cut.
pub const DETAIL_BYTES_MAX: usize = 2000;

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToTrainer {
    /// The first word; answered by `Hello` or `Failed`.
    Hello {
        /// [`PIPE_VERSION`].
        version: u32,
        /// All the trainer is told of its surroundings.
        setup: Setup,
    },
    /// Train one round; answered by `Progress`, then `Trained` or `Failed`.
    Train(Assignment),
    /// Give the round in hand up; it is still answered.
    Cancel,
}

/// All a trainer is told of its surroundings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The shared folder, see [`crate::workspace`].
    pub workspace: PathBuf,
    /// The scans.
    pub data: DataSettings,
    /// How to compute.
    pub compute: ComputeSettings,
    /// Whether to rehearse in the place of training.
    pub rehearsal: Option<RehearsalSettings>,
}

/// One round to train.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The run.
    pub run: RunName,
    /// The round's number. The attempt is left out: another attempt is the same training.
    pub number: u32,
    /// This site, from whose name random draws follow.
    pub site: SiteName,
    /// The run's plan.
    pub plan_toml: String,
    /// The model to begin from; the workspace has it under this digest.
    pub base: Blob,
    /// What the site's last update has left out and this one is made with; the workspace has it too.
    pub remainder: Option<Blob>,
}

/// What the trainer says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromTrainer {
    /// It is ready.
    Hello {
        /// [`PIPE_VERSION`].
        version: u32,
        /// The device, in words.
        device: String,
        /// What it found in the data folder.
        cohort: CohortSummary,
    },
    /// A step is done.
    Progress(Progress),
    /// The update is in the workspace.
    Trained(Trained),
    /// The setup or the round cannot be done; the trainer is ready for the next word.
    Failed {
        /// Why, in a form that may leave the site.
        failure: Failure,
        /// Why, for the site's own log; it may name files.
        detail: String,
    },
}

/// How much data there is. Counts, never a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CohortSummary {
    /// Exams.
    pub cases: u32,
    /// Patients.
    pub patients: u32,
    /// Exams that are known to be unusable so far; all are read before the first round.
    pub cases_set_aside: u32,
    /// Patients that never train.
    pub patients_held_out: u32,
    /// Scans of all contrasts that train.
    pub scans_training: u32,
}

/// How far a training is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps done.
    pub step: u32,
    /// Steps to do.
    pub steps: u32,
    /// The mean loss of the last whole group of steps, see
    /// [`ToldLoss`](crate::train::report::ToldLoss).
    pub loss: Option<f64>,
}

/// A finished training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trained {
    /// The update, a file in the workspace.
    pub update: Blob,
    /// Training examples seen.
    pub examples: u64,
    /// Aggregates over the steps.
    pub report: Report,
    /// What it learnt from, as [`Cohort::training`](crate::cohort::Cohort::training) has it. It stays
    /// at the site.
    pub data: Digest,
    /// What the update leaves out, a file in the workspace, where its form rounds. It stays at the site.
    #[serde(default)]
    pub remainder: Option<Blob>,
}

/// Aggregates over the steps of a training, see `TrainingReport` in `types.proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Steps done.
    pub steps: u32,
    /// Mean loss.
    pub loss_mean: f64,
    /// Mean loss of the first quarter of the steps.
    pub loss_first: f64,
    /// Mean loss of the last quarter of the steps.
    pub loss_last: f64,
    /// Median norm of the gradient before clipping.
    pub gradient_norm_p50: f64,
    /// 99th percentile of the norm of the gradient before clipping.
    pub gradient_norm_p99: f64,
}

/// Why a trainer cannot do what it was told. An enum, so that nothing private can ride in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The agent asked for it.
    Cancelled,
    /// The loss, a gradient or a weight was not a finite number.
    NotFinite,
    /// Nothing in the data can train this plan.
    NoData,
    /// The base model does not fit.
    BaseModel,
    /// The plan asks for what this version cannot do.
    Plan,
    /// The device failed or is not there; another trainer may find it working.
    Device,
    /// The training needs more memory than the device has left.
    Memory,
    /// The disk is full or broken.
    Disk,
    /// Anything else, such as another version at the other end.
    Internal,
}

/// Why nothing can be read from or written to the pipe any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other end closed the pipe between two frames.
    #[error("the other end closed the pipe")]
    Closed,
    /// The pipe failed, or ended within a frame.
    #[error("the pipe broke: {0}")]
    Io(#[from] io::Error),
    /// The frame is longer than any may be.
    #[error("a frame of {bytes} bytes is longer than the {FRAME_BYTES_MAX} allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The body is not what this end expects.
    #[error("a frame does not parse: {0}")]
    Parse(#[from] serde_json::Error),
}

/// A message as a frame.
///
/// # Errors
/// If the message is too long, or holds a path that is not UTF-8.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Error> {
    let mut frame = vec![0; size_of::<u32>()];
    serde_json::to_writer(&mut frame, message)?;
    let bytes = frame.len() - size_of::<u32>();
    let length = u32::try_from(bytes).map_err(|_| Error::TooLong { bytes })?;
    bounded(length)?;
    frame[..size_of::<u32>()].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Reads one message, blocking.
///
/// # Errors
/// [`Error`]; after any of them the pipe is of no use.
pub fn read<T: DeserializeOwned>(pipe: &mut impl Read) -> Result<T, Error> {
    let mut length = [0; size_of::<u32>()];
    // The first byte alone tells an end between frames from one within.
    if pipe.read(&mut length[..1])? == 0 {
        return Err(Error::Closed);
    }
    pipe.read_exact(&mut length[1..])?;
    let mut body = vec![0; bounded(u32::from_le_bytes(length))?];
    pipe.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Writes one message, blocking.
///
/// # Errors
/// [`Error`]; after any of them the pipe is of no use.
pub fn write<T: Serialize>(pipe: &mut impl Write, message: &T) -> Result<(), Error> {
    pipe.write_all(&encode(message)?)?;
    Ok(pipe.flush()?)
}

/// Reads one message. Dropping the future may lose part of a frame.
///
/// # Errors
/// [`Error`]; after any of them the pipe is of no use.
pub async fn receive<T: DeserializeOwned>(pipe: &mut (impl AsyncRead + Unpin)) -> Result<T, Error> {
    let mut length = [0; size_of::<u32>()];
    if pipe.read(&mut length[..1]).await? == 0 {
        return Err(Error::Closed);
    }
    pipe.read_exact(&mut length[1..]).await?;
    let mut body = vec![0; bounded(u32::from_le_bytes(length))?];
    pipe.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

/// Writes one message. Dropping the future may leave part of a frame in the pipe.
///
/// # Errors
/// [`Error`]; after any of them the pipe is of no use.
pub async fn send<T: Serialize>(
    pipe: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), Error> {
    pipe.write_all(&encode(message)?).await?;
    Ok(pipe.flush().await?)
}

/// A text for the other end's log, cut to what a frame holds.
pub fn detail(text: &impl std::fmt::Display) -> String {
    let mut text = text.to_string();
    let end = (0..=DETAIL_BYTES_MAX.min(text.len())).rev().find(|&i| text.is_char_boundary(i));
    text.truncate(end.unwrap_or(0));
    text
}

fn bounded(length: u32) -> Result<usize, Error> {
    let bytes = length as usize;
    if bytes <= FRAME_BYTES_MAX { Ok(bytes) } else { Err(Error::TooLong { bytes }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assignment() -> ToTrainer {
        ToTrainer::Train(Assignment {
            run: "brain-t1".parse().unwrap(),
            number: 3,
            site: "mayo".parse().unwrap(),
            plan_toml: "version = 1\nrounds = 5\n".into(),
            base: Blob { digest: Digest::of(b"model"), size: 5 },
            remainder: None,
        })
    }

    #[test]
    fn a_message_survives_the_pipe_and_the_end_between_two_is_told() {
        let mut bytes = encode(&assignment()).unwrap();
        bytes.extend(encode(&ToTrainer::Cancel).unwrap());
        let mut pipe = &bytes[..];
        assert_eq!(read::<ToTrainer>(&mut pipe).unwrap(), assignment());
        assert_eq!(read::<ToTrainer>(&mut pipe).unwrap(), ToTrainer::Cancel);
        assert!(matches!(read::<ToTrainer>(&mut pipe), Err(Error::Closed)));
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_before_it_is_read() {
        let bytes = u32::MAX.to_le_bytes();
        assert!(matches!(read::<ToTrainer>(&mut &bytes[..]), Err(Error::TooLong { .. })));
        let long =
            FromTrainer::Failed { failure: Failure::Internal, detail: "x".repeat(FRAME_BYTES_MAX) };
        assert!(matches!(encode(&long), Err(Error::TooLong { .. })));
    }

    #[test]
    fn a_detail_is_cut_where_a_character_ends() {
        assert_eq!(detail(&"short"), "short");
        let cut = detail(&"é".repeat(DETAIL_BYTES_MAX));
        assert_eq!(cut.len(), DETAIL_BYTES_MAX);
        assert!(cut.chars().all(|c| c == 'é'));
    }

    proptest! {
        #[test]
        fn a_frame_that_is_cut_short_is_an_error(part in 0.0..1.0f64) {
            let bytes = encode(&assignment()).unwrap();
            let cut = (part * bytes.len() as f64) as usize;
            let found = read::<ToTrainer>(&mut &bytes[..cut]);
            match cut {
                0 => prop_assert!(matches!(found, Err(Error::Closed))),
                _ => prop_assert!(matches!(found, Err(Error::Io(_)))),
            }
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read::<FromTrainer>(&mut &bytes[..]).is_err());
            let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
            framed.extend(&bytes);
            prop_assert!(matches!(read::<FromTrainer>(&mut &framed[..]), Err(Error::Parse(_))));
        }
    }
}
