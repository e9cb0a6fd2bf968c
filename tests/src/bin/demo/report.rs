//! How good the global models are, judged by each site on patients nobody trained on, beside what needs
//! no training. It computes no score itself.

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
const SAMPLING: [&str; 4] = ["--sampler", "ddim", "--steps", "5"];

/// Each held-out scan is judged in these masks, because one mask alone says little.
const MASKS: [&str; 3] = ["1", "2", "3"];

/// What `fedpaint-site-agent evaluate --output json` says, as far as the demo needs it.
#[derive(Debug, Deserialize)]
struct Evaluation {
    scans: Vec<Scan>,
}

#[derive(Debug, Deserialize)]
struct Scan {
    methods: Vec<Method>,
}

/// What a model or a baseline scores on one scan.
#[derive(Debug, Deserialize)]
struct Method {
    method: String,
    ssim: f64,
    psnr_01: f64,
    mse: f64,
}

/// Means over the held-out scans in every mask.
#[derive(Clone, Debug, Serialize)]
struct Scores {
    /// Held-out scans, times the masks in each.
    scans: usize,
    ssim: f64,
    psnr_db: f64,
    mse: f64,
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

/// Another line: a method that needs no training, or the twin, at a site.
#[derive(Clone, Debug, Serialize)]
struct Baseline {
    method: String,
    site: String,
    #[serde(flatten)]
    scores: Scores,
}

/// Every global model and every baseline at every site.
pub(crate) struct Report {
    rows: Vec<Row>,
    baselines: Vec<Baseline>,
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
    let baselines = sites.iter().map(|site| baselines(trained, site));
    let baselines = baselines.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Report { rows, baselines: baselines.concat() })
}

/// The method of an evaluation that is the model.
const MODEL: &str = "model";

/// The method that is the same network without diffusion.
const TWIN: &str = "regression";

fn row(trained: &Trained, model: usize, site: &Site) -> anyhow::Result<Row> {
    let mut methods = Vec::new();
    for mask in MASKS {
        let mut args = evaluation(&trained.models[model], site, SAMPLING);
        args.extend(["--no-baselines", "--seed", mask].map(str::to_owned));
        let said = ask(&args);
        methods.extend(said.with_context(|| format!("judging round {model} at {}", site.name))?);
    }
    let member = member(trained, model, &site.name);
    Ok(Row {
        round: u32::try_from(model)?,
        site: site.name.clone(),
        examples: member.map_or(0, |m| m.examples),
        loss: member.and_then(|m| m.report.as_ref()).map(|report| report.loss_mean),
        scores: mean(&methods, MODEL),
    })
}

/// What the methods that need no training and the twin score at a site, once for all models.
fn baselines(trained: &Trained, site: &Site) -> anyhow::Result<Vec<Baseline>> {
    let twin = trained.twin.display().to_string();
    let mut methods = Vec::new();
    for mask in MASKS {
        let args = ["evaluate", "--baselines-only", "--twin", &twin, "--seed", mask];
        let args = args.map(str::to_owned);
        let said = ask(&[args.into(), on(site)].concat());
        methods.extend(said.with_context(|| format!("scoring baselines at {}", site.name))?);
    }
    let mut names: Vec<&str> = Vec::new();
    for Method { method, .. } in &methods {
        if !names.contains(&method.as_str()) {
            names.push(method);
        }
    }
    let baseline = |name: &str| Baseline {
        method: name.to_owned(),
        site: site.name.clone(),
        scores: mean(&methods, name),
    };
    Ok(names.into_iter().map(baseline).collect())
}

/// What an evaluation says of every method on every scan.
fn ask(args: &[String]) -> anyhow::Result<Vec<Method>> {
    let text = run("fedpaint-site-agent", args)?;
    let Evaluation { scans } = serde_json::from_str(&text).context("what evaluate said")?;
    Ok(scans.into_iter().flat_map(|scan| scan.methods).collect())
}

/// How the model paints what people look at: one sample of many steps, as real as it gets.
const SAMPLING_TO_SEE: [&str; 4] = ["--sampler", "ddim", "--steps", "25"];

/// The command line of a model's evaluation.
fn evaluation(model: &Path, site: &Site, sampling: [&str; 4]) -> Vec<String> {
    let model = model.display().to_string();
    let own = ["evaluate", "--model", &model];
    own.into_iter().chain(sampling).map(str::to_owned).chain(on(site)).collect()
}

/// On which scans, and how.
fn on(site: &Site) -> Vec<String> {
    let data = site.data.display().to_string();
    let scans = ["--data", &data, "--label-scheme", &site.label_scheme, "--contrasts", CONTRAST];
    let compute = ["--device", "cpu", "--threads", "1", "--output", "json"];
    scans.into_iter().chain(compute).map(str::to_owned).collect()
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
    let (twin, save) = (trained.twin.display().to_string(), painted.display().to_string());
    let more = ["--baselines", FILL, "--twin", &twin, "--save", &save].map(str::to_owned);
    run("fedpaint-site-agent", &[evaluation(last, site, SAMPLING_TO_SEE), more.into()].concat())?;
    let (model, panel) = (out.join("model.safetensors"), out.join("panel.png"));
    std::fs::copy(last, &model)?;
    std::fs::rename(painted.join("panel.png"), &panel)?;
    Ok(vec![
        format!("the final model            {}", model.display()),
        format!("{:<10} inpainted       {}/*-inpainted.nii.gz", site.name, painted.display()),
        format!("what it looks like         {}", panel.display()),
    ])
}

