//! A file system that is really full, the coordinator's and a site's, for longer than anybody's patience is short:
//! waits that grow while it is full must not keep the work from going on once there is room.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use fedpaint_proto::names::Digest;

use crate::federation::{Federation, Shape, undisturbed};
use crate::lanes::{LANES, side_by_side};
use crate::say;
use crate::tally::RESUME_S_MAX;
use fedpaint_tests::outcome::{Outcome, rounded};

/// The size of the file system.
const SIZE_MIB: u64 = 48;

/// How often what was given back meanwhile is taken again.
const FILL_EVERY: Duration = Duration::from_millis(500);

/// Rounds of the run unless somebody says otherwise.
pub(crate) const ROUNDS: u32 = 6;

/// The fewest: one that cannot end while there is no room, behind those that are committed before.
const ROUNDS_MIN: u32 = FULL_AFTER + 2;

/// The committed rounds after which there is no room.
const FULL_AFTER: u32 = 2;

const STUCK: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// A file system in memory, until it is dropped.
struct Small {
    path: PathBuf,
}

impl Small {
    fn mount(path: &Path) -> anyhow::Result<Small> {
        fs::create_dir_all(path)?;
        let size = format!("size={SIZE_MIB}m");
        let target = path.display().to_string();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &size, "fedpaint-chaos", &target]);
        let output = command.output().context("there is no `mount`")?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        anyhow::ensure!(output.status.success(), "{said}");
        Ok(Small { path: path.to_owned() })
    }

    /// Takes all the room there is, also again.
    fn fill(&self) -> anyhow::Result<()> {
        let mut ballast =
            fs::File::options().create(true).append(true).open(self.path.join("ballast"))?;
        let piece = vec![0; 64 << 10];
        // It is full when it says so; the last pieces are smaller, so that nothing is left.
        for size in [piece.len(), 4096, 512] {
            while ballast.write_all(&piece[..size]).is_ok() {}
        }
        Ok(())
    }

    fn free(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.path.join("ballast"))?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A leftover is seen in `mount`; nothing more can be done here.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

/// Unmounts what is left mounted below `work` where a mode has ended before its time.
pub(crate) fn unmount(work: &Path) {
    for line in fs::read_to_string("/proc/mounts").unwrap_or_default().lines() {
        let mounted = line.split_whitespace().nth(1).map(PathBuf::from);
        drop(mounted.filter(|path| path.starts_with(work)).map(|path| Small { path }));
    }
}

/// Whose file system is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Coordinator,
    Site,
}

impl Whose {
    fn name(self) -> &'static str {
        match self {
            Whose::Coordinator => "coordinator",
            Whose::Site => "site",
        }
    }

    /// The folder that is one.
    fn folder(self) -> &'static str {
        match self {
            Whose::Coordinator => "coordinator",
            Whose::Site => "workspace-site-1",
        }
    }
}

/// What came of a run on a disk that may have been full.
#[derive(Debug)]
struct Filled {
    resume_s: f64,
    stopped: bool,
    /// What was wrong, in words.
    broken: Vec<String>,
    models: Vec<Digest>,
}

