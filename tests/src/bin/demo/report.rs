//! How good the global models are, judged by each site on patients nobody trained on.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail};
use comfy_table::{CellAlignment, Table, presets};
use fedpaint_proto::v1;
use fedpaint_tests::process::run;
use serde::{Deserialize, Serialize};

use crate::federation::Trained;
use crate::sites::{CONTRAST, Site};

/// How many evaluations run at once; each uses one thread.
const EVALUATIONS_AT_ONCE: usize = 2;

/// How a model paints when it is judged: one sample of few steps. The noise is the same for every
/// model.
const SAMPLING: [&str; 4] = ["--steps", "5", "--samples", "1"];

/// Each held-out scan is judged in these masks, because one mask alone says little.
const MASKS: [&str; 3] = ["1", "2", "3"];

/// What `fedpaint-site-agent evaluate --output json` says, as far as the demo needs it.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Evaluation {
    /// Means over the held-out scans.
    mean: Scores,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Scores {
    /// Held-out scans, times the masks in each.
    scans: usize,
    ssim: f64,
    psnr_db: f64,
    mse: f64,
    mse_mean_fill: f64,
}

/// One line of the report: a global model at a site.
#[derive(Clone, Debug, Serialize)]
struct Row {
    round: u32,
    site: String,
    examples: u64,
    loss: Option<f64>,
    #[serde(flatten)]
    scores: Scores,
}

/// Every global model at every site.
pub(crate) struct Report {
    rows: Vec<Row>,
}

/// Has every site evaluate every global model.
pub(crate) fn evaluate(trained: &Trained, sites: &[Site], rounds: u32) -> anyhow::Result<Report> {
    let jobs: Vec<(usize, &Site)> =
        (0..trained.models.len()).flat_map(|m| sites.iter().map(move |s| (m, s))).collect();
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..EVALUATIONS_AT_ONCE {
            scope.spawn(|| {
                while let Some((round, site)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = row(trained, *round, site);
                    if let Ok(mut rows) = rows.lock() {
                        rows.push(row);
                    }
                }
            });
        }
    });
    let rows = rows.into_inner().map_err(|_| anyhow::anyhow!("an evaluation panicked"))?;
    let mut rows = rows.into_iter().collect::<anyhow::Result<Vec<Row>>>()?;
    rows.sort_by(|a, b| (a.round, &a.site).cmp(&(b.round, &b.site)));
    if rows.len() != (rounds as usize + 1) * sites.len() {
        bail!("{} of {} evaluations are missing", jobs.len() - rows.len(), jobs.len());
    }
    Ok(Report { rows })
}

fn row(trained: &Trained, model: usize, site: &Site) -> anyhow::Result<Row> {
    let judge = |mask: &&str| -> anyhow::Result<Scores> {
        let mut args = evaluation(&trained.models[model], site, SAMPLING);
        args.extend(["--seed".to_owned(), (*mask).to_owned()]);
        let text = run("fedpaint-site-agent", &args)
            .with_context(|| format!("evaluating round {model} at {}", site.name))?;
        let evaluation: Evaluation = serde_json::from_str(&text).context("its JSON")?;
        Ok(evaluation.mean)
    };
    let scores = MASKS.iter().map(judge).collect::<anyhow::Result<Vec<Scores>>>()?;
    let member = member(trained, model, &site.name);
    Ok(Row {
        round: u32::try_from(model)?,
        site: site.name.clone(),
        examples: member.map_or(0, |m| m.examples),
        loss: member.and_then(|m| m.report.as_ref()).map(|report| report.loss_mean),
        scores: mean(&scores),
    })
}

/// How the model paints what people look at: one sample of many steps, as real as it gets.
const SAMPLING_TO_SEE: [&str; 4] = ["--steps", "25", "--samples", "1"];

/// The command line of an evaluation.
fn evaluation(model: &Path, site: &Site, sampling: [&str; 4]) -> Vec<String> {
    let (model, data) = (model.display().to_string(), site.data.display().to_string());
    let args = ["evaluate", "--model", &model, "--data", &data, "--output", "json"];
    let compute = ["--device", "cpu", "--threads", "1", "--contrasts", CONTRAST];
    // The report compares with the mean alone.
    let baselines = ["--baselines", "mean"];
    let scheme = ["--label-scheme", &site.label_scheme];
    let all = args.into_iter().chain(compute).chain(baselines).chain(sampling).chain(scheme);
    all.map(str::to_owned).collect()
}

