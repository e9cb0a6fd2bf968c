//! What people and programs get: a CSV of every score, a Markdown table, a JSON summary. No patient is
//! named in any of them.

use std::fmt::Write;

use anyhow::Context;

use crate::judge::{Baseline, Judged, Scan};
use crate::plan::{ArmKind, StudyPlan};
use crate::results::{ArmResult, BaselineResult, FamilyResult, Interval, PerSite, Results};
use crate::verdict;

/// Every score: a row per model or baseline and site.
pub(crate) fn csv(
    plan: &StudyPlan,
    judged: &[Judged],
    baselines: &[Baseline],
) -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["kind", "arm", "owner", "round", "site", "scans", "mse", "ssim"])?;
    let name = |site: usize| plan.sites[site].name.to_string();
    for Judged { arm, owner, round, site, scans } in judged {
        let (kind, arm) = match arm {
            Some(arm) => ("arm", plan.arms[*arm].name.to_string()),
            None => ("initial", String::new()),
        };
        let (owner, round) = (owner.map_or(String::new(), name), round.to_string());
        let who = [kind.to_owned(), arm, owner, round, name(*site)];
        writer.write_record(who.into_iter().chain(means(scans)))?;
    }
    for Baseline { name: baseline, sites } in baselines {
        for (site, scans) in sites.iter().enumerate() {
            let (kind, none) = ("baseline".to_owned(), String::new());
            let who = [kind, baseline.clone(), none.clone(), none, name(site)];
            writer.write_record(who.into_iter().chain(means(scans)))?;
        }
    }
    writer.into_inner().context("the CSV")
}

/// How many scans, and their mean error and similarity.
fn means(scans: &[Scan]) -> [String; 3] {
    let mean = |of: fn(&Scan) -> f64| {
        (scans.iter().map(of).sum::<f64>() / scans.len().max(1) as f64).to_string()
    };
    [scans.len().to_string(), mean(|s| s.mse), mean(|s| s.ssim)]
}

/// The report, with the plots beside it.
pub(crate) fn markdown(plan: &StudyPlan, results: &Results, sites: &[String]) -> String {
    let mut text = format!("# {}\n\n", plan.title);
    let masks = plan.evaluation.masks.len();
    let what =
        if plan.evaluation.average { " Judged is the moving average over rounds." } else { "" };
    line(
        &mut text,
        &format!(
            "{} rounds; model `{}` at {} pixels; contrasts {}; every held-out scan judged in {masks} \
             masks with {} sampling steps. The error is the mean squared error inside the mask, of \
             intensities in [0, 1]; less is better. SSIM is structural similarity inside the mask; more \
             is better. In brackets: 95 % bootstrap interval over held-out patients.{what}",
            plan.rounds,
            plan.model.preset,
            plan.model.image_size,
            plan.data.contrasts.join(", "),
            plan.evaluation.steps,
        ),
    );
    line(&mut text, &format!("Sites: {}.", sites.join("; ")));
    main_table(&mut text, results);
    family_table(&mut text, results);
    for paragraph in verdict::paragraphs(results) {
        line(&mut text, &paragraph);
    }
    alone_table(&mut text, results);
    for (arm, table) in &results.elsewhere {
        line(&mut text, &format!("What a model of `{arm}` is worth at the other sites:"));
        let head: Vec<String> = [vec!["model of".to_owned()], results.sites.clone()].concat();
        let rows = table.iter().enumerate().map(|(owner, errors)| {
            let cells = errors.iter().map(|e| error(*e));
            [results.sites[owner].clone()].into_iter().chain(cells).collect()
        });
        grid(&mut text, &head, rows);
    }
    line(&mut text, "![error by round](curves.png)");
    line(&mut text, "![error by site](sites.png)");
    text
}

