//! PURE: what is made of the updates' lengths and directions: what the operator is told, who is quarantined, and
//! how those that are left become one. No file.

use fedpaint_proto::names::SiteName;
use fedpaint_proto::plan::{AggregationPlan, AggregationRule};

use super::products::Along;
use super::robust::{self, Gram};
use super::rules::{Combine, Share};
use super::{Error, Quarantine, outliers, twins};
use crate::standing::{Outlier, Standing};

/// Whose update it is, and what it counts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Voice {
    /// The site.
    pub(super) site: SiteName,
    /// Whether the update is of an earlier round.
    pub(super) late: bool,
    /// Its examples, less for one that is late.
    pub(super) weight: f64,
    /// What a late one counts beside 1 for a fresh one.
    pub(super) discount: f64,
    /// Whether the run was sent its file for an earlier round.
    pub(super) resent: bool,
}

/// How each update stands, where the products of all of them are known: directions are compared among those
/// whose length is like the others'. Who is told for what the quarantine asks for is excluded unless it is exempt.
///
/// # Errors
/// If too few updates of the round itself are left.
pub(super) fn judge(
    voices: &[Voice],
    gram: &Gram,
    quarantine: Option<&Quarantine>,
) -> Result<Vec<Standing>, Error> {
    let norms: Vec<f64> = (0..gram.len()).map(|k| gram.norm(k)).collect();
    let lengths = outliers::lengths(&norms);
    let alike: Vec<bool> = lengths.iter().map(|outlier| !outlier).collect();
    let cosines = cosines(&Along::of(gram, &alike), &alike);
    let directions = directions(&lengths, &cosines);
    let sites: Vec<&SiteName> = voices.iter().map(|voice| &voice.site).collect();
    let likeness = twins::likeness(gram, &sites);
    let mut standings = Vec::with_capacity(voices.len());
    for (k, voice) in voices.iter().enumerate() {
        let found = causes(voice, norms[k], likeness[k].is_twin, (lengths[k], directions[k]));
        let standing = standing(voice, norms[k], cosines[k], foremost(&found, quarantine));
        let nearest = likeness[k].nearest.map(|nearest| nearest as f32);
        standings.push(Standing { nearest, ..standing });
    }
    let Some(Quarantine { causes, updates_min, exempt }) = quarantine else {
        return Ok(standings);
    };
    for standing in &mut standings {
        let asked = standing.outlier.is_some_and(|outlier| causes.contains(&outlier));
        standing.excluded = asked && !exempt.contains(&standing.site);
    }
    let left = standings.iter().filter(|s| !s.excluded && !s.late).count();
    if left < *updates_min as usize {
        let sites = standings.iter().filter(|s| s.excluded).map(|s| s.site.clone()).collect();
        return Err(Error::Quarantined { left, need: *updates_min, sites });
    }
    Ok(standings)
}

/// How each update stands, where no more than their sums is known: an outlier in length leaves no direction to
/// compare with, and nobody can be told to be a twin.
pub(super) fn tell(voices: &[Voice], along: &Along) -> Vec<Standing> {
    let norms: Vec<f64> = along.squares.iter().map(|square| square.sqrt()).collect();
    let cosines = cosines(along, &vec![true; voices.len()]);
    let lengths = outliers::lengths(&norms);
    let directions = match lengths.contains(&true) {
        true => vec![false; voices.len()],
        false => directions(&lengths, &cosines),
    };
    let one = |(k, voice): (usize, &Voice)| {
        let found = causes(voice, norms[k], false, (lengths[k], directions[k]));
        standing(voice, norms[k], cosines[k], foremost(&found, None))
    };
    voices.iter().enumerate().map(one).collect()
}

