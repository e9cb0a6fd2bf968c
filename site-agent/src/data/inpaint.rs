//! A scan and a mask as inference sees them, slice by slice, and the way back: predictions pasted
//! into the scan, every voxel outside the mask bit for bit as it was.
//!
//! It never reads an intensity under the mask.

use super::compose::{self, Canvas, KNOWN, code};
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

/// One scan being inpainted.
pub struct InpaintJob<'a> {
    image: &'a Volume,
    mask: &'a Volume,
    grid: SliceGrid,
    window: Window,
    slices: Vec<usize>,
    examples: Vec<Example>,
}

impl<'a> InpaintJob<'a> {
    /// Prepares every axial slice that `mask` (not 0 is hidden) touches.
    ///
    /// # Errors
    /// [`Error`] if the inputs do not fit together, the mask is empty or the image unusable.
    pub fn new(image: &'a Volume, mask: &'a Volume, task: &Task) -> Result<InpaintJob<'a>, Error> {
        check(image, mask, task)?;
        let is_hidden = |i: usize| mask.voxels[i] != 0.0;
        let grid = SliceGrid::around(image, task.size, |i| is_hidden(i) || image.voxels[i] > 0.0)
            .map_err(scan::Error::from)?;
        let voided = image.voxels.iter().zip(&mask.voxels);
        let window = Window::of(voided.map(|(&v, &m)| if m == 0.0 { v } else { 0.0 }))
            .map_err(scan::Error::from)?;
        let mut slices = Vec::new();
        let mut examples = Vec::new();
        for z in (0..image.dims[2]).filter(|&z| mask.slice(z).iter().any(|&m| m != 0.0)) {
            let paint = |&m: &f32| if m == 0.0 { KNOWN } else { code(task.region) };
            let codes: Vec<u8> = mask.slice(z).iter().map(paint).collect();
            let slice = clipped(image, z);
            let (plane, cells) = (grid.sample(&slice), compose::cells(&grid, &slice, &codes));
            let canvas = Canvas { size: task.size, plane: &plane, cells: &cells, window };
            let condition = condition(task.contrast, grid.height(z), task.is_lesion_visible);
            examples.push(canvas.void(condition));
            slices.push(z);
        }
        Ok(InpaintJob { image, mask, grid, window, slices, examples })
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
                    if self.mask.voxels[index] != 0.0 {
                        let value = self.grid.value_at(&pixels, x, y);
                        painted.voxels[index] = self.window.from_model(value);
                    }
                }
            }
        }
        Ok(painted)
    }
}

