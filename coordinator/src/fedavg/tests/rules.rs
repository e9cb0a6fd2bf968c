//! Every rule against plain loops over numbers in memory, and what it makes of updates that are unlike the others.

use super::*;
use crate::standing::Outlier;
use crate::testing::Dice;
use fedpaint_proto::plan::AggregationRule;

/// Several blocks and a part of one.
const MANY: usize = 20_003;

const SITES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

pub(super) const RULES: [AggregationRule; 5] = [
    AggregationRule::Mean,
    AggregationRule::ClippedMean,
    AggregationRule::Median,
    AggregationRule::TrimmedMean,
    AggregationRule::GeometricMedian,
];

pub(super) struct Cohort {
    pub(super) folder: tempfile::TempDir,
    base: Vec<f64>,
    /// Each update's difference to the base model.
    moves: Vec<Vec<f64>>,
    pub(super) contributions: Vec<Contribution>,
}

fn random(dice: &mut Dice, len: usize, size: f64) -> Vec<f64> {
    (0..len).map(|_| (dice.roll(2_000_001) as f64 * 1e-6 - 1.0) * size).collect()
}

fn write_values(path: &Path, values: &[f64]) {
    let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    write_model(path, &[("a", &values[..MANY - 3]), ("b", &values[MANY - 3..])]);
}

fn read_values(path: &Path) -> Vec<f64> {
    let model = ModelFile::open(path).unwrap();
    [model.read(0).unwrap(), model.read(1).unwrap()].concat().into_iter().map(f64::from).collect()
}

impl Cohort {
    /// Sites that go one way, each with a way of its own besides; `unlike` changes who is to be different.
    pub(super) fn new(sites: usize, unlike: impl Fn(usize, &mut Vec<f64>)) -> Cohort {
        let folder = tempfile::tempdir().unwrap();
        let mut dice = Dice(42);
        let base = random(&mut dice, MANY, 0.1);
        write_values(&folder.path().join("base"), &base);
        let base = read_values(&folder.path().join("base"));
        let common = random(&mut dice, MANY, 1e-3);
        let (mut moves, mut contributions) = (Vec::new(), Vec::new());
        for (at, site) in SITES.iter().take(sites).enumerate() {
            let own = random(&mut dice, MANY, 1e-3);
            let mut moved: Vec<f64> = common.iter().zip(own).map(|(c, o)| c + o).collect();
            unlike(at, &mut moved);
            let weights = folder.path().join(site);
            let values: Vec<f64> = base.iter().zip(&moved).map(|(b, m)| b + m).collect();
            write_values(&weights, &values);
            let values = read_values(&weights);
            moves.push(values.iter().zip(&base).map(|(v, b)| v - b).collect());
            let (site, examples) = (site.parse().unwrap(), 10 + at as u64);
            let (stale, resent) = (None, false);
            contributions.push(Contribution { site, weights, examples, stale, resent });
        }
        Cohort { folder, base, moves, contributions }
    }

    pub(super) fn job(&self, plan: AggregationPlan, quarantine: Option<Quarantine>) -> Job {
        Job {
            plan,
            committed: 0,
            previous: Aggregate::of(self.folder.path().join("base")),
            contributions: self.contributions.clone(),
            quarantine,
        }
    }

    /// What is made, as numbers.
    pub(super) fn made(&self, job: &Job) -> (Vec<f64>, Made<Written>) {
        let out = self.folder.path().join("out");
        let made = aggregate(job, &out).unwrap();
        (read_values(&out), made)
    }

    pub(super) fn norms(&self) -> Vec<f64> {
        self.moves.iter().map(|m| m.iter().map(|v| v * v).sum::<f64>().sqrt()).collect()
    }
}

pub(super) fn by(rule: AggregationRule) -> AggregationPlan {
    AggregationPlan { rule, ema_decay: 0.0, ..AggregationPlan::default() }
}