/// The mean of one method over scans and masks.
fn mean(methods: &[Method], name: &str) -> Scores {
    let own: Vec<&Method> = methods.iter().filter(|method| method.method == name).collect();
    let mean = |value: fn(&Method) -> f64| {
        own.iter().map(|method| value(method)).sum::<f64>() / own.len() as f64
    };
    Scores {
        scans: own.len(),
        ssim: mean(|m| m.ssim),
        psnr_db: mean(|m| m.psnr_01),
        mse: mean(|m| m.mse),
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
        table.set_header(["round", "site", "examples", "training loss", "SSIM", "PSNR dB", "MSE"]);
        for row in &self.rows {
            let (examples, loss) = (row.examples.to_string(), row.loss.map(|l| format!("{l:.4}")));
            let before = [row.round.to_string(), row.site.clone(), examples];
            let loss = [loss.unwrap_or_else(|| "-".into())];
            table.add_row(before.into_iter().chain(loss).chain(cells(&row.scores)));
        }
        for index in [0, 2, 3, 4, 5, 6] {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = format!("{table}\n\n{}\n{}\n\n", COMPARED, self.compared());
        for (initial, last) in self.ends() {
            let at_site = self.baselines.iter().filter(|baseline| baseline.site == last.site);
            text += &verdict(initial, last, &at_site.collect::<Vec<_>>());
        }
        for (name, bytes) in &trained.peak_rss_bytes {
            text += &format!("peak memory of {name}: {} MiB\n", bytes >> 20);
        }
        use std::io::Write;
        Ok(std::io::stdout().write_all(text.as_bytes())?)
    }

    /// The last model beside what needs no training and the twin, site by site, the best first.
    fn compared(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header(["site", "method", "SSIM", "PSNR dB", "MSE"]);
        for (_, last) in self.ends() {
            let of_site = self.baselines.iter().filter(|baseline| baseline.site == last.site);
            let others = of_site.map(|baseline| (called(&baseline.method), &baseline.scores));
            let mut methods: Vec<_> = others.chain([("the model", &last.scores)]).collect();
            methods.sort_by(|(_, a), (_, b)| a.mse.total_cmp(&b.mse));
            for (method, scores) in methods {
                let before = [last.site.clone(), method.to_owned()];
                table.add_row(before.into_iter().chain(cells(scores)));
            }
        }
        for index in [2, 3, 4] {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
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
        let summary = serde_json::json!({
            "rows": self.rows, "baselines": self.baselines, "peak_rss_bytes": peaks
        });
        std::fs::write(path, serde_json::to_vec_pretty(&summary)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What the second table says.
const COMPARED: &str = "The last model, its twin without diffusion (trained by the same plan) and fills without \
     training, the least error first:";

/// How a method is called to people.
fn called(method: &str) -> &str {
    if method == TWIN { "regression twin" } else { method }
}

fn cells(scores: &Scores) -> [String; 3] {
    let Scores { ssim, psnr_db, mse, .. } = scores;
    [format!("{ssim:.4}"), format!("{psnr_db:.2}"), format!("{mse:.5}")]
}

/// The baseline that a model must beat to be called better; the others are only named.
const FILL: &str = "mean";

fn verdict(initial: &Row, last: &Row, baselines: &[&Baseline]) -> String {
    let to_initial = last.scores.mse / initial.scores.mse;
    let fill = baselines.iter().find(|baseline| baseline.method == FILL);
    let to_mean = fill.map_or(f64::NAN, |fill| last.scores.mse / fill.scores.mse);
    let word = if to_initial < 0.5 && to_mean < 1.0 { "better" } else { "NOT better" };
    let those = |beats: fn(&Scores, &Scores) -> bool| {
        let beaters = baselines.iter().filter(|baseline| beats(&baseline.scores, &last.scores));
        let names: Vec<&str> = beaters.map(|baseline| called(&baseline.method)).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    format!(
        "{:<10} {word}: masked MSE over {} masks in held-out scans is {to_initial:.2} of the initial model's \
         and {to_mean:.2} of filling with the mean\n           others with less MSE: {}; with more SSIM: {}\n",
        last.site,
        last.scores.scans,
        those(|fill, model| fill.mse < model.mse),
        those(|fill, model| fill.ssim > model.ssim),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(mse: f64) -> Scores {
        Scores { scans: 3, ssim: 0.5, psnr_db: 10.0, mse }
    }

    fn row(round: u32, mse: f64) -> Row {
        let (site, examples, loss) = ("north".into(), 0, None);
        Row { round, site, examples, loss, scores: scores(mse) }
    }

    #[test]
    fn the_last_model_stands_among_the_fills_and_its_twin_in_the_order_of_their_error() {
        let baseline = |(method, mse): (&str, f64)| Baseline {
            method: method.into(),
            site: "north".into(),
            scores: scores(mse),
        };
        let baselines = [("zero", 0.9), ("mean", 0.05), (TWIN, 0.02)].map(baseline).into();
        let report = Report { rows: vec![row(0, 0.1), row(1, 0.03)], baselines };
        let text = report.compared().to_string();
        let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word} in {text}"));
        let order = ["regression twin", "the model", "mean", "zero"].map(at);
        assert!(order.is_sorted(), "{text}");
        assert!(text.contains("0.03000") && !text.contains("0.10000"), "{text}");
    }
}
