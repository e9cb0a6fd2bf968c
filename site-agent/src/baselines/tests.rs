use proptest::prelude::*;

use super::{Baseline, fill, smooth};
use crate::data::volume::Volume;

fn volume(dims: [usize; 3], spacing_mm: [f64; 3], value: impl Fn(f64, f64, f64) -> f64) -> Volume {
    let voxels = (0..dims.iter().product()).map(|i: usize| {
        let at = [i % dims[0], i / dims[0] % dims[1], i / dims[0] / dims[1]];
        let [x, y, z] = [0, 1, 2].map(|axis| at[axis] as f64 * spacing_mm[axis]);
        value(x, y, z) as f32
    });
    Volume { dims, spacing_mm, origin_mm: [0.0; 3], voxels: voxels.collect() }
}

fn ball(of: &Volume, centre: [f64; 3], radius_mm: f64) -> Volume {
    volume(of.dims, of.spacing_mm, |x, y, z| {
        let apart = (x - centre[0]).hypot(y - centre[1]).hypot(z - centre[2]);
        f64::from(u8::from(apart <= radius_mm))
    })
}

/// The scan with what is hidden made unusable.
fn spoilt(scan: &Volume, hidden: &Volume) -> Volume {
    let voxels = scan.voxels.iter().zip(&hidden.voxels);
    scan.with_voxels(voxels.map(|(&v, &h)| if h == 0.0 { v } else { f32::NAN }).collect())
}

fn largest_error(found: &Volume, expected: &Volume) -> f32 {
    let pairs = found.voxels.iter().zip(&expected.voxels);
    pairs.map(|(f, e)| (f - e).abs()).fold(0.0, f32::max)
}

#[test]
fn a_harmonic_fill_of_a_linear_function_is_the_function_whatever_the_spacing() {
    for spacing in [[1.0; 3], [0.9, 1.2, 5.0]] {
        let scan = volume([20, 18, 14], spacing, |x, y, z| 300.0 + 9.0 * x - 4.0 * y + 2.0 * z);
        let hidden = ball(&scan, [9.0, 9.0, 6.5 * spacing[2]], 5.0);
        let found = fill(Baseline::Harmonic, &spoilt(&scan, &hidden), &hidden);
        assert!(largest_error(&found, &scan) < 1e-2, "{spacing:?}");
    }
}

#[test]
fn a_harmonic_fill_of_a_harmonic_function_comes_back_and_of_another_does_not() {
    let of = |k: f64| {
        let scan = volume([20, 18, 14], [1.0; 3], |x, y, z| {
            500.0 + x * x + y * y - 2.0 * z * z + k * z * z + x * y
        });
        let hidden = ball(&scan, [9.0, 9.0, 7.0], 5.0);
        largest_error(&fill(Baseline::Harmonic, &spoilt(&scan, &hidden), &hidden), &scan)
    };
    assert!(of(0.0) < 1e-2);
    assert!(of(1.0) > 1.0);
}

#[test]
fn a_biharmonic_fill_of_a_cubic_is_the_cubic_whatever_the_spacing() {
    for spacing in [[1.0; 3], [0.8, 1.1, 2.5]] {
        let scan = volume([20, 20, 16], spacing, |x, y, z| {
            let [u, v, w] = [x - 8.0, y - 9.0, z - 7.0];
            500.0 + 0.2 * u * u * u - 0.1 * v * v * w + 0.3 * u * v * w + w * w - 3.0 * v
        });
        let hidden = ball(&scan, [8.0, 9.0, 7.0 * spacing[2]], 5.0);
        let (found, _) = smooth::biharmonic(&spoilt(&scan, &hidden), &hidden);
        assert!(largest_error(&found, &scan) < 0.05, "{spacing:?}");
        let (harmonic, _) = smooth::harmonic(&spoilt(&scan, &hidden), &hidden);
        assert!(largest_error(&harmonic, &scan) > 0.5, "{spacing:?}");
    }
}

#[test]
fn a_ball_of_4_cm_takes_few_steps_and_they_come_to_an_end() {
    let scan = volume([60; 3], [1.0; 3], |x, y, z| {
        500.0 + 100.0 * (0.3 * x).sin() * (0.2 * y).cos() + 80.0 * (0.25 * z).sin()
    });
    let hidden = ball(&scan, [30.0; 3], 20.0);
    let inner = ball(&scan, [30.0; 3], 6.0);
    for (solve, most) in
        [(smooth::harmonic as fn(&Volume, &Volume) -> _, 30), (smooth::biharmonic, 60)]
    {
        let (found, steps) = solve(&scan, &hidden);
        assert!(steps < most, "{steps}");
        // Solved again from what was found, nothing changes.
        assert!(largest_error(&solve(&found, &inner).0, &found) < 0.05);
    }
}

