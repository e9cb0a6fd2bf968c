//! What is left of a difference when the training's seed is another: arms of a family differ in nothing but that
//! seed, and each is measured by an arm of its own seed.

use serde::Serialize;

use super::{
    ArmFacts, Interval, RESAMPLES, SplitMix, are_enough, by_patient, mean, middle, own, ratio,
};
use crate::judge::Judged;

/// What arms of a family have in common.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FamilyResult {
    pub(crate) name: String,
    /// How much worse each is than what it is measured by, in the plan's order.
    pub(crate) each: Vec<f64>,
    /// Their mean. The bounds are those of a bootstrap that draws the held-out patients again, the same for all
    /// arms, and the seeds; of two or three seeds it knows little.
    pub(crate) mean: Interval,
}

/// Every arm's error and its reference's: by site, by patient.
type Pairs = Vec<Vec<(f64, f64)>>;

/// The families in the order in which the plan first names them.
pub(super) fn families(arms: &[ArmFacts], judged: &[Judged]) -> Vec<FamilyResult> {
    let mut names: Vec<&String> = Vec::new();
    for name in arms.iter().filter_map(|arm| arm.family.as_ref()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let of = |name: &String| {
        let those = arms.iter().enumerate().filter(|(_, arm)| arm.family.as_ref() == Some(name));
        let pairs = those.filter_map(|(at, arm)| Some(pairs(judged, at, arm.reference?)));
        family(name, &pairs.collect::<Vec<_>>())
    };
    names.into_iter().filter_map(of).collect()
}

fn pairs(judged: &[Judged], arm: usize, reference: usize) -> Pairs {
    let both = own(judged, arm).into_iter().zip(own(judged, reference));
    both.map(|(arm, reference)| by_patient(arm, reference)).collect()
}

fn family(name: &str, arms: &[Pairs]) -> Option<FamilyResult> {
    let first = arms.first()?;
    let all: Vec<Vec<usize>> = first.iter().map(|site| (0..site.len()).collect()).collect();
    let each: Vec<f64> = arms.iter().map(|pairs| ratio(pairs, &all) - 1.0).collect();
    let is_enough = arms.len() > 1 && arms.iter().all(|pairs| are_enough(pairs));
    let value = mean(&each);
    let bounds = is_enough.then(|| bounds(arms, first));
    Some(FamilyResult { name: name.to_owned(), each, mean: Interval { value, bounds } })
}

/// The middle 95 % of what resampled seeds and patients say.
fn bounds(arms: &[Pairs], first: &Pairs) -> (f64, f64) {
    let mut random = SplitMix(1);
    let mut draw = || {
        let patients = random.patients(first);
        let seeds = (0..arms.len()).map(|_| &arms[random.below(arms.len())]);
        mean(&seeds.map(|pairs| ratio(pairs, &patients) - 1.0).collect::<Vec<_>>())
    };
    middle((0..RESAMPLES).map(|_| draw()).collect())
}
