//! A training example as another head, another position and another scanner would give it: turned,
//! scaled, with other contrast and another bias field.
//!
//! What is hidden stays hidden: a known pixel of the result is made of known pixels alone, so that
//! nothing leaks in training that is absent at inference. It never mirrors (drawing a slice does, half the time) and
//! never touches the condition.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use super::example::{Example, REGIONS, Region};

/// The largest rotation to either side, in degrees.
pub const ROTATION_MAX_DEG: f32 = 10.0;

/// The scales, 1 being as it was.
pub const SCALE: std::ops::RangeInclusive<f32> = 0.9..=1.1;

/// The exponents of the contrast: u becomes u^gamma, u being the intensity in [0, 1].
pub const GAMMA: std::ops::RangeInclusive<f32> = 0.8..=1.2;

/// The largest standard deviation of the logarithm of the bias field's knots. Scans are bias
/// corrected or not; the fields of scanners have amplitudes of 0.1 to 0.3.
pub const BIAS_MAX: f32 = 0.15;

/// Knots of the bias field along each axis: a cubic B-spline of two cells.
const KNOTS: usize = 5;

/// Steps of the table of the contrast. Between two steps it is a straight line.
const TABLE: usize = 256;

/// The bit of a hidden pixel, and of one that counts in no loss.
const HIDDEN: u8 = 1;
const NO_LOSS: u8 = 2;

/// Turns and scales a slice of `size` x `size` pixels about its middle (rotation up to
/// [`ROTATION_MAX_DEG`], [`SCALE`]), then changes its contrast ([`GAMMA`]) and multiplies it by a
/// smooth field ([`BIAS_MAX`]), known and hidden pixels alike. Background stays -1 and everything
/// stays in [-1, 1].
///
/// A pixel is hidden if any pixel it is interpolated from was. Its regions are those of the nearest
/// hidden one, and it counts in the loss if all hidden ones did. A box stays upright: it is scaled
/// but not turned. Where the change would move everything out of the loss, there is none of
/// rotation and scale.
///
/// # Panics
/// If a plane of `example` has not `size * size` pixels: that is a bug of the caller.
pub fn augmented(mut example: Example, size: usize, rng: &mut impl Rng) -> Example {
    let area = size * size;
    let sizes = [example.image.len(), example.mask.len(), example.loss_mask.len()];
    assert!(sizes == [area; 3], "a plane has size * size pixels");
    assert_eq!(example.regions.len(), REGIONS * area, "a plane has size * size pixels");
    let degrees = rng.random_range(-ROTATION_MAX_DEG..=ROTATION_MAX_DEG);
    let scale = rng.random_range(SCALE);
    let tone = Tone::new(rng.random_range(GAMMA));
    let bias = Bias::new(rng.random_range(0.0..=BIAS_MAX), rng);
    let flag = &example.regions[Region::Box as usize * area..];
    let is_boxed = flag[..area].contains(&1.0);
    let degrees = if is_boxed { 0.0 } else { degrees };
    move_by(&mut example, size, degrees, scale);
    let axis: Vec<(usize, [f32; 4])> = (0..size).map(|i| knots(i, size)).collect();
    for (row, along_y) in example.image.chunks_exact_mut(size).zip(&axis) {
        let columns = bias.row(*along_y);
        for (value, along_x) in row.iter_mut().zip(&axis) {
            let unit = tone.of(to_unit(*value)) * between(&columns, *along_x);
            *value = to_model(unit.min(1.0));
        }
    }
    example
}

/// From the model's [-1, 1] to [0, 1], background 0.
#[inline]
fn to_unit(value: f32) -> f32 {
    ((value + 1.0) * 0.5).clamp(0.0, 1.0)
}

/// Back from [0, 1].
#[inline]
fn to_model(unit: f32) -> f32 {
    2.0 * unit - 1.0
}

/// The slice with a border of known background one pixel wide, so that every tap lies in it.
struct Source {
    /// Pixels along a side of the slice without its border.
    size: usize,
    /// Intensities in [0, 1]: background is 0 and stays 0 under any weights.
    units: Vec<f32>,
    /// 0, [`HIDDEN`], or [`HIDDEN`] with [`NO_LOSS`].
    codes: Vec<u8>,
    /// Whether this pixel or the next along x, y or both is hidden.
    is_near: Vec<bool>,
    /// A bit per region of every hidden pixel.
    regions: Vec<u8>,
}

impl Source {
    fn of(example: &Example, size: usize) -> Source {
        let (side, area) = (size + 2, size * size);
        let mut source = Source {
            size,
            units: vec![0.0; side * side],
            codes: vec![0; side * side],
            is_near: vec![false; side * side],
            regions: vec![0; side * side],
        };
        for y in 0..size {
            let (from, to) = (y * size, (y + 1) * side + 1);
            let row = source.units[to..to + size].iter_mut();
            row.zip(&example.image[from..from + size]).for_each(|(u, &v)| *u = to_unit(v));
            for x in (0..size).filter(|x| example.mask[from + x] != 0.0) {
                let (at, pixel) = (to + x, from + x);
                let has_loss = example.loss_mask[pixel] != 0.0;
                source.codes[at] = if has_loss { HIDDEN } else { HIDDEN | NO_LOSS };
                source.regions[at] = (0..REGIONS)
                    .filter(|region| example.regions[region * area + pixel] != 0.0)
                    .fold(0, |bits, region| bits | 1 << region);
                for step in [0, 1, side, side + 1] {
                    source.is_near[at - step] = true;
                }
            }
        }
        source
    }