pub(super) fn quarantine(exempt: &[&str]) -> Option<Quarantine> {
    let exempt = exempt.iter().map(|site| site.parse().unwrap()).collect();
    Quarantine::of(&AggregationPlan { quarantine: true, ..AggregationPlan::default() }, 3, exempt)
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// What a rule makes of moves, written down from its definition.
fn reference(cohort: &Cohort, plan: &AggregationPlan) -> Vec<f64> {
    let (moves, n) = (&cohort.moves, cohort.moves.len());
    let weights: Vec<f64> = (0..n).map(|at| 10.0 + at as f64).collect();
    let column = |at: usize| sorted(moves.iter().map(|m| m[at]));
    let weighted = |weights: &[f64], at: usize| {
        let sum: f64 = moves.iter().zip(weights).map(|(m, w)| m[at] * w).sum();
        sum / weights.iter().sum::<f64>()
    };
    let moved: Vec<f64> = match plan.rule {
        AggregationRule::Mean => (0..MANY).map(|at| weighted(&weights, at)).collect(),
        AggregationRule::ClippedMean => {
            let norms = cohort.norms();
            let sorted = sorted(norms.iter().copied());
            let most = sorted[(n - 1) / 2] + sorted[n / 2];
            let total: f64 = weights.iter().sum();
            let one = |at: usize| {
                let parts = moves.iter().zip(&norms).zip(&weights);
                parts.map(|((m, norm), w)| w / total * m[at] * (most / norm).min(1.0)).sum()
            };
            (0..MANY).map(one).collect()
        }
        AggregationRule::Median => (0..MANY)
            .map(|at| {
                let column = column(at);
                (column[(n - 1) / 2] + column[n / 2]) / 2.0
            })
            .collect(),
        AggregationRule::TrimmedMean => {
            let dropped = (plan.trim * n as f64).floor() as usize;
            (0..MANY).map(|at| mean(&column(at)[dropped..n - dropped])).collect()
        }
        AggregationRule::GeometricMedian => {
            // The mean, with who is longer than the median made as long.
            let norms = cohort.norms();
            let sorted = sorted(norms.iter().copied());
            let middle = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
            let shorter: Vec<f64> = norms.iter().map(|norm| (middle / norm).min(1.0)).collect();
            let first = |at: usize| {
                let sum: f64 = moves.iter().zip(&shorter).map(|(m, s)| m[at] * s).sum();
                sum / n as f64
            };
            let mut z: Vec<f64> = (0..MANY).map(first).collect();
            for _ in 0..plan.weiszfeld_steps {
                let distance = |m: &Vec<f64>| {
                    m.iter().zip(&z).map(|(m, z)| (m - z).powi(2)).sum::<f64>().sqrt()
                };
                let beta: Vec<f64> = moves.iter().map(|m| 1.0 / distance(m)).collect();
                z = (0..MANY).map(|at| weighted(&beta, at)).collect();
            }
            z
        }
    };
    cohort.base.iter().zip(moved).map(|(base, moved)| base + moved).collect()
}

#[test]
fn every_rule_makes_what_its_definition_says_of_an_odd_and_an_even_number_of_updates() {
    for sites in [5, 6, 7] {
        // One goes three times as far: it is clipped, and no outlier.
        let far = |at: usize, moved: &mut Vec<f64>| {
            if at == 1 {
                moved.iter_mut().for_each(|value| *value *= 3.0);
            }
        };
        let cohort = Cohort::new(sites, far);
        for rule in RULES {
            let plan = by(rule);
            let (found, _) = cohort.made(&cohort.job(plan.clone(), None));
            let expected = reference(&cohort, &plan);
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() < 1e-8,
                    "{rule:?} of {sites}: {found}, {expected}"
                );
            }
        }
    }
}

#[test]
fn by_every_rule_the_bytes_and_what_is_told_follow_from_neither_threads_nor_arrival() {
    let cohort = Cohort::new(7, |_, _| ());
    let folder = cohort.folder.path();
    let mut late = cohort.contributions[2].clone();
    late.stale = Some(Stale { base: folder.join("a"), rounds: 2 });
    for rule in RULES {
        for screened in [None, quarantine(&[])] {
            let mut job = cohort.job(by(rule), screened);
            job.contributions.push(late.clone());
            let one = aggregate_on(&job, &folder.join("one"), 1).unwrap();
            assert_eq!(one.standings.len(), 8);
            assert!(one.standings[7].late && !one.standings[6].late);
            for threads in [2, 5] {
                job.contributions.rotate_left(threads);
                let other = aggregate_on(&job, &folder.join("other"), threads).unwrap();
                assert_eq!(other.files.model.blob, one.files.model.blob, "{rule:?}");
                assert_eq!(other.standings, one.standings, "{rule:?}");
            }
        }
    }
}

#[test]
fn two_of_seven_updates_that_are_far_off_do_not_take_a_robust_rule_along() {
    let honest = Cohort::new(7, |_, _| ());
    let attacked = Cohort::new(7, |at, moved| {
        if at == 1 || at == 4 {
            moved.iter_mut().for_each(|value| *value *= -1e4);
        }
    });
    let drift = |rule: AggregationRule| {
        let (clean, _) = honest.made(&honest.job(by(rule), None));
        let plan = AggregationPlan { trim: 0.3, ..by(rule) };
        let (found, _) = attacked.made(&attacked.job(plan, None));
        let square: f64 = clean.iter().zip(&found).map(|(a, b)| (a - b).powi(2)).sum();
        square.sqrt() / mean(&honest.norms())
    };
    assert!(drift(AggregationRule::Mean) > 100.0);
    assert!(drift(AggregationRule::ClippedMean) < 2.0);
    for rule in
        [AggregationRule::Median, AggregationRule::TrimmedMean, AggregationRule::GeometricMedian]
    {
        let drift = drift(rule);
        assert!(drift < 0.7, "{rule:?}: {drift} of an honest update's length");
    }
}