fn check(image: &Volume, mask: &Volume, task: &Task) -> Result<(), Error> {
    check_geometry(image).map_err(scan::Error::from)?;
    let expected = image.voxels.len();
    if mask.dims != image.dims || mask.voxels.len() != expected {
        let found = mask.voxels.len();
        return Err(scan::Error::Shape { what: "mask", expected, found }.into());
    }
    if task.contrast >= CONTRASTS {
        return Err(scan::Error::Contrast(task.contrast).into());
    }
    if task.region == Region::Box {
        return Err(Error::Region(task.region));
    }
    if mask.voxels.iter().all(|&m| m == 0.0) {
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
mod tests {
    use super::{Error, InpaintJob, Task, evaluation_masks};
    use crate::data::example::Region;
    use crate::data::phantom_for_tests::{brain, tumour};
    use crate::data::scan;
    use crate::data::volume::Volume;

    const TASK: Task =
        Task { contrast: 0, region: Region::Healthy, is_lesion_visible: false, size: 48 };

    fn mask() -> Volume {
        let image = brain();
        evaluation_masks(&image, Some(&tumour(&image)), "p", 1).unwrap().void
    }

    #[test]
    fn outside_the_mask_every_voxel_is_the_scans_own() {
        let mut image = brain();
        image.voxels[3] = -136.0;
        let mask = mask();
        let job = InpaintJob::new(&image, &mask, &TASK).unwrap();
        let predictions = vec![vec![0.5; 48 * 48]; job.slices().len()];
        let painted = job.paste(&predictions).unwrap();
        let mut changed = 0;
        for (i, &hidden) in mask.voxels.iter().enumerate() {
            if hidden == 0.0 {
                assert_eq!(painted.voxels[i].to_bits(), image.voxels[i].to_bits());
            } else {
                changed += usize::from(painted.voxels[i] != image.voxels[i]);
            }
        }
        assert!(changed > 100);
    }

    #[test]
    fn the_truth_at_the_models_resolution_comes_back_as_the_scan() {
        let image = brain();
        let masks = evaluation_masks(&image, Some(&tumour(&image)), "p", 1).unwrap();
        let job = InpaintJob::new(&image, &masks.void, &TASK).unwrap();
        let predictions: Vec<Vec<f32>> = job
            .slices()
            .iter()
            .map(|&z| {
                let pixels = job.grid.sample(image.slice(z));
                pixels.into_iter().map(|v| job.window().to_model(v)).collect()
            })
            .collect();
        let painted = job.paste(&predictions).unwrap();
        let errors: Vec<f64> = (0..image.voxels.len())
            .filter(|&i| masks.healthy.voxels[i] == 1.0 && image.voxels[i] > 0.0)
            .map(|i| f64::from(painted.voxels[i] - image.voxels[i]).abs())
            .collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        assert!(mean < 25.0, "{mean} of 600");
    }

    #[test]
    fn nothing_under_the_mask_reaches_the_model() {
        let image = brain();
        let mask = mask();
        let mut voided = image.clone();
        for (voxel, &hidden) in voided.voxels.iter_mut().zip(&mask.voxels) {
            if hidden != 0.0 {
                *voxel = 0.0;
            }
        }
        let whole = InpaintJob::new(&image, &mask, &TASK).unwrap();
        let void = InpaintJob::new(&voided, &mask, &TASK).unwrap();
        assert_eq!(whole.examples(), void.examples());
        assert_eq!(whole.window(), void.window());
        assert!(whole.slices().is_sorted());
    }

    #[test]
    fn what_a_model_says_about_known_pixels_is_not_pasted() {
        let (image, mask) = (brain(), mask());
        let job = InpaintJob::new(&image, &mask, &TASK).unwrap();
        let pasted = |elsewhere: f32| {
            let fill = |hidden: &f32| if *hidden == 1.0 { 0.25 } else { elsewhere };
            let predictions: Vec<Vec<f32>> =
                job.examples().iter().map(|e| e.mask.iter().map(fill).collect()).collect();
            job.paste(&predictions).unwrap()
        };
        assert_eq!(pasted(-1.0), pasted(1.0));
    }

    #[test]
    fn the_region_asked_for_is_the_region_shown() {
        let image = brain();
        let mask = mask();
        let task = Task { region: Region::Oedema, is_lesion_visible: true, ..TASK };
        let job = InpaintJob::new(&image, &mask, &task).unwrap();
        for example in job.examples() {
            let area = 48 * 48;
            let channel = Region::Oedema as usize * area;
            assert_eq!(example.regions[channel..channel + area], example.mask);
            assert_eq!(example.condition[5], 1.0);
            assert!(example.loss_mask.iter().all(|&v| v == 0.0));
        }
    }

    #[test]
    fn evaluation_masks_are_fixed_by_patient_and_seed_and_keep_off_the_lesion() {
        let image = brain();
        let lesion = tumour(&image);
        let masks = |patient, seed| evaluation_masks(&image, Some(&lesion), patient, seed).unwrap();
        let here = masks("p", 1);
        assert_eq!(here.healthy, masks("p", 1).healthy);
        assert_ne!(here.healthy, masks("q", 1).healthy);
        assert_ne!(here.healthy, masks("p", 2).healthy);
        for (i, region) in lesion.iter().enumerate() {
            assert!(region.is_none() || here.healthy.voxels[i] == 0.0);
            let hidden = here.healthy.voxels[i] == 1.0 || region.is_some();
            assert_eq!(here.void.voxels[i] == 1.0, hidden);
        }
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let image = brain();
        let mask = mask();
        let refused =
            |mask: &Volume, task: &Task| InpaintJob::new(&image, mask, task).err().unwrap();
        let empty = image.with_voxels(vec![0.0; image.voxels.len()]);
        assert_eq!(refused(&empty, &TASK), Error::EmptyMask);
        let [x, y, z] = mask.dims;
        let turned = Volume { dims: [y, x, z], ..mask.clone() };
        let error = refused(&turned, &TASK);
        assert!(matches!(error, Error::Scan(scan::Error::Shape { what: "mask", .. })));
        let task = Task { region: Region::Box, ..TASK };
        assert_eq!(refused(&mask, &task), Error::Region(Region::Box));
        let task = Task { contrast: 9, ..TASK };
        assert_eq!(refused(&mask, &task), Error::Scan(scan::Error::Contrast(9)));
    }

    #[test]
    fn predictions_that_are_not_of_the_job_are_refused() {
        let image = brain();
        let mask = mask();
        let job = InpaintJob::new(&image, &mask, &TASK).unwrap();
        let expected = job.slices().len();
        assert_eq!(job.paste(&[]).err(), Some(Error::Count { expected, found: 0 }));
        let mut predictions = vec![vec![0.0; 48 * 48]; expected];
        predictions[2][5] = f32::NAN;
        let error = job.paste(&predictions).err();
        assert!(matches!(error, Some(Error::Prediction { index: 2, .. })), "{error:?}");
        predictions[2].truncate(7);
        let error = job.paste(&predictions).err();
        assert!(matches!(error, Some(Error::Prediction { index: 2, found: 7, .. })), "{error:?}");
    }
}
