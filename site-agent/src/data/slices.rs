//! One contrast of one patient as the slices it can teach: a few voids (healthy blobs, the tumour,
//! its components) prepared once, then examples drawn from them at will.
//!
//! It holds pixels, not voxels: the volume can be dropped after [`CaseSlices::build`].

use rand::{Rng, RngExt};

use super::compose::{Brush, Canvas, Cell, mirrored};
use super::example::{Example, Region};
use super::plan::{Plan, Plane, Planner};
use super::scan::{CaseScan, Error, SliceOptions, check, condition};

/// How far the mask of a single component may grow, in millimetres.
const SPREAD_MAX_MM: f64 = 3.0;

/// How often each task is drawn where every task is possible: heal, one component, several, mixed,
/// box; each number is the upper end of its part of [0, 1).
const TASKS_UP_TO: [f64; 5] = [0.40, 0.65, 0.80, 0.90, 1.00];

/// The classes that can be painted one by one.
const COMPONENTS: [Region; 3] = [Region::Necrosis, Region::Oedema, Region::Enhancing];

/// The training slices of one scan.
pub struct CaseSlices {
    patient: String,
    contrast: usize,
    size: usize,
    spread_max: usize,
    planes: Vec<Plane>,
    heal: Vec<Plan>,
    components: Vec<(Region, Plan)>,
    whole: Option<Plan>,
}

impl CaseSlices {
    /// Prepares the slices of one scan. The same arguments give the same slices.
    ///
    /// # Errors
    /// [`Error`] if the inputs do not fit together, are unusable, or teach nothing.
    pub fn build(scan: &CaseScan<'_>, options: &SliceOptions) -> Result<CaseSlices, Error> {
        check(scan, options)?;
        let mut planner = Planner::new(scan, options.size)?;
        let heal = planner.heal(options)?;
        let mut components = Vec::new();
        for region in COMPONENTS {
            components.extend(planner.tumour(|r| r == region)?.map(|plan| (region, plan)));
        }
        // A lesion of no known component, or a cavity, is never painted: beside a tumour it is seen.
        let whole = planner.tumour(|r| r != Region::Mixed)?;
        if heal.is_empty() && whole.is_none() {
            return Err(Error::NothingToLearn);
        }
        let pixel_mm = planner.pixel_mm();
        Ok(CaseSlices {
            patient: scan.patient.to_owned(),
            contrast: scan.contrast,
            size: options.size,
            spread_max: (SPREAD_MAX_MM / pixel_mm).round() as usize,
            planes: planner.into_planes(),
            heal,
            components,
            whole,
        })
    }

    /// An example: a task, a void and a slice by chance, mirrored half the time.
    pub fn draw(&self, rng: &mut impl Rng) -> Example {
        let (plan, brush) = self.task(rng);
        let slice = &plan.slices[rng.random_range(0..plan.slices.len())];
        let plane = &self.planes[slice.plane];
        let canvas = Canvas {
            size: self.size,
            plane: &plane.pixels,
            cells: &slice.cells,
            window: plan.window,
        };
        let condition = condition(self.contrast, plane.height, slice.is_lesion_visible);
        let example = canvas.paint(brush, condition);
        if rng.random_bool(0.5) { mirrored(example, self.size) } else { example }
    }

    /// The patient the slices are of.
    pub fn patient(&self) -> &str {
        &self.patient
    }

    /// Axial slices that can be drawn.
    pub fn slices(&self) -> usize {
        self.planes.len()
    }

    /// About how much memory the slices take.
    pub fn bytes(&self) -> usize {
        let plans = self.heal.iter().chain(self.components.iter().map(|(_, plan)| plan));
        let cells: usize = plans
            .chain(&self.whole)
            .flat_map(|plan| &plan.slices)
            .map(|slice| slice.cells.len())
            .sum();
        self.planes.len() * self.size * self.size * size_of::<f32>() + cells * size_of::<Cell>()
    }

