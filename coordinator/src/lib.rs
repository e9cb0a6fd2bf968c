//! fedpaint's coordinator: it opens rounds, averages updates and publishes models.
//!
//! - [`round`], [`run`]: what happens in a round and which is next, as pure values.
//! - [`roster`]: who is invited, which keys certificates were issued for, what operators may do.
//! - `credentials`, `seal`, `issuer`: the coordinator's certificates for TLS and for signing, and the authority
//!   that it issues others with.
//! - [`audit`]: a change in words; [`records`]: what is kept of it.
//! - [`evidence`]: what the coordinator signs, the audit log as a file that proves itself, and the check.
//! - [`fedavg`], [`check`]: arithmetic and checks on model files; nothing here knows burn.
//! - [`sealed`], [`aggregate`], [`standing`]: what an aggregation is made from, what it makes, by name, and
//!   what it found of each update.
//! - [`blobs`], [`store`], [`clock`], [`halt`]: the disk, the database, the time, and the end that a
//!   failed sync asks for.
//! - [`driver`]: the one task that changes runs, a shell around the pure [`driver::core`], and the
//!   handle that everybody else calls.
//! - `accept`, `connections`, `calls`, `intake`, `service`: who is at the door, who is open to be cut, how many
//!   calls a connection has, how much of it waits for them, what they may call, and the wire in and out;
//!   [`limits`]: how many may be there.
//! - `http`, `observe`, `metrics`: `/healthz` and `/metrics`.
//! - `janitor`: deletes what nobody needs any more, one [`share`] of all blobs after the other.
//! - [`heap`]: one arena for all threads, and its free memory given back to the system.
//! - [`maintenance`]: check, backup, restore, replay.
//! - [`folder`]: the data folder's lock, which one process holds.
//! - [`config`], [`server`]: what is configured, and all of it put together.

mod accept;
pub mod aggregate;
pub mod audit;
pub mod blobs;
pub mod ca;
mod calls;
pub mod check;
pub mod clock;
pub mod config;
mod connections;
mod credentials;
pub mod driver;
pub mod evidence;
pub mod fedavg;
pub mod folder;
pub mod halt;
pub mod heap;
mod http;
mod intake;
mod issuer;
mod janitor;
pub mod limits;
pub mod maintenance;
mod metrics;
mod observe;
pub mod records;
pub mod roster;
pub mod round;
pub mod rules;
pub mod run;
mod seal;
pub mod sealed;
pub mod server;
mod service;
pub mod share;
mod slots;
pub mod standing;
pub mod store;
#[cfg(test)]
mod testing;
