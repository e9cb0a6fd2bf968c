//! Every model judged on every site's held-out patients by the program's own `evaluate`, with the same
//! masks and the same noise for all. It computes no score itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::arms::{Checkpoint, Model, Study, common_options, data_args};
use crate::data::SiteData;
use crate::shop::{Key, text, write_whole};

/// The method of a report that is the model.
const MODEL: &str = "model";

/// The methods that no training needs, as `evaluate` names them.
const BASELINES: [&str; 5] = ["zero", "mean", "mirror", "harmonic", "biharmonic"];

/// How good one model is at one site.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    /// The arm's place in the plan; none for the model that all begin from.
    pub(crate) arm: Option<usize>,
    /// Whose model it is, if the arm makes one per site.
    pub(crate) owner: Option<usize>,
    pub(crate) round: u32,
    /// The site whose patients it paints.
    pub(crate) site: usize,
    /// Every held-out scan in every mask.
    pub(crate) scans: Vec<Scan>,
}

/// The scores of one scan in one mask. A kept file may say more of it, which is not read.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Scan {
    /// Whose it is; that stays in the study's folder and is in no report.
    pub(crate) patient: String,
    pub(crate) ssim: f64,
    /// Mean squared error of intensities in [0, 1], inside the mask.
    pub(crate) mse: f64,
}

/// What one trivial method scores everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Baseline {
    pub(crate) name: String,
    /// At every site, every held-out scan in every mask.
    pub(crate) sites: Vec<Vec<Scan>>,
}

/// What `evaluate --output json` says, as far as a study needs it.
#[derive(Deserialize)]
struct Report {
    scans: Vec<Reported>,
}

#[derive(Deserialize)]
struct Reported {
    patient: String,
    methods: Vec<Method>,
}

#[derive(Deserialize)]
struct Method {
    method: String,
    ssim: f64,
    mse: f64,
}

/// One model at one site.
#[derive(Clone, Debug)]
struct Trial {
    arm: Option<usize>,
    owner: Option<usize>,
    round: u32,
    model: Model,
    site: usize,
}

/// Judges the initial model and every checkpoint. A site's own model is judged at that site, and the
/// last one at every site.
pub(crate) async fn judge_all(
    study: &Arc<Study>,
    initial: &Model,
    checkpoints: &[Checkpoint],
) -> anyhow::Result<Vec<Judged>> {
    let trials = trials(study, initial, checkpoints);
    let masks = study.plan.evaluation.masks.len();
    study.shop.begin("judging, models at sites in masks", (trials.len() * masks) as u64);
    let mut tasks = JoinSet::new();
    for (place, trial) in trials.into_iter().enumerate() {
        let study = study.clone();
        tasks.spawn(async move { Ok((place, judge(&study, trial).await?)) });
    }
    let mut judged: Vec<(usize, Judged)> = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let done: anyhow::Result<(usize, Judged)> = done?;
        judged.push(done?);
    }
    judged.sort_by_key(|(place, _)| *place);
    Ok(judged.into_iter().map(|(_, judged)| judged).collect())
}

fn trials(study: &Study, initial: &Model, checkpoints: &[Checkpoint]) -> Vec<Trial> {
    let sites = study.data.sites.len();
    let start = (0..sites).map(|site| {
        let model = initial.clone();
        Trial { arm: None, owner: None, round: 0, model, site }
    });
    let later = checkpoints.iter().flat_map(|checkpoint| {
        let Checkpoint { arm, owner, round, model } = checkpoint.clone();
        let is_last = round == study.plan.rounds;
        let is_judged = move |site: &usize| is_last || owner.is_none_or(|owner| owner == *site);
        let trial = move |site| {
            let model = model.clone();
            Trial { arm: Some(arm), owner, round, model, site }
        };
        (0..sites).filter(is_judged).map(trial)
    });
    start.chain(later).collect()
}

async fn judge(study: &Study, trial: Trial) -> anyhow::Result<Judged> {
    let Trial { arm, owner, round, model, site } = trial;
    let mut scans = Vec::new();
    for mask in &study.plan.evaluation.masks {
        scans.extend(evaluate(study, &model, site, *mask).await?);
    }
    Ok(Judged { arm, owner, round, site, scans })
}

/// One call of the program's `evaluate`, if its result is not there yet.
async fn evaluate(
    study: &Study,
    model: &Model,
    site: usize,
    mask: u64,
) -> anyhow::Result<Vec<Scan>> {
    let site = &study.data.sites[site];
    let (steps, seed) = (study.plan.evaluation.steps.to_string(), mask.to_string());
    let common = common_options(&study.plan.data);
    // A twin takes no steps, but the name of its scores may say them.
    let parts = [model.key.as_str(), site.held_out.key.as_str(), &common, &steps, &seed];
    let key = Key::of("evaluate", &parts);
    let path = study.shop.result("scores", site.name.as_str(), &key, "json");
    if path.exists() {
        study.shop.advance(1, false);
        return read(&path);
    }
    let model_path = text(&model.path);
    let mut painter = vec!["--no-baselines", "--model", &model_path];
    if !model.is_twin {
        painter.extend(["--samples", "1", "--steps", &steps]);
    }
    let said = ask(study, site, mask, &painter).await;
    let said = said.with_context(|| format!("judging {model_path} at {}", site.name))?;
    let scans = scans(&said, MODEL).context("what evaluate said")?;
    write_whole(&path, &serde_json::to_vec(&scans)?)?;
    study.shop.advance(1, true);
    Ok(scans)
}

