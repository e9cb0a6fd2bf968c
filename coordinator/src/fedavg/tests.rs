//! The average against an independent computation, and its independence of arrival.

mod copies;
mod encoded;
mod large;
mod late;
mod poison;
mod rules;
mod steps;

use proptest::prelude::*;

use super::*;
use crate::testing::write_model;

const NAMES: [&str; 4] = ["mayo", "aachen", "kyoto", "oslo"];

fn contribution(folder: &Path, name: &str, values: &[f32], examples: u64) -> Contribution {
    let weights = folder.join(name);
    // Two tensors, in another order than the base's.
    write_model(&weights, &[("b", &values[..2]), ("a", &values[2..])]);
    let site = name.parse().unwrap();
    Contribution { site, weights, examples, stale: None, resent: false }
}

fn base(folder: &Path, values: usize) -> PathBuf {
    let path = folder.join("base");
    write_model(&path, &[("a", &vec![0.0; values - 2]), ("b", &[0.0; 2])]);
    path
}

/// The mean by whole numbers where they hold it: every weight is a multiple of 2^-20.
fn independent_mean(values: &[i64], examples: &[u64]) -> f64 {
    let total: i128 = examples.iter().map(|n| i128::from(*n)).sum();
    let pairs = values.iter().zip(examples);
    let sum: i128 = pairs.map(|(v, n)| i128::from(*v) * i128::from(*n)).sum();
    sum as f64 / total as f64 / f64::from(1 << 20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_average_is_the_weighted_mean_and_the_same_to_the_byte_for_every_order_of_arrival(
        ticks in prop::collection::vec(prop::collection::vec(-(1_i64 << 24)..(1 << 24), 5), 1..=4),
        examples in prop::collection::vec(1_u64..=1 << 32, 4),
        order in Just([0_usize, 1, 2, 3]).prop_shuffle(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let base = base(folder.path(), 5);
        let part = |i: usize| {
            // Exact in f32: 24 bits at a scale of 2^-20.
            let values: Vec<f32> = ticks[i].iter().map(|t| *t as f32 / (1 << 20) as f32).collect();
            contribution(folder.path(), NAMES[i], &values, examples[i])
        };
        let parts: Vec<Contribution> = (0..ticks.len()).map(part).collect();
        let out = folder.path().join("out");
        let blob = average(&base, &parts, &out).unwrap();

        let model = ModelFile::open(&out).unwrap();
        let (a, b) = (model.position("a").unwrap(), model.position("b").unwrap());
        let found: Vec<f32> = [model.read(b).unwrap(), model.read(a).unwrap()].concat();
        for (i, found) in found.iter().enumerate() {
            let column: Vec<i64> = ticks.iter().map(|site| site[i]).collect();
            let expected = independent_mean(&column, &examples[..ticks.len()]);
            let error = (f64::from(*found) - expected).abs();
            prop_assert!(error <= 1e-6 * expected.abs().max(1e-9), "{found} for {expected}");
        }

        let kept = order.iter().filter(|i| **i < parts.len());
        let shuffled: Vec<Contribution> = kept.map(|i| parts[*i].clone()).collect();
        let again = folder.path().join("again");
        prop_assert_eq!(average(&base, &shuffled, &again).unwrap(), blob);
        prop_assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&out).unwrap());
    }
}

#[test]
fn sums_run_in_the_order_of_names_where_another_order_would_give_another_sum() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path(), 3);
    // In f64, (1e30 + 3) - 1e30 is 0 and (1e30 - 1e30) + 3 is 3.
    let parts: Vec<Contribution> = [("aachen", 1e30), ("kyoto", -1e30), ("mayo", 3.0)]
        .map(|(name, value)| contribution(folder.path(), name, &[value; 3], 1))
        .into();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let shuffled: Vec<Contribution> = order.iter().map(|i| parts[*i].clone()).collect();
        let out = folder.path().join("out");
        average(&base, &shuffled, &out).unwrap();
        assert_eq!(ModelFile::open(&out).unwrap().read(0).unwrap()[0], 1.0, "{order:?}");
    }
}

#[test]
fn the_average_of_one_site_is_its_own_weights_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let awkward =
        [0.1, -0.0, f32::MAX, f32::MIN_POSITIVE / 4.0, -f32::MAX, 1.0 / 3.0, f32::from_bits(1)];
    let values: Vec<f32> = awkward.iter().copied().cycle().take(20).collect();
    let site = folder.path().join("site");
    let written = write_model(&site, &[("a", &values[..11]), ("b", &values[11..])]);
    let base = folder.path().join("base");
    write_model(&base, &[("a", &[0.0; 11]), ("b", &[0.0; 9])]);
    for examples in [1, 3, 1_600, (1 << 32) - 5] {
        let (name, weights) = ("mayo".parse().unwrap(), site.clone());
        let one = Contribution { site: name, weights, examples, stale: None, resent: false };
        let out = folder.path().join("out");
        assert_eq!(average(&base, &[one], &out).unwrap(), written);
        assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&site).unwrap());
    }
}

#[test]
fn a_mean_that_is_not_finite_leaves_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path(), 3);
    let bad = contribution(folder.path(), "mayo", &[1.0, f32::NAN, 1.0], 5);
    let out = folder.path().join("out");
    let error = average(&base, &[bad], &out).unwrap_err();
    assert!(matches!(error, Error::NotFinite { ref tensor, .. } if tensor == "b"), "{error}");
    assert!(!out.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "base and the site's own");
}

#[test]
fn nothing_is_averaged_without_examples_or_from_a_model_of_another_form() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path(), 4);
    let out = folder.path().join("out");
    assert!(matches!(average(&base, &[], &out), Err(Error::NoExamples)));
    let none = contribution(folder.path(), "mayo", &[1.0; 4], 0);
    assert!(matches!(average(&base, &[none], &out), Err(Error::NoExamples)));
    let long = contribution(folder.path(), "oslo", &[1.0; 5], 1);
    assert!(matches!(average(&base, &[long], &out), Err(Error::Length { found: 3, .. })));
}
