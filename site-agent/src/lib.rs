//! fedpaint's site agent, the half of the system that lives inside a hospital.
//!
//! One binary runs as two processes. The *agent* ([`agent`], [`client`], [`supervisor`], [`config`],
//! [`gate`], [`policy`], [`plans`], [`doctor`]) holds the keys and the network and never opens a scan. The *trainer* ([`trainer`],
//! [`local_round`], [`train`], [`data`], [`model`]) holds the scans and the device and has no key and
//! no socket. They share a folder of files named by digest ([`workspace`]) and a framed pipe
//! ([`pipe`], [`settings`]).
//!
//! The map, from the scan to the update: `data/nifti` → `data/layout` → `data/slices` + `data/mask`
//! → `train` (`model/unet`, `model/diffusion`) → `model/weights` → `workspace` ⇒ `agent`.

pub mod agent;
pub mod backoff;
pub mod baselines;
pub mod checkpoints;
pub mod client;
pub mod cohort;
pub mod commands;
pub mod config;
pub mod cpu;
pub mod data;
pub mod disk;
pub mod doctor;
pub mod evaluate;
pub mod gate;
pub mod join;
pub mod keys;
pub mod lineage;
pub mod local_round;
pub mod metrics;
pub mod model;
pub mod panel;
pub mod phantom;
pub mod pipe;
pub mod plans;
pub mod policy;
pub mod receipt;
pub mod rehearsal;
pub mod renewal;
pub mod seal;
pub mod settings;
pub mod supervisor;
pub mod train;
pub mod trainer;
pub mod witness;
pub mod workspace;

// `data` finds it here: the fuzz targets compile it without the crate `proto`.
use fedpaint_proto::failpoint;
