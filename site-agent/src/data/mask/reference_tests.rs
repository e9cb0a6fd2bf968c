//! The masks beside an independent implementation in numpy and scipy: `tests/reference/masks.py`
//! makes a cohort of ellipsoids and tells what its masks are like.

use std::sync::{Arc, LazyLock};

use serde::Deserialize;

use super::bank::Bank;
use super::bits::Bits;
use super::distance::squared;
use super::morphology::{Components, dilated_by_faces, filled, largest, within};
use super::official::Site;
use super::turn::PlaneTurn;
use super::{HealthyMask, INSIDE_MIN, Masks, Mode, Room};
use crate::data::phantom_for_tests;
use crate::data::stream::stream;
use crate::data::volume::Volume;

/// How far the part of our masks below a quantile of the reference may be from its level. Two samples
/// of 1,200 of one distribution are further apart once in a hundred (Kolmogorov-Smirnov: 0.067).
const LEVEL_TOLERANCE: f64 = 0.067;

#[derive(Deserialize)]
struct Reference {
    dims: [usize; 3],
    cases: Vec<CaseBodies>,
    shapes: usize,
    own_fractions: Vec<f64>,
    places: Vec<usize>,
    draws: usize,
    levels: Vec<f64>,
    quantiles: Quantiles,
    correlation: f64,
    scipy: Scipy,
}

/// Ellipsoids: middle and half axes in voxels.
#[derive(Deserialize)]
struct CaseBodies {
    brain: Vec<[i64; 6]>,
    ventricles: Vec<[i64; 6]>,
    tumour: Vec<[i64; 6]>,
    hollow: Vec<[i64; 6]>,
}

#[derive(Deserialize)]
struct Quantiles {
    fraction: Vec<f64>,
    distance: Vec<f64>,
    inside: Vec<f64>,
}

#[derive(Deserialize)]
struct Scipy {
    volumes: Vec<ScipyVolume>,
    body: HexBits,
    turns: Vec<ScipyTurn>,
}

#[derive(Deserialize)]
struct HexBits {
    dims: [usize; 3],
    set: String,
}

#[derive(Deserialize)]
struct ScipyVolume {
    dims: [usize; 3],
    spacing: [f64; 3],
    set: String,
    component_sizes: Vec<usize>,
    largest: String,
    filled: String,
    dilated_by_faces: String,
    distance: Vec<f64>,
}

#[derive(Deserialize)]
struct ScipyTurn {
    axes: (usize, usize),
    degrees: f64,
    dims: [usize; 3],
    set: String,
}

static REFERENCE: LazyLock<Reference> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../../tests/reference/masks.json")).unwrap()
});

fn bits(dims: [usize; 3], hex: &str) -> Bits {
    let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
    Bits::from_fn(dims, |i| byte(i / 8) >> (i % 8) & 1 == 1)
}

/// One case: a brain of 1 mm voxels, and which of them its segmentation marks.
struct Case {
    image: Volume,
    lesion: Bits,
}

impl Case {
    fn new(bodies: &CaseBodies, dims: [usize; 3]) -> Case {
        let (mut brain, mut lesion) = (Bits::empty(dims), Bits::empty(dims));
        bodies.brain.iter().for_each(|body| put(&mut brain, body, true));
        bodies.ventricles.iter().for_each(|body| put(&mut brain, body, false));
        bodies.tumour.iter().for_each(|body| put(&mut lesion, body, true));
        bodies.hollow.iter().for_each(|body| put(&mut lesion, body, false));
        let voxels =
            (0..dims.iter().product()).map(|i| f32::from(brain.get(at(dims, i)))).collect();
        Case { image: Volume { dims, spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels }, lesion }
    }

    fn is_lesion(&self) -> impl Fn(usize) -> bool {
        |i| self.lesion.get(at(self.image.dims, i))
    }

    fn room(&self) -> Room {
        Room::new(&self.image, self.is_lesion()).unwrap()
    }
}

/// The voxels of an ellipsoid, decided in integers as the reference does.
fn put(set: &mut Bits, &[cx, cy, cz, rx, ry, rz]: &[i64; 6], value: bool) {
    let span = |c: i64, r: i64, n: usize| (c - r).max(0)..=(c + r).min(n as i64 - 1);
    let dims = set.dims();
    for z in span(cz, rz, dims[2]) {
        for y in span(cy, ry, dims[1]) {
            for x in span(cx, rx, dims[0]) {
                let parts = [(x - cx) * ry * rz, (y - cy) * rx * rz, (z - cz) * rx * ry];
                if parts.iter().map(|part| part * part).sum::<i64>() <= (rx * ry * rz).pow(2) {
                    let at = [x, y, z].map(|i| i as usize);
                    set.row_mut(at[1], at[2])[at[0] / 64] &= !(1 << (at[0] % 64));
                    if value {
                        set.set(at);
                    }
                }
            }
        }
    }
}

