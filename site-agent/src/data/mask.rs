//! Where healthy tissue is hidden for the model to paint: smooth random blobs, inside the brain and
//! clear of the lesion. An own generator in the spirit of the BraTS inpainting masks, not a copy.
//!
//! It never sees an intensity beyond "brain or background", and it never loops without a bound.

mod saved;

use std::f64::consts::TAU;

use rand::{Rng, RngExt};

use super::grid::{self, bounding_box, check_geometry};
use super::volume::Volume;

/// The least distance between a healthy mask and the lesion, in millimetres.
pub const LESION_MARGIN_MM: f64 = 5.0;

/// The least part of a healthy mask that lies inside the brain.
pub const INSIDE_MIN: f64 = 0.75;

/// The diameters of training masks, drawn log-uniformly, in millimetres.
pub const TRAINING_DIAMETER_MM: (f64, f64) = (8.0, 40.0);

/// The diameters of evaluation masks, in millimetres: large enough for SSIM to mean something.
pub const EVALUATION_DIAMETER_MM: (f64, f64) = (20.0, 36.0);

/// The largest diameter relative to that of a ball of the brain's volume.
const DIAMETER_OF_BRAIN_MAX: f64 = 0.35;

/// Attempts at one diameter before it shrinks.
const ATTEMPTS_PER_SIZE: usize = 40;

/// The factor by which a mask that found no room shrinks.
const SHRINK: f64 = 0.9;

/// The diameter below which the search gives up, in millimetres.
const DIAMETER_MIN_MM: f64 = 4.0;

/// The fewest voxels a mask may have.
const VOXELS_MIN: usize = 8;

/// Waves of the field that roughens a blob's surface.
const WAVES: usize = 6;

/// The amplitude of the roughness relative to the radius.
const ROUGHNESS: f64 = 0.18;

/// The largest radius of a blob relative to half its diameter: lobes reach out, waves lift them.
const REACH: f64 = 2.0;

/// Why there is no healthy mask.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// The image's geometry is unusable.
    #[error(transparent)]
    Geometry(#[from] grid::Error),
    /// No blob fits.
    #[error("no healthy mask fits: the brain is too small, or lesion is nearly everywhere")]
    NoRoom,
}

/// One brain with its lesion: where a healthy mask may lie.
pub struct Room {
    dims: [usize; 3],
    spacing_mm: [f64; 3],
    bounds: [(usize, usize); 3],
    brain: Vec<bool>,
    near_lesion: Vec<bool>,
    diameter_max_mm: f64,
}

/// The voxels of one mask, ascending by index.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthyMask {
    /// Indices into the volume's voxels.
    pub voxels: Vec<u32>,
}

impl Room {
    /// The room that `image` (0 is background) and the voxels for which `is_lesion` leave.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if there is no brain at all, [`Error::Geometry`] if the image is unusable.
    pub fn new(image: &Volume, is_lesion: impl Fn(usize) -> bool) -> Result<Room, Error> {
        check_geometry(image)?;
        let brain: Vec<bool> = image.voxels.iter().map(|&v| v > 0.0).collect();
        let bounds = bounding_box(image.dims, |i| brain[i]).ok_or(Error::NoRoom)?;
        let voxel_mm3: f64 = image.spacing_mm.iter().product();
        let brain_mm3 = brain.iter().filter(|&&b| b).count() as f64 * voxel_mm3;
        let brain_diameter_mm = 2.0 * (brain_mm3 * 3.0 / (2.0 * TAU)).cbrt();
        Ok(Room {
            dims: image.dims,
            spacing_mm: image.spacing_mm,
            bounds,
            brain,
            near_lesion: near(image.dims, image.spacing_mm, is_lesion),
            diameter_max_mm: DIAMETER_OF_BRAIN_MAX * brain_diameter_mm,
        })
    }

    /// A mask with a diameter drawn log-uniformly from `diameter_mm`, capped by the brain's size and
    /// shrunk where it does not fit.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if nothing fits after a bounded number of attempts.
    pub fn draw(&self, diameter_mm: (f64, f64), rng: &mut impl Rng) -> Result<HealthyMask, Error> {
        let (low, high) = diameter_mm;
        let high = high.min(self.diameter_max_mm);
        let low = low.min(high);
        let mut diameter = (low.ln() + (high.ln() - low.ln()) * rng.random::<f64>()).exp();
        while diameter >= DIAMETER_MIN_MM {
            for _ in 0..ATTEMPTS_PER_SIZE {
                let Some(centre) = self.centre(rng) else { continue };
                let blob = Blob::draw(diameter / 2.0, self.spacing_mm, rng);
                if let Some(mask) = self.place(&blob, centre) {
                    return Ok(mask);
                }
            }
            diameter *= SHRINK;
        }
        Err(Error::NoRoom)
    }

