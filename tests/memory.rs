//! What a coordinator tells its allocator; what that comes to, a soak tells.

use std::fs;

use fedpaint_tests::lab::Lab;

#[test]
fn a_coordinator_begins_itself_anew_as_the_same_process_with_small_caches_of_freed_memory() {
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
