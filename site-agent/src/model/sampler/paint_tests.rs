//! Painting with networks that are closures: what they are shown, and what becomes of their answers.

use std::ops::ControlFlow;

use super::super::batch::Batch;
use super::super::diffusion::VOID;
use super::super::spec::{CONDITION_LEN, IN_CHANNELS, ModelSpec, NoiseRegion, Prediction, Preset};
use super::options::{OptionError, SampleOptions, Sampler};
use super::paint::{SampleError, paint};
use super::prompt::{Prompt, SizeError};
use crate::data::example::{Example, REGIONS, Region};
use crate::data::inpaint::paint_map::PaintMap;
use crate::data::inpaint::{InpaintJob, View};
use crate::data::volume::Volume;

const SIZE: usize = 8;
const AREA: usize = SIZE * SIZE;
const ALL: [Sampler; 4] = [Sampler::Ddpm, Sampler::Ddim, Sampler::DpmSolver, Sampler::Repaint];

fn spec() -> ModelSpec {
    ModelSpec {
        prediction: Prediction::Sample,
        ..ModelSpec::preset(Preset::Tiny).with_image_size(SIZE).unwrap()
    }
}

/// A slice whose right half is to be painted, half of that as oedema.
fn example(phase: f32) -> Example {
    let mask: Vec<f32> = (0..AREA).map(|i| f32::from(u8::from(i % SIZE >= 4))).collect();
    let mut regions = vec![0.0; REGIONS * AREA];
    for i in (0..AREA).filter(|i| i % SIZE >= 4) {
        let region = if i < AREA / 2 { Region::Oedema } else { Region::Healthy };
        regions[region as usize * AREA + i] = 1.0;
    }
    Example {
        image: (0..AREA).map(|i| 0.9 * (i as f32 * 0.7 + phase).sin()).collect(),
        mask,
        regions,
        loss_mask: vec![0.0; AREA],
        condition: [0.0; CONDITION_LEN],
    }
}

/// Every sample of every prompt.
fn painted(
    spec: &ModelSpec,
    examples: &[Example],
    options: &SampleOptions,
    mut network: impl FnMut(Batch) -> Vec<f32>,
) -> Result<Vec<Vec<Vec<f32>>>, SampleError> {
    let prompts: Vec<Prompt<'_>> =
        examples.iter().zip(10..).map(|(e, slice)| Prompt::of(e, [1; 32], slice)).collect();
    let mut samples = Vec::new();
    let (mut calls, mut told) = (0, 0);
    let mut count = |done, total| {
        assert_eq!(done, calls);
        (calls, told) = (calls + 1, total);
        ControlFlow::Continue(())
    };
    let mut keep = |k, slices| {
        assert_eq!(k, samples.len());
        samples.push(slices);
        Ok::<_, SampleError>(())
    };
    let mut network = |batch| Ok(network(batch));
    paint(spec, &prompts, options, &mut network, &mut count, &mut keep)?;
    assert_eq!(calls, told, "as many calls as were told");
    Ok(samples)
}

/// One plane of every row of a batch.
fn plane(batch: &Batch, channel: usize) -> Vec<f32> {
    let rows = batch.planes.chunks(IN_CHANNELS * AREA);
    rows.flat_map(|row| row[channel * AREA..][..AREA].to_vec()).collect()
}

fn region(batch: &Batch, region: Region) -> Vec<f32> {
    plane(batch, 3 + region as usize)
}

#[test]
fn what_is_painted_follows_the_region_planes_pixel_by_pixel() {
    for sampler in ALL {
        let spec = ModelSpec { noise_region: NoiseRegion::Full, ..spec() };
        let options = SampleOptions { steps: 4, ..sampler.options() };
        let copies = |batch: Batch| {
            let planes = region(&batch, Region::Oedema).into_iter();
            planes.zip(region(&batch, Region::Healthy)).map(|(o, h)| 0.5 * o - 0.25 * h).collect()
        };
        let example = example(0.0);
        let slices = painted(&spec, std::slice::from_ref(&example), &options, copies).unwrap();
        for (i, &x) in slices[0][0].iter().enumerate() {
            let expected = match i {
                _ if example.mask[i] == 0.0 => example.image[i],
                _ if i < AREA / 2 => 0.5,
                _ => -0.25,
            };
            assert!((x - expected).abs() < 1e-6, "{sampler:?} {i}: {x} {expected}");
        }
    }
}

