//! The masks beside those of the BraTS inpainting challenge's own program: `tests/reference/masks.py`
//! makes a cohort of ellipsoids, runs the program on it and tells what its masks are like.

use std::sync::Arc;

use super::bank::{Bank, Shape};
use super::bits::Bits;
use super::distance::squared;
use super::morphology::{Components, filled, largest, within};
use super::official::{Pose, Site, dilated};
use super::reference::{Case, Quantile, REFERENCE, at, bank, bits, cases};
use super::turn::PlaneTurn;
use super::{HealthyMask, INSIDE_MIN, Masks, Mode, Room};
use crate::data::phantom_for_tests;
use crate::data::stream::stream;

/// What a mask is like: volume relative to the brain, least distance to what it keeps away from, part
/// in the brain.
struct Likeness {
    fraction: f64,
    distance: f64,
    inside: f64,
}

/// `squares` are the squared distances to what the mask keeps away from.
fn likeness(mask: &HealthyMask, brain: &Bits, squares: &[f32]) -> Likeness {
    let voxels = mask.voxels.len() as f64;
    let is_in = |&&v: &&u32| brain.get(at(brain.dims(), v as usize));
    let nearest = mask.voxels.iter().map(|&v| squares[v as usize]).fold(f32::INFINITY, f32::min);
    Likeness {
        fraction: voxels / brain.count() as f64,
        distance: f64::from(nearest).sqrt(),
        inside: mask.voxels.iter().filter(is_in).count() as f64 / voxels,
    }
}

/// The tumour that the challenge sees, and its mask-unhealthy.
fn official_tumour(room: &Room) -> (Bits, Bits) {
    let tumour = super::tumour_of(&room.lesion, [1.0; 3], Mode::Compat);
    let unhealthy = dilated(&tumour);
    (tumour, unhealthy)
}

/// The bank in the order of the program's table: within a case it numbers components otherwise.
fn official_bank(cases: &[Case]) -> Bank {
    let mut found: Vec<Vec<Shape>> =
        cases.iter().map(|case| case.room().shapes(Mode::Compat)).collect();
    let shapes = REFERENCE.table.iter().map(|row| {
        let of_case = &mut found[row.case];
        let is_row = |s: &Shape| (s.body().count(), s.body().dims()) == (row.voxels, row.dims);
        of_case.remove(of_case.iter().position(is_row).unwrap())
    });
    let bank = Bank::new(shapes.collect()).unwrap();
    assert!(found.iter().all(Vec::is_empty), "no shape but the program's");
    bank
}

#[test]
fn components_holes_dilation_and_distance_are_those_of_scipy() {
    for volume in &REFERENCE.scipy.volumes {
        let set = bits(volume.dims, &volume.set);
        let mut sizes = Components::of(&set).sizes().to_vec();
        sizes.sort_unstable();
        assert_eq!(sizes, volume.component_sizes);
        assert_eq!(largest(&set), bits(volume.dims, &volume.largest));
        assert_eq!(filled(&set), bits(volume.dims, &volume.filled));
        let distances = squared(&set, volume.spacing);
        for (ours, scipys) in distances.iter().zip(&volume.distance) {
            assert!((f64::from(*ours).sqrt() - scipys).abs() < 1e-4, "{ours} {scipys}");
        }
        for radius in [0.9, 1.3, 2.6] {
            let near = within(&set, volume.spacing, radius);
            for (i, &distance) in volume.distance.iter().enumerate() {
                assert_eq!(near.get(at(volume.dims, i)), distance <= radius, "{distance}");
            }
        }
    }
}

#[test]
fn a_shape_turned_in_a_plane_is_scipys() {
    let body = bits(REFERENCE.scipy.body.dims, &REFERENCE.scipy.body.set);
    for turn in &REFERENCE.scipy.turns {
        let ours = PlaneTurn::new(body.dims(), turn.axes, turn.degrees).of(&body);
        assert_eq!(ours, bits(turn.dims, &turn.set), "{:?} {}", turn.axes, turn.degrees);
    }
}

