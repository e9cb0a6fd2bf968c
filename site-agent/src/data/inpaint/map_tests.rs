//! What a map of labels has the model shown, against what training shows it.

use super::paint_map::{BOX_LABEL, Error, PaintMap};
use super::{InpaintJob, Task, View};
use crate::data::compose::{Brush, Canvas, cells, code};
use crate::data::example::{Example, Region};
use crate::data::grid::SliceGrid;
use crate::data::labels;
use crate::data::phantom_for_tests::{brain, tumour};
use crate::data::volume::Volume;

const SIZE: usize = 48;
const AREA: usize = SIZE * SIZE;
const VIEW: View = View { contrast: 1, is_lesion_visible: true, size: SIZE };

/// A map of the head that is 0 but where `label` says otherwise.
fn map(label: impl Fn([usize; 3]) -> f32) -> Volume {
    let image = brain();
    let [nx, ny, nz] = image.dims;
    let at = |i: usize| [i % nx, i / nx % ny, i / (nx * ny)];
    image.with_voxels((0..nx * ny * nz).map(|i| label(at(i))).collect())
}

fn channel(example: &Example, region: Region) -> &[f32] {
    &example.regions[region as usize * AREA..][..AREA]
}

/// Regions with at least one pixel.
fn shown(example: &Example) -> Vec<usize> {
    (0..6).filter(|&r| example.regions[r * AREA..][..AREA].contains(&1.0)).collect()
}

#[test]
fn one_label_alone_is_the_same_as_a_mask_of_that_tissue() {
    let image = brain();
    let blob = |label: f32| {
        map(
            move |[x, y, z]| {
                if x.abs_diff(30) + y.abs_diff(30) + z.abs_diff(15) < 9 { label } else { 0.0 }
            },
        )
    };
    for (label, region) in [
        (1.0, Region::Healthy),
        (2.0, Region::Necrosis),
        (3.0, Region::Oedema),
        (4.0, Region::Enhancing),
        (5.0, Region::Mixed),
    ] {
        let task = Task { contrast: 1, region, is_lesion_visible: true, size: SIZE };
        let masked = InpaintJob::new(&image, &blob(1.0), &task).unwrap();
        let paints = PaintMap::of_labels(&blob(label), None).unwrap();
        assert_eq!(paints.regions(), [region]);
        let mapped = InpaintJob::of_map(&image, paints, &VIEW).unwrap();
        assert_eq!(mapped.examples(), masked.examples());
        assert_eq!(mapped.slices(), masked.slices());
        assert_eq!(mapped.mask(), blob(1.0));
    }
}

#[test]
fn several_labels_are_shown_as_training_shows_several_components() {
    let image = brain();
    let lesion = tumour(&image);
    let label = |region: &Option<Region>| region.map_or(0.0, |r| f32::from(r as u8) + 1.0);
    let labels = image.with_voxels(lesion.iter().map(label).collect());
    let paints = PaintMap::of_labels(&labels, None).unwrap();
    assert_eq!(paints.regions(), [Region::Necrosis, Region::Oedema, Region::Enhancing]);
    let job = InpaintJob::of_map(&image, paints, &VIEW).unwrap();
    let grid = SliceGrid::around(&image, SIZE, |i| image.voxels[i] > 0.0).unwrap();
    let area = image.dims[0] * image.dims[1];
    let mut most = 0;
    for (&z, example) in job.slices().iter().zip(job.examples()) {
        let codes: Vec<u8> = lesion[z * area..][..area].iter().map(|r| r.map_or(0, code)).collect();
        let (plane, cells) = (grid.sample(image.slice(z)), cells(&grid, image.slice(z), &codes));
        let canvas = Canvas { size: SIZE, plane: &plane, cells: &cells, window: job.window() };
        let trained = canvas.paint(Brush::Coded, example.condition);
        assert_eq!((&trained.mask, &trained.regions), (&example.mask, &example.regions));
        most = most.max(shown(example).len());
    }
    assert_eq!(most, 3);
}

