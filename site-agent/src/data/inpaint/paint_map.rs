//! What is to be painted at each voxel of a scan: one tissue under a mask, or what a map of labels
//! says, boxes included. It reads no intensity.

use crate::data::compose::{KNOWN, code};
use crate::data::example::Region;
use crate::data::labels;
use crate::data::volume::Volume;

/// The label of a box in which the model chooses the contour.
pub const BOX_LABEL: f32 = 6.0;

/// What the labels from 1 on are painted as.
const PAINTS: [Region; 5] =
    [Region::Healthy, Region::Necrosis, Region::Oedema, Region::Enhancing, Region::Mixed];

/// The most unknown labels that are named.
const NAMED_MAX: usize = 8;

/// What is to be painted at each voxel of a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct PaintMap {
    dims: [usize; 3],
    /// The codes of [`crate::data::compose`]. `[nz * ny * nx]`
    codes: Vec<u8>,
    /// Where a box is; empty where there is none. `[nz * ny * nx]`
    boxed: Vec<bool>,
}

/// Why a map of labels cannot be painted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// It holds a number that means nothing.
    #[error(
        "the labels {found} mean nothing: 0 is kept, 1 healthy, 2 necrosis, 3 oedema, 4 enhancing, \
         5 mixed, 6 a box",
        found = listed(found)
    )]
    Unknown {
        /// Every such number, ascending.
        found: Vec<f32>,
    },
    /// It holds too many numbers to be a map.
    #[error(transparent)]
    Labels(#[from] labels::Fault),
    /// It holds a box, and nobody said of what.
    #[error("label 6 is a box: say what the model shall paint in it")]
    NoBoxClass,
    /// Somebody said what boxes are of, and there is none.
    #[error("a class for boxes is given, but no voxel has label 6")]
    NoBox,
    /// A box is to hold what has no contour.
    #[error("a box cannot hold {0:?}: choose a part of a tumour")]
    BoxClass(Region),
}

impl PaintMap {
    /// One tissue wherever `mask` is not 0.
    pub fn under(mask: &Volume, region: Region) -> PaintMap {
        let paint = |&m: &f32| if m == 0.0 { KNOWN } else { code(region) };
        let codes = mask.voxels.iter().map(paint).collect();
        PaintMap { dims: mask.dims, codes, boxed: Vec::new() }
    }

    /// What a map of labels says: 0 is kept; 1 to 5 are painted as healthy, necrosis, oedema, enhancing
    /// and mixed; of what is 6, each connected part of an axial slice becomes the smallest box around
    /// it, within which the model draws the contour of `box_class` and paints the rest healthy. A box
    /// takes in voxels that would be kept, and none of another label.
    ///
    /// # Errors
    /// [`Error`] if a label is unknown, or boxes and their class do not go together.
    pub fn of_labels(labels: &Volume, box_class: Option<Region>) -> Result<PaintMap, Error> {
        let counts = labels::counts(labels)?;
        let is_known = |label: f32| label == BOX_LABEL || region_of(label).is_some();
        let found: Vec<f32> =
            counts.iter().map(|&(label, _)| label).filter(|&label| !is_known(label)).collect();
        if !found.is_empty() {
            return Err(Error::Unknown { found });
        }
        let has_box = counts.iter().any(|&(label, _)| label == BOX_LABEL);
        let box_code = match (has_box, box_class) {
            (true, None) => return Err(Error::NoBoxClass),
            (false, Some(_)) => return Err(Error::NoBox),
            (_, Some(class @ (Region::Healthy | Region::Box))) => {
                return Err(Error::BoxClass(class));
            }
            (true, Some(class)) => code(class),
            (false, None) => KNOWN,
        };
        let paint = |&label: &f32| match region_of(label) {
            Some(region) => code(region),
            None if label == BOX_LABEL => box_code,
            None => KNOWN,
        };
        let mut codes: Vec<u8> = labels.voxels.iter().map(paint).collect();
        let mut boxed = Vec::new();
        if has_box {
            boxed = labels.voxels.iter().map(|&label| label == BOX_LABEL).collect();
            let [nx, ny, _] = labels.dims;
            let slices = codes.chunks_exact_mut(nx * ny).zip(boxed.chunks_exact_mut(nx * ny));
            slices.for_each(|(codes, boxed)| fill_boxes(codes, boxed, nx, box_code));
        }
        Ok(PaintMap { dims: labels.dims, codes, boxed })
    }

