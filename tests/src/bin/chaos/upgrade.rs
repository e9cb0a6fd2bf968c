//! `upgrade`: programs of an older version with those of this one, either way round, and the older one's
//! database under the newer coordinator in the middle of a run.
//!
//! The older programs know no rehearsal, so that here the sites really train, a very small model.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use fedpaint_proto::names::Digest;
use fedpaint_tests::evidence::Evidence;
use fedpaint_tests::lab::{AgentOptions, Lab, LabOptions};
use fedpaint_tests::process::{Process, know_policies};

use crate::federation::RUN;
use crate::material::Material;
use crate::watch::Watch;
use crate::{Args, say};
use fedpaint_tests::outcome::{Outcome, rounded};

/// The sites.
const SITES: [&str; 2] = ["mayo", "river"];

/// The committed rounds after which the coordinator is exchanged.
const EXCHANGED_AFTER: u32 = 2;

/// How long a run may take.
const RUN_MAX: Duration = Duration::from_secs(300);

/// Which programs a federation is made of; none is this version's.
#[derive(Clone, Debug, Default)]
struct Cast {
    coordinator: Option<PathBuf>,
    /// The coordinator that takes over in the middle of the run.
    successor: Option<Option<PathBuf>>,
    agents: [Option<PathBuf>; 2],
}

/// Runs the mode.
///
/// # Errors
/// If `--old` is missing, or a program does not start.
pub(crate) async fn upgrade(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let old = args.old.clone().context("--old DIR must name the folder of older programs")?;
    let old = Some(old.canonicalize().context("--old")?);
    let material = Material::make(&work.join("material"), SITES.len())?;
    let plan = plan(args.rounds.unwrap_or(4));
    let start = Instant::now();
    let mut outcome = Outcome::default();
    let expected = train(&work.join("new"), (&material, &plan), &Cast::default()).await?;
    let both = [old.clone(), old.clone()];
    for (name, cast) in [
        ("old_agents", Cast { agents: both.clone(), ..Cast::default() }),
        ("old_coordinator", Cast { coordinator: old.clone(), ..Cast::default() }),
        ("mixed_agents", Cast { agents: [old.clone(), None], ..Cast::default() }),
        (
            "database_of_old_coordinator",
            Cast { coordinator: old.clone(), successor: Some(None), agents: both },
        ),
    ] {
        say(name);
        let trained = train(&work.join(name), (&material, &plan), &cast).await;
        let same = trained.as_ref().is_ok_and(|models| *models == expected);
        outcome.set(name, same);
        outcome.require(same, || match trained {
            Ok(_) => format!("{name}: other models than this version alone makes"),
            Err(error) => format!("{name}: {error:#}"),
        });
    }
    outcome.set("rounds", expected.len());
    outcome.set("wall_s", rounded(start.elapsed().as_secs_f64(), 1));
    Ok(outcome)
}

/// The plan of a run of so many rounds.
fn plan(rounds: u32) -> String {
    format!(
        "version = 1\nrounds = {rounds}\n\n[round]\nsites_min = 2\nsites_goal = 2\n\
         selection_s = 600\nreporting_s = 600\nfailures_max = 20\n\n[training]\nsteps = 3\n\
         batch = 2\nlearning_rate = 1e-3\nseed = 7\n"
    )
}

/// The models that a federation of `cast` makes, by round.
async fn train(
    folder: &Path,
    (material, plan): (&Material, &str),
    cast: &Cast,
) -> anyhow::Result<Vec<Digest>> {
    // A coordinator that signs has to be told of agents which do not.
    let knows = |agent: &Option<PathBuf>| know_policies(agent.as_deref());
    let sign = cast.agents.iter().map(knows).collect::<anyhow::Result<Vec<bool>>>()?;
    let unsigned = know_policies(cast.coordinator.as_deref())? && sign.contains(&false);
    let programs = cast.coordinator.clone();
    let options = LabOptions { programs, unsigned, ..LabOptions::default() };
    let mut lab = Lab::prepare(folder, options)?;
    lab.start_coordinator()?;
    for site in SITES {
        lab.enroll(site)?;
    }
    lab.create_run(RUN, plan, &material.model, material.blob).await?;
    let mut agents: Vec<Process> = Vec::new();
    for (i, site) in SITES.iter().enumerate() {
        let options = AgentOptions { programs: cast.agents[i].clone(), ..AgentOptions::default() };
        agents.push(lab.start_agent(site, &material.scans[i], &options)?);
    }
    let mut watch = Watch::start(lab.operator().await?);
    if let Some(successor) = &cast.successor {
        until(&mut watch, |committed, _| committed >= EXCHANGED_AFTER).await?;
        lab.coordinator()?.kill()?;
        lab.set_options(LabOptions { programs: successor.clone(), ..LabOptions::default() });
        lab.start_coordinator()?;
    }
    until(&mut watch, |_, finished| finished).await?;
    let evidence = Evidence::gather(&mut lab.operator().await?, RUN).await?;
    let findings = evidence.findings(&[]);
    anyhow::ensure!(findings == Default::default(), "{findings:?}");
    for agent in &mut agents {
        agent.stop()?;
    }
    lab.coordinator()?.stop()?;
    Ok(evidence.models())
}

async fn until(watch: &mut Watch, done: impl Fn(u32, bool) -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let seen = watch.seen();
        if done(seen.committed, seen.is_finished()) {
            return Ok(());
        }
        anyhow::ensure!(seen.paused.is_none(), "the run is paused: {:?}", seen.paused);
        anyhow::ensure!(start.elapsed() < RUN_MAX, "the run does not get on");
        watch.changed(Duration::from_millis(200)).await;
    }
}
