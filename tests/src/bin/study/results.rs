//! What the scores say: per site, on average, at the worst site, against pooling. Pure: numbers in,
//! numbers out; the bootstrap's draws follow from a fixed seed.

mod families;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

pub(crate) use self::families::FamilyResult;
use self::families::families;

use crate::judge::{Baseline, Judged, Scan};
use crate::plan::ArmKind;

/// The part of the pooled model's gain that counts as having learnt what there is.
const GAIN: f64 = 0.95;

/// How much worse than pooled counts as equal.
const TOLERANCE: f64 = 0.05;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2_000;

/// The fewest held-out patients of a site that an interval is drawn from.
const PATIENTS_MIN: usize = 3;

/// The part of the resamples outside of an interval, on either side.
const TAIL: f64 = 0.025;

/// What an arm is, as far as its results need it.
#[derive(Clone, Debug)]
pub(crate) struct ArmFacts {
    pub(crate) name: String,
    pub(crate) kind: ArmKind,
    /// The arm that it is measured by.
    pub(crate) reference: Option<usize>,
    /// What it differs from in the seed of its training alone.
    pub(crate) family: Option<String>,
    /// Optimiser steps of each model, or of each site's part of one.
    pub(crate) steps: u64,
    /// What every site receives in a round.
    pub(crate) bytes_down: u64,
    /// What every site sends in a round: its update.
    pub(crate) bytes_up: u64,
}

/// A study's results.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Results {
    /// The sites, in the plan's order.
    pub(crate) sites: Vec<String>,
    /// The model that all arms begin from, but twins.
    pub(crate) initial: PerSite,
    /// What needs no training.
    pub(crate) baselines: Vec<BaselineResult>,
    pub(crate) arms: Vec<ArmResult>,
    /// What arms have in common that differ in the seed of their training alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) families: Vec<FamilyResult>,
    /// The place of the arm that the others are measured by.
    pub(crate) reference: Option<usize>,
    /// Arms of one model per site: `elsewhere[arm][owner][site]`, after the last round.
    pub(crate) elsewhere: BTreeMap<String, Vec<Vec<f64>>>,
}

/// How good something is at every site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PerSite {
    /// The mean squared error on a scale of 0 to 1, inside the mask; by it arms are compared.
    pub(crate) mse: Vec<f64>,
    /// Its mean over the sites, each the same.
    pub(crate) mean: f64,
    /// Structural similarity, the mean over the sites.
    pub(crate) ssim: f64,
    /// The place of the site of most error.
    pub(crate) worst: usize,
}

/// What a trivial method scores.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BaselineResult {
    pub(crate) name: String,
    pub(crate) scores: PerSite,
    /// As [`ArmResult::excess`].
    pub(crate) excess: Option<Interval>,
}

/// What came of an arm.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ArmResult {
    pub(crate) name: String,
    pub(crate) kind: ArmKind,
    pub(crate) steps: u64,
    pub(crate) bytes_down: u64,
    pub(crate) bytes_up: u64,
    /// After which round, and how good then; the first is the initial model, round 0.
    pub(crate) curve: Vec<(u32, PerSite)>,
    /// By which arm it is measured where that is not the one of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
    /// How much worse than the pooled arm in the end, of its error: 0.05 is 5 %.
    pub(crate) excess: Option<Interval>,
    /// By site, how much worse in the end than the model that the site trained alone, of that one's
    /// error; none without such an arm, or for that arm itself.
    pub(crate) against_alone: Option<Vec<Interval>>,
    /// The first judged round with 95 % of the pooled arm's gain over the initial model.
    pub(crate) rounds_to_gain: Option<u32>,
    /// The first judged round within 5 % of the pooled arm's last error.
    pub(crate) rounds_to_equal: Option<u32>,
}

/// A value and where it lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Interval {
    pub(crate) value: f64,
    /// Of the percentile bootstrap: held-out patients of every site drawn again with replacement, the
    /// same for both arms. None where a site has fewer than [`PATIENTS_MIN`], which say nothing of others.
    pub(crate) bounds: Option<(f64, f64)>,
}

impl Display for Interval {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:+.1} %", self.value * 100.0)?;
        match self.bounds {
            Some((low, high)) => write!(f, " [{:+.1}, {:+.1}]", low * 100.0, high * 100.0),
            None => Ok(()),
        }
    }
}

impl ArmResult {
    /// How good it is in the end.
    pub(crate) fn last(&self) -> &PerSite {
        // A curve has at least the initial model.
        &self.curve[self.curve.len() - 1].1
    }
}