/// A model that paints each region as its own grey; what is in a box as a sixth.
fn greys(batch: Batch) -> Vec<f32> {
    let mut painted = vec![0.0; batch.timesteps.len() * SIZE * SIZE * 4];
    for (index, grey) in [0.1, 0.2, 0.3, 0.4, 0.5, 0.06].into_iter().enumerate() {
        let rows = batch.planes.chunks(IN_CHANNELS * 4 * AREA);
        let plane = rows.flat_map(|row| &row[(3 + index) * 4 * AREA..][..4 * AREA]);
        painted.iter_mut().zip(plane).for_each(|(painted, &on)| *painted += grey * on);
    }
    painted
}

#[test]
fn every_label_of_a_map_is_painted_in_its_place() {
    let spec = ModelSpec { image_size: 2 * SIZE, ..spec() };
    let size = spec.image_size;
    // Blocks of voxels much larger than a pixel, one of each label, in a head of 96 mm.
    let dims = [96, 96, 3];
    let label = |x: usize, y: usize| match (x / 24, y / 24) {
        (1, 1) => 1.0,
        (2, 1) => 2.0,
        (1, 2) => 3.0,
        (2, 2) => 4.0,
        (0, 1) => 5.0,
        (3, 2) => 6.0,
        _ => 0.0,
    };
    let voxels = (0..96 * 96 * 3).map(|i| 100.0 + (i % 50) as f32).collect();
    let image = Volume { dims, spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels };
    let in_middle = |i: usize| if i / (96 * 96) == 1 { label(i % 96, i / 96 % 96) } else { 0.0 };
    let labels = image.with_voxels((0..96 * 96 * 3).map(in_middle).collect());
    let map = PaintMap::of_labels(&labels, Some(Region::Enhancing)).unwrap();
    let view = View { contrast: 0, is_lesion_visible: false, size };
    let job = InpaintJob::of_map(&image, map, &view).unwrap();
    let options = SampleOptions { steps: 3, ..SampleOptions::default() };
    let slices = painted(&spec, job.examples(), &options, greys).unwrap().remove(0);
    let result = job.paste(&slices).unwrap();
    for (block, grey) in
        [((1, 1), 0.1), ((2, 1), 0.2), ((1, 2), 0.3), ((2, 2), 0.4), ((0, 1), 0.5), ((3, 2), 0.46)]
    {
        let found = result.at(24 * block.0 + 12, 24 * block.1 + 12, 1);
        let expected = job.window().from_model(grey);
        assert!((found - expected).abs() < 1e-3, "{block:?}: {found} {expected}");
    }
    let changed = |z: usize| result.slice(z) != image.slice(z);
    assert!(!changed(0) && changed(1) && !changed(2));
}

#[test]
fn the_known_region_is_shown_clean_where_the_model_was_trained_so() {
    let example = example(0.3);
    for sampler in [Sampler::Ddpm, Sampler::Ddim, Sampler::DpmSolver] {
        let options = SampleOptions { steps: 5, ..sampler.options() };
        let mut calls = 0;
        let look = |batch: Batch| {
            calls += 1;
            let (x_t, voided) = (plane(&batch, 0), plane(&batch, 1));
            for i in 0..AREA {
                let known = example.mask[i] < 0.5;
                assert_eq!(voided[i], if known { example.image[i] } else { VOID });
                assert!(!known || x_t[i] == example.image[i], "{sampler:?}");
            }
            vec![0.0; AREA]
        };
        painted(&spec(), std::slice::from_ref(&example), &options, look).unwrap();
        assert_eq!(calls, 5);
    }
}

