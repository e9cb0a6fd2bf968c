//! What must hold of any bytes where bytes may come from somebody hostile: they are read, or refused in
//! words, and nothing else happens.
//!
//! Each part has one reader: `any` looks at some bytes, panics where something does not hold, and says
//! whether they were taken. The fuzz targets in `fuzz/` compile these files as they are, and
//! `tests/hostile.rs` puts the fuzzers' corpora and mutations of them to the same proof.

pub mod csr;
pub mod envelope;
pub mod log_proof;
pub mod plan;
pub mod policy;
pub mod tensors;
pub mod token;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

/// Shows `bytes` to a reader of files. They are in memory, because a disk is slower than any reader.
///
/// # Panics
/// If the system has no memory for them.
fn as_file<T>(bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let memory = memfd_create("bytes", MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = File::from(memory);
    file.write_all(bytes).expect("a few kilobytes of memory");
    read(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

/// That a refusal is words on one line of a bounded length.
///
/// # Panics
/// If it is not.
fn is_a_line(refusal: &str, bytes_max: usize) {
    assert!(!refusal.is_empty() && refusal.len() <= bytes_max, "{} bytes", refusal.len());
    assert!(!refusal.contains(char::is_control), "{refusal:?}");
}
