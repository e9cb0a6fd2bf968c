//! What the agent hands its trainer at the start: where the data lies and how to compute.
//!
//! These are the `[data]` and `[trainer]` tables of the configuration and they travel through the
//! pipe. Nothing here can hold a key, a certificate or an address. What a contrast or a label scheme
//! is called stays text here, because only the trainer knows scans.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The part of the patients that never trains unless the configuration says otherwise.
pub const HELD_OUT_DEFAULT: f64 = 0.2;

/// The most room that prepared scans take on the disk unless the configuration says otherwise, in MiB.
/// A case at BraTS size takes about 30.
pub const CACHE_MIB_DEFAULT: u64 = 32 << 10;

/// The most room a limit may name, in MiB: 64 TiB.
pub const CACHE_MIB_MAX: u64 = 64 << 20;

/// The most threads a trainer may be given.
pub const THREADS_MAX: u32 = 1024;

/// The least memory a trainer can start with, in MiB.
pub const MEMORY_MIB_MIN: u64 = 64;

/// The most memory a limit may name, in MiB: 64 TiB.
pub const MEMORY_MIB_MAX: u64 = 64 << 20;

/// Steps between two checkpoints of a training unless the configuration says otherwise.
pub const CHECKPOINT_STEPS_DEFAULT: u32 = 50;

/// The longest that a step of a rehearsal may be made to take: an hour.
pub const REHEARSAL_STEP_MS_MAX: u64 = 3_600_000;

/// Why settings are refused.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{field} is {value}, it must be {must}")]
pub struct Error {
    /// The field as written in the configuration.
    pub field: &'static str,
    /// What it is.
    pub value: String,
    /// What it must be.
    pub must: &'static str,
}

/// Which scans there are and which of them train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSettings {
    /// The data folder, or a manifest.
    pub path: PathBuf,
    /// What the numbers of a segmentation mean where no manifest says so. Needed wherever there is a
    /// segmentation: it is never guessed.
    #[serde(default)]
    pub label_scheme: Option<String>,
    /// The contrasts to use; by default every one that is there.
    #[serde(default)]
    pub contrasts: Option<Vec<String>>,
    /// The part of the patients that is kept for evaluation.
    #[serde(default = "held_out_default")]
    pub held_out: f64,
    /// Another salt holds out other patients.
    #[serde(default)]
    pub split_salt: String,
    /// The file that remembers on which side every patient is, so that nobody changes sides; by default
    /// `split.json` in the agent's workspace, and none for a verb without one.
    #[serde(default)]
    pub split: Option<PathBuf>,
    /// Where prepared scans are kept between rounds; by default in the agent's workspace, and
    /// nowhere for a verb without one. Only the trainer opens it.
    #[serde(default)]
    pub cache: Option<PathBuf>,
    /// The most room they take, in MiB; 0 keeps none.
    #[serde(default = "cache_mib_default")]
    pub cache_mib_max: u64,
}

/// How the trainer computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComputeSettings {
    /// `auto`, `cpu`, or `gpu:N`.
    pub device: String,
    /// Threads of the CPU; by default one per core.
    pub threads: Option<u32>,
    /// On the processor the trainer's address space is limited to this many MiB; on a GPU no
    /// training begins that is estimated to take more of its memory.
    pub memory_mib_max: Option<u64>,
    /// Steps between two checkpoints, from which a training goes on after a crash; 0 for none. The
    /// site's own choice, because it changes no byte of what comes out.
    pub checkpoint_steps: u32,
}

impl Default for ComputeSettings {
    fn default() -> ComputeSettings {
        ComputeSettings {
            device: "auto".into(),
            threads: None,
            memory_mib_max: None,
            checkpoint_steps: CHECKPOINT_STEPS_DEFAULT,
        }
    }
}