#[test]
fn guidance_asks_once_with_the_condition_and_once_without_condition_and_regions() {
    let examples = [example(0.0), example(1.0)];
    let options = SampleOptions { steps: 2, guidance: 3.0, ..SampleOptions::default() };
    let mut calls = 0;
    let answer = |batch: Batch| {
        calls += 1;
        assert_eq!(batch.unconditional, [false, false, true, true]);
        assert_eq!((batch.timesteps.len(), batch.conditions.len()), (4, 4 * CONDITION_LEN));
        for channel in 0..IN_CHANNELS {
            let rows = plane(&batch, channel);
            let (with, without) = rows.split_at(2 * AREA);
            if channel < 3 {
                assert_eq!(with, without, "{channel}");
            } else {
                assert!(without.iter().all(|&v| v == 0.0), "{channel}");
            }
        }
        // 0.1 with the condition, 0.0 without: three times as far is 0.3.
        [vec![0.1; 2 * AREA], vec![0.0; 2 * AREA]].concat()
    };
    let slices = painted(&spec(), &examples, &options, answer).unwrap();
    for (slice, example) in slices[0].iter().zip(&examples) {
        for (x, m) in slice.iter().zip(&example.mask) {
            assert!(*m == 0.0 || (x - 0.3).abs() < 1e-6, "{x}");
        }
    }
    assert_eq!(calls, 2);
    let plain = SampleOptions { guidance: 1.0, ..options };
    let once = |batch: Batch| {
        assert!(batch.unconditional.is_empty());
        vec![0.0; 2 * AREA]
    };
    painted(&spec(), &examples, &plain, once).unwrap();
}

#[test]
fn a_learnt_range_widens_the_steps_and_never_reaches_the_image_itself() {
    let spec = ModelSpec { learn_sigma: true, ..spec() };
    let examples = [example(0.0), example(1.0)];
    let options = SampleOptions { steps: 6, guidance: 2.0, ..Sampler::Ddpm.options() };
    let with = |v: f32| {
        let mut spread = Vec::new();
        let answer = |batch: Batch| {
            let x_t = plane(&batch, 0);
            spread.push(x_t.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>());
            // Each row: the prediction 0.2, then v.
            (0..4).flat_map(|_| [vec![0.2; AREA], vec![v; AREA]].concat()).collect()
        };
        let slices = painted(&spec, &examples, &options, answer).unwrap();
        for (x, m) in slices[0][1].iter().zip(&examples[1].mask) {
            assert!(*m == 0.0 || (x - 0.2).abs() < 1e-6);
        }
        spread
    };
    let (least, most) = (with(-1.0), with(1.0));
    assert_eq!(least[0], most[0], "both begin with the same noise");
    assert!((1..6).all(|step| least[step] < most[step]), "{least:?} {most:?}");
}

#[test]
fn a_model_without_noise_is_shown_the_voided_image_at_step_0_and_clipped() {
    let spec = ModelSpec { prediction: Prediction::Direct, ..spec() };
    let example = example(0.0);
    let answer = |batch: Batch| {
        assert_eq!(batch.timesteps, [0]);
        assert_eq!(plane(&batch, 0), plane(&batch, 1));
        (0..AREA).map(|i| if i < AREA / 2 { 1.5 } else { -0.5 }).collect()
    };
    let options = SampleOptions { steps: 77, ..Sampler::Ddim.options() };
    let slices = painted(&spec, std::slice::from_ref(&example), &options, answer).unwrap();
    for (i, &x) in slices[0][0].iter().enumerate() {
        let new = if i < AREA / 2 { 1.0 } else { -0.5 };
        assert_eq!(x, if example.mask[i] == 0.0 { example.image[i] } else { new });
    }
}

#[test]
fn samples_come_one_by_one_whatever_is_painted_at_once() {
    let examples = [example(0.0), example(1.0), example(2.0)];
    // What is painted depends on the noise.
    let mirror = |batch: Batch| plane(&batch, 0).iter().map(|x| 0.5 * x.sin()).collect();
    let with = |batch| {
        let options =
            SampleOptions { steps: 3, samples: 4, batch, eta: 1.0, ..Sampler::Ddim.options() };
        painted(&spec(), &examples, &options, mirror).unwrap()
    };
    let samples = with(1);
    assert_eq!((samples.len(), samples[0].len()), (4, 3));
    assert_ne!(samples[0], samples[1]);
    assert_eq!(samples, with(2));
    assert_eq!(samples, with(7));
    assert_eq!(samples, with(256));
}