    /// A random voxel of healthy brain, unless the dice miss it too often.
    fn centre(&self, rng: &mut impl Rng) -> Option<[usize; 3]> {
        (0..ATTEMPTS_PER_SIZE)
            .map(|_| self.bounds.map(|(first, last)| rng.random_range(first..=last)))
            .find(|&at| self.brain[self.index(at)] && !self.near_lesion[self.index(at)])
    }

    /// The blob with its middle at `centre`, unless it leaves the volume, comes near the lesion or
    /// lies outside the brain too much.
    fn place(&self, blob: &Blob, centre: [usize; 3]) -> Option<HealthyMask> {
        let mut ranges = [(0, 0); 3];
        for axis in 0..3 {
            let reach = (blob.radius_mm * REACH / self.spacing_mm[axis]).ceil() as usize;
            let first = centre[axis].saturating_sub(reach);
            ranges[axis] = (first, (centre[axis] + reach).min(self.dims[axis] - 1));
        }
        let offset_mm =
            |axis: usize, i: usize| (i as f64 - centre[axis] as f64) * self.spacing_mm[axis];
        let mut voxels = Vec::new();
        let mut inside = 0;
        for z in ranges[2].0..=ranges[2].1 {
            for y in ranges[1].0..=ranges[1].1 {
                for x in ranges[0].0..=ranges[0].1 {
                    if !blob.contains([offset_mm(0, x), offset_mm(1, y), offset_mm(2, z)]) {
                        continue;
                    }
                    let index = self.index([x, y, z]);
                    if self.near_lesion[index] {
                        return None;
                    }
                    inside += usize::from(self.brain[index]);
                    voxels.push(u32::try_from(index).ok()?);
                }
            }
        }
        let fits = voxels.len() >= VOXELS_MIN && inside as f64 >= INSIDE_MIN * voxels.len() as f64;
        fits.then_some(HealthyMask { voxels })
    }

    fn index(&self, [x, y, z]: [usize; 3]) -> usize {
        x + self.dims[0] * (y + self.dims[1] * z)
    }
}

/// A union of a few ellipsoids whose surface is roughened by long waves.
struct Blob {
    radius_mm: f64,
    lobes: Vec<Lobe>,
    waves: Vec<([f64; 3], f64)>,
}

struct Lobe {
    centre_mm: [f64; 3],
    /// Rows that take an offset in millimetres to the unit ball.
    to_ball: [[f64; 3]; 3],
}

impl Blob {
    fn draw(radius_mm: f64, spacing_mm: [f64; 3], rng: &mut impl Rng) -> Blob {
        let mut lobes = Vec::new();
        for lobe in 0..rng.random_range(1..=3) {
            let [a, b, c] = rotation(rng);
            let semi_mm = [0, 1, 2].map(|axis: usize| {
                // A blob thinner than a voxel would fall between slices.
                (radius_mm * rng.random_range(0.6..1.1)).max(0.6 * spacing_mm[axis])
            });
            let away = if lobe == 0 { 0.0 } else { 0.7 * radius_mm };
            lobes.push(Lobe {
                centre_mm: rotation(rng)[0].map(|part| part * away),
                to_ball: [scaled(a, semi_mm[0]), scaled(b, semi_mm[1]), scaled(c, semi_mm[2])],
            });
        }
        let waves = (0..WAVES)
            .map(|_| {
                let turns = rng.random_range(0.4..1.0) * TAU / (2.0 * radius_mm);
                (rotation(rng)[0].map(|part| part * turns), rng.random_range(0.0..TAU))
            })
            .collect();
        Blob { radius_mm, lobes, waves }
    }

    fn contains(&self, at_mm: [f64; 3]) -> bool {
        let radius = self.lobes.iter().map(|lobe| lobe.radius(at_mm)).fold(f64::MAX, f64::min);
        // The waves add up to ROUGHNESS at most, so most voxels need no sine.
        if (radius - 1.0).abs() >= ROUGHNESS {
            return radius < 1.0;
        }
        let height: f64 = self.waves.iter().map(|(k, phase)| (dot(*k, at_mm) + phase).sin()).sum();
        radius + ROUGHNESS * height / WAVES as f64 <= 1.0
    }
}

