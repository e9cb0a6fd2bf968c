//! The square window through which the model sees axial slices: centred on the brain, `size` pixels
//! wide, square in millimetres whatever the voxels are. Training and inference share this one grid.
//!
//! It never touches intensities' scale: it averages, and puts back.

use super::volume::Volume;

/// What is added to the longer side of the brain's box, half on each end, in millimetres.
pub const MARGIN_MM: f64 = 8.0;

/// The fewest pixels a side may have.
pub const SIZE_MIN: usize = 8;

/// The most pixels a side may have.
pub const SIZE_MAX: usize = 512;

/// The narrowest voxel that is believed, in millimetres.
pub const SPACING_MM_MIN: f64 = 0.05;

/// The widest voxel that is believed, in millimetres.
pub const SPACING_MM_MAX: f64 = 50.0;

/// Why a volume has no grid.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// The size is out of bounds.
    #[error("the slice size {size} is not within {SIZE_MIN} to {SIZE_MAX} pixels")]
    Size {
        /// What was asked for.
        size: usize,
    },
    /// A voxel edge is not a believable length.
    #[error(
        "the voxels are {spacing_mm:?} mm wide, not {SPACING_MM_MIN} to {SPACING_MM_MAX}: repair \
         the header's spacing"
    )]
    Spacing {
        /// The spacing found.
        spacing_mm: [f64; 3],
    },
    /// The volume does not hold one value per voxel.
    #[error("the volume holds {found} values for {expected} voxels")]
    Shape {
        /// Voxels by its shape.
        expected: usize,
        /// Values held.
        found: usize,
    },
    /// The volume is background everywhere.
    #[error("the volume has no brain: every voxel is background")]
    NoBrain,
}

/// How axial slices of one volume become `size` x `size` pixels and back.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceGrid {
    size: usize,
    pixel_mm: f64,
    dims: [usize; 3],
    brain_z: (usize, usize),
    columns: Vec<Taps>,
    rows: Vec<Taps>,
    paste_x: Vec<Between>,
    paste_y: Vec<Between>,
}

/// The voxels along one axis that a pixel is made of. The weights add up to 1 inside the volume;
/// beyond its border there is background, which is 0.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Taps {
    /// The first voxel.
    pub(crate) first: usize,
    /// The weight of the first voxel and of those after it.
    pub(crate) weights: Vec<f32>,
}

/// The two pixels along one axis that a voxel lies between.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Between {
    below: usize,
    above: usize,
    above_weight: f32,
}

impl SliceGrid {
    /// The grid around the voxels of `volume` for which `is_brain` (called with their index) holds.
    ///
    /// # Errors
    /// [`Error`] if the size is out of bounds, the spacing is unusable or there is no brain.
    pub fn around(
        volume: &Volume,
        size: usize,
        is_brain: impl Fn(usize) -> bool,
    ) -> Result<SliceGrid, Error> {
        check_geometry(volume)?;
        let brain = bounding_box(volume.dims, is_brain).ok_or(Error::NoBrain)?;
        SliceGrid::new(volume.dims, volume.spacing_mm, brain, size)
    }

    /// The grid around a brain whose first and last voxels along each axis are known.
    ///
    /// # Errors
    /// [`Error::Size`] if the size is out of bounds.
    pub(crate) fn new(
        dims: [usize; 3],
        spacing_mm: [f64; 3],
        [x, y, z]: [(usize, usize); 3],
        size: usize,
    ) -> Result<SliceGrid, Error> {
        if !(SIZE_MIN..=SIZE_MAX).contains(&size) {
            return Err(Error::Size { size });
        }
        let extent = |(first, last): (usize, usize), mm: f64| (last - first + 1) as f64 * mm;
        let side_mm = extent(x, spacing_mm[0]).max(extent(y, spacing_mm[1])) + MARGIN_MM;
        let pixel_mm = side_mm / size as f64;
        let start = |(first, last): (usize, usize), mm: f64| {
            ((first + last + 1) as f64 * mm - side_mm) / 2.0
        };
        let [nx, ny, _] = dims;
        let axis_x =
            Axis { voxels: nx, voxel_mm: spacing_mm[0], start_mm: start(x, spacing_mm[0]) };
        let axis_y =
            Axis { voxels: ny, voxel_mm: spacing_mm[1], start_mm: start(y, spacing_mm[1]) };
        Ok(SliceGrid {
            size,
            pixel_mm,
            dims,
            brain_z: z,
            columns: axis_x.taps(size, pixel_mm),
            rows: axis_y.taps(size, pixel_mm),
            paste_x: axis_x.between(size, pixel_mm),
            paste_y: axis_y.between(size, pixel_mm),
        })
    }

