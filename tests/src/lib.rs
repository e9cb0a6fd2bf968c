//! What the whole-system tests and the demo stand on: real processes, real certificates, real sockets.
//!
//! - [`process`]: a program of this workspace, started, watched and surely ended.
//! - [`built`]: the programs of this workspace, built before they are started.
//! - [`lab`]: a federation on loopback: a CA, a coordinator, agents, an operator.
//! - [`fake_site`]: a site of the test's own making, which can say what no honest agent would.
//! - [`proxy`]: a TCP proxy that breaks connections on purpose.
//! - [`tap`]: a tap that keeps what goes between a site and the coordinator, opened.
//! - [`canary`]: a secret, and every form in which it is looked for.
//! - [`syscalls`]: what a program did with the network, from strace.
//! - [`syncs`]: what a program brought to the disk and in which order, from strace.
//! - [`failpoints`]: the rules that end a program, or fail its disk, at a named place.
//! - [`places`]: the lists of all named places, and where each is tried.
//! - [`evidence`]: what the rows and the audit log say of a run, checked.
//! - [`outcome`]: figures by name, and what must not be.
//! - [`hostile`]: what must hold of any bytes, as the fuzz targets and a test have it.
//! - [`models`]: small model files with known weights.
//! - [`sim`]: a whole federation in one thread on virtual time.

pub mod built;
pub mod canary;
pub mod evidence;
pub mod failpoints;
pub mod fake_site;
pub mod hostile;
pub mod lab;
pub mod models;
pub mod outcome;
pub mod places;
pub mod process;
pub mod proxy;
pub mod sim;
pub mod syncs;
pub mod syscalls;
pub mod tap;
