//! The federation whose rounds are timed: what it is like, and what its processes took.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use fedpaint_proto::names::Blob;
use fedpaint_proto::weights::{Dtype, TensorSpec};
use fedpaint_tests::evidence::Evidence;
use fedpaint_tests::lab::{AgentOptions, Lab, LabOptions};
use fedpaint_tests::models;
use fedpaint_tests::process::{Process, children, cpu_seconds, peak_rss_bytes};
use rustls::{ClientConfig, ServerConfig};

use crate::limit::MemoryLimit;
use crate::phases::{self, Round};

/// The run's name.
const RUN: &str = "bench";

/// Values of a tensor: a model of many is like a real one.
const TENSOR_VALUES: usize = 1 << 20;

/// What a federation is like.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) sites: usize,
    pub(crate) parameters: usize,
    pub(crate) rounds: u32,
    /// A hard limit of the coordinator's memory.
    pub(crate) memory_mib: Option<u64>,
}

/// A coordinator that serves, and sites that are enrolled.
pub(crate) struct Federation {
    lab: Lab,
    shape: Shape,
    model: Blob,
    folder: PathBuf,
}

/// What `phases` reads of the coordinator's log; all else that it could say would cost the rounds time.
const LOGGED: &str =
    "fedpaint_coordinator::service::blob=debug,fedpaint_coordinator::driver::aggregation=debug";

/// What the programs took in all rounds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Processes {
    /// The most memory of the coordinator, of an agent, of a trainer.
    pub(crate) coordinator_peak_rss_bytes: u64,
    pub(crate) agent_peak_rss_bytes: u64,
    pub(crate) trainer_peak_rss_bytes: u64,
    /// Processor time of the coordinator, of all agents, of all trainers, from start to end.
    pub(crate) coordinator_cpu_s: f64,
    pub(crate) agents_cpu_s: f64,
    pub(crate) trainers_cpu_s: f64,
    /// Bytes that went through the sites' connections, both ways, TLS and all.
    pub(crate) wire_bytes: u64,
}

impl Federation {
    /// Founds it; nothing is timed yet.
    ///
    /// # Errors
    /// If a program is missing or fails.
    pub(crate) async fn found(folder: &Path, shape: &Shape) -> anyhow::Result<Federation> {
        let options = LabOptions { environment: vec![log_filter(LOGGED)], ..LabOptions::default() };
        let mut lab = Lab::prepare(folder, options)?;
        lab.start_coordinator()?;
        for site in shape.names() {
            lab.enroll(&site)?;
        }
        let file = folder.join("initial.safetensors");
        let model = models::write(&file, tensors(shape.parameters), |tensor, element| {
            ((tensor * 104_729 + element * 31) as f32 * 0.013).sin()
        })?;
        let (shape, folder) = (shape.clone(), folder.to_owned());
        Ok(Federation { lab, shape, model, folder })
    }

    /// The model that moves.
    pub(crate) fn model(&self) -> Blob {
        self.model
    }

    /// The two ends of mutual TLS, as coordinator and site have them.
    ///
    /// # Errors
    /// If a certificate does not read.
    pub(crate) fn ends(&self) -> anyhow::Result<(Arc<ServerConfig>, Arc<ClientConfig>)> {
        let server = self.lab.tls("main").server(Arc::new(|_| true))?;
        Ok((server, self.lab.tls(&self.shape.names()[0]).client()?))
    }

