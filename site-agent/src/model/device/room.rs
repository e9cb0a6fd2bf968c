//! How much memory a device has left, and whether something fits.
//!
//! For the processor it is the least of what the kernel says is available, what the process's control
//! groups allow, and what its own limit on address space leaves. For a GPU it is what its driver says
//! in `/sys` (amdgpu does) and what the caller allows; others tell nobody without their own library,
//! and then nothing is refused beforehand. Read anew each time, because neighbours come and go.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use rustix::process::{Resource, getrlimit};

/// Where control groups are mounted: version 2, and version 1's for memory.
const GROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"];

/// Why something is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it needs about {needed} bytes of memory ({} MiB) and {available} bytes ({} MiB) are available: \
     take fewer slices at once (micro_batch), on a GPU gradient_checkpointing too, a smaller model or \
     another device",
    .needed >> 20, .available >> 20
)]
pub struct TooLarge {
    /// Bytes that it needs, an estimate.
    pub needed: u64,
    /// Bytes that there are.
    pub available: u64,
}

/// Whether `needed` bytes fit into what is available; what is not known refuses nothing.
///
/// # Errors
/// [`TooLarge`] with both numbers.
pub fn fits(needed: u64, available: Option<u64>) -> Result<(), TooLarge> {
    match available {
        Some(available) if needed > available => Err(TooLarge { needed, available }),
        _ => Ok(()),
    }
}

/// Bytes that `device` has left, as far as anybody says; `limit` is the most that may be taken of a
/// GPU, for the processor the process's own limit says that.
pub fn available(device: &Device, limit: Option<u64>) -> Option<u64> {
    if device.clone().inner() == Device::flex() {
        return host();
    }
    [card(device), limit].into_iter().flatten().min()
}

/// What a new allocation of this process can come to.
fn host() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = field(&read("/proc/meminfo"), "MemAvailable:").map(kib);
    let limit = getrlimit(Resource::As).current;
    let taken = field(&read("/proc/self/status"), "VmSize:").map(kib);
    let own = limit.zip(taken).map(|(limit, taken)| limit.saturating_sub(taken));
    let groups = GROUPS.iter().flat_map(|root| {
        folders(Path::new(root), &read("/proc/self/cgroup")).into_iter().filter_map(|f| group(&f))
    });
    groups.chain(kernel).chain(own).min()
}

/// What a control group leaves. Files that were read count as taken there, but give way.
fn group(folder: &Path) -> Option<u64> {
    let read = |names: [&str; 2]| {
        names.into_iter().find_map(|name| fs::read_to_string(folder.join(name)).ok())
    };
    let limit = read(["memory.max", "memory.limit_in_bytes"])?;
    let taken = read(["memory.current", "memory.usage_in_bytes"])?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    left_of_group(&limit, &taken, &stat)
}

fn left_of_group(limit: &str, taken: &str, stat: &str) -> Option<u64> {
    // Without a limit it says `max`, which is no number.
    let limit: u64 = limit.trim().parse().ok()?;
    let taken: u64 = taken.trim().parse().ok()?;
    let files = ["inactive_file", "active_file"];
    let files: u64 = files.into_iter().filter_map(|name| field(stat, name)).sum();
    Some(limit.saturating_sub(taken.saturating_sub(files)))
}

/// The folders below `root` of the groups in `/proc/self/cgroup` that limit memory, and of all above
/// them. In a container the inner ones may not be there; the outermost is then its own.
fn folders(root: &Path, groups: &str) -> Vec<PathBuf> {
    let paths = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let is_memory = controllers.is_empty() || controllers.split(',').any(|c| c == "memory");
        is_memory.then(|| path.trim_start_matches('/').to_owned())
    });
    let up = |path: String| Path::new(&path).ancestors().map(PathBuf::from).collect::<Vec<_>>();
    let mut found: Vec<PathBuf> = paths.flat_map(up).map(|path| root.join(path)).collect();
    found.push(root.to_owned());
    found
}

/// The number behind `name` in a file of `name number` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines.find_map(|rest| rest.split_whitespace().next()?.parse().ok())
}

/// Kibibytes as bytes.
fn kib(count: u64) -> u64 {
    count.saturating_mul(1 << 10)
}

/// What a card's driver says is left of its memory. A device that is no card computes on the host.
#[cfg(any(feature = "cuda", feature = "metal", feature = "vulkan", feature = "wgpu"))]
fn card(device: &Device) -> Option<u64> {
    let Some(physical) = device.clone().inner().identity()?.physical else { return host() };
    let folder = Path::new("/sys/bus/pci/devices").join(physical.pci_address?.to_string());
    let read = |name| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    Some(read("mem_info_vram_total")?.saturating_sub(read("mem_info_vram_used")?))
}

#[cfg(not(any(feature = "cuda", feature = "metal", feature = "vulkan", feature = "wgpu")))]
fn card(_: &Device) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers_and_the_unknown_refuses_nothing() {
        assert_eq!(fits(5, Some(5)), Ok(()));
        assert_eq!(fits(u64::MAX, None), Ok(()));
        let error = fits(3 << 30, Some(1 << 20)).unwrap_err().to_string();
        assert!(error.contains("3221225472") && error.contains("1048576"), "{error}");
    }

    #[test]
    fn a_groups_files_give_way_and_a_group_without_a_limit_limits_nothing() {
        let stat = "anon 5\ninactive_file 200\nactive_file 100\n";
        assert_eq!(left_of_group("1000\n", "700\n", stat), Some(600));
        assert_eq!(left_of_group("1000", "2000", ""), Some(0));
        assert_eq!(left_of_group("max\n", "700\n", stat), None);
    }

    #[test]
    fn a_group_and_all_above_it_are_looked_at_in_both_versions() {
        let names = |groups| {
            let found = folders(Path::new("/g"), groups);
            found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names("0::/a/b\n"), ["/g/a/b", "/g/a", "/g/", "/g"]);
        assert_eq!(names("3:cpu:/x\n2:memory:/y\n"), ["/g/y", "/g/", "/g"]);
        assert_eq!(names(""), ["/g"]);
    }

    #[test]
    fn a_number_is_found_by_the_name_before_it() {
        let text = "MemFree: 1 kB\nMemAvailable:   23 kB\n";
        assert_eq!(field(text, "MemAvailable:").map(kib), Some(23 << 10));
        assert_eq!(field(text, "MemTotal:"), None);
    }

    #[test]
    fn this_machine_has_memory_left() {
        assert!(available(&Device::flex(), None).is_some_and(|bytes| bytes > 1 << 20));
    }
}
