//! What turns come to. Pure.
//!
//! A time is the median over turns of a turn's median; a ratio is the median over turns of the ratio
//! within a turn, so that a machine that is busy in one turn and idle in the next skews neither.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::measure::{Compiled, Ours, Run, Torch, Turn};

/// How far apart the first loss and gradient norm may be, relative, for the work to be the same.
const AGREEMENT_MAX: f64 = 1e-4;
/// The same where products are taken in 8 or 11 bits.
const AGREEMENT_SHORT_MAX: f64 = 5e-2;

/// The benchmark's last line.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) preset: String,
    pub(crate) batch: usize,
    pub(crate) steps: usize,
    pub(crate) warmup: usize,
    pub(crate) turns: usize,
    pub(crate) precision: String,
    pub(crate) device: String,
    pub(crate) threads: usize,
    /// The share of the machine's processors that others used, in the worst turn: 0 where the figures can
    /// be trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) others_share: Option<f64>,
    pub(crate) parameters: usize,
    /// Operations of a step, in billions.
    pub(crate) gflop_per_step: f64,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// Operations of a step by its median time.
    pub(crate) gflops: f64,
    /// Milliseconds of a step by operation.
    pub(crate) operations: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) one_thread: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) torch: Option<TorchSummary>,
}

/// Times of steps and the memory of the process.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) step_ms: f64,
    pub(crate) min_ms: f64,
    pub(crate) peak_rss_bytes: Option<u64>,
}

/// PyTorch's half and what follows from both.
#[derive(Debug, Serialize)]
pub(crate) struct TorchSummary {
    pub(crate) eager: Figures,
    pub(crate) channels_last: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compile: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compile_why_not: Option<String>,
    pub(crate) sgemm_gflops: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) one_thread: Option<TorchOneThread>,
    pub(crate) ratios: BTreeMap<&'static str, f64>,
    pub(crate) agreement: Agreement,
}

/// PyTorch on one thread.
#[derive(Debug, Serialize)]
pub(crate) struct TorchOneThread {
    pub(crate) eager: Figures,
    pub(crate) channels_last: Figures,
    pub(crate) sgemm_gflops: f64,
}

/// How far ours and PyTorch's eager steps are apart, relative.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Agreement {
    pub(crate) first_loss: f64,
    pub(crate) first_gradient_norm: f64,
    /// After as many optimiser steps as there are, which add up every rounding.
    pub(crate) last_loss: f64,
}

/// The summary of turns with all threads and, where there are any, of turns with one.
///
/// # Errors
/// If there is no turn, or the two sides did not do the same work.
pub(crate) fn summary(
    all: &[Turn],
    one: &[Turn],
    compiled: Option<Compiled>,
) -> anyhow::Result<Summary> {
    let first = all.first().context("there is no turn")?.ours.clone();
    let Ours { preset, batch, steps, warmup, precision, .. } = first;
    let Ours { device, threads, parameters, flop, .. } = first;
    let figures = figures(&runs(all, ours)).context("a turn has no steps")?;
    let gflop_per_step = flop as f64 / 1e9;
    let torch = torch(all, one, compiled)?;
    Ok(Summary {
        preset,
        batch,
        steps,
        warmup,
        turns: all.len(),
        precision,
        device,
        threads,
        others_share: all.iter().chain(one).filter_map(|turn| turn.others).max_by(f64::total_cmp),
        parameters,
        gflop_per_step,
        figures,
        gflops: gflop_per_step / figures.step_ms * 1e3,
        operations: operations(all),
        one_thread: self::figures(&runs(one, ours)),
        torch,
    })
}

fn torch(
    all: &[Turn],
    one: &[Turn],
    compiled: Option<Compiled>,
) -> anyhow::Result<Option<TorchSummary>> {
    let (Some(eager), Some(channels_last)) =
        (figures(&runs(all, eager)), figures(&runs(all, channels_last)))
    else {
        return Ok(None);
    };
    let (compile, compile_why_not) = match compiled {
        None => (None, None),
        Some(Ok(run)) => (figures(&[&run]), None),
        Some(Err(why)) => (None, Some(why)),
    };
    let mut ratios = ratios(all, one);
    if let (Some(compile), Some(ours)) = (compile, figures(&runs(all, ours))) {
        ratios.insert("step_to_compile", ours.step_ms / compile.step_ms);
    }
    let one_thread = figures(&runs(one, self::eager)).zip(figures(&runs(one, self::channels_last)));
    let one_thread = one_thread.map(|(eager, channels_last)| {
        let sgemm_gflops = median(one.iter().filter_map(sgemm)).unwrap_or_default();
        TorchOneThread { eager, channels_last, sgemm_gflops }
    });
    Ok(Some(TorchSummary {
        eager,
        channels_last,
        compile,
        compile_why_not,
        sgemm_gflops: median(all.iter().filter_map(sgemm)).unwrap_or_default(),
        one_thread,
        ratios,
        agreement: agreement(all)?,
    }))
}

