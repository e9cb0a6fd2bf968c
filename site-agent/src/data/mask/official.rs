//! The healthy masks of the BraTS inpainting challenge, written from the description of the method,
//! with its quirks: every distance is in voxels, of two places the one farther from the tumour wins,
//! shapes are turned in two planes only and lose a part of their border, and the rank of a shape's
//! size is taken for its place in an unsorted table ([`super::bank::Bank`]).
//!
//! Two things differ, for an end is better than none. After [`ATTEMPTS`] refusals the shape shrinks
//! by a tenth, where the original tries for ever. And the original rounds `rand * len` to the index
//! of a place, so that in one of `2 len` draws (`len` is some 10^6) it is one past the end and the
//! program fails; here that draw is taken again. It is [`super::Room`] that training uses by default.

use rand::{Rng, RngExt};

use super::bank::{Bank, tumour_of};
use super::bits::Bits;
use super::distance::squared;
use super::morphology::{dilated_by_faces, within};
use super::stencil::{Ground, Stencil, corner};
use super::turn::{IDENTITY, PlaneTurn, mirrored, turned};
use super::{Error, HealthyMask, Mode, SHRINK};

/// Refusals before a shape shrinks.
pub const ATTEMPTS: usize = 1000;

/// How far the tumour is dilated, and the least distance to it, in voxels.
const MARGIN_VOXELS: usize = 5;

/// The scale below which the search gives up.
const SCALE_MIN: f64 = 0.3;

/// One brain with its tumour, as the official masks see it.
#[derive(Debug)]
pub(crate) struct Site {
    brain: Bits,
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
        // Masks keep 5 voxels away, those at exactly 5 may stay: the next less is √24.
        let near = within(&tumour, [1.0; 3], 24f64.sqrt() + 0.01);
        let blocked = near.zip(&dilated_by_faces(&tumour, MARGIN_VOXELS), |a, b| a | b);
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
                if let Some(mask) = self.attempt(at, shape, scale, rng) {
                    return Ok(mask);
                }
            }
            scale *= SHRINK;
        }
        Err(Error::NoRoom)
    }

    /// The shape, mirrored and turned by chance, with its middle on voxel `at`, if it may lie there.
    fn attempt(
        &self,
        at: [usize; 3],
        shape: &Bits,
        scale: f64,
        rng: &mut impl Rng,
    ) -> Option<HealthyMask> {
        let is_mirrored = [(); 3].map(|()| rng.random_bool(0.5));
        let degrees = [(); 2].map(|()| rng.random_range(0.0..360.0));
        let small = match scale {
            1.0 => None,
            _ => Some(turned(shape, [1.0; 3], &IDENTITY, scale, [1.0; 3])?),
        };
        let shape = small.as_ref().unwrap_or(shape);
        let first = PlaneTurn::new(shape.dims(), (0, 1), degrees[0]);
        let second = PlaneTurn::new(first.dims(), (1, 2), degrees[1]);
        // The box is known before anything is turned, and most refusals are the box's.
        let ground = Ground { brain: &self.brain, blocked: &self.blocked, is_cut_at_border: false };
        if !ground.holds(corner(at, second.dims()), second.dims()) {
            return None;
        }
        let turned = second.of(&first.of(&mirrored(shape, is_mirrored)));
        Stencil::boxed(turned)?.lay(at, &ground)
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

/// The voxels of the brain more than the margin away from the dilated tumour: the distance to the
/// tumour less the margin must exceed the margin again.
fn places(brain: &Bits, tumour: &Bits, bounds: [(usize, usize); 3]) -> Vec<([usize; 3], f32)> {
    // The tumour may reach beyond the brain, so the transform covers both.
    let reach = tumour.bounds().unwrap_or(bounds);
    let bounds = [0, 1, 2]
        .map(|axis: usize| (bounds[axis].0.min(reach[axis].0), bounds[axis].1.max(reach[axis].1)));
    let field = squared(&tumour.cropped(bounds), [1.0; 3]);
    let brain = brain.cropped(bounds);
    let margin = MARGIN_VOXELS as f32;
    let mut places = Vec::new();
    for ((y, z), line) in brain.rows() {
        for (first, last) in super::bits::runs(line) {
            for x in first..=last {
                let [nx, ny, _] = brain.dims();
                let distance = field[x + nx * (y + ny * z)].sqrt() - margin;
                if distance > margin {
                    let at = [0, 1, 2].map(|axis: usize| bounds[axis].0 + [x, y, z][axis]);
                    places.push((at, distance));
                }
            }
        }
    }
    places
}
