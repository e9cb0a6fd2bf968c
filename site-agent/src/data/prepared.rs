//! One case as planning and drawing need it: its scans cropped to the brain, its lesion, where healthy
//! masks may lie, and what the windows of voided volumes follow from. All in one block of bytes that
//! can be kept on disk and mapped; nothing in it says whose case it is.
//!
//! It depends on the case's voxels alone: not on a round, a seed or a model's image size.

mod build;
pub mod tails;

use serde::{Deserialize, Serialize};

pub use build::{Error, Scan, build};

use super::duplicates::Digests;
use super::layout::Contrast;
use super::mask::bank::Shape;
use super::mask::{Mode, Room};
use super::normalise;
use super::scan::CONTRASTS;
use tails::Tails;

/// The longest header that is believed.
const HEADER_BYTES_MAX: usize = 4 << 20;

/// The codes a voxel of a lesion may have: necrosis, oedema, enhancing, mixed.
const LESION_CODES: [u8; 4] = [2, 3, 4, 5];

/// Shapes of a tumour depend on what they are for.
const MODES: [Mode; 2] = [Mode::Corrected, Mode::Compat];

/// The most voxels of a crop that are believed; what is read from files is bounded more tightly.
const VOXELS_MAX: usize = 1 << 31;

/// Bytes of one case, wherever they lie.
pub type Block = Box<dyn std::ops::Deref<Target = [u8]> + Send + Sync>;

/// A case ready to be planned.
pub struct Prepared {
    block: Block,
    header: Header,
    /// Where the sections begin.
    base: usize,
}

/// A block that is none of this version.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("the prepared case is damaged or of another version: {0}")]
pub struct Damaged(&'static str);

/// What the block holds and where, in bytes from the first section.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// Voxels of the crop along x, y and z.
    dims: [usize; 3],
    /// The bits of the voxel's edge lengths: a decimal text may be off by the last bit.
    spacing_mm: [u64; 3],
    /// Voxels of the whole volume.
    voxels: usize,
    scans: Vec<ScanHeader>,
    lesion: Option<LesionHeader>,
    room: Option<Section>,
    /// The shapes of its tumour, for each of [`MODES`].
    shapes: [Vec<Section>; MODES.len()],
}

#[derive(Debug, Serialize, Deserialize)]
struct ScanHeader {
    contrast: usize,
    /// BLAKE3 of the whole scan, see [`super::duplicates`].
    digest: [u8; 32],
    storage: Storage,
    intensities: Section,
    /// The first and last voxel of brain along each axis.
    brain: [(usize, usize); 3],
    /// Voxels of brain in every axial slice.
    areas: Vec<u32>,
    positive: usize,
    /// Voxels above 0 of each of [`LESION_CODES`].
    lesion: [usize; LESION_CODES.len()],
    /// The values of the tails, their counts, and for each of [`LESION_CODES`] how many of its voxels
    /// are at least as bright.
    tail: Section,
}

#[derive(Debug, Serialize, Deserialize)]
struct LesionHeader {
    first: [usize; 3],
    dims: [usize; 3],
    codes: Section,
    has_mixed: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Section {
    offset: usize,
    bytes: usize,
}

/// How intensities are stored: the smallest type that holds each exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Storage {
    U8,
    U16,
    F32,
}

impl Storage {
    fn bytes(self) -> usize {
        match self {
            Storage::U8 => 1,
            Storage::U16 => 2,
            Storage::F32 => 4,
        }
    }
}

/// The lesion of a case in a box of its own. A code is 0, or [`super::compose::code`] of a region.
#[derive(Clone, Copy)]
pub(crate) struct Lesion<'a> {
    /// The box's first voxel in the crop.
    pub(crate) first: [usize; 3],
    /// Its size.
    pub(crate) dims: [usize; 3],
    /// One code per voxel of the box, x fastest.
    pub(crate) codes: &'a [u8],
    /// Whether a part of it is of no known component.
    pub(crate) has_mixed: bool,
}

/// The lesion's voxels above 0 in one scan.
pub(crate) struct LesionTails {
    positive: [usize; LESION_CODES.len()],
    gone: [Vec<u32>; LESION_CODES.len()],
}

