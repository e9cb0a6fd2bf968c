//! What augmentation promises, mostly about what it must not do.

use proptest::prelude::*;

use super::*;
use crate::data::example::CONDITIONS;
use crate::data::stream::stream;

const SIZE: usize = 24;
const AREA: usize = SIZE * SIZE;

fn at(x: usize, y: usize) -> usize {
    y * SIZE + x
}

fn distance(i: usize, x: f32, y: f32) -> f32 {
    ((i % SIZE) as f32 - x).hypot((i / SIZE) as f32 - y)
}

/// A round brain of random grey, a round mask in it, a part of the mask without loss.
fn example(seed: u64, mask_at: (f32, f32), radius: f32, region: Region) -> Example {
    let mut rng = stream("augment tests", &[&seed.to_le_bytes()]);
    let middle = (SIZE as f32 - 1.0) / 2.0;
    let mut example = Example {
        image: vec![-1.0; AREA],
        mask: vec![0.0; AREA],
        regions: vec![0.0; REGIONS * AREA],
        loss_mask: vec![0.0; AREA],
        condition: std::array::from_fn::<f32, CONDITIONS, _>(|i| i as f32 / 10.0),
    };
    for i in (0..AREA).filter(|&i| distance(i, middle, middle) < 10.0) {
        example.image[i] = rng.random_range(-0.95..=1.0);
    }
    for i in (0..AREA).filter(|&i| distance(i, mask_at.0, mask_at.1) <= radius) {
        example.mask[i] = 1.0;
        let is_unknown = i % SIZE >= (mask_at.0 + 1.0) as usize;
        example.loss_mask[i] = if is_unknown { 0.0 } else { 1.0 };
        let region = if is_unknown { Region::Healthy } else { region };
        example.regions[region as usize * AREA + i] = 1.0;
    }
    example
}

