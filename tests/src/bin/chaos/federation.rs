//! A federation of sites that rehearse: real processes, each with failpoints, each agent behind a proxy.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fedpaint_proto::names::Blob;
use fedpaint_proto::weights::{Dtype, TensorSpec};
use fedpaint_tests::evidence::{self, Evidence};
use fedpaint_tests::failpoints::Failpoints;
use fedpaint_tests::lab::{AgentOptions, COORDINATOR, Lab, LabOptions};
use fedpaint_tests::models;
use fedpaint_tests::process::Process;
use fedpaint_tests::proxy::{Counted, Proxy, faithful};

use crate::disk::LOOK;
use crate::due::grow_old;
use crate::leftovers::{Leftovers, leave};
use crate::material::Material;
use crate::watch::Watch;

/// The name of the run in every federation, because an update follows from it.
pub(crate) const RUN: &str = "brain";

/// The file of the initial model.
const INITIAL: &str = "initial.safetensors";

/// What everything follows from that is trained, unless a mode says otherwise.
const SEED: u64 = 7;

/// How often sites ask: often, so that nobody waits, and not so often that it is much beside a model.
const HEARTBEAT_MS: u64 = 100;

/// How many initial models there are.
const PHASES: u64 = 1_000;

/// How long certificates last that a coordinator issues where some are due, in seconds: longer than any run.
const LEAF_S: u32 = 7 * 86_400;

/// How long a run that nobody disturbs may go without a round being committed.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// How long a coordinator whose disk is well may take to serve.
const SERVING_MAX: Duration = Duration::from_secs(10);

/// What a federation is like.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// How many sites.
    pub(crate) sites: usize,
    /// How many rounds.
    pub(crate) rounds: u32,
    /// Steps of a round.
    pub(crate) steps: u32,
    /// How long a step takes.
    pub(crate) steps_ms: u32,
    /// Steps between two checkpoints.
    pub(crate) checkpoint_steps: u32,
    /// Parameters of the model; four bytes each.
    pub(crate) parameters: usize,
    /// What the plan has as its seed, and the initial model follows from.
    pub(crate) seed: u64,
    /// Lines of the plan's `[round]` in place of those that wait for every site.
    pub(crate) round: Option<String>,
    /// More tables of the plan.
    pub(crate) more: String,
    /// More tables of the coordinator's configuration.
    pub(crate) coordinator: String,
    /// What the sites train on; without it they rehearse.
    pub(crate) material: Option<Arc<Material>>,
    /// Whether certificates are due from the start on, and are renewed by a coordinator that issues them.
    pub(crate) due: bool,
    /// What is there already when the run begins.
    pub(crate) leftovers: Option<Leftovers>,
}

impl Default for Shape {
    /// One round of one site, as short as there is.
    fn default() -> Shape {
        Shape {
            sites: 1,
            rounds: 1,
            steps: 4,
            steps_ms: 0,
            checkpoint_steps: 2,
            parameters: 1 << 10,
            seed: SEED,
            round: None,
            more: String::new(),
            coordinator: String::new(),
            material: None,
            due: false,
            leftovers: None,
        }
    }
}

impl Shape {
    /// How long its trainings take together, at least.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_millis(u64::from(self.steps_ms)) * self.steps * self.rounds
    }

    /// The run's plan. By default a round takes every site, however long it takes.
    pub(crate) fn plan(&self) -> String {
        let Shape { sites, rounds, steps, more, seed, .. } = self;
        let every = format!(
            "sites_min = {sites}\nsites_goal = {sites}\nselection_s = 3600\nreporting_s = 3600\n\
             failures_max = 1000\n"
        );
        let round = self.round.as_deref().unwrap_or(&every);
        format!(
            "version = 1\nrounds = {rounds}\n\n[round]\n{round}\n[training]\nsteps = {steps}\n\
             batch = 2\nseed = {seed}\n{more}"
        )
    }
}