/// Fills a coordinator's and a site's file system for as long as `hold`, both at once. Where nothing can be mounted,
/// the outcome says so.
///
/// # Errors
/// If a run gets stuck.
pub(crate) async fn full_disk(
    work: &Path,
    hold: Duration,
    shape: &Shape,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    outcome.set("full_file_systems", 0);
    if hold.is_zero() {
        return Ok(outcome);
    }
    if let Err(error) = Small::mount(&work.join("probe-mount")) {
        say(&format!("no small file system can be mounted here, so none is filled: {error:#}"));
        return Ok(outcome);
    }
    say(&format!("full file systems for {} s, at a coordinator and at a site", hold.as_secs()));
    let rounds = shape.rounds.max(ROUNDS_MIN);
    let (work, shape) = (work.to_owned(), Shape { rounds, ..shape.clone() });
    let one = async move |whose: Option<Whose>| match whose {
        None => calm(&work.join("not-full"), &shape).await,
        Some(whose) => {
            let folder = work.join(format!("full-{}", whose.name()));
            filled(whose, &folder, hold, &shape).await.context(whose.name())
        }
    };
    let whose = [Whose::Coordinator, Whose::Site];
    let runs = [None].into_iter().chain(whose.map(Some)).collect();
    let mut results = Vec::new();
    side_by_side(runs, LANES, one, |result| results.push(result)).await?;
    let results: Vec<Filled> = results.into_iter().collect::<anyhow::Result<_>>()?;
    let mut results = results.into_iter();
    let expected = results.next().context("a run that nobody disturbs")?.models;
    let (mut slowest, mut stopped_at) = (0.0_f64, Vec::new());
    for (whose, Filled { resume_s, stopped, broken, models }) in whose.into_iter().zip(results) {
        let what = whose.name();
        slowest = slowest.max(resume_s);
        outcome.broken.extend(broken.into_iter().map(|broken| format!("{what}: {broken}")));
        outcome.require(models == expected, || format!("{what}: another model"));
        // In memory a sync never fails for want of room, so nothing may make a program stop.
        outcome.require(!stopped, || format!("{what}: a program stopped on a full disk"));
        if stopped {
            stopped_at.push(what);
        }
    }
    outcome.set("full_file_systems", whose.len());
    outcome.set("full_held_s", hold.as_secs());
    outcome.set("full_resume_max_s", rounded(slowest, 2));
    outcome.set("full_stopped_at", stopped_at);
    outcome.require(slowest <= RESUME_S_MAX, || format!("it took {slowest:.1} s to go on"));
    Ok(outcome)
}

/// A run on a disk with room.
async fn calm(folder: &Path, shape: &Shape) -> anyhow::Result<Filled> {
    let models = undisturbed(folder, shape).await?.evidence.models();
    Ok(Filled { resume_s: 0.0, stopped: false, broken: Vec::new(), models })
}

/// Fills one for a while, and waits for the end of the run.
async fn filled(
    whose: Whose,
    folder: &Path,
    hold: Duration,
    shape: &Shape,
) -> anyhow::Result<Filled> {
    let small = Small::mount(&folder.join(whose.folder()))?;
    let mut federation = Federation::found(folder, shape).await?;
    federation.start_agents()?;
    let mut watch = federation.watch().await?;
    let begun = Instant::now();
    while watch.seen().committed < FULL_AFTER {
        anyhow::ensure!(begun.elapsed() < STUCK, "nothing begins");
        watch.changed(LOOK).await;
    }
    let (full, mut stopped, mut filled_at) = (Instant::now(), false, None);
    while full.elapsed() < hold {
        if filled_at.is_none_or(|at: Instant| at.elapsed() >= FILL_EVERY) {
            small.fill()?;
            filled_at = Some(Instant::now());
        }
        stopped |= federation.revive()?;
        tokio::time::sleep(LOOK).await;
    }
    let before = watch.seen().committed;
    small.free()?;
    let free = Instant::now();
    while watch.seen().committed == before && !watch.seen().is_finished() {
        stopped |= federation.revive()?;
        anyhow::ensure!(free.elapsed() < STUCK, "nothing goes on");
        tokio::time::sleep(LOOK).await;
    }
    let resume_s = free.elapsed().as_secs_f64();
    // A program may have stopped between two looks.
    stopped |= federation.revive()?;
    federation.finish(&mut watch).await?;
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    let mut broken = Vec::new();
    if findings != Default::default() {
        broken.push(format!("{findings:?}"));
    }
    if before >= shape.rounds {
        broken.push("the run ended on a full disk".to_owned());
    }
    drop(watch);
    federation.stop()?;
    Ok(Filled { resume_s, stopped, broken, models: evidence.models() })
}
