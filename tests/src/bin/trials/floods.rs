//! Rounds of honest sites, alone and beside connections that are slow, many, reset without end or larger than
//! they may be: how much longer a round takes, and how much more memory the coordinator ever held.
//!
//! Whoever floods is a process of its own that every other one goes before (`nice`), so that what is measured
//! is what the coordinator does with it, and not how the machine shares its processors.

mod attack;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fedpaint_proto::weights::{Dtype, TensorSpec};
use fedpaint_tests::lab::{AgentOptions, Lab};
use fedpaint_tests::models;
use fedpaint_tests::outcome::{Outcome, rounded};
use fedpaint_tests::process::{Process, peak_rss_bytes};

use self::attack::{Attack, Target};
use crate::{Args, say};

/// How many rounds are timed of each, if nobody says otherwise.
const ROUNDS: usize = 20;

/// How much longer a round may take.
const SLOWER_MAX: f64 = 1.5;

/// How much more memory the coordinator may ever hold.
const GROWN_MIB_MAX: f64 = 64.0;

/// Honest sites.
const SITES: usize = 2;

/// The plan's steps, and how long a site takes for one.
const STEPS: u32 = 20;
const STEPS_MS: u32 = 50;

/// Weights of the model: 4 MB.
const ELEMENTS: usize = 1_000_000;

/// How long a round, or an attack, may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often the pages are read.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs the trial.
///
/// # Errors
/// If a program fails, or no round is committed any more.
pub(crate) async fn floods(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let rounds = args.count.unwrap_or(ROUNDS);
    let mut lab = Lab::start(&work.join("lab"))?;
    let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![ELEMENTS] };
    let file = work.join("initial.safetensors");
    let model = models::write(&file, vec![spec], |_, i| (i % 251) as f32)?;
    let plan = format!(
        "version = 1\nrounds = 100000\n[round]\nsites_min = {SITES}\nsites_goal = {SITES}\n\
         selection_s = 600\nreporting_s = 600\n[training]\nsteps = {STEPS}\nbatch = 1\n"
    );
    std::fs::create_dir_all(work.join("no-scans"))?;
    let more = format!("[rehearsal]\nsteps_ms = {STEPS_MS}\n");
    let options = AgentOptions { more, ..AgentOptions::default() };
    let mut agents = Vec::new();
    for n in 0..SITES {
        let name = format!("site-{n}");
        lab.enroll(&name)?;
        agents.push(lab.start_agent(&name, &work.join("no-scans"), &options)?);
    }
    lab.create_run("honest", &plan, &file, model).await?;
    lab.enroll("mallory")?;

    let coordinator = lab.coordinator()?.id();
    let peak_mib =
        || peak_rss_bytes(coordinator).map_or(0.0, |bytes| bytes as f64 / (1 << 20) as f64);
    let mut pages = Pages { address: lab.status_address().to_owned() };
    // What is only done once is done.
    pages.rounds(2).await?;
    say("rounds alone");
    let alone = pages.rounds(rounds).await?;
    let before = peak_mib();
    let mut outcome = Outcome::default();
    outcome.set("rounds", rounds);
    outcome.set("round_s_alone", rounded(alone, 3));
    outcome.set("peak_mib_alone", rounded(before, 1));
    for attack in Attack::ALL {
        let name = attack.name();
        say(&format!("rounds beside {name}"));
        let tls = lab.tls("mallory");
        let target = Target {
            attack,
            address: lab.address().trim_start_matches("https://").parse()?,
            ca: tls.ca,
            certificate: tls.certificate,
            key: tls.key,
        };
        let mut flood = Flood::start(work, &target)?;
        let beside = pages.rounds(rounds).await?;
        let count = flood.reach(attack.count()).await?;
        let ratio = beside / alone;
        outcome.set(&format!("{name}_count"), count);
        outcome.set(&format!("{name}_round_s"), rounded(beside, 3));
        outcome.set(&format!("{name}_ratio"), rounded(ratio, 2));
        outcome.set(&format!("{name}_peak_mib"), rounded(peak_mib(), 1));
        outcome.require(ratio <= SLOWER_MAX, || {
            format!("a round took {ratio:.2} times as long beside {name}")
        });
    }
    let grown = peak_mib() - before;
    outcome.set("grown_mib", rounded(grown, 1));
    outcome.require(grown <= GROWN_MIB_MAX, || format!("the coordinator held {grown:.1} MiB more"));
    for agent in &mut agents {
        ensure!(agent.is_running()?, "an agent has ended: {}", agent.log()?);
    }
    Ok(outcome)
}

/// Does the attack that a file names, until it is killed.
///
/// # Errors
/// If it cannot begin.
pub(crate) async fn part(path: &Path) -> anyhow::Result<()> {
    let target: Target = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    attack::run(target, |count| {
        // Nobody listens any more: it is about to be killed.
        let _ = writeln!(std::io::stdout(), "{count}");
    })
    .await
}

/// An attack that is under way.
struct Flood {
    process: Process,
    count: u64,
}

impl Flood {
    fn start(work: &Path, target: &Target) -> anyhow::Result<Flood> {
        let path = work.join(format!("{}.json", target.attack.name()));
        std::fs::write(&path, serde_json::to_string(target)?)?;
        let own = std::env::current_exe()?.display().to_string();
        let path = path.display().to_string();
        let words = ["-n", "19", &own, "floods", "--part", &path];
        let log = work.join(format!("{}.log", target.attack.name()));
        let process = Process::start_with(Path::new("nice"), &words, &log, &[])?;
        let mut flood = Flood { process, count: 0 };
        // It has begun when it has something to tell.
        flood.count = flood.process.line()?.parse()?;
        Ok(flood)
    }

    /// Waits until it has come to so many; how many it has come to.
    async fn reach(&mut self, count: u64) -> anyhow::Result<u64> {
        let start = Instant::now();
        loop {
            while let Some(line) = self.process.try_line() {
                self.count = line.parse()?;
            }
            if self.count >= count {
                return Ok(self.count);
            }
            ensure!(self.process.is_running()?, "it has ended: {}", self.process.log()?);
            ensure!(start.elapsed() < PATIENCE, "it came to {} of {count}", self.count);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The coordinator's own pages.
struct Pages {
    address: String,
}

impl Pages {
    /// Seconds a round, of so many that end from the next one's end on.
    async fn rounds(&mut self, count: usize) -> anyhow::Result<f64> {
        let first = self.committed()? + 1;
        self.wait(first).await?;
        let begun = Instant::now();
        self.wait(first + count as u64).await?;
        Ok(begun.elapsed().as_secs_f64() / count as f64)
    }

    async fn wait(&mut self, committed: u64) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.committed()? < committed {
            ensure!(start.elapsed() < PATIENCE, "round {committed} is not committed");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// How many rounds are committed.
    fn committed(&self) -> anyhow::Result<u64> {
        let mut tcp = TcpStream::connect(&self.address)?;
        tcp.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        tcp.read_to_string(&mut text)?;
        let name = "fedpaint_rounds_total{outcome=\"committed\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(Ok(0), |count| count.trim().parse().context("a count"))
    }
}