    /// Runs every round, and tells how long each took and what the programs took in all.
    ///
    /// # Errors
    /// If a program fails or a round is abandoned.
    pub(crate) async fn run(
        &self,
        tell: &mut dyn FnMut(&str),
    ) -> anyhow::Result<(Vec<Round>, Processes)> {
        let Shape { sites, rounds, .. } = self.shape;
        let _limit = self.limit()?;
        let plan = format!(
            "version = 1\nrounds = {rounds}\n\n[round]\nsites_min = {sites}\nsites_goal = {sites}\n\
             selection_s = 3600\nreporting_s = 3600\n\n[aggregation]\nema_decay = 0\n\n\
             [training]\nsteps = 1\nbatch = 1\n"
        );
        let file = self.folder.join("initial.safetensors");
        self.lab.create_run(RUN, &plan, &file, self.model).await?;
        let agents = self.start_agents()?;
        let mut committed = 0;
        let before = loopback_bytes()?;
        self.lab
            .watch(RUN, |run, round| {
                if run.rounds_committed > committed {
                    committed = run.rounds_committed;
                    tell(&format!("round {committed} of {rounds}"));
                }
                run.rounds_committed == rounds || round.r#ref.as_ref().is_none_or(|r| r.attempt > 1)
            })
            .await?;
        let wire_bytes = loopback_bytes()? - before;
        let processes = Processes { wire_bytes, ..self.processes(&agents)? };
        let evidence = Evidence::gather(&mut self.lab.operator().await?, RUN).await?;
        anyhow::ensure!(evidence.abandoned() == 0, "a round was abandoned: {}", self.lab.log());
        Ok((phases::rounds(&evidence.events, &self.lab.log(), sites)?, processes))
    }

    fn start_agents(&self) -> anyhow::Result<Vec<Process>> {
        let scans = self.folder.join("no-scans");
        std::fs::create_dir_all(&scans)?;
        let options = AgentOptions {
            trainer: "checkpoint_steps = 1000\n".to_owned(),
            more: "[rehearsal]\nsteps_ms = 0\nweights_max = 1\n".to_owned(),
            ..AgentOptions::default()
        };
        let start = |site: String| self.lab.start_agent(&site, &scans, &options);
        self.shape.names().into_iter().map(start).collect()
    }

    /// Holds the coordinator to its limit, if it has one, for as long as what is given lives.
    fn limit(&self) -> anyhow::Result<Option<MemoryLimit>> {
        let Some(mib) = self.shape.memory_mib else { return Ok(None) };
        let limit = MemoryLimit::new(mib << 20)?;
        limit.hold(self.lab.coordinator_id()?)?;
        Ok(Some(limit))
    }

    fn processes(&self, agents: &[Process]) -> anyhow::Result<Processes> {
        let coordinator = self.lab.coordinator_id()?;
        let rss = |id| peak_rss_bytes(id).context("the memory of a program that runs");
        let cpu = |id| cpu_seconds(id).context("the processor time of a program that runs");
        let mut all = Processes {
            coordinator_peak_rss_bytes: rss(coordinator)?,
            coordinator_cpu_s: cpu(coordinator)?,
            ..Processes::default()
        };
        for agent in agents {
            all.agent_peak_rss_bytes = all.agent_peak_rss_bytes.max(rss(agent.id())?);
            all.agents_cpu_s += cpu(agent.id())?;
            for trainer in children(agent.id()) {
                all.trainer_peak_rss_bytes = all.trainer_peak_rss_bytes.max(rss(trainer)?);
                all.trainers_cpu_s += cpu(trainer)?;
            }
        }
        Ok(all)
    }
}

impl Shape {
    fn names(&self) -> Vec<String> {
        (1..=self.sites).map(|i| format!("site-{i}")).collect()
    }
}

/// The tensors of a model of so many parameters.
fn tensors(parameters: usize) -> Vec<TensorSpec> {
    let count = parameters.div_ceil(TENSOR_VALUES);
    let tensor = |i| TensorSpec {
        name: format!("block.{i:05}.weight"),
        dtype: Dtype::F32,
        shape: vec![TENSOR_VALUES.min(parameters - i * TENSOR_VALUES)],
    };
    (0..count).map(tensor).collect()
}

fn log_filter(filter: &str) -> (String, PathBuf) {
    ("RUST_LOG".to_owned(), PathBuf::from(format!("info,{filter}")))
}

/// Bytes that have gone through loopback since the machine was started, with TCP's and IP's headers.
fn loopback_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    let received = line.and_then(|line| line.split_whitespace().next());
    received.context("the loopback's counters")?.parse().context("the loopback's counters")
}
