//! Memory in one place, and what of it is free given back to the system.
//!
//! glibc's allocator has an arena for each thread, up to eight for each core, and keeps what is free below
//! something that is not. What lives long comes to lie in every arena, and what a moment took in which more
//! happened at once than ever before would stay, a little more every time, for as long as the process runs. In
//! one arena what one thread has freed is the next one's room. Its lock is no bottleneck here: large pieces come from
//! the system, each by itself, and go back to it; glibc would take ever larger ones from the arena once one of them
//! was freed. Of small ones each thread keeps one of a size for itself, and not the seven that glibc would let it:
//! `tests/README.md` has what those came to.

use std::sync::Arc;
use std::time::Duration;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
use std::{env, os::unix::process::CommandExt, process::Command};

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use fedpaint_proto::heap::keep_room;

use crate::clock::Clock;

/// Has all threads share one arena, in which there is room for what is moved and no large piece. To be called before
/// there is a second thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc's allocator can be told in no other way")]
pub fn share_one_arena() {
    keep_room();
    // SAFETY: mallopt(3) takes two numbers and sets a limit; no memory is touched.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other allocators have other ways.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn share_one_arena() {}

/// Where glibc reads, before a program begins, what its allocator is told in no other way.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Every thread keeps so many freed pieces of each of 64 sizes for itself, which no trimming finds. With glibc's own
/// choice, 7, these are up to 200 KiB a thread, and fill up for hours.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SMALL_CACHES: &str = "glibc.malloc.tcache_count=1";

/// Begins this program anew, as the same process, with threads that keep little freed memory for themselves; to be
/// called before it has done anything. It goes on as it is where it was begun so, where somebody has told the
/// allocator something else, and where its file is no longer there.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn begin_with_small_caches() {
    if env::var_os(TUNABLES).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // It comes back only where it has failed.
    let _ = again.args(arguments).env(TUNABLES, SMALL_CACHES).exec();
}

/// Other allocators have other ways.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn begin_with_small_caches() {}

/// How long it is between two times: short, so that what is free for a moment is not built around by what lives
/// long. It takes less than a millisecond.
const INTERVAL: Duration = Duration::from_secs(5);

/// Gives back what is free again and again, for as long as it is let.
pub(crate) async fn give_back_often(clock: Arc<dyn Clock>) {
    loop {
        clock.sleep(INTERVAL).await;
        // It ends early by its own panic alone, which has been told.
        let _ = tokio::task::spawn_blocking(give_back).await;
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc's allocator can be asked in no other way")]
fn give_back() {
    // SAFETY: malloc_trim(3) may be called by any thread at any time (MT-Safe). It takes the arenas' locks and
    // has the system forget whole pages of free chunks, which nobody has a reference to.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators do so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    fn resident_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    }

    #[test]
    fn what_is_free_below_something_that_is_not_is_given_back() {
        let mut pieces: Vec<Vec<u8>> = (0..1000).map(|_| vec![1; 64 << 10]).collect();
        let kept = pieces.pop();
        drop(pieces);
        let before = resident_kib();
        give_back();
        let after = resident_kib();
        assert!(after + (32 << 10) < before, "{before} KiB, then {after}");
        assert_eq!(kept.unwrap()[0], 1);
    }
}