/// How a rehearsal goes, see [`crate::rehearsal`]. For developers: a site that trains has no such
/// table, and no sample shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RehearsalSettings {
    /// How long a step takes, in milliseconds; 0 for no time at all.
    #[serde(default)]
    pub steps_ms: u64,
    /// In the place of `trainer.checkpoint_steps`.
    #[serde(default)]
    pub checkpoint_steps: Option<u32>,
    /// How many of the model's weights move, the first ones; by default all of them.
    #[serde(default)]
    pub weights_max: Option<usize>,
}

fn held_out_default() -> f64 {
    HELD_OUT_DEFAULT
}

fn cache_mib_default() -> u64 {
    CACHE_MIB_DEFAULT
}

impl DataSettings {
    /// The same settings with relative paths taken from `folder`.
    pub fn relative_to(&self, folder: &Path) -> DataSettings {
        let cache = self.cache.as_ref().map(|cache| folder.join(cache));
        let split = self.split.as_ref().map(|split| folder.join(split));
        DataSettings { path: folder.join(&self.path), split, cache, ..self.clone() }
    }

    /// Whether every value is in its range.
    ///
    /// # Errors
    /// [`Error`] naming the field.
    pub fn validate(&self) -> Result<(), Error> {
        if !(0.0..1.0).contains(&self.held_out) {
            let value = self.held_out.to_string();
            return Err(Error { field: "data.held_out", value, must: "at least 0 and below 1" });
        }
        if self.cache_mib_max > CACHE_MIB_MAX {
            let value = self.cache_mib_max.to_string();
            return Err(Error { field: "data.cache_mib_max", value, must: "at most 64 TiB" });
        }
        Ok(())
    }
}

impl ComputeSettings {
    /// Whether every value is in its range.
    ///
    /// # Errors
    /// [`Error`] naming the field.
    pub fn validate(&self) -> Result<(), Error> {
        if let Some(threads) = self.threads.filter(|t| !(1..=THREADS_MAX).contains(t)) {
            let value = threads.to_string();
            return Err(Error { field: "trainer.threads", value, must: "from 1 to 1024" });
        }
        let memory = MEMORY_MIB_MIN..=MEMORY_MIB_MAX;
        if let Some(mib) = self.memory_mib_max.filter(|mib| !memory.contains(mib)) {
            let value = mib.to_string();
            let must = "from 64 MiB to 64 TiB";
            return Err(Error { field: "trainer.memory_mib_max", value, must });
        }
        Ok(())
    }
}

impl RehearsalSettings {
    /// Whether every value is in its range.
    ///
    /// # Errors
    /// [`Error`] naming the field.
    pub fn validate(&self) -> Result<(), Error> {
        if self.steps_ms > REHEARSAL_STEP_MS_MAX {
            let value = self.steps_ms.to_string();
            return Err(Error { field: "rehearsal.steps_ms", value, must: "at most an hour" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused_by_the_name_of_the_field() {
        let data: DataSettings = toml::from_str("path = \"scans\"").unwrap();
        assert_eq!(data.held_out, HELD_OUT_DEFAULT);
        assert_eq!(data.validate(), Ok(()));
        for held_out in [-0.1, 1.0, f64::NAN] {
            let refused = DataSettings { held_out, ..data.clone() }.validate().unwrap_err();
            assert_eq!(refused.field, "data.held_out");
        }
        let refused = DataSettings { cache_mib_max: u64::MAX, ..data }.validate().unwrap_err();
        assert_eq!(refused.field, "data.cache_mib_max");
        let compute = ComputeSettings::default();
        assert_eq!(compute.validate(), Ok(()));
        let refused = ComputeSettings { threads: Some(0), ..compute.clone() }.validate();
        assert_eq!(refused.unwrap_err().field, "trainer.threads");
        let refused = ComputeSettings { memory_mib_max: Some(1), ..compute }.validate();
        assert_eq!(refused.unwrap_err().field, "trainer.memory_mib_max");
    }
}
