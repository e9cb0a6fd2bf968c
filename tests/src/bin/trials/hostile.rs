//! `hostile-coordinator`: a coordinator that has the federation's certificates and its own key, and turns on
//! one site in nineteen ways, one after the other until there were `--count`. The site runs the real agent and
//! trainer. Every attack must be refused, and the
//! agent must say why; a coordinator that does nothing wrong must not be.

mod attack;
mod server;
mod tls;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use fedpaint_proto::plan::PlanSigner;
use fedpaint_tests::lab::{AgentOptions, Lab, LabOptions, OPEN_POLICY};
use fedpaint_tests::outcome::{Outcome, rounded};
use fedpaint_tests::process::{Process, run};
use serde_json::{Map, Value};

use self::attack::Attack;
use self::server::{Hostile, PLANNER, STRANGER};
use crate::{Args, say};

/// The site that is turned on.
const SITE: &str = "mayo";

/// The site makes its updates up, so that an attack takes no time.
const REHEARSAL: &str = "[rehearsal]\nsteps_ms = 1\n";

/// How long an attack may go unnoticed.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the agent is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The exit code of an agent that has caught the coordinator.
const CAUGHT: i32 = 70;

/// The most bytes that the site allows an update, and here any file of its processes: 512 of them are a block of
/// the system's limit, which ends whoever writes more.
const BYTES_MAX: u64 = 1 << 20;

/// The most that may be under way to a site which has hung up, of two downloads.
const UNDER_WAY_MAX: u64 = 4 << 20;

/// What a site tells of its own accord where what the coordinator says of a model does not fit.
const MODEL: &str = "WITHDRAWAL_REASON_MODEL";

/// And where nobody whom it trusts stands behind a plan.
const SIGNERS: &str = "POLICY_RULE_SIGNERS";

/// Every attack, the words by which the agent's log must refuse it, and the reason or rule that the
/// coordinator is told.
const ATTACKS: [(Attack, &str, &str); 19] = [
    (Attack::OtherModel, "other bytes than those of blob", "WITHDRAWAL_REASON_BASE_MODEL"),
    (Attack::ReplayedRound, "this site has trained round 2", MODEL),
    (Attack::SkippedVersion, "the manifest is of version", MODEL),
    (Attack::OtherPlan, "not the one that the base model was made by", MODEL),
    (Attack::Oversize, "2097152 bytes a round, at most 1048576", "POLICY_RULE_BYTES"),
    (Attack::Endless, "other bytes than those of blob", "WITHDRAWAL_REASON_BASE_MODEL"),
    (Attack::ForkedLog, "is a fork", "LOG_DOUBT_FORK"),
    (Attack::PolicyChange, "not the one that this site has trained the run by", MODEL),
    (Attack::MoreRounds, "6 rounds, at most 5", "POLICY_RULE_ROUNDS"),
    (Attack::Unsigned, "signs no head", "LOG_DOUBT_UNSIGNED"),
    (Attack::OtherBase, "its manifest is of model", MODEL),
    (Attack::UnsignedManifest, "it has no signature", MODEL),
    (Attack::ForgedManifest, "not one of this federation's for signing", MODEL),
    (Attack::OtherParent, "the base model was not made from the model", MODEL),
    (Attack::MissedParent, "the model of round 1 was not made from the one before it", MODEL),
    (Attack::SmallCohort, "1 sites, at least 2", "POLICY_RULE_COHORT"),
    (Attack::Clock, "one of the two clocks is wrong", "LOG_DOUBT_CLOCK"),
    (Attack::StrangersPlan, "whom plan.signers does not name", SIGNERS),
    (Attack::BorrowedSignature, "is not over this plan", SIGNERS),
];

/// Runs the mode.
///
/// # Errors
/// If a program does not start.
pub(crate) async fn hostile(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let count = args.count.unwrap_or(ATTACKS.len());
    anyhow::ensure!(count > 0, "--count 0: there is nothing to try");
    let mut outcome = Outcome::default();
    let lab = Lab::prepare(&work.join("federation"), LabOptions::default())?;
    lab.issue("site", SITE, &[])?;
    for key in [PLANNER, STRANGER] {
        run("fedctl", &["plan", "keygen", "--out", &lab.path(key)])?;
    }
    let trained = honest(&lab, work).await?;
    outcome
        .require(trained >= 2, || format!("with an honest coordinator {trained} rounds are done"));
    outcome.set("honest_rounds", trained);
    let (mut refused, mut reasons, mut seconds_max) = (0, Map::new(), 0.0_f64);
    for (n, (attack, words, rule)) in ATTACKS.into_iter().cycle().take(count).enumerate() {
        let name = format!("{attack:?}");
        let folder = work.join(format!("{name}-{n}"));
        let started = Instant::now();
        let ended = attacked(&lab, &folder, attack, (words, rule)).await;
        let seconds = started.elapsed().as_secs_f64();
        match ended {
            Ok(reason) => {
                refused += 1;
                say(&format!("{name}: refused after {seconds:.1} s: {reason}"));
                reasons.insert(name, Value::from(reason));
            }
            Err(error) => outcome.broken.push(format!("{name} ({}): {error:#}", n + 1)),
        }
        seconds_max = seconds_max.max(seconds);
    }
    outcome.set("attacks", count);
    outcome.set("kinds", count.min(ATTACKS.len()));
    outcome.set("refused", refused);
    outcome.set("seconds_max", rounded(seconds_max, 1));
    outcome.set("reasons", Value::Object(reasons));
    Ok(outcome)
}

