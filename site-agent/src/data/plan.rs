//! What could be hidden of one case in one round: healthy blobs with the lesion, one component of a
//! tumour, the whole tumour. Made when the case is first drawn, from the seed, the round and the
//! patient alone.
//!
//! It decides what could be hidden, never what is: drawing is [`super::slices`]'s. It holds no pixel.

use std::sync::OnceLock;

use super::compose::{self, Canvas, Cell, KNOWN, UNKNOWN, code};
use super::example::Region;
use super::grid::SliceGrid;
use super::mask::{Masks, TRAINING_DIAMETER_MM};
use super::normalise::Window;
use super::prepared::tails::Tails;
use super::prepared::{Lesion, LesionTails, Prepared, PreparedScan};
use super::scan::{CONTRASTS, SliceOptions};
use super::stream::stream;

/// The least part of a training slice that is brain.
const BRAIN_FRACTION_MIN: f64 = 0.05;

/// The least area a training slice hides, in square millimetres (32 pixels of a BraTS slice).
const HIDDEN_MIN_MM2: f64 = 32.0;

/// The fewest pixels a training slice hides, however large they are.
pub(crate) const HIDDEN_PIXELS_MIN: usize = 3;

/// The least diameter of a healthy mask in pixels: a smaller one hides none.
const DIAMETER_PIXELS_MIN: f64 = 2.5;

/// Masks tried for each one wanted: some hide too little of every slice.
const TRIES_PER_MASK: usize = 4;

/// The classes that can be painted one by one.
const COMPONENTS: [Region; 3] = [Region::Necrosis, Region::Oedema, Region::Enhancing];

/// What could be hidden of one case in one round.
pub(crate) struct CasePlans {
    masks: Vec<Mask>,
    lesion: LesionSlices,
    grids: [Option<SliceGrid>; CONTRASTS],
    scans: [OnceLock<Option<ScanPlans>>; CONTRASTS],
}

/// What could be hidden of one scan of it.
pub(crate) struct ScanPlans {
    /// Healthy blobs, the lesion hidden with each.
    pub(crate) heal: Vec<Plan>,
    /// One component each.
    pub(crate) components: Vec<(Region, Plan)>,
    /// The whole tumour; none where a part of it has no name.
    pub(crate) whole: Option<Plan>,
}

/// One way to hide a part of a scan.
pub(crate) struct Plan {
    pub(crate) void: Void,
    /// The window of the scan so voided.
    pub(crate) window: Window,
    /// Axial slices that may hide enough; at least one does.
    pub(crate) slices: Vec<usize>,
}

/// What is hidden.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Void {
    /// A healthy mask, and the lesion.
    Heal(usize),
    /// One component of the tumour.
    Component(Region),
    /// The whole tumour.
    Whole,
}

/// A healthy mask, slice by slice.
struct Mask {
    /// Indices of voxels of the crop, ascending.
    voxels: Vec<u32>,
    /// Each slice it touches, with its part of `voxels`.
    slices: Vec<(usize, std::ops::Range<usize>)>,
}

/// How many voxels of each code the lesion has in each of its slices, from `first` on.
#[derive(Default)]
struct LesionSlices {
    first: usize,
    counts: Vec<[u32; 8]>,
}

/// One slice with a part hidden.
pub(crate) struct Look {
    /// Pixels that hold hidden voxels.
    pub(crate) cells: Vec<Cell>,
    /// Whether a part of the lesion is not hidden.
    pub(crate) is_lesion_visible: bool,
}

/// Buffers that are used again.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The slice's intensities. `[ny * nx]`
    pub(crate) voxels: Vec<f32>,
    codes: Vec<u8>,
    /// Its pixels. `[size * size]`
    pub(crate) pixels: Vec<f32>,
    /// Lines of voxels on their way to pixels.
    pub(crate) lines: Vec<f32>,
}