#[test]
fn compat_decides_every_attempt_of_the_program_as_the_program_did() {
    let cases = cases(usize::MAX);
    let bank = official_bank(&cases);
    let sites: Vec<Site> = cases.iter().map(|case| case.room()).map(|r| site(&r)).collect();
    let mut verdicts = [0; 6];
    for attempt in &REFERENCE.attempts {
        let site = &sites[attempt.case];
        let shape = bank.official(site.own_fraction, attempt.random);
        let row = &REFERENCE.table[attempt.row];
        assert_eq!((shape.body().count(), shape.body().dims()), (row.voxels, row.dims));
        let pose = Pose { is_mirrored: attempt.is_mirrored, degrees: attempt.degrees };
        let turned = pose.of(shape.body());
        assert_eq!(turned.dims(), attempt.dims);
        // What lies exactly between two voxels may turn to the other one: a line along one axis.
        assert!(turned.count().abs_diff(attempt.voxels) <= 16, "{}", attempt.voxels);
        let mask = site.attempt(attempt.at, shape.body(), 1.0, &pose);
        assert_eq!(mask.is_some(), attempt.verdict == 0, "verdict {}", attempt.verdict);
        verdicts[usize::from(attempt.verdict)] += 1;
    }
    assert!(verdicts.iter().all(|&count| count >= 10), "every verdict: {verdicts:?}");
}

#[test]
fn compat_masks_have_the_statistics_of_the_programs() {
    let cases = cases(usize::MAX);
    let bank = official_bank(&cases);
    let mut drawn = Vec::new();
    for (index, (case, facts)) in cases.iter().zip(&REFERENCE.facts).enumerate() {
        let room = case.room();
        let site = site(&room);
        assert!((site.own_fraction - facts.own_fraction).abs() < 1e-7);
        assert_eq!(site.places.len(), facts.places);
        let (tumour, unhealthy) = official_tumour(&room);
        assert_eq!(unhealthy.count(), facts.unhealthy);
        let (to_tumour, to_unhealthy) = (squared(&tumour, [1.0; 3]), squared(&unhealthy, [1.0; 3]));
        let mut rng = stream("test", &[b"compat", &index.to_le_bytes()]);
        for _ in 0..REFERENCE.draws {
            let mask = room.draw_shape(&bank, Mode::Compat, &mut rng).unwrap();
            let away = mask.voxels.iter().map(|&v| f64::from(to_tumour[v as usize]).sqrt());
            let away = away.sum::<f64>() / mask.voxels.len() as f64;
            drawn.push((facts.own_fraction, away, likeness(&mask, &room.brain, &to_unhealthy)));
        }
    }
    let check = |name: &str, quantile: &Quantile, mut found: Vec<f64>| {
        found.sort_by(f64::total_cmp);
        let expected = quantile.values.iter().zip(&quantile.tolerances);
        for (&level, (&value, &tolerance)) in REFERENCE.levels.iter().zip(expected) {
            let ours = quantile_of(&found, level);
            assert!((ours - value).abs() <= tolerance + 1e-6, "{name} {level}: {ours} {value}");
        }
    };
    let all = |of: &dyn Fn(&Likeness) -> f64| drawn.iter().map(|(_, _, l)| of(l)).collect();
    check("fraction", &REFERENCE.quantiles.fraction, all(&|l| l.fraction));
    check("distance", &REFERENCE.quantiles.distance, all(&|l| l.distance));
    check("away", &REFERENCE.quantiles.away, drawn.iter().map(|(_, away, _)| *away).collect());
    check("inside", &REFERENCE.quantiles.inside, all(&|l| l.inside));
    let pairs: Vec<(f64, f64)> = drawn.iter().map(|(own, _, l)| (*own, l.fraction)).collect();
    let (ours, theirs) = (correlation(&pairs), REFERENCE.correlation);
    assert!((ours - theirs).abs() < 0.1, "{ours} {theirs}");
}

