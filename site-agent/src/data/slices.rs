//! An example out of a planned scan: a task, a void and a slice by chance, painted.
//!
//! It depends on the case, its plans and the random stream alone.

use rand::{Rng, RngExt};

use super::augment::augmented;
use super::compose::{Brush, mirrored};
use super::example::{Example, Region};
use super::plan::{self, CasePlans, Plan, ScanPlans, Scratch};
use super::prepared::Prepared;
use super::scan::{SliceOptions, condition};

/// How far the mask of a single component may grow, in millimetres.
const SPREAD_MAX_MM: f64 = 3.0;

/// How often each task is drawn where every task is possible: heal, one component, several, mixed,
/// box; each number is the upper end of its part of [0, 1).
const TASKS_UP_TO: [f64; 5] = [0.40, 0.65, 0.80, 0.90, 1.00];

/// An example of one scan; none if the scan teaches nothing.
pub(crate) fn draw(
    case: &Prepared,
    plans: &CasePlans,
    contrast: usize,
    options: &SliceOptions,
    scratch: &mut Scratch,
    rng: &mut impl Rng,
) -> Option<Example> {
    let (scan, grid) = (case.scan(contrast)?, plans.grid(contrast)?);
    let spread_max = (SPREAD_MAX_MM / grid.pixel_mm()).round() as usize;
    let (plan, brush) = task(plans.scan(case, contrast)?, spread_max, rng);
    let mut left = plan.slices.clone();
    let (z, look) = loop {
        // One of them hides enough, so this ends before none is left.
        if left.is_empty() {
            return None;
        }
        let z = left.swap_remove(rng.random_range(0..left.len()));
        if let Some(look) = plans.look(case, &scan, plan.void, z, scratch) {
            break (z, look);
        }
    };
    let condition = condition(contrast, grid.height(z), look.is_lesion_visible);
    let example = plan::canvas(grid, &look, plan.window, scratch).paint(brush, condition);
    if !options.augment {
        return Some(example);
    }
    let example = if rng.random_bool(0.5) { mirrored(example, options.size) } else { example };
    Some(augmented(example, options.size, rng))
}

/// What to hide and how to paint it.
fn task<'a>(plans: &'a ScanPlans, spread_max: usize, rng: &mut impl Rng) -> (&'a Plan, Brush) {
    // Without a whole tumour there is a healthy mask, or there would be no plans.
    let Some(whole) = &plans.whole else { return (healing(plans, rng), Brush::Coded) };
    let start = if plans.heal.is_empty() { TASKS_UP_TO[0] } else { 0.0 };
    let roll = start + (1.0 - start) * rng.random::<f64>();
    let spread = rng.random_range(0..=spread_max);
    if roll < TASKS_UP_TO[0] {
        return (healing(plans, rng), Brush::Coded);
    }
    if (TASKS_UP_TO[1]..TASKS_UP_TO[2]).contains(&roll) {
        return (whole, Brush::Coded);
    }
    if plans.components.is_empty() || (TASKS_UP_TO[2]..TASKS_UP_TO[3]).contains(&roll) {
        return (whole, Brush::Spread { region: Region::Mixed, pixels: spread });
    }
    let (region, plan) = &plans.components[rng.random_range(0..plans.components.len())];
    if roll < TASKS_UP_TO[1] {
        (plan, Brush::Spread { region: *region, pixels: spread })
    } else {
        (plan, Brush::Boxed(*region))
    }
}

/// One of the healthy masks.
fn healing<'a>(plans: &'a ScanPlans, rng: &mut impl Rng) -> &'a Plan {
    &plans.heal[rng.random_range(0..plans.heal.len())]
}

#[cfg(test)]
mod tests {
    use super::draw;
    use crate::data::example::{Example, REGIONS, Region};
    use crate::data::mask::{Masks, Mode};
    use crate::data::phantom_for_tests::{brain, tumour};
    use crate::data::plan::{CasePlans, HIDDEN_PIXELS_MIN, Scratch};
    use crate::data::prepared::{Prepared, Scan, build};
    use crate::data::scan::{MASKS_PER_CASE, SliceOptions};
    use crate::data::stream::stream;
    use crate::data::volume::Volume;

    const SIZE: usize = 32;

    fn options() -> SliceOptions {
        let mode = Mode::Corrected;
        SliceOptions { size: SIZE, masks: MASKS_PER_CASE, seed: 7, round: 1, mode, augment: false }
    }

    fn case(image: &Volume, lesion: Option<&[Option<Region>]>) -> Prepared {
        Prepared::open(Box::new(build(&[Scan { contrast: 2, image }], lesion).unwrap())).unwrap()
    }

    fn examples(case: &Prepared, count: usize) -> Vec<Example> {
        examples_with(case, "p", &options(), count)
    }

    fn examples_with(
        case: &Prepared,
        patient: &str,
        options: &SliceOptions,
        count: usize,
    ) -> Vec<Example> {
        let plans = CasePlans::new(case, patient, options, &Masks::default());
        let (mut rng, mut scratch) = (stream("test", &[]), Scratch::default());
        (0..count).filter_map(|_| draw(case, &plans, 2, options, &mut scratch, &mut rng)).collect()
    }

    fn count(plane: &[f32]) -> usize {
        plane.iter().filter(|&&v| v == 1.0).count()
    }

