//! Memory that is free, given back to the system.
//!
//! The allocator keeps what is free below something that is not, in an arena for each thread. What a moment
//! took in which more happened at once than ever before would stay, a little more every time, for as long as the
//! process runs.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;

/// How long it is between two times.
const INTERVAL: Duration = Duration::from_secs(60);

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
