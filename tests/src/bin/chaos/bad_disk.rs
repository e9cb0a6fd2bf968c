//! Disks that are bad at places which a program passes in every round: one after the other in one federation, whose
//! rounds go on.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use fedpaint_proto::names::Digest;

use crate::disk::{Case, HELD, LOOK, STUCK};
use crate::federation::{Federation, Shape};
use crate::tally::Tally;
use crate::watch::Watch;

/// How long a place may take to be reached; then it is one that is passed once. The lease is renewed more
/// often than that.
const PLACE_MAX: Duration = Duration::from_secs(7);

/// More rounds than a case can take, so that the run does not end before the cases.
const ROUNDS_PER_CASE: u32 = 50;

/// What came of some cases.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) tally: Tally,
    /// Those whose places were not reached here.
    pub(crate) elsewhere: Vec<Case>,
    /// How many rounds there were.
    pub(crate) rounds: u32,
    /// Their models.
    pub(crate) models: Vec<Digest>,
    /// What was wrong, in words.
    pub(crate) broken: Vec<String>,
}

/// Has the disk be bad as each case says, one after the other.
///
/// # Errors
/// If a program does not start, or the run gets stuck.
pub(crate) async fn stretch(
    folder: &Path,
    shape: &Shape,
    cases: Vec<Case>,
) -> anyhow::Result<Stretch> {
    let rounds = ROUNDS_PER_CASE * (cases.len() as u32 + 1);
    let shape = Shape { rounds, leftovers: None, ..shape.clone() };
    let mut federation = Federation::found(folder, &shape).await?;
    federation.start_agents()?;
    let mut watch = federation.watch().await?;
    let mut stretch = Stretch::default();
    for case in cases {
        let before = watch.seen().committed;
        let again = one(&case, &mut federation, &mut watch, &mut stretch.tally).await;
        if !again.with_context(|| format!("{case} after round {before}"))? {
            stretch.elsewhere.push(case);
        }
    }
    stretch.rounds = watch.seen().committed;
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    drop(watch);
    federation.stop()?;
    if findings != Default::default() {
        stretch.broken.push(format!("{findings:?}"));
    }
    stretch.models = evidence.models();
    stretch.models.truncate(stretch.rounds as usize);
    Ok(stretch)
}

/// Has the disk be bad at one place for a while, and waits until the run goes on. Whether the place was
/// reached at all.
async fn one(
    case: &Case,
    federation: &mut Federation,
    watch: &mut Watch,
    tally: &mut Tally,
) -> anyhow::Result<bool> {
    let Case { site, place, fault, .. } = case;
    reached(*site, federation)?;
    arm(*site, federation, &format!("{place} {fault}"))?;
    let begin = Instant::now();
    while !reached(*site, federation)?.contains(place) {
        if begin.elapsed() > PLACE_MAX {
            arm(*site, federation, "")?;
            return Ok(false);
        }
        tally.look(case, federation.revive()?);
        tokio::time::sleep(LOOK).await;
    }
    let held = Instant::now();
    while held.elapsed() < HELD {
        tally.look(case, federation.revive()?);
        tokio::time::sleep(LOOK).await;
    }
    arm(*site, federation, "")?;
    let (well, committed) = (Instant::now(), watch.seen().committed);
    reached(*site, federation)?;
    // Passing the same place again, or a round being committed, shows that the work goes on.
    loop {
        tally.look(case, federation.revive()?);
        let seen = watch.seen();
        if reached(*site, federation)?.contains(place) || seen.committed > committed {
            break;
        }
        anyhow::ensure!(well.elapsed() < STUCK, "nothing goes on");
        tokio::time::sleep(LOOK).await;
    }
    tally.went_on(case, well.elapsed());
    // That it is passed does not say that what follows it goes well: the round in hand is to be committed, before
    // the next disk turns bad.
    while watch.seen().committed <= committed {
        tally.look(case, federation.revive()?);
        anyhow::ensure!(well.elapsed() < STUCK, "no round is committed");
        tokio::time::sleep(LOOK).await;
    }
    tally.committed(case, well.elapsed());
    Ok(true)
}

/// The places that the program has reached since this was last asked.
pub(crate) fn reached(
    site: Option<usize>,
    federation: &mut Federation,
) -> anyhow::Result<Vec<String>> {
    match site {
        None => federation.points.reached(),
        Some(site) => federation.sites[site].points.reached(),
    }
}

/// Has the program obey the rule from the next place on.
pub(crate) fn arm(site: Option<usize>, federation: &Federation, rule: &str) -> anyhow::Result<()> {
    match site {
        None => federation.points.arm(rule),
        Some(site) => federation.sites[site].points.arm(rule),
    }
}