impl CasePlans {
    /// Draws the healthy masks. Fewer, or none, where there is no room.
    pub(crate) fn new(
        case: &Prepared,
        patient: &str,
        options: &SliceOptions,
        masks: &Masks,
    ) -> CasePlans {
        let mut grids = [const { None }; CONTRASTS];
        for scan in case.contrasts().filter_map(|contrast| case.scan(contrast)) {
            let (dims, spacing_mm) = (case.dims(), case.spacing_mm());
            let grid = SliceGrid::new(dims, spacing_mm, scan.brain(), options.size);
            grids[scan.contrast()] = grid.ok();
        }
        let mut plans = CasePlans {
            masks: Vec::new(),
            lesion: case.lesion().map(LesionSlices::of).unwrap_or_default(),
            grids,
            scans: [const { OnceLock::new() }; CONTRASTS],
        };
        plans.draw_masks(case, patient, options, masks);
        plans
    }

    fn draw_masks(
        &mut self,
        case: &Prepared,
        patient: &str,
        options: &SliceOptions,
        masks: &Masks,
    ) {
        let Some(room) = case.room() else { return };
        let pixel_mm = self.grids.iter().flatten().map(SliceGrid::pixel_mm).fold(0.0, f64::max);
        let (low, high) = TRAINING_DIAMETER_MM;
        let low = low.max(DIAMETER_PIXELS_MIN * pixel_mm);
        let area = case.dims()[0] * case.dims()[1];
        let mut scratch = Scratch::default();
        for index in 0..TRIES_PER_MASK * options.masks {
            let [seed, round, index] =
                [options.seed, options.round, index as u64].map(u64::to_le_bytes);
            let parts: [&[u8]; 4] = [&seed, &round, patient.as_bytes(), &index];
            let mut rng = stream("fedpaint 2026 training masks", &parts);
            let drawn = room.draw_training(masks, (low, high.max(low)), &mut rng);
            let Ok(mask) = drawn else { break };
            self.masks.push(Mask::of(mask.voxels, area));
            let void = Void::Heal(self.masks.len() - 1);
            // The contrasts' brains are nearly the same, so the first nearly always answers for all.
            let serves = case.contrasts().any(|contrast| {
                let scan = case.scan(contrast);
                scan.is_some_and(|scan| self.slices(case, &scan, void, &mut scratch).is_some())
            });
            if !serves {
                self.masks.pop();
            }
            if self.masks.len() == options.masks {
                break;
            }
        }
    }

    /// What could be hidden of one scan; none if it teaches nothing.
    pub(crate) fn scan(&self, case: &Prepared, contrast: usize) -> Option<&ScanPlans> {
        self.scans.get(contrast)?.get_or_init(|| self.plan(case, contrast)).as_ref()
    }

    /// The grid of one scan.
    pub(crate) fn grid(&self, contrast: usize) -> Option<&SliceGrid> {
        self.grids.get(contrast)?.as_ref()
    }

    fn plan(&self, case: &Prepared, contrast: usize) -> Option<ScanPlans> {
        let scan = case.scan(contrast)?;
        let mut planner = Planner::new(self, case, scan)?;
        let heal: Vec<Plan> =
            (0..self.masks.len()).filter_map(|mask| planner.plan(Void::Heal(mask))).collect();
        let mut components = Vec::new();
        let mut whole = None;
        if case.lesion().is_some_and(|lesion| !lesion.has_mixed) {
            for region in COMPONENTS {
                let plan = planner.plan(Void::Component(region));
                components.extend(plan.map(|plan| (region, plan)));
            }
            whole = planner.plan(Void::Whole);
        }
        let teaches = !heal.is_empty() || whole.is_some();
        teaches.then_some(ScanPlans { heal, components, whole })
    }

    /// How many voxels of slice `z` are hidden and have a truth.
    fn learnable(&self, void: Void, z: usize) -> usize {
        match void {
            Void::Heal(mask) => self.masks[mask].slice(z).len(),
            Void::Component(region) => self.lesion.count(z, |c| c == code(region)),
            Void::Whole => self.lesion.count(z, |_| true),
        }
    }

    /// The slices with enough brain in which `void` hides something to learn, if one hides enough.
    fn slices(
        &self,
        case: &Prepared,
        scan: &PreparedScan<'_>,
        void: Void,
        scratch: &mut Scratch,
    ) -> Option<Vec<usize>> {
        let grid = self.grid(scan.contrast())?;
        let [sx, sy, _] = case.spacing_mm();
        let side_mm = grid.size() as f64 * grid.pixel_mm();
        let has_brain = |z: usize| {
            f64::from(scan.areas()[z]) * sx * sy >= BRAIN_FRACTION_MIN * side_mm * side_mm
        };
        let (first, last) = grid.brain_z();
        let slices: Vec<usize> =
            (first..=last).filter(|&z| self.learnable(void, z) > 0 && has_brain(z)).collect();
        let mut fullest = slices.clone();
        fullest.sort_by_key(|&z| std::cmp::Reverse(self.learnable(void, z)));
        let enough = fullest.into_iter().any(|z| self.look(case, scan, void, z, scratch).is_some());
        enough.then_some(slices)
    }