impl PerSite {
    /// From every site's scans in every mask.
    fn of(sites: &[&[Scan]]) -> PerSite {
        let mse: Vec<f64> = sites.iter().map(|scans| mean_of(scans, |s| s.mse)).collect();
        let ssim: Vec<f64> = sites.iter().map(|scans| mean_of(scans, |s| s.ssim)).collect();
        let worst = (0..mse.len()).max_by(|&a, &b| mse[a].total_cmp(&mse[b])).unwrap_or(0);
        PerSite { mean: mean(&mse), ssim: mean(&ssim), worst, mse }
    }
}

/// The results of the arms from the judgements of their models, and of the baselines.
pub(crate) fn results(
    sites: Vec<String>,
    arms: &[ArmFacts],
    reference: Option<usize>,
    judged: &[Judged],
    baselines: &[Baseline],
) -> Results {
    let start = judged.iter().filter(|j| j.arm.is_none()).map(|j| j.scans.as_slice());
    let initial = PerSite::of(&start.collect::<Vec<_>>());
    let curves: Vec<_> = (0..arms.len()).map(|arm| curve(&initial, judged, arm)).collect();
    let pooled = reference.map(|arm| &curves[arm][curves[arm].len() - 1].1);
    let against = |scans: &[&[Scan]], reference: Option<usize>| {
        reference.map(|reference| excess(scans, &own(judged, reference)))
    };
    let alone = arms.iter().position(|arm| arm.kind == ArmKind::Alone);
    let against_alone = |arm: usize| {
        let alone = own(judged, alone.filter(|alone| *alone != arm)?);
        let sites = own(judged, arm).into_iter().zip(alone);
        Some(sites.map(|(arm, alone)| excess(&[arm], &[alone])).collect())
    };
    let results = arms.iter().enumerate().map(|(arm, facts)| {
        let first = |limit: f64| {
            curves[arm].iter().find(|(_, scores)| scores.mean <= limit).map(|(round, _)| *round)
        };
        let ArmFacts { name, kind, reference: by, steps, bytes_down, bytes_up, .. } = facts.clone();
        ArmResult {
            name,
            kind,
            steps,
            bytes_down,
            bytes_up,
            curve: curves[arm].clone(),
            reference: by.filter(|_| by != reference).map(|by| arms[by].name.clone()),
            excess: against(&own(judged, arm), by),
            against_alone: against_alone(arm),
            rounds_to_gain: pooled
                .and_then(|p| first(initial.mean - GAIN * (initial.mean - p.mean))),
            rounds_to_equal: pooled.and_then(|p| first(p.mean * (1.0 + TOLERANCE))),
        }
    });
    let arms_results = results.collect();
    let baseline = |Baseline { name, sites }: &Baseline| {
        let scans: Vec<&[Scan]> = sites.iter().map(Vec::as_slice).collect();
        let (scores, excess) = (PerSite::of(&scans), against(&scans, reference));
        BaselineResult { name: name.clone(), scores, excess }
    };
    let baselines = baselines.iter().map(baseline).collect();
    let elsewhere = elsewhere(&sites, arms, judged);
    let families = families(arms, judged);
    Results { sites, initial, baselines, arms: arms_results, families, reference, elsewhere }
}

/// Whether a judgement is of the model that serves the site: the one of all, or the site's own.
fn serves(judged: &Judged) -> bool {
    judged.owner.is_none_or(|owner| owner == judged.site)
}

fn curve(initial: &PerSite, judged: &[Judged], arm: usize) -> Vec<(u32, PerSite)> {
    let mut rounds: BTreeMap<u32, BTreeMap<usize, &[Scan]>> = BTreeMap::new();
    for j in judged.iter().filter(|j| j.arm == Some(arm) && serves(j)) {
        rounds.entry(j.round).or_default().insert(j.site, &j.scans);
    }
    let point =
        |sites: BTreeMap<usize, &[Scan]>| PerSite::of(&sites.into_values().collect::<Vec<_>>());
    let mut curve: BTreeMap<u32, PerSite> =
        rounds.into_iter().map(|(round, sites)| (round, point(sites))).collect();
    // A twin has a beginning of its own.
    curve.entry(0).or_insert_with(|| initial.clone());
    curve.into_iter().collect()
}

