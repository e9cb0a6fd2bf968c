//! From voxels with a code to pixels of an [`Example`]: which pixels are hidden, what is to be
//! painted there, and what the model sees around. Training and inference both go through here.
//!
//! A known pixel never holds a hidden voxel: a pixel that is hidden by less than half keeps the mean
//! of its known voxels, so nothing leaks in training that is absent at inference.

use super::example::{CONDITIONS, Example, REGIONS, Region};
use super::grid::{SliceGrid, Taps, bounding_box};
use super::normalise::Window;

/// The code of a voxel that is known.
pub(crate) const KNOWN: u8 = 0;

/// The code of a voxel that is hidden though nobody knows what should be there: a lesion while
/// healthy tissue is painted. It is painted healthy and counts in no loss.
pub(crate) const UNKNOWN: u8 = CODES as u8;

/// Codes other than [`KNOWN`]: healthy, necrosis, oedema, enhancing, mixed, unknown.
const CODES: usize = 6;

/// The part of a pixel that must be hidden for the pixel to be.
const HIDDEN_MIN: f32 = 0.5;

/// The code of a voxel that is hidden and to be painted as `region`.
pub(crate) fn code(region: Region) -> u8 {
    region as u8 + 1
}

/// A pixel that holds hidden voxels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell {
    pixel: u32,
    /// The mean intensity of its known voxels.
    known: f32,
    /// The part of it that each code covers.
    cover: [f32; CODES],
}

impl Cell {
    fn is_hidden(&self) -> bool {
        self.cover.iter().sum::<f32>() >= HIDDEN_MIN
    }

    /// Whether a part of it has no truth.
    fn is_unknown(&self) -> bool {
        self.cover[usize::from(UNKNOWN) - 1] > 0.0
    }

    /// The region that covers most of it; the lesser on a tie. What is unknown is painted healthy.
    fn region(&self) -> Region {
        const PAINTS: [Region; 5] =
            [Region::Healthy, Region::Necrosis, Region::Oedema, Region::Enhancing, Region::Mixed];
        let mut cover = self.cover;
        cover[0] += cover[CODES - 1];
        let mut best = 0;
        for (index, &part) in cover[..CODES - 1].iter().enumerate() {
            if part > cover[best] {
                best = index;
            }
        }
        PAINTS[best]
    }
}

/// The pixels of one axial slice that hold a voxel whose code is not [`KNOWN`]. `slice` and `codes`
/// are `[ny * nx]`.
pub(crate) fn cells(grid: &SliceGrid, slice: &[f32], codes: &[u8]) -> Vec<Cell> {
    let nx = grid.dims()[0];
    let coded = bounding_box([nx, codes.len() / nx, 1], |voxel| codes[voxel] != KNOWN);
    let Some([across, down, _]) = coded else { return Vec::new() };
    cells_within(grid, slice, codes, [across, down])
}

/// As [`cells`], where all codes but [`KNOWN`] lie in columns and lines that are known: the first and
/// last of each.
pub(crate) fn cells_within(
    grid: &SliceGrid,
    slice: &[f32],
    codes: &[u8],
    [across, down]: [(usize, usize); 2],
) -> Vec<Cell> {
    let nx = grid.dims()[0];
    // Most pixels are far from every coded voxel: only those near are looked at.
    let touches = |taps: &Taps, (first, last): (usize, usize)| {
        taps.first <= last && taps.first + taps.weights.len() > first
    };
    let mut cells = Vec::new();
    for (row, tall) in grid.rows().iter().enumerate().filter(|(_, taps)| touches(taps, down)) {
        let columns = grid.columns().iter().enumerate();
        for (column, wide) in columns.filter(|(_, taps)| touches(taps, across)) {
            let pixel = (row * grid.size() + column) as u32;
            cells.extend(cell(pixel, [wide, tall], nx, slice, codes));
        }
    }
    cells
}

