//! The training of every arm, round after round, with the program's own `train` and the coordinator's
//! own average. A federated arm does what a federation of processes does, without certificates and
//! sockets; `tests/study.rs` holds both to the same bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use fedpaint_coordinator::aggregate::Aggregate;
use fedpaint_coordinator::fedavg::{self, Contribution, Job};
use fedpaint_proto::names::SiteName;
use tokio::task::JoinSet;

use crate::data::{Data, Folder};
use crate::exchange::Sender;
use crate::plan::{ArmKind, ArmPlan, DataPlan, ModelPlan, StudyPlan};
use crate::shop::{Key, Shop, beside, finish, text, write_whole};

/// How the files end that the coordinator's arithmetic leaves beside a model: the moving average and the
/// moments of the server's optimiser.
const KEPT: [&str; 3] = [".ema", ".momentum", ".second-moment"];

/// Everything a study needs to train and judge.
#[derive(Debug)]
pub(crate) struct Study {
    pub(crate) shop: Shop,
    pub(crate) plan: StudyPlan,
    pub(crate) data: Data,
}

/// A model's file.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) path: PathBuf,
    pub(crate) key: Key,
    /// Whether it paints in one call, without diffusion.
    pub(crate) is_twin: bool,
}

/// The models that arms begin from.
#[derive(Clone, Debug)]
pub(crate) struct Starts {
    pub(crate) model: Model,
    /// Its regression twin, if an arm trains it.
    pub(crate) twin: Option<Model>,
}

/// A model that is to be judged.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// The arm's place in the plan.
    pub(crate) arm: usize,
    /// Whose it is, if the arm makes a model per site: the site's place in the plan.
    pub(crate) owner: Option<usize>,
    pub(crate) round: u32,
    pub(crate) model: Model,
}

/// One model's training: `arm` says how, `site` and `folder` on what.
#[derive(Clone, Debug)]
struct Chain {
    arm: usize,
    owner: Option<usize>,
    site: SiteName,
    folder: Folder,
}

/// The rounds of one call of `train`.
#[derive(Clone, Copy, Debug)]
struct Rounds {
    first: u32,
    count: u32,
}

/// Makes or finds the models that arms begin from.
pub(crate) async fn starts(shop: &Shop, plan: &StudyPlan) -> anyhow::Result<Starts> {
    let model = initial(shop, &plan.model, false).await?;
    let has_twin = plan.arms.iter().any(ArmPlan::is_twin);
    let twin = if has_twin { Some(initial(shop, &plan.model, true).await?) } else { None };
    Ok(Starts { model, twin })
}

async fn initial(shop: &Shop, plan: &ModelPlan, is_twin: bool) -> anyhow::Result<Model> {
    let ModelPlan { preset, image_size, seed } = plan;
    let (image_size, seed) = (image_size.to_string(), seed.to_string());
    let mut options = vec!["--preset", preset, "--image-size", &image_size, "--seed", &seed];
    let mut label = "initial";
    if is_twin {
        options.extend(["--prediction", "direct"]);
        label = "twin-initial";
    }
    let key = Key::of("initial model", &options);
    let path = shop.result("models", label, &key, "safetensors");
    if !path.exists() {
        let out = text(&path);
        let verb = ["init-model", "--out", &out];
        let args: Vec<String> = verb.iter().chain(&options).map(|&s| s.to_owned()).collect();
        shop.tool(&args).await?;
    }
    Ok(Model { path, key, is_twin })
}

/// Optimiser steps of all arms together.
pub(crate) fn steps_total(study: &Study) -> anyhow::Result<u64> {
    let sites = study.data.sites.len() as u64;
    let steps = study.plan.arms.iter().map(|arm| {
        let models = match arm.kind {
            ArmKind::Pooled | ArmKind::Twin => 1,
            ArmKind::Federated | ArmKind::Alone => sites,
        };
        let plan = study.plan.run_plan(arm)?;
        Ok(u64::from(plan.training.steps) * u64::from(plan.rounds) * models)
    });
    steps.sum()
}

