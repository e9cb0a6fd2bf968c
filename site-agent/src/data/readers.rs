//! How many cases may be read at a time.

use rustix::process::{Resource, getrlimit};

/// The most cases that are read at a time.
pub const READERS_MAX: usize = 4;

/// About what reading a case at BraTS size takes, in bytes.
const READER_BYTES: u64 = 512 << 20;

/// How many cases may be read at a time, in the threads and the memory there are.
pub fn readers() -> usize {
    let limit = getrlimit(Resource::As).current.unwrap_or(u64::MAX);
    let fit = usize::try_from(limit / READER_BYTES).unwrap_or(READERS_MAX);
    rayon::current_num_threads().min(fit).clamp(1, READERS_MAX)
}
