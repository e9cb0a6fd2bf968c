//! A training that was interrupted comes to what it would have come to.

use std::borrow::Cow;

use fedpaint_proto::names::Digest;

use super::snapshot::{Key, Snapshot};
use super::tests::{example, go, options, weights};
use super::*;
use crate::checkpoints::Checkpoints;
use crate::model::checkpoint;

fn key() -> Key {
    Key {
        run: "brain".parse().unwrap(),
        number: 1,
        site: "mayo".parse().unwrap(),
        plan: Digest::of(b"plan"),
        base: Digest::of(b"base"),
        data: Digest::of(b"scans"),
        machine: "cpu".into(),
        build: "1".into(),
    }
}

/// All that steps can depend on: a pull to the start, decay, and a rate that changes.
fn eventful() -> TrainingOptions {
    let (weight_decay, proximal_mu) = (0.1, 0.3);
    let rates = TrainingOptions { warmup_steps: 3, decay_steps: 3, ..options(6) };
    TrainingOptions { weight_decay, proximal_mu, condition_drop: 0.5, ..rates }
}

/// The model, the summary, and every snapshot as the bytes of its file.
type Ran = (Vec<u8>, TrainingSummary, Vec<Vec<u8>>);

/// What is done to a snapshot.
type Harm = fn(&mut Snapshot<Vec<f32>>);

/// Trains.
fn run(options: &TrainingOptions, from: Option<Snapshot<Vec<f32>>>) -> Ran {
    try_run(options, from).unwrap()
}

fn try_run(options: &TrainingOptions, from: Option<Snapshot<Vec<f32>>>) -> Result<Ran, TrainError> {
    let mut kept = Vec::new();
    let mut keep = |snapshot: &Snapshot<Cow<'_, [f32]>>| {
        let mut bytes = snapshot.header(&key()).unwrap();
        snapshot.write_numbers(&mut bytes).unwrap();
        kept.push(bytes);
    };
    let journal = Journal { from, every: 1, keep: Some(&mut keep) };
    let mut next =
        |step: usize| Ok((0..1 + step % 2).map(|i| example(16, (2 * step + i) as u64)).collect());
    let device = Device::flex();
    let (trained, summary) =
        journal::train(&weights(16), &device, options, journal, &mut next, &mut go)?;
    Ok((checkpoint::to_bytes(&trained).unwrap(), summary, kept))
}

#[test]
fn a_training_goes_on_from_any_step_to_the_same_bytes_and_the_same_report() {
    goes_on(&eventful());
}

#[test]
fn where_burns_optimiser_works_a_training_goes_on_to_the_same_bytes_too() {
    goes_on(&TrainingOptions { precision: Precision::Bf16, part: Part::Decoder, ..eventful() });
}

#[test]
fn a_training_that_cannot_go_on_from_its_checkpoint_drops_it_and_begins_to_the_same_bytes() {
    let own = eventful();
    let stock = TrainingOptions { precision: Precision::Bf16, ..eventful() };
    let harms: [(&TrainingOptions, Harm); 7] = [
        (&stock, |from| from.memory.stock.as_mut().unwrap().record.clear()),
        (&stock, |from| from.memory.stock.as_mut().unwrap().record.fill(0xff)),
        (&stock, |from| from.memory.stock.as_mut().unwrap().record.truncate(100)),
        (&stock, |from| from.memory.stock = None),
        (&stock, |from| from.memory.tensors[0].push(1.0)),
        (&own, |from| drop(from.memory.tensors.pop())),
        (&own, |from| from.memory.tensors[1].clear()),
    ];
    for (i, (options, harm)) in harms.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("training")).unwrap();
        let checkpoints = Checkpoints::of(folder.path());
        let (whole, summary, kept) = run(options, None);
        let mut from = Snapshot::read(&mut &kept[2][..], &key()).unwrap();
        harm(&mut from);
        checkpoints.keep(&key(), &from);
        let mut begun = Vec::new();
        let is_unfit = |error: &TrainError| matches!(error, TrainError::Checkpoint { .. });
        let again = checkpoints.go_on(&key(), is_unfit, |from| {
            begun.push(from.as_ref().map(Snapshot::steps));
            try_run(options, from)
        });
        let (again, summary_again, _) = again.unwrap();
        assert_eq!(begun, [Some(3), None], "{i}");
        assert!(again == whole && summary_again == summary, "{i}");
        assert_eq!(checkpoints.find(&key()), None, "{i}");
    }
}

fn goes_on(options: &TrainingOptions) {
    let (whole, summary, kept) = run(options, None);
    assert_eq!(kept.len(), 5, "one after every step but the last");
    for (i, bytes) in kept.iter().enumerate() {
        let from = Snapshot::read(&mut &bytes[..], &key()).unwrap();
        assert_eq!(from.steps(), i + 1);
        let (again, summary_again, kept_again) = run(options, Some(from));
        assert!(again == whole, "from step {}", i + 1);
        assert_eq!(summary_again, summary);
        // But for the record of burn's optimiser, which has its parameters in any order.
        let stands = |bytes: &Vec<u8>| {
            let Snapshot { course, scale, memory } =
                Snapshot::read(&mut &bytes[..], &key()).unwrap();
            (course, scale, memory.steps, memory.tensors)
        };
        assert!(kept_again.iter().map(stands).eq(kept[i + 1..].iter().map(stands)));
    }
}