/// One site.
pub(crate) struct Site {
    /// Its name.
    pub(crate) name: String,
    /// What lies between it and the coordinator.
    pub(crate) proxy: Proxy,
    /// Where it, or its trainer, may end or fail.
    pub(crate) points: Failpoints,
    /// Its agent, while it runs.
    pub(crate) agent: Option<Process>,
    /// How it is configured.
    pub(crate) options: AgentOptions,
}

/// A coordinator and its sites.
pub(crate) struct Federation {
    /// The coordinator and the operator.
    pub(crate) lab: Lab,
    /// Where the coordinator may end or fail.
    pub(crate) points: Failpoints,
    /// The sites, by name.
    pub(crate) sites: Vec<Site>,
    /// The initial model.
    pub(crate) model: Blob,
    shape: Shape,
    folder: PathBuf,
}

impl Federation {
    /// A coordinator that serves, sites that are enrolled and do not run yet, and a run to train.
    ///
    /// # Errors
    /// If a program is missing or fails.
    pub(crate) async fn found(folder: &Path, shape: &Shape) -> anyhow::Result<Federation> {
        let mut federation = Federation::prepare(folder, shape)?;
        federation.lab.start_coordinator()?;
        federation.open().await?;
        Ok(federation)
    }

    /// All that a coordinator's first start needs; nothing runs yet, and there are no sites.
    ///
    /// # Errors
    /// If a program is missing or fails.
    pub(crate) fn prepare(folder: &Path, shape: &Shape) -> anyhow::Result<Federation> {
        std::fs::create_dir_all(folder)?;
        let points = Failpoints::new(folder, "coordinator")?;
        let (environment, leaf_s) = (vec![points.variable()], shape.due.then_some(LEAF_S));
        let (heartbeat_ms, more) = (HEARTBEAT_MS, shape.coordinator.clone());
        let options =
            LabOptions { heartbeat_ms, environment, leaf_s, more, ..LabOptions::default() };
        let lab = Lab::prepare(folder, options)?;
        if shape.due {
            grow_old(&lab, COORDINATOR)?;
        }
        std::fs::create_dir_all(folder.join("no-scans"))?;
        let model = match &shape.material {
            Some(material) => {
                std::fs::copy(&material.model, folder.join(INITIAL))?;
                material.blob
            }
            None => initial_model(&folder.join(INITIAL), shape)?,
        };
        let (sites, shape, folder) = (Vec::new(), shape.clone(), folder.to_owned());
        Ok(Federation { lab, points, sites, model, shape, folder })
    }

    /// Enrols the sites at a coordinator that serves, and begins the run.
    ///
    /// # Errors
    /// If the coordinator refuses.
    pub(crate) async fn open(&mut self) -> anyhow::Result<()> {
        let target = self.lab.address().trim_start_matches("https://").parse()?;
        let Shape { checkpoint_steps, steps_ms, material, .. } = &self.shape;
        for i in 0..self.shape.sites {
            let name = format!("site-{}", i + 1);
            self.lab.enroll(&name)?;
            if self.shape.due {
                grow_old(&self.lab, &name)?;
            }
            let proxy = Proxy::start(target, faithful())?;
            let points = Failpoints::new(&self.folder, &name)?;
            let options = AgentOptions {
                coordinator: Some(proxy.address()),
                environment: vec![points.variable()],
                trainer: format!("checkpoint_steps = {checkpoint_steps}\n"),
                more: material.as_ref().map_or_else(|| rehearsal(*steps_ms), |_| String::new()),
                ..AgentOptions::default()
            };
            self.sites.push(Site { name, proxy, points, agent: None, options });
        }
        let file = self.folder.join(INITIAL);
        self.lab.create_run(RUN, &self.shape.plan(), &file, self.model).await?;
        self.shape.leftovers.map_or(Ok(()), |left| leave(&self.lab, self.model, left))
    }

