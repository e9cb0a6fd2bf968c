//! The demo's federation: real processes on loopback, from the first certificate to the last model.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::v1;
use fedpaint_tests::lab::{AgentOptions as Options, Lab};
use fedpaint_tests::process::{Process, peak_rss_bytes, program, run};

use crate::sites::Site;

/// Rounds unless the user says otherwise: enough to beat the mean fill at every site.
pub(crate) const ROUNDS: u32 = 6;

/// The run's name.
const RUN: &str = "demo";

/// The run of the same network without diffusion, by the same plan, at the same sites.
const TWIN_RUN: &str = "demo-twin";

/// What every site does in a round; the whole demo is to take minutes on two cores.
const TRAINING: &str = "[training]\nsteps = 80\nbatch = 8\nlearning_rate = 2.5e-3\nwarmup_steps = 10\ndecay_steps = 60\nseed = 1\n";

/// The model's input, pixels along a side.
const IMAGE_SIZE: &str = "48";

/// How often an agent that died by itself is looked for.
const AGENTS_LOOKED_AT_EVERY: Duration = Duration::from_secs(1);

/// What training left behind.
pub(crate) struct Trained {
    /// The global models by round; the initial one is round 0.
    pub(crate) models: Vec<PathBuf>,
    /// The last model of the regression twin: the same network and plan, without diffusion.
    pub(crate) twin: PathBuf,
    /// Every round, the newest last.
    pub(crate) rounds: Vec<v1::Round>,
    /// The most memory each process held, by name.
    pub(crate) peak_rss_bytes: Vec<(String, u64)>,
}

/// Trains `rounds` rounds at `sites`, all of them in every round; then the twin, in as many.
pub(crate) async fn train(
    work: &Path,
    sites: &[Site],
    rounds: u32,
    stage: &impl Fn(&str),
) -> anyhow::Result<Trained> {
    let mut lab = Lab::start(&work.join("federation"))?;
    for site in sites {
        lab.enroll(&site.name)?;
    }
    let initial = work.join("round-0.safetensors");
    let blob = initial_model(&initial, &[])?;
    let twin = work.join("twin-0.safetensors");
    let twin_blob = initial_model(&twin, &["--prediction", "direct"])?;
    let count = sites.len();
    let plan = format!(
        "version = 1\nrounds = {rounds}\n\n[round]\nsites_min = {count}\nsites_goal = {count}\n\n{TRAINING}"
    );
    std::fs::write(work.join("plan.toml"), &plan)?;
    lab.create_run(RUN, &plan, &initial, blob).await?;
    let mut agents = Vec::new();
    for site in sites {
        let data = site.data_lines();
        agents.push((
            site,
            lab.start_agent(&site.name, &site.data, &Options { data, ..Options::default() })?,
        ));
    }
    stage(&format!("training {rounds} rounds at {count} sites"));
    follow(&lab, RUN, &mut agents).await?;
    stage("training its twin without diffusion by the same plan");
    lab.create_run(TWIN_RUN, &plan, &twin, twin_blob).await?;
    follow(&lab, TWIN_RUN, &mut agents).await?;
    let rounds = list_rounds(&lab).await?;
    let mut peaks = vec![("coordinator".to_owned(), peak(lab.coordinator()?))];
    for (site, agent) in &mut agents {
        peaks.push((format!("agent {}", site.name), peak(agent)));
        for trainer in fedpaint_tests::process::children(agent.id()) {
            peaks.push((format!("trainer {}", site.name), peak_rss_bytes(trainer).unwrap_or(0)));
        }
    }
    let models = export(&lab, work, initial, &rounds)?;
    let twin = work.join("twin.safetensors");
    lab.fedctl(&["model", "export", TWIN_RUN, "--out", &twin.display().to_string()])?;
    for (site, mut agent) in agents {
        let status = agent.stop()?;
        if !status.success() {
            bail!("the agent of {} ended with {status}: {}", site.name, agent.log()?);
        }
    }
    lab.coordinator()?.stop()?;
    Ok(Trained { models, twin, rounds, peak_rss_bytes: peaks })
}

fn peak(process: &mut Process) -> u64 {
    peak_rss_bytes(process.id()).unwrap_or(0)
}

fn initial_model(path: &Path, more: &[&str]) -> anyhow::Result<Blob> {
    let out = path.display().to_string();
    let args = ["init-model", "--preset", "tiny", "--image-size", IMAGE_SIZE, "--seed", "1"];
    run("fedpaint-site-agent", &[&args[..], &["--out", &out], more].concat())?;
    let bytes = std::fs::read(path)?;
    Ok(Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 })
}

/// Waits until a run is finished, and no longer than all agents live.
async fn follow(lab: &Lab, run: &str, agents: &mut [(&Site, Process)]) -> anyhow::Result<()> {
    tokio::select! {
        done = watch(lab, run) => done,
        ended = first_end(agents) => bail!(ended?),
    }
}

/// Waits until an agent ends that nobody has stopped, and says which one and why.
async fn first_end(agents: &mut [(&Site, Process)]) -> anyhow::Result<String> {
    let mut ticks = tokio::time::interval(AGENTS_LOOKED_AT_EVERY);
    loop {
        ticks.tick().await;
        for (site, agent) in &mut *agents {
            if !agent.is_running()? {
                return Ok(format!("the agent of {} has ended: {}", site.name, agent.log()?));
            }
        }
    }
}

/// Shows the run live, as an operator would see it, until it ends.
async fn watch(lab: &Lab, run: &str) -> anyhow::Result<()> {
    let mut command = tokio::process::Command::new(program("fedctl")?);
    command.args(lab.operator_flags()).args(["run", "watch", run]);
    // The view belongs to people: stdout is kept for the report.
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .kill_on_drop(true)
        .status()
        .await
        .context("cannot start fedctl")?;
    if !status.success() {
        bail!("the run did not finish; the coordinator's log:\n{}", lab.log());
    }
    Ok(())
}

async fn list_rounds(lab: &Lab) -> anyhow::Result<Vec<v1::Round>> {
    let request = v1::ListRoundsRequest { run: RUN.into(), ..Default::default() };
    let rounds = lab.operator().await?.list_rounds(request).await?.into_inner().rounds;
    Ok(rounds.into_iter().filter(|r| r.phase() == v1::RoundPhase::Committed).collect())
}

fn export(
    lab: &Lab,
    work: &Path,
    initial: PathBuf,
    rounds: &[v1::Round],
) -> anyhow::Result<Vec<PathBuf>> {
    let mut models = vec![initial];
    for round in rounds {
        let number = round.r#ref.as_ref().context("a round has a name")?.number.to_string();
        let path = work.join(format!("round-{number}.safetensors"));
        let out = path.display().to_string();
        lab.fedctl(&["model", "export", RUN, "--round", &number, "--out", &out])?;
        models.push(path);
    }
    Ok(models)
}
