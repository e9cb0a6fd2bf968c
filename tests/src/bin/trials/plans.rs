//! Plans that a hospital's policy does not allow, in front of a real agent: each is refused, by its rule, in
//! both logs, and nothing of it leaves. One plan that is allowed is trained, so that there is something that
//! could have left. Other hospitals refuse every plan, by the rules that no plan can go beyond, so that each rule
//! that there is was seen to refuse.

mod newer;
mod others;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use fedpaint_proto::names::Blob;
use fedpaint_proto::plan::PlanSignature;
use fedpaint_proto::rule::Rule;
use fedpaint_proto::v1;
use fedpaint_proto::weights::{Dtype, TensorSpec};
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::{AgentOptions, Lab};
use fedpaint_tests::models;
use fedpaint_tests::outcome::Outcome;
use fedpaint_tests::process::{Process, run};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Args;

/// Hostile plans, unless it is said how many.
const PLANS: usize = 30;

/// The hospital.
const SITE: &str = "mayo";

/// How long a refusal may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// What it allows, by plans that one key has signed.
const POLICY: &str = "[plan]\nsigners = [\"SIGNER\"]\nrounds_max = 20\nsteps_max = 50\nbatch_max = 16\nlearning_rate_max = 0.01\n\n\
    [round]\nsites_min = 2\n\n[egress]\nbytes_per_round_max = 4_000\n\
    tensors = [\"in.*\", \"out.*\", \"!*.scans\"]\nmetrics = [\"examples\", \"loss_mean\"]\n\n\
    [run]\nhours = \"always\"\n";

/// In what a plan goes beyond the policy.
#[derive(Clone, Copy, Debug)]
enum Hostility {
    ManyRounds,
    ManySteps,
    LargeBatch,
    FastLearning,
    Alone,
    Unapproved,
    LargeModel,
    NewTensor,
    ForbiddenTensor,
    WhileStopped,
    Unsigned,
    OtherSigner,
}

const HOSTILITIES: [Hostility; 12] = [
    Hostility::ManyRounds,
    Hostility::ManySteps,
    Hostility::LargeBatch,
    Hostility::FastLearning,
    Hostility::Alone,
    Hostility::Unapproved,
    Hostility::LargeModel,
    Hostility::NewTensor,
    Hostility::ForbiddenTensor,
    Hostility::WhileStopped,
    Hostility::Unsigned,
    Hostility::OtherSigner,
];

/// The key that the hospital trusts, and one that it does not.
const SIGNER: &str = "ada.plans";
const STRANGER: &str = "eve.plans";

impl Hostility {
    /// The rule that must refuse it.
    fn rule(self) -> Rule {
        match self {
            Hostility::ManyRounds => Rule::Rounds,
            Hostility::ManySteps => Rule::Steps,
            Hostility::LargeBatch => Rule::Batch,
            Hostility::FastLearning => Rule::Optimiser,
            Hostility::Alone => Rule::Cohort,
            Hostility::Unapproved => Rule::Approval,
            Hostility::LargeModel => Rule::Bytes,
            Hostility::NewTensor | Hostility::ForbiddenTensor => Rule::Tensors,
            Hostility::WhileStopped => Rule::StopFile,
            Hostility::Unsigned | Hostility::OtherSigner => Rule::Signers,
        }
    }

    /// Whose key the plan is signed with.
    fn signer(self) -> Option<&'static str> {
        match self {
            Hostility::Unsigned => None,
            Hostility::OtherSigner => Some(STRANGER),
            _ => Some(SIGNER),
        }
    }
}

/// A plan and its model.
struct Hostile {
    plan: String,
    tensors: Vec<TensorSpec>,
}

