//! A whole federation in one thread on virtual time: one coordinator, five sites, one run. No socket,
//! no disk, no clock.
//!
//! **What is real.** The coordinator's core with its runs and rounds
//! ([`fedpaint_coordinator::driver::core`]), the review of updates, who may move which blob, the
//! aggregate's order, the agent's decision ([`fedpaint_site_agent::agent::decide`]), its backoff, and
//! which refusals are worth another try. **What is a model.** The network ([`network`]), the
//! coordinator's disk ([`disk`]) and database ([`database`]), the shells around both decisions
//! ([`coordinator`], [`service`], [`site`]), and training: an update is a text that follows from run, round, site
//! and base model, and a global model is a text that names its base and every update in it, so that
//! one lost or counted twice can be read off it.
//!
//! A history is a seed and a list of operations ([`op::Op`]): time passes, links are cut, replies are
//! lost, programs are killed, disks fill, bits flip, operators decide. After the last one all faults
//! end, and the run must come to its end by itself. The same seed and list give the same history to
//! the byte.
//!
//! **What must hold** ([`ledger::Invariant`]):
//!
//! - *acknowledged*: an update whose receipt was given is in the sealed set of its round, unless the
//!   round was abandoned or the site was revoked; nobody is told to train again what was acknowledged,
//!   and whoever submits it again has the same answer.
//! - *counted once*: a model is made of exactly the updates its round's row names, late ones too, each
//!   (site, round) in one model only, in the order of the sites' names, all of them unharmed; what came
//!   late counts, or its row says why not.
//! - *one chain*: model n is made from model n-1, no number is left out, and the run's model is the
//!   newest. Every model can be made again from the rows.
//! - *heads*: round, attempt and committed rounds never go back, over any crash; nothing is shown that
//!   was not saved. The audit log has no gap, its tree is that over its entries, and what a site is told of it
//!   is what was saved.
//! - *time first*: nothing of a site happens in a phase whose deadline has come.
//! - *let in*: nothing of a site that is revoked is in a set that is sealed then.
//! - *named blobs*: a row never names a blob that is not on the disk, whole; not after a power loss
//!   either.
//! - *liveness*: when faults stop, the run is finished or paused with a reason within the bound that
//!   follows from its plan; and once an operator has let everybody in and resumed it, it finishes,
//!   unless a model it stands on was damaged.
//!
//! **What is no failure.** An abandoned round, a withdrawal, a refused call, a pause, work done twice
//! by a site, and a run that waits because too few sites are let in.

pub mod coordinator;
pub mod database;
pub mod dice;
pub mod disk;
pub mod history;
pub mod job;
pub mod ledger;
pub mod network;
pub mod op;
pub mod service;
pub mod shrink;
pub mod site;
pub mod world;
