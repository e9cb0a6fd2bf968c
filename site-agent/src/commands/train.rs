//! `train`: one site alone, without a coordinator. For a federation of this one site it would come
//! to the same model, bit for bit.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use fedpaint_proto::limits::PLAN_BYTES_MAX;
use fedpaint_proto::names::SiteName;
use fedpaint_proto::plan::RunPlan;

use super::options::{ComputeOptions, DataOptions, digest_of, load_model};
use super::output;
use crate::cohort::Cohort;
use crate::local_round::{Machine, RoundKey, Watch, train_round};
use crate::model::checkpoint;
use crate::pipe::Progress;
use crate::train::journal::Journal;

/// Options of `train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's plan, of which `[training]` counts.
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// The model to begin from.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The site's name, from which random draws follow.
    #[arg(long, default_value = "alone")]
    site: SiteName,
    /// The number of the first round, to go on from the model of the round before it.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    first_round: u32,
    /// How many rounds. By default those that the plan has from the first on.
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// The trained model's file. Beside it, NAME.split.json says which scans trained.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    compute: ComputeOptions,
}

/// Trains, writes the model and prints its digest.
///
/// # Errors
/// If the plan, the model or the data cannot be used, or the training fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    let plan = read_plan(&args.plan)?;
    let cohort = Cohort::discover(&args.data.settings()?)?;
    let (mut weights, _) = load_model(&args.model)?;
    let machine = Machine { device: args.compute.open()?, memory_max: None };
    let bar = output::bar("scans");
    cohort.survey(&|| false, &mut |done, total| output::advance(&bar, done, total))?;
    bar.finish_and_clear();
    let bar = output::bar("training");
    let first = args.first_round;
    let rounds = args.rounds.unwrap_or(plan.rounds.saturating_sub(first - 1));
    for number in first..first.saturating_add(rounds) {
        let mut progress = |Progress { step, steps, .. }: Progress| {
            output::advance(&bar, step as usize, steps as usize);
        };
        let mut watch = Watch { is_stopped: &|| false, progress: &mut progress };
        let key = RoundKey { plan: &plan.training, number, site: &args.site };
        let done = train_round(&weights, &cohort, &machine, key, Journal::none(), &mut watch)
            .with_context(|| format!("round {number}"))?;
        bar.suspend(|| {
            let (first, last) = (done.report.loss_first, done.report.loss_last);
            let by_noise = done
                .loss_by_noise
                .map(|loss| loss.map_or("none".into(), |loss| format!("{loss:.4}")))
                .join(" ");
            tracing::info!(
                round = number,
                examples = done.examples,
                first,
                last,
                by_noise,
                "trained"
            );
        });
        weights = done.weights;
    }
    bar.finish_and_clear();
    checkpoint::save(&weights, &args.out)?;
    let split = args.out.with_extension("split.json");
    cohort.manifest().write(&split).with_context(|| split.display().to_string())?;
    output::print(&digest_of(&weights)?.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn read_plan(path: &PathBuf) -> Result<RunPlan> {
    let named = || format!("the plan {}", path.display());
    let bytes = std::fs::metadata(path).with_context(named)?.len();
    anyhow::ensure!(
        bytes <= PLAN_BYTES_MAX as u64,
        "the plan {} has {bytes} bytes, more than the {PLAN_BYTES_MAX} a plan may have",
        path.display()
    );
    let text = std::fs::read_to_string(path).with_context(named)?;
    RunPlan::from_toml(&text).with_context(named)
}
