//! A scan and a mask as inference sees them, slice by slice, and the way back: predictions pasted
//! into the scan, every voxel outside the mask bit for bit as it was.
//!
//! It never reads an intensity under the mask.

#[cfg(test)]
mod map_tests;
pub mod paint_map;
pub mod spread;

use self::paint_map::PaintMap;
use super::compose::{self, Canvas};
use super::example::{Example, Region};
use super::grid::{SliceGrid, check_geometry};
use super::mask::{self, EVALUATION_DIAMETER_MM, Room};
use super::normalise::Window;
use super::scan::{self, CONTRASTS, condition};
use super::stream::stream;
use super::volume::Volume;

/// Why a scan cannot be inpainted.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// The inputs do not fit together or have no usable window or grid.
    #[error(transparent)]
    Scan(#[from] scan::Error),
    /// The mask is empty.
    #[error("the mask hides nothing: every voxel of it is 0")]
    EmptyMask,
    /// The region asked for is a flag, not a tissue.
    #[error("a mask cannot be painted as {0:?}: choose a tissue")]
    Region(Region),
    /// There are not as many predictions as slices.
    #[error("{found} predicted slices came back where {expected} were asked for")]
    Count {
        /// Slices of the job.
        expected: usize,
        /// Predictions given.
        found: usize,
    },
    /// A prediction has the wrong number of pixels or a pixel that is not a finite number.
    #[error(
        "predicted slice {index} is unusable: {found} pixels of {expected}, or one is not finite"
    )]
    Prediction {
        /// Which slice of the job.
        index: usize,
        /// Pixels per slice.
        expected: usize,
        /// Pixels given.
        found: usize,
    },
}

/// What to paint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Task {
    /// The contrast's index: 0 t1n, 1 t1c, 2 t2w, 3 t2f.
    pub contrast: usize,
    /// The tissue to paint under the whole mask.
    pub region: Region,
    /// Whether a lesion is visible outside the mask.
    pub is_lesion_visible: bool,
    /// Pixels along a side, the model's image size.
    pub size: usize,
}

/// How a scan is shown to the model, whatever is painted in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// The contrast's index: 0 t1n, 1 t1c, 2 t2w, 3 t2f.
    pub contrast: usize,
    /// Whether a lesion is visible outside of what is painted.
    pub is_lesion_visible: bool,
    /// Pixels along a side, the model's image size.
    pub size: usize,
}

/// One scan being inpainted.
pub struct InpaintJob<'a> {
    image: &'a Volume,
    map: PaintMap,
    grid: SliceGrid,
    window: Window,
    slices: Vec<usize>,
    examples: Vec<Example>,
}

