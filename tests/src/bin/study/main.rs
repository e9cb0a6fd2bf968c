//! The study: does federating help? It trains one model on all scans in one place, one by federated
//! averaging and one at each site alone, judges all of them, a regression twin and what needs no
//! training on the same held-out patients of every site, and writes a table and plots.
//!
//! Every training and every score is the real program's; this one deals out scans, starts programs and
//! keeps what they make under the names of what it was made from, so that a study that was killed goes
//! on where it was.

mod arms;
mod data;
mod exchange;
mod judge;
mod plan;
mod plot;
mod report;
mod results;
mod shop;
mod verdict;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Parser;
use fedpaint_proto::names::SiteName;
use fedpaint_proto::weights::ModelFile;

use crate::arms::{Model, Study, starts, steps_total, train_all};
use crate::data::{Data, SiteData};
use crate::judge::{judge_all, judge_baselines};
use crate::plan::{BYTES_MAX, StudyPlan};
use crate::results::{ArmFacts, Results, results};
use crate::shop::{Shop, write_whole};

/// Compares pooled, federated and site-alone training.
#[derive(Debug, Parser)]
#[command(name = "study", version)]
struct Args {
    /// What to compare: one of tests/studies/*.toml.
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// The study's folder. One that was begun goes on.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The scans of a site that has no phantoms. Once per such site.
    #[arg(long = "data", value_name = "SITE=DIR", value_parser = site_folder)]
    folders: Vec<(SiteName, PathBuf)>,
    /// How many programs run at once. By default one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    jobs: usize,
    /// Go on with a study that another build of the program began.
    #[arg(long)]
    other_build: bool,
    /// Print a summary as JSON instead of the table.
    #[arg(long)]
    json: bool,
}

fn site_folder(text: &str) -> Result<(SiteName, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or("write SITE=DIR")?;
    Ok((name.parse().map_err(|e| format!("{e}"))?, folder.into()))
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // Whichever ends first; dropping the other kills every program it has started.
    let outcome = tokio::select! {
        outcome = study(&args) => outcome,
        signal = interrupted() => signal.and_then(|name| anyhow::bail!(
            "ended by {name}; the same command goes on from here"
        )),
    };
    match outcome {
        Ok(text) => match writeln!(std::io::stdout(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            // A reader that has seen enough has closed the pipe.
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn study(args: &Args) -> anyhow::Result<String> {
    let plan = read_plan(&args.plan)?;
    let shop = Shop::open(&args.out, args.jobs)?;
    one_build(&shop, args.other_build)?;
    let (jobs, threads) = shop.parallelism();
    shop.say(&format!("{}: {jobs} at once, {threads} threads each", plan.title));
    let folders: BTreeMap<SiteName, PathBuf> = args.folders.iter().cloned().collect();
    let data = data::prepare(&shop, &plan, &folders).await?;
    let starts = starts(&shop, &plan).await?;
    let study = Arc::new(Study { shop, plan, data });
    study.shop.begin("training, steps", steps_total(&study)?);
    let checkpoints = train_all(&study, &starts).await?;
    let judged = judge_all(&study, &starts.model, &checkpoints).await?;
    let baselines = judge_baselines(&study).await?;
    let Study { plan, data, .. } = &*study;
    let sites = data.sites.iter().map(|site| site.name.to_string()).collect();
    let facts = facts(&study, &starts.model)?;
    let results = results(sites, &facts, plan.reference(), &judged, &baselines);
    save(&study, &results, &report::csv(plan, &judged, &baselines)?)?;
    study.shop.say(&format!("done: {}", args.out.display()));
    if args.json {
        return Ok(serde_json::to_string_pretty(&results)?);
    }
    Ok(report::markdown(plan, &results, &about(data)))
}

fn read_plan(path: &Path) -> anyhow::Result<StudyPlan> {
    let named = || format!("the study {}", path.display());
    let bytes = std::fs::metadata(path).with_context(named)?.len();
    ensure!(bytes <= BYTES_MAX, "{} has {bytes} bytes, at most {BYTES_MAX} are read", named());
    StudyPlan::from_toml(&std::fs::read_to_string(path).with_context(named)?).with_context(named)
}

/// Refuses to mix results of two builds, which may differ in more than speed.
fn one_build(shop: &Shop, is_other_fine: bool) -> anyhow::Result<()> {
    let (file, program) = (shop.path("program.txt"), Shop::program_digest()?);
    let before = if file.exists() { Some(std::fs::read_to_string(&file)?) } else { None };
    ensure!(
        is_other_fine || before.as_ref().is_none_or(|before| *before == program),
        "another build of the program began this study: choose another --out, or say --other-build"
    );
    write_whole(&file, program.as_bytes())
}

/// What of the arms the results need.
fn facts(study: &Study, initial: &Model) -> anyhow::Result<Vec<ArmFacts>> {
    // A round's model goes down, and what the plan asks for of it comes back up.
    let bytes_down = std::fs::metadata(&initial.path)?.len();
    let model = ModelFile::open(&initial.path)?;
    let arms = study.plan.arms.iter().map(|arm| {
        let run = study.plan.run_plan(arm)?;
        let steps = u64::from(run.training.steps) * u64::from(run.rounds);
        let (_, bytes_up) = model.update(run.exchange)?;
        Ok(ArmFacts {
            name: arm.name.to_string(),
            kind: arm.kind,
            reference: study.plan.reference_of(arm),
            family: arm.family.as_ref().map(ToString::to_string),
            steps,
            bytes_down,
            bytes_up,
        })
    });
    arms.collect()
}

/// The sites in words.
fn about(data: &Data) -> Vec<String> {
    let site = |SiteData { name, training, held_out }: &SiteData| {
        format!("{name} trains on {} cases and holds out {}", training.cases, held_out.cases)
    };
    data.sites.iter().map(site).collect()
}

fn save(study: &Study, results: &Results, csv: &[u8]) -> anyhow::Result<()> {
    let Study { shop, plan, data } = study;
    write_whole(&shop.path("scores.csv"), csv)?;
    write_whole(&shop.path("summary.json"), &serde_json::to_vec_pretty(results)?)?;
    write_whole(&shop.path("curves.png"), &plot::curves(&plan.title, results)?)?;
    write_whole(&shop.path("sites.png"), &plot::sites(&plan.title, results)?)?;
    let report = report::markdown(plan, results, &about(data));
    write_whole(&shop.path("report.md"), report.as_bytes())
}

/// The signal that ends the study before its time.
async fn interrupted() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done.map(|()| "Ctrl-C").map_err(Into::into),
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = hang_up.recv() => Ok("SIGHUP"),
    }
}
