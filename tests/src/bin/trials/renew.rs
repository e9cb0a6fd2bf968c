//! Certificates of a minute under running rounds: renewed again and again, and then a root that takes over
//! from another, with nothing failing at any site; after it, everybody starts anew with the new root alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fedpaint_proto::credential::write_certificate;
use fedpaint_proto::signing::{Authority, SigningFiles};
use fedpaint_proto::v1;
use fedpaint_proto::weights::{Dtype, TensorSpec};
use fedpaint_tests::lab::{FEDERATION, Lab, LabOptions, OPEN_POLICY};
use fedpaint_tests::models;
use fedpaint_tests::outcome::{Outcome, rounded};
use fedpaint_tests::process::{Process, program, run};

use crate::Args;

/// How many renewals, if nobody says otherwise.
const COUNT: usize = 20;

/// What the audit log calls a renewal.
const RENEWED: &str = "certificate_renewed";

/// How many sites.
const SITES: usize = 4;

/// How long a certificate lasts, in seconds; and in the short form.
const LEAF_S: u32 = 60;
const LEAF_SHORT_S: u32 = 30;

/// How long certificates may take to be renewed, for each.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often the audit log is read meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What an agent logs where a call or a transfer broke and is made again.
const RETRIED: &[&str] = &["a call broke and is made again", "a transfer broke and is resumed"];

/// What it logs where a call fails and is not.
const FAILURES: &[&str] = &[
    "does not answer",
    "does not count",
    "does not come",
    "trying again",
    "withdrawing",
    "refuses",
    "is revoked",
    "is the one from before",
];

/// What the coordinator logs where it refuses, breaks off or fails.
const REFUSALS: &[&str] = &[
    "connection refused",
    "is closed without a word",
    "call refused",
    "update refused",
    "a stranger is refused",
    "a call failed",
    "is broken off",
    "is not all kept",
    "no signing certificate is renewed",
    "; closed",
];

pub(crate) async fn renew(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let count = args.count.unwrap_or(COUNT);
    let leaf_s = if count < COUNT { LEAF_SHORT_S } else { LEAF_S };
    let options = LabOptions { leaf_s: Some(leaf_s), ..LabOptions::default() };
    let mut lab = Lab::prepare(work, options)?;
    lab.start_coordinator()?;
    let mut outcome = Outcome::default();
    let began = Instant::now();
    let mut agents = Vec::new();
    for n in 0..SITES.min(count) {
        agents.push(site(&lab, work, &format!("site-{n}"))?);
    }
    let sites = agents.len();
    outcome.set("join_s", rounded(began.elapsed().as_secs_f64() / sites as f64, 2));
    let model = work.join("initial.safetensors");
    let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![100_000] };
    let blob = models::write(&model, vec![spec], |_, i| (i % 13) as f32)?;
    let plan = format!(
        "version = 1\nrounds = 10000\n[round]\nsites_min = {0}\nsites_goal = {0}\n\
         selection_s = 600\nreporting_s = 600\nfailures_max = 1\n[training]\nsteps = 20\nbatch = 1\n",
        sites
    );
    lab.create_run("trial", &plan, &model, blob).await?;
    let mut told = Told::default();
    told.wait(&lab, RENEWED, count).await?;
    let (before, rounds) = (told.of(RENEWED), told.of("round_committed"));
    roll_over(&lab, work, &mut agents, &mut told).await?;
    let (renewed, committed) = (told.of(RENEWED), told.of("round_committed"));
    let abandoned = told.of("round_abandoned");
    nothing_failed(&lab, &mut agents, &mut outcome)?;
    outcome.set("renewals", before);
    outcome.set("renewals_in_roll_over", renewed - before);
    outcome.set("rounds", committed);
    outcome.set("rounds_in_roll_over", committed - rounds);
    outcome.set("rounds_abandoned", abandoned);
    outcome.require(abandoned == 0, || format!("{abandoned} rounds were abandoned"));
    outcome.require(committed > rounds && rounds > 0, || "no round ran meanwhile".into());
    let named: Vec<String> = agents.iter().map(|(name, _)| name.clone()).collect();
    drop(agents);
    lab.coordinator()?.stop()?;
    lab.start_coordinator()?;
    let _agents = named.iter().map(|name| start(work, name)).collect::<anyhow::Result<Vec<_>>>()?;
    told.wait(&lab, "round_committed", 3).await?;
    outcome.set("rounds_by_the_new_root_alone", told.of("round_committed") - committed);
    Ok(outcome)
}

/// Requires that no call failed, by the logs of both ends. One that is made again has failed too, and is counted
/// apart: a transfer that lasts past its certificate is cut by design, and none here lasts so long.
fn nothing_failed(
    lab: &Lab,
    agents: &mut [(String, Process)],
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let (mut failed, mut retried) = (0, 0);
    for (name, agent) in agents {
        let log = agent.log()?;
        ensure!(agent.is_running()?, "{name} has ended: {log}");
        failed += none_of(FAILURES, name, &log, outcome)?;
        retried += none_of(RETRIED, name, &log, outcome)?;
    }
    outcome.set("failed_calls", failed);
    outcome.set("retried_calls", retried);
    let refusals = none_of(REFUSALS, "the coordinator", &lab.log(), outcome)?;
    outcome.set("refusals", refusals);
    Ok(())
}

/// Requires that none of the words is in a log; in how many of its lines one is.
fn none_of(words: &[&str], who: &str, log: &str, outcome: &mut Outcome) -> anyhow::Result<usize> {
    ensure!(log.contains(" INFO "), "the log of {who} leaves out what is to be judged: {log}");
    let mut lines = 0;
    for line in log.lines().filter(|line| words.iter().any(|word| line.contains(word))) {
        lines += 1;
        outcome.require(false, || format!("{who}: {line}"));
    }
    Ok(lines)
}

