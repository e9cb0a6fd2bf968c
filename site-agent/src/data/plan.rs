//! The ways to hide a part of one scan for training, each prepared as pixels: a healthy blob with the
//! lesion, one component of a tumour, the whole tumour.
//!
//! It decides what could be hidden, never what is: drawing is [`super::slices`]'s.

use super::compose::{self, Canvas, Cell, KNOWN, UNKNOWN, code};
use super::example::Region;
use super::grid::SliceGrid;
use super::mask::{HealthyMask, Room, TRAINING_DIAMETER_MM};
use super::normalise::Window;
use super::scan::{CaseScan, Error, SliceOptions};
use super::stream::stream;
use super::volume::Volume;

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

/// One axial slice, unvoided.
pub(crate) struct Plane {
    z: usize,
    /// Where it lies in the brain: 0 lowest, 1 highest.
    pub(crate) height: f32,
    /// Mean intensities. `[size * size]`
    pub(crate) pixels: Vec<f32>,
}

/// One way to hide a part of the scan, on the slices where it hides enough (at least one).
pub(crate) struct Plan {
    /// The window of the scan so voided.
    pub(crate) window: Window,
    /// The slices.
    pub(crate) slices: Vec<PlanSlice>,
}

/// What a plan hides in one slice.
pub(crate) struct PlanSlice {
    /// Which of the planes.
    pub(crate) plane: usize,
    /// The pixels that hold hidden voxels.
    pub(crate) cells: Vec<Cell>,
    /// Whether a part of the lesion is not hidden.
    pub(crate) is_lesion_visible: bool,
}

/// One scan being prepared: what its plans share.
pub(crate) struct Planner<'a> {
    scan: CaseScan<'a>,
    grid: SliceGrid,
    planes: Vec<Plane>,
    /// One code per voxel; all [`KNOWN`] between plans.
    codes: Vec<u8>,
}

impl<'a> Planner<'a> {
    /// Samples the slices of `scan` that have enough brain.
    pub(crate) fn new(scan: &CaseScan<'a>, size: usize) -> Result<Planner<'a>, Error> {
        let image = scan.image;
        let grid = SliceGrid::around(image, size, |i| image.voxels[i] > 0.0)?;
        let planes = planes(image, &grid);
        Ok(Planner { scan: *scan, grid, planes, codes: vec![KNOWN; image.voxels.len()] })
    }

    /// The edge of a pixel in millimetres.
    pub(crate) fn pixel_mm(&self) -> f64 {
        self.grid.pixel_mm()
    }

    /// The sampled slices, when all plans are made.
    pub(crate) fn into_planes(self) -> Vec<Plane> {
        self.planes
    }

    /// The healthy masks, the lesion hidden with each. Fewer, or none, where there is no room.
    pub(crate) fn heal(&mut self, options: &SliceOptions) -> Result<Vec<Plan>, Error> {
        let scan = self.scan;
        let is_lesion = |i: usize| scan.lesion.is_some_and(|lesion| lesion[i].is_some());
        let Ok(room) = Room::new(scan.image, is_lesion) else { return Ok(Vec::new()) };
        let (low, high) = TRAINING_DIAMETER_MM;
        let low = low.max(DIAMETER_PIXELS_MIN * self.grid.pixel_mm());
        let mut plans = Vec::new();
        for index in 0..TRIES_PER_MASK * options.masks {
            let numbers = [options.seed, options.round, scan.contrast as u64, index as u64];
            let [seed, round, contrast, index] = numbers.map(u64::to_le_bytes);
            let parts: [&[u8]; 5] = [&seed, &round, scan.patient.as_bytes(), &contrast, &index];
            let mut rng = stream("fedpaint 2026 training masks", &parts);
            let Ok(mask) = room.draw((low, high.max(low)), &mut rng) else { break };
            plans.extend(self.healing(&mask)?);
            if plans.len() == options.masks {
                break;
            }
        }
        Ok(plans)
    }

    /// The components for which `is_hidden` holds, each to be painted as it is.
    pub(crate) fn tumour(
        &mut self,
        is_hidden: impl Fn(Region) -> bool,
    ) -> Result<Option<Plan>, Error> {
        self.code_lesion(|region| is_hidden(region).then_some(code(region)));
        self.plan()
    }

    fn healing(&mut self, mask: &HealthyMask) -> Result<Option<Plan>, Error> {
        self.code_lesion(|_| Some(UNKNOWN));
        for &voxel in &mask.voxels {
            self.codes[voxel as usize] = code(Region::Healthy);
        }
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
        if self.codes.iter().all(|&code| code == KNOWN) {
            return Ok(None);
        }
        let voided = self.scan.image.voxels.iter().zip(&self.codes);
        let window = Window::of(voided.map(|(&v, &code)| if code == KNOWN { v } else { 0.0 }))?;
        let slices: Vec<PlanSlice> =
            (0..self.planes.len()).filter_map(|plane| self.slice(plane, window)).collect();
        self.codes.fill(KNOWN);
        Ok((!slices.is_empty()).then_some(Plan { window, slices }))
    }

    /// What the current codes hide in one slice, if it is enough and there is something to learn.
    fn slice(&self, index: usize, window: Window) -> Option<PlanSlice> {
        let plane = &self.planes[index];
        let image = self.scan.image;
        let area = image.dims[0] * image.dims[1];
        let span = plane.z * area..(plane.z + 1) * area;
        let codes = &self.codes[span.clone()];
        if codes.iter().all(|&code| code == KNOWN || code == UNKNOWN) {
            return None;
        }
        let cells = compose::cells(&self.grid, &clipped(image, plane.z), codes);
        let hidden_min = (HIDDEN_MIN_MM2 / self.grid.pixel_mm().powi(2)).round() as usize;
        let canvas = Canvas { size: self.grid.size(), plane: &plane.pixels, cells: &cells, window };
        if canvas.learnable() < hidden_min.max(HIDDEN_PIXELS_MIN) {
            return None;
        }
        let is_lesion_visible = self.scan.lesion.is_some_and(|lesion| {
            lesion[span].iter().zip(codes).any(|(l, &c)| l.is_some() && c == KNOWN)
        });
        Some(PlanSlice { plane: index, cells, is_lesion_visible })
    }
}

/// The slices with enough brain.
fn planes(image: &Volume, grid: &SliceGrid) -> Vec<Plane> {
    let (first, last) = grid.brain_z();
    let area = grid.size() * grid.size();
    (first..=last)
        .map(|z| Plane { z, height: grid.height(z), pixels: grid.sample(&clipped(image, z)) })
        .filter(|plane| {
            let brain = plane.pixels.iter().filter(|&&v| v > 0.0).count();
            brain as f64 >= BRAIN_FRACTION_MIN * area as f64
        })
        .collect()
}

/// Axial slice `z` without negative voxels.
pub(crate) fn clipped(image: &Volume, z: usize) -> Vec<f32> {
    image.slice(z).iter().map(|v| v.max(0.0)).collect()
}
