//! PURE: what is made of the updates' lengths and directions: what the operator is told, who is quarantined, and
//! how those that are left become one. No file.

use fedpaint_proto::names::SiteName;
use fedpaint_proto::plan::{AggregationPlan, AggregationRule};

use super::products::Along;
use super::robust::{self, Gram};
use super::rules::{Combine, Share};
use super::{Error, Quarantine, outliers};
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
}

/// How each update stands, where the products of all of them are known: directions are compared among those
/// whose length is like the others'. Under a quarantine outliers are excluded unless they are exempt.
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
    let mut standings = told(voices, &lengths, &cosines, &norms);
    let Some(Quarantine { updates_min, exempt }) = quarantine else { return Ok(standings) };
    for standing in &mut standings {
        standing.excluded = standing.outlier.is_some() && !exempt.contains(&standing.site);
    }
    let left = standings.iter().filter(|s| !s.excluded && !s.late).count();
    if left < *updates_min as usize {
        let sites = standings.iter().filter(|s| s.excluded).map(|s| s.site.clone()).collect();
        return Err(Error::Quarantined { left, need: *updates_min, sites });
    }
    Ok(standings)
}

/// How each update stands, where no more than their sums is known: an outlier in length leaves no direction to
/// compare with.
pub(super) fn tell(voices: &[Voice], along: &Along) -> Vec<Standing> {
    let norms: Vec<f64> = along.squares.iter().map(|square| square.sqrt()).collect();
    let mut cosines = cosines(along, &vec![true; voices.len()]);
    let lengths = outliers::lengths(&norms);
    let shown = cosines.clone();
    if lengths.contains(&true) {
        cosines.fill(None);
    }
    let mut standings = told(voices, &lengths, &cosines, &norms);
    for (standing, cosine) in standings.iter_mut().zip(shown) {
        standing.cosine = cosine.map(|cosine| cosine as f32);
    }
    standings
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

fn told(
    voices: &[Voice],
    lengths: &[bool],
    cosines: &[Option<f64>],
    norms: &[f64],
) -> Vec<Standing> {
    let compared = |k: usize| cosines[k].filter(|_| !lengths[k]);
    let known: Vec<usize> = (0..voices.len()).filter(|k| compared(*k).is_some()).collect();
    let values: Vec<f64> = known.iter().filter_map(|k| compared(*k)).collect();
    let mut directions = vec![false; voices.len()];
    for (k, outlier) in known.iter().zip(outliers::directions(&values)) {
        directions[*k] = outlier;
    }
    let one = |(k, voice): (usize, &Voice)| Standing {
        site: voice.site.clone(),
        late: voice.late,
        norm: norms[k].min(f64::from(f32::MAX)) as f32,
        cosine: cosines[k].map(|cosine| cosine as f32),
        outlier: match (lengths[k], directions[k]) {
            (true, _) => Some(Outlier::Length),
            (false, true) => Some(Outlier::Direction),
            (false, false) => None,
        },
        excluded: false,
    };
    voices.iter().enumerate().map(one).collect()
}
