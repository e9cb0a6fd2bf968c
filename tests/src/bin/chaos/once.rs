//! Disks that are bad at places which a program passes once and not in every round: as it starts, as a
//! site is enrolled, as a plan is first seen, as certificates are renewed. Each has a federation of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use fedpaint_proto::names::Digest;

use crate::bad_disk::{arm, reached};
use crate::disk::{Case, HELD, LOOK, STUCK};
use crate::federation::{Federation, Shape};
use crate::scenario::Moment;
use crate::tally::Tally;
use crate::watch::Watch;

/// Fails the disk at the case's place until it has been bad for long enough, and tallies how long the
/// program took to pass it after that, or that it was not reached, and what stopped meanwhile.
///
/// # Errors
/// If the run gets stuck or makes other models than `expected`.
pub(crate) async fn once(
    case: &Case,
    folder: &Path,
    shape: &Shape,
    expected: &[Digest],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let mut federation = Federation::prepare(folder, shape)?;
    let took = match case.moment {
        Moment::FirstStart => {
            let took = first_start(case, &mut federation, tally).await?;
            federation.open().await?;
            federation.start_agents()?;
            took
        }
        Moment::Enrolment | Moment::Start | Moment::Round => {
            federation.lab.start_coordinator()?;
            federation.open().await?;
            later(case, &mut federation, tally).await?
        }
    };
    match took {
        Some(took) => tally.went_on(case, took),
        None => tally.missed(case),
    }
    let mut watch = federation.watch().await?;
    federation.finish(&mut watch).await?;
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    anyhow::ensure!(findings == Default::default(), "{findings:?}");
    anyhow::ensure!(evidence.models() == expected, "another model");
    drop(watch);
    federation.stop()
}

/// A coordinator's first start on a bad disk: how long it took to serve once the disk was well; none where it did
/// before it came to the place.
async fn first_start(
    case: &Case,
    federation: &mut Federation,
    tally: &mut Tally,
) -> anyhow::Result<Option<Duration>> {
    arm(case.site, federation, &format!("{} {}", case.place, case.fault))?;
    federation.lab.launch_coordinator()?;
    let mut since = None;
    while since.is_none_or(|since: Instant| since.elapsed() < HELD) {
        tally.look(case, federation.revive()?);
        if reached(case.site, federation)?.contains(&case.place) {
            since.get_or_insert_with(Instant::now);
        }
        if federation.lab.coordinator_serves()? {
            arm(case.site, federation, "")?;
            // It may do without what has failed.
            return Ok(since.map(|_| Duration::ZERO));
        }
        tokio::time::sleep(LOOK).await;
    }
    arm(case.site, federation, "")?;
    let well = Instant::now();
    while !federation.lab.coordinator_serves()? {
        tally.look(case, federation.revive()?);
        anyhow::ensure!(well.elapsed() < STUCK, "the coordinator does not come up");
        tokio::time::sleep(LOOK).await;
    }
    Ok(Some(well.elapsed()))
}

/// A later start of everybody on a bad disk: how long the program took to pass the place once the disk was well;
/// none where it never came to it.
async fn later(
    case: &Case,
    federation: &mut Federation,
    tally: &mut Tally,
) -> anyhow::Result<Option<Duration>> {
    let watch = federation.watch().await?;
    reached(case.site, federation)?;
    arm(case.site, federation, &format!("{} {}", case.place, case.fault))?;
    if case.site.is_none() {
        federation.lab.coordinator()?.kill()?;
        // Here and not where it is looked at: only what stops by itself is tallied.
        federation.lab.launch_coordinator()?;
    }
    federation.start_agents()?;
    let held = bad(case, federation, &watch, tally).await?;
    arm(case.site, federation, "")?;
    let took = match held {
        true => Some(well(case, federation, &watch, tally).await?),
        false => None,
    };
    // A program may have stopped between two looks.
    tally.look(case, federation.revive()?);
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
    if case.moment == Moment::Enrolment {
        // It fails while the disk is bad; whether it was tried is what the trace tells.
        let _ = federation.lab.fedctl(&["site", "enroll", "late"]);
    }
}