impl Lobe {
    fn radius(&self, at_mm: [f64; 3]) -> f64 {
        let offset = [0, 1, 2].map(|axis| at_mm[axis] - self.centre_mm[axis]);
        self.to_ball.iter().map(|&row| dot(row, offset).powi(2)).sum::<f64>().sqrt()
    }
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn scaled(row: [f64; 3], by: f64) -> [f64; 3] {
    row.map(|part| part / by)
}

/// A uniformly random rotation from a random unit quaternion (Shoemake 1992, Graphics Gems III,
/// p. 124): u1, u2, u3 uniform, q = (√(1-u1) sin 2πu2, √(1-u1) cos 2πu2, √u1 sin 2πu3, √u1 cos 2πu3).
fn rotation(rng: &mut impl Rng) -> [[f64; 3]; 3] {
    let (u1, u2, u3) = (rng.random::<f64>(), rng.random::<f64>(), rng.random::<f64>());
    let (s2, c2) = (TAU * u2).sin_cos();
    let (s3, c3) = (TAU * u3).sin_cos();
    let (low, high) = ((1.0 - u1).sqrt(), u1.sqrt());
    let (x, y, z, w) = (low * s2, low * c2, high * s3, high * c3);
    [
        [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - z * w), 2.0 * (x * z + y * w)],
        [2.0 * (x * y + z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - x * w)],
        [2.0 * (x * z - y * w), 2.0 * (y * z + x * w), 1.0 - 2.0 * (x * x + y * y)],
    ]
}

/// Which voxels are lesion or within [`LESION_MARGIN_MM`] of it, centre to centre.
fn near(dims: [usize; 3], spacing_mm: [f64; 3], is_lesion: impl Fn(usize) -> bool) -> Vec<bool> {
    let [nx, ny, nz] = dims;
    let mut near: Vec<bool> = (0..nx * ny * nz).map(&is_lesion).collect();
    let ball = ball(spacing_mm);
    for z in 0..nz {
        for y in 0..ny {
            for x in 0..nx {
                let index = x + nx * (y + ny * z);
                // A ball round an inner voxel covers nothing that those round the surface do not.
                if !is_lesion(index) || !on_surface([x, y, z], dims, &is_lesion) {
                    continue;
                }
                for [dx, dy, dz] in &ball {
                    let at = (
                        x.checked_add_signed(*dx).filter(|&x| x < nx),
                        y.checked_add_signed(*dy).filter(|&y| y < ny),
                        z.checked_add_signed(*dz).filter(|&z| z < nz),
                    );
                    if let (Some(x), Some(y), Some(z)) = at {
                        near[x + nx * (y + ny * z)] = true;
                    }
                }
            }
        }
    }
    near
}

/// The offsets in voxels within the margin.
fn ball(spacing_mm: [f64; 3]) -> Vec<[isize; 3]> {
    let [rx, ry, rz] = spacing_mm.map(|mm| (LESION_MARGIN_MM / mm).floor() as isize);
    let mut offsets = Vec::new();
    for z in -rz..=rz {
        for y in -ry..=ry {
            for x in -rx..=rx {
                let mm =
                    [x as f64 * spacing_mm[0], y as f64 * spacing_mm[1], z as f64 * spacing_mm[2]];
                if dot(mm, mm) <= LESION_MARGIN_MM * LESION_MARGIN_MM {
                    offsets.push([x, y, z]);
                }
            }
        }
    }
    offsets
}