    /// Pixels along a side.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Voxels along x, y and z of the volume.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// The edge of a pixel in millimetres.
    pub fn pixel_mm(&self) -> f64 {
        self.pixel_mm
    }

    /// The first and the last axial slice with brain.
    pub fn brain_z(&self) -> (usize, usize) {
        self.brain_z
    }

    /// Where slice `z` lies in the brain, from 0 at its lowest slice to 1 at its highest.
    pub fn height(&self, z: usize) -> f32 {
        let (first, last) = self.brain_z;
        z.clamp(first, last).abs_diff(first) as f32 / (last - first).max(1) as f32
    }

    /// One axial slice `[ny * nx]` as pixels `[size * size]`, rows from y low to y high: averages
    /// over each pixel's area, or interpolates linearly where pixels are finer than voxels.
    pub fn sample(&self, slice: &[f32]) -> Vec<f32> {
        let mut pixels = Vec::new();
        self.sample_into(slice, &mut Vec::new(), &mut pixels);
        pixels
    }

    /// As [`SliceGrid::sample`], into buffers that are used again: `lines` of any content and the
    /// `pixels`.
    pub(crate) fn sample_into(&self, slice: &[f32], lines: &mut Vec<f32>, pixels: &mut Vec<f32>) {
        let (nx, size) = (self.dims[0], self.size);
        pixels.clear();
        pixels.resize(size * size, 0.0);
        // Each line of voxels is narrowed once, though two rows of pixels may share it.
        let used = |taps: &Taps| (taps.first, taps.first + taps.weights.len());
        let first = self.rows.iter().map(|taps| used(taps).0).min().unwrap_or(0);
        let last = self.rows.iter().map(|taps| used(taps).1).max().unwrap_or(0);
        lines.clear();
        lines.resize((last - first) * size, 0.0);
        for (y, narrow) in (first..last).zip(lines.chunks_exact_mut(size)) {
            self.narrow(&slice[y * nx..(y + 1) * nx], narrow);
        }
        for (target, taps) in pixels.chunks_exact_mut(size).zip(&self.rows) {
            let narrowed = lines[(taps.first - first) * size..].chunks_exact(size);
            for (line, &weight) in narrowed.zip(&taps.weights) {
                for (pixel, &value) in target.iter_mut().zip(line) {
                    *pixel += weight * value;
                }
            }
        }
    }

    /// The value of a plane of pixels at the centre of voxel (x, y), interpolated linearly.
    pub fn value_at(&self, pixels: &[f32], x: usize, y: usize) -> f32 {
        let (column, row) = (self.paste_x[x], self.paste_y[y]);
        let along = |row: usize| {
            let line = &pixels[row * self.size..(row + 1) * self.size];
            line[column.below] + (line[column.above] - line[column.below]) * column.above_weight
        };
        let (below, above) = (along(row.below), along(row.above));
        below + (above - below) * row.above_weight
    }

    /// The voxels along x of each column of pixels.
    pub(crate) fn columns(&self) -> &[Taps] {
        &self.columns
    }

    /// The voxels along y of each row of pixels.
    pub(crate) fn rows(&self) -> &[Taps] {
        &self.rows
    }

    /// One line of voxels along x as pixels.
    fn narrow(&self, line: &[f32], pixels: &mut [f32]) {
        for (pixel, taps) in pixels.iter_mut().zip(&self.columns) {
            let voxels = &line[taps.first..taps.first + taps.weights.len()];
            *pixel = voxels.iter().zip(&taps.weights).map(|(voxel, weight)| voxel * weight).sum();
        }
    }
}

/// One in-plane axis: its voxels, and where the grid starts, in millimetres from the outer edge of
/// voxel 0.
#[derive(Clone, Copy)]
struct Axis {
    voxels: usize,
    voxel_mm: f64,
    start_mm: f64,
}

impl Axis {
    fn taps(self, size: usize, pixel_mm: f64) -> Vec<Taps> {
        let one = if pixel_mm >= self.voxel_mm { Axis::area } else { Axis::line };
        (0..size).map(|i| one(self, i, pixel_mm)).collect()
    }

