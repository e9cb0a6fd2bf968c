//! The device a model runs on, chosen at run time by a word of the configuration.
//!
//! The only file that knows which back ends this build has. Asking for one it lacks is an error
//! that says what to build, never a silent change of device.

pub mod room;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use burn::tensor::{Device, DeviceType};
use serde::{Deserialize, Serialize};

/// The highest GPU number that is understood.
pub const MAX_GPU: usize = 63;

/// How much of a word that is no device is quoted.
const WORD_CHARS_MAX: usize = 40;

/// Which device to run on: `auto`, `cpu` or `gpu:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DeviceChoice {
    /// The first card this build can use, otherwise the processor. A software renderer is no card: it
    /// would be the processor at a fraction of its speed.
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

/// What a device's library said when it gave up: a lost device, memory that is not there, a kernel that
/// does not compile. It may hold shapes and sizes, so it stays in the site's own log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Crash(pub String);

/// Does `work` on a device. burn panics where a device fails between two reads; here, and nowhere
/// else, that becomes an error. What `work` was changing is lost with it.
///
/// # Errors
/// [`Crash`] if it panics.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Crash> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Crash(words(payload.as_ref())))
}

/// What a panic said, on one line.
fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("it did not say why").split_whitespace().collect::<Vec<_>>().join(" ")
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
        DeviceChoice::Auto => Ok(gpus.drain(..).find(is_card).unwrap_or_else(Device::flex)),
        DeviceChoice::Gpu(_) if backends().is_empty() => Err(DeviceError::NotBuilt(choice)),
        DeviceChoice::Gpu(n) if n < gpus.len() => Ok(gpus.swap_remove(n)),
        DeviceChoice::Gpu(_) => Err(DeviceError::Missing { choice, found: gpus.len() }),
    }
}

/// One line for people: the device, how many threads the processor lends it, and what memory is left.
pub fn describe(device: &Device) -> String {
    let name = match *device == Device::flex() {
        true => format!("cpu, {} threads", rayon::current_num_threads()),
        false => name(device).unwrap_or_else(|| format!("{device:?}")),
    };
    match room::available(device, None) {
        Some(bytes) => format!("{name}, {} MiB of memory available", bytes >> 20),
        None => format!("{name}, its driver does not say what memory is available"),
    }
}

/// Every device this build can use on this machine, as it is chosen and described. It opens them all.
pub fn list() -> Vec<(DeviceChoice, String)> {
    let gpus = gpus().into_iter().enumerate().map(|(n, gpu)| (DeviceChoice::Gpu(n), gpu));
    let all = std::iter::once((DeviceChoice::Cpu, Device::flex())).chain(gpus);
    let described = |device: &Device| guarded(|| describe(device)).unwrap_or_else(|e| e.0);
    all.map(|(choice, device)| (choice, described(&device))).collect()
}

/// The GPUs that this build can use on this machine.
fn gpus() -> Vec<Device> {
    backends().into_iter().flat_map(|kind| Device::enumerate(kind).into_vec()).collect()
}

/// What a GPU calls itself.
#[cfg(any(feature = "cuda", feature = "metal", feature = "vulkan", feature = "wgpu"))]
fn name(device: &Device) -> Option<String> {
    device.clone().inner().identity().map(|identity| identity.name)
}

/// Whether a GPU is a card, and no software that plays one.
#[cfg(any(feature = "cuda", feature = "metal", feature = "vulkan", feature = "wgpu"))]
fn is_card(device: &Device) -> bool {
    device.identity().is_some_and(|identity| identity.physical.is_some())
}

#[cfg(not(any(feature = "cuda", feature = "metal", feature = "vulkan", feature = "wgpu")))]
fn name(_: &Device) -> Option<String> {
    None
}

#[cfg(not(any(feature = "cuda", feature = "metal", feature = "vulkan", feature = "wgpu")))]
fn is_card(_: &Device) -> bool {
    false
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
        let unknown = || DeviceError::Unknown(word.chars().take(WORD_CHARS_MAX).collect());
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
    fn a_panic_becomes_an_error_with_its_words_on_one_line() {
        assert_eq!(guarded(|| 3), Ok(3));
        let lost = guarded(|| -> u8 { panic!("device {}\n  lost", 7) });
        assert_eq!(lost, Err(Crash("device 7 lost".into())));
        let silent = guarded(|| -> u8 { std::panic::panic_any(5) });
        assert_eq!(silent, Err(Crash("it did not say why".into())));
    }

    #[test]
    fn the_processor_is_always_there() {
        let described = describe(&open(DeviceChoice::Cpu).unwrap());
        assert!(described.starts_with("cpu, ") && described.contains(" MiB"), "{described}");
        assert_eq!(list()[0].0, DeviceChoice::Cpu);
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
