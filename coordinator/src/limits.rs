//! How many connections and uploads there may be, how a dead one is found, and which files that takes. A server
//! is given these, so that a test need not open a thousand connections, nor wait for a minute, to see what lies
//! beyond.

use std::time::Duration;

use fedpaint_proto::limits::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};

use crate::driver::{BESIDE_MAX, SITES_MAX};
use crate::fedavg::OPEN_FILES_MAX;

/// The most handshakes under way at once.
pub const HANDSHAKES_MAX: usize = 256;

/// The most connections open at once: two of every site, one for what is said and one for models, those of
/// operators, and what was cut and is not known to be dead yet. Another one is closed at once and tries again.
pub const CONNECTIONS_MAX: usize = 2 * SITES_MAX + 100;

/// The most connections of strangers among them.
pub const STRANGERS_MAX: usize = 64;

/// The most callers at once who are told that there is no place for them, which takes a handshake: beyond that
/// their connections are closed without a word.
pub const FAREWELLS_MAX: usize = 32;

/// How many calls of one connection are worked on at once; the others wait.
pub const CALLS_PER_CONNECTION_MAX: usize = 8;

/// The most uploads at once: twice the sites of a usual federation, so that those are never in each other's way.
/// With [`WAITING_BYTES_MAX`] each, what waits is bounded, however many sites there are.
pub const UPLOAD_SLOTS_MAX: usize = 32;

/// Files that are open beside connections, transfers and averages: what is hashed beside an average, the
/// database, listeners, the runtime's own, connections for which there is no place, and an allowance.
const FILES_BESIDE: usize = BESIDE_MAX + 200;

/// The most files open at once, as far as the other limits say: every connection, a download of every site,
/// uploads, and what an average reads.
pub const FILES_MAX: usize =
    CONNECTIONS_MAX + SITES_MAX + UPLOAD_SLOTS_MAX + OPEN_FILES_MAX + FILES_BESIDE;

/// What there is to be said where the process may have `files` files open and no more.
pub fn too_few_files(files: u64) -> Option<String> {
    if files >= FILES_MAX as u64 {
        return None;
    }
    let beside = UPLOAD_SLOTS_MAX + OPEN_FILES_MAX + FILES_BESIDE;
    // A site has two connections, and a file that it downloads.
    let sites = files.saturating_sub(beside as u64) / 3;
    Some(format!(
        "this process may have {files} files open, which is enough for {sites} sites at once and not for the \
         {SITES_MAX} that it would serve: raise the hard limit to {FILES_MAX} (LimitNOFILE= of a systemd unit, \
         --ulimit nofile= of a container, `ulimit -Hn` in a shell)"
    ))
}

/// How much of an upload may be under way before it is taken: what goes by 1 Gbit/s in the 100 ms of a long way there
/// and back, and a third more. Windows that follow the path stay far too small on a line that loses.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 16 << 20;

/// How much of a whole connection may be.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = HTTP2_STREAM_WINDOW_BYTES + (2 << 20);

/// How much that has come by a connection may wait for its calls to take it until no more is read of it. What waits is
/// memory, so it is a quarter of what a site may cost: a connection may be read a little further before its call has
/// its turn.
pub const WAITING_BYTES_MAX: u64 = 1 << 20;

/// What bounds the connections and uploads of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most handshakes under way at once.
    pub handshakes_max: usize,
    /// The most connections open at once, handshakes with them.
    pub connections_max: usize,
    /// The most connections of strangers among them.
    pub strangers_max: usize,
    /// The most uploads at once.
    pub upload_slots: usize,
    /// How long nothing may come until the other end is asked whether it is still there.
    pub keepalive_interval: Duration,
    /// How long its answer may take until the connection is ended.
    pub keepalive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshakes_max: HANDSHAKES_MAX,
            connections_max: CONNECTIONS_MAX,
            strangers_max: STRANGERS_MAX,
            upload_slots: UPLOAD_SLOTS_MAX,
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_files_are_told_with_both_numbers_and_the_sites_that_they_are_enough_for() {
        assert_eq!(too_few_files(FILES_MAX as u64), None);
        assert_eq!(too_few_files(u64::MAX), None);
        let told = too_few_files(1024).unwrap();
        for part in ["1024 files", "157 sites", &format!("hard limit to {FILES_MAX}")] {
            assert!(told.contains(part), "{part:?} is not in {told}");
        }
        assert!(too_few_files(0).unwrap().contains("enough for 0 sites"));
        // What README tells an operator.
        const { assert!(FILES_MAX <= 4_000) }
    }
}
