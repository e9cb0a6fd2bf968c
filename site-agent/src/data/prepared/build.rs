//! Makes the block of bytes of one case from its voxels.

use super::{Header, LESION_CODES, LesionHeader, MODES, ScanHeader, Section, Storage};
use crate::data::compose::code;
use crate::data::duplicates;
use crate::data::example::Region;
use crate::data::grid::{self, bounding_box, check_geometry};
use crate::data::mask::Room;
use crate::data::normalise::{self, Window};
use crate::data::prepared::tails::Tails;
use crate::data::scan::CONTRASTS;
use crate::data::volume::Volume;

/// A healthy mask as large as a large tumour: the tails serve for it. A larger one is rare, and its
/// window comes from every voxel.
const MASK_MM3: f64 = 200_000.0;

/// Why a case cannot be prepared. No variant names a path or a patient.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// There is no scan, or one twice, or one of an unknown contrast.
    #[error("contrasts {0:?} are not one to {CONTRASTS} different ones")]
    Contrasts(Vec<usize>),
    /// Two inputs do not belong together.
    #[error("the {what} has {found} voxels where the first image has {expected}")]
    Shape {
        /// Which input.
        what: &'static str,
        /// Voxels of the first image.
        expected: usize,
        /// Voxels of the other.
        found: usize,
    },
    /// A lesion label is not a lesion.
    #[error("the lesion map holds {0:?}, which is no lesion")]
    Label(Region),
    /// There is no usable field of view.
    #[error(transparent)]
    Grid(#[from] grid::Error),
    /// There is no usable window of intensities.
    #[error(transparent)]
    Window(#[from] normalise::Error),
}

/// One contrast of a case.
#[derive(Clone, Copy)]
pub struct Scan<'a> {
    /// The contrast's index: 0 t1n, 1 t1c, 2 t2w, 3 t2f.
    pub contrast: usize,
    /// The scan, background 0 (negative voxels count as 0).
    pub image: &'a Volume,
}

