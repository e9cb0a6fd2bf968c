//! The note beside an exported model: which run and round made the file. A model's own bytes do not
//! say it, because the same weights may come out of many rounds.
//!
//! It helps people to find their way and decides nothing: a note that is missing or not about the
//! model beside it is the same as none.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::names::{Digest, RunName};

/// The most bytes of a note that are read.
const NOTE_BYTES_MAX: u64 = 4096;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelNote {
    /// The run.
    pub run: RunName,
    /// The round that made the model; 0 made none, it is what the run started from.
    pub round: u32,
    /// Which of the round's two models it is; a note that does not say is of the raw one.
    #[serde(default)]
    pub kind: ModelKind,
    /// The model's digest: if it is not that of the file beside, the note is of another one.
    pub digest: Digest,
}

/// Which of a round's models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// What the aggregation made: the model that the next round trains from.
    #[default]
    Raw,
    /// The moving average of the raw models, for use and not for training on.
    Ema,
}

impl ModelNote {
    /// The note's path for the model at `model`: `.json` is added to the whole name.
    pub fn path_beside(model: &Path) -> PathBuf {
        let mut name = OsString::from(model);
        name.push(".json");
        PathBuf::from(name)
    }

    /// The path of the manifest beside the model at `model`: `.manifest.json` is added to the whole name.
    pub fn manifest_beside(model: &Path) -> PathBuf {
        let mut name = OsString::from(model);
        name.push(".manifest.json");
        PathBuf::from(name)
    }

    /// The note beside the model at `model` if there is one and it is about the model of `digest`.
    pub fn beside(model: &Path, digest: Digest) -> Option<ModelNote> {
        let mut text = Vec::new();
        let file = File::open(ModelNote::path_beside(model)).ok()?;
        file.take(NOTE_BYTES_MAX).read_to_end(&mut text).ok()?;
        let note: ModelNote = serde_json::from_slice(&text).ok()?;
        (note.digest == digest).then_some(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_only_for_the_model_that_it_is_about() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("brain.safetensors");
        let digest = Digest::of(b"weights");
        assert_eq!(ModelNote::beside(&model, digest), None);
        let run = "brain-t1".parse().unwrap();
        let note = ModelNote { run, round: 7, kind: ModelKind::Ema, digest };
        let path = folder.path().join("brain.safetensors.json");
        std::fs::write(&path, serde_json::to_vec(&note).unwrap()).unwrap();
        assert_eq!(ModelNote::beside(&model, digest), Some(note));
        assert_eq!(ModelNote::beside(&model, Digest::of(b"others")), None);
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(ModelNote::beside(&model, digest), None);
    }

    #[test]
    fn a_note_that_does_not_say_which_model_it_is_of_is_of_the_raw_one() {
        let digest = Digest::of(b"weights");
        let text = format!("{{\"run\": \"t1\", \"round\": 7, \"digest\": \"{digest}\"}}");
        let note: ModelNote = serde_json::from_str(&text).unwrap();
        assert_eq!(note.kind, ModelKind::Raw);
        assert!(serde_json::to_string(&note).unwrap().contains("\"kind\":\"raw\""));
    }
}
