//! How a coordinator keeps its memory; how much it is, a soak tells.

use std::fs;

use fedpaint_tests::lab::Lab;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_coordinator_serves_with_threads_that_keep_little_memory_for_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::start(folder.path()).unwrap();
    let id = lab.coordinator_id().unwrap();
    let of = |file: &str| fs::read(format!("/proc/{id}/{file}")).unwrap();
    let environment = of("environ");
    let told = b"GLIBC_TUNABLES=glibc.malloc.tcache_count=1";
    assert!(environment.split(|byte| *byte == 0).any(|variable| variable == told));
    // It is the process that was started, under the name that it was started by.
    assert_eq!(of("comm"), b"fedpaint-coordi\n");
}
