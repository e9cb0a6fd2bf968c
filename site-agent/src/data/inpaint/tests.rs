//! A scan as inference sees it, and what is pasted back.

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
    assert_eq!(whole.key(), void.key());
    assert!(whole.slices().is_sorted());
}

#[test]
fn two_scans_have_two_keys_and_a_scan_has_one() {
    let (image, mask) = (brain(), mask());
    let key = |image: &Volume| InpaintJob::new(image, &mask, &TASK).unwrap().key();
    let mut other = image.clone();
    let known = (0..mask.voxels.len()).find(|&i| mask.voxels[i] == 0.0).unwrap();
    other.voxels[known] += 1.0;
    assert_ne!(key(&image), key(&other));
    // How the model is shown it does not matter.
    let coarse = InpaintJob::new(&image, &mask, &Task { size: 16, contrast: 2, ..TASK }).unwrap();
    assert_eq!(key(&image), coarse.key());
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
    let refused = |mask: &Volume, task: &Task| InpaintJob::new(&image, mask, task).err().unwrap();
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
