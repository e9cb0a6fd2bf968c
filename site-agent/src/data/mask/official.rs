//! The healthy masks of the BraTS inpainting challenge (the steps and numbers of its
//! `dataset/include.py`), with its quirks: every distance is in voxels, the tumour is dilated by 5
//! before masks keep 5 from it, of two places the one farther from the tumour wins, shapes are turned
//! in two planes only, the box of a shape takes along what it holds of other components, and the rank
//! of a shape's size is taken for its place in an unsorted table (the last two in [`super::bank`]).
//!
//! Four things differ. After [`ATTEMPTS`] refusals the shape shrinks by a tenth, where the original
//! tries for ever. The original rounds `rand * len` to the index of a place, so that in one of
//! `2 len` draws (`len` is some 10^6) it is one past the end and the program fails; here that draw is
//! taken again. Brain is what is above 0, where the original takes any value but 0 and so counts the
//! negative rims that resampling leaves. And a brain's components and places are numbered along x
//! first and not z. It is [`super::Room`] that training uses by default.

use rand::{Rng, RngExt};

use super::bank::{Bank, tumour_of};
use super::bits::Bits;
use super::distance::squared;
use super::morphology::within;
use super::stencil::{Ground, Stencil, corner};
use super::turn::{IDENTITY, PlaneTurn, mirrored, turned};
use super::{Error, HealthyMask, Mode, SHRINK};

/// Refusals before a shape shrinks.
pub const ATTEMPTS: usize = 1000;

/// Voxels nearer than this to the tumour are added to it, a mask is at least this far from the
/// result, and its middle more than twice this from the tumour, in voxels.
const MARGIN_VOXELS: f32 = 5.0;

/// The same as a radius for [`within`]: between √24, the largest distance below 5 on the grid, and 5.
const NEARER_VOXELS: f64 = 4.95;

/// The scale below which the search gives up.
const SCALE_MIN: f64 = 0.3;

/// One brain with its tumour, as the official masks see it.
#[derive(Debug)]
pub(crate) struct Site {
    brain: Bits,
    /// Where no voxel of a mask may lie: the dilated tumour and what is too near to it.
    blocked: Bits,
    /// Where a mask's middle may lie, with the distance from there to the tumour.
    pub(crate) places: Vec<([usize; 3], f32)>,
    pub(crate) own_fraction: f64,
}

impl Site {
    /// The places in `brain` (largest component, holes filled) that `lesion` leaves; none if there
    /// are none.
    pub(crate) fn new(brain: &Bits, lesion: &Bits) -> Option<Site> {
        let tumour = tumour_of(lesion, [1.0; 3], Mode::Compat);
        let bounds = brain.bounds()?;
        let places = places(brain, &tumour, bounds);
        if places.is_empty() {
            return None;
        }
        let blocked = within(&dilated(&tumour), [1.0; 3], NEARER_VOXELS);
        let own_fraction = tumour.count() as f64 / brain.count() as f64;
        Some(Site { brain: brain.clone(), blocked, places, own_fraction })
    }

    /// A mask.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if no shape of the bank fits, not even one that has shrunk.
    pub(crate) fn draw(&self, bank: &Bank, rng: &mut impl Rng) -> Result<HealthyMask, Error> {
        let mut scale = 1.0;
        while scale >= SCALE_MIN {
            for _ in 0..ATTEMPTS {
                let at = self.place(rng);
                let shape = bank.pick(self.own_fraction, Mode::Compat, rng).body();
                if let Some(mask) = self.attempt(at, shape, scale, &Pose::draw(rng)) {
                    return Ok(mask);
                }
            }
            scale *= SHRINK;
        }
        Err(Error::NoRoom)
    }

    /// The shape, mirrored and turned, with its middle on voxel `at`, if it may lie there.
    pub(crate) fn attempt(
        &self,
        at: [usize; 3],
        shape: &Bits,
        scale: f64,
        pose: &Pose,
    ) -> Option<HealthyMask> {
        let small = match scale {
            1.0 => None,
            _ => Some(turned(shape, [1.0; 3], &IDENTITY, scale, [1.0; 3])?),
        };
        let shape = small.as_ref().unwrap_or(shape);
        // The box is known before anything is turned, and most refusals are the box's.
        let ground = Ground { brain: &self.brain, blocked: &self.blocked, is_cut_at_border: false };
        let [_, last] = pose.turns(shape.dims());
        if !ground.holds(corner(at, last.dims()), last.dims()) {
            return None;
        }
        Stencil::boxed(pose.of(shape))?.lay(at, &ground)
    }

    /// The farther from the tumour of two random places.
    fn place(&self, rng: &mut impl Rng) -> [usize; 3] {
        let [one, two] = [(); 2].map(|()| self.places[self.index(rng)]);
        if two.1 > one.1 { two.0 } else { one.0 }
    }

    /// A rounded index, which gives the first place half the weight of the others.
    fn index(&self, rng: &mut impl Rng) -> usize {
        let count = self.places.len();
        loop {
            let index = (rng.random::<f64>() * count as f64).round() as usize;
            if index < count {
                return index;
            }
        }
    }
}

/// How a shape is put before it is laid.
pub(crate) struct Pose {
    /// Along x, y and z.
    pub(crate) is_mirrored: [bool; 3],
    /// In the plane of x and y, then in that of y and z.
    pub(crate) degrees: [f64; 2],
}

impl Pose {
    fn draw(rng: &mut impl Rng) -> Pose {
        let is_mirrored = [(); 3].map(|()| rng.random_bool(0.5));
        let degrees = [(); 2].map(|()| rng.random_range(0.0..360.0));
        Pose { is_mirrored, degrees }
    }

    /// `shape` put so.
    pub(crate) fn of(&self, shape: &Bits) -> Bits {
        let [first, last] = self.turns(shape.dims());
        last.of(&first.of(&mirrored(shape, self.is_mirrored)))
    }

    fn turns(&self, dims: [usize; 3]) -> [PlaneTurn; 2] {
        let first = PlaneTurn::new(dims, (0, 1), self.degrees[0]);
        let last = PlaneTurn::new(first.dims(), (1, 2), self.degrees[1]);
        [first, last]
    }
}

/// What the challenge calls mask-unhealthy: the tumour and all voxels nearer than the margin.
pub(crate) fn dilated(tumour: &Bits) -> Bits {
    within(tumour, [1.0; 3], NEARER_VOXELS)
}

/// The voxels of the brain more than the margin away from the dilated tumour: the distance to the
/// tumour less the margin must exceed the margin again.
fn places(brain: &Bits, tumour: &Bits, bounds: [(usize, usize); 3]) -> Vec<([usize; 3], f32)> {
    // The tumour may reach beyond the brain, so the transform covers both.
    let reach = tumour.bounds().unwrap_or(bounds);
    let bounds = [0, 1, 2]
        .map(|axis: usize| (bounds[axis].0.min(reach[axis].0), bounds[axis].1.max(reach[axis].1)));
    let field = squared(&tumour.cropped(bounds), [1.0; 3]);
    let brain = brain.cropped(bounds);
    let mut places = Vec::new();
    for ((y, z), line) in brain.rows() {
        for (first, last) in super::bits::runs(line) {
            for x in first..=last {
                let [nx, ny, _] = brain.dims();
                let distance = field[x + nx * (y + ny * z)].sqrt() - MARGIN_VOXELS;
                if distance > MARGIN_VOXELS {
                    let at = [0, 1, 2].map(|axis: usize| bounds[axis].0 + [x, y, z][axis]);
                    places.push((at, distance));
                }
            }
        }
    }
    places
}
