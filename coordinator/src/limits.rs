//! How many connections and uploads there may be, and how a dead one is found. A server is given
//! these, so that a test need not open a thousand connections, nor wait for a minute, to see what lies beyond.

use std::time::Duration;

use fedpaint_proto::limits::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};

use crate::driver::SITES_MAX;

/// The most handshakes under way at once.
pub const HANDSHAKES_MAX: usize = 256;

/// The most connections open at once: two of every site, one for what is said and one for models, those of
/// operators, and what was cut and is not known to be dead yet. Another one is closed at once and tries again.
pub const CONNECTIONS_MAX: usize = 2 * SITES_MAX + 100;

/// The most connections of strangers among them.
pub const STRANGERS_MAX: usize = 64;

/// The most uploads at once: twice the sites of a usual federation, so that those are never in each other's way.
/// With a window each, what is under way comes to 64 MiB at most, however many sites there are.
pub const UPLOAD_SLOTS_MAX: usize = 32;

/// How much of an upload may be under way before it is taken. What is under way and not taken is memory, so it
/// is half of what a site may cost; and windows that follow the path stay far too small on a line that loses.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// How much of a whole connection may be.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

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