impl<'a> InpaintJob<'a> {
    /// Prepares every axial slice that `mask` (not 0 is hidden) touches, one tissue under all of it.
    ///
    /// # Errors
    /// [`Error`] if the inputs do not fit together, the mask is empty or the image unusable.
    pub fn new(image: &'a Volume, mask: &Volume, task: &Task) -> Result<InpaintJob<'a>, Error> {
        let &Task { contrast, region, is_lesion_visible, size } = task;
        if region == Region::Box {
            return Err(Error::Region(region));
        }
        let map = PaintMap::under(mask, region);
        InpaintJob::of_map(image, map, &View { contrast, is_lesion_visible, size })
    }

    /// Prepares every axial slice in which `map` has something painted.
    ///
    /// # Errors
    /// As [`InpaintJob::new`].
    pub fn of_map(image: &'a Volume, map: PaintMap, view: &View) -> Result<InpaintJob<'a>, Error> {
        check(image, &map, view)?;
        let grid =
            SliceGrid::around(image, view.size, |i| map.is_hidden(i) || image.voxels[i] > 0.0);
        let grid = grid.map_err(scan::Error::from)?;
        let known = |(i, &v): (usize, &f32)| if map.is_hidden(i) { 0.0 } else { v };
        let window = Window::of(image.voxels.iter().enumerate().map(known));
        let window = window.map_err(scan::Error::from)?;
        let slices: Vec<usize> = (0..image.dims[2]).filter(|&z| map.touches(z)).collect();
        let show = |&z: &usize| {
            let slice = clipped(image, z);
            let plane = grid.sample(&slice);
            let condition = condition(view.contrast, grid.height(z), view.is_lesion_visible);
            let void = |codes: &[u8]| {
                let cells = compose::cells(&grid, &slice, codes);
                Canvas { size: view.size, plane: &plane, cells: &cells, window }.void(condition)
            };
            let mut example = void(map.codes(z));
            if let Some(codes) = map.boxes(z) {
                // As training has it: the flag lies over every pixel of a box, beside its class.
                let flags = Region::Box as usize * view.size * view.size;
                example.regions[flags..].copy_from_slice(&void(&codes).mask);
            }
            example
        };
        let examples = slices.iter().map(show).collect();
        Ok(InpaintJob { image, map, grid, window, slices, examples })
    }

    /// Names the scan by a digest of what is known of it, so that two scans are painted from two
    /// noises. What is hidden is not in it: a scan and its voided copy are painted alike.
    pub fn key(&self) -> [u8; 32] {
        let Volume { dims, voxels, .. } = self.image;
        let mut hasher = blake3::Hasher::new();
        for &n in dims {
            hasher.update(&(n as u64).to_le_bytes());
        }
        let known = |i: usize| if self.map.is_hidden(i) { 0.0 } else { voxels[i] };
        let area = dims[0] * dims[1];
        for slice in 0..dims[2] {
            let voxels = area * slice..area * (slice + 1);
            let bytes: Vec<u8> = voxels.flat_map(|i| known(i).to_le_bytes()).collect();
            hasher.update(&bytes);
        }
        *hasher.finalize().as_bytes()
    }

    /// Everything that is painted: 1 where it is, else 0.
    pub fn mask(&self) -> Volume {
        let hidden = |i| f32::from(u8::from(self.map.is_hidden(i)));
        self.image.with_voxels((0..self.image.voxels.len()).map(hidden).collect())
    }

    /// What the model is given, one example per slice of [`InpaintJob::slices`]: the image is -1
    /// under the mask, the loss mask empty.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// The axial slices, ascending.
    pub fn slices(&self) -> &[usize] {
        &self.slices
    }

    /// The intensities that -1 and 1 stand for.
    pub fn window(&self) -> Window {
        self.window
    }

    /// The scan with the predicted slices (`[size * size]` each, -1 to 1, in the order of the
    /// examples) under the mask. Outside the mask every voxel is the scan's own.
    ///
    /// # Errors
    /// [`Error::Count`] and [`Error::Prediction`] if the predictions are not those of this job.
    pub fn paste(&self, predictions: &[Vec<f32>]) -> Result<Volume, Error> {
        if predictions.len() != self.examples.len() {
            let (expected, found) = (self.examples.len(), predictions.len());
            return Err(Error::Count { expected, found });
        }
        let expected = self.grid.size() * self.grid.size();
        for (index, prediction) in predictions.iter().enumerate() {
            if prediction.len() != expected || !prediction.iter().all(|v| v.is_finite()) {
                return Err(Error::Prediction { index, expected, found: prediction.len() });
            }
        }
        let mut painted = self.image.clone();
        let [nx, ny, _] = painted.dims;
        for ((&z, example), prediction) in self.slices.iter().zip(&self.examples).zip(predictions) {
            // Known pixels stay what they are, so that the seam meets the scan.
            let parts = example.mask.iter().zip(&example.image).zip(prediction);
            let pixels: Vec<f32> = parts
                .map(|((&hidden, &known), &new)| if hidden == 1.0 { new } else { known })
                .map(|value| value.clamp(-1.0, 1.0))
                .collect();
            for y in 0..ny {
                for x in 0..nx {
                    let index = painted.index(x, y, z);
                    if self.map.is_hidden(index) {
                        let value = self.grid.value_at(&pixels, x, y);
                        painted.voxels[index] = self.window.from_model(value);
                    }
                }
            }
        }
        Ok(painted)
    }
}

fn check(image: &Volume, map: &PaintMap, view: &View) -> Result<(), Error> {
    check_geometry(image).map_err(scan::Error::from)?;
    let (expected, found) = (image.voxels.len(), map.voxels());
    if map.dims() != image.dims || found != expected {
        return Err(scan::Error::Shape { what: "mask", expected, found }.into());
    }
    if view.contrast >= CONTRASTS {
        return Err(scan::Error::Contrast(view.contrast).into());
    }
    if (0..image.dims[2]).all(|z| !map.touches(z)) {
        return Err(Error::EmptyMask);
    }
    Ok(())
}

/// Axial slice `z` without negative voxels.
fn clipped(image: &Volume, z: usize) -> Vec<f32> {
    image.slice(z).iter().map(|v| v.max(0.0)).collect()
}

/// The masks a held-out scan is judged with, 0 or 1 per voxel.
pub struct EvaluationMasks {
    /// The healthy tissue that is hidden and scored.
    pub healthy: Volume,
    /// All that is hidden: the healthy part and the lesion.
    pub void: Volume,
}

/// The fixed masks of one held-out patient: the same for every model and round, other than any of
/// training. `lesion` has one component
/// per voxel, none where there is no lesion.
///
/// # Errors
/// [`mask::Error::NoRoom`] if no mask fits.
pub fn evaluation_masks(
    image: &Volume,
    lesion: Option<&[Option<Region>]>,
    patient: &str,
    seed: u64,
) -> Result<EvaluationMasks, mask::Error> {
    let is_lesion = |i: usize| lesion.and_then(|l| l.get(i)).is_some_and(Option::is_some);
    let room = Room::new(image, is_lesion)?;
    let parts = [&seed.to_le_bytes(), patient.as_bytes()];
    let mut rng = stream("fedpaint 2026 evaluation masks", &parts);
    let mask = room.draw(EVALUATION_DIAMETER_MM, &mut rng)?;
    let mut healthy = vec![0.0; image.voxels.len()];
    mask.voxels.iter().for_each(|&i| healthy[i as usize] = 1.0);
    let mut void = healthy.clone();
    for (i, hidden) in void.iter_mut().enumerate() {
        if is_lesion(i) {
            *hidden = 1.0;
        }
    }
    Ok(EvaluationMasks { healthy: image.with_voxels(healthy), void: image.with_voxels(void) })
}

#[cfg(test)]
mod tests;