/// One pixel's cell, if it holds a coded voxel.
fn cell(
    pixel: u32,
    [wide, tall]: [&Taps; 2],
    nx: usize,
    slice: &[f32],
    codes: &[u8],
) -> Option<Cell> {
    let mut cover = [0.0; CODES];
    let mut known = 0.0;
    for (dy, &high) in tall.weights.iter().enumerate() {
        for (dx, &across) in wide.weights.iter().enumerate() {
            let voxel = (tall.first + dy) * nx + wide.first + dx;
            let weight = high * across;
            match codes[voxel] {
                KNOWN => known += weight * slice[voxel],
                code => cover[usize::from(code) - 1] += weight,
            }
        }
    }
    let hidden: f32 = cover.iter().sum();
    // What lies beyond the volume is known to be background.
    let known = if hidden < 1.0 { known / (1.0 - hidden) } else { 0.0 };
    (hidden > 0.0).then_some(Cell { pixel, known, cover })
}

/// How many hidden pixels have a truth to learn from.
pub(crate) fn learnable(cells: &[Cell]) -> usize {
    cells.iter().filter(|cell| cell.is_hidden() && !cell.is_unknown()).count()
}

/// How the hidden pixels of a slice are painted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Brush {
    /// Each pixel as what covers most of it.
    Coded,
    /// Every hidden pixel as one region, and `pixels` around it too, as far as the brain goes.
    Spread {
        /// What to paint.
        region: Region,
        /// How far the mask grows.
        pixels: usize,
    },
    /// The smallest box around the hidden pixels as one region, flagged as a box.
    Boxed(Region),
}

/// One axial slice and what is hidden in it.
pub(crate) struct Canvas<'a> {
    /// Pixels along a side.
    pub(crate) size: usize,
    /// Mean intensities. `[size * size]`
    pub(crate) plane: &'a [f32],
    /// The pixels that hold hidden voxels.
    pub(crate) cells: &'a [Cell],
    /// The volume's window.
    pub(crate) window: Window,
}

impl Canvas<'_> {
    /// The example with its truth.
    pub(crate) fn paint(&self, brush: Brush, condition: [f32; CONDITIONS]) -> Example {
        let area = self.size * self.size;
        let mut example = Example {
            image: self.plane.iter().map(|&v| self.window.to_model(v)).collect(),
            mask: vec![0.0; area],
            regions: vec![0.0; REGIONS * area],
            loss_mask: vec![0.0; area],
            condition,
        };
        for cell in self.cells.iter().filter(|cell| cell.is_hidden()) {
            example.mask[cell.pixel as usize] = 1.0;
        }
        match brush {
            Brush::Coded => {}
            Brush::Spread { pixels, .. } => {
                for _ in 0..pixels {
                    example.mask = self.grown(&example.mask);
                }
            }
            Brush::Boxed(_) => example.mask = boxed(&example.mask, self.size),
        }
        example.loss_mask.copy_from_slice(&example.mask);
        for cell in self.cells {
            let pixel = cell.pixel as usize;
            if example.mask[pixel] == 0.0 {
                example.image[pixel] = self.window.to_model(cell.known);
            } else if cell.is_unknown() {
                example.loss_mask[pixel] = 0.0;
            }
        }
        self.colour(brush, &mut example);
        example
    }

    /// The example as inference has it: nothing is known under the mask, no loss counts.
    pub(crate) fn void(&self, condition: [f32; CONDITIONS]) -> Example {
        let mut example = self.paint(Brush::Coded, condition);
        for (pixel, &hidden) in example.image.iter_mut().zip(&example.mask) {
            if hidden == 1.0 {
                *pixel = -1.0;
            }
        }
        example.loss_mask.fill(0.0);
        example
    }

    /// Sets the region channels under the mask.
    fn colour(&self, brush: Brush, example: &mut Example) {
        let area = self.size * self.size;
        let mut set = |region: Region, pixel: usize| {
            example.regions[region as usize * area + pixel] = 1.0;
        };
        match brush {
            Brush::Coded => {
                for cell in self.cells.iter().filter(|cell| cell.is_hidden()) {
                    set(cell.region(), cell.pixel as usize);
                }
            }
            Brush::Spread { region, .. } | Brush::Boxed(region) => {
                for pixel in (0..area).filter(|&pixel| example.mask[pixel] == 1.0) {
                    set(region, pixel);
                    if matches!(brush, Brush::Boxed(_)) {
                        set(Region::Box, pixel);
                    }
                }
            }
        }
    }

    /// The mask with its neighbours (of four) that are brain.
    fn grown(&self, mask: &[f32]) -> Vec<f32> {
        let size = self.size;
        let mut grown = mask.to_vec();
        for (pixel, target) in grown.iter_mut().enumerate() {
            let (x, y) = (pixel % size, pixel / size);
            let touches = (x > 0 && mask[pixel - 1] == 1.0)
                || (x + 1 < size && mask[pixel + 1] == 1.0)
                || (y > 0 && mask[pixel - size] == 1.0)
                || (y + 1 < size && mask[pixel + size] == 1.0);
            if touches && self.plane[pixel] > 0.0 {
                *target = 1.0;
            }
        }
        grown
    }
}

