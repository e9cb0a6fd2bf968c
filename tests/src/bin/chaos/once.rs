//! Disks that are bad at places which a program passes once and not in every round: as it starts, as a
//! site is enrolled, as a plan is first seen. Each has a federation of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use fedpaint_proto::names::Digest;

use crate::disk::{Case, HELD, LOOK, STUCK, Tally, arm, reached};
use crate::federation::{Federation, Shape};
use crate::watch::Watch;

/// The place that is passed as a site is enrolled, and by nothing else.
const ENROLMENT: &str = "db.site";

/// Fails the disk at the case's place until it has been bad for long enough, and tells how long the
/// program took to pass it after that; none where it was not reached. What stopped meanwhile is tallied.
///
/// # Errors
/// If the run gets stuck or makes another model than `expected`.
pub(crate) async fn once(
    case: &Case,
    folder: &Path,
    shape: &Shape,
    expected: &[Digest],
    tally: &mut Tally,
) -> anyhow::Result<Option<Duration>> {
    let mut federation = Federation::found(folder, shape).await?;
    let mut watch = federation.watch().await?;
    reached(case.site, &mut federation)?;
    arm(case.site, &federation, &format!("{} {}", case.place, case.fault))?;
    if case.site.is_none() {
        federation.lab.coordinator()?.kill()?;
        // Here and not where it is looked at: only what stops by itself is tallied.
        federation.lab.launch_coordinator()?;
    }
    federation.start_agents()?;
    let held = bad(case, &mut federation, &watch, tally).await?;
    arm(case.site, &federation, "")?;
    let took = match held {
        true => Some(well(case, &mut federation, &watch, tally).await?),
        false => None,
    };
    // A program may have stopped between two looks.
    tally.look(case, federation.revive()?);
    federation.finish(&mut watch).await?;
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    anyhow::ensure!(findings == Default::default(), "{findings:?}");
    anyhow::ensure!(evidence.models() == expected, "another model");
    drop(watch);
    federation.stop()?;
    Ok(took)
}

/// Waits until the disk has been bad at the place for long enough; whether the place was reached.
async fn bad(
    case: &Case,
    federation: &mut Federation,
    watch: &Watch,
    tally: &mut Tally,
) -> anyhow::Result<bool> {
    let mut since = None;
    while since.is_none_or(|since: Instant| since.elapsed() < HELD) {
        tally.look(case, federation.revive()?);
        enrol(case, federation);
        if reached(case.site, federation)?.contains(&case.place) {
            since.get_or_insert_with(Instant::now);
        }
        if since.is_none() && watch.seen().is_finished() {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(true)
}

/// Waits until the place is passed, or a round is committed, on a disk that is well.
async fn well(
    case: &Case,
    federation: &mut Federation,
    watch: &Watch,
    tally: &mut Tally,
) -> anyhow::Result<Duration> {
    let (well, committed) = (Instant::now(), watch.seen().committed);
    reached(case.site, federation)?;
    loop {
        tally.look(case, federation.revive()?);
        enrol(case, federation);
        let passed = reached(case.site, federation)?.contains(&case.place);
        // What fails once need not hold the run up at all.
        if passed || watch.seen().committed > committed || watch.seen().is_finished() {
            return Ok(well.elapsed());
        }
        anyhow::ensure!(well.elapsed() < STUCK, "nothing goes on");
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks for one more site where that is what the case is about.
fn enrol(case: &Case, federation: &Federation) {
    if case.site.is_none() && case.place == ENROLMENT {
        // It fails while the disk is bad; whether it was tried is what the trace tells.
        let _ = federation.lab.fedctl(&["site", "enroll", "late"]);
    }
}

/// The case as its folder is called.
pub(crate) fn folder_name(case: &Case) -> String {
    let Case { site, place, fault } = case;
    let program = site.map_or("coordinator", |_| "site");
    format!("once-{program}-{place}-{fault}")
}
