//! Whole-system tests: a real coordinator and real agents, real certificates, real sockets.
//!
//! Nothing here sleeps: a test waits for a line, for a change that the coordinator streams, or for a
//! process to end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod agents;
mod aggregation;
mod alerts;
mod bench;
mod canaries;
mod chaos;
mod cryptography;
mod disk;
mod dry_run;
mod durability;
mod hostile;
mod house;
mod joining;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod memory;
mod old_database;
mod passphrase;
mod people;
mod places;
mod proxy;
mod reach;
mod refusals;
mod renewal;
mod restored;
mod simulation;
mod storage;
mod study;
mod trainer;
mod trials;

/// A plan of `rounds` rounds for `sites` sites, with the limits tests need.
pub(crate) fn plan(rounds: u32, sites_min: u32, sites_goal: u32, more: &str) -> String {
    format!(
        "version = 1\nrounds = {rounds}\n\n[round]\nsites_min = {sites_min}\n\
         sites_goal = {sites_goal}\nselection_s = 600\nreporting_s = 600\n{more}"
    )
}