/// Scores the baselines at every site, once and not once per model: no training changes them.
pub(crate) async fn judge_baselines(study: &Arc<Study>) -> anyhow::Result<Vec<Baseline>> {
    let (sites, masks) = (study.data.sites.len(), &study.plan.evaluation.masks);
    study.shop.begin("scoring baselines, sites in masks", (sites * masks.len()) as u64);
    let mut tasks = JoinSet::new();
    for site in 0..sites {
        for mask in masks.clone() {
            let study = study.clone();
            tasks.spawn(async move { Ok((site, mask, fills(&study, site, mask).await?)) });
        }
    }
    let mut found: Vec<(usize, u64, Fills)> = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let done: anyhow::Result<(usize, u64, Fills)> = done?;
        found.push(done?);
    }
    found.sort_by_key(|(site, mask, _)| (*site, *mask));
    let baseline = |name: &str| {
        let mut scores = vec![Vec::new(); sites];
        for (site, _, fills) in &found {
            scores[*site].extend(fills.get(name).into_iter().flatten().cloned());
        }
        Baseline { name: name.to_owned(), sites: scores }
    };
    Ok(BASELINES.map(baseline).into())
}

/// The scores of every baseline, by its name.
type Fills = BTreeMap<String, Vec<Scan>>;

/// One call of `evaluate` for all baselines, if its result is not there yet.
async fn fills(study: &Study, site: usize, mask: u64) -> anyhow::Result<Fills> {
    let site = &study.data.sites[site];
    let (common, names) = (common_options(&study.plan.data), BASELINES.join(","));
    let key =
        Key::of("baselines", &[site.held_out.key.as_str(), &common, &mask.to_string(), &names]);
    let path = study.shop.result("scores", &format!("{}-baselines", site.name), &key, "json");
    if path.exists() {
        study.shop.advance(1, false);
        return read(&path);
    }
    let said = ask(study, site, mask, &["--baselines-only", "--baselines", &names]).await;
    let said = said.with_context(|| format!("scoring baselines at {}", site.name))?;
    let fill = |name: &str| Ok((name.to_owned(), scans(&said, name)?));
    let fills: anyhow::Result<Fills> = BASELINES.into_iter().map(fill).collect();
    let fills = fills.context("what evaluate said")?;
    write_whole(&path, &serde_json::to_vec(&fills)?)?;
    study.shop.advance(1, true);
    Ok(fills)
}

/// A kept result.
fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    serde_json::from_slice(&std::fs::read(path)?)
        .with_context(|| format!("{} is damaged: remove it", path.display()))
}

/// What `evaluate` says of a painter on a site's held-out patients, in the masks that the seed names.
async fn ask(
    study: &Study,
    site: &SiteData,
    mask: u64,
    painter: &[&str],
) -> anyhow::Result<String> {
    let (data, seed) = (text(&site.held_out.path), mask.to_string());
    let common = ["--all", "--data", &data, "--seed", &seed, "--output", "json"];
    let words = ["evaluate"].iter().chain(painter).chain(&common);
    let mut args: Vec<String> = words.map(|&word| word.to_owned()).collect();
    args.extend(data_args(study).into_iter().chain(study.shop.compute()));
    study.shop.tool(&args).await
}

/// What a report says of a method, scan by scan.
fn scans(report: &str, method: &str) -> anyhow::Result<Vec<Scan>> {
    let Report { scans } = serde_json::from_str(report)?;
    let scan = |Reported { patient, methods }: Reported| {
        let found = methods.iter().find(|found| found.method == method);
        let found = found.with_context(|| format!("it has no scores of the method {method}"))?;
        Ok(Scan { patient, ssim: found.ssim, mse: found.mse })
    };
    scans.into_iter().map(scan).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_gives_the_scores_of_the_method_that_is_asked_for_whatever_else_it_says() {
        let said = r#"{"model": "ab", "scans": [{"case": "A-1-0", "patient": "A-1", "voxels": 9,
            "methods": [{"method": "mean", "ssim": 0.1, "mse": 0.5, "psnr": null},
                        {"method": "model", "ssim": 0.9, "mse": 0.25, "psnr": 6.0}]}]}"#;
        let scan = |ssim, mse| Scan { patient: "A-1".into(), ssim, mse };
        assert_eq!(scans(said, MODEL).unwrap(), [scan(0.9, 0.25)]);
        assert_eq!(scans(said, "mean").unwrap(), [scan(0.1, 0.5)]);
        let error = scans(said, "zero").unwrap_err().to_string();
        assert!(error.contains("method zero"), "{error}");
    }
}
