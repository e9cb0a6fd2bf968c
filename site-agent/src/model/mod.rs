//! The inpainting model: its description, its network, its weights, its diffusion, its sampler.
//!
//! Arrows point down: `sampler` → `unet` → `layers` → `ops` → `precision`; `sampler` → `diffusion` →
//! `batch`; `loss` → `diffusion`; `state_dict` → `checkpoint`; `checkpoint`, `layers` → `weights` →
//! `blueprint` → `spec`; `flops`, `memory` → `blueprint`; `ops`, `memory` → `precision`; `device` and
//! `noise` stand alone.
//! Nothing here opens a scan, knows a site, or decides when to train.

pub mod batch;
pub mod blueprint;
pub mod checkpoint;
pub mod device;
pub mod diffusion;
pub mod flops;
pub mod layers;
pub mod loss;
pub mod memory;
pub mod noise;
pub mod ops;
pub mod precision;
pub mod sampler;
pub mod spec;
pub mod state_dict;
pub mod unet;
pub mod weights;
