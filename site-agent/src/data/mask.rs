//! Where healthy tissue is hidden for the model to paint: shapes of real tumours or smooth random
//! blobs, inside the brain and clear of the lesion.
//!
//! It never sees an intensity beyond "brain or background", and it never loops without a bound.

pub mod bank;
mod bits;
mod blob;
mod distance;
mod morphology;
pub mod official;
mod saved;
mod stencil;
mod turn;

#[cfg(test)]
mod bank_tests;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod tests;

use std::f64::consts::TAU;
use std::sync::{Arc, OnceLock};

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use self::bank::{Bank, Shape, brain_of, shapes_of, tumour_of};
use self::bits::{Bits, Points};
use self::blob::Blob;
use self::morphology::within;
use self::official::Site;
use self::stencil::{Ground, Stencil};
use self::turn::{rotation, turned};
use super::grid::{self, check_geometry};
use super::volume::Volume;

/// The least distance between a healthy mask and the lesion as it is marked, in millimetres.
pub const LESION_MARGIN_MM: f64 = 5.0;

/// The least part of a healthy mask that lies inside the brain.
pub const INSIDE_MIN: f64 = 0.75;

/// The diameters of training masks, drawn log-uniformly, in millimetres.
pub const TRAINING_DIAMETER_MM: (f64, f64) = (8.0, 40.0);

/// The diameters of evaluation masks, in millimetres: large enough for SSIM to mean something.
pub const EVALUATION_DIAMETER_MM: (f64, f64) = (20.0, 36.0);

/// How often a training mask is a bank's shape, where there is a bank; else it is a blob.
const BANK_SHARE: f64 = 0.5;

/// The largest diameter relative to that of a ball of the brain's volume.
const DIAMETER_OF_BRAIN_MAX: f64 = 0.35;

/// Shapes tried at one size before it shrinks.
const SHAPES_PER_SIZE: usize = 4;

/// Places tried for one shape: a place costs less than a shape.
const PLACES_PER_SHAPE: usize = 10;

/// The factor by which a mask that found no room shrinks.
const SHRINK: f64 = 0.9;

/// The diameter below which the search for a blob gives up, in millimetres.
const DIAMETER_MIN_MM: f64 = 4.0;

/// The scale below which the search for a bank's shape gives up.
const SCALE_MIN: f64 = 0.3;

/// The fewest voxels a mask may have.
const VOXELS_MIN: usize = 8;

/// Why there is no healthy mask.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// The image's geometry is unusable.
    #[error(transparent)]
    Geometry(#[from] grid::Error),
    /// Nothing fits.
    #[error("no healthy mask fits: the brain is too small, or lesion is nearly everywhere")]
    NoRoom,
}

/// How shapes of a bank are chosen and laid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Any healthy place is as likely as any other, any turn too, a large tumour gets a small mask,
    /// and distances are millimetres.
    #[default]
    Corrected,
    /// As the BraTS inpainting challenge makes its masks, at least 5 voxels from a tumour dilated by 5,
    /// see [`official`].
    Compat,
}

/// What training masks are made of.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    /// How shapes are chosen and laid.
    pub mode: Mode,
    /// The shapes; without them every mask is a blob.
    pub bank: Option<Arc<Bank>>,
}

/// One brain with its lesion: where a healthy mask may lie.
#[derive(Debug)]
pub struct Room {
    spacing_mm: [f64; 3],
    brain: Bits,
    lesion: Bits,
    /// The lesion and what is within [`LESION_MARGIN_MM`] of it.
    near_lesion: Bits,
    /// Brain that is not near the lesion.
    open: Points,
    diameter_max_mm: f64,
    tumour_fraction: f64,
    /// What [`Mode::Compat`] needs; it costs more than the rest together, so it waits.
    official: OnceLock<Option<Site>>,
}

/// The voxels of one mask, ascending by index.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthyMask {
    /// Indices into the volume's voxels.
    pub voxels: Vec<u32>,
}

impl Room {
    /// The room that `image` (0 is background) and the voxels for which `is_lesion` leave.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if there is no brain at all, [`Error::Geometry`] if the image is unusable.
    pub fn new(image: &Volume, is_lesion: impl Fn(usize) -> bool) -> Result<Room, Error> {
        check_geometry(image)?;
        let brain = brain_of(image);
        let brain_voxels = brain.count() as f64;
        if brain_voxels == 0.0 {
            return Err(Error::NoRoom);
        }
        let spacing_mm = image.spacing_mm;
        let lesion = Bits::from_fn(image.dims, is_lesion);
        let near_lesion = within(&lesion, spacing_mm, LESION_MARGIN_MM);
        let brain_mm3 = brain_voxels * spacing_mm.iter().product::<f64>();
        let brain_diameter_mm = 2.0 * (brain_mm3 * 3.0 / (2.0 * TAU)).cbrt();
        let tumour = tumour_of(&lesion, spacing_mm, Mode::Corrected).count();
        Ok(Room {
            spacing_mm,
            open: Points::new(brain.zip(&near_lesion, |brain, near| brain & !near)),
            diameter_max_mm: DIAMETER_OF_BRAIN_MAX * brain_diameter_mm,
            tumour_fraction: tumour as f64 / brain_voxels,
            brain,
            lesion,
            near_lesion,
            official: OnceLock::new(),
        })
    }