    /// Starts a site's agent, also again.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) fn start_agent(&mut self, site: usize) -> anyhow::Result<()> {
        let scans = match &self.shape.material {
            Some(material) => material.scans.get(site).context("no scans for so many sites")?,
            None => &self.folder.join("no-scans"),
        };
        let site = &mut self.sites[site];
        site.agent = Some(self.lab.start_agent(&site.name, scans, &site.options)?);
        Ok(())
    }

    /// Starts every agent.
    ///
    /// # Errors
    /// If one does not start.
    pub(crate) fn start_agents(&mut self) -> anyhow::Result<()> {
        (0..self.sites.len()).try_for_each(|site| self.start_agent(site))
    }

    /// Starts the agents that do not run yet, but for some.
    ///
    /// # Errors
    /// If one does not start.
    pub(crate) fn start_agents_but(&mut self, left_out: &[usize]) -> anyhow::Result<()> {
        let others = (0..self.sites.len()).filter(|site| !left_out.contains(site));
        others.collect::<Vec<_>>().into_iter().try_for_each(|site| self.start_agent(site))
    }

    /// Starts what has stopped, as a service manager does. Whether something had.
    ///
    /// # Errors
    /// If it does not start, or was not started before.
    pub(crate) fn revive(&mut self) -> anyhow::Result<bool> {
        let mut stopped = false;
        if self.lab.coordinator()?.ended()?.is_some() {
            self.lab.launch_coordinator()?;
            stopped = true;
        }
        for site in 0..self.sites.len() {
            let agent = self.sites[site].agent.as_mut().context("an agent")?;
            if agent.ended()?.is_some() {
                self.start_agent(site)?;
                stopped = true;
            }
        }
        Ok(stopped)
    }

    /// Follows the run from now on, by a coordinator that may be coming up.
    ///
    /// # Errors
    /// If it does not come up.
    pub(crate) async fn watch(&self) -> anyhow::Result<Watch> {
        let since = Instant::now();
        loop {
            match self.lab.operator().await {
                Ok(admin) => return Ok(Watch::start(admin)),
                Err(error) if since.elapsed() > SERVING_MAX => return Err(error),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Waits until the run is finished, while nobody disturbs it.
    ///
    /// # Errors
    /// If it pauses, or nothing is committed for too long.
    pub(crate) async fn finish(&mut self, watch: &mut Watch) -> anyhow::Result<()> {
        let (mut committed, mut since) = (0, Instant::now());
        loop {
            let seen = watch.seen();
            if seen.is_finished() {
                return Ok(());
            }
            if let Some(reason) = seen.paused {
                bail!("the run is paused: {reason}");
            }
            if seen.committed != committed {
                (committed, since) = (seen.committed, Instant::now());
            }
            if since.elapsed() > SILENCE_MAX {
                bail!("no round was committed for {} s after {committed}", SILENCE_MAX.as_secs());
            }
            watch.changed(Duration::from_millis(200)).await;
        }
    }

    /// Waits until every site has heard that its update of a round was taken.
    ///
    /// # Errors
    /// If one does not hear it for too long.
    pub(crate) async fn all_delivered(&self, round: u32) -> anyhow::Result<()> {
        let (round, since) = (format!("{RUN}/{round}."), Instant::now());
        let has = |delivered: &[(String, String)], site: &Site| {
            delivered.iter().any(|(name, of)| *name == site.name && of.starts_with(&round))
        };
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            let delivered = self.delivered();
            let Some(missing) = self.sites.iter().find(|site| !has(&delivered, site)) else {
                return Ok(());
            };
            if since.elapsed() > SILENCE_MAX {
                bail!("{} has not heard that its update of {round} was taken", missing.name);
            }
        }
    }

    /// What the coordinator says of the run.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) async fn evidence(&self) -> anyhow::Result<Evidence> {
        Evidence::gather(&mut self.lab.operator().await?, RUN).await
    }

    /// What the agents say was acknowledged.
    pub(crate) fn delivered(&self) -> Vec<(String, String)> {
        let log = |name: &str| {
            std::fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap_or_default()
        };
        let each = |site: &Site| evidence::delivered(&site.name, &log(&site.name));
        self.sites.iter().flat_map(each).collect()
    }

    /// What went through all proxies.
    pub(crate) fn counted(&self) -> Counted {
        self.sites.iter().map(|site| site.proxy.counted()).fold(Counted::default(), Counted::with)
    }

    /// Bytes that must move for so many rounds: the base model to every site, and its update back.
    pub(crate) fn bytes_needed(&self, rounds: u32) -> f64 {
        2.0 * self.model.size as f64 * self.sites.len() as f64 * f64::from(rounds)
    }

    /// Ends every agent as an operator does.
    ///
    /// # Errors
    /// If one does not end well.
    pub(crate) fn stop_agents(&mut self) -> anyhow::Result<()> {
        for site in &mut self.sites {
            if let Some(mut agent) = site.agent.take() {
                agent.stop().with_context(|| format!("{} does not end", site.name))?;
            }
        }
        Ok(())
    }

    /// Ends every process as an operator does.
    ///
    /// # Errors
    /// If one does not end well.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.stop_agents()?;
        self.lab.coordinator()?.stop()?;
        Ok(())
    }
}