/// A plan of `number` that goes beyond the policy in one way, by how much `random` says.
fn hostile(hostility: Hostility, number: usize, random: &mut ChaCha8Rng) -> Hostile {
    let mut plan = Plan { seed: number, ..Plan::default() };
    let mut tensors = models::specs();
    let spec =
        |name: &str, shape: Vec<usize>| TensorSpec { name: name.into(), dtype: Dtype::F32, shape };
    match hostility {
        Hostility::ManyRounds => plan.rounds = random.random_range(21..=100_000),
        Hostility::ManySteps => plan.steps = random.random_range(51..=1_000_000),
        Hostility::LargeBatch => plan.batch = random.random_range(17..=1_024),
        Hostility::FastLearning => plan.learning_rate = random.random_range(0.011..1.0),
        Hostility::Alone => plan.sites_min = 1,
        Hostility::Unapproved
        | Hostility::WhileStopped
        | Hostility::Unsigned
        | Hostility::OtherSigner => {}
        Hostility::LargeModel => {
            tensors.push(spec("out.wide", vec![random.random_range(1_000..50_000)]));
        }
        Hostility::NewTensor => tensors.push(spec("patients", vec![random.random_range(1..9)])),
        Hostility::ForbiddenTensor => {
            tensors.push(spec("in.scans", vec![random.random_range(1..9)]))
        }
    }
    Hostile { plan: plan.to_toml(), tensors }
}

struct Plan {
    rounds: u32,
    steps: u32,
    batch: u32,
    learning_rate: f64,
    sites_min: u32,
    seed: usize,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { rounds: 1, steps: 2, batch: 2, learning_rate: 1e-3, sites_min: 2, seed: 0 }
    }
}

impl Plan {
    fn to_toml(&self) -> String {
        let Plan { rounds, steps, batch, learning_rate, sites_min, seed } = self;
        format!(
            "version = 1\nrounds = {rounds}\n\n[round]\nsites_min = {sites_min}\nsites_goal = 2\n\
             selection_s = 600\nreporting_s = 600\n\n[training]\nsteps = {steps}\nbatch = {batch}\n\
             learning_rate = {learning_rate}\nseed = {seed}\n"
        )
    }
}

/// The hospital and who is with it.
struct Hospital {
    lab: Lab,
    agent: Process,
    /// Another site, without which there would be no round.
    companion: FakeSite,
    folder: PathBuf,
}

impl Hospital {
    async fn found(folder: &Path) -> anyhow::Result<Hospital> {
        let lab = Lab::start(folder)?;
        lab.enroll(SITE)?;
        let companion = FakeSite::enroll(&lab, "companion").await?;
        let scans = folder.join("no-scans");
        std::fs::create_dir_all(&scans)?;
        let mut policy = POLICY.to_owned();
        for key in [SIGNER, STRANGER] {
            let file = folder.join(key).display().to_string();
            let made = run("fedctl", &["plan", "keygen", "--out", &file, "--output", "json"])?;
            let made: serde_json::Value = serde_json::from_str(&made)?;
            if key == SIGNER {
                policy = policy.replace("SIGNER", made["signer"].as_str().context("a key")?);
            }
        }
        let options = AgentOptions {
            policy,
            more: "[rehearsal]\nsteps_ms = 0\n".into(),
            ..AgentOptions::default()
        };
        let agent = lab.start_agent(SITE, &scans, &options)?;
        Ok(Hospital { lab, agent, companion, folder: folder.to_owned() })
    }

    fn stop_file(&self) -> PathBuf {
        self.folder.join(format!("workspace-{SITE}")).join("stop")
    }

    /// Approves the plans that were shown, all of them: a human who looks at nothing.
    fn approve_all(&self) -> anyhow::Result<()> {
        let config = self.folder.join(format!("{SITE}.toml")).display().to_string();
        let shown =
            run("fedpaint-site-agent", &["plan", "show", "--output", "json", "--config", &config])?;
        let shown: Vec<serde_json::Value> = serde_json::from_str(&shown)?;
        for plan in shown {
            let digest = plan["digest"].as_str().context("a digest")?.to_owned();
            if plan["approved"].is_null() {
                run("fedpaint-site-agent", &["plan", "approve", &digest, "--config", &config])?;
            }
        }
        Ok(())
    }