    fn channel(example: &Example, region: Region) -> &[f32] {
        let area = SIZE * SIZE;
        &example.regions[region as usize * area..][..area]
    }

    #[test]
    fn every_example_keeps_the_contract_of_its_planes() {
        let image = brain();
        let lesion = tumour(&image);
        for example in examples(&case(&image, Some(&lesion)), 200) {
            assert_eq!(example.image.len(), SIZE * SIZE);
            assert_eq!(example.regions.len(), REGIONS * SIZE * SIZE);
            assert!(example.image.iter().all(|v| (-1.0..=1.0).contains(v)));
            assert!(count(&example.loss_mask) >= HIDDEN_PIXELS_MIN);
            let planes = [&example.mask, &example.loss_mask, &example.regions];
            assert!(planes.iter().all(|p| p.iter().all(|&v| v == 0.0 || v == 1.0)));
            for pixel in 0..SIZE * SIZE {
                assert!(example.loss_mask[pixel] <= example.mask[pixel]);
                // Exactly one tissue is asked for wherever something is hidden.
                let tissues = (0..5).map(|r| example.regions[r * SIZE * SIZE + pixel]).sum::<f32>();
                assert_eq!(tissues, example.mask[pixel]);
            }
            assert_eq!(&example.condition[..4], [0.0, 0.0, 1.0, 0.0]);
            assert!((0.0..=1.0).contains(&example.condition[4]));
        }
    }

    #[test]
    fn the_tasks_come_as_often_as_they_should() {
        let image = brain();
        let lesion = tumour(&image);
        let drawn = examples(&case(&image, Some(&lesion)), 3000);
        let part = |test: &dyn Fn(&Example) -> bool| {
            drawn.iter().filter(|e| test(e)).count() as f64 / drawn.len() as f64
        };
        let has = |e: &Example, region| count(channel(e, region)) > 0;
        let heal = part(&|e| has(e, Region::Healthy));
        let mixed = part(&|e| has(e, Region::Mixed));
        let boxes = part(&|e| has(e, Region::Box));
        assert!((heal - 0.40).abs() < 0.04, "{heal}");
        assert!((mixed - 0.10).abs() < 0.03, "{mixed}");
        assert!((boxes - 0.10).abs() < 0.03, "{boxes}");
    }

    #[test]
    fn healing_hides_the_tumour_too_and_learns_nothing_from_it() {
        let bright = brain();
        // Only healing is drawn from a lesion of no known component.
        let lesion: Vec<Option<Region>> =
            tumour(&bright).iter().map(|l| l.map(|_| Region::Mixed)).collect();
        let mut dark = bright.clone();
        for (voxel, region) in dark.voxels.iter_mut().zip(&lesion) {
            if region.is_some() {
                *voxel = 50.0;
            }
        }
        let pairs = examples(&case(&bright, Some(&lesion)), 100)
            .into_iter()
            .zip(examples(&case(&dark, Some(&lesion)), 100));
        let mut hidden_lesions = 0;
        for (bright, dark) in pairs {
            assert_eq!((&bright.mask, &bright.loss_mask), (&dark.mask, &dark.loss_mask));
            assert_eq!(bright.condition[5], 0.0);
            for pixel in 0..SIZE * SIZE {
                let counts = bright.mask[pixel] == 0.0 || bright.loss_mask[pixel] == 1.0;
                let differs = bright.image[pixel] != dark.image[pixel];
                assert!(!(counts && differs), "the tumour is seen or learnt from");
                hidden_lesions += usize::from(differs);
            }
        }
        assert!(hidden_lesions > 0);
    }

    #[test]
    fn a_lesion_of_no_known_component_is_never_painted() {
        let image = brain();
        let lesion: Vec<Option<Region>> =
            tumour(&image).iter().map(|l| l.map(|_| Region::Mixed)).collect();
        for example in examples(&case(&image, Some(&lesion)), 100) {
            assert_eq!(count(channel(&example, Region::Healthy)), count(&example.mask));
            assert_eq!(count(channel(&example, Region::Box)), 0);
        }
    }

    #[test]
    fn without_a_segmentation_every_example_heals() {
        for example in examples(&case(&brain(), None), 100) {
            assert_eq!(channel(&example, Region::Healthy), example.mask);
            assert_eq!(example.loss_mask, example.mask);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_examples_and_another_round_others() {
        let case = case(&brain(), None);
        let drawn = |options: &SliceOptions, patient| examples_with(&case, patient, options, 8);
        let here = drawn(&options(), "p");
        assert_eq!(here, drawn(&options(), "p"));
        assert_ne!(here, drawn(&SliceOptions { round: 2, ..options() }, "p"));
        assert_ne!(here, drawn(&SliceOptions { seed: 8, ..options() }, "p"));
        assert_ne!(here, drawn(&options(), "q"));
    }

    #[test]
    fn a_scan_with_nothing_to_hide_gives_no_example() {
        let case = case(&brain(), None);
        let none = SliceOptions { masks: 0, ..options() };
        assert!(examples_with(&case, "p", &none, 3).is_empty());
        let tiny = SliceOptions { size: 4, ..options() };
        assert!(examples_with(&case, "p", &tiny, 3).is_empty());
    }
}