    /// The shapes of the case's own tumour, for a [`Bank`]; none where it has none but specks.
    pub fn shapes(&self, mode: Mode) -> Vec<Shape> {
        shapes_of(&self.brain, &self.lesion, self.spacing_mm, mode)
    }

    /// A blob with a diameter drawn log-uniformly from `diameter_mm`, capped by the brain's size and
    /// shrunk where it does not fit.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if nothing fits after a bounded number of attempts.
    pub fn draw(&self, diameter_mm: (f64, f64), rng: &mut impl Rng) -> Result<HealthyMask, Error> {
        let (low, high) = diameter_mm;
        let high = high.min(self.diameter_max_mm);
        let low = low.min(high);
        let mut diameter = (low.ln() + (high.ln() - low.ln()) * rng.random::<f64>()).exp();
        while diameter >= DIAMETER_MIN_MM {
            for _ in 0..SHAPES_PER_SIZE {
                let blob = Blob::draw(diameter / 2.0, self.spacing_mm, rng);
                let Some(stencil) = blob.stencil(self.spacing_mm) else { continue };
                if let Some(mask) = self.lay(&stencil, rng)? {
                    return Ok(mask);
                }
            }
            diameter *= SHRINK;
        }
        Err(Error::NoRoom)
    }

    /// A mask for training: in [`Mode::Corrected`] a shape of the bank as often as a blob of
    /// `diameter_mm`, for many and variable masks teach best; in [`Mode::Compat`] a shape. A blob
    /// where there is no bank, or none of its shapes fits.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if nothing fits after a bounded number of attempts.
    pub fn draw_training(
        &self,
        masks: &Masks,
        diameter_mm: (f64, f64),
        rng: &mut impl Rng,
    ) -> Result<HealthyMask, Error> {
        let Some(bank) = &masks.bank else { return self.draw(diameter_mm, rng) };
        if masks.mode == Mode::Corrected && !rng.random_bool(BANK_SHARE) {
            return self.draw(diameter_mm, rng);
        }
        let shape = self.draw_shape(bank, masks.mode, rng).ok();
        let healthy = shape.and_then(|mask| self.without_lesion(mask));
        healthy.map_or_else(|| self.draw(diameter_mm, rng), Ok)
    }

    /// The mask without the specks of lesion that [`Mode::Compat`] does not see, for there is no
    /// healthy truth under them; none if too little is left.
    fn without_lesion(&self, mut mask: HealthyMask) -> Option<HealthyMask> {
        let [nx, ny, _] = self.dims();
        let at = |voxel: u32| {
            let voxel = voxel as usize;
            [voxel % nx, voxel / nx % ny, voxel / nx / ny]
        };
        mask.voxels.retain(|&voxel| !self.lesion.get(at(voxel)));
        let inside = mask.voxels.iter().filter(|&&voxel| self.brain.get(at(voxel))).count();
        let voxels = mask.voxels.len();
        (voxels >= VOXELS_MIN && inside as f64 >= INSIDE_MIN * voxels as f64).then_some(mask)
    }

    /// A mask of a bank's shape.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if nothing fits after a bounded number of attempts.
    pub fn draw_shape(
        &self,
        bank: &Bank,
        mode: Mode,
        rng: &mut impl Rng,
    ) -> Result<HealthyMask, Error> {
        match mode {
            Mode::Compat => {
                let site = self.official.get_or_init(|| Site::new(&self.brain, &self.lesion));
                site.as_ref().ok_or(Error::NoRoom)?.draw(bank, rng)
            }
            Mode::Corrected => self.draw_turned(bank, rng),
        }
    }

    fn draw_turned(&self, bank: &Bank, rng: &mut impl Rng) -> Result<HealthyMask, Error> {
        let mut scale = 1.0;
        while scale >= SCALE_MIN {
            for _ in 0..SHAPES_PER_SIZE {
                let shape = bank.pick(self.tumour_fraction, Mode::Corrected, rng);
                let mut to_source = rotation(rng);
                if rng.random_bool(0.5) {
                    to_source[0] = to_source[0].map(|part| -part);
                }
                let from_mm = shape.spacing_mm();
                let body = turned(shape.body(), from_mm, &to_source, scale, self.spacing_mm);
                let stencil = body.and_then(|body| Stencil::centred(&body));
                let Some(stencil) = stencil else { continue };
                if let Some(mask) = self.lay(&stencil, rng)? {
                    return Ok(mask);
                }
            }
            scale *= SHRINK;
        }
        Err(Error::NoRoom)
    }

    /// The stencil on one of a few random voxels of healthy brain, if it fits on any.
    fn lay(&self, stencil: &Stencil, rng: &mut impl Rng) -> Result<Option<HealthyMask>, Error> {
        // A thin slab of brain is cut through, and so is what is laid into it.
        let (brain, blocked) = (&self.brain, &self.near_lesion);
        let ground = Ground { brain, blocked, is_cut_at_border: true };
        if self.open.count() == 0 {
            return Err(Error::NoRoom);
        }
        for _ in 0..PLACES_PER_SHAPE {
            let rank = rng.random_range(0..self.open.count());
            let at = self.open.get(rank).ok_or(Error::NoRoom)?;
            if let Some(mask) = stencil.lay(at, &ground) {
                return Ok(Some(mask));
            }
        }
        Ok(None)
    }
}