    /// Voxels along x, y and z.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// How many voxels it has.
    pub fn voxels(&self) -> usize {
        self.codes.len()
    }

    /// Whether a voxel is painted.
    pub fn is_hidden(&self, index: usize) -> bool {
        self.codes[index] != KNOWN
    }

    /// Whether something in slice `z` is painted.
    pub fn touches(&self, z: usize) -> bool {
        self.codes(z).iter().any(|&code| code != KNOWN)
    }

    /// Every tissue that is painted, in the order of the regions.
    pub fn regions(&self) -> Vec<Region> {
        PAINTS.into_iter().filter(|&region| self.codes.contains(&code(region))).collect()
    }

    /// The codes of slice `z`. `[ny * nx]`
    pub(crate) fn codes(&self, z: usize) -> &[u8] {
        let area = self.dims[0] * self.dims[1];
        &self.codes[z * area..(z + 1) * area]
    }

    /// The codes of slice `z` within its boxes, if it has one. `[ny * nx]`
    pub(crate) fn boxes(&self, z: usize) -> Option<Vec<u8>> {
        let area = self.dims[0] * self.dims[1];
        let boxed = self.boxed.get(z * area..(z + 1) * area)?;
        let inside = |(&code, &boxed): (&u8, &bool)| if boxed { code } else { KNOWN };
        boxed.contains(&true).then(|| self.codes(z).iter().zip(boxed).map(inside).collect())
    }
}

/// What a label other than a box's is painted as.
fn region_of(label: f32) -> Option<Region> {
    (1u8..).zip(PAINTS).find(|(number, _)| f32::from(*number) == label).map(|(_, region)| region)
}

/// Grows each connected part of the boxes of one slice to its bounding box, until none grows.
fn fill_boxes(codes: &mut [u8], boxed: &mut [bool], nx: usize, box_code: u8) {
    loop {
        let mut grows = false;
        for [(left, right), (low, high)] in bounds_of_parts(boxed, nx) {
            for voxel in (low..=high).flat_map(|y| y * nx + left..=y * nx + right) {
                if codes[voxel] == KNOWN {
                    (codes[voxel], boxed[voxel], grows) = (box_code, true, true);
                }
            }
        }
        if !grows {
            return;
        }
    }
}

/// The first and last column and line of each part of a plane that is connected by sides or corners.
fn bounds_of_parts(plane: &[bool], nx: usize) -> Vec<[(usize, usize); 2]> {
    let ny = plane.len() / nx;
    let mut left = plane.to_vec();
    let mut parts = Vec::new();
    let mut waiting = Vec::new();
    for start in 0..plane.len() {
        if !std::mem::take(&mut left[start]) {
            continue;
        }
        let (x, y) = (start % nx, start / nx);
        let [mut across, mut down] = [(x, x), (y, y)];
        waiting.push((x, y));
        while let Some((x, y)) = waiting.pop() {
            across = (across.0.min(x), across.1.max(x));
            down = (down.0.min(y), down.1.max(y));
            for y in y.saturating_sub(1)..=(y + 1).min(ny - 1) {
                for x in x.saturating_sub(1)..=(x + 1).min(nx - 1) {
                    if std::mem::take(&mut left[y * nx + x]) {
                        waiting.push((x, y));
                    }
                }
            }
        }
        parts.push([across, down]);
    }
    parts
}

/// The first few of some numbers.
fn listed(found: &[f32]) -> String {
    let named: Vec<String> = found.iter().take(NAMED_MAX).map(f32::to_string).collect();
    let more = if found.len() > NAMED_MAX { ", …" } else { "" };
    named.join(", ") + more
}
