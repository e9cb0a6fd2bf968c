//! Options that several verbs share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::Args;
use fedpaint_proto::names::Digest;

use crate::data::labels::LabelScheme;
use crate::data::layout::Contrast;
use crate::model::checkpoint::{self, CheckpointError};
use crate::model::device;
use crate::model::weights::Weights;
use crate::settings::{CACHE_MIB_DEFAULT, DataSettings, HELD_OUT_DEFAULT, THREADS_MAX};
use crate::trainer;

/// Which scans there are and which of them train; as `[data]` of the configuration.
#[derive(Clone, Debug, Args)]
pub struct DataOptions {
    /// The data folder, or a manifest.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// What labels mean where no manifest says so: brats2021, brats2023, brats_post or lesion.
    #[arg(long, value_name = "SCHEME")]
    label_scheme: Option<LabelScheme>,
    /// The contrasts to use, such as `t1n,t2f`. By default every one that is there.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    contrasts: Option<Vec<Contrast>>,
    /// The part of the patients that never trains.
    #[arg(long, value_name = "FRACTION", default_value_t = HELD_OUT_DEFAULT)]
    held_out: f64,
    /// Another salt holds out other patients.
    #[arg(long, value_name = "TEXT", default_value = "")]
    split_salt: String,
    /// A split that was written down before, such as NAME.split.json of a training: its patients stay on
    /// their sides.
    #[arg(long, value_name = "FILE")]
    split: Option<PathBuf>,
    /// Keep prepared scans in this folder, so that they are read once. By default nothing is kept.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// The most room they take, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = CACHE_MIB_DEFAULT)]
    cache_mib_max: u64,
}

/// How to compute; as `[trainer]` of the configuration.
#[derive(Clone, Debug, Args)]
pub struct ComputeOptions {
    /// auto, cpu, or gpu:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads of the CPU. By default one per core.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(THREADS_MAX)))]
    threads: Option<u32>,
}

impl DataOptions {
    /// The options as settings.
    ///
    /// # Errors
    /// If a value is out of its range.
    pub fn settings(&self) -> Result<DataSettings> {
        let settings = DataSettings {
            path: self.data.clone(),
            label_scheme: self.label_scheme.map(|scheme| scheme.name().to_owned()),
            contrasts: self.contrasts.as_ref().map(|all| all.iter().map(named).collect()),
            held_out: self.held_out,
            split_salt: self.split_salt.clone(),
            split: self.split.clone(),
            cache: self.cache.clone(),
            cache_mib_max: self.cache_mib_max,
        };
        settings.validate()?;
        Ok(settings)
    }
}

fn named(contrast: &Contrast) -> String {
    contrast.name().to_owned()
}

impl ComputeOptions {
    /// Opens the device.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn open(&self) -> Result<Device> {
        trainer::limit_threads(self.threads).map_err(anyhow::Error::msg)?;
        Ok(device::open(self.device.parse()?)?)
    }
}

/// Reads a model and says what it is.
///
/// # Errors
/// If the file is not a model.
pub fn load_model(path: &Path) -> Result<(Weights, Digest)> {
    let weights = match checkpoint::load(path) {
        Ok(weights) => weights,
        // These name the file already.
        Err(error @ CheckpointError::Read { .. }) => return Err(error.into()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let digest = digest_of(&weights)?;
    Ok((weights, digest))
}

/// The digest of a model's file.
///
/// # Errors
/// If the model does not fit a file.
pub fn digest_of(weights: &Weights) -> Result<Digest> {
    Ok(Digest::of(&checkpoint::to_bytes(weights)?))
}