impl LesionTails {
    /// How many there are of the codes that are counted.
    pub(crate) fn positive(&self, is_counted: impl Fn(u8) -> bool) -> usize {
        let codes = LESION_CODES.iter().zip(&self.positive);
        codes.filter(|&(&code, _)| is_counted(code)).map(|(_, &n)| n).sum()
    }

    /// How many of them are at least as bright as value `index` of the tails.
    pub(crate) fn gone(&self, index: usize, is_counted: impl Fn(u8) -> bool) -> usize {
        let codes = LESION_CODES.iter().zip(&self.gone).filter(|&(&code, _)| is_counted(code));
        codes.map(|(_, gone)| gone.get(index).map_or(0, |&n| n as usize)).sum()
    }
}

impl Prepared {
    /// Reads a block made by [`build()`].
    ///
    /// # Errors
    /// [`Damaged`] if it is none.
    pub fn open(block: Block) -> Result<Prepared, Damaged> {
        let (length, rest) = block.split_at_checked(8).ok_or(Damaged("no header"))?;
        let length = length.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > HEADER_BYTES_MAX {
            return Err(Damaged("header too long"));
        }
        let header = rest.get(..length).ok_or(Damaged("header cut off"))?;
        let header = serde_json::from_slice(header).map_err(|_| Damaged("header unreadable"))?;
        let prepared = Prepared { base: 8 + length, header, block };
        prepared.check()?;
        Ok(prepared)
    }

    /// Whether every section is there and as long as its content; after this nothing can miss.
    fn check(&self) -> Result<(), Damaged> {
        let Header { dims, scans, lesion, room, voxels, .. } = &self.header;
        let count = dims.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
        let count = count.filter(|&n| (1..=VOXELS_MAX).contains(&n) && n <= *voxels);
        let count = count.ok_or(Damaged("impossible size"))?;
        if scans.is_empty() || scans.len() > CONTRASTS {
            return Err(Damaged("no scans"));
        }
        for scan in scans {
            let fits = scan.contrast < CONTRASTS
                && scan.areas.len() == dims[2]
                && scan.brain.iter().zip(dims).all(|(&(a, b), &n)| a <= b && b < n)
                && scan.intensities.bytes == count * scan.storage.bytes();
            if !fits || self.section(scan.intensities).is_none() {
                return Err(Damaged("a scan does not fit"));
            }
        }
        if let Some(lesion) = lesion {
            let inside = (0..3).all(|a| lesion.first[a].saturating_add(lesion.dims[a]) <= dims[a]);
            let codes = self.section(lesion.codes).ok_or(Damaged("no lesion"))?;
            let known = codes.iter().all(|&c| c == 0 || LESION_CODES.contains(&c));
            if !inside || codes.len() != lesion.dims.iter().product::<usize>() || !known {
                return Err(Damaged("the lesion does not fit"));
            }
        }
        match room {
            Some(room) if self.section(*room).is_none() => Err(Damaged("no room")),
            _ => Ok(()),
        }
    }

    fn section(&self, section: Section) -> Option<&[u8]> {
        let start = self.base.checked_add(section.offset)?;
        self.block.get(start..start.checked_add(section.bytes)?)
    }

    /// Bytes of the block.
    pub fn bytes(&self) -> usize {
        self.block.len()
    }

    /// Voxels of the crop along x, y and z.
    pub(crate) fn dims(&self) -> [usize; 3] {
        self.header.dims
    }

    /// Edge lengths of a voxel along x, y and z.
    pub(crate) fn spacing_mm(&self) -> [f64; 3] {
        self.header.spacing_mm.map(f64::from_bits)
    }

