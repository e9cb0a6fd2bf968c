//! Late updates, moved to the round's base model and weighed by how late they are.

use fedpaint_proto::plan::{Encoding, ExchangePlan, Part};
use fedpaint_proto::weights::{Sources, Update, encode};

use super::*;

/// A late contribution that began from another model than the round's.
fn late(folder: &Path, name: &str, values: (&[f32], &[f32]), rounds: u32) -> Contribution {
    let (trained, then) = values;
    let base = folder.join(format!("{name}-then"));
    write_model(&base, &[("a", &then[2..]), ("b", &then[..2])]);
    let stale = Some(Stale { base, rounds });
    Contribution { stale, ..contribution(folder, &format!("{name}-late"), trained, 8) }
}

fn named(site: &str, contribution: Contribution) -> Contribution {
    Contribution { site: site.parse().unwrap(), ..contribution }
}

fn job(base: &Path, exponent: f64, contributions: Vec<Contribution>) -> Job {
    let plan = AggregationPlan {
        ema_decay: 0.0,
        staleness_exponent: exponent,
        ..AggregationPlan::default()
    };
    Job {
        plan,
        committed: 4,
        previous: Aggregate::of(base.to_owned()),
        contributions,
        quarantine: None,
    }
}

/// The values of the tensors b and a, in the order of [`contribution`].
fn values(path: &Path) -> Vec<f32> {
    let model = ModelFile::open(path).unwrap();
    let (a, b) = (model.position("a").unwrap(), model.position("b").unwrap());
    [model.read(b).unwrap(), model.read(a).unwrap()].concat()
}

#[test]
fn a_late_update_counts_from_its_own_base_and_less_by_how_late_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    write_model(&base, &[("a", &[10.0]), ("b", &[20.0, 30.0])]);
    let fresh = contribution(folder.path(), "kyoto", &[22.0, 30.0, 11.0], 4);
    // It moved by +1, +2 and -3 from where it began; three rounds late it weighs a half of 8.
    let moved = ([6.0, 9.0, -3.0].as_slice(), [5.0, 7.0, 0.0].as_slice());
    let stale = named("aachen", late(folder.path(), "aachen", moved, 3));
    let out = folder.path().join("out");
    aggregate(&job(&base, 0.5, vec![stale.clone(), fresh.clone()]), &out).unwrap();
    // Fresh and late weigh 4 each: the mean of (22, 30, 11) and (21, 32, 7).
    assert_eq!(values(&out), [21.5, 31.0, 9.0]);

    // With an exponent of 0 it counts as if it were fresh: 4 to 8.
    aggregate(&job(&base, 0.0, vec![stale.clone(), fresh.clone()]), &out).unwrap();
    let mean = [(22.0 + 2.0 * 21.0) / 3.0, (30.0 + 2.0 * 32.0) / 3.0, (11.0 + 2.0 * 7.0) / 3.0];
    assert_eq!(values(&out), mean.map(|value: f64| value as f32));

    // The order of arrival is in no byte; who reports and is late too counts as both.
    let both = named("aachen", contribution(folder.path(), "aachen", &[1.0, 2.0, 3.0], 3));
    let parts = [stale, fresh, both];
    let one = aggregate(&job(&base, 0.5, parts.to_vec()), &out).unwrap();
    let reversed: Vec<Contribution> = parts.into_iter().rev().collect();
    let other = aggregate(&job(&base, 0.5, reversed), &folder.path().join("other")).unwrap();
    assert_eq!(one.files.model.blob, other.files.model.blob);
    let sum = [4.0 * 22.0 + 3.0 * 1.0 + 4.0 * 21.0, 4.0 * 30.0 + 3.0 * 2.0 + 4.0 * 32.0];
    assert_eq!(values(&out)[..2], sum.map(|sum: f64| (sum / 11.0) as f32));
}

#[test]
fn a_late_update_from_the_same_base_and_without_discount_is_as_good_as_a_fresh_one() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path(), 4);
    let trained = [0.25, -1.5, 3.0, 7.0];
    let fresh = contribution(folder.path(), "kyoto", &[1.0, 2.0, 3.0, 4.0], 3);
    let in_time = contribution(folder.path(), "mayo", &trained, 8);
    let expected = average(&base, &[fresh.clone(), in_time], &folder.path().join("out")).unwrap();
    let stale = named("mayo", late(folder.path(), "mayo", (&trained, &[0.0; 4]), 2));
    let made = aggregate(&job(&base, 0.0, vec![fresh, stale]), &folder.path().join("late"));
    assert_eq!(made.unwrap().files.model.blob, expected);
}

#[test]
fn the_discount_is_that_of_the_paper_and_falls_with_every_round() {
    for (rounds, exponent, expected) in
        [(0, 0.5, 1.0), (3, 0.5, 0.5), (1, 1.0, 0.5), (8, 0.5, 1.0 / 3.0), (7, 0.0, 1.0)]
    {
        let found = discount(rounds, exponent);
        assert!((found - expected).abs() <= 0.5 / f64::from(1 << 20), "{rounds}: {found}");
    }
    let falls = (0..20).map(|rounds| discount(rounds, 0.5)).collect::<Vec<_>>();
    assert!(falls.is_sorted_by(|a, b| a > b), "{falls:?}");
}

#[test]
fn an_encoded_update_counts_as_the_weights_that_it_stands_for_fresh_and_late_in_any_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let wave =
        |phase: f32| (0..3_000).map(|i| (i as f32 * 0.7 + phase).sin()).collect::<Vec<f32>>();
    let model = |name: &str, phase: f32| {
        write_model(&path(name), &[("a", &wave(phase)[..5]), ("out.0", &wave(phase + 1.0))]);
        path(name)
    };
    let (base, then) = (model("base", 0.0), model("then", 0.1));
    let (fresh, late) = (model("fresh", 0.02), model("late", 0.13));
    for encoding in [Encoding::F32, Encoding::Bf16, Encoding::Int8, Encoding::Int4] {
        for part in [Part::All, Part::Decoder] {
            let form = ExchangePlan { encoding, part };
            // What is sent, and a whole model of the same values.
            let sent = |name: &str, trained: &Path, base: &Path| {
                let sources = Sources { base, trained, remainder: None };
                let (update, left) = (path(&format!("{name}-sent")), path("left"));
                encode(form, sources, &update, &left).unwrap();
                let base = ModelFile::open(base).unwrap();
                let update = Update::open(&update).unwrap().values(base.tensors()).unwrap();
                let tensors = ["a", "out.0"].map(|tensor| {
                    let at = base.position(tensor).unwrap();
                    let before = base.read(at).unwrap();
                    let mut values = vec![0.0; before.len()];
                    update.read_beside(at, 0, &before, &mut values).unwrap();
                    (tensor, values)
                });
                let tensors = tensors.each_ref().map(|(name, values)| (*name, values.as_slice()));
                write_model(&path(&format!("{name}-whole")), &tensors);
            };
            sent("fresh", &fresh, &base);
            sent("late", &late, &then);
            let made = |kind: &str| {
                let of = |site: &str, examples, stale| Contribution {
                    site: site.parse().unwrap(),
                    weights: path(&format!("{site}-{kind}")),
                    examples,
                    stale,
                    resent: false,
                };
                let stale = Stale { base: then.clone(), rounds: 2 };
                let contributions = vec![of("fresh", 3, None), of("late", 8, Some(stale))];
                let job = job(&base, 0.5, contributions);
                aggregate(&job, &path("out")).unwrap().files.model.blob
            };
            assert_eq!(made("sent"), made("whole"), "{form}");
        }
    }
}
