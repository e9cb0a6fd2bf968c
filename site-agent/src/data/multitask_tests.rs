//! The mix of tasks a model is trained on, proved on what the model gets to see: the real tumour is
//! hidden whenever healthy tissue is painted, and a loss counts only where the truth is known.

use std::sync::Arc;

use proptest::prelude::*;

use super::compose::{Brush, Canvas, KNOWN, UNKNOWN, cells, mirrored};
use super::example::{Example, Region};
use super::grid::SliceGrid;
use super::mask::bank::Bank;
use super::mask::{Masks, Mode};
use super::normalise::Window;
use super::phantom_for_tests::{brain, tumour};
use super::plan::{CasePlans, Scratch};
use super::prepared::{Prepared, Scan, build};
use super::scan::{MASKS_PER_CASE, SliceOptions};
use super::slices::draw;
use super::stream::stream;
use super::volume::Volume;

const SIZE: usize = 32;

const AREA: usize = SIZE * SIZE;

/// Examples of the phantom with its tumour.
fn examples(count: usize) -> Vec<Example> {
    let image = brain();
    let lesion = tumour(&image);
    let block = build(&[Scan { contrast: 0, image: &image }], Some(&lesion)).unwrap();
    let case = Prepared::open(Box::new(block)).unwrap();
    let options = SliceOptions {
        size: SIZE,
        masks: MASKS_PER_CASE,
        seed: 3,
        round: 5,
        mode: Mode::Corrected,
        augment: false,
    };
    let bank = Bank::new(case.shapes(options.mode)).map(Arc::new);
    let plans = CasePlans::new(&case, "p", &options, &Masks { mode: options.mode, bank });
    let (mut rng, mut scratch) = (stream("test", &[]), Scratch::default());
    let mut example = || draw(&case, &plans, 0, &options, &mut scratch, &mut rng).unwrap();
    (0..count).map(|_| example()).collect()
}

fn channel(example: &Example, region: Region) -> &[f32] {
    &example.regions[region as usize * AREA..][..AREA]
}

fn has(example: &Example, region: Region) -> bool {
    channel(example, region).contains(&1.0)
}

#[test]
fn the_real_tumour_is_under_the_mask_and_out_of_the_loss_whenever_healthy_tissue_is_painted() {
    let image = brain();
    let lesion = tumour(&image);
    let grid = SliceGrid::around(&image, SIZE, |i| image.voxels[i] > 0.0).unwrap();
    let marked = lesion.iter().map(|l| f32::from(u8::from(l.is_some()))).collect();
    let marked = image.with_voxels(marked);
    let mut with_tumour = 0;
    for example in examples(1500).iter().filter(|e| has(e, Region::Healthy)) {
        let (first, last) = grid.brain_z();
        let z = first + (example.condition[4] * (last - first) as f32).round() as usize;
        // How much of each pixel is tumour.
        let cover = grid.sample(marked.slice(z));
        let keeps = |example: &Example| {
            (0..AREA).all(|pixel| {
                (cover[pixel] < 0.5 || example.mask[pixel] == 1.0)
                    && (cover[pixel] < 1e-6 || example.loss_mask[pixel] == 0.0)
            })
        };
        assert!(keeps(example) || keeps(&mirrored(example.clone(), SIZE)), "slice {z}");
        assert_eq!(channel(example, Region::Healthy), example.mask, "only healthy is painted");
        assert_eq!(example.condition[5], 0.0, "no tumour is announced");
        with_tumour += usize::from(cover.iter().any(|&c| c >= 0.5));
    }
    assert!(with_tumour > 100, "{with_tumour}");
}

#[test]
fn each_task_comes_in_its_proportion() {
    const COUNT: usize = 6000;
    let drawn = examples(COUNT);
    let part = |test: &dyn Fn(&Example) -> bool| {
        drawn.iter().filter(|e| test(e)).count() as f64 / COUNT as f64
    };
    let kinds = |e: &Example| {
        let components = [Region::Necrosis, Region::Oedema, Region::Enhancing];
        components.into_iter().filter(|&region| has(e, region)).count()
    };
    let heal = part(&|e| has(e, Region::Healthy));
    let one = part(&|e| kinds(e) == 1 && !has(e, Region::Box));
    let several = part(&|e| kinds(e) > 1);
    let mixed = part(&|e| has(e, Region::Mixed));
    let boxed = part(&|e| has(e, Region::Box));
    // Five standard errors of 6,000 draws at most.
    assert!((heal - 0.40).abs() < 0.032, "{heal}");
    assert!((mixed - 0.10).abs() < 0.02, "{mixed}");
    assert!((boxed - 0.10).abs() < 0.02, "{boxed}");
    // At the tumour's upper and lower end there is but one component to paint.
    assert!((one + several - 0.40).abs() < 0.032, "{one} {several}");
    assert!(several > 0.06 && several < 0.17 && one > 0.23, "{one} {several}");
}

