//! What the whole-system tests and the demo stand on: real processes, real certificates, real sockets.
//!
//! - [`process`]: a program of this workspace, started, watched and surely ended.
//! - [`lab`]: a federation on loopback: a CA, a coordinator, agents, an operator.
//! - [`fake_site`]: a site of the test's own making, which can say what no honest agent would.
//! - [`models`]: small model files with known weights.

pub mod fake_site;
pub mod lab;
pub mod models;
pub mod process;
