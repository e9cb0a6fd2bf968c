//! `crash-points`: a crash at every single place that a round passes, one after the other.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use fedpaint_proto::names::Digest;
use fedpaint_tests::process::children;

use crate::federation::{Federation, Shape, undisturbed};
use crate::{Args, say};
use fedpaint_tests::outcome::{Outcome, rounded};

/// How many places in a row may be beyond the end of a round until there are no more.
const BEYOND_MAX: u32 = 2;

/// How long a round with one crash may take.
const ROUND_MAX: Duration = Duration::from_secs(60);

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// How long an agent without a trainer lives on until it is sure that only the trainer died.
const AGENT_GRACE: Duration = Duration::from_millis(80);

/// Which program dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Coordinator,
    /// The agent or its trainer: they obey the same rules, each counts for itself.
    Agent,
}

/// Runs the mode.
///
/// # Errors
/// If a program does not start.
pub(crate) async fn crash_points(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let shape = Shape {
        sites: args.sites.unwrap_or(1),
        rounds: args.rounds.unwrap_or(1),
        steps: 4,
        steps_ms: 0,
        checkpoint_steps: 2,
        parameters: 1 << 10,
        round: None,
        more: String::new(),
    };
    let calm = undisturbed(&work.join("undisturbed"), &shape).await?;
    let expected = calm.evidence.models();
    let (passed, site) = (calm.coordinator.len(), calm.sites.first().map_or(0, Vec::len));
    say(&format!("a round passes {passed} places of the coordinator and {site} of the agent"));
    let mut outcome = Outcome::default();
    let start = Instant::now();
    let (mut points, mut recovered) = (0, 0);
    let mut all = Vec::new();
    all.extend(parts(&calm.coordinator).into_iter().map(|part| (Program::Coordinator, part)));
    all.extend(parts(&calm.sites[0]).into_iter().map(|part| (Program::Agent, part)));
    for (program, part) in &all {
        let (mut beyond, mut n) = (0, 0);
        while beyond < BEYOND_MAX && args.count.is_none_or(|count| n < count) {
            n += 1;
            let folder = work.join(format!("{part}-{n}"));
            match crash(&folder, &shape, *program, part, n, &expected).await {
                Ok(None) => beyond += 1,
                Ok(Some(place)) => {
                    (beyond, points, recovered) = (0, points + 1, recovered + 1);
                    say(&format!("{part} {n}: recovered from a crash at {place}"));
                }
                Err(error) => {
                    (beyond, points) = (0, points + 1);
                    say(&format!("{part} {n}: {error:#}"));
                    outcome.broken.push(format!("{part} {n}: {error:#}"));
                    continue;
                }
            }
            std::fs::remove_dir_all(&folder)?;
        }
    }
    outcome.set("points", points);
    outcome.set("recovered", recovered);
    outcome.set("passed_coordinator", passed);
    outcome.set("passed_agent", site);
    outcome.set("wall_s", rounded(start.elapsed().as_secs_f64(), 1));
    outcome.require(points > 0, || "no place was reached".into());
    Ok(outcome)
}

/// The parts of a program whose places were passed, such as `blob` of `blob.rename`.
fn parts(passed: &[String]) -> BTreeSet<String> {
    passed.iter().filter_map(|place| Some(place.split_once('.')?.0.to_owned())).collect()
}

/// Whether the trainer of an agent that lives on is gone.
#[derive(Default)]
struct Trainer {
    id: Option<u32>,
    gone: Option<Instant>,
}

impl Trainer {
    fn look(&mut self, now: Option<u32>) {
        if now.is_some() {
            self.id = self.id.or(now);
        }
        let missing = self.id.is_some() && now != self.id;
        self.gone = self.gone.or(missing.then(Instant::now));
    }

    fn is_gone(&self) -> bool {
        self.gone.is_some_and(|since| since.elapsed() > AGENT_GRACE)
    }
}

/// The last place of a part among those reached: where the program died.
fn last(part: &str, reached: Vec<String>) -> Option<String> {
    reached.into_iter().rfind(|place| place.split_once('.').is_some_and(|(p, _)| p == part))
}

/// One run in which the program dies at the `n`-th place of a part that it passes; which place that was,
/// or none if it passes fewer.
async fn crash(
    folder: &Path,
    shape: &Shape,
    program: Program,
    part: &str,
    n: u32,
    expected: &[Digest],
) -> anyhow::Result<Option<String>> {
    let mut federation = Federation::found(folder, shape).await?;
    let rule = &format!("{part}.* kill@{n}");
    // From the coordinator's start on, as for the agent: what it passes when it comes up counts.
    federation.lab.coordinator()?.stop()?;
    match program {
        Program::Coordinator => federation.points.arm(rule)?,
        Program::Agent => federation.sites[0].points.arm(rule)?,
    }
    let _ = federation.points.reached()?;
    federation.lab.launch_coordinator()?;
    federation.start_agents()?;
    let mut crashed = None;
    let mut trainer = Trainer::default();
    let mut watch = None;
    let start = Instant::now();
    loop {
        if let Some(status) = federation.lab.coordinator()?.ended()? {
            anyhow::ensure!(program == Program::Coordinator, "the coordinator ended: {status}");
            anyhow::ensure!(crashed.is_none(), "the coordinator ended again: {status}");
            crashed = last(part, federation.points.reached()?);
            federation.points.disarm()?;
            federation.lab.launch_coordinator()?;
        }
        for site in 0..federation.sites.len() {
            let Some(agent) = federation.sites[site].agent.as_mut() else { continue };
            let Some(status) = agent.ended()? else { continue };
            let ours = program == Program::Agent && site == 0 && crashed.is_none();
            anyhow::ensure!(ours, "an agent ended by itself: {status}");
            crashed = last(part, federation.sites[site].points.reached()?);
            federation.sites[site].points.disarm()?;
            federation.start_agent(site)?;
            trainer = Trainer::default();
        }
        if program == Program::Agent && crashed.is_none() {
            let agent = federation.sites[0].agent.as_ref().context("an agent")?;
            trainer.look(children(agent.id()).first().copied());
            if trainer.is_gone() {
                crashed = last(part, federation.sites[0].points.reached()?);
                federation.sites[0].points.disarm()?;
            }
        }
        if watch.is_none() && federation.lab.coordinator_serves().unwrap_or(false) {
            watch = federation.watch().await.ok();
        }
        if watch.as_ref().is_some_and(|watch| watch.seen().is_finished()) {
            break;
        }
        anyhow::ensure!(start.elapsed() < ROUND_MAX, "the run does not end after {crashed:?}");
        tokio::time::sleep(LOOK).await;
    }
    drop(watch);
    // What is left of the rule would end the programs while they say goodbye.
    federation.points.disarm()?;
    federation.sites.iter().try_for_each(|site| site.points.disarm())?;
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    anyhow::ensure!(findings == Default::default(), "after {crashed:?}: {findings:?}");
    anyhow::ensure!(evidence.models() == expected, "another model after {crashed:?}");
    federation.stop()?;
    Ok(crashed)
}