/// How many rounds the agent trains for a coordinator that does nothing wrong.
async fn honest(lab: &Lab, work: &Path) -> anyhow::Result<u32> {
    let hostile = Hostile::start(lab, &work.join("honest"), None).await?;
    let mut agent = start(lab, &hostile)?;
    let started = Instant::now();
    while hostile.submitted() < 2 {
        anyhow::ensure!(agent.is_running()?, "the agent has ended: {}", agent.log()?);
        anyhow::ensure!(started.elapsed() < PATIENCE, "nothing happens: {}", agent.log()?);
        tokio::time::sleep(LOOK).await;
    }
    agent.stop()?;
    Ok(hostile.submitted())
}

/// The line by which the agent refuses an attack, whose coordinator has its files in `folder`.
async fn attacked(
    lab: &Lab,
    folder: &Path,
    attack: Attack,
    (words, rule): (&str, &str),
) -> anyhow::Result<String> {
    let hostile = Hostile::start(lab, folder, Some(attack)).await?;
    let mut agent = start(lab, &hostile)?;
    let started = Instant::now();
    let line = loop {
        let (log, written) = (agent.log()?, largest_model(lab)?);
        let announced = hostile.model_bytes_max();
        anyhow::ensure!(written <= announced, "{written} bytes of a model of {announced}");
        if let Some(line) = log.lines().find(|line| line.contains(words)) {
            break line.to_owned();
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "it is not refused: {log}");
        tokio::time::sleep(LOOK).await;
    };
    while !hostile.was_told(rule) {
        anyhow::ensure!(started.elapsed() < PATIENCE, "the coordinator is not told of {rule}");
        tokio::time::sleep(LOOK).await;
    }
    if attack == Attack::ForkedLog {
        while agent.is_running()? {
            anyhow::ensure!(started.elapsed() < PATIENCE, "the agent goes on: {}", agent.log()?);
            tokio::time::sleep(LOOK).await;
        }
        let code = agent.ended()?.and_then(|status| status.code());
        anyhow::ensure!(code == Some(CAUGHT), "the agent ended with {code:?}");
    }
    if attack == Attack::Endless {
        let (taken, announced) = (hostile.endless(), hostile.model_bytes_max());
        let in_bounds = announced < taken && taken <= UNDER_WAY_MAX;
        anyhow::ensure!(in_bounds, "{taken} bytes were taken of a model of {announced}");
        anyhow::ensure!(agent.is_running()?, "it was ended for what it wrote: {}", agent.log()?);
    }
    let done = hostile.submitted_for_attack();
    anyhow::ensure!(done == 0, "the agent has trained what it refused");
    agent.stop().ok();
    let said = line.split("WARN").last().unwrap_or(&line);
    Ok(said.trim().to_owned())
}

/// What the site lets a federation do: everything, but for plans that another key has signed, runs of more
/// than 5 rounds, rounds of fewer than 2 sites, and updates of more than 1 MiB.
fn policy(lab: &Lab) -> anyhow::Result<String> {
    let signer = PlanSigner::load(Path::new(&lab.path(PLANNER)))?.key();
    let rules = format!("signers = [\"{signer}\"]\nrounds_max = 5");
    Ok(OPEN_POLICY
        .replace("rounds_max = 100_000", &rules)
        .replace("sites_min = 1", "sites_min = 2")
        .replace(
            "bytes_per_round_max = 1_000_000_000_000",
            &format!("bytes_per_round_max = {BYTES_MAX}"),
        ))
}

/// How a program is started that is ended if it writes a file of more than [`BYTES_MAX`].
fn limited() -> Vec<String> {
    let limit = format!("ulimit -f {} && exec \"$@\"", BYTES_MAX / 512);
    ["sh", "-c", &limit, "limited"].map(str::to_owned).to_vec()
}

/// The length of the longest file among the models that the site has, or is fetching.
fn largest_model(lab: &Lab) -> anyhow::Result<u64> {
    let folder = lab.path(&format!("workspace-{SITE}/models"));
    let Ok(files) = std::fs::read_dir(folder) else { return Ok(0) };
    // What is gone meanwhile has no length.
    Ok(files.flatten().filter_map(|file| Some(file.metadata().ok()?.len())).max().unwrap_or(0))
}

/// Starts the agent in a workspace of its own.
fn start(lab: &Lab, hostile: &Hostile) -> anyhow::Result<Process> {
    let workspace = lab.path(&format!("workspace-{SITE}"));
    match std::fs::remove_dir_all(&workspace) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context(workspace);
        }
        _ => {}
    }
    // What it says of this attack is looked for, and nothing that it said of another one.
    match std::fs::remove_file(lab.path(&format!("{SITE}.log"))) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let options = AgentOptions {
        coordinator: Some(hostile.address()),
        more: REHEARSAL.into(),
        policy: policy(lab)?,
        launcher: limited(),
        ..AgentOptions::default()
    };
    lab.start_agent(SITE, Path::new(&lab.path("")), &options)
}