/// Trains every arm and gives the models to judge, in the plan's order.
pub(crate) async fn train_all(
    study: &Arc<Study>,
    starts: &Starts,
) -> anyhow::Result<Vec<Checkpoint>> {
    let mut tasks = JoinSet::new();
    for (arm, plan) in study.plan.arms.iter().enumerate() {
        let own = starts.twin.as_ref().filter(|_| plan.is_twin());
        let start = own.unwrap_or(&starts.model);
        let chain = |owner: Option<usize>, site: SiteName, folder: &Folder| Chain {
            arm,
            owner,
            site,
            folder: folder.clone(),
        };
        let chains: Vec<Chain> = match plan.kind {
            ArmKind::Pooled | ArmKind::Twin => {
                vec![chain(None, "pooled".parse()?, &study.data.pooled)]
            }
            ArmKind::Alone => {
                let sites = study.data.sites.iter().enumerate();
                sites.map(|(i, s)| chain(Some(i), s.name.clone(), &s.training)).collect()
            }
            ArmKind::Federated => {
                tasks.spawn(federated(study.clone(), arm, start.clone()));
                Vec::new()
            }
        };
        for chain in chains {
            tasks.spawn(single(study.clone(), chain, start.clone()));
        }
    }
    let mut checkpoints = Vec::new();
    while let Some(done) = tasks.join_next().await {
        // The first failure drops the others, which ends their programs.
        checkpoints.extend(done??);
    }
    checkpoints.sort_by_key(|c| (c.arm, c.owner, c.round));
    Ok(checkpoints)
}

/// The beginning of a twin, which is judged as it is; all other arms share theirs.
fn begins(arm: usize, owner: Option<usize>, initial: &Model) -> Option<Checkpoint> {
    let checkpoint = Checkpoint { arm, owner, round: 0, model: initial.clone() };
    initial.is_twin.then_some(checkpoint)
}

/// One model on one folder, in one call of `train` from one judged round to the next.
async fn single(
    study: Arc<Study>,
    chain: Chain,
    initial: Model,
) -> anyhow::Result<Vec<Checkpoint>> {
    let mut checkpoints = Vec::from_iter(begins(chain.arm, chain.owner, &initial));
    let (mut model, mut before) = (initial, 0);
    for round in study.plan.judged_rounds() {
        let rounds = Rounds { first: before + 1, count: round - before };
        model = train(&study, &chain, &model, rounds, "models").await?;
        before = round;
        let Chain { arm, owner, .. } = chain;
        checkpoints.push(Checkpoint { arm, owner, round, model: model.clone() });
    }
    Ok(checkpoints)
}

/// One model of all sites: each trains the round's base model, and the round ends with the average.
async fn federated(
    study: Arc<Study>,
    arm: usize,
    initial: Model,
) -> anyhow::Result<Vec<Checkpoint>> {
    let mut checkpoints = Vec::from_iter(begins(arm, None, &initial));
    let (mut model, judged) = (initial, study.plan.judged_rounds());
    for round in 1..=study.plan.rounds {
        model = federated_round(&study, arm, &model, round).await?;
        if judged.contains(&round) {
            let model =
                if study.plan.evaluation.average { average(&model)? } else { model.clone() };
            checkpoints.push(Checkpoint { arm, owner: None, round, model });
        }
    }
    Ok(checkpoints)
}

/// The moving average beside a round's model.
fn average(model: &Model) -> anyhow::Result<Model> {
    let path =
        kept(&model.path).ema.context("a plan that is judged by it makes a moving average")?;
    let key = Key::of("moving average", &[model.key.as_str()]);
    Ok(Model { path, key, is_twin: model.is_twin })
}

async fn federated_round(
    study: &Arc<Study>,
    arm: usize,
    base: &Model,
    round: u32,
) -> anyhow::Result<Model> {
    let plan = &study.plan.arms[arm];
    let run = study.plan.run_plan(plan)?;
    let (canonical, number) = (run.to_toml(), round.to_string());
    let common = common_options(&study.plan.data);
    let mut parts = vec![canonical.as_str(), &common, base.key.as_str(), &number];
    for site in &study.data.sites {
        parts.extend([site.name.as_str(), site.training.key.as_str()]);
    }
    let key = Key::of("federated round", &parts);
    let path =
        study.shop.result("models", &format!("{}-r{round:04}", plan.name), &key, "safetensors");
    if path.exists() {
        let sites = study.data.sites.len() as u64;
        study.shop.advance(u64::from(run.training.steps) * sites, false);
        return Ok(Model { path, key, is_twin: base.is_twin });
    }
    let mut tasks = JoinSet::new();
    for (i, site) in study.data.sites.iter().enumerate() {
        let (name, folder) = (site.name.clone(), site.training.clone());
        let chain = Chain { arm, owner: Some(i), site: name.clone(), folder };
        let (study, base, next) = (study.clone(), base.clone(), path.clone());
        let form = run.exchange;
        let examples = u64::from(run.training.steps) * u64::from(run.training.batch);
        tasks.spawn(async move {
            let rounds = Rounds { first: round, count: 1 };
            let trained = train(&study, &chain, &base, rounds, "updates").await?;
            let sender = Sender { form, site: &name, base: &base.path, next: &next };
            let weights = sender.send(trained.path)?;
            anyhow::Ok(Contribution { site: name, weights, examples, stale: None, resent: false })
        });
    }
    let mut contributions = Vec::new();
    while let Some(done) = tasks.join_next().await {
        contributions.push(done??);
    }
    let updates: Vec<PathBuf> = contributions.iter().map(|c| c.weights.clone()).collect();
    let previous = kept(&base.path);
    let job = Job {
        plan: run.aggregation,
        committed: round - 1,
        previous,
        contributions,
        quarantine: None,
    };
    let (made, to) = (study.shop.scratch(plan.name.as_str(), &key), path.clone());
    tokio::task::spawn_blocking(move || aggregate(&job, &made, &to)).await??;
    for update in updates {
        std::fs::remove_file(&update).with_context(|| update.display().to_string())?;
    }
    Ok(Model { path, key, is_twin: base.is_twin })
}