    async fn create(
        &self,
        name: &str,
        (plan, signer): (&str, Option<&str>),
        tensors: Vec<TensorSpec>,
    ) -> anyhow::Result<Blob> {
        let file = self.folder.join(format!("{name}.safetensors"));
        let model = models::write(&file, tensors, |_, _| 0.5)?;
        let signature = signer.map(|signer| self.sign(name, plan, signer)).transpose()?;
        self.lab.create_signed_run(name, (plan, signature), &file, model).await?;
        Ok(model)
    }

    /// Has the key of this name sign a plan.
    fn sign(&self, name: &str, plan: &str, key: &str) -> anyhow::Result<PlanSignature> {
        let file = self.folder.join(format!("{name}.toml"));
        std::fs::write(&file, plan)?;
        let (file, key) = (file.display().to_string(), self.folder.join(key).display().to_string());
        run("fedctl", &["plan", "sign", &file, "--with", &key])?;
        Ok(serde_json::from_str(&std::fs::read_to_string(format!("{file}.sig"))?)?)
    }

    /// The audit log's entries of a site and run that tell of a refusal, once there is one by `rule`.
    async fn refused(
        &mut self,
        name: &str,
        (site, rule): (&str, Rule),
    ) -> anyhow::Result<Vec<v1::Event>> {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        let about = format!("round {name}/");
        loop {
            ticks.tick().await;
            // The companion joins whatever is offered, so that rounds begin.
            let _ = self.companion.join().await;
            let events: Vec<v1::Event> = self
                .events()
                .await?
                .into_iter()
                .filter(|event| {
                    event.actor == format!("site/{site}") && event.detail.starts_with(&about)
                })
                .collect();
            let by_rule =
                |event: &&v1::Event| event.detail.contains(&format!("by the rule {rule}"));
            if events.iter().any(|event| by_rule(&event)) {
                return Ok(events.into_iter().filter(|event| is_refusal(&event.kind)).collect());
            }
            if events.iter().any(|event| event.kind == "update_accepted") {
                bail!("an update of {name} left: {events:?}");
            }
        }
    }

    /// Waits until nothing but an approval is missing.
    async fn waits_for_approval(&mut self, name: &str) -> anyhow::Result<()> {
        let refused = self.refused(name, (SITE, Rule::Approval));
        tokio::time::timeout(PATIENCE, refused).await??;
        Ok(())
    }

    /// Has the plan of a run be refused at a site by `rule`, ends the run, and says what came of it.
    async fn tried(&mut self, name: &str, (site, rule): (&str, Rule)) -> anyhow::Result<Found> {
        let refused = self.refused(name, (site, rule));
        let refused = match tokio::time::timeout(PATIENCE, refused).await {
            Ok(events) => !events?.is_empty(),
            Err(_) => false,
        };
        self.lab.fedctl(&["run", "stop", name])?;
        let log = std::fs::read_to_string(self.lab.path(&format!("{site}.log")))?;
        let told = |line: &str| {
            line.contains(&format!("{name}/")) && line.contains(&format!("rule={rule}"))
        };
        let in_site_log = log.lines().any(told);
        let (events, its) = (self.events().await?, format!("round {name}/"));
        let left = events
            .iter()
            .filter(|event| event.kind == "update_accepted" && event.detail.starts_with(&its))
            .count();
        Ok(Found { refused, in_site_log, left })
    }

    async fn events(&self) -> anyhow::Result<Vec<v1::Event>> {
        let (mut admin, mut events) = (self.lab.operator().await?, Vec::<v1::Event>::new());
        loop {
            let after_seq = events.last().map_or(0, |event| event.seq);
            let request = v1::ListEventsRequest { after_seq, limit: 0 };
            let more = admin.list_events(request).await?.into_inner().events;
            if more.is_empty() {
                return Ok(events);
            }
            events.extend(more);
        }
    }