/// The block of a case: its scans, all on one grid, and per voxel the lesion's component
/// ([`Region::Mixed`] for a lesion of no known one) where there is a segmentation.
///
/// # Errors
/// [`Error`] if the inputs do not fit together or a scan has no brain or no contrast.
pub fn build(scans: &[Scan<'_>], lesion: Option<&[Option<Region>]>) -> Result<Vec<u8>, Error> {
    check(scans, lesion)?;
    let dims = scans[0].image.dims;
    let is_inside = |i: usize| {
        scans.iter().any(|scan| scan.image.voxels[i] > 0.0)
            || lesion.is_some_and(|lesion| lesion[i].is_some())
    };
    let crop = Crop { dims, bounds: bounding_box(dims, is_inside).ok_or(grid::Error::NoBrain)? };
    let codes = lesion.map(|lesion| crop.take(lesion, |l| l.map_or(0, code)));
    let lesion_voxels = codes.as_ref().map_or(0, |c| c.iter().filter(|&&c| c != 0).count());
    let mut sections = Vec::new();
    let spacing_mm = scans[0].image.spacing_mm;
    let hidden_max = lesion_voxels + (MASK_MM3 / spacing_mm.iter().product::<f64>()) as usize;
    let mut headers = Vec::new();
    for scan in scans {
        headers.push(scan_header(scan, &crop, codes.as_deref(), hidden_max, &mut sections)?);
    }
    let room = room(scans, &crop, codes.as_deref());
    let mut shapes_of = |mode| -> Vec<Section> {
        let shapes = room.iter().flat_map(|room| room.shapes(mode));
        shapes.map(|shape| add(&mut sections, &shape.to_bytes())).collect()
    };
    let shapes = MODES.map(&mut shapes_of);
    let header = Header {
        shapes,
        dims: crop.size(),
        spacing_mm: spacing_mm.map(f64::to_bits),
        voxels: dims.iter().product(),
        scans: headers,
        room: room.map(|room| add(&mut sections, &room.to_bytes())),
        lesion: codes.and_then(|codes| lesion_header(&codes, &crop, &mut sections)),
    };
    // A header of numbers is always JSON; were it not, the block would not open.
    let header = serde_json::to_vec(&header).unwrap_or_default();
    let mut block = Vec::with_capacity(8 + header.len() + sections.len());
    block.extend_from_slice(&(header.len() as u64).to_le_bytes());
    block.extend_from_slice(&header);
    block.extend_from_slice(&sections);
    Ok(block)
}

fn check(scans: &[Scan<'_>], lesion: Option<&[Option<Region>]>) -> Result<(), Error> {
    let contrasts: Vec<usize> = scans.iter().map(|scan| scan.contrast).collect();
    let different = contrasts.iter().enumerate().all(|(i, c)| !contrasts[..i].contains(c));
    if contrasts.is_empty() || !different || contrasts.iter().any(|&c| c >= CONTRASTS) {
        return Err(Error::Contrasts(contrasts));
    }
    let expected = scans[0].image.voxels.len();
    for scan in scans {
        check_geometry(scan.image)?;
        let found = scan.image.voxels.len();
        if found != expected || scan.image.dims != scans[0].image.dims {
            return Err(Error::Shape { what: "image of another contrast", expected, found });
        }
        if scan.image.voxels.iter().any(|voxel| !voxel.is_finite()) {
            return Err(normalise::Error::NotFinite.into());
        }
        if scan.image.voxels.iter().all(|&voxel| voxel <= 0.0) {
            return Err(grid::Error::NoBrain.into());
        }
    }
    let Some(lesion) = lesion else { return Ok(()) };
    if lesion.len() != expected {
        return Err(Error::Shape { what: "lesion map", expected, found: lesion.len() });
    }
    let strange = |region: &Region| matches!(region, Region::Healthy | Region::Box);
    lesion.iter().flatten().copied().find(strange).map_or(Ok(()), |r| Err(Error::Label(r)))
}

/// The box that holds every voxel of brain and lesion.
struct Crop {
    dims: [usize; 3],
    bounds: [(usize, usize); 3],
}

impl Crop {
    fn size(&self) -> [usize; 3] {
        self.bounds.map(|(first, last)| last - first + 1)
    }

    /// What is inside, x fastest.
    fn take<T, U>(&self, voxels: &[T], of: impl Fn(&T) -> U) -> Vec<U> {
        let [x, y, z] = self.bounds;
        let mut taken = Vec::with_capacity(self.size().iter().product());
        for z in z.0..=z.1 {
            for y in y.0..=y.1 {
                let line = self.dims[0] * (y + self.dims[1] * z);
                taken.extend(voxels[line + x.0..=line + x.1].iter().map(&of));
            }
        }
        taken
    }
}

fn scan_header(
    scan: &Scan<'_>,
    crop: &Crop,
    codes: Option<&[u8]>,
    hidden_max: usize,
    sections: &mut Vec<u8>,
) -> Result<ScanHeader, Error> {
    let inside = crop.take(&scan.image.voxels, |&v| if v > 0.0 { v } else { 0.0 });
    let dims = crop.size();
    let brain = bounding_box(dims, |i| inside[i] > 0.0).ok_or(grid::Error::NoBrain)?;
    let positive: Vec<f32> = inside.iter().copied().filter(|&v| v > 0.0).collect();
    let count = positive.len();
    let storage = storage(&inside);
    // Whole numbers are few different ones, so all of them are kept.
    let hidden_max = if storage == Storage::F32 { hidden_max } else { usize::MAX };
    let tails = Tails::of(positive, scan.image.voxels.len(), hidden_max);
    // A scan without a window teaches nothing, however it is masked.
    match tails.window(0, |_| 0, &[]) {
        Some(window) => window?,
        None => Window::of(scan.image.voxels.iter().copied())?,
    };
    let (_, _, values, counts) = tails.parts();
    let mut tail: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tail.extend(counts.iter().flat_map(|c| c.to_le_bytes()));
    let mut lesion = [0; LESION_CODES.len()];
    for (code, positive) in LESION_CODES.iter().zip(&mut lesion) {
        let coded = codes.unwrap_or_default().iter().zip(&inside);
        let hidden = coded.filter(|&(c, &v)| c == code && v > 0.0).map(|(_, &v)| v);
        let hidden: Vec<f32> = hidden.collect();
        *positive = hidden.len();
        tail.extend(tails.counted(hidden).iter().flat_map(|c| c.to_le_bytes()));
    }
    let areas = inside
        .chunks_exact(dims[0] * dims[1])
        .map(|slice| slice.iter().filter(|&&v| v > 0.0).count() as u32)
        .collect();
    let bytes: Vec<u8> = match storage {
        Storage::U8 => inside.iter().map(|&v| v as u8).collect(),
        Storage::U16 => inside.iter().flat_map(|&v| (v as u16).to_le_bytes()).collect(),
        Storage::F32 => inside.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    Ok(ScanHeader {
        contrast: scan.contrast,
        digest: duplicates::digest(scan.image).into(),
        storage,
        intensities: add(sections, &bytes),
        brain,
        areas,
        positive: count,
        lesion,
        tail: add(sections, &tail),
    })
}

fn storage(voxels: &[f32]) -> Storage {
    // A cast to an integer and back changes what the integer cannot hold.
    let exact = |max: f32| voxels.iter().all(|&v| v <= max && f32::from(v as u16) == v);
    if exact(f32::from(u8::MAX)) {
        Storage::U8
    } else if exact(f32::from(u16::MAX)) {
        Storage::U16
    } else {
        Storage::F32
    }
}

/// Healthy masks lie where every contrast has brain, so that one mask serves them all.
fn room(scans: &[Scan<'_>], crop: &Crop, codes: Option<&[u8]>) -> Option<Room> {
    let mut voxels = vec![1.0; crop.size().iter().product()];
    for scan in scans {
        let inside = crop.take(&scan.image.voxels, |&v| v > 0.0);
        for (voxel, is_brain) in voxels.iter_mut().zip(inside) {
            if !is_brain {
                *voxel = 0.0;
            }
        }
    }
    let image = scans[0].image;
    let common = Volume {
        dims: crop.size(),
        spacing_mm: image.spacing_mm,
        origin_mm: image.origin_mm,
        voxels,
    };
    Room::new(&common, |i| codes.is_some_and(|codes| codes[i] != 0)).ok()
}

fn lesion_header(codes: &[u8], crop: &Crop, sections: &mut Vec<u8>) -> Option<LesionHeader> {
    let inner = Crop { dims: crop.size(), bounds: bounding_box(crop.size(), |i| codes[i] != 0)? };
    Some(LesionHeader {
        first: inner.bounds.map(|(first, _)| first),
        dims: inner.size(),
        codes: add(sections, &inner.take(codes, |&c| c)),
        has_mixed: codes.contains(&code(Region::Mixed)),
    })
}

fn add(sections: &mut Vec<u8>, bytes: &[u8]) -> Section {
    let section = Section { offset: sections.len(), bytes: bytes.len() };
    sections.extend_from_slice(bytes);
    section
}
