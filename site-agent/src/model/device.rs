//! The device a model runs on, chosen at run time by a word of the configuration.
//!
//! The only file that knows which back ends this build has. Asking for one it lacks is an error
//! that says what to build, never a silent change of device.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Device, DeviceType};
use serde::{Deserialize, Serialize};

/// The highest GPU number that is understood.
pub const MAX_GPU: usize = 63;

/// Which device to run on: `auto`, `cpu` or `gpu:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DeviceChoice {
    /// The first GPU this build can use, otherwise the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of this number, from 0.
    Gpu(usize),
}

/// Why there is no such device.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The word is not a device.
    #[error("device {0:?} is not understood, write auto, cpu or gpu:N with N from 0 to {MAX_GPU}")]
    Unknown(String),
    /// The build has no GPU back end.
    #[error(
        "device {0} needs a build for GPUs, build with --features wgpu (or vulkan, metal, cuda) or choose cpu"
    )]
    NotBuilt(DeviceChoice),
    /// The machine has fewer GPUs.
    #[error("device {choice} does not exist, this machine has {found} usable GPUs")]
    Missing {
        /// The device asked for.
        choice: DeviceChoice,
        /// The number of GPUs found.
        found: usize,
    },
}

/// Opens a device. It is a plain device; training asks it for its autodiff side.
///
/// # Errors
/// [`DeviceError`] if the build or the machine has no such device.
pub fn open(choice: DeviceChoice) -> Result<Device, DeviceError> {
    let mut gpus = match choice {
        DeviceChoice::Cpu => Vec::new(),
        DeviceChoice::Auto | DeviceChoice::Gpu(_) => gpus(),
    };
    match choice {
        DeviceChoice::Cpu => Ok(Device::flex()),
        DeviceChoice::Auto => Ok(gpus.drain(..).next().unwrap_or_else(Device::flex)),
        DeviceChoice::Gpu(_) if backends().is_empty() => Err(DeviceError::NotBuilt(choice)),
        DeviceChoice::Gpu(n) if n < gpus.len() => Ok(gpus.swap_remove(n)),
        DeviceChoice::Gpu(_) => Err(DeviceError::Missing { choice, found: gpus.len() }),
    }
}

/// One line for people: the device, and how many threads the processor lends it.
pub fn describe(device: &Device) -> String {
    if *device == Device::flex() {
        return format!("cpu, {} threads", rayon::current_num_threads());
    }
    format!("{device:?}")
}

/// The GPUs that this build can use on this machine.
fn gpus() -> Vec<Device> {
    backends().into_iter().flat_map(|kind| Device::enumerate(kind).into_vec()).collect()
}

/// The GPU back ends of this build, the most specialised first.
fn backends() -> Vec<DeviceType> {
    vec![
        #[cfg(feature = "cuda")]
        DeviceType::Cuda,
        #[cfg(feature = "metal")]
        DeviceType::Metal,
        #[cfg(feature = "vulkan")]
        DeviceType::Vulkan,
        #[cfg(feature = "wgpu")]
        DeviceType::Wgpu,
    ]
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Gpu(n) => write!(f, "gpu:{n}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(word: &str) -> Result<DeviceChoice, DeviceError> {
        let unknown = || DeviceError::Unknown(word.chars().take(40).collect());
        match word {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            _ => {
                let digits = word.strip_prefix("gpu:").ok_or_else(unknown)?;
                let n: usize = digits.parse().map_err(|_| unknown())?;
                if n > MAX_GPU { Err(unknown()) } else { Ok(DeviceChoice::Gpu(n)) }
            }
        }
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> String {
        choice.to_string()
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = DeviceError;

    fn try_from(word: String) -> Result<DeviceChoice, DeviceError> {
        word.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_word_survives_reading_and_writing() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Gpu(3)] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for bad in ["", "gpu", "gpu:", "gpu:x", "gpu:64", "gpu:-1", "cuda", "CPU"] {
            assert_eq!(bad.parse::<DeviceChoice>(), Err(DeviceError::Unknown(bad.into())));
        }
    }

    #[test]
    fn the_processor_is_always_there() {
        assert!(describe(&open(DeviceChoice::Cpu).unwrap()).starts_with("cpu, "));
    }

    #[cfg(not(any(feature = "cuda", feature = "metal", feature = "vulkan", feature = "wgpu")))]
    #[test]
    fn a_gpu_in_a_build_without_one_is_refused_and_auto_takes_the_processor() {
        let error = open(DeviceChoice::Gpu(0)).unwrap_err();
        assert_eq!(error, DeviceError::NotBuilt(DeviceChoice::Gpu(0)));
        assert!(error.to_string().contains("--features wgpu"));
        assert_eq!(open(DeviceChoice::Auto).unwrap(), Device::flex());
    }
}