    /// Pixel `i` as the mean of what it covers: each voxel weighs its overlap.
    fn area(self, i: usize, pixel_mm: f64) -> Taps {
        let begin = self.start_mm + i as f64 * pixel_mm;
        let end = begin + pixel_mm;
        let overlap = |voxel: usize| {
            let left = voxel as f64 * self.voxel_mm;
            (end.min(left + self.voxel_mm) - begin.max(left)) / pixel_mm
        };
        self.keep((begin / self.voxel_mm).floor(), (end / self.voxel_mm).ceil(), overlap)
    }

    /// Pixel `i` as the linear interpolation at its centre.
    fn line(self, i: usize, pixel_mm: f64) -> Taps {
        let position = (self.start_mm + (i as f64 + 0.5) * pixel_mm) / self.voxel_mm - 0.5;
        let nearness = |voxel: usize| 1.0 - (voxel as f64 - position).abs();
        self.keep(position.floor(), position.floor() + 2.0, nearness)
    }

    /// The voxels from `begin` to before `end` that exist, with their weights.
    fn keep(self, begin: f64, end: f64, weight: impl Fn(usize) -> f64) -> Taps {
        // A cast from a float saturates, so what lies below the volume becomes voxel 0.
        let first = (begin as usize).min(self.voxels);
        let last = (end.max(0.0) as usize).clamp(first, self.voxels);
        Taps { first, weights: (first..last).map(|v| weight(v).max(0.0) as f32).collect() }
    }

    /// Each voxel's neighbouring pixels; a voxel beyond the grid takes the pixel at its border.
    fn between(self, size: usize, pixel_mm: f64) -> Vec<Between> {
        let last = (size - 1) as f64;
        (0..self.voxels)
            .map(|voxel| {
                let centre = (voxel as f64 + 0.5) * self.voxel_mm;
                let position = ((centre - self.start_mm) / pixel_mm - 0.5).clamp(0.0, last);
                let below = position.floor() as usize;
                Between {
                    below,
                    above: (below + 1).min(size - 1),
                    above_weight: (position - below as f64) as f32,
                }
            })
            .collect()
    }
}

/// Whether the volume's shape fits its voxels and its spacing is believable.
pub(crate) fn check_geometry(volume: &Volume) -> Result<(), Error> {
    let (expected, found) = (volume.dims.iter().product(), volume.voxels.len());
    if found != expected {
        return Err(Error::Shape { expected, found });
    }
    let spacing_mm = volume.spacing_mm;
    if !spacing_mm.iter().all(|mm| (SPACING_MM_MIN..=SPACING_MM_MAX).contains(mm)) {
        return Err(Error::Spacing { spacing_mm });
    }
    Ok(())
}

