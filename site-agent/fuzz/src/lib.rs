//! The agent's `data` folder, the seal of records and the kernels of its `cpu` folder as a crate that knows no
//! burn, for the fuzz targets and for their own tests under a sanitizer. It adds nothing to them.

#[path = "../../src/data/mod.rs"]
pub mod data;

/// Where a test breaks what `data` writes: nowhere here.
#[path = "../../../proto/src/failpoint.rs"]
pub mod failpoint;

/// What a split's manifest is sealed with.
#[path = "../../src/seal.rs"]
pub mod seal;

/// `src/cpu` without what makes operations of burn of it.
#[path = "../../src/cpu"]
pub mod cpu {
    pub mod attention;
    pub mod conv;
    pub mod kernel;
    pub mod kernels;
    pub mod linear;
    pub mod math;
    pub mod norm;
    pub mod optimiser;
    pub mod pieces;
    pub mod product;
    pub mod profile;
    mod scratch;
    #[cfg(test)]
    pub(crate) mod testing;
    mod tile;
}