#[test]
fn an_answer_that_is_no_prediction_is_refused_at_its_step() {
    let example = [example(0.0)];
    let options = SampleOptions { steps: 3, ..SampleOptions::default() };
    for answer in [vec![f32::NAN; AREA], vec![0.0; AREA - 1], Vec::new()] {
        let refused = painted(&spec(), &example, &options, |_| answer.clone());
        assert!(matches!(refused, Err(SampleError::NotFinite { timestep: 999 })), "{refused:?}");
    }
}

#[test]
fn painting_stops_when_it_is_told_to_and_refuses_what_does_not_fit() {
    let mut short = example(0.0);
    short.mask.pop();
    let options = SampleOptions { steps: 3, ..SampleOptions::default() };
    let refused = painted(&spec(), &[example(0.0), short], &options, |_| vec![0.0; 2 * AREA]);
    let (expected, found) = (AREA, AREA - 1);
    let size = SizeError { index: 1, plane: "mask", found, expected };
    assert!(matches!(refused, Err(SampleError::Size(error)) if error == size));
    let none = SampleOptions { steps: 0, ..options };
    let refused = painted(&spec(), &[], &none, |_| Vec::new());
    assert!(matches!(refused, Err(SampleError::Option(OptionError::Count { name: "steps", .. }))));

    let example = example(0.0);
    let mut calls = 0;
    let mut stop = |_, _| {
        calls += 1;
        if calls > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut network = |_| Ok(vec![0.0; AREA]);
    let mut never = |_, _| panic!("nothing is finished");
    let prompts = [Prompt::of(&example, [1; 32], 0)];
    let stopped =
        paint::<SampleError>(&spec(), &prompts, &options, &mut network, &mut stop, &mut never);
    assert!(matches!(stopped, Err(SampleError::Stopped)));
    assert_eq!(calls, 2);
}

#[test]
fn the_same_slice_of_two_scans_begins_with_noise_that_is_not_alike() {
    let spec = ModelSpec { noise_region: NoiseRegion::Full, ..spec() };
    let examples: Vec<Example> = (0..20).map(|i| example(i as f32)).collect();
    let prompts: Vec<Prompt<'_>> =
        examples.iter().zip(0..).map(|(e, scan)| Prompt::of(e, [scan; 32], 5)).collect();
    for noise_share in [0.0, 1.0] {
        let options = SampleOptions { steps: 1, noise_share, batch: 20, ..Sampler::Ddim.options() };
        let mut product = 0.0;
        let mut network = |batch: Batch| {
            for pair in plane(&batch, 0).chunks(AREA).collect::<Vec<_>>().windows(2) {
                product += pair[0].iter().zip(pair[1]).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            }
            Ok(vec![0.0; 20 * AREA])
        };
        let mut go = |_, _| ControlFlow::Continue(());
        let mut keep = |_, _| Ok::<_, SampleError>(());
        paint(&spec, &prompts, &options, &mut network, &mut go, &mut keep).unwrap();
        let alike = product / (19 * AREA) as f64;
        assert!(alike.abs() < 0.12, "{noise_share}: {alike}");
    }
}

#[test]
fn slices_of_one_volume_begin_with_noise_that_is_much_alike() {
    let spec = ModelSpec { noise_region: NoiseRegion::Full, ..spec() };
    let examples: Vec<Example> = (0..20).map(|i| example(i as f32)).collect();
    let alike = |noise_share| {
        let options = SampleOptions { steps: 1, noise_share, batch: 20, ..Sampler::Ddim.options() };
        let mut product = 0.0;
        let look = |batch: Batch| {
            let noise = plane(&batch, 0);
            for pair in noise.chunks(AREA).collect::<Vec<_>>().windows(2) {
                let both = pair[0].iter().zip(pair[1]);
                product += both.map(|(a, b)| f64::from(a * b)).sum::<f64>();
            }
            vec![0.0; 20 * AREA]
        };
        painted(&spec, &examples, &options, look).unwrap();
        product / (19 * AREA) as f64
    };
    assert!(alike(0.0).abs() < 0.12);
    assert!((alike(0.8) - 0.8).abs() < 0.25);
}
