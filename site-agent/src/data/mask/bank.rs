//! The shapes of real tumours: a healthy mask that looks like one teaches the model to fill what it
//! will have to fill. A bank is put together from the shapes of the site's own cases.
//!
//! A shape is a site's data as much as the segmentation it comes from: it never leaves the site.

use rand::{Rng, RngExt};

use super::Mode;
use super::bits::Bits;
use super::morphology::{Components, filled, largest, without_small};
use crate::data::grid::{SPACING_MM_MAX, SPACING_MM_MIN};
use crate::data::volume::Volume;

/// The least volume of a tumour's component that counts, in voxels of a BraTS scan (1 mm³).
const COMPONENT_MIN: f64 = 800.0;

/// The half width of the window of ranks a shape is drawn from, relative to the bank's size.
const WINDOW: f64 = 0.05;

/// The most shapes of a bank: about 60 MB. More are thinned evenly.
pub const SHAPES_MAX: usize = 4096;

/// The most voxels of a shape along an axis.
pub const SHAPE_VOXELS_MAX: usize = 512;

/// What the bytes of a shape begin with.
const MAGIC: &[u8; 8] = b"fpshape1";

/// Bytes before a shape's voxels: magic, dims, spacing, fraction.
const HEAD_BYTES: usize = 8 + 3 * 2 + 3 * 8 + 8;

/// The bytes are not those of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no tumour shape: {0}, make the shapes of this case again")]
pub struct Damaged(&'static str);

/// One connected component of a tumour.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    spacing_mm: [f64; 3],
    fraction: f64,
    body: Bits,
}

impl Shape {
    /// The shape's volume relative to its brain's.
    pub fn fraction(&self) -> f64 {
        self.fraction
    }

    /// The edge lengths of its voxels.
    pub(crate) fn spacing_mm(&self) -> [f64; 3] {
        self.spacing_mm
    }

    /// Its voxels in their box.
    pub(crate) fn body(&self) -> &Bits {
        &self.body
    }

    /// The shape for a file beside the case: little-endian, one bit per voxel.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        // A component is at most SHAPE_VOXELS_MAX wide, see `shapes_of`.
        let dims = self.body.dims().map(|n| n as u16);
        dims.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        self.spacing_mm.iter().for_each(|mm| bytes.extend(mm.to_le_bytes()));
        bytes.extend(self.fraction.to_le_bytes());
        self.body.words().iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes
    }

    /// The shape that [`Shape::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`Damaged`] if the bytes are anything else; nothing larger than `bytes` is allocated.
    pub fn from_bytes(bytes: &[u8]) -> Result<Shape, Damaged> {
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or(Damaged("they are too few"))?;
        let body = head.strip_prefix(MAGIC).map(|head| (head, body));
        let (head, body) = body.ok_or(Damaged("they do not begin like one"))?;
        let (dims, numbers) = head.split_at(6);
        let dims =
            [0, 2, 4].map(|at: usize| usize::from(dims[at]) | usize::from(dims[at + 1]) << 8);
        if !dims.iter().all(|n| (1..=SHAPE_VOXELS_MAX).contains(n)) {
            return Err(Damaged("the shape is empty or too large"));
        }
        let mut numbers = numbers.chunks_exact(8).map(|n| f64::from_bits(word(n)));
        let mut number = || numbers.next().unwrap_or(f64::NAN);
        let spacing_mm = [number(), number(), number()];
        let fraction = number();
        if !spacing_mm.iter().all(|mm| (SPACING_MM_MIN..=SPACING_MM_MAX).contains(mm)) {
            return Err(Damaged("the voxels are not believable"));
        }
        if !(fraction > 0.0 && fraction.is_finite()) {
            return Err(Damaged("the volume is not believable"));
        }
        let words = body.chunks_exact(8).map(word).collect();
        let is_even = body.len().is_multiple_of(8);
        let body = Bits::from_words(dims, words).filter(|body| is_even && !body.is_empty());
        Ok(Shape { spacing_mm, fraction, body: body.ok_or(Damaged("the voxels do not fit"))? })
    }
}

