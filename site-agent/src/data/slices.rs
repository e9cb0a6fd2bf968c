//! One contrast of one patient as the slices it can teach: a few voids (healthy blobs, the tumour,
//! its components) prepared once, then examples drawn from them at will.
//!
//! It holds pixels, not voxels: the volume can be dropped after [`CaseSlices::build`].

use rand::{Rng, RngExt};

use super::compose::{self, Brush, Canvas, Cell, KNOWN, UNKNOWN, code, mirrored};
use super::example::{CONDITIONS, Example, Region};
use super::grid::{self, SliceGrid};
use super::mask::{self, Room, TRAINING_DIAMETER_MM};
use super::normalise::{self, Window};
use super::stream::stream;
use super::volume::Volume;

/// Healthy masks per case unless the caller says otherwise.
pub const MASKS_PER_CASE: usize = 4;

/// The most healthy masks per case.
pub const MASKS_PER_CASE_MAX: usize = 64;

/// Contrasts the condition vector can tell apart.
pub const CONTRASTS: usize = 4;

/// The least part of a training slice that is brain.
pub const BRAIN_FRACTION_MIN: f64 = 0.05;

/// The least area a training slice hides, in square millimetres (32 pixels of a BraTS slice).
pub const HIDDEN_MIN_MM2: f64 = 32.0;

/// The fewest pixels a training slice hides, however large they are.
pub const HIDDEN_PIXELS_MIN: usize = 3;

/// How far the mask of a single component may grow, in millimetres.
const SPREAD_MAX_MM: f64 = 3.0;

/// How often each task is drawn where every task is possible: heal, one component, several, mixed,
/// box; each number is the upper end of its part of [0, 1).
const TASKS_UP_TO: [f64; 5] = [0.40, 0.65, 0.80, 0.90, 1.00];

/// The classes that can be painted one by one.
const COMPONENTS: [Region; 3] = [Region::Necrosis, Region::Oedema, Region::Enhancing];