/// The last judgement of an arm at every site, by the model that serves it.
fn own(judged: &[Judged], arm: usize) -> Vec<&[Scan]> {
    let all = || judged.iter().filter(|j| j.arm == Some(arm) && serves(j));
    let last = all().map(|j| j.round).max();
    let mut found: Vec<&Judged> = all().filter(|j| Some(j.round) == last).collect();
    found.sort_by_key(|j| j.site);
    found.into_iter().map(|j| j.scans.as_slice()).collect()
}

fn elsewhere(
    sites: &[String],
    arms: &[ArmFacts],
    judged: &[Judged],
) -> BTreeMap<String, Vec<Vec<f64>>> {
    let mut tables = BTreeMap::new();
    for (arm, facts) in arms.iter().enumerate().filter(|(_, facts)| facts.kind == ArmKind::Alone) {
        let all = || judged.iter().filter(|j| j.arm == Some(arm));
        let last = all().map(|j| j.round).max();
        let mut table = vec![vec![f64::NAN; sites.len()]; sites.len()];
        for j in all().filter(|j| Some(j.round) == last) {
            if let Some(owner) = j.owner {
                table[owner][j.site] = mean_of(&j.scans, |s| s.mse);
            }
        }
        tables.insert(facts.name.clone(), table);
    }
    tables
}

/// How much worse `arm` is than `reference`, both by site, of the reference's error.
fn excess(arm: &[&[Scan]], reference: &[&[Scan]]) -> Interval {
    let pairs: Vec<Vec<(f64, f64)>> =
        arm.iter().zip(reference).map(|(a, r)| by_patient(a, r)).collect();
    let all = pairs.iter().map(|site| (0..site.len()).collect()).collect::<Vec<Vec<usize>>>();
    let value = ratio(&pairs, &all) - 1.0;
    Interval { value, bounds: are_enough(&pairs).then(|| bounds(&pairs)) }
}

/// Whether every site holds out so many patients that they say something of others.
fn are_enough(pairs: &[Vec<(f64, f64)>]) -> bool {
    pairs.iter().all(|site| site.len() >= PATIENTS_MIN)
}

/// The middle 95 % of what resampled patients say.
fn bounds(pairs: &[Vec<(f64, f64)>]) -> (f64, f64) {
    let mut random = SplitMix(1);
    middle((0..RESAMPLES).map(|_| ratio(pairs, &random.patients(pairs)) - 1.0).collect())
}

/// The middle 95 % of what was resampled.
fn middle(mut resampled: Vec<f64>) -> (f64, f64) {
    resampled.sort_by(f64::total_cmp);
    let quantile = |part: f64| resampled[((RESAMPLES - 1) as f64 * part).round() as usize];
    (quantile(TAIL), quantile(1.0 - TAIL))
}

/// The mean error of every patient under both, over its scans and masks.
fn by_patient(arm: &[Scan], reference: &[Scan]) -> Vec<(f64, f64)> {
    let patients: BTreeSet<&str> = arm.iter().map(|s| s.patient.as_str()).collect();
    let of = |scans: &[Scan], patient: &str| {
        mean(&scans.iter().filter(|s| s.patient == patient).map(|s| s.mse).collect::<Vec<_>>())
    };
    patients.into_iter().map(|patient| (of(arm, patient), of(reference, patient))).collect()
}

/// The means over sites of means over the `drawn` patients, one by the other.
fn ratio(pairs: &[Vec<(f64, f64)>], drawn: &[Vec<usize>]) -> f64 {
    let side = |of: fn(&(f64, f64)) -> f64| {
        let site = |(site, drawn): (&Vec<(f64, f64)>, &Vec<usize>)| {
            mean(&drawn.iter().map(|&i| of(&site[i])).collect::<Vec<_>>())
        };
        mean(&pairs.iter().zip(drawn).map(site).collect::<Vec<_>>())
    };
    side(|pair| pair.0) / side(|pair| pair.1)
}

fn mean_of(scans: &[Scan], value: fn(&Scan) -> f64) -> f64 {
    mean(&scans.iter().map(value).collect::<Vec<_>>())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// SplitMix64 (Steele, Lea and Flood 2014): enough to draw patients, the same on every machine.
struct SplitMix(u64);

impl SplitMix {
    /// As many of every site's patients as there are, each drawn from all.
    fn patients(&mut self, pairs: &[Vec<(f64, f64)>]) -> Vec<Vec<usize>> {
        let draw = |site: &Vec<(f64, f64)>| site.iter().map(|_| self.below(site.len())).collect();
        pairs.iter().map(draw).collect()
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // The bias of a remainder by a few hundred is below 1e-16.
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests;