fn main_table(text: &mut String, results: &Results) {
    let reference = results.reference.map(|arm| results.arms[arm].name.as_str());
    let against_what = format!("against {}", reference.unwrap_or("pooled"));
    let fixed = ["arm", "steps", "mean error", &against_what, "mean SSIM", "worst site"];
    let last = [
        "rounds to 95 % of the gain",
        "rounds to within 5 %",
        "MB down per round and site",
        "MB up",
    ];
    let sites = results.sites.iter().map(String::as_str);
    let head: Vec<String> = fixed.into_iter().chain(sites).chain(last).map(str::to_owned).collect();
    let plain = |name: String, excess: Option<Interval>, scores: &PerSite| {
        let mut cells = vec![name, String::new(), error(scores.mean), against(excess)];
        cells.extend([error(scores.ssim), worst(results, scores)]);
        cells.extend(scores.mse.iter().map(|e| error(*e)));
        cells.extend(last.map(|_| String::new()));
        cells
    };
    let start = plain("(initial model)".to_owned(), None, &results.initial);
    let baselines = results.baselines.iter().map(|BaselineResult { name, scores, excess }| {
        plain(format!("baseline: {name}"), *excess, scores)
    });
    let arms = results.arms.iter().map(|arm| arm_row(results, arm));
    grid(text, &head, arms.chain(baselines).chain([start]));
}

/// What arms have in common that differ in the seed of their training alone.
fn family_table(text: &mut String, results: &Results) {
    if results.families.is_empty() {
        return;
    }
    line(
        text,
        "Against the arm of the same seed, by seed and on average, with the interval of a bootstrap over \
         seeds and held-out patients (of a few seeds it knows little):",
    );
    let head = ["arms", "each seed", "mean"].map(str::to_owned);
    let row = |FamilyResult { name, each, mean }: &FamilyResult| {
        let each = each.iter().map(|value| format!("{:+.1} %", value * 100.0));
        vec![name.clone(), each.collect::<Vec<_>>().join(", "), mean.to_string()]
    };
    grid(text, &head, results.families.iter().map(row));
}

/// Is a site better off with the others than alone? Site by site, with an interval of its own.
fn alone_table(text: &mut String, results: &Results) {
    let row = |arm: &ArmResult| {
        let sites = arm.against_alone.as_ref()?.iter().map(ToString::to_string);
        Some([arm.name.clone()].into_iter().chain(sites).collect::<Vec<_>>())
    };
    let rows: Vec<Vec<String>> = results.arms.iter().filter_map(row).collect();
    if rows.is_empty() {
        return;
    }
    line(text, "Against the model that each site trained alone, at that site (less is better):");
    let head: Vec<String> = [vec!["arm".to_owned()], results.sites.clone()].concat();
    grid(text, &head, rows.into_iter());
}

fn arm_row(results: &Results, arm: &ArmResult) -> Vec<String> {
    let scores = arm.last();
    let round = |round: Option<u32>| round.map_or("never".to_owned(), |round| round.to_string());
    let mut cells = vec![
        arm.name.clone(),
        arm.steps.to_string(),
        error(scores.mean),
        by(arm),
        error(scores.ssim),
        worst(results, scores),
    ];
    cells.extend(scores.mse.iter().map(|e| error(*e)));
    let mb = |bytes: u64| match arm.kind {
        ArmKind::Federated => format!("{:.3}", bytes as f64 / 1e6),
        ArmKind::Pooled | ArmKind::Alone | ArmKind::Twin => "0".to_owned(),
    };
    cells.extend([round(arm.rounds_to_gain), round(arm.rounds_to_equal)]);
    cells.extend([mb(arm.bytes_down), mb(arm.bytes_up)]);
    cells
}

/// How much worse an arm is, and than what where that is not what the others are measured by.
fn by(arm: &ArmResult) -> String {
    let than = arm.reference.as_ref().map_or(String::new(), |name| format!(" than {name}"));
    against(arm.excess) + &than
}

fn against(excess: Option<Interval>) -> String {
    excess.map_or(String::new(), |excess| excess.to_string())
}

fn worst(results: &Results, scores: &PerSite) -> String {
    format!("{} {}", results.sites[scores.worst], error(scores.mse[scores.worst]))
}

fn error(mse: f64) -> String {
    format!("{mse:.5}")
}

/// A paragraph.
fn line(text: &mut String, paragraph: &str) {
    text.push_str(paragraph);
    text.push_str("\n\n");
}

/// A Markdown table.
fn grid(text: &mut String, head: &[String], rows: impl Iterator<Item = Vec<String>>) {
    let rule = vec!["---".to_owned(); head.len()];
    for cells in [head.to_vec(), rule].into_iter().chain(rows) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push('\n');
}