/// How those that count become one.
pub(super) fn combine(
    plan: &AggregationPlan,
    voices: &[Voice],
    counts: &[bool],
    gram: Option<&Gram>,
) -> Combine {
    let mean = |weights: &[f64], scales: &[f64]| {
        let shares = weights.iter().zip(scales).zip(counts);
        let share = |((weight, scale), counts): ((&f64, &f64), &bool)| {
            counts.then_some(Share { weight: *weight, scale: *scale })
        };
        Combine::Mean(shares.map(share).collect())
    };
    let (weights, plain) = (voices.iter().map(|v| v.weight), vec![1.0; voices.len()]);
    let weights: Vec<f64> = weights.collect();
    let counted = counts.iter().filter(|counts| **counts).count();
    let middle = |dropped| Combine::Middle { counts: counts.to_vec(), dropped };
    match (plan.rule, gram) {
        (AggregationRule::ClippedMean, Some(gram)) => {
            mean(&weights, &robust::clips(plan, gram, counts))
        }
        (AggregationRule::GeometricMedian, Some(gram)) => {
            let alpha = |(v, counts): (&Voice, &bool)| if *counts { v.discount } else { 0.0 };
            let alphas: Vec<f64> = voices.iter().zip(counts).map(alpha).collect();
            mean(&robust::geometric_median(plan, gram, &alphas), &plain)
        }
        (AggregationRule::Median, _) => middle(counted.saturating_sub(1) / 2),
        (AggregationRule::TrimmedMean, _) => middle(plan.trimmed(counted)),
        // Two of these want products, which are there for them.
        (
            AggregationRule::Mean | AggregationRule::ClippedMean | AggregationRule::GeometricMedian,
            _,
        ) => mean(&weights, &plain),
    }
}

/// The cosine of each update's difference and the sum of those of the others that count.
fn cosines(along: &Along, counts: &[bool]) -> Vec<Option<f64>> {
    let parts = || along.squares.iter().zip(&along.along).zip(counts);
    let whole: f64 = parts().filter(|(_, counts)| **counts).map(|((_, along), _)| *along).sum();
    let one = |((square, along), counts): ((&f64, &f64), &bool)| {
        let own = if *counts { 1.0 } else { 0.0 };
        let product = along - own * square;
        let others = whole - own * (2.0 * along - square);
        let lengths = square.sqrt() * others.max(0.0).sqrt();
        // Of nothing there is no direction, nor where rounding is all that is left of the others.
        let known = lengths > 0.0 && others > f64::EPSILON * whole.abs().max(*square);
        known.then(|| (product / lengths).clamp(-1.0, 1.0))
    };
    parts().map(one).collect()
}

/// Whose directions are unlike the others', of those that have one and whose length is like the others'.
fn directions(lengths: &[bool], cosines: &[Option<f64>]) -> Vec<bool> {
    let compared = |k: usize| cosines[k].filter(|_| !lengths[k]);
    let known: Vec<usize> = (0..lengths.len()).filter(|k| compared(*k).is_some()).collect();
    let values: Vec<f64> = known.iter().filter_map(|k| compared(*k)).collect();
    let mut directions = vec![false; lengths.len()];
    for (k, outlier) in known.iter().zip(outliers::directions(&values)) {
        directions[*k] = outlier;
    }
    directions
}

/// All that an update is to be told for, what says most of it first.
fn causes(
    voice: &Voice,
    norm: f64,
    is_twin: bool,
    (length, direction): (bool, bool),
) -> Vec<Outlier> {
    // An update that changes nothing may be the same file in every round.
    let is_replay = voice.resent && norm > 0.0;
    let found = [
        (Outlier::Replay, is_replay),
        (Outlier::Twin, is_twin),
        (Outlier::Length, length),
        (Outlier::Direction, direction),
    ];
    found.into_iter().filter(|(_, is_found)| *is_found).map(|(cause, _)| cause).collect()
}

/// What it is told for: the first for which it is left out, or the first if there is no such.
fn foremost(causes: &[Outlier], quarantine: Option<&Quarantine>) -> Option<Outlier> {
    let is_asked = |cause: &&Outlier| quarantine.is_some_and(|q| q.causes.contains(*cause));
    causes.iter().find(is_asked).or(causes.first()).copied()
}

fn standing(voice: &Voice, norm: f64, cosine: Option<f64>, outlier: Option<Outlier>) -> Standing {
    Standing {
        site: voice.site.clone(),
        late: voice.late,
        norm: norm.min(f64::from(f32::MAX)) as f32,
        cosine: cosine.map(|cosine| cosine as f32),
        nearest: None,
        outlier,
        excluded: false,
    }
}