/// Whether one of a lesion voxel's six neighbours is no lesion.
fn on_surface(
    [x, y, z]: [usize; 3],
    [nx, ny, nz]: [usize; 3],
    is_lesion: impl Fn(usize) -> bool,
) -> bool {
    let index = x + nx * (y + ny * z);
    let inner = x > 0 && y > 0 && z > 0 && x + 1 < nx && y + 1 < ny && z + 1 < nz;
    !inner
        || [1, nx, nx * ny].iter().any(|step| !is_lesion(index - step) || !is_lesion(index + step))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        DIAMETER_OF_BRAIN_MAX, EVALUATION_DIAMETER_MM, Error, INSIDE_MIN, LESION_MARGIN_MM, Room,
        TRAINING_DIAMETER_MM,
    };
    use crate::data::stream::stream;
    use crate::data::volume::Volume;

    /// A ball of brain in the middle of the volume.
    fn brain(dims: [usize; 3], spacing_mm: [f64; 3], radius_mm: f64) -> Volume {
        let mut voxels = Vec::new();
        for z in 0..dims[2] {
            for y in 0..dims[1] {
                for x in 0..dims[0] {
                    let mm = distance_mm([x, y, z], dims.map(|n| n / 2), spacing_mm);
                    voxels.push(if mm <= radius_mm { 1.0 } else { 0.0 });
                }
            }
        }
        Volume { dims, spacing_mm, origin_mm: [0.0; 3], voxels }
    }

    fn distance_mm(a: [usize; 3], b: [usize; 3], spacing_mm: [f64; 3]) -> f64 {
        let part = |i: usize| ((a[i] as f64 - b[i] as f64) * spacing_mm[i]).powi(2);
        (part(0) + part(1) + part(2)).sqrt()
    }

    fn at(index: usize, dims: [usize; 3]) -> [usize; 3] {
        [index % dims[0], index / dims[0] % dims[1], index / dims[0] / dims[1]]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_mask_lies_in_the_brain_and_keeps_its_distance_from_the_lesion(
            seed in any::<u64>(), thickness in 1.5f64..4.0, lesion_at in 8usize..30,
        ) {
            let (dims, spacing_mm) = ([40, 36, 24], [2.0, 2.0, thickness]);
            let image = brain(dims, spacing_mm, 32.0);
            let lesion: Vec<usize> = (0..image.voxels.len())
                .filter(|&i| {
                    distance_mm(at(i, dims), [lesion_at, 18, 12], spacing_mm) < 9.0
                })
                .collect();
            let is_lesion = |i: usize| lesion.binary_search(&i).is_ok();
            let room = Room::new(&image, is_lesion).unwrap();
            let mut rng = stream("test", &[&seed.to_le_bytes()]);
            let mask = room.draw(TRAINING_DIAMETER_MM, &mut rng).unwrap();
            let inside = mask.voxels.iter().filter(|&&v| image.voxels[v as usize] > 0.0).count();
            prop_assert!(inside as f64 >= INSIDE_MIN * mask.voxels.len() as f64);
            prop_assert!(mask.voxels.is_sorted());
            for &voxel in &mask.voxels {
                for &other in &lesion {
                    let mm = distance_mm(at(voxel as usize, dims), at(other, dims), spacing_mm);
                    prop_assert!(mm > LESION_MARGIN_MM, "{} mm", mm);
                }
            }
            let mut again = stream("test", &[&seed.to_le_bytes()]);
            prop_assert_eq!(room.draw(TRAINING_DIAMETER_MM, &mut again).unwrap(), mask);
        }
    }

    #[test]
    fn masks_have_the_sizes_asked_for_and_differ() {
        let image = brain([96, 96, 64], [2.0; 3], 66.0);
        let room = Room::new(&image, |_| false).unwrap();
        let mut rng = stream("test", &[b"sizes"]);
        let mut equivalents_mm: Vec<f64> = (0..60)
            .map(|_| room.draw(EVALUATION_DIAMETER_MM, &mut rng).unwrap().voxels.len() as f64)
            .map(|voxels| 2.0 * (voxels * 8.0 * 3.0 / (4.0 * std::f64::consts::PI)).cbrt())
            .collect();
        equivalents_mm.sort_by(f64::total_cmp);
        let (smallest, median, largest) =
            (equivalents_mm[0], equivalents_mm[30], equivalents_mm[59]);
        assert!(smallest > 10.0 && (18.0..40.0).contains(&median), "{smallest} {median}");
        assert!(largest < 60.0 && largest > 1.3 * smallest, "{smallest} {largest}");
    }

    #[test]
    fn a_small_brain_gets_a_small_mask() {
        let image = brain([40, 40, 40], [1.0; 3], 15.0);
        let room = Room::new(&image, |_| false).unwrap();
        assert!((room.diameter_max_mm - DIAMETER_OF_BRAIN_MAX * 30.0).abs() < 0.2);
        let mask = room.draw(TRAINING_DIAMETER_MM, &mut stream("test", &[])).unwrap();
        assert!(mask.voxels.len() < 14_000 / 4, "{}", mask.voxels.len());
    }

    #[test]
    fn where_nothing_fits_the_search_ends() {
        let image = brain([30, 30, 30], [1.0; 3], 12.0);
        let everywhere = Room::new(&image, |_| true).unwrap();
        let mut rng = stream("test", &[]);
        assert_eq!(everywhere.draw(TRAINING_DIAMETER_MM, &mut rng), Err(Error::NoRoom));
        let empty = image.with_voxels(vec![0.0; image.voxels.len()]);
        assert!(matches!(Room::new(&empty, |_| false), Err(Error::NoRoom)));
        // The balls round a lesion would fill the memory.
        let fine = Volume { spacing_mm: [1e-9; 3], ..image };
        assert!(matches!(Room::new(&fine, |_| true), Err(Error::Geometry(_))));
    }
}
