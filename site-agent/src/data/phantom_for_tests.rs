//! A quick synthetic head for the tests of this folder: an ellipsoid of textured brain and a tumour
//! brighter than all of it. It is no anatomy; see `phantom` for one.

use super::example::Region;
use super::volume::Volume;

const DIMS: [usize; 3] = [60, 72, 40];

const SPACING_MM: [f64; 3] = [2.4, 2.4, 3.0];

/// Brain between 200 and 800, background 0.
pub(crate) fn brain() -> Volume {
    let mut voxels = Vec::new();
    for z in 0..DIMS[2] {
        for y in 0..DIMS[1] {
            for x in 0..DIMS[0] {
                let [u, v, w] = unit([x, y, z]);
                let texture = (u * 9.0).sin() * (v * 7.0).cos() + (w * 5.0).sin() * (u * v);
                let inside = u * u + v * v + w * w <= 1.0;
                voxels.push(if inside { (500.0 + 150.0 * texture) as f32 } else { 0.0 });
            }
        }
    }
    for (index, region) in components().into_iter().enumerate() {
        if region.is_some() {
            voxels[index] = 2000.0;
        }
    }
    Volume { dims: DIMS, spacing_mm: SPACING_MM, origin_mm: [0.0; 3], voxels }
}

/// The tumour of [`brain`]: necrosis in an enhancing shell in oedema.
pub(crate) fn tumour(brain: &Volume) -> Vec<Option<Region>> {
    let components = components();
    assert_eq!(components.len(), brain.voxels.len());
    components
}

fn components() -> Vec<Option<Region>> {
    let mut regions = Vec::new();
    for z in 0..DIMS[2] {
        for y in 0..DIMS[1] {
            for x in 0..DIMS[0] {
                let mm =
                    |i: usize, at: usize, axis: usize| (i as f64 - at as f64) * SPACING_MM[axis];
                let radius = mm(x, 20, 0).hypot(mm(y, 44, 1)).hypot(mm(z, 20, 2));
                regions.push(match radius {
                    r if r < 10.0 => Some(Region::Necrosis),
                    r if r < 16.0 => Some(Region::Enhancing),
                    r if r < 24.0 => Some(Region::Oedema),
                    _ => None,
                });
            }
        }
    }
    regions
}

/// The position relative to the brain's half axes.
fn unit(at: [usize; 3]) -> [f64; 3] {
    [0, 1, 2].map(|a: usize| (2.0 * at[a] as f64 / (DIMS[a] - 1) as f64 - 1.0) / 0.88)
}
