//! The coordinator as its users meet it: the program on a command line, and the server over real TLS
//! on loopback. One binary, so that it is linked once.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get, fails the test")]

mod access;
mod blobs;
mod bounds;
mod cli;
mod door;
mod fedctl;
mod federation;
mod floods;
mod idempotence;
mod named;
mod newcomer;
mod pki;
mod preview;
mod quarantine;
mod raw;
mod readers;
mod rounds;
mod shared;
mod slots;
mod two_persons;
