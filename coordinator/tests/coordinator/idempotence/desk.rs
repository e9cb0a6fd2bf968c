//! `fedctl` looks before it asks for a change, and says what it saw: a command that is given twice is done once.

use std::sync::Arc;

use fedpaint_coordinator::clock::SystemClock;
use fedpaint_coordinator::limits::Limits;
use serde_json::Value;

use super::told;
use crate::fedctl::{Desk, OPERATOR, write_run};
use crate::federation::Federation;
use crate::pki::Leaf;

/// Gives a command twice; what it prints, which is the same.
async fn twice(desk: &Desk<'_>, line: &str) -> Value {
    let first = desk.json(line).await;
    assert_eq!(desk.json(line).await, first, "{line}");
    first
}

#[tokio::test]
async fn a_command_that_changes_something_is_done_once_however_often_it_is_given() {
    let limits = Limits::default();
    let federation = Federation::start_within(limits, Arc::new(SystemClock)).await;
    let desk = Desk::new(&federation, &federation.authority, &Leaf::client(OPERATOR));
    write_run(federation.folder.path());
    twice(&desk, "site enroll mayo").await;
    twice(&desk, "site revoke mayo").await;
    assert_eq!(twice(&desk, "site enroll mayo").await["state"], "enrolled");
    twice(&desk, "run create t1 --plan run.toml --model initial.safetensors").await;
    twice(&desk, "run pause t1").await;
    assert_eq!(twice(&desk, "run resume t1").await["state"], "active");
    assert_eq!(twice(&desk, "run pause t1").await["state"], "paused");
    twice(&desk, "run readmit t1 mayo").await;
    twice(&desk, "run stop t1").await;
    // Each invitation has a token of its own, and takes the place of the one before.
    for _ in 0..2 {
        desk.json("site invite kyoto").await;
    }
    twice(&desk, "site reject kyoto").await;
    twice(&desk, "operator set ada admin").await;
    twice(&desk, "operator set bob viewer").await;
    twice(&desk, "operator set bob runner").await;
    let mut ada = federation.operator().await;
    for (kind, times) in [
        ("site_enrolled", 2),
        ("site_revoked", 1),
        ("run_created", 1),
        ("run_paused", 2),
        ("run_resumed", 1),
        ("site_readmitted", 1),
        ("run_stopped", 1),
        ("site_invited", 2),
        ("invitation_ended", 1),
        ("operator_set", 3),
    ] {
        assert_eq!(told(&mut ada, kind).await, times, "{kind}");
    }
    federation.stop().await;
}
