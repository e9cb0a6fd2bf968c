//! fedpaint's coordinator: it opens rounds, averages updates and publishes models.
//!
//! - [`round`], [`run`]: what happens in a round and which is next, as pure values.
//! - [`audit`]: a change in words; [`records`]: what is kept of it.
//! - [`fedavg`], [`check`]: arithmetic and checks on model files; nothing here knows burn.
//! - [`aggregate`]: what an aggregation makes, by name.
//! - [`blobs`], [`store`], [`clock`]: the disk, the database and the time.
//! - [`driver`]: the one task that changes runs, a shell around the pure [`driver::core`], and the
//!   handle that everybody else calls.
//! - `accept`, `service`: who is at the door, what they may call, and the wire in and out.
//! - `http`, `observe`, `metrics`: `/healthz` and `/metrics`.
//! - [`config`], [`server`]: what is configured, and all of it put together.

mod accept;
pub mod aggregate;
pub mod audit;
pub mod blobs;
pub mod ca;
pub mod check;
pub mod clock;
pub mod config;
pub mod driver;
pub mod fedavg;
mod http;
mod metrics;
mod observe;
pub mod records;
pub mod round;
pub mod run;
pub mod server;
mod service;
pub mod store;
#[cfg(test)]
mod testing;