    /// Slice `z` with `void` hidden; none if too little of it is.
    pub(crate) fn look(
        &self,
        case: &Prepared,
        scan: &PreparedScan<'_>,
        void: Void,
        z: usize,
        scratch: &mut Scratch,
    ) -> Option<Look> {
        let grid = self.grid(scan.contrast())?;
        let [nx, ny, _] = case.dims();
        let area = nx * ny;
        scratch.voxels.clear();
        scan.read(z * area, area, &mut scratch.voxels);
        scratch.codes.clear();
        scratch.codes.resize(area, KNOWN);
        let hides = |c: u8| match void {
            Void::Heal(_) => UNKNOWN,
            Void::Component(region) if c != code(region) => KNOWN,
            Void::Component(_) | Void::Whole => c,
        };
        let (mut is_lesion_visible, mut coded) = (false, Bounds::default());
        for (start, codes) in case.lesion().into_iter().flat_map(|lesion| lesion.lines(z, nx)) {
            for (target, &c) in scratch.codes[start..].iter_mut().zip(codes) {
                if c != 0 {
                    *target = hides(c);
                    is_lesion_visible |= *target == KNOWN;
                }
            }
            coded.add(start, codes.len(), nx);
        }
        if let Void::Heal(mask) = void {
            for &voxel in self.masks[mask].slice(z) {
                let voxel = voxel as usize - z * area;
                scratch.codes[voxel] = code(Region::Healthy);
                coded.add(voxel, 1, nx);
            }
        }
        let coded = coded.0?;
        let cells = compose::cells_within(grid, &scratch.voxels, &scratch.codes, coded);
        let hidden_min = (HIDDEN_MIN_MM2 / grid.pixel_mm().powi(2)).round() as usize;
        let enough = compose::learnable(&cells) >= hidden_min.max(HIDDEN_PIXELS_MIN);
        enough.then_some(Look { cells, is_lesion_visible })
    }
}

/// One scan being planned: what its plans share.
struct Planner<'a> {
    plans: &'a CasePlans,
    case: &'a Prepared,
    scan: PreparedScan<'a>,
    tails: Tails,
    lesion: LesionTails,
    scratch: Scratch,
}

impl<'a> Planner<'a> {
    fn new(
        plans: &'a CasePlans,
        case: &'a Prepared,
        scan: PreparedScan<'a>,
    ) -> Option<Planner<'a>> {
        let (tails, lesion) = scan.tails()?;
        Some(Planner { plans, case, scan, tails, lesion, scratch: Scratch::default() })
    }

    fn plan(&mut self, void: Void) -> Option<Plan> {
        let slices = self.plans.slices(self.case, &self.scan, void, &mut self.scratch)?;
        let window = self.window(void)?;
        Some(Plan { void, window, slices })
    }

    /// The window of the voided scan; none if nothing is left to see.
    fn window(&self, void: Void) -> Option<Window> {
        let of_lesion = |c: u8| match void {
            Void::Component(region) => c == code(region),
            Void::Heal(_) | Void::Whole => true,
        };
        let blob = match void {
            Void::Heal(mask) => self.plans.masks[mask].voxels.as_slice(),
            Void::Component(_) | Void::Whole => &[],
        };
        let values = blob.iter().map(|&voxel| self.scan.at(voxel as usize));
        let mut bright: Vec<f32> = values.filter(|&v| v > 0.0).collect();
        let hidden = bright.len() + self.lesion.positive(of_lesion);
        let known = self.tails.bright(hidden).and_then(|from| {
            bright.retain(|&v| v >= from);
            self.tails.window(hidden, |index| self.lesion.gone(index, of_lesion), &bright)
        });
        known.unwrap_or_else(|| self.window_of_all(of_lesion, blob)).ok()
    }

    /// As [`Planner::window`], the slow way.
    fn window_of_all(
        &self,
        of_lesion: impl Fn(u8) -> bool,
        blob: &[u32],
    ) -> Result<Window, super::normalise::Error> {
        let [nx, ny, nz] = self.case.dims();
        let mut hidden = vec![false; nx * ny * nz];
        blob.iter().for_each(|&voxel| hidden[voxel as usize] = true);
        if let Some(lesion) = self.case.lesion() {
            for z in lesion.first[2]..lesion.first[2] + lesion.dims[2] {
                for (start, codes) in lesion.lines(z, nx) {
                    let start = z * nx * ny + start;
                    for (target, &c) in hidden[start..].iter_mut().zip(codes) {
                        *target |= c != 0 && of_lesion(c);
                    }
                }
            }
        }
        self.scan.window_of_all(|voxel| hidden[voxel])
    }
}