fn at([nx, ny, _]: [usize; 3], i: usize) -> [usize; 3] {
    [i % nx, i / nx % ny, i / nx / ny]
}

fn cases(count: usize) -> Vec<Case> {
    let dims = REFERENCE.dims;
    REFERENCE.cases.iter().take(count).map(|bodies| Case::new(bodies, dims)).collect()
}

fn bank(cases: &[Case], mode: Mode) -> Bank {
    let shapes = cases.iter().flat_map(|case| case.room().shapes(mode));
    Bank::new(shapes.collect()).unwrap()
}

/// What a mask is like: volume relative to the brain, least distance to the tumour, part in the brain.
struct Likeness {
    fraction: f64,
    distance: f64,
    inside: f64,
}

fn likeness(mask: &HealthyMask, brain: &Bits, distances: &[f32]) -> Likeness {
    let voxels = mask.voxels.len() as f64;
    let is_in = |&&v: &&u32| brain.get(at(brain.dims(), v as usize));
    let nearest = mask.voxels.iter().map(|&v| distances[v as usize]).fold(f32::INFINITY, f32::min);
    Likeness {
        fraction: voxels / brain.count() as f64,
        distance: f64::from(nearest).sqrt(),
        inside: mask.voxels.iter().filter(is_in).count() as f64 / voxels,
    }
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
        assert_eq!(dilated_by_faces(&set, 2), bits(volume.dims, &volume.dilated_by_faces));
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
fn compat_masks_have_the_statistics_of_the_reference() {
    let cases = cases(usize::MAX);
    let bank = bank(&cases, Mode::Compat);
    assert_eq!(bank.count(), REFERENCE.shapes);
    let mut drawn = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let room = case.room();
        let site = Site::new(&room.brain, &room.lesion).unwrap();
        assert!((site.own_fraction - REFERENCE.own_fractions[index]).abs() < 1e-7);
        assert_eq!(site.places.len(), REFERENCE.places[index]);
        let tumour = super::tumour_of(&room.lesion, [1.0; 3], Mode::Compat);
        let distances = squared(&tumour, [1.0; 3]);
        let mut rng = stream("test", &[b"compat", &index.to_le_bytes()]);
        for _ in 0..REFERENCE.draws {
            let mask = room.draw_shape(&bank, Mode::Compat, &mut rng).unwrap();
            drawn.push((site.own_fraction, likeness(&mask, &room.brain, &distances)));
        }
    }
    let check = |name: &str, quantiles: &[f64], of: &dyn Fn(&Likeness) -> f64| {
        for (&quantile, &level) in quantiles.iter().zip(&REFERENCE.levels) {
            // A value that many masks share stands at all the levels it spans.
            let part = |test: &dyn Fn(f64) -> bool| {
                drawn.iter().filter(|(_, l)| test(of(l))).count() as f64 / drawn.len() as f64
            };
            let (below, to) = (part(&|v| v < quantile - 1e-9), part(&|v| v <= quantile + 1e-9));
            assert!(below <= level + LEVEL_TOLERANCE, "{name} {level}: {below}");
            assert!(to >= level - LEVEL_TOLERANCE, "{name} {level}: {to}");
        }
    };
    check("fraction", &REFERENCE.quantiles.fraction, &|l| l.fraction);
    check("distance", &REFERENCE.quantiles.distance, &|l| l.distance);
    check("inside", &REFERENCE.quantiles.inside, &|l| l.inside);
    assert!(drawn.iter().all(|(_, l)| l.distance >= 5.0 && l.inside >= INSIDE_MIN));
    // The original's rank has no effect, in the reference and here.
    let pairs: Vec<(f64, f64)> = drawn.iter().map(|(own, l)| (*own, l.fraction)).collect();
    assert!(REFERENCE.correlation.abs() < 0.15 && correlation(&pairs).abs() < 0.15);
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
            Mode::Compat => {
                squared(&super::tumour_of(&room.lesion, [1.0; 3], masks.mode), [1.0; 3])
            }
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