fn run(example: &Example, seed: u64) -> Example {
    augmented(example.clone(), SIZE, &mut stream("augment tests 2", &[&seed.to_le_bytes()]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn changing_hidden_pixels_of_the_input_changes_no_known_pixel_of_the_output(
        seed in any::<u64>(), x in 4.0f32..19.0, y in 4.0f32..19.0, radius in 0.5f32..5.0,
    ) {
        let one = example(seed, (x, y), radius, Region::Oedema);
        let mut other = one.clone();
        let mut rng = stream("augment tests 3", &[&seed.to_le_bytes()]);
        for i in (0..AREA).filter(|&i| one.mask[i] == 1.0) {
            other.image[i] = rng.random_range(-1.0..=1.0);
        }
        let (one, other) = (run(&one, seed), run(&other, seed));
        prop_assert_eq!(&one.mask, &other.mask);
        prop_assert_eq!(&one.loss_mask, &other.loss_mask);
        prop_assert_eq!(&one.regions, &other.regions);
        for i in (0..AREA).filter(|&i| one.mask[i] == 0.0) {
            prop_assert_eq!(one.image[i].to_bits(), other.image[i].to_bits());
        }
    }

    #[test]
    fn changing_what_has_no_truth_changes_nothing_that_counts(
        seed in any::<u64>(), x in 4.0f32..19.0, y in 4.0f32..19.0, radius in 0.5f32..5.0,
    ) {
        let one = example(seed, (x, y), radius, Region::Oedema);
        let mut other = one.clone();
        for i in (0..AREA).filter(|&i| one.mask[i] == 1.0 && one.loss_mask[i] == 0.0) {
            other.image[i] = -other.image[i];
        }
        let (one, other) = (run(&one, seed), run(&other, seed));
        for i in (0..AREA).filter(|&i| one.mask[i] == 0.0 || one.loss_mask[i] == 1.0) {
            prop_assert_eq!(one.image[i].to_bits(), other.image[i].to_bits());
        }
    }

    #[test]
    fn every_plane_keeps_its_promises(
        seed in any::<u64>(), x in 0.0f32..23.0, y in 0.0f32..23.0, radius in 0.5f32..5.0,
    ) {
        let before = example(seed, (x, y), radius, Region::Enhancing);
        let after = run(&before, seed);
        prop_assert!(after.image.iter().all(|v| (-1.0..=1.0).contains(v)));
        // Background is what lies outside every turned and scaled brain of radius 10.
        let middle = (SIZE as f32 - 1.0) / 2.0;
        for i in (0..AREA).filter(|&i| distance(i, middle, middle) > 1.1 * 11.5) {
            prop_assert_eq!(after.image[i], -1.0);
        }
        prop_assert_eq!(after.condition, before.condition);
        for i in 0..AREA {
            prop_assert!(after.mask[i] == 0.0 || after.mask[i] == 1.0);
            prop_assert!(after.loss_mask[i] == 0.0 || after.loss_mask[i] == 1.0);
            prop_assert!(after.loss_mask[i] <= after.mask[i]);
            // Each hidden pixel of these examples has one region, and no known one has any.
            let regions: f32 = (0..REGIONS).map(|region| after.regions[region * AREA + i]).sum();
            prop_assert_eq!(regions, after.mask[i]);
        }
        let counts = |plane: &[f32]| plane.contains(&1.0);
        prop_assert_eq!(counts(&after.loss_mask), counts(&before.loss_mask));
        prop_assert_eq!(run(&before, seed), after);
    }
}

#[test]
fn nothing_is_moved_by_no_rotation_and_scale_1() {
    let before = example(1, (11.0, 9.0), 4.0, Region::Necrosis);
    let mut after = before.clone();
    move_by(&mut after, SIZE, 0.0, 1.0);
    assert_eq!(after.mask, before.mask);
    assert_eq!(after.loss_mask, before.loss_mask);
    assert_eq!(after.regions, before.regions);
    assert!(after.image.iter().zip(&before.image).all(|(a, b)| (a - b).abs() < 1e-6));
}

#[test]
fn a_quarter_turn_takes_every_plane_to_where_it_belongs() {
    let mut before = example(2, (15.0, 6.0), 0.2, Region::Oedema);
    before.image[at(15, 6)] = 0.5;
    let mut after = before.clone();
    // By hand: 90 degrees take what lies right of and above the middle to below and right of it.
    move_by(&mut after, SIZE, 90.0, 1.0);
    let there = (0..AREA).filter(|&i| after.loss_mask[i] == 1.0).collect::<Vec<_>>();
    // A sine of 90 degrees is not quite 1, so that neighbours have taps of almost no weight.
    assert!(there.contains(&at(17, 15)) && there.len() <= 4, "{there:?}");
    assert!((after.image[at(17, 15)] - 0.5).abs() < 1e-4);
    assert_eq!(after.regions[Region::Oedema as usize * AREA + at(17, 15)], 1.0);
}

#[test]
fn a_pixel_between_a_hidden_and_a_known_one_is_hidden_as_the_hidden_one() {
    let mut before = example(3, (10.0, 10.0), 0.2, Region::Necrosis);
    move_by(&mut before, SIZE, 0.0, 1.05);
    let hidden: Vec<usize> = (0..AREA).filter(|&i| before.mask[i] == 1.0).collect();
    // The middle is at 11.5: source places of x = 9 and 10 are 9.12 and 10.07, on both sides.
    assert_eq!(hidden, [at(9, 9), at(10, 9), at(9, 10), at(10, 10)]);
    for i in hidden {
        assert_eq!(before.regions[Region::Necrosis as usize * AREA + i], 1.0);
        assert_eq!(before.loss_mask[i], 1.0);
    }
}

#[test]
fn a_place_just_inside_the_border_is_read_without_leaving_the_slice() {
    let example = example(6, (23.0, 23.0), 0.2, Region::Oedema);
    let source = Source::of(&example, SIZE);
    let end = (SIZE as f32 + 1.0).next_down();
    for (x, y) in [(end, end), (f32::MIN_POSITIVE, end), (f32::MIN_POSITIVE, 3.0)] {
        assert_eq!(source.at(x, y).unit, 0.0);
    }
}

#[test]
fn a_box_is_scaled_but_never_turned() {
    for seed in 0..40 {
        let mut before = example(seed, (11.0, 11.0), 0.0, Region::Oedema);
        for (x, y) in (8..14).flat_map(|x| (9..13).map(move |y| (x, y))) {
            before.mask[at(x, y)] = 1.0;
            before.loss_mask[at(x, y)] = 1.0;
            before.regions[Region::Oedema as usize * AREA + at(x, y)] = 1.0;
            before.regions[Region::Box as usize * AREA + at(x, y)] = 1.0;
        }
        let after = run(&before, seed);
        let hidden: Vec<usize> = (0..AREA).filter(|&i| after.mask[i] == 1.0).collect();
        let span = |of: fn(usize) -> usize| {
            let all = hidden.iter().map(|&i| of(i));
            all.clone().max().unwrap() - all.min().unwrap() + 1
        };
        assert_eq!(hidden.len(), span(|i| i % SIZE) * span(|i| i / SIZE), "no upright box");
        let flags = &after.regions[Region::Box as usize * AREA..];
        assert!(hidden.iter().all(|&i| flags[i] == 1.0));
    }
}

#[test]
fn a_mask_that_would_leave_the_slice_stays_where_it_is() {
    // In a corner, which a scale above 1 pushes out.
    let mut before = example(4, (23.0, 23.0), 0.2, Region::Oedema);
    before.loss_mask[at(23, 23)] = 1.0;
    let mut after = before.clone();
    move_by(&mut after, SIZE, 0.0, 1.1);
    assert_eq!((&after.mask, &after.loss_mask), (&before.mask, &before.loss_mask));
    assert_eq!(after.regions, before.regions);
    assert!(after.image.iter().zip(&before.image).all(|(a, b)| (a - b).abs() < 1e-6));
    move_by(&mut after, SIZE, 0.0, 0.9);
    assert_ne!(after, before);
}

#[test]
fn contrast_keeps_the_order_of_greys_and_both_ends() {
    for gamma in [0.8, 1.0, 1.2] {
        let tone = Tone::new(gamma);
        assert_eq!([tone.of(0.0), tone.of(1.0)], [0.0, 1.0]);
        let mut last = -1.0;
        for i in 0..=10_000 {
            let (unit, seen) = (i as f32 / 1e4, tone.of(i as f32 / 1e4));
            assert!(seen > last);
            assert!((seen - unit.powf(gamma)).abs() < 2e-3);
            last = seen;
        }
    }
}

#[test]
fn the_bias_field_is_smooth_positive_and_none_at_amplitude_0() {
    let mut rng = stream("augment tests 4", &[]);
    let field =
        |bias: &Bias, x: usize, y: usize| between(&bias.row(knots(y, SIZE)), knots(x, SIZE));
    let (none, some) = (Bias::new(0.0, &mut rng), Bias::new(BIAS_MAX, &mut rng));
    let mut seen = (f32::INFINITY, 0.0_f32);
    for (x, y) in (1..SIZE).flat_map(|x| (0..SIZE).map(move |y| (x, y))) {
        assert!((field(&none, x, y) - 1.0).abs() < 1e-6);
        let here = field(&some, x, y);
        assert!((0.5..2.0).contains(&here));
        assert!((here - field(&some, x - 1, y)).abs() < 0.05, "a step");
        seen = (seen.0.min(here), seen.1.max(here));
    }
    assert!(seen.1 - seen.0 > 0.02, "{seen:?}");
}

#[test]
#[should_panic(expected = "size * size")]
fn a_size_that_is_not_that_of_the_example_is_a_bug() {
    let before = example(5, (10.0, 10.0), 2.0, Region::Oedema);
    augmented(before, SIZE - 1, &mut stream("augment tests 5", &[]));
}
