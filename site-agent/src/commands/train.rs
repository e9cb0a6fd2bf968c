//! `train`: one site alone, without a coordinator. A federation of this one site would come to the same
//! model, bit for bit, if its plan takes the plain mean of the updates, which of one update is itself.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use fedpaint_proto::limits::PLAN_BYTES_MAX;
use fedpaint_proto::names::SiteName;
use fedpaint_proto::plan::{AggregationPlan, RunPlan, ServerOptimizer};

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
    /// The run's plan, of which `[training]` counts, and `part` of `[exchange]`.
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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// The trained model's file, written after every round. Beside it, NAME.split.json says which scans
    /// trained.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    compute: ComputeOptions,
}

/// Trains, writes the model after every round and prints the last one's digest.
///
/// # Errors
/// If the plan, the model or the data cannot be used, or the training fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    let plan = read_plan(&args.plan)?;
    let rounds = rounds(args.first_round, args.rounds, plan.rounds)?;
    if !is_plain_mean(&plan.aggregation) {
        tracing::warn!(
            "one site alone goes on from its own update: the plan's optimizer and learning_rate of \
             [aggregation] are not applied"
        );
    }
    if !plan.exchange.encoding.is_lossless() {
        tracing::warn!("one site alone sends no update: the plan's encoding is not applied");
    }
    check_out(&args.out)?;
    let cohort = Cohort::discover(&args.data.settings()?)?;
    let (mut weights, _) = load_model(&args.model)?;
    let machine = Machine { device: args.compute.open()?, memory_max: None };
    let bar = output::bar("scans");
    cohort.survey(&|| false, &mut |done, total| output::advance(&bar, done, total))?;
    bar.finish_and_clear();
    let bar = output::bar("training");
    let split = args.out.with_extension("split.json");
    for number in rounds {
        let mut progress = |Progress { step, steps, .. }: Progress| {
            output::advance(&bar, step as usize, steps as usize);
        };
        let mut watch = Watch { is_stopped: &|| false, progress: &mut progress };
        let part = plan.exchange.part;
        let key = RoundKey { plan: &plan.training, number, site: &args.site, part };
        let done = train_round(&weights, &cohort, &machine, key, Journal::none(), &mut watch)
            .with_context(|| format!("round {number}"))?;
        weights = done.weights;
        checkpoint::save(&weights, &args.out)?;
        cohort.manifest().write(&split).with_context(|| split.display().to_string())?;
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
    }
    bar.finish_and_clear();
    output::print(&digest_of(&weights)?.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// The rounds to train: as many as were asked for, or else those that the plan has.
fn rounds(first: u32, asked: Option<u32>, planned: u32) -> Result<RangeInclusive<u32>> {
    let last = asked.map_or(planned, |rounds| first.saturating_add(rounds - 1));
    anyhow::ensure!(
        first <= last,
        "the plan has {planned} rounds and --first-round is {first}: say with --rounds how many more"
    );
    Ok(first..=last)
}

/// Whether a round's model is the mean of its updates and nothing else.
fn is_plain_mean(aggregation: &AggregationPlan) -> bool {
    aggregation.optimizer == ServerOptimizer::Average && aggregation.learning_rate == 1.0
}

/// Whether a model can be written there, asked before hours go into it.
fn check_out(out: &Path) -> Result<()> {
    let named = || format!("cannot write the model {}", out.display());
    anyhow::ensure!(!out.is_dir(), "{}: it is a folder, name a file", named());
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    tempfile::tempfile_in(folder.unwrap_or(Path::new("."))).with_context(named)?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rounds_are_those_asked_for_or_left_and_none_at_all_is_refused() {
        assert_eq!(rounds(1, None, 5).unwrap(), 1..=5);
        assert_eq!(rounds(4, None, 5).unwrap(), 4..=5);
        assert_eq!(rounds(6, Some(2), 5).unwrap(), 6..=7);
        assert_eq!(rounds(u32::MAX, Some(9), 5).unwrap(), u32::MAX..=u32::MAX);
        let refused = rounds(6, None, 5).unwrap_err().to_string();
        assert!(refused.contains("5 rounds") && refused.contains("--rounds"), "{refused}");
    }

    #[test]
    fn a_server_that_steps_otherwise_than_to_the_mean_is_told_from_one_that_does_not() {
        let plan = AggregationPlan::default();
        assert!(is_plain_mean(&plan));
        let momentum = ServerOptimizer::Momentum;
        assert!(!is_plain_mean(&AggregationPlan { optimizer: momentum, ..plan.clone() }));
        assert!(!is_plain_mean(&AggregationPlan { learning_rate: 0.5, ..plan }));
    }
}
