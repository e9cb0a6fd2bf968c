//! What `tests/reference/masks.py` tells of the masks of the challenge's own program, and the cohort of
//! ellipsoids that it tells it of. For tests alone.

use std::sync::LazyLock;

use serde::Deserialize;

use super::bank::Bank;
use super::bits::Bits;
use super::{Mode, Room};
use crate::data::volume::Volume;

#[derive(Deserialize)]
pub(super) struct Reference {
    pub(super) dims: [usize; 3],
    cases: Vec<CaseBodies>,
    pub(super) facts: Vec<Facts>,
    pub(super) table: Vec<Row>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) draws: usize,
    pub(super) levels: Vec<f64>,
    pub(super) quantiles: Quantiles,
    pub(super) correlation: f64,
    pub(super) scipy: Scipy,
}

/// What the program makes of a case before it draws.
#[derive(Deserialize)]
pub(super) struct Facts {
    pub(super) own_fraction: f64,
    pub(super) places: usize,
    /// Voxels of its mask-unhealthy.
    pub(super) unhealthy: usize,
}

/// A row of the program's table of shapes.
#[derive(Deserialize)]
pub(super) struct Row {
    pub(super) case: usize,
    pub(super) voxels: usize,
    pub(super) dims: [usize; 3],
}

/// One attempt of the program: what it drew, what came of it.
#[derive(Deserialize)]
pub(super) struct Attempt {
    pub(super) case: usize,
    pub(super) at: [usize; 3],
    pub(super) random: f64,
    pub(super) row: usize,
    pub(super) is_mirrored: [bool; 3],
    pub(super) degrees: [f64; 2],
    pub(super) dims: [usize; 3],
    /// Voxels of the turned shape.
    pub(super) voxels: usize,
    /// 0 accepted, 1 and 2 out of the volume, 3 on the tumour, 4 too little brain, 5 too near.
    pub(super) verdict: u8,
}

/// Ellipsoids: middle and half axes in voxels.
#[derive(Deserialize)]
struct CaseBodies {
    brain: Vec<[i64; 6]>,
    ventricles: Vec<[i64; 6]>,
    tumour: Vec<[i64; 6]>,
    hollow: Vec<[i64; 6]>,
}

#[derive(Deserialize)]
pub(super) struct Quantiles {
    pub(super) fraction: Quantile,
    pub(super) distance: Quantile,
    pub(super) away: Quantile,
    pub(super) inside: Quantile,
}

/// The values at the levels, and how far another sample's may be from them (bootstrap, 99.9 %).
#[derive(Deserialize)]
pub(super) struct Quantile {
    pub(super) values: Vec<f64>,
    pub(super) tolerances: Vec<f64>,
}

#[derive(Deserialize)]
pub(super) struct Scipy {
    pub(super) volumes: Vec<ScipyVolume>,
    pub(super) body: HexBits,
    pub(super) turns: Vec<ScipyTurn>,
}

#[derive(Deserialize)]
pub(super) struct HexBits {
    pub(super) dims: [usize; 3],
    pub(super) set: String,
}

#[derive(Deserialize)]
pub(super) struct ScipyVolume {
    pub(super) dims: [usize; 3],
    pub(super) spacing: [f64; 3],
    pub(super) set: String,
    pub(super) component_sizes: Vec<usize>,
    pub(super) largest: String,
    pub(super) filled: String,
    pub(super) distance: Vec<f64>,
}

#[derive(Deserialize)]
pub(super) struct ScipyTurn {
    pub(super) axes: (usize, usize),
    pub(super) degrees: f64,
    pub(super) dims: [usize; 3],
    pub(super) set: String,
}

/// The committed file.
pub(super) static REFERENCE: LazyLock<Reference> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../../tests/reference/masks.json")).unwrap()
});

/// The set whose bits are these hexadecimal bytes, x fastest, the first voxel lowest.
pub(super) fn bits(dims: [usize; 3], hex: &str) -> Bits {
    let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
    Bits::from_fn(dims, |i| byte(i / 8) >> (i % 8) & 1 == 1)
}

/// One case: a brain of 1 mm voxels, and which of them its segmentation marks.
pub(super) struct Case {
    image: Volume,
    lesion: Bits,
}

impl Case {
    fn new(bodies: &CaseBodies, dims: [usize; 3]) -> Case {
        let (mut brain, mut lesion) = (Bits::empty(dims), Bits::empty(dims));
        bodies.brain.iter().for_each(|body| put(&mut brain, body, true));
        bodies.ventricles.iter().for_each(|body| put(&mut brain, body, false));
        bodies.tumour.iter().for_each(|body| put(&mut lesion, body, true));
        bodies.hollow.iter().for_each(|body| put(&mut lesion, body, false));
        let voxels =
            (0..dims.iter().product()).map(|i| f32::from(brain.get(at(dims, i)))).collect();
        Case { image: Volume { dims, spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels }, lesion }
    }

    fn is_lesion(&self) -> impl Fn(usize) -> bool {
        |i| self.lesion.get(at(self.image.dims, i))
    }

    pub(super) fn room(&self) -> Room {
        Room::new(&self.image, self.is_lesion()).unwrap()
    }
}

/// The voxels of an ellipsoid, decided in integers as the reference does.
fn put(set: &mut Bits, &[cx, cy, cz, rx, ry, rz]: &[i64; 6], value: bool) {
    let span = |c: i64, r: i64, n: usize| (c - r).max(0)..=(c + r).min(n as i64 - 1);
    let dims = set.dims();
    for z in span(cz, rz, dims[2]) {
        for y in span(cy, ry, dims[1]) {
            for x in span(cx, rx, dims[0]) {
                let parts = [(x - cx) * ry * rz, (y - cy) * rx * rz, (z - cz) * rx * ry];
                if parts.iter().map(|part| part * part).sum::<i64>() <= (rx * ry * rz).pow(2) {
                    let at = [x, y, z].map(|i| i as usize);
                    set.row_mut(at[1], at[2])[at[0] / 64] &= !(1 << (at[0] % 64));
                    if value {
                        set.set(at);
                    }
                }
            }
        }
    }
}

/// The voxel at an index.
pub(super) fn at([nx, ny, _]: [usize; 3], i: usize) -> [usize; 3] {
    [i % nx, i / nx % ny, i / nx / ny]
}

/// The first cases of the cohort.
pub(super) fn cases(count: usize) -> Vec<Case> {
    let dims = REFERENCE.dims;
    REFERENCE.cases.iter().take(count).map(|bodies| Case::new(bodies, dims)).collect()
}

/// Their shapes.
pub(super) fn bank(cases: &[Case], mode: Mode) -> Bank {
    let shapes = cases.iter().flat_map(|case| case.room().shapes(mode));
    Bank::new(shapes.collect()).unwrap()
}