#[test]
fn a_box_is_shown_as_training_shows_one_round_the_same_tissue() {
    let image = brain();
    // Corners of a box that does not lie on the pixels' edges.
    let corners = |[x, y, z]: [usize; 3]| {
        (10..12).contains(&z)
            && (20..41).contains(&x)
            && (25..36).contains(&y)
            && (x < 33 || y > 27)
    };
    let labels = map(|at| if corners(at) { BOX_LABEL } else { 0.0 });
    let paints = PaintMap::of_labels(&labels, Some(Region::Enhancing)).unwrap();
    let job = InpaintJob::of_map(&image, paints, &VIEW).unwrap();
    assert_eq!(job.slices(), [10, 11]);
    let grid = SliceGrid::around(&image, SIZE, |i| image.voxels[i] > 0.0).unwrap();
    for (&z, example) in job.slices().iter().zip(job.examples()) {
        let paint = |&label: &f32| if label == 0.0 { 0 } else { code(Region::Enhancing) };
        let codes: Vec<u8> = labels.slice(z).iter().map(paint).collect();
        let (plane, cells) = (grid.sample(image.slice(z)), cells(&grid, image.slice(z), &codes));
        let canvas = Canvas { size: SIZE, plane: &plane, cells: &cells, window: job.window() };
        let trained = canvas.paint(Brush::Boxed(Region::Enhancing), example.condition);
        assert_eq!((&trained.mask, &trained.regions), (&example.mask, &example.regions));
        assert_eq!(shown(example), [Region::Enhancing as usize, Region::Box as usize]);
        assert_eq!(channel(example, Region::Box), example.mask);
        for (x, m) in example.image.iter().zip(&example.mask) {
            assert!(*m == 0.0 || *x == -1.0, "the box is void");
        }
    }
}

#[test]
fn a_box_is_painted_whole_and_keeps_off_other_labels() {
    let image = brain();
    // Two boxes' tissue apart, an L and a dot, and oedema within the L's box.
    let labels = map(|at| match at {
        [20..30, 30, 15] | [20, 30..40, 15] | [45, 50, 15] => BOX_LABEL,
        [24..27, 34..37, 15] => 3.0,
        _ => 0.0,
    });
    let paints = PaintMap::of_labels(&labels, Some(Region::Necrosis)).unwrap();
    let job = InpaintJob::of_map(&image, paints, &VIEW).unwrap();
    let mask = job.mask();
    let painted: Vec<[usize; 2]> = (0..mask.voxels.len())
        .filter(|&i| mask.voxels[i] == 1.0)
        .map(|i| [i % mask.dims[0], i / mask.dims[0] % mask.dims[1]])
        .collect();
    assert_eq!(painted.len(), 101);
    assert!(
        painted.iter().all(|&[x, y]| {
            ((20..30).contains(&x) && (30..40).contains(&y)) || [x, y] == [45, 50]
        })
    );
    let example = &job.examples()[0];
    let (flag, oedema) = (channel(example, Region::Box), channel(example, Region::Oedema));
    assert!(oedema.contains(&1.0) && flag.contains(&1.0));
    assert!(flag.iter().zip(oedema).all(|(f, o)| f * o == 0.0));
    // What the model says of the whole box is pasted, not only where the map said so.
    let result = job.paste(&[vec![0.9; AREA]]).unwrap();
    let [nx, ny, _] = image.dims;
    let inside = 25 + nx * (38 + ny * 15);
    assert!(labels.voxels[inside] == 0.0 && result.voxels[inside] != image.voxels[inside]);
}

#[test]
fn boxes_that_touch_become_one() {
    let labels = map(|at| match at {
        [10..14, 10..14, 5] | [14..18, 14..20, 5] => BOX_LABEL,
        _ => 0.0,
    });
    let paints = PaintMap::of_labels(&labels, Some(Region::Oedema)).unwrap();
    let area = labels.dims[0] * labels.dims[1];
    let hidden = (0..area).filter(|i| paints.is_hidden(5 * area + i)).count();
    assert_eq!(hidden, 8 * 10);
}

#[test]
fn maps_that_say_nothing_clear_are_refused_with_what_they_hold() {
    let refused = |label: f32, class| {
        let labels = map(move |at| if at == [20, 20, 20] { label } else { 0.0 });
        PaintMap::of_labels(&labels, class).unwrap_err()
    };
    assert_eq!(refused(7.0, None), Error::Unknown { found: vec![7.0] });
    assert_eq!(refused(1.5, None), Error::Unknown { found: vec![1.5] });
    assert_eq!(refused(-1.0, None), Error::Unknown { found: vec![-1.0] });
    assert!(refused(9.0, None).to_string().starts_with("the labels 9 mean nothing"));
    assert_eq!(refused(6.0, None), Error::NoBoxClass);
    assert_eq!(refused(1.0, Some(Region::Mixed)), Error::NoBox);
    assert_eq!(refused(6.0, Some(Region::Healthy)), Error::BoxClass(Region::Healthy));
    let scan = map(|[x, y, z]| (x + 60 * y + 4320 * z) as f32);
    let refused = PaintMap::of_labels(&scan, None).unwrap_err();
    assert_eq!(refused, Error::Labels(labels::Fault::TooMany));
    let nothing = PaintMap::of_labels(&map(|_| 0.0), None).unwrap();
    let job = InpaintJob::of_map(&brain(), nothing, &VIEW).err();
    assert_eq!(job, Some(super::Error::EmptyMask));
}
