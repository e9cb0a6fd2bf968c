//! Every model judged on every site's held-out patients by the program's own `evaluate`, with the same
//! masks and the same noise for all. It computes no score itself.

use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::arms::{Checkpoint, Model, Study, common_options, data_args};
use crate::shop::{Key, text, write_whole};

/// The method of a report that is the model, and the one of the baselines that a study shows.
const MODEL: &str = "model";
const FILL: &str = "mean";

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

/// The scores of one scan in one mask.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Scan {
    /// Whose it is; that stays in the study's folder and is in no report.
    pub(crate) patient: String,
    pub(crate) ssim: f64,
    /// Mean squared error of intensities in [0, 1], inside the mask.
    pub(crate) mse: f64,
    pub(crate) mse_mean_fill: f64,
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
    let parts = [model.key.as_str(), site.held_out.key.as_str(), &common, &steps, &seed];
    let key = Key::of("evaluate", &parts);
    let path = study.shop.result("scores", site.name.as_str(), &key, "json");
    if path.exists() {
        study.shop.advance(1, false);
        return serde_json::from_slice(&std::fs::read(&path)?)
            .with_context(|| format!("{} is damaged: remove it", path.display()));
    }
    let options = [
        ("--model", text(&model.path)),
        ("--data", text(&site.held_out.path)),
        ("--steps", steps),
        ("--seed", seed),
        ("--output", "json".to_owned()),
    ];
    let mut args =
        ["evaluate", "--all", "--samples", "1", "--baselines", FILL].map(str::to_owned).to_vec();
    args.extend(options.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
    args.extend(data_args(study).into_iter().chain(study.shop.compute()));
    let said = study.shop.tool(&args).await;
    let said = said.with_context(|| format!("judging {} at {}", text(&model.path), site.name))?;
    let scans = scans(&said).context("what evaluate said")?;
    write_whole(&path, &serde_json::to_vec(&scans)?)?;
    study.shop.advance(1, true);
    Ok(scans)
}

/// The scans of a report.
fn scans(report: &str) -> anyhow::Result<Vec<Scan>> {
    let Report { scans } = serde_json::from_str(report)?;
    let scan = |Reported { patient, methods }: Reported| {
        let of = |name: &str| {
            let found = methods.iter().find(|method| method.method == name);
            found.with_context(|| format!("it has no scores of the method {name}"))
        };
        let (model, fill) = (of(MODEL)?, of(FILL)?);
        Ok(Scan { patient, ssim: model.ssim, mse: model.mse, mse_mean_fill: fill.mse })
    };
    scans.into_iter().map(scan).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_gives_the_models_scores_and_the_mean_fills_whatever_else_it_says() {
        let said = r#"{"model": "ab", "scans": [{"case": "A-1-0", "patient": "A-1", "voxels": 9,
            "methods": [{"method": "mean", "ssim": 0.1, "mse": 0.5, "psnr": null},
                        {"method": "model", "ssim": 0.9, "mse": 0.25, "psnr": 6.0}]}]}"#;
        let scan = Scan { patient: "A-1".into(), ssim: 0.9, mse: 0.25, mse_mean_fill: 0.5 };
        assert_eq!(scans(said).unwrap(), [scan]);
        let error = scans(&said.replace("\"mean\"", "\"zero\"")).unwrap_err().to_string();
        assert!(error.contains("method mean"), "{error}");
    }
}
