//! What fedpaint's coordinator, sites and operators agree on, and nothing that only one of them needs.
//!
//! - [`v1`]: the messages and services, generated at build time from `proto/fedpaint/v1`.
//! - [`names`], [`plan`], [`reason`], [`identity`]: what is parsed once at the door and trusted inside.
//! - [`limits`]: every bound both sides keep to, by name.
//! - [`enrolment`]: what a site that has no certificate yet agrees on with the coordinator;
//!   [`credential`]: a certificate and its key on the disk, replaced together; [`passphrase`]: what the key
//!   may be encrypted with; [`renewal`]: the next certificate, with a fresh key.
//! - [`tls`], [`channel`]: TLS 1.3 with a certificate on both ends, and the gRPC channel over it;
//!   [`farewell`]: why a connection was closed; [`ahead`]: more of it read at once than is asked for;
//!   [`congestion`]: how fast it sends; [`framing`]: where messages begin and end.
//! - [`weights`]: a model as named tensors in a safetensors file; no crate here knows burn.
//! - [`transfer`]: uploads and downloads that resume; [`given_up`]: when a call comes too late to be done;
//!   [`heap`]: what is kept of memory meanwhile.
//! - [`signing`]: Ed25519 signatures by keys that the federation's root has certified.
//! - [`statement`]: what is signed: updates, receipts, manifests of models; [`submission`]: an update as it is
//!   submitted.
//! - [`merkle`], [`log`]: the audit log as a tree whose heads are signed, and proofs over it.
//! - [`wire`]: the protocol's version, and which versions can be served.
//! - [`text`]: text from outside, made fit to be kept and shown.
//! - [`failpoint`]: where a test may end a program or have its disk fail; [`disk`]: which of its trouble may
//!   pass.
//! - [`rule`]: the rules of a site's own policy, by name.
//! - [`note`]: which run and round made an exported model.
//!
//! No type in this crate can hold a voxel, a path of a scan, or a patient.

pub mod ahead;
pub mod at_once;
pub mod budget;
pub mod channel;
pub mod congestion;
pub mod credential;
pub mod disk;
pub mod enrolment;
pub mod failpoint;
pub mod farewell;
pub mod framing;
pub mod given_up;
pub mod hashed;
pub mod heap;
pub mod identity;
pub mod limits;
pub mod log;
pub mod merkle;
pub mod names;
pub mod note;
pub mod passphrase;
pub mod plan;
pub mod proxy;
pub mod put_off;
pub mod reason;
pub mod renewal;
pub mod rule;
pub mod signing;
pub mod statement;
pub mod submission;
pub mod text;
pub mod tls;
pub mod transfer;
pub mod weights;
pub mod wire;
pub mod writeback;

/// The wire: `package fedpaint.v1`.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    reason = "generated; documented in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("fedpaint.v1");

    /// The path of every method of every service.
    pub const METHODS: &[&str] = &include!(concat!(env!("OUT_DIR"), "/methods.rs"));
}