    /// The contrasts there are, by index.
    pub fn contrasts(&self) -> impl Iterator<Item = usize> + '_ {
        self.header.scans.iter().map(|scan| scan.contrast)
    }

    /// The digests of its scans, to find one that another case has too.
    pub fn digests(&self) -> Digests {
        let scans = self.header.scans.iter();
        let named =
            scans.filter_map(|scan| Some((*Contrast::ALL.get(scan.contrast)?, scan.digest)));
        named.map(|(contrast, digest)| (contrast, digest.into())).collect()
    }

    /// One of its scans.
    pub(crate) fn scan(&self, contrast: usize) -> Option<PreparedScan<'_>> {
        let header = self.header.scans.iter().find(|scan| scan.contrast == contrast)?;
        let intensities = self.section(header.intensities)?;
        Some(PreparedScan { case: self, header, intensities })
    }

    /// The lesion, if there is one.
    pub(crate) fn lesion(&self) -> Option<Lesion<'_>> {
        let LesionHeader { first, dims, codes, has_mixed } = self.header.lesion.as_ref()?;
        let codes = self.section(*codes)?;
        Some(Lesion { first: *first, dims: *dims, codes, has_mixed: *has_mixed })
    }

    /// The shapes of its tumour that masks of `mode` may take.
    pub(crate) fn shapes(&self, mode: Mode) -> Vec<Shape> {
        let of_mode = MODES.iter().zip(&self.header.shapes).filter(|(m, _)| **m == mode);
        let sections = of_mode.flat_map(|(_, sections)| sections);
        sections.filter_map(|&s| Shape::from_bytes(self.section(s)?).ok()).collect()
    }

    /// Where healthy masks may lie; none where there is no room.
    pub(crate) fn room(&self) -> Option<Room> {
        let room = Room::from_bytes(self.section(self.header.room?)?)?;
        (room.dims() == self.dims()).then_some(room)
    }
}

/// One contrast of a prepared case.
#[derive(Clone, Copy)]
pub(crate) struct PreparedScan<'a> {
    case: &'a Prepared,
    header: &'a ScanHeader,
    intensities: &'a [u8],
}

impl PreparedScan<'_> {
    /// The contrast's index.
    pub(crate) fn contrast(&self) -> usize {
        self.header.contrast
    }

    /// The first and last voxel of brain along each axis of the crop.
    pub(crate) fn brain(&self) -> [(usize, usize); 3] {
        self.header.brain
    }

    /// Voxels of brain in every axial slice.
    pub(crate) fn areas(&self) -> &[u32] {
        &self.header.areas
    }

    /// Appends the intensities of `count` voxels from `start` on. What is not there is background.
    pub(crate) fn read(&self, start: usize, count: usize, into: &mut Vec<f32>) {
        let width = self.header.storage.bytes();
        let bytes = self.intensities.get(start * width..(start + count) * width).unwrap_or(&[]);
        match self.header.storage {
            Storage::U8 => into.extend(bytes.iter().map(|&b| f32::from(b))),
            Storage::U16 => into
                .extend(bytes.as_chunks::<2>().0.iter().map(|&b| f32::from(u16::from_le_bytes(b)))),
            Storage::F32 => {
                into.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)));
            }
        }
    }

    /// The intensity of one voxel.
    pub(crate) fn at(&self, voxel: usize) -> f32 {
        let width = self.header.storage.bytes();
        match self.intensities.get(voxel * width..(voxel + 1) * width) {
            Some(&[a]) => f32::from(a),
            Some(&[a, b]) => f32::from(u16::from_le_bytes([a, b])),
            Some(&[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            _ => 0.0,
        }
    }

    /// Its brightest voxels, and how the lesion's are among them.
    pub(crate) fn tails(&self) -> Option<(Tails, LesionTails)> {
        let words = self.case.section(self.header.tail)?.as_chunks::<4>().0;
        let count = words.len() / (2 + LESION_CODES.len());
        let column = |i: usize| words.iter().skip(i * count).take(count);
        let values = column(0).map(|&b| f32::from_le_bytes(b)).collect();
        let counts = |i: usize| column(i).map(|&b| u32::from_le_bytes(b)).collect();
        let Header { voxels, .. } = self.case.header;
        let tails = Tails::from_parts(voxels, self.header.positive, values, counts(1))?;
        let gone = std::array::from_fn(|code| counts(2 + code));
        Some((tails, LesionTails { positive: self.header.lesion, gone }))
    }

    /// The window with the voxels for which `is_hidden` holds set to 0, from every voxel of the
    /// volume: slow, for what [`Tails`] cannot tell.
    pub(crate) fn window_of_all(
        &self,
        is_hidden: impl Fn(usize) -> bool,
    ) -> Result<normalise::Window, normalise::Error> {
        let Header { dims, voxels, .. } = &self.case.header;
        let count: usize = dims.iter().product();
        let mut all = Vec::with_capacity(count);
        self.read(0, count, &mut all);
        let voided = all.iter().enumerate().map(|(i, &v)| if is_hidden(i) { 0.0 } else { v });
        normalise::Window::of(voided.chain(std::iter::repeat_n(0.0, voxels - count)))
    }
}

#[cfg(test)]
mod tests;