/// The smallest box around a mask; an empty mask stays empty.
fn boxed(mask: &[f32], size: usize) -> Vec<f32> {
    let mut filled = vec![0.0; mask.len()];
    let bounds = bounding_box([size, size, 1], |pixel| mask[pixel] == 1.0);
    if let Some([(left, right), (low, high), _]) = bounds {
        for y in low..=high {
            filled[y * size + left..=y * size + right].fill(1.0);
        }
    }
    filled
}

/// The example seen in a mirror, left to right.
pub(crate) fn mirrored(mut example: Example, size: usize) -> Example {
    for plane in
        [&mut example.image, &mut example.mask, &mut example.regions, &mut example.loss_mask]
    {
        plane.chunks_exact_mut(size).for_each(<[f32]>::reverse);
    }
    example
}

#[cfg(test)]
mod tests {
    use super::{Brush, Canvas, Cell, KNOWN, UNKNOWN, cells, code, mirrored};
    use crate::data::example::{Example, Region};
    use crate::data::grid::SliceGrid;
    use crate::data::normalise::Window;
    use crate::data::volume::Volume;

    const SIZE: usize = 16;

    /// 24 x 24 voxels of 1 mm, so that a pixel is 2 x 2 voxels and the margin two pixels.
    fn slice() -> (SliceGrid, Vec<f32>) {
        let voxels: Vec<f32> = (0..24 * 24).map(|i| 100.0 + (i % 7) as f32).collect();
        let volume =
            Volume { dims: [24, 24, 1], spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels };
        (SliceGrid::around(&volume, SIZE, |_| true).unwrap(), volume.voxels)
    }

    fn codes(marks: &[(usize, usize, u8)]) -> Vec<u8> {
        let mut codes = vec![KNOWN; 24 * 24];
        for &(x, y, code) in marks {
            codes[y * 24 + x] = code;
        }
        codes
    }

    fn painted(marks: &[(usize, usize, u8)], brush: Brush) -> (Example, Vec<Cell>) {
        let (grid, voxels) = slice();
        let cells = cells(&grid, &voxels, &codes(marks));
        let plane = grid.sample(&voxels);
        let window = Window { low: 0.0, high: 200.0 };
        let canvas = Canvas { size: SIZE, plane: &plane, cells: &cells, window };
        (canvas.paint(brush, [0.0; 6]), cells)
    }

    fn ones(plane: &[f32]) -> Vec<usize> {
        (0..plane.len()).filter(|&i| plane[i] == 1.0).collect()
    }

    /// The pixel that voxel (x, y) lies in.
    fn pixel(x: usize, y: usize) -> usize {
        (2 + y / 2) * SIZE + 2 + x / 2
    }

    #[test]
    fn a_pixel_is_hidden_from_half_its_area_on() {
        let healthy = code(Region::Healthy);
        let marks = [(4, 4, healthy), (5, 4, healthy), (10, 10, healthy)];
        let (example, cells) = painted(&marks, Brush::Coded);
        assert_eq!(cells.len(), 2);
        assert_eq!(ones(&example.mask), [pixel(4, 4)]);
        assert_eq!(ones(&example.loss_mask), [pixel(4, 4)]);
        assert_eq!(ones(&example.regions), [pixel(4, 4)]);
    }

    #[test]
    fn a_known_pixel_holds_no_hidden_voxel() {
        let (_, voxels) = slice();
        let (example, _) = painted(&[(10, 10, code(Region::Healthy))], Brush::Coded);
        let at = |x: usize, y: usize| voxels[y * 24 + x];
        let mean = (at(11, 10) + at(10, 11) + at(11, 11)) / 3.0;
        assert!((example.image[pixel(10, 10)] - (mean / 100.0 - 1.0)).abs() < 1e-5);
    }