    /// The pixel at (x, y), in pixels from the middle of the border's first one.
    #[inline]
    fn at(&self, x: f32, y: f32) -> Pixel {
        let end = (self.size + 1) as f32;
        if !(x > 0.0 && y > 0.0 && x < end && y < end) {
            return Pixel { unit: 0.0, code: 0, regions: 0 };
        }
        // Both are positive, and a conversion cuts towards zero.
        let (left, top) = (x as i32, y as i32);
        let (across, down) = (x - left as f32, y - top as f32);
        let upper = top as usize * (self.size + 2) + left as usize;
        let lower = upper + self.size + 2;
        let (above, below) = (&self.units[upper..upper + 2], &self.units[lower..lower + 2]);
        let above = above[0] + across * (above[1] - above[0]);
        let below = below[0] + across * (below[1] - below[0]);
        let mut pixel = Pixel { unit: above + down * (below - above), code: 0, regions: 0 };
        if self.is_near[upper] {
            let weights = [
                (1.0 - across) * (1.0 - down),
                across * (1.0 - down),
                (1.0 - across) * down,
                across * down,
            ];
            let mut nearest = 0.0;
            for (tap, weight) in [upper, upper + 1, lower, lower + 1].into_iter().zip(weights) {
                // A pixel of weight 0 is no part of this one.
                if self.codes[tap] != 0 && weight > 0.0 {
                    pixel.code |= self.codes[tap];
                    if weight > nearest {
                        (nearest, pixel.regions) = (weight, self.regions[tap]);
                    }
                }
            }
        }
        pixel
    }

    /// The slice turned and scaled about its middle, written over `example`. Whether a pixel counts
    /// in the loss.
    fn turned(&self, degrees: f32, scale: f32, example: &mut Example) -> bool {
        let area = self.size * self.size;
        for i in (0..area).filter(|&i| example.mask[i] != 0.0) {
            (0..REGIONS).for_each(|region| example.regions[region * area + i] = 0.0);
        }
        let (sin, cos) = degrees.to_radians().sin_cos();
        let (sin, cos) = (sin / scale, cos / scale);
        let (middle, border) = ((self.size as f32 - 1.0) / 2.0, 1.0);
        let mut has_loss = false;
        for y in 0..self.size {
            let down = y as f32 - middle;
            let first = (border + middle + sin * down, border + middle + cos * down);
            let span = y * self.size..(y + 1) * self.size;
            let image = &mut example.image[span.clone()];
            let mask = &mut example.mask[span.clone()];
            let loss_mask = &mut example.loss_mask[span.clone()];
            for x in 0..self.size {
                let across = x as f32 - middle;
                let pixel = self.at(first.0 + cos * across, first.1 - sin * across);
                image[x] = to_model(pixel.unit);
                mask[x] = f32::from(pixel.code & HIDDEN);
                loss_mask[x] = f32::from(u8::from(pixel.code == HIDDEN));
                if pixel.code != 0 {
                    has_loss |= pixel.code == HIDDEN;
                    for region in (0..REGIONS).filter(|region| pixel.regions >> region & 1 == 1) {
                        example.regions[region * area + span.start + x] = 1.0;
                    }
                }
            }
        }
        has_loss
    }
}

/// A pixel between pixels.
struct Pixel {
    unit: f32,
    code: u8,
    regions: u8,
}

/// Turns and scales every plane about the middle, in one resampling, unless no loss would be left.
fn move_by(example: &mut Example, size: usize, degrees: f32, scale: f32) {
    let source = Source::of(example, size);
    if !source.turned(degrees, scale, example) {
        source.turned(0.0, 1.0, example);
    }
}

/// u^gamma for u in [0, 1], by table: 0 stays 0, 1 stays 1, order is kept.
struct Tone([f32; TABLE + 2]);

impl Tone {
    fn new(gamma: f32) -> Tone {
        // The last entry is only ever read with weight 0.
        Tone(std::array::from_fn(|i| (i.min(TABLE) as f32 / TABLE as f32).powf(gamma)))
    }

    #[inline]
    fn of(&self, unit: f32) -> f32 {
        let place = unit * TABLE as f32;
        let below = (place as usize).min(TABLE);
        let along = place - below as f32;
        self.0[below] + along * (self.0[below + 1] - self.0[below])
    }
}

/// A smooth positive function of the slice: a cubic B-spline of positive knots, whose weights add up
/// to 1, is between the least and the largest of them.
struct Bias([[f32; KNOTS]; KNOTS]);

impl Bias {
    fn new(amplitude: f32, rng: &mut impl Rng) -> Bias {
        let mut knot = || (amplitude * rng.sample::<f32, _>(StandardNormal)).exp();
        Bias(std::array::from_fn(|_| std::array::from_fn(|_| knot())))
    }

    /// The knots along x on a row, given its place among the knots along y.
    fn row(&self, along_y: (usize, [f32; 4])) -> [f32; KNOTS] {
        std::array::from_fn(|x| between(&self.0.map(|row| row[x]), along_y))
    }
}

/// The value of four knots from `first` on with their weights.
#[inline]
fn between(knots: &[f32; KNOTS], (first, [a, b, c, d]): (usize, [f32; 4])) -> f32 {
    let k = &knots[first..first + 4];
    a * k[0] + b * k[1] + c * k[2] + d * k[3]
}

/// The first of the four knots that support pixel `i` of `size`, and their weights.
fn knots(i: usize, size: usize) -> (usize, [f32; 4]) {
    let place = (KNOTS - 3) as f32 * (i as f32 + 0.5) / size as f32;
    let first = (place as usize).min(KNOTS - 4);
    let t = place - first as f32;
    let u = 1.0 - t;
    let weights = [
        u * u * u / 6.0,
        (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0,
        (3.0 * u * u * u - 6.0 * u * u + 4.0) / 6.0,
        t * t * t / 6.0,
    ];
    (first, weights)
}

#[cfg(test)]
mod tests;
