//! The readers of what may be hostile as a crate that knows no burn and no database, for the fuzz targets. It
//! adds nothing to them.

// What `hostile` calls by the names of the crates that the readers are of.
extern crate self as fedpaint_coordinator;
extern crate self as fedpaint_site_agent;

/// Of `coordinator/src/ca` what is taken from a request.
#[path = "../../coordinator/src/ca"]
pub mod ca {
    mod request;

    pub use request::PublicKey;
}

/// Of the agent its policy, and what that judges.
#[path = "../../site-agent/src"]
mod site {
    pub mod client;
    pub mod pipe;
    pub mod policy;
    pub mod settings;
    pub mod witness;
}

pub use site::{client, pipe, policy, settings, witness};

#[path = "../../tests/src/hostile/mod.rs"]
pub mod hostile;
