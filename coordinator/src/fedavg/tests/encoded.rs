//! Updates that travel in fewer bits, under every rule: whatever is made of them is made of the numbers that they
//! hold.

use fedpaint_proto::plan::{AggregationRule, Encoding, ExchangePlan, Part};
use fedpaint_proto::weights::{Sources, encode};

use super::rules::{Cohort, RULES, by, quarantine};
use super::*;
use crate::standing::Outlier;

const ENCODINGS: [Encoding; 3] = [Encoding::Bf16, Encoding::Int8, Encoding::Int4];

/// An update in fewer bits, trained from `base`; what it leaves out is left out for good.
fn shortened(of: &Contribution, base: &Path, encoding: Encoding) -> Contribution {
    let beside = |ending: &str| of.weights.with_extension(ending);
    let (update, left) = (beside("update"), beside("left"));
    let sources = Sources { base, trained: &of.weights, remainder: None };
    encode(ExchangePlan { encoding, part: Part::All }, sources, &update, &left).unwrap();
    Contribution { weights: update, ..of.clone() }
}

/// The whole model of the numbers that an update holds, which is the average of it alone.
fn whole(of: &Contribution, base: &Path) -> Contribution {
    let weights = of.weights.with_extension("whole");
    let alone = Contribution { stale: None, ..of.clone() };
    average(base, &[alone], &weights).unwrap();
    Contribution { weights, ..of.clone() }
}

#[test]
fn by_every_rule_encoded_updates_count_as_whole_models_of_the_numbers_that_they_hold() {
    let cohort = Cohort::new(7, |at, moved| {
        if at == 2 {
            moved.iter_mut().for_each(|value| *value *= -100.0);
        }
    });
    let path = |name: &str| cohort.folder.path().join(name);
    for encoding in ENCODINGS {
        let fresh = cohort.contributions.iter();
        let mut sent: Vec<(Contribution, PathBuf)> =
            fresh.map(|of| (shortened(of, &path("base"), encoding), path("base"))).collect();
        // One that was trained from another model and comes two rounds late.
        let mut late =
            shortened(&sent_as(&cohort.contributions[4], &path("late")), &path("a"), encoding);
        late.stale = Some(Stale { base: path("a"), rounds: 2 });
        sent.push((late, path("a")));
        for rule in RULES {
            for screened in [None, quarantine(&[])] {
                let mut job = cohort.job(by(rule), screened);
                job.contributions = sent.iter().map(|(update, _)| update.clone()).collect();
                let encoded = aggregate(&job, &path("out")).unwrap();
                job.contributions = sent.iter().map(|(update, base)| whole(update, base)).collect();
                let plain = aggregate(&job, &path("plain")).unwrap();
                assert_eq!(
                    encoded.files.model.blob, plain.files.model.blob,
                    "{encoding:?} {rule:?}"
                );
                assert_eq!(encoded.standings, plain.standings, "{encoding:?} {rule:?}");
                assert_eq!(encoded.standings[2].outlier, Some(Outlier::Length));
            }
        }
    }
}

/// The same update in a file of its own.
fn sent_as(of: &Contribution, file: &Path) -> Contribution {
    std::fs::copy(&of.weights, file).unwrap();
    Contribution { weights: file.to_owned(), ..of.clone() }
}

#[test]
fn two_of_seven_int8_updates_that_are_far_off_do_not_take_a_robust_rule_along_and_are_told() {
    let honest = Cohort::new(7, |_, _| ());
    let attacked = Cohort::new(7, |at, moved| {
        if at == 1 || at == 4 {
            moved.iter_mut().for_each(|value| *value *= -1e4);
        }
    });
    let base = attacked.folder.path().join("base");
    let length = honest.norms().iter().sum::<f64>() / 7.0;
    for rule in
        [AggregationRule::Median, AggregationRule::TrimmedMean, AggregationRule::GeometricMedian]
    {
        let plan = AggregationPlan { trim: 0.3, ..by(rule) };
        let (clean, _) = honest.made(&honest.job(plan.clone(), None));
        let mut job = attacked.job(plan, None);
        let updates = attacked.contributions.iter();
        job.contributions = updates.map(|of| shortened(of, &base, Encoding::Int8)).collect();
        let (found, made) = attacked.made(&job);
        let square: f64 = clean.iter().zip(&found).map(|(a, b)| (a - b).powi(2)).sum();
        assert!(square.sqrt() < 0.7 * length, "{rule:?}: {}", square.sqrt() / length);
        let told = made.standings.iter().map(|standing| standing.outlier.is_some());
        assert_eq!(told.collect::<Vec<_>>(), [false, true, false, false, true, false, false]);
    }
}