    /// What to hide and how to paint it.
    fn task(&self, rng: &mut impl Rng) -> (&Plan, Brush) {
        let Some(whole) = &self.whole else { return (self.healing(rng), Brush::Coded) };
        let start = if self.heal.is_empty() { TASKS_UP_TO[0] } else { 0.0 };
        let roll = start + (1.0 - start) * rng.random::<f64>();
        let spread = rng.random_range(0..=self.spread_max);
        if roll < TASKS_UP_TO[0] {
            return (self.healing(rng), Brush::Coded);
        }
        if (TASKS_UP_TO[1]..TASKS_UP_TO[2]).contains(&roll) {
            return (whole, Brush::Coded);
        }
        if self.components.is_empty() || (TASKS_UP_TO[2]..TASKS_UP_TO[3]).contains(&roll) {
            return (whole, Brush::Spread { region: Region::Mixed, pixels: spread });
        }
        let (region, plan) = &self.components[rng.random_range(0..self.components.len())];
        if roll < TASKS_UP_TO[1] {
            (plan, Brush::Spread { region: *region, pixels: spread })
        } else {
            (plan, Brush::Boxed(*region))
        }
    }

    /// One of the healthy masks; there is one, or there would be a tumour to paint.
    fn healing(&self, rng: &mut impl Rng) -> &Plan {
        &self.heal[rng.random_range(0..self.heal.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::CaseSlices;
    use crate::data::example::{Example, REGIONS, Region};
    use crate::data::phantom_for_tests::{brain, tumour};
    use crate::data::plan::HIDDEN_PIXELS_MIN;
    use crate::data::scan::{CaseScan, Error, MASKS_PER_CASE, MASKS_PER_CASE_MAX, SliceOptions};
    use crate::data::stream::stream;
    use crate::data::volume::Volume;

    const SIZE: usize = 32;

    fn options() -> SliceOptions {
        SliceOptions { size: SIZE, masks: MASKS_PER_CASE, seed: 7, round: 1 }
    }

    fn case(image: &Volume, lesion: Option<&[Option<Region>]>) -> CaseSlices {
        let scan = CaseScan { patient: "p", image, lesion, contrast: 2 };
        CaseSlices::build(&scan, &options()).unwrap()
    }

    fn examples(case: &CaseSlices, count: usize) -> Vec<Example> {
        let mut rng = stream("test", &[]);
        (0..count).map(|_| case.draw(&mut rng)).collect()
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
        let image = brain();
        let scan = CaseScan { patient: "p", image: &image, lesion: None, contrast: 0 };
        let drawn = |options: &SliceOptions, patient| {
            examples(&CaseSlices::build(&CaseScan { patient, ..scan }, options).unwrap(), 8)
        };
        let here = drawn(&options(), "p");
        assert_eq!(here, drawn(&options(), "p"));
        assert_ne!(here, drawn(&SliceOptions { round: 2, ..options() }, "p"));
        assert_ne!(here, drawn(&SliceOptions { seed: 8, ..options() }, "p"));
        assert_ne!(here, drawn(&options(), "q"));
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let image = brain();
        let scan = CaseScan { patient: "p", image: &image, lesion: None, contrast: 0 };
        let refused = |scan: &CaseScan<'_>, options: &SliceOptions| {
            CaseSlices::build(scan, options).err().unwrap()
        };
        let short = vec![None; 5];
        let error = refused(&CaseScan { lesion: Some(&short), ..scan }, &options());
        assert!(matches!(error, Error::Shape { what: "lesion map", found: 5, .. }), "{error}");
        assert_eq!(refused(&CaseScan { contrast: 4, ..scan }, &options()), Error::Contrast(4));
        let healthy = vec![Some(Region::Healthy); image.voxels.len()];
        let error = refused(&CaseScan { lesion: Some(&healthy), ..scan }, &options());
        assert_eq!(error, Error::Label(Region::Healthy));
        let masks = MASKS_PER_CASE_MAX + 1;
        assert_eq!(refused(&scan, &SliceOptions { masks, ..options() }), Error::Masks(masks));
        assert_eq!(refused(&scan, &SliceOptions { masks: 0, ..options() }), Error::NothingToLearn);
        let error = refused(&scan, &SliceOptions { size: 4, ..options() });
        assert!(matches!(error, Error::Grid(_)));
        let torn = Volume { dims: [1, 2, 3], ..image.clone() };
        let error = refused(&CaseScan { image: &torn, ..scan }, &options());
        assert!(matches!(error, Error::Grid(_)), "{error}");
    }
}