/// The first and last index along each axis of the voxels for which `is_inside` (called with their
/// index) holds; none if there is no such voxel.
pub(crate) fn bounding_box(
    dims: [usize; 3],
    is_inside: impl Fn(usize) -> bool,
) -> Option<[(usize, usize); 3]> {
    let mut found: Option<[(usize, usize); 3]> = None;
    for z in 0..dims[2] {
        for y in 0..dims[1] {
            let line = dims[0] * (y + dims[1] * z);
            let Some(first) = (0..dims[0]).find(|x| is_inside(line + x)) else { continue };
            let last = (first..dims[0]).rev().find(|x| is_inside(line + x)).unwrap_or(first);
            let here = [(first, last), (y, y), (z, z)];
            let widened = found.unwrap_or(here);
            found = Some([0, 1, 2].map(|axis| {
                (widened[axis].0.min(here[axis].0), widened[axis].1.max(here[axis].1))
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Error, SliceGrid};
    use crate::data::volume::Volume;

    fn volume(dims: [usize; 3], spacing_mm: [f64; 3], value: impl Fn(f64, f64) -> f32) -> Volume {
        let mut voxels = Vec::new();
        for _ in 0..dims[2] {
            for y in 0..dims[1] {
                for x in 0..dims[0] {
                    let centre = |i: usize, mm: f64| (i as f64 + 0.5) * mm;
                    voxels.push(value(centre(x, spacing_mm[0]), centre(y, spacing_mm[1])));
                }
            }
        }
        Volume { dims, spacing_mm, origin_mm: [0.0; 3], voxels }
    }

    fn grid(volume: &Volume, size: usize) -> SliceGrid {
        SliceGrid::around(volume, size, |i| volume.voxels[i] > 0.0).unwrap()
    }

    #[test]
    fn the_field_of_view_is_the_longer_side_of_the_brain_and_a_margin() {
        let mut image = volume([40, 50, 3], [1.0, 2.0, 5.0], |_, _| 0.0);
        for (x, y) in [(10, 5), (29, 24)] {
            let voxel = image.index(x, y, 1);
            image.voxels[voxel] = 1.0;
        }
        let grid = grid(&image, 16);
        // 20 voxels of 1 mm along x, 20 of 2 mm along y.
        assert!((grid.pixel_mm() - 48.0 / 16.0).abs() < 1e-12);
        assert_eq!(grid.brain_z(), (1, 1));
        assert_eq!(grid.size(), 16);
    }

    #[test]
    fn a_bad_size_a_bad_spacing_and_an_empty_volume_are_refused() {
        let image = volume([20, 20, 2], [1.0; 3], |_, _| 1.0);
        assert_eq!(SliceGrid::around(&image, 7, |_| true), Err(Error::Size { size: 7 }));
        assert_eq!(SliceGrid::around(&image, 9999, |_| true), Err(Error::Size { size: 9999 }));
        assert_eq!(SliceGrid::around(&image, 32, |_| false), Err(Error::NoBrain));
        for wrong in [0.0, -1.0, 1e-6, f64::NAN, f64::INFINITY] {
            let image = Volume { spacing_mm: [1.0, wrong, 1.0], ..image.clone() };
            let refused = SliceGrid::around(&image, 32, |_| true);
            assert!(matches!(refused, Err(Error::Spacing { .. })), "{wrong}: {refused:?}");
        }
    }

    #[test]
    fn a_pixel_is_the_mean_of_the_area_it_covers() {
        // 24 mm of brain and 8 of margin make 16 pixels of exactly 2 x 2 voxels.
        let image = volume([24, 24, 1], [1.0; 3], |x, y| (x + 100.0 * y) as f32);
        let pixels = grid(&image, 16).sample(image.slice(0));
        // The margin is two pixels wide; the first pixel of brain averages voxels 0 and 1.
        assert_eq!(pixels[16 + 1], 0.0);
        assert!((pixels[2 * 16 + 2] - 101.0).abs() < 1e-3, "{}", pixels[2 * 16 + 2]);
        assert!((pixels[3 * 16 + 2] - 301.0).abs() < 1e-3);
    }

    proptest! {
        #[test]
        fn the_average_over_an_area_keeps_the_sum(
            nx in 20usize..60, ny in 20usize..60,
            sx in 0.8f64..1.5, sy in 0.8f64..1.5,
            size in 8usize..14, seed in 0u32..1000,
        ) {
            let image = volume([nx, ny, 1], [sx, sy, 1.0], |x, y| {
                (1.5 + (x * 0.7 + f64::from(seed)).sin() * (y * 1.3).cos()) as f32
            });
            let grid = grid(&image, size);
            prop_assume!(grid.pixel_mm() >= sx.max(sy));
            let pixels = grid.sample(image.slice(0));
            let before: f64 = image.voxels.iter().map(|&v| f64::from(v)).sum::<f64>() * sx * sy;
            let after: f64 =
                pixels.iter().map(|&v| f64::from(v)).sum::<f64>() * grid.pixel_mm().powi(2);
            prop_assert!((before / after - 1.0).abs() < 1e-4, "{} {}", before, after);
        }

        #[test]
        fn a_smooth_slice_survives_sampling_and_pasting(
            sx in 0.7f64..2.0, sy in 0.7f64..2.0, size in 48usize..160,
        ) {
            let image = volume([80, 80, 1], [sx, sy, 1.0], |x, y| {
                (2.0 + (x * 0.05).sin() + (y * 0.04).cos()) as f32
            });
            let grid = grid(&image, size);
            let pixels = grid.sample(image.slice(0));
            for y in (8..72).step_by(3) {
                for x in 8..72 {
                    let pasted = grid.value_at(&pixels, x, y);
                    let error = (pasted - image.at(x, y, 0)).abs();
                    prop_assert!(error < 0.03, "{} at {},{}", error, x, y);
                }
            }
        }
    }
}