/// A site that joins by a token and rehearses: two commands.
fn site(lab: &Lab, work: &Path, name: &str) -> anyhow::Result<(String, Process)> {
    let invited = lab.fedctl_json(&["site", "invite", name, "--auto-approve"])?;
    let token = invited["token"].as_str().context("a token")?.to_owned();
    let folder = work.join(name);
    let scans = work.join("no-scans");
    std::fs::create_dir_all(&scans)?;
    let (out, data) = (folder.display().to_string(), scans.display().to_string());
    let address = lab.address().to_owned();
    let args = ["join", &token, "--coordinator", &address, "--out", &out, "--data", &data];
    run("fedpaint-site-agent", &args)?;
    // The site's people need no more than this; a trial has no scans, and nobody who approves plans.
    std::fs::write(folder.join("policy.toml"), OPEN_POLICY)?;
    let config = folder.join("site-agent.toml");
    let text = std::fs::read_to_string(&config)?;
    let more = "\n[trainer]\ndevice = \"cpu\"\nthreads = 1\n\n[rehearsal]\nsteps_ms = 50\n";
    std::fs::write(&config, format!("policy = \"policy.toml\"\n{text}{more}"))?;
    Ok((name.to_owned(), start(work, name)?))
}

/// Starts the agent of a site that has joined; also again.
fn start(work: &Path, name: &str) -> anyhow::Result<Process> {
    let folder = work.join(name);
    let config = folder.join("site-agent.toml").display().to_string();
    let args = ["run", "--config", &config];
    Process::start_with(&program("fedpaint-site-agent")?, &args, &folder.join("agent.log"), &[])
}

/// How many entries of each kind the audit log has.
#[derive(Default)]
struct Told {
    seq: u64,
    kinds: BTreeMap<String, usize>,
}

impl Told {
    fn of(&self, kind: &str) -> usize {
        self.kinds.get(kind).copied().unwrap_or_default()
    }

    /// Waits until there are so many more of a kind.
    async fn wait(&mut self, lab: &Lab, kind: &str, more: usize) -> anyhow::Result<()> {
        let (began, target) = (Instant::now(), self.of(kind) + more);
        let patience = PATIENCE * u32::try_from(more).unwrap_or(u32::MAX);
        loop {
            self.read(lab).await?;
            if self.of(kind) >= target {
                return Ok(());
            }
            ensure!(began.elapsed() < patience, "{kind} is not told often enough; {}", lab.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn read(&mut self, lab: &Lab) -> anyhow::Result<()> {
        // A connection of its own each time: the operator's certificate changes too.
        let mut admin = lab.operator().await?;
        loop {
            let request = v1::ListEventsRequest { after_seq: self.seq, limit: 0 };
            let events = admin.list_events(request).await?.into_inner().events;
            if events.is_empty() {
                return Ok(());
            }
            for event in events {
                self.seq = event.seq;
                *self.kinds.entry(event.kind).or_default() += 1;
            }
        }
    }
}

/// A new root takes over: both are trusted everywhere, then certificates are issued under the new one, by
/// which one site more joins, and when everybody has them the old root goes.
async fn roll_over(
    lab: &Lab,
    work: &Path,
    agents: &mut Vec<(String, Process)>,
    told: &mut Told,
) -> anyhow::Result<()> {
    let (next, sites) = (work.join("next"), agents.len());
    run(
        "fedctl",
        &["ca", "init", "--federation", FEDERATION, "--out", &next.display().to_string()],
    )?;
    let old = std::fs::read_to_string(work.join("ca/ca.pem"))?;
    let new = std::fs::read_to_string(next.join("ca.pem"))?;
    trust(work, agents, &format!("{old}{new}"))?;
    // By the time that everybody has renewed once, everybody has read it.
    told.wait(lab, RENEWED, sites).await?;
    for name in ["issuing.pem", "issuing.key"] {
        std::fs::copy(next.join(name), work.join("ca").join(name))?;
    }
    // The next certificate but one is under the new root for everybody.
    told.wait(lab, RENEWED, 2 * sites).await?;
    agents.push(site(lab, work, "late-site")?);
    lab.fedctl(&["renew", "--now"])?;
    let authority = Authority::load(FEDERATION.parse()?, &next.join("ca.pem"))?;
    for (name, files) in signers(lab, work, agents) {
        let signer = files.load()?;
        let follows = authority.holder(signer.certificate(), signer.validity().not_before);
        follows.with_context(|| format!("{name} still signs by the old root"))?;
    }
    trust(work, agents, &new)?;
    told.wait(lab, RENEWED, sites).await?;
    told.wait(lab, "round_committed", 3).await
}

/// Has everybody trust these roots and no other.
fn trust(work: &Path, agents: &[(String, Process)], roots: &str) -> anyhow::Result<()> {
    write_certificate(&work.join("certificates/ca.pem"), roots)?;
    for (name, _) in agents {
        write_certificate(&work.join(name).join("ca.pem"), roots)?;
    }
    Ok(())
}

/// What everybody signs with, the coordinator too.
fn signers(lab: &Lab, work: &Path, agents: &[(String, Process)]) -> Vec<(String, SigningFiles)> {
    let files = |name: &String| {
        let file = |end| work.join(name).join(format!("{name}.signing.{end}"));
        (name.clone(), SigningFiles { certificate: file("pem"), key: file("key") })
    };
    let coordinator = ("the coordinator".to_owned(), lab.signing("main"));
    agents.iter().map(|(name, _)| files(name)).chain([coordinator]).collect()
}
