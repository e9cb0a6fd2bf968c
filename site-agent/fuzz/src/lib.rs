//! The agent's `data` folder as a crate, for the fuzz targets. It adds nothing to it.

#[path = "../../src/data/mod.rs"]
pub mod data;