/// The first and last column and line that may hold something hidden.
#[derive(Default)]
struct Bounds(Option<[(usize, usize); 2]>);

impl Bounds {
    /// Takes in `count` voxels of one line from `start` on.
    fn add(&mut self, start: usize, count: usize, nx: usize) {
        let (x, y) = (start % nx, start / nx);
        let end = x + count.max(1) - 1;
        self.0 = Some(match self.0 {
            None => [(x, end), (y, y)],
            Some([across, down]) => {
                [(across.0.min(x), across.1.max(end)), (down.0.min(y), down.1.max(y))]
            }
        });
    }
}

impl Mask {
    fn of(voxels: Vec<u32>, area: usize) -> Mask {
        let mut slices: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
        for (index, &voxel) in voxels.iter().enumerate() {
            let z = voxel as usize / area;
            match slices.last_mut() {
                Some((last, range)) if *last == z => range.end = index + 1,
                _ => slices.push((z, index..index + 1)),
            }
        }
        Mask { voxels, slices }
    }

    /// Its voxels in slice `z`.
    fn slice(&self, z: usize) -> &[u32] {
        let at = self.slices.binary_search_by_key(&z, |(z, _)| *z);
        at.map_or(&[], |at| &self.voxels[self.slices[at].1.clone()])
    }
}

impl LesionSlices {
    fn of(lesion: Lesion<'_>) -> LesionSlices {
        let area = (lesion.dims[0] * lesion.dims[1]).max(1);
        let count = |slice: &[u8]| {
            let mut counts = [0; 8];
            slice.iter().for_each(|&c| counts[usize::from(c & 7)] += 1);
            counts
        };
        let counts = lesion.codes.chunks_exact(area).map(count).collect();
        LesionSlices { first: lesion.first[2], counts }
    }

    /// Voxels of slice `z` whose code is counted.
    fn count(&self, z: usize, is_counted: impl Fn(u8) -> bool) -> usize {
        let counts = z.checked_sub(self.first).and_then(|z| self.counts.get(z));
        let Some(counts) = counts else { return 0 };
        (1..8).filter(|&c| is_counted(c)).map(|c| counts[usize::from(c)] as usize).sum()
    }
}

impl<'a> Lesion<'a> {
    /// The lines of its box in slice `z` of a crop `nx` wide: the first voxel within the slice, and
    /// the codes.
    fn lines(self, z: usize, nx: usize) -> impl Iterator<Item = (usize, &'a [u8])> {
        let [width, height, depth] = self.dims;
        let inside = z.checked_sub(self.first[2]).filter(|&z| z < depth);
        let slice = inside.map_or(&[][..], |z| &self.codes[z * width * height..][..width * height]);
        let start = self.first[0] + nx * self.first[1];
        slice.chunks_exact(width.max(1)).enumerate().map(move |(y, line)| (start + nx * y, line))
    }
}

/// The slice's pixels, from the intensities that a look has left in `scratch`.
pub(crate) fn canvas<'a>(
    grid: &SliceGrid,
    look: &'a Look,
    window: Window,
    scratch: &'a mut Scratch,
) -> Canvas<'a> {
    grid.sample_into(&scratch.voxels, &mut scratch.lines, &mut scratch.pixels);
    Canvas { size: grid.size(), plane: &scratch.pixels, cells: &look.cells, window }
}
