//! fedpaint's site agent, the half of the system that lives inside a hospital.
//!
//! One binary runs as two processes. The *agent* ([`agent`], [`supervisor`], [`workspace`]) holds the
//! keys and the network and never opens a scan. The *trainer* ([`trainer`], [`train`], [`data`],
//! [`model`]) holds the scans and the device and has no key and no socket. They share a folder of
//! files named by digest and a framed pipe ([`pipe`]).
//!
//! The map, from the scan to the update: `data/nifti` → `data/layout` → `data/slices` + `data/mask`
//! → `train` (`model/unet`, `model/diffusion`) → `model/weights` → `workspace` ⇒ `agent`.

pub mod data;
pub mod phantom;
