//! What a federation passes that nobody disturbs: at its coordinator's first start, as it is founded, and from a
//! later start of the coordinator on until its run ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use fedpaint_proto::names::Digest;
use fedpaint_tests::failpoints::Pass;
use fedpaint_tests::places;

use crate::crash::Program;
use crate::federation::{Federation, Shape};
use crate::lanes::side_by_side;
use crate::scenario::{Scenario, lanes};

/// How long the first round may take beyond its training.
const FIRST_ROUND_MAX: Duration = Duration::from_secs(60);

const LOOK: Duration = Duration::from_millis(20);

/// The places of one program, in their order.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// All of them.
    pub(crate) all: Vec<Pass>,
    /// The names of those that are passed behind the first round.
    pub(crate) again: BTreeSet<String>,
}

impl Passed {
    /// How often one process of a program passes a place, at most: as a rule counts.
    pub(crate) fn times(&self, program: Program, place: &str) -> u32 {
        let mut times: BTreeMap<u32, u32> = BTreeMap::new();
        for pass in self.of(program).filter(|pass| pass.place == place) {
            *times.entry(pass.process).or_default() += 1;
        }
        times.into_values().max().unwrap_or(0)
    }

    /// The names of the places that a program passes.
    pub(crate) fn names_of(&self, program: Program) -> BTreeSet<String> {
        self.of(program).map(|pass| pass.place.clone()).collect()
    }

    /// The names of all places.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.all.iter().map(|pass| pass.place.clone()).collect()
    }

    fn of(&self, program: Program) -> impl Iterator<Item = &Pass> {
        self.all.iter().filter(move |pass| pass.verb == program.verb())
    }
}

/// How often a place is among those that were passed.
pub(crate) fn times(passed: &[String], place: &str) -> u32 {
    passed.iter().filter(|passed| *passed == place).count() as u32
}

/// A federation that nobody disturbed.
#[derive(Debug)]
pub(crate) struct Probe {
    /// What the coordinator passes at its first start.
    pub(crate) first: Vec<String>,
    /// What it passes as its sites are enrolled and the run is created.
    pub(crate) founding: Vec<String>,
    /// What it passes from a later start on.
    pub(crate) coordinator: Passed,
    /// What the first site's agent passes, and its trainer.
    pub(crate) site: Passed,
    /// The models of its rounds.
    pub(crate) models: Vec<Digest>,
}

impl Probe {
    /// Runs a federation of this shape to its end.
    ///
    /// # Errors
    /// If even that fails.
    pub(crate) async fn of(folder: &Path, shape: &Shape) -> anyhow::Result<Probe> {
        let mut federation = Federation::prepare(folder, shape)?;
        federation.lab.start_coordinator()?;
        let first = federation.points.reached()?;
        federation.open().await?;
        let founding = federation.points.reached()?;
        let mut watch = federation.watch().await?;
        federation.lab.coordinator()?.kill()?;
        federation.points.reached()?;
        federation.lab.launch_coordinator()?;
        federation.start_agents()?;
        let (start, max) = (Instant::now(), FIRST_ROUND_MAX + shape.time());
        while watch.seen().committed == 0 {
            anyhow::ensure!(start.elapsed() < max, "no round is committed");
            watch.changed(LOOK).await;
        }
        let (coordinator, site) = passed(&mut federation)?;
        federation.finish(&mut watch).await?;
        drop(watch);
        let (coordinator_again, site_again) = passed(&mut federation)?;
        let evidence = federation.evidence().await?;
        let findings = evidence.findings(&federation.delivered());
        anyhow::ensure!(findings == Default::default(), "{findings:?}");
        federation.stop()?;
        let (coordinator, site) = (both(coordinator, coordinator_again), both(site, site_again));
        Ok(Probe { first, founding, coordinator, site, models: evidence.models() })
    }
}

/// What the coordinator and the first site have passed since this was last asked.
fn passed(federation: &mut Federation) -> anyhow::Result<(Vec<Pass>, Vec<Pass>)> {
    let site = federation.sites.first_mut().context("a site")?;
    Ok((federation.points.passed()?, site.points.passed()?))
}

fn both(mut all: Vec<Pass>, again: Vec<Pass>) -> Passed {
    let names = again.iter().map(|pass| pass.place.clone()).collect();
    all.extend(again);
    Passed { all, again: names }
}

/// A scenario, and what it passes.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(crate) scenario: Scenario,
    pub(crate) shape: Shape,
    pub(crate) probe: Probe,
}

/// What differs between the places that all of them pass and the list of those that some federation does; `whole` if
/// every kind of federation is among them.
pub(crate) fn unlisted(tried: &[Tried], whole: bool) -> Vec<String> {
    let mut passed = BTreeSet::new();
    for Tried { probe: Probe { first, founding, coordinator, site, .. }, .. } in tried {
        passed.extend(first.iter().chain(founding).cloned());
        passed.extend(coordinator.names());
        passed.extend(site.names());
    }
    places::differences(&passed, whole)
}

/// Runs a federation of each shape.
///
/// # Errors
/// If one fails.
pub(crate) async fn all(work: &Path, shapes: Vec<(Scenario, Shape)>) -> anyhow::Result<Vec<Tried>> {
    let (mut tried, mut failed) = (Vec::new(), None);
    let folder = work.to_owned();
    let probe = async move |(scenario, shape): (Scenario, Shape)| {
        let probe = Probe::of(&folder.join(format!("undisturbed-{scenario}")), &shape).await;
        let probe = probe.with_context(|| format!("the undisturbed run, {scenario}"))?;
        Ok::<_, anyhow::Error>(Tried { scenario, shape, probe })
    };
    side_by_side(shapes, lanes(false), probe, |result: anyhow::Result<Tried>| match result {
        Ok(one) => tried.push(one),
        Err(error) => {
            failed.get_or_insert(error);
        }
    })
    .await?;
    match failed {
        Some(error) => Err(error),
        None => Ok(tried),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_as_a_rule_counts_it_by_process_and_apart_for_agent_and_trainer() {
        let pass = |place: &str, verb: &str, process| {
            let (place, verb) = (place.to_owned(), verb.to_owned());
            Pass { place, verb, process }
        };
        let agent = [pass("model.open", "run", 1), pass("submit.send", "run", 1)];
        // The second trainer passes it twice, the first one once.
        let trainers = [2, 3, 3].map(|process| pass("model.open", "trainer", process));
        let passed = both(agent.to_vec(), trainers.to_vec());
        assert_eq!(passed.times(Program::Agent, "model.open"), 1);
        assert_eq!(passed.times(Program::Trainer, "model.open"), 2);
        assert_eq!(passed.times(Program::Trainer, "submit.send"), 0);
        assert_eq!(passed.names_of(Program::Trainer).len(), 1);
        assert_eq!(passed.names().len(), 2);
    }
}