fn site(room: &Room) -> Site {
    Site::new(&room.brain, &room.lesion).unwrap()
}

/// The quantile of ascending values, between two of them in proportion, as numpy has it.
fn quantile_of(values: &[f64], level: f64) -> f64 {
    let at = level * (values.len() - 1) as f64;
    let (low, high) = (values[at as usize], values[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[test]
fn corrected_masks_are_small_where_the_tumour_is_large() {
    let cases = cases(30);
    let bank = bank(&cases, Mode::Corrected);
    let mut pairs = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let room = case.room();
        let mut rng = stream("test", &[b"corrected", &index.to_le_bytes()]);
        for _ in 0..4 {
            let mask = room.draw_shape(&bank, Mode::Corrected, &mut rng).unwrap();
            pairs.push((room.tumour_fraction, mask.voxels.len() as f64));
        }
    }
    assert!(correlation(&pairs) < -0.4, "{}", correlation(&pairs));
}

/// Pearson's.
fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let count = pairs.len() as f64;
    let (x, y) = pairs.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / count, y + p.1 / count));
    let sum =
        |of: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|p| of(p.0 - x, p.1 - y)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

/// Draws from 1,000 seeds and checks what every mask must be.
fn over_a_thousand_seeds(rooms: &[Room], spacing_mm: [f64; 3], masks: &Masks) {
    let distances: Vec<Vec<f32>> = rooms
        .iter()
        .map(|room| match masks.mode {
            Mode::Corrected => squared(&room.lesion, spacing_mm),
            Mode::Compat => squared(&official_tumour(room).1, [1.0; 3]),
        })
        .collect();
    let mut sizes = Vec::new();
    for seed in 0..1000u64 {
        let index = seed as usize % rooms.len();
        let room = &rooms[index];
        let draw = || {
            let mut rng = stream("test", &[b"seeds", &seed.to_le_bytes()]);
            room.draw_training(masks, (8.0, 40.0), &mut rng).unwrap()
        };
        let mask = draw();
        assert!(seed % 10 > 0 || mask == draw(), "the same seed makes the same mask");
        assert!(mask.voxels.len() >= super::VOXELS_MIN);
        assert!(mask.voxels.is_sorted_by(|a, b| a < b));
        assert!((*mask.voxels.last().unwrap() as usize) < distances[index].len());
        let like = likeness(&mask, &room.brain, &distances[index]);
        assert!(like.inside >= INSIDE_MIN, "seed {seed}: {}", like.inside);
        assert!(like.distance >= 5.0, "seed {seed}: {}", like.distance);
        let is_marked = |&v: &u32| room.lesion.get(at(room.lesion.dims(), v as usize));
        assert!(!mask.voxels.iter().any(is_marked), "no lesion, not even a speck");
        sizes.push(mask.voxels.len());
    }
    sizes.sort_unstable();
    sizes.dedup();
    assert!(sizes.len() > 300, "the masks vary: {}", sizes.len());
}

#[test]
fn every_compat_mask_of_a_thousand_seeds_keeps_every_rule() {
    let cases = cases(20);
    let masks = Masks { mode: Mode::Compat, bank: Some(Arc::new(bank(&cases, Mode::Compat))) };
    let rooms: Vec<Room> = cases.iter().map(Case::room).collect();
    over_a_thousand_seeds(&rooms, [1.0; 3], &masks);
}

#[test]
fn every_corrected_mask_of_a_thousand_seeds_keeps_every_rule_in_millimetres() {
    let masks =
        Masks { mode: Mode::Corrected, bank: Some(Arc::new(bank(&cases(20), Mode::Corrected))) };
    // Other voxels than those of the bank.
    let image = phantom_for_tests::brain();
    let lesion = phantom_for_tests::tumour(&image);
    let room = Room::new(&image, |i| lesion[i].is_some()).unwrap();
    over_a_thousand_seeds(&[room], image.spacing_mm, &masks);
}