#[test]
fn where_no_update_is_too_long_clipping_makes_the_bytes_of_the_mean() {
    let cohort = Cohort::new(6, |_, _| ());
    let (_, plain) = cohort.made(&cohort.job(by(AggregationRule::Mean), None));
    let clipped = by(AggregationRule::ClippedMean);
    let (_, made) = cohort.made(&cohort.job(clipped.clone(), None));
    assert_eq!(made.files.model.blob, plain.files.model.blob);
    let bound = AggregationPlan { clip_norm: mean(&cohort.norms()) / 2.0, ..clipped };
    let (_, made) = cohort.made(&cohort.job(bound, None));
    assert_ne!(made.files.model.blob, plain.files.model.blob);
}

#[test]
fn an_update_is_told_by_its_length_and_by_its_direction_beside_the_others() {
    let cohort = Cohort::new(6, |_, _| ());
    for screened in [None, quarantine(&[])] {
        let (_, made) = cohort.made(&cohort.job(by(AggregationRule::Mean), screened));
        for (at, standing) in made.standings.iter().enumerate() {
            let others = |i: usize| -> f64 {
                let others = cohort.moves.iter().enumerate().filter(|(other, _)| *other != at);
                others.map(|(_, m)| m[i]).sum()
            };
            let others: Vec<f64> = (0..MANY).map(others).collect();
            let product: f64 = cohort.moves[at].iter().zip(&others).map(|(a, b)| a * b).sum();
            let length = others.iter().map(|v| v * v).sum::<f64>().sqrt();
            let norm = cohort.norms()[at];
            assert!((f64::from(standing.norm) / norm - 1.0).abs() < 1e-6);
            let cosine = f64::from(standing.cosine.unwrap());
            assert!((cosine - product / length / norm).abs() < 1e-6, "{cosine}");
            assert_eq!((standing.outlier, standing.excluded), (None, false));
        }
    }
    let alone = Cohort::new(1, |_, _| ());
    let (_, made) = alone.made(&alone.job(by(AggregationRule::Mean), None));
    assert_eq!(made.standings[0].cosine, None, "there is nobody to compare with");
}

#[test]
fn an_outlier_is_told_and_under_a_quarantine_the_model_is_made_of_the_others() {
    let attack = |at: usize, moved: &mut Vec<f64>| {
        if at == 2 {
            moved.iter_mut().for_each(|value| *value *= 100.0);
        }
        if at == 5 {
            moved.iter_mut().for_each(|value| *value = -*value);
        }
    };
    let cohort = Cohort::new(7, attack);
    for rule in RULES {
        let plan = by(rule);
        let (_, made) = cohort.made(&cohort.job(plan.clone(), quarantine(&[])));
        let outliers: Vec<_> = made.standings.iter().map(|s| s.outlier).collect();
        let (length, direction) = (Some(Outlier::Length), Some(Outlier::Direction));
        assert_eq!(outliers, [None, None, length, None, None, direction, None], "{rule:?}");
        assert!(made.standings.iter().all(|s| s.excluded == s.outlier.is_some()));

        let mut others = cohort.job(plan.clone(), None);
        others.contributions.retain(|c| !["c", "f"].contains(&c.site.as_str()));
        let (_, without) = cohort.made(&others);
        assert_eq!(made.files.model.blob, without.files.model.blob, "{rule:?}");

        let (_, exempt) = cohort.made(&cohort.job(plan.clone(), quarantine(&["f", "c"])));
        assert!(exempt.standings.iter().all(|s| !s.excluded));
        let (_, all) = cohort.made(&cohort.job(plan, None));
        assert_eq!(exempt.files.model.blob, all.files.model.blob, "{rule:?}");
        assert!(all.standings[2].outlier == length && !all.standings[2].excluded);
    }
    let strict = quarantine(&[]).map(|of| Quarantine { updates_min: 6, ..of });
    let job = cohort.job(by(AggregationRule::Mean), strict);
    let error = aggregate(&job, &cohort.folder.path().join("out")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "5 updates are left of the 6 that the plan wants: quarantined are c, f"
    );
}

#[test]
fn an_update_that_is_the_base_model_itself_breaks_no_rule_and_is_told() {
    let cohort = Cohort::new(6, |at, moved| {
        if at == 0 {
            moved.fill(0.0);
        }
    });
    let still = Cohort::new(5, |_, moved| moved.fill(0.0));
    for rule in RULES {
        let (made, told) = cohort.made(&cohort.job(by(rule), None));
        assert!(made.iter().all(|value| value.is_finite()), "{rule:?}");
        assert_eq!(told.standings[0].outlier, Some(Outlier::Length), "{rule:?}");
        assert_eq!((told.standings[0].norm, told.standings[0].cosine), (0.0, None));
        let (made, told) = still.made(&still.job(by(rule), quarantine(&[])));
        assert_eq!(made, still.base, "{rule:?}");
        assert!(told.standings.iter().all(|s| s.outlier.is_none()), "{rule:?}");
    }
}
