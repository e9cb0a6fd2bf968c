//! What a coordinator tells its allocator, and how much memory it and a site's agent ever take; what that comes to
//! over hours, a soak tells.

use std::fs;

use fedpaint_tests::lab::Lab;
use fedpaint_tests::process::run;
use serde_json::Value;

/// How much memory a coordinator may take, and how much more for each site that is there at once.
const COORDINATOR_MIB: f64 = 64.0;
const SITE_MIB: f64 = 4.0;

/// How much memory an agent may take beside its trainer.
const AGENT_MIB: f64 = 64.0;

/// What may be in memory of a longer transfer and is not of a shorter one: little beside 96 MB.
const IN_FLIGHT_MIB: f64 = 16.0;

/// The most memory of a coordinator and of an agent in two rounds of so many sites, in MiB.
fn peaks_mib(sites: &str, parameters: &str) -> (f64, f64) {
    let args = ["--sites", sites, "--params", parameters, "--rounds", "2", "--json"];
    let text = run("bench-round", &args).unwrap();
    let report: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let mib = |of: &str| report[of].as_f64().unwrap() / f64::from(1 << 20);
    (mib("coordinator_peak_rss_bytes"), mib("agent_peak_rss_bytes"))
}

#[test]
fn neither_a_coordinator_nor_an_agent_takes_more_memory_for_a_larger_model() {
    // 4 MB and 100 MB.
    let (small, large) = (peaks_mib("2", "1000000"), peaks_mib("2", "25000000"));
    println!("coordinator and agent, MiB: of 4 MB {small:?}, of 100 MB {large:?}");
    for (coordinator, agent) in [small, large] {
        assert!(coordinator <= COORDINATOR_MIB + 2.0 * SITE_MIB, "{coordinator} MiB");
        assert!(agent <= AGENT_MIB, "{agent} MiB");
    }
    // What is in flight at once may differ.
    assert!(large.0 - small.0 <= IN_FLIGHT_MIB, "{small:?} {large:?}");
    assert!(large.1 - small.1 <= IN_FLIGHT_MIB, "{small:?} {large:?}");
}

#[test]
fn a_coordinator_takes_four_mebibytes_at_most_for_each_site_more() {
    let ((few, _), (many, agent)) = (peaks_mib("2", "1000000"), peaks_mib("16", "1000000"));
    println!("coordinator, MiB: of 2 sites {few}, of 16 {many}");
    assert!(many - few <= 14.0 * SITE_MIB && many <= COORDINATOR_MIB + 16.0 * SITE_MIB);
    assert!(agent <= AGENT_MIB, "{agent} MiB");
}

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