#[test]
fn a_box_is_a_rectangle_of_one_component_under_its_flag() {
    let mut boxes = 0;
    for example in examples(1500).iter().filter(|e| has(e, Region::Box)) {
        boxes += 1;
        assert_eq!(channel(example, Region::Box), example.mask);
        assert_eq!(example.loss_mask, example.mask);
        let hidden: Vec<(usize, usize)> =
            (0..AREA).filter(|&i| example.mask[i] == 1.0).map(|i| (i % SIZE, i / SIZE)).collect();
        let span = |of: fn(&(usize, usize)) -> usize| {
            let (low, high) = (hidden.iter().map(of).min(), hidden.iter().map(of).max());
            high.unwrap() - low.unwrap() + 1
        };
        assert_eq!(hidden.len(), span(|at| at.0) * span(|at| at.1));
        let components = [Region::Necrosis, Region::Oedema, Region::Enhancing];
        assert_eq!(components.into_iter().filter(|&r| has(example, r)).count(), 1);
    }
    assert!(boxes > 100, "{boxes}");
}

/// Every way to paint.
fn brushes() -> impl Strategy<Value = Brush> {
    let components = [Region::Necrosis, Region::Oedema, Region::Enhancing, Region::Mixed];
    prop_oneof![
        Just(Brush::Coded),
        (prop::sample::select(components.to_vec()), 0usize..4)
            .prop_map(|(region, pixels)| Brush::Spread { region, pixels }),
        prop::sample::select(components[..3].to_vec()).prop_map(Brush::Boxed),
    ]
}

proptest! {
    #[test]
    fn whatever_is_hidden_and_however_the_loss_keeps_to_the_known_truth_under_the_mask(
        codes in prop::collection::vec(
            prop_oneof![12 => Just(KNOWN), 1 => 1u8..=5, 1 => Just(UNKNOWN)], 24 * 24,
        ),
        brush in brushes(),
    ) {
        let voxels: Vec<f32> = (0..24 * 24).map(|i| 100.0 + (i % 7) as f32).collect();
        let volume =
            Volume { dims: [24, 24, 1], spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels };
        // 24 voxels and the margin make 16 pixels of 2 x 2 voxels.
        let grid = SliceGrid::around(&volume, 16, |_| true).unwrap();
        let window = Window { low: 0.0, high: 200.0 };
        let (plane, cells) =
            (grid.sample(&volume.voxels), cells(&grid, &volume.voxels, &codes));
        let canvas = Canvas { size: 16, plane: &plane, cells: &cells, window };
        let example = canvas.paint(brush, [0.0; 6]);
        let cover = |test: &dyn Fn(u8) -> bool| {
            let marks: Vec<f32> = codes.iter().map(|&c| f32::from(u8::from(test(c)))).collect();
            grid.sample(&marks)
        };
        let hidden = cover(&|c| c != KNOWN);
        let unknown = cover(&|c| c == UNKNOWN);
        for pixel in 0..16 * 16 {
            let (mask, loss) = (example.mask[pixel], example.loss_mask[pixel]);
            prop_assert!(loss <= mask, "a loss outside the mask");
            prop_assert!(hidden[pixel] < 0.499 || mask == 1.0, "a hidden pixel is masked");
            prop_assert!(unknown[pixel] < 1e-6 || loss == 0.0, "no truth, no loss");
            prop_assert!(
                unknown[pixel] >= 1e-6 || loss == mask, "where the truth is known it counts"
            );
            let of = |region: Region| example.regions[region as usize * 256 + pixel];
            let flag = f32::from(u8::from(matches!(brush, Brush::Boxed(_))));
            prop_assert_eq!(of(Region::Box), flag * mask);
            let tissues: f32 = (0..5).map(|r| example.regions[r * 256 + pixel]).sum();
            prop_assert_eq!(tissues, mask, "one tissue for each hidden pixel");
        }
        let nothing = canvas.void([0.0; 6]);
        prop_assert!(nothing.loss_mask.iter().all(|&l| l == 0.0), "inference has no loss");
    }
}