/// Why a case teaches nothing. No variant names a path or a patient.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// Two inputs do not belong together.
    #[error("the {what} has {found} voxels where the image has {expected}")]
    Shape {
        /// Which input.
        what: &'static str,
        /// Voxels of the image.
        expected: usize,
        /// Voxels of the other.
        found: usize,
    },
    /// The contrast's index has no place in the condition vector.
    #[error("contrast {0} is not one of the {CONTRASTS} known")]
    Contrast(usize),
    /// A lesion label is not a lesion.
    #[error("the lesion map holds {0:?}, which is no lesion")]
    Label(Region),
    /// The number of masks is out of bounds.
    #[error("{0} healthy masks per case are more than {MASKS_PER_CASE_MAX}")]
    Masks(usize),
    /// No slice has enough brain and enough to hide.
    #[error("no slice has enough brain and room to hide anything: leave this case out")]
    NothingToLearn,
    /// The pixels would take too much memory.
    #[error(
        "the training slices take {bytes} bytes, more than {max}: use fewer cases or a smaller image size"
    )]
    TooLarge {
        /// What is needed.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// There is no usable field of view.
    #[error(transparent)]
    Grid(#[from] grid::Error),
    /// There is no usable window of intensities.
    #[error(transparent)]
    Window(#[from] normalise::Error),
}

/// One scan to learn from.
#[derive(Clone, Copy)]
pub struct CaseScan<'a> {
    /// The patient, constant over exams. It seeds the masks and groups cases; it goes nowhere else.
    pub patient: &'a str,
    /// The scan, background 0 (negative voxels count as 0).
    pub image: &'a Volume,
    /// Per voxel the lesion's component, or [`Region::Mixed`] for a lesion of no known component
    /// (which is hidden but never painted); none where there is no segmentation.
    pub lesion: Option<&'a [Option<Region>]>,
    /// The contrast's index: 0 t1n, 1 t1c, 2 t2w, 3 t2f.
    pub contrast: usize,
}

/// How cases become slices.
#[derive(Clone, Copy, Debug)]
pub struct SliceOptions {
    /// Pixels along a side, the model's image size.
    pub size: usize,
    /// Healthy masks per case, see [`MASKS_PER_CASE`].
    pub masks: usize,
    /// The run's seed.
    pub seed: u64,
    /// The round, so that each round hides other tissue.
    pub round: u64,
}

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

/// One axial slice, unvoided. `pixels` are mean intensities `[size * size]`.
struct Plane {
    height: f32,
    pixels: Vec<f32>,
}

/// One way to hide a part of the volume.
struct Plan {
    window: Window,
    slices: Vec<PlanSlice>,
}

struct PlanSlice {
    plane: usize,
    cells: Vec<Cell>,
    is_lesion_visible: bool,
}

impl CaseSlices {
    /// Prepares the slices of one scan. The same arguments give the same slices.
    ///
    /// # Errors
    /// [`Error`] if the inputs do not fit together, are unusable, or teach nothing.
    pub fn build(scan: &CaseScan<'_>, options: &SliceOptions) -> Result<CaseSlices, Error> {
        check(scan, options)?;
        let image = scan.image;
        let grid = SliceGrid::around(image, options.size, |i| image.voxels[i] > 0.0)?;
        let planes = planes(image, &grid);
        let mut builder =
            Builder { scan: *scan, grid, planes, codes: vec![KNOWN; image.voxels.len()] };
        let heal = builder.heal(options)?;
        let is_painted = scan.lesion.is_some_and(|lesion| !lesion.contains(&Some(Region::Mixed)));
        let mut components = Vec::new();
        let mut whole = None;
        if is_painted {
            for region in COMPONENTS {
                components.extend(builder.tumour(|r| r == region)?.map(|plan| (region, plan)));
            }
            whole = builder.tumour(|_| true)?;
        }
        if heal.is_empty() && whole.is_none() {
            return Err(Error::NothingToLearn);
        }
        Ok(CaseSlices {
            patient: scan.patient.to_owned(),
            contrast: scan.contrast,
            size: options.size,
            spread_max: (SPREAD_MAX_MM / builder.grid.pixel_mm()).round() as usize,
            planes: builder.planes.into_iter().map(|(_, plane)| plane).collect(),
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
        if roll >= TASKS_UP_TO[1] && roll < TASKS_UP_TO[2] {
            return (whole, Brush::Coded);
        }
        if self.components.is_empty() || (roll >= TASKS_UP_TO[2] && roll < TASKS_UP_TO[3]) {
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

/// The condition vector of a slice at `height` (0 lowest, 1 highest) of the brain.
pub(crate) fn condition(contrast: usize, height: f32, lesion: bool) -> [f32; CONDITIONS] {
    let mut condition = [0.0; CONDITIONS];
    condition[contrast] = 1.0;
    condition[CONTRASTS] = height;
    condition[CONTRASTS + 1] = f32::from(u8::from(lesion));
    condition
}

fn check(scan: &CaseScan<'_>, options: &SliceOptions) -> Result<(), Error> {
    let expected = scan.image.voxels.len();
    let found = scan.image.dims.iter().product();
    if found != expected {
        return Err(Error::Shape { what: "grid", expected, found });
    }
    if scan.contrast >= CONTRASTS {
        return Err(Error::Contrast(scan.contrast));
    }
    if options.masks > MASKS_PER_CASE_MAX {
        return Err(Error::Masks(options.masks));
    }
    let Some(lesion) = scan.lesion else { return Ok(()) };
    if lesion.len() != expected {
        return Err(Error::Shape { what: "lesion map", expected, found: lesion.len() });
    }
    let strange = |region: &Region| matches!(region, Region::Healthy | Region::Box);
    lesion.iter().flatten().copied().find(strange).map_or(Ok(()), |r| Err(Error::Label(r)))
}

/// The slices with enough brain, with their z.
fn planes(image: &Volume, grid: &SliceGrid) -> Vec<(usize, Plane)> {
    let (first, last) = grid.brain_z();
    let area = grid.size() * grid.size();
    (first..=last)
        .map(|z| (z, Plane { height: grid.height(z), pixels: grid.sample(&clipped(image, z)) }))
        .filter(|(_, plane)| {
            let brain = plane.pixels.iter().filter(|&&v| v > 0.0).count();
            brain as f64 >= BRAIN_FRACTION_MIN * area as f64
        })
        .collect()
}

/// Axial slice `z` without negative voxels.
pub(crate) fn clipped(image: &Volume, z: usize) -> Vec<f32> {
    image.slice(z).iter().map(|v| v.max(0.0)).collect()
}

/// What building a case shares between its plans.
struct Builder<'a> {
    scan: CaseScan<'a>,
    grid: SliceGrid,
    planes: Vec<(usize, Plane)>,
    /// One code per voxel; all [`KNOWN`] between plans.
    codes: Vec<u8>,
}

impl Builder<'_> {
    /// The healthy masks, the lesion hidden with each. Fewer, or none, where there is no room.
    fn heal(&mut self, options: &SliceOptions) -> Result<Vec<Plan>, Error> {
        let scan = self.scan;
        let is_lesion = |i: usize| scan.lesion.is_some_and(|lesion| lesion[i].is_some());
        let Ok(room) = Room::new(scan.image, is_lesion) else { return Ok(Vec::new()) };
        let mut plans = Vec::new();
        for index in 0..options.masks {
            let mut rng = stream(
                "fedpaint 2026 training masks",
                &[
                    &options.seed.to_le_bytes(),
                    &options.round.to_le_bytes(),
                    scan.patient.as_bytes(),
                    &[scan.contrast as u8, index as u8],
                ],
            );
            let mask = match room.draw(TRAINING_DIAMETER_MM, &mut rng) {
                Ok(mask) => mask,
                Err(mask::Error::NoRoom) => break,
            };
            self.code_lesion(|_| Some(UNKNOWN));
            mask.voxels.iter().for_each(|&i| self.codes[i as usize] = code(Region::Healthy));
            plans.extend(self.plan()?);
        }
        Ok(plans)
    }

    /// The components for which `is_hidden` holds, each to be painted as it is.
    fn tumour(&mut self, is_hidden: impl Fn(Region) -> bool) -> Result<Option<Plan>, Error> {
        self.code_lesion(|region| is_hidden(region).then_some(code(region)));
        self.plan()
    }

    fn code_lesion(&mut self, code_of: impl Fn(Region) -> Option<u8>) {
        for (target, region) in self.codes.iter_mut().zip(self.scan.lesion.into_iter().flatten()) {
            if let Some(code) = region.and_then(&code_of) {
                *target = code;
            }
        }
    }

    /// The slices of the current codes, which are cleared; none if no slice hides enough.
    fn plan(&mut self) -> Result<Option<Plan>, Error> {
        let image = self.scan.image;
        let hidden_min = (HIDDEN_MIN_MM2 / self.grid.pixel_mm().powi(2)).round() as usize;
        let hidden_min = hidden_min.max(HIDDEN_PIXELS_MIN);
        let area = image.dims[0] * image.dims[1];
        let mut slices = Vec::new();
        let voided = image.voxels.iter().zip(&self.codes);
        let window = Window::of(voided.map(|(&v, &code)| if code == KNOWN { v } else { 0.0 }))?;
        for (index, (z, plane)) in self.planes.iter().enumerate() {
            let span = z * area..(z + 1) * area;
            let codes = &self.codes[span.clone()];
            if codes.iter().all(|&code| code == KNOWN) {
                continue;
            }
            let cells = compose::cells(&self.grid, &clipped(image, *z), codes);
            let (size, plane) = (self.grid.size(), &plane.pixels);
            if (Canvas { size, plane, cells: &cells, window }).hidden() < hidden_min {
                continue;
            }
            let is_lesion_visible = self.scan.lesion.is_some_and(|lesion| {
                lesion[span].iter().zip(codes).any(|(l, &c)| l.is_some() && c == KNOWN)
            });
            slices.push(PlanSlice { plane: index, cells, is_lesion_visible });
        }
        self.codes.fill(KNOWN);
        Ok((!slices.is_empty()).then_some(Plan { window, slices }))
    }
}