#[test]
fn a_mirror_fill_of_a_symmetric_brain_is_the_brain_but_where_both_sides_are_hidden() {
    let scan = volume([21, 12, 10], [1.0; 3], |x, y, z| {
        if (3.0..=17.0).contains(&x) { 400.0 + 5.0 * (x - 10.0).abs() + y * z } else { 0.0 }
    });
    let aside = ball(&scan, [6.0, 6.0, 5.0], 2.9);
    assert_eq!(fill(Baseline::Mirror, &spoilt(&scan, &aside), &aside), scan);
    let across = ball(&scan, [10.0, 6.0, 5.0], 3.0);
    let mean = fill(Baseline::Mean, &spoilt(&scan, &across), &across);
    assert_eq!(fill(Baseline::Mirror, &spoilt(&scan, &across), &across), mean);
}

#[test]
fn the_mean_is_that_of_the_known_brain_and_zero_is_zero() {
    let scan = volume([12, 10, 8], [1.0; 3], |x, y, z| if x < 3.0 { 0.0 } else { x * y + z });
    let hidden = ball(&scan, [6.0, 5.0, 4.0], 3.0);
    let known = (0..scan.voxels.len()).filter(|&i| hidden.voxels[i] == 0.0);
    let brain: Vec<f64> =
        known.map(|i| f64::from(scan.voxels[i])).filter(|&value| value > 0.0).collect();
    let mean = (brain.iter().sum::<f64>() / brain.len() as f64) as f32;
    for (baseline, expected) in [(Baseline::Mean, mean), (Baseline::Zero, 0.0)] {
        let found = fill(baseline, &spoilt(&scan, &hidden), &hidden);
        for (i, &voxel) in found.voxels.iter().enumerate() {
            let expected = if hidden.voxels[i] == 0.0 { scan.voxels[i] } else { expected };
            assert_eq!(voxel, expected);
        }
    }
}

#[test]
fn a_volume_that_is_hidden_altogether_is_filled_with_0() {
    let scan = volume([7, 6, 5], [1.0; 3], |x, _, _| x);
    let hidden = scan.with_voxels(vec![1.0; scan.voxels.len()]);
    for baseline in Baseline::ALL {
        let found = fill(baseline, &spoilt(&scan, &hidden), &hidden);
        assert!(found.voxels.iter().all(|&v| v == 0.0), "{baseline:?}");
    }
}

#[test]
fn every_baseline_is_found_by_its_name() {
    for baseline in Baseline::ALL {
        assert_eq!(baseline.name().parse(), Ok(baseline));
        assert_eq!(serde_json::to_value(baseline).unwrap(), baseline.name());
    }
    assert!("laplace".parse::<Baseline>().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_baseline_leaves_the_known_range_reads_what_is_hidden_or_changes_what_is_known(
        values in prop::collection::vec(0.0_f32..900.0, 9 * 8 * 7),
        hidden in prop::collection::vec(prop::bool::weighted(0.4), 9 * 8 * 7),
        spacing_z in 0.5_f64..6.0,
    ) {
        let dims = [9, 8, 7];
        let spacing_mm = [1.0, 1.2, spacing_z];
        let scan = Volume { dims, spacing_mm, origin_mm: [0.0; 3], voxels: values };
        let mask = scan.with_voxels(hidden.iter().map(|&h| f32::from(u8::from(h))).collect());
        let known = scan.voxels.iter().zip(&hidden).filter(|&(_, &h)| !h);
        let lowest = known.clone().map(|(&v, _)| v).fold(f32::MAX, f32::min);
        let highest = known.map(|(&v, _)| v).fold(0.0, f32::max);
        for baseline in Baseline::ALL {
            let found = fill(baseline, &spoilt(&scan, &mask), &mask);
            let least = match baseline {
                // The maximum principle.
                Baseline::Harmonic | Baseline::Mean | Baseline::Mirror => lowest,
                Baseline::Zero | Baseline::Biharmonic => 0.0,
            };
            for (i, &is_hidden) in hidden.iter().enumerate() {
                if is_hidden {
                    let value = found.voxels[i];
                    prop_assert!(least - 1e-2 <= value && value <= highest + 1e-2, "{value}");
                } else {
                    prop_assert_eq!(found.voxels[i].to_bits(), scan.voxels[i].to_bits());
                }
            }
        }
    }
}