/// Eight bytes, little-endian.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// The shapes of one case: every 26-connected component of its lesion, holes filled, that is no speck.
/// In [`Mode::Compat`] a shape is all tumour in the component's box, a corner of another one too.
pub(crate) fn shapes_of(
    brain: &Bits,
    lesion: &Bits,
    spacing_mm: [f64; 3],
    mode: Mode,
) -> Vec<Shape> {
    let brain_voxels = brain.count() as f64;
    let tumour = tumour_of(lesion, spacing_mm, mode);
    let components = Components::of(&tumour);
    (0..components.sizes().len())
        .filter_map(|component| {
            let part = components.union(|i| i == component);
            let from = if mode == Mode::Compat { &tumour } else { &part };
            let body = from.cropped(part.bounds()?);
            let fraction = body.count() as f64 / brain_voxels;
            let fits = body.dims().iter().all(|&n| n <= SHAPE_VOXELS_MAX);
            fits.then_some(Shape { spacing_mm, fraction, body })
        })
        .collect()
}

/// The brain of an image whose background is 0 or less: its largest 26-connected component, holes
/// filled, so that neither a speck outside nor a black ventricle counts wrongly.
pub(crate) fn brain_of(image: &Volume) -> Bits {
    filled(&largest(&Bits::from_fn(image.dims, |i| image.voxels[i] > 0.0)))
}

/// The lesion without its specks, holes filled: what the official masks call the tumour.
pub(crate) fn tumour_of(lesion: &Bits, spacing_mm: [f64; 3], mode: Mode) -> Bits {
    let voxels_min = match mode {
        Mode::Compat => COMPONENT_MIN,
        Mode::Corrected => COMPONENT_MIN / spacing_mm.iter().product::<f64>(),
    };
    filled(&without_small(lesion, voxels_min.ceil() as usize))
}

/// Shapes to draw from, by their size.
#[derive(Debug)]
pub struct Bank {
    /// In the order of the cases.
    shapes: Vec<Shape>,
    /// Their indices by ascending fraction.
    by_fraction: Vec<usize>,
}

impl Bank {
    /// The bank of these shapes; none if there are none. The order counts: give the cases in theirs.
    pub fn new(mut shapes: Vec<Shape>) -> Option<Bank> {
        let count = shapes.len();
        if count > SHAPES_MAX {
            let mut index = 0;
            shapes.retain(|_| {
                index += 1;
                index * SHAPES_MAX / count > (index - 1) * SHAPES_MAX / count
            });
        }
        let mut by_fraction: Vec<usize> = (0..shapes.len()).collect();
        by_fraction.sort_by(|&a, &b| shapes[a].fraction.total_cmp(&shapes[b].fraction));
        (!shapes.is_empty()).then_some(Bank { shapes, by_fraction })
    }

    /// How many shapes it holds.
    pub fn count(&self) -> usize {
        self.shapes.len()
    }

    /// A shape for a brain whose tumour has `own_fraction` of its volume: the larger the tumour, the
    /// smaller the shape, so that hidden parts of all sizes come up in brains of all kinds. Any shape
    /// for a brain without a tumour.
    pub(crate) fn pick(&self, own_fraction: f64, mode: Mode, rng: &mut impl Rng) -> &Shape {
        let count = self.shapes.len();
        match mode {
            Mode::Compat => self.official(own_fraction, rng.random()),
            Mode::Corrected if own_fraction > 0.0 => {
                let target = (count - self.rank(own_fraction)).min(count - 1);
                let half = ((WINDOW * count as f64).round() as usize).max(1);
                let window = target.saturating_sub(half)..=(target + half).min(count - 1);
                &self.shapes[self.by_fraction[rng.random_range(window)]]
            }
            Mode::Corrected => &self.shapes[rng.random_range(0..count)],
        }
    }

    /// The shape that the challenge takes for a random number in [0, 1). The rank among the sorted is
    /// taken for an index into the unsorted, so a shape's size has nothing to do with the tumour's;
    /// and the window's end is cut off, so the last shape never comes up unless it is the only one.
    pub(crate) fn official(&self, own_fraction: f64, random: f64) -> &Shape {
        let count = self.shapes.len();
        let target = (count - self.rank(own_fraction)) as f64;
        let half = WINDOW * count as f64;
        // A cast saturates at 0.
        let (from, to) = ((target - half) as usize, (target + half) as usize);
        let to = to.min(count - 1);
        &self.shapes[(from as f64 + random * (to - from) as f64) as usize]
    }

    /// How many shapes are smaller.
    fn rank(&self, own_fraction: f64) -> usize {
        let smaller = |&shape: &usize| self.shapes[shape].fraction < own_fraction;
        self.by_fraction.partition_point(smaller)
    }
}