/// Has the first site paint its held-out patients with the last model; says what lies where.
pub(crate) fn inpaint(
    trained: &Trained,
    sites: &[Site],
    out: &Path,
) -> anyhow::Result<Vec<String>> {
    let last = trained.models.last().context("a model")?;
    let site = sites.first().context("a site")?;
    let painted = out.join("held-out");
    if painted.exists() {
        std::fs::remove_dir_all(&painted)?;
    }
    let save = ["--save".to_owned(), painted.display().to_string()];
    run("fedpaint-site-agent", &[evaluation(last, site, SAMPLING_TO_SEE), save.into()].concat())?;
    let (model, panel) = (out.join("model.safetensors"), out.join("panel.png"));
    std::fs::copy(last, &model)?;
    std::fs::rename(painted.join("panel.png"), &panel)?;
    Ok(vec![
        format!("the final model            {}", model.display()),
        format!("{:<10} inpainted       {}/*-inpainted.nii.gz", site.name, painted.display()),
        format!("what it looks like         {}", panel.display()),
    ])
}

/// The mean over masks.
fn mean(scores: &[Scores]) -> Scores {
    let mean = |value: fn(&Scores) -> f64| {
        scores.iter().map(value).sum::<f64>() / scores.len().max(1) as f64
    };
    Scores {
        scans: scores.iter().map(|s| s.scans).sum(),
        ssim: mean(|s| s.ssim),
        psnr_db: mean(|s| s.psnr_db),
        mse: mean(|s| s.mse),
        mse_mean_fill: mean(|s| s.mse_mean_fill),
    }
}

/// The site's part in the round that made a model.
fn member<'a>(trained: &'a Trained, model: usize, site: &str) -> Option<&'a v1::Member> {
    let round = trained.rounds.get(model.checked_sub(1)?)?;
    round.members.iter().find(|member| member.site == site)
}

impl Report {
    /// The table, the verdict and the memory, on stdout.
    pub(crate) fn print(&self, trained: &Trained) -> anyhow::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header([
            "round",
            "site",
            "examples",
            "training loss",
            "SSIM",
            "PSNR dB",
            "MSE",
            "mean fill MSE",
        ]);
        for row in &self.rows {
            let Scores { ssim, psnr_db, mse, mse_mean_fill, .. } = row.scores;
            table.add_row([
                row.round.to_string(),
                row.site.clone(),
                row.examples.to_string(),
                row.loss.map_or("-".into(), |loss| format!("{loss:.4}")),
                format!("{ssim:.4}"),
                format!("{psnr_db:.2}"),
                format!("{mse:.5}"),
                format!("{mse_mean_fill:.5}"),
            ]);
        }
        for index in [0, 2, 3, 4, 5, 6, 7] {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = format!("{table}\n\n");
        for (initial, last) in self.ends() {
            text += &verdict(initial, last);
        }
        for (name, bytes) in &trained.peak_rss_bytes {
            text += &format!("peak memory of {name}: {} MiB\n", bytes >> 20);
        }
        use std::io::Write;
        Ok(std::io::stdout().write_all(text.as_bytes())?)
    }

    /// The initial and the last model at every site.
    fn ends(&self) -> impl Iterator<Item = (&Row, &Row)> {
        let last = self.rows.iter().map(|row| row.round).max().unwrap_or(0);
        self.rows.iter().filter(|row| row.round == 0).filter_map(move |initial| {
            let of_site = |row: &&Row| row.round == last && row.site == initial.site;
            self.rows.iter().find(of_site).map(|row| (initial, row))
        })
    }

    /// The same as JSON.
    pub(crate) fn save(&self, trained: &Trained, path: &Path) -> anyhow::Result<()> {
        let peaks: serde_json::Map<String, serde_json::Value> = trained
            .peak_rss_bytes
            .iter()
            .map(|(name, bytes)| (name.clone(), (*bytes).into()))
            .collect();
        let summary = serde_json::json!({ "rows": self.rows, "peak_rss_bytes": peaks });
        std::fs::write(path, serde_json::to_vec_pretty(&summary)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn verdict(initial: &Row, last: &Row) -> String {
    let to_initial = last.scores.mse / initial.scores.mse;
    let to_mean = last.scores.mse / last.scores.mse_mean_fill;
    let word = if to_initial < 0.5 && to_mean < 1.0 { "better" } else { "NOT better" };
    format!(
        "{:<10} {word}: masked MSE over {} masks in held-out scans is {to_initial:.2} of the initial model's \
         and {to_mean:.2} of filling with the mean\n",
        last.site, last.scores.scans
    )
}