    /// Has the allowed plan trained: it is declined until it is approved, and then an update leaves.
    async fn allowed(&mut self) -> anyhow::Result<bool> {
        let base = self
            .create("allowed", (&Plan::default().to_toml(), Some(SIGNER)), models::specs())
            .await?;
        self.waits_for_approval("allowed").await?;
        self.approve_all()?;
        let train = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            loop {
                ticks.tick().await;
                if let Ok(train) = self.companion.task().await {
                    return train.round.context("a round");
                }
            }
        };
        let round = tokio::time::timeout(PATIENCE, train).await.context("no round began")??;
        let file = self.folder.join("companion.safetensors");
        let update = models::write(&file, models::specs(), |_, _| 1.0)?;
        self.companion.upload(&round, update, &file).await?;
        self.companion.submit(&round, base.digest, update, 8).await?;
        let done = self.lab.watch("allowed", |run, _| run.state() == v1::RunState::Finished);
        tokio::time::timeout(PATIENCE, done)
            .await
            .context("the allowed plan was not trained")??;
        Ok(self
            .events()
            .await?
            .iter()
            .any(|event| event.kind == "update_accepted" && event.actor == format!("site/{SITE}")))
    }
}

/// What came of a plan that a hospital's policy does not allow.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Whether the audit log says that it was refused, by its rule.
    refused: bool,
    /// Whether the site's own log does.
    in_site_log: bool,
    /// How many updates of it were taken.
    left: usize,
}

fn is_refusal(kind: &str) -> bool {
    matches!(kind, "site_declined" | "site_withdrew")
}

/// Shows the hospital hostile plans, one after the other.
pub(crate) async fn plans(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let count = args.count.unwrap_or(PLANS);
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let mut outcome = Outcome::default();
    let mut hospital = Hospital::found(work).await?;
    let allowed = hospital.allowed().await?;
    outcome.require(allowed, || "the plan that is allowed was not trained".to_owned());
    let (mut refused, mut in_site_log, mut left, mut rules) = (0, 0, 0, BTreeSet::new());
    for number in 1..=count {
        let hostility = HOSTILITIES[(number - 1) % HOSTILITIES.len()];
        let Hostile { plan, tensors } = hostile(hostility, number, &mut random);
        let (name, rule) = (format!("hostile-{number}"), hostility.rule());
        if matches!(hostility, Hostility::WhileStopped) {
            std::fs::write(hospital.stop_file(), "")?;
        }
        hospital.create(&name, (&plan, hostility.signer()), tensors).await?;
        // What the policy would refuse after an approval is approved, as by a human who looks at nothing.
        if matches!(rule, Rule::Bytes | Rule::Tensors) {
            hospital.waits_for_approval(&name).await?;
            hospital.approve_all()?;
        }
        let found = hospital.tried(&name, (SITE, rule)).await?;
        outcome.require(found.refused, || format!("{name} was not refused by {rule}"));
        if matches!(hostility, Hostility::WhileStopped) {
            std::fs::remove_file(hospital.stop_file())?;
        }
        refused += usize::from(found.refused);
        in_site_log += usize::from(found.in_site_log);
        left += found.left;
        rules.extend((found.refused && found.in_site_log).then_some(rule));
    }
    let others = others::refuse(&mut hospital, &mut outcome).await?;
    outcome.set("other_hospitals", others.len());
    rules.extend(others);
    let unseen: Vec<&Rule> = Rule::ALL.iter().filter(|rule| !rules.contains(rule)).collect();
    outcome.require(count < HOSTILITIES.len() || unseen.is_empty(), || {
        format!("nobody was seen to refuse by {unseen:?}")
    });
    outcome.set("plans", count);
    outcome.set("refused", refused);
    outcome.set("in_site_log", in_site_log);
    outcome.set("rules", rules.len());
    outcome.set("updates_that_left", left);
    outcome.set("allowed_trained", allowed);
    outcome.require(refused == count, || format!("{refused} of {count} plans were refused"));
    outcome.require(in_site_log == count, || {
        format!("{in_site_log} of {count} refusals are in the site's log with their rule")
    });
    outcome.require(left == 0, || format!("{left} updates left the hospital"));
    hospital.agent.stop()?;
    Ok(outcome)
}
