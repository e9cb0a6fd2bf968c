//! A file system that is really full: first the coordinator's, then a site's.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::federation::{Federation, Shape, undisturbed};
use crate::say;
use fedpaint_tests::outcome::{Outcome, rounded};

/// The size of the file system.
const SIZE_MIB: u64 = 48;

/// How long it stays full.
const HELD: Duration = Duration::from_secs(4);

/// How soon the work must go on once there is room again.
const RESUME_S_MAX: f64 = 10.0;

/// Rounds of the run.
const ROUNDS: u32 = 6;

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

    /// Takes all the room there is.
    fn fill(&self) -> anyhow::Result<()> {
        let mut ballast = fs::File::create(self.path.join("ballast"))?;
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

/// Fills a coordinator's and a site's file system for a while.
///
/// # Errors
/// If a run gets stuck. Where nothing can be mounted, the outcome says so.
pub(crate) async fn full_disk(
    work: &Path,
    shape: &Shape,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    if let Err(error) = Small::mount(&work.join("probe-mount")) {
        say(&format!("no small file system can be mounted here, so none is filled: {error:#}"));
        outcome.set("full_file_systems", 0);
        return Ok(());
    }
    let shape = Shape { rounds: ROUNDS, ..shape.clone() };
    let expected = undisturbed(&work.join("not-full"), &shape).await?.evidence.models();
    let mut slowest = 0.0_f64;
    let mut stopped_at = Vec::new();
    for (what, place) in [("coordinator", "coordinator"), ("site", "workspace-site-1")] {
        say(&format!("a full file system at the {what}"));
        let folder = work.join(format!("full-{what}"));
        let small = Small::mount(&folder.join(place))?;
        let mut federation = Federation::found(&folder, &shape).await?;
        federation.start_agents()?;
        let mut watch = federation.watch().await?;
        while watch.seen().committed < FULL_AFTER {
            watch.changed(LOOK).await;
        }
        small.fill()?;
        let full = Instant::now();
        let mut stopped = false;
        while full.elapsed() < HELD {
            stopped |= federation.revive()?;
            tokio::time::sleep(LOOK).await;
        }
        let before = watch.seen().committed;
        small.free()?;
        let free = Instant::now();
        while watch.seen().committed == before && !watch.seen().is_finished() {
            stopped |= federation.revive()?;
            anyhow::ensure!(free.elapsed() < STUCK, "nothing goes on at the {what}");
            tokio::time::sleep(LOOK).await;
        }
        slowest = slowest.max(free.elapsed().as_secs_f64());
        // A program may have stopped between two looks.
        stopped |= federation.revive()?;
        federation.finish(&mut watch).await?;
        let evidence = federation.evidence().await?;
        let findings = evidence.findings(&federation.delivered());
        outcome.require(findings == Default::default(), || format!("{what}: {findings:?}"));
        outcome.require(evidence.models() == expected, || format!("{what}: another model"));
        // In memory a sync never fails for want of room, so nothing may make a program stop.
        outcome.require(!stopped, || format!("{what}: a program stopped on a full disk"));
        if stopped {
            stopped_at.push(what);
        }
        outcome.require(before < ROUNDS, || format!("{what}: the run ended on a full disk"));
        drop(watch);
        federation.stop()?;
    }
    outcome.set("full_file_systems", 2);
    outcome.set("full_resume_max_s", rounded(slowest, 2));
    outcome.set("full_stopped_at", stopped_at);
    outcome.require(slowest <= RESUME_S_MAX, || format!("it took {slowest:.1} s to go on"));
    Ok(())
}
