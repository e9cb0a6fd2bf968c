//! A scan in any of 48 axis orders goes through inpainting by a model that knows the truth and comes
//! back over itself. Files are built and looked at byte by byte, so that neither reading nor writing
//! is tested by the other.

use std::path::Path;

use super::tests::Raw;
use crate::data::example::Region;
use crate::data::grid::SliceGrid;
use crate::data::inpaint::{InpaintJob, Task};
use crate::data::nifti::{read, read_mask, write_like};
use crate::data::volume::Volume;

/// Voxels along x, y and z of the head, all different.
const DIMS: [usize; 3] = [40, 48, 24];

/// Millimetres along x, y and z.
const STEP_MM: [f32; 3] = [2.0, 1.5, 3.0];

/// What is hidden: a box far from every plane of symmetry. Per axis the first voxel and the end.
const HIDDEN: [(usize, usize); 3] = [(12, 18), (26, 34), (13, 18)];

const TASK: Task =
    Task { contrast: 0, region: Region::Healthy, is_lesion_visible: false, size: 64 };

/// What the model adds to the truth, so that what it painted can be told from what was there.
const ADDED: f32 = 2.0;

/// An intensity that tells where a voxel is, with holes, a negative voxel and background.
fn intensity(at: [usize; 3]) -> i16 {
    let [x, y, z] = at.map(|i| i as i16);
    let centred = [0, 1, 2].map(|a: usize| (at[a] as f64 + 0.5) / DIMS[a] as f64 * 2.0 - 1.0);
    match centred.iter().map(|c| c * c).sum::<f64>() {
        _ if at == [1, 2, 3] => -136,
        radius if radius > 0.9 => 0,
        _ => 200 + 8 * x + 5 * y + 11 * z,
    }
}

fn is_hidden(at: [usize; 3]) -> bool {
    (0..3).all(|axis| (HIDDEN[axis].0..HIDDEN[axis].1).contains(&at[axis]))
}

/// An order and direction of axes: the file's axis f runs along world axis `order[f]`.
#[derive(Clone, Copy, Debug)]
struct Turn {
    order: [usize; 3],
    backwards: [bool; 3],
}

impl Turn {
    fn all() -> Vec<Turn> {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let flips = (0..8).map(|bits| [1, 2, 4].map(|bit| bits & bit != 0));
        let turns = flips.flat_map(|backwards| orders.map(|order| Turn { order, backwards }));
        turns.collect()
    }

    fn dims(&self) -> [usize; 3] {
        self.order.map(|axis| DIMS[axis])
    }

    /// Where in the head the voxel of this file with `index` lies.
    fn place(&self, index: usize) -> [usize; 3] {
        let [nx, ny, _] = self.dims();
        let in_file = [index % nx, index / nx % ny, index / (nx * ny)];
        let mut at = [0; 3];
        for (f, &axis) in self.order.iter().enumerate() {
            at[axis] = if self.backwards[f] { DIMS[axis] - 1 - in_file[f] } else { in_file[f] };
        }
        at
    }

    /// A file of what `value` says of every place.
    fn file(&self, code: i16, bits: i16, value: impl Fn([usize; 3]) -> Vec<u8>) -> Raw {
        let voxels = (0..DIMS.iter().product()).flat_map(|i| value(self.place(i))).collect();
        let mut raw = Raw::new(&self.dims().map(|n| n as i16), code, bits, voxels);
        let mut sform = [[0.0, 0.0, 0.0, -40.0], [0.0, 0.0, 0.0, -50.0], [0.0, 0.0, 0.0, -60.0]];
        for (f, &axis) in self.order.iter().enumerate() {
            sform[axis][f] = if self.backwards[f] { -STEP_MM[axis] } else { STEP_MM[axis] };
            if self.backwards[f] {
                sform[axis][3] += STEP_MM[axis] * (DIMS[axis] - 1) as f32;
            }
        }
        raw.sform = Some(sform);
        raw
    }
}

/// What a model would say that knows what is under the mask, [`ADDED`] to it.
fn truth(job: &InpaintJob<'_>, image: &Volume, mask: &Volume) -> Vec<Vec<f32>> {
    let seen = |i: usize| mask.voxels[i] != 0.0 || image.voxels[i] > 0.0;
    let grid = SliceGrid::around(image, TASK.size, seen).unwrap();
    let slice = |&z: &usize| {
        let pixels = grid.sample(image.slice(z)).into_iter();
        pixels.map(|value| job.window().to_model(value + ADDED)).collect()
    };
    job.slices().iter().map(slice).collect()
}

fn inpaint_with_the_truth(image_path: &Path, mask_path: &Path, out: &Path) {
    let scan = read(image_path).unwrap();
    let mask = read_mask(mask_path, &scan.geometry).unwrap();
    let job = InpaintJob::new(&scan.volume, &mask, &TASK).unwrap();
    let painted = job.paste(&truth(&job, &scan.volume, &mask)).unwrap();
    write_like(out, &painted, &scan.geometry, "SYNTHETIC").unwrap();
}

#[test]
fn in_all_48_axis_orders_the_truth_comes_back_in_place_and_the_rest_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // The mask is stored another way than the image, as masks of other programs are.
    let upright = Turn { order: [0, 1, 2], backwards: [false; 3] };
    let mask = upright.file(2, 8, |at| vec![is_hidden(at).into()]);
    std::fs::write(path("mask.nii"), mask.bytes()).unwrap();
    let turns = Turn::all();
    assert_eq!(turns.len(), 48);
    for turn in turns {
        let image = turn.file(4, 16, |at| intensity(at).to_le_bytes().to_vec()).bytes();
        std::fs::write(path("image.nii"), &image).unwrap();
        inpaint_with_the_truth(&path("image.nii"), &path("mask.nii"), &path("result.nii"));
        let result = std::fs::read(path("result.nii")).unwrap();
        assert_eq!(result[40..56], image[40..56], "{turn:?}: its shape");
        assert_eq!(result[252..328], image[252..328], "{turn:?}: its place");
        let voxels: &[[u8; 4]] = result[352..].as_chunks().0;
        assert_eq!(voxels.len(), DIMS.iter().product::<usize>(), "{turn:?}");
        let mut painted = 0;
        for (index, &raw) in voxels.iter().enumerate() {
            let at = turn.place(index);
            let (found, expected) = (f32::from_le_bytes(raw), f32::from(intensity(at)));
            if is_hidden(at) {
                // One voxel further along any axis the truth differs by 5 at least; at the mask's
                // edge what was added mixes with what is known.
                let above = found - expected;
                assert!((-1.0..ADDED + 1.0).contains(&above), "{turn:?} {at:?}: {above}");
                painted += usize::from(above > ADDED / 2.0);
            } else {
                assert_eq!(found.to_bits(), expected.to_bits(), "{turn:?} {at:?}");
            }
        }
        assert!(painted > 100, "{turn:?}: {painted}");
    }
}