/// The table by which a site's trainer rehearses.
pub(crate) fn rehearsal(steps_ms: u32) -> String {
    format!("[rehearsal]\nsteps_ms = {steps_ms}\n")
}

/// Writes a model of as many parameters as the shape has, and of its seed.
fn initial_model(file: &Path, shape: &Shape) -> anyhow::Result<Blob> {
    let spec = |name: &str, shape: &[usize]| TensorSpec {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.into(),
    };
    let rows = (shape.parameters / 256).max(1);
    // The phase of a wave, which no large number may blur.
    let phase = (shape.seed % PHASES) as f32;
    let specs = vec![spec("in.bias", &[7]), spec("in.weight", &[rows, 256])];
    models::write(file, specs, |tensor, element| {
        let x = (tensor * 104_729 + element * 31) as f32;
        (x * 0.013 + phase).sin()
    })
}

/// A run that nobody disturbed.
pub(crate) struct Undisturbed {
    /// What the coordinator says of it.
    pub(crate) evidence: Evidence,
    /// The places the coordinator reached.
    pub(crate) coordinator: Vec<String>,
    /// The places each agent reached, its trainer's with them.
    pub(crate) sites: Vec<Vec<String>>,
    /// What went through the proxies.
    pub(crate) counted: Counted,
    /// How long it took, from the agents' start on.
    pub(crate) wall: Duration,
}

impl Undisturbed {
    /// The names of the coordinator's places.
    pub(crate) fn coordinator_names(&self) -> BTreeSet<String> {
        self.coordinator.iter().cloned().collect()
    }

    /// The names of the agents' places.
    pub(crate) fn site_names(&self) -> BTreeSet<String> {
        self.sites.iter().flatten().cloned().collect()
    }
}

/// Runs a federation to its end, so that there is something to compare with.
///
/// # Errors
/// If even that fails.
pub(crate) async fn undisturbed(folder: &Path, shape: &Shape) -> anyhow::Result<Undisturbed> {
    let mut federation = Federation::found(folder, shape).await?;
    let start = Instant::now();
    federation.start_agents()?;
    let mut watch = federation.watch().await?;
    federation.finish(&mut watch).await.context("the undisturbed run")?;
    let wall = start.elapsed();
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    anyhow::ensure!(findings == Default::default(), "the undisturbed run: {findings:?}");
    let coordinator = federation.points.reached()?;
    let sites = federation.sites.iter_mut().map(|site| site.points.reached());
    let sites = sites.collect::<anyhow::Result<_>>()?;
    let counted = federation.counted();
    federation.stop()?;
    Ok(Undisturbed { evidence, coordinator, sites, counted, wall })
}