/// Ours by theirs, turn by turn.
fn ratios(all: &[Turn], one: &[Turn]) -> BTreeMap<&'static str, f64> {
    let by_turn = |of: &dyn Fn(&Turn) -> Option<f64>| median(all.iter().filter_map(of));
    let step = |turn: &Turn| step_ms(ours(turn)?);
    let rate = |turn: &Turn| Some(turn.ours.flop as f64 / 1e6 / step(turn)?);
    // How much faster all threads are than one, in the same turn.
    let speed_up = |of: &dyn Fn(&Turn) -> Option<f64>| {
        median(all.iter().zip(one).filter_map(|(all, one)| Some(of(one)? / of(all)?)))
    };
    let bytes = |run: &Run| run.peak_rss_bytes.map(|bytes| bytes as f64);
    let named = [
        ("step_to_eager", by_turn(&|t| Some(step(t)? / step_ms(eager(t)?)?))),
        ("step_to_channels_last", by_turn(&|t| Some(step(t)? / step_ms(channels_last(t)?)?))),
        ("peak_rss_to_eager", by_turn(&|t| Some(bytes(ours(t)?)? / bytes(eager(t)?)?))),
        (
            "peak_rss_to_channels_last",
            by_turn(&|t| Some(bytes(ours(t)?)? / bytes(channels_last(t)?)?)),
        ),
        ("gflops_to_sgemm", by_turn(&|t| Some(rate(t)? / sgemm(t)?))),
        ("threads_speed_up", speed_up(&step)),
        ("threads_speed_up_eager", speed_up(&|t| step_ms(eager(t)?))),
        ("threads_speed_up_channels_last", speed_up(&|t| step_ms(channels_last(t)?))),
        ("threads_speed_up_sgemm", speed_up(&|t| Some(sgemm(t)?.recip()))),
    ];
    named.into_iter().filter_map(|(name, ratio)| Some((name, ratio?))).collect()
}

/// # Errors
/// If they are too far apart to be the same work.
fn agreement(turns: &[Turn]) -> anyhow::Result<Agreement> {
    let is_short = turns.iter().any(|turn| turn.ours.precision != "f32");
    let allowed = if is_short { AGREEMENT_SHORT_MAX } else { AGREEMENT_MAX };
    let mut worst = Agreement { first_loss: 0.0, first_gradient_norm: 0.0, last_loss: 0.0 };
    for turn in turns {
        let (Some(ours), Some(theirs)) = (ours(turn), eager(turn)) else { continue };
        let steps = (ours.losses.len(), theirs.losses.len());
        ensure!(steps.0 == steps.1, "we took {} steps and PyTorch {}", steps.0, steps.1);
        worst.first_loss = worst.first_loss.max(apart(&ours.losses, &theirs.losses, 0));
        worst.last_loss = worst.last_loss.max(apart(&ours.losses, &theirs.losses, steps.0 - 1));
        let norms = apart(&ours.gradient_norms, &theirs.gradient_norms, 0);
        worst.first_gradient_norm = worst.first_gradient_norm.max(norms);
    }
    let Agreement { first_loss, first_gradient_norm, .. } = worst;
    ensure!(
        first_loss <= allowed && first_gradient_norm <= allowed,
        "this is not the same work: of the first step, the loss is {first_loss:.1e} from PyTorch's and \
         the gradient's norm {first_gradient_norm:.1e}, {allowed:.0e} is allowed"
    );
    Ok(worst)
}

/// The relative distance at one place; infinite where there is no number.
fn apart(ours: &[f64], theirs: &[f64], at: usize) -> f64 {
    match (ours.get(at), theirs.get(at)) {
        (Some(ours), Some(theirs)) => {
            let apart = (ours - theirs).abs() / theirs.abs();
            if apart.is_nan() { f64::INFINITY } else { apart }
        }
        _ => f64::INFINITY,
    }
}

/// The median over turns of every operation.
fn operations(turns: &[Turn]) -> BTreeMap<String, f64> {
    let names = turns.iter().flat_map(|turn| turn.ours.operations.keys());
    let of = |name: &String| {
        let each = turns.iter().map(|turn| turn.ours.operations.get(name).copied().unwrap_or(0.0));
        (name.clone(), median(each).unwrap_or_default())
    };
    names.map(of).collect()
}

fn ours(turn: &Turn) -> Option<&Run> {
    Some(&turn.ours.run)
}

fn eager(turn: &Turn) -> Option<&Run> {
    turn.torch.as_ref().map(|Torch { eager, .. }| eager)
}

fn channels_last(turn: &Turn) -> Option<&Run> {
    turn.torch.as_ref().map(|Torch { channels_last, .. }| channels_last)
}

fn sgemm(turn: &Turn) -> Option<f64> {
    turn.torch.as_ref().map(|Torch { sgemm, .. }| sgemm.gflops)
}

fn runs<'a>(turns: &'a [Turn], of: fn(&'a Turn) -> Option<&'a Run>) -> Vec<&'a Run> {
    turns.iter().filter_map(of).collect()
}

fn step_ms(run: &Run) -> Option<f64> {
    median(run.steps_ms.iter().copied())
}

/// What runs come to; none where there is none.
fn figures(runs: &[&Run]) -> Option<Figures> {
    let steps = runs.iter().flat_map(|run| run.steps_ms.iter().copied());
    Some(Figures {
        step_ms: median(runs.iter().filter_map(|run| step_ms(run)))?,
        min_ms: steps.min_by(f64::total_cmp)?,
        peak_rss_bytes: runs.iter().filter_map(|run| run.peak_rss_bytes).max(),
    })
}

/// The middle value, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        Some(upper)
    } else {
        Some((upper + sorted[sorted.len() / 2 - 1]) / 2.0)
    }
}

#[cfg(test)]
mod tests;