    #[test]
    fn the_truth_under_the_mask_is_kept_for_training_and_absent_at_inference() {
        let (grid, mut voxels) = slice();
        let marks: Vec<_> =
            (4..8).flat_map(|y| (4..9).map(move |x| (x, y, code(Region::Healthy)))).collect();
        let window = Window { low: 0.0, high: 200.0 };
        let mut seen = Vec::new();
        for truth in [50.0, 180.0] {
            marks.iter().for_each(|&(x, y, _)| voxels[y * 24 + x] = truth);
            let (plane, cells) = (grid.sample(&voxels), cells(&grid, &voxels, &codes(&marks)));
            let canvas = Canvas { size: SIZE, plane: &plane, cells: &cells, window };
            let trained = canvas.paint(Brush::Coded, [0.0; 6]);
            assert!((trained.image[pixel(4, 4)] - (truth / 100.0 - 1.0)).abs() < 1e-5);
            seen.push(canvas.void([0.0; 6]));
        }
        // What inference sees does not depend on the truth, not even at the half hidden border.
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0].image[pixel(4, 4)], -1.0);
        assert!(ones(&seen[0].loss_mask).is_empty());
    }

    #[test]
    fn an_unknown_voxel_is_painted_healthy_and_counts_in_no_loss() {
        let marks = [(4, 4, UNKNOWN), (5, 4, code(Region::Healthy)), (6, 4, 1), (7, 4, 1)];
        let (example, _) = painted(&marks, Brush::Coded);
        assert_eq!(ones(&example.mask), [pixel(4, 4), pixel(6, 4)]);
        assert_eq!(ones(&example.regions), [pixel(4, 4), pixel(6, 4)]);
        assert_eq!(ones(&example.loss_mask), [pixel(6, 4)]);
    }

    #[test]
    fn components_are_painted_as_what_covers_most_of_a_pixel() {
        let (oedema, enhancing) = (code(Region::Oedema), code(Region::Enhancing));
        let marks = [
            (4, 4, oedema),
            (5, 4, oedema),
            (4, 5, enhancing),
            (8, 8, enhancing),
            (9, 8, enhancing),
        ];
        let (example, _) = painted(&marks, Brush::Coded);
        let channel = |region: Region| region as usize * SIZE * SIZE;
        assert_eq!(
            ones(&example.regions),
            [channel(Region::Oedema) + pixel(4, 4), channel(Region::Enhancing) + pixel(8, 8)]
        );
    }

    #[test]
    fn a_spread_mask_grows_into_the_brain_only() {
        let marks = [(0, 0, 2), (1, 0, 2), (0, 1, 2)];
        let (example, _) = painted(&marks, Brush::Spread { region: Region::Necrosis, pixels: 1 });
        // Above and to the left of the corner lies background.
        assert_eq!(ones(&example.mask), [pixel(0, 0), pixel(2, 0), pixel(0, 2)]);
        assert_eq!(ones(&example.loss_mask), ones(&example.mask));
    }

    #[test]
    fn a_box_is_the_smallest_and_carries_its_flag() {
        let marks = [(4, 4, 4), (5, 4, 4), (8, 6, 4), (9, 6, 4)];
        let (example, _) = painted(&marks, Brush::Boxed(Region::Enhancing));
        let filled =
            [4, 6, 8].map(|x| pixel(x, 4)).into_iter().chain([4, 6, 8].map(|x| pixel(x, 6)));
        let filled: Vec<usize> = filled.collect();
        assert_eq!(ones(&example.mask), filled);
        let regions = ones(&example.regions);
        let channel =
            |region: Region| filled.iter().map(move |p| region as usize * SIZE * SIZE + p);
        let expected: Vec<usize> = channel(Region::Enhancing).chain(channel(Region::Box)).collect();
        assert_eq!(regions, expected);
    }

    #[test]
    fn a_mirrored_example_is_mirrored_in_every_plane() {
        let (example, _) = painted(&[(4, 4, 3), (5, 4, 3)], Brush::Coded);
        let mirror = mirrored(example.clone(), SIZE);
        let there = pixel(4, 4) / SIZE * SIZE + SIZE - 1 - pixel(4, 4) % SIZE;
        assert_eq!(ones(&mirror.mask), [there]);
        assert_eq!(ones(&mirror.regions), [Region::Oedema as usize * SIZE * SIZE + there]);
        assert_eq!(mirror.image[there], example.image[pixel(4, 4)]);
        assert_eq!(mirrored(mirror, SIZE), example);
    }
}