/// A round's model and what the coordinator's arithmetic left beside it; the initial model has nothing.
fn kept(model: &Path) -> Aggregate<PathBuf> {
    let [ema, momentum, second_moment] =
        KEPT.map(|ending| Some(beside(model, ending)).filter(|path| path.exists()));
    Aggregate { model: model.to_owned(), ema, momentum, second_moment }
}

/// Makes the round's model of its updates as the coordinator does. The model gets its name last, which
/// says that what is kept beside it is there.
fn aggregate(job: &Job, made: &Path, out: &Path) -> anyhow::Result<()> {
    fedavg::aggregate(job, made)?;
    for ending in KEPT {
        let made = beside(made, ending);
        if made.exists() {
            finish(&made, &beside(out, ending))?;
        }
    }
    finish(made, out)
}

/// One call of the program's `train`, if its result is not there yet.
async fn train(
    study: &Study,
    chain: &Chain,
    base: &Model,
    rounds: Rounds,
    folder: &str,
) -> anyhow::Result<Model> {
    let (shop, arm) = (&study.shop, &study.plan.arms[chain.arm]);
    let run = study.plan.run_plan(arm)?;
    let (plan_text, common) = (run.to_toml(), common_options(&study.plan.data));
    let (first, count) = (rounds.first.to_string(), rounds.count.to_string());
    let parts = [
        plan_text.as_str(),
        &common,
        base.key.as_str(),
        chain.folder.key.as_str(),
        chain.site.as_str(),
        &first,
        &count,
    ];
    let key = Key::of("train", &parts);
    let label = format!("{}-{}-r{:04}", arm.name, chain.site, rounds.first + rounds.count - 1);
    let path = shop.result(folder, &label, &key, "safetensors");
    let steps = u64::from(run.training.steps) * u64::from(rounds.count);
    if path.exists() {
        shop.advance(steps, false);
        return Ok(Model { path, key, is_twin: base.is_twin });
    }
    let made = shop.scratch(&label, &key).with_extension("safetensors");
    let plan_file = plan_file(shop, arm, &plan_text)?;
    let options = [
        ("--plan", text(&plan_file)),
        ("--model", text(&base.path)),
        ("--data", text(&chain.folder.path)),
        ("--site", chain.site.to_string()),
        ("--first-round", first),
        ("--rounds", count),
        ("--out", text(&made)),
    ];
    let mut args = vec!["train".to_owned()];
    args.extend(options.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
    // Who is held out lies in a folder of its own: everybody in this one trains.
    args.extend(["--held-out".to_owned(), "0".to_owned()]);
    args.extend(data_args(study).into_iter().chain(shop.compute()));
    shop.tool(&args).await.with_context(|| format!("training {label}"))?;
    finish(&made, &path)?;
    shop.advance(steps, true);
    Ok(Model { path, key, is_twin: base.is_twin })
}

fn plan_file(shop: &Shop, arm: &ArmPlan, plan: &str) -> anyhow::Result<PathBuf> {
    let key = Key::of("plan", &[plan]);
    let path = shop.result("plans", arm.name.as_str(), &key, "toml");
    if !path.exists() {
        write_whole(&path, plan.as_bytes())?;
    }
    Ok(path)
}

/// What `train` and `evaluate` are told about the scans, beside where they lie.
pub(crate) fn data_args(study: &Study) -> Vec<String> {
    let DataPlan { contrasts, label_scheme, .. } = &study.plan.data;
    let cache = text(&study.shop.path("cache"));
    let contrasts = contrasts.join(",");
    let args = ["--contrasts", &contrasts, "--label-scheme", label_scheme, "--cache", &cache];
    args.map(str::to_owned).to_vec()
}

/// What of the data's options changes a result, for its key.
pub(crate) fn common_options(plan: &DataPlan) -> String {
    format!("{} {}", plan.contrasts.join(","), plan.label_scheme)
}
