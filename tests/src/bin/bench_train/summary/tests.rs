//! What turns come to, on turns whose answer is known.

use super::*;
use crate::measure::Sgemm;

fn run(steps_ms: &[f64], mib: u64, loss: f64) -> Run {
    Run {
        steps_ms: steps_ms.to_vec(),
        peak_rss_bytes: Some(mib << 20),
        losses: vec![loss, loss / 2.0],
        gradient_norms: vec![3.0, 2.0],
    }
}

/// A turn in which ours takes `ours` ms a step, and PyTorch half of it, or a quarter.
fn turn(threads: usize, ours: f64, sgemm: f64) -> Turn {
    let steps = |ms: f64| [ms, 4.0 * ms, ms];
    let torch = Torch {
        eager: run(&steps(ours / 2.0), 400, 1.0),
        channels_last: run(&steps(ours / 4.0), 800, 1.0),
        sgemm: Sgemm { gflops: sgemm },
    };
    let ours = Ours {
        preset: "tiny".into(),
        batch: 8,
        steps: 3,
        warmup: 1,
        precision: "f32".into(),
        device: "cpu".into(),
        threads,
        parameters: 7,
        flop: 2_000_000_000,
        operations: BTreeMap::from([("forward".into(), ours / 4.0), ("rest".into(), 1.0)]),
        run: run(&steps(ours), 100, 1.0),
    };
    Turn { ours, torch: Some(torch), others: Some(0.01 * threads as f64) }
}

#[test]
fn ratios_are_taken_within_turns_and_their_median_is_told() {
    // The second turn was twice as slow for everybody.
    let all = [turn(2, 100.0, 80.0), turn(2, 200.0, 40.0), turn(2, 100.0, 80.0)];
    let one = [turn(1, 150.0, 40.0), turn(1, 300.0, 20.0), turn(1, 150.0, 40.0)];
    let summary = summary(&all, &one, None).unwrap();
    assert_eq!((summary.figures.step_ms, summary.figures.min_ms), (100.0, 100.0));
    assert_eq!((summary.gflop_per_step, summary.gflops), (2.0, 20.0));
    assert_eq!((summary.operations["forward"], summary.others_share), (25.0, Some(0.02)));
    let torch = summary.torch.unwrap();
    assert_eq!((torch.eager.step_ms, torch.channels_last.step_ms), (50.0, 25.0));
    let expected = [
        ("gflops_to_sgemm", 0.25),
        ("peak_rss_to_channels_last", 0.125),
        ("peak_rss_to_eager", 0.25),
        ("step_to_channels_last", 4.0),
        ("step_to_eager", 2.0),
        ("threads_speed_up", 1.5),
        ("threads_speed_up_channels_last", 1.5),
        ("threads_speed_up_eager", 1.5),
        ("threads_speed_up_sgemm", 2.0),
    ];
    assert_eq!(torch.ratios, BTreeMap::from(expected));
}

#[test]
fn a_first_loss_or_gradient_that_differs_from_pytorch_s_is_refused() {
    for (loss, norm, is_fine) in
        [(1.00009, 3.0, true), (1.0002, 3.0, false), (1.0, 3.001, false), (f64::NAN, 3.0, false)]
    {
        let mut turns = [turn(2, 100.0, 80.0), turn(2, 100.0, 80.0)];
        turns[1].ours.run.losses[0] = loss;
        turns[1].ours.run.gradient_norms[0] = norm;
        assert_eq!(summary(&turns, &[], None).is_ok(), is_fine, "{loss} {norm}");
    }
    let mut short = [turn(2, 100.0, 80.0)];
    short[0].ours.run.losses.pop();
    assert!(summary(&short, &[], None).is_err());
}

#[test]
fn short_types_may_be_farther_from_pytorch_s_by_their_rounding() {
    for (loss, is_fine) in [(1.04, true), (1.06, false)] {
        let mut turns = [turn(2, 100.0, 80.0)];
        turns[0].ours.precision = "bf16".into();
        turns[0].ours.run.losses[0] = loss;
        assert_eq!(summary(&turns, &[], None).is_ok(), is_fine, "{loss}");
    }
}

#[test]
fn without_pytorch_there_is_our_half() {
    let turns = [Turn { torch: None, ..turn(2, 100.0, 80.0) }];
    let json = serde_json::to_value(summary(&turns, &[], None).unwrap()).unwrap();
    for key in ["step_ms", "min_ms", "gflops", "peak_rss_bytes", "device", "operations"] {
        assert!(!json[key].is_null(), "{key}");
    }
    assert!(json.get("torch").is_none() && json.get("one_thread").is_none());
}

#[test]
fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
    assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some(2.5));
    assert_eq!(median([5.0].into_iter()), Some(5.0));
    assert_eq!(median(std::iter::empty()), None);
}
