//! A glioma in one patient: a core with a necrotic middle, oedema along white matter, and tissue
//! pushed aside.
//!
//! It grows on a grid of 2 mm (4 mm for coarse images) in the patient's own space. Lengths are millimetres; how the
//! tumour looks in an MRI is not decided here.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use crate::phantom::anatomy::{BRAIN_FRACTION_MIN, FLUID, Fractions, GREY, WHITE};
use crate::phantom::grid::{Grid, Point, blur_axis, smooth_step};
use crate::phantom::growth::{DIFFUSIVITY_MAX, Grown, Medium, grow};
use crate::phantom::noise::Noise;

/// Half the edge of the box a tumour may fill: a large core, its oedema and what it pushes.
const REACH_MM: f32 = 60.0;

/// The core's volume: log-normal with this median and spread, cut to the range.
const CORE_MEDIAN_MM3: f32 = 16_000.0;
const CORE_SPREAD: f32 = 0.6;
const CORE_RANGE_MM3: (f32, f32) = (3_000.0, 55_000.0);

/// The oedema's volume as a multiple of the core's: log-normal, cut to the range.
const OEDEMA_MEDIAN: f32 = 1.6;
const OEDEMA_SPREAD: f32 = 0.5;
const OEDEMA_RANGE: (f32, f32) = (0.4, 4.0);
const OEDEMA_MAX_MM3: f32 = 110_000.0;

/// Diffusivity of the core in white matter, as a share of [`DIFFUSIVITY_MAX`], and in grey.
const CORE_WHITE: f32 = 0.7 * DIFFUSIVITY_MAX;
const CORE_GREY: f32 = CORE_WHITE / 5.0;

/// The same for the oedema, which keeps to white matter.
const OEDEMA_WHITE: f32 = 0.9 * DIFFUSIVITY_MAX;
const OEDEMA_GREY: f32 = OEDEMA_WHITE / 40.0;

/// Growth per step, before the noise that makes a tumour lobed.
const CORE_RATE: f32 = 0.06;
const OEDEMA_RATE: f32 = 0.05;

/// A core starts in this many places, this far apart.
const FOCI: std::ops::Range<usize> = 1..4;
const FOCI_SPREAD_MM: f32 = 7.0;

/// The radius of a place where a core starts.
const FOCUS_RADIUS_MM: f32 = 4.0;

/// Growth ends after so many steps whatever its volume: it may be walled in.
const STEPS_MAX: usize = 500;

/// The thickness of the enhancing rim in white matter.
const RIM_MM: std::ops::Range<f32> = 3.5..8.0;

/// How many tumours have no necrosis.
const SOLID_SHARE: f64 = 0.1;

/// How far tissue at the core's edge is pushed, for a core of [`CORE_MEDIAN_MM3`] or more.
const PUSH_MM: std::ops::Range<f32> = 4.0..7.0;

/// The distance over which the push fades.
const PUSH_FADE_MM: f32 = 12.0;

/// Tumours start above this height of the frame, in the cerebrum.
const START_Z_MIN_MM: f32 = 62.0;

/// A tumour in the space of one patient, before it pushes.
#[derive(Clone, Debug)]
pub struct Tumour {
    grid: Grid,
    core: Grown,
    oedema: Grown,
    /// Where the displaced tissue comes from, relative to where it is.
    pull: Vec<[f32; 3]>,
    /// The steps between the core's arrival and necrosis; infinite for a solid tumour.
    necrosis_steps: f32,
    /// Makes the rim uneven.
    rim: Noise,
}

/// What the tumour has made of a voxel. Each is a share in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tumorous {
    /// Enhancing or necrotic core.
    pub core: f32,
    /// The necrotic share of the core.
    pub necrotic: f32,
    /// Oedema of the tissue outside the core.
    pub oedema: f32,
}

impl Tumour {
    /// Grows a tumour in the patient whose tissue fractions on `whole` are given. `None` if no white
    /// matter lies where tumours start.
    pub fn new(tissue: &[Fractions], whole: &Grid, rng: &mut impl Rng) -> Option<Tumour> {
        let start = start_voxel(tissue, whole, rng)?;
        let reach = (REACH_MM / whole.edge_mm) as usize;
        let low = start.map(|v| v.saturating_sub(reach));
        let high = [0, 1, 2].map(|a: usize| (start[a] + reach).min(whole.dims[a] - 1));
        let grid = whole.part(low, high);
        let tissue: Vec<Fractions> = (0..grid.voxels())
            .map(|i| {
                let voxel = grid.voxel(i);
                tissue[whole.index([0, 1, 2].map(|a: usize| low[a] + voxel[a]))]
            })
            .collect();
        let voxel_mm3 = grid.edge_mm.powi(3);
        let core_mm3 = log_normal(rng, CORE_MEDIAN_MM3, CORE_SPREAD, CORE_RANGE_MM3);
        let paths = diffusivity(&tissue, CORE_WHITE, CORE_GREY);
        let mut seed = foci(&grid, [0, 1, 2].map(|a: usize| start[a] - low[a]), rng);
        // A focus beyond tissue is none.
        seed.iter_mut().zip(&paths).filter(|(_, d)| **d == 0.0).for_each(|(c, _)| *c = 0.0);
        let lobes = rates(&grid, CORE_RATE, 9.0, rng);
        let core = grow(
            &Medium { grid: &grid, diffusivity: &paths, rate: &lobes },
            seed,
            (core_mm3 / voxel_mm3) as usize,
            STEPS_MAX,
        );
        let core_voxels = core.density.iter().filter(|&&c| c >= 0.5).count();
        let ratio = log_normal(rng, OEDEMA_MEDIAN, OEDEMA_SPREAD, OEDEMA_RANGE);
        let oedema_voxels = (core_voxels as f32 * ratio).min(OEDEMA_MAX_MM3 / voxel_mm3) as usize;
        let oedema = grow(
            &Medium {
                grid: &grid,
                diffusivity: &diffusivity(&tissue, OEDEMA_WHITE, OEDEMA_GREY),
                rate: &rates(&grid, OEDEMA_RATE, 14.0, rng),
            },
            core.density.clone(),
            core_voxels + oedema_voxels,
            STEPS_MAX,
        );
        let size = (core_voxels as f32 * voxel_mm3 / CORE_MEDIAN_MM3).cbrt().min(1.0);
        let push_mm = size * rng.random_range(PUSH_MM);
        let pull = pull(&grid, &core.density, &tissue, push_mm);
        let speed = 2.0 * (CORE_WHITE * CORE_RATE).sqrt();
        let solid = rng.random_bool(SOLID_SHARE);
        let rim_steps = rng.random_range(RIM_MM) / grid.edge_mm / speed;
        let necrosis_steps = if solid { f32::INFINITY } else { rim_steps };
        let rim = Noise::new(extent(&grid), 8.0, rng);
        Some(Tumour { grid, core, oedema, pull, necrosis_steps, rim })
    }

    /// Where the tissue at `point` was before the tumour pushed it.
    pub fn before_push(&self, point: Point) -> Point {
        let pull = self.grid.around(point).of_vectors(&self.pull);
        [0, 1, 2].map(|a: usize| point[a] + pull[a])
    }

    /// What the tumour makes of the tissue that was at `point` before the push.
    pub fn at(&self, point: Point) -> Tumorous {
        let corners = self.grid.around(point);
        let core = smooth_step(0.3, 0.7, corners.of(&self.core.density));
        let oedema = smooth_step(0.05, 0.85, corners.of(&self.oedema.density));
        let necrotic = if core > 0.0 && self.necrosis_steps.is_finite() {
            let age = self.core.steps as f32 - corners.of(&self.core.arrival);
            let local = [0, 1, 2].map(|a: usize| point[a] - self.grid.first_mm[a]);
            let wait = self.necrosis_steps * (1.0 + 0.6 * self.rim.at(local)).max(0.3);
            smooth_step(-2.0, 2.0, age - wait)
        } else {
            0.0
        };
        Tumorous { core, necrotic, oedema }
    }

    /// True for a point that the tumour may have changed.
    pub fn reaches(&self, point: Point) -> bool {
        let place = self.grid.place(point);
        (0..3).all(|a| place[a] >= -1.0 && place[a] <= self.grid.dims[a] as f32)
    }
}

/// A random voxel of deep white matter in the cerebrum.
fn start_voxel(tissue: &[Fractions], whole: &Grid, rng: &mut impl Rng) -> Option<[usize; 3]> {
    let candidates: Vec<usize> = (0..tissue.len())
        .filter(|&i| tissue[i][WHITE] > 0.75)
        .filter(|&i| whole.centre(whole.voxel(i))[2] > START_Z_MIN_MM)
        .collect();
    if candidates.is_empty() {
        return None;
    }
    Some(whole.voxel(candidates[rng.random_range(0..candidates.len())]))
}

/// Density 1 in a few balls about a voxel, so that the core is no ball itself.
fn foci(grid: &Grid, centre: [usize; 3], rng: &mut impl Rng) -> Vec<f32> {
    let spread = (FOCI_SPREAD_MM / grid.edge_mm) as usize;
    let centres: Vec<[usize; 3]> = (0..rng.random_range(FOCI))
        .map(|_| centre.map(|c| (c + rng.random_range(0..=2 * spread)).saturating_sub(spread)))
        .collect();
    let radius = FOCUS_RADIUS_MM / grid.edge_mm;
    let inside = |i| {
        let voxel = grid.voxel(i);
        let squared =
            |c: &[usize; 3]| (0..3).map(|a| voxel[a].abs_diff(c[a]).pow(2)).sum::<usize>();
        centres.iter().any(|c| squared(c) as f32 <= radius * radius)
    };
    (0..grid.voxels()).map(|i| if inside(i) { 1.0 } else { 0.0 }).collect()
}

/// Diffusivity by tissue; 0 where fluid prevails or the brain ends.
fn diffusivity(tissue: &[Fractions], white: f32, grey: f32) -> Vec<f32> {
    let solid = |f: &Fractions| f[FLUID] <= 0.5 && f.iter().sum::<f32>() >= BRAIN_FRACTION_MIN;
    let of = |f: &Fractions| if solid(f) { f[WHITE] * white + f[GREY] * grey } else { 0.0 };
    tissue.iter().map(of).collect()
}

/// Growth rates with lobes of about `step_mm`.
fn rates(grid: &Grid, rate: f32, step_mm: f32, rng: &mut impl Rng) -> Vec<f32> {
    let noise = Noise::new(extent(grid), step_mm, rng);
    let place = |voxel: usize| voxel as f32 * grid.edge_mm;
    let [nx, ny, nz] = grid.dims;
    (0..ny * nz)
        .flat_map(|row| {
            let lobes = noise.row(place(row % ny), place(row / ny));
            (0..nx).map(move |x| rate * (1.0 + 0.7 * lobes.at(place(x))).clamp(0.15, 2.2))
        })
        .collect()
}

/// How far each point's tissue is pulled back to before the push: towards the core, along the
/// gradient of the blurred core, most at the core's edge, and not at all at the brain's edge, which
/// the skull holds.
fn pull(grid: &Grid, core: &[f32], tissue: &[Fractions], push_mm: f32) -> Vec<[f32; 3]> {
    let blurred = |mut values: Vec<f32>, sigma_mm: f32| {
        (0..3).for_each(|axis| blur_axis(&mut values, grid.dims, axis, sigma_mm / grid.edge_mm));
        values
    };
    let field = blurred(core.to_vec(), PUSH_FADE_MM);
    let inside =
        |f: &Fractions| if f.iter().sum::<f32>() >= BRAIN_FRACTION_MIN { 1.0 } else { 0.0 };
    let depth = blurred(tissue.iter().map(inside).collect(), 5.0);
    let gradient = |i: usize| {
        let voxel = grid.voxel(i);
        let mut stride = 1;
        [0, 1, 2].map(|a: usize| {
            let (at, n, step) = (voxel[a], grid.dims[a], stride);
            stride *= n;
            // Zero at the box's faces, so that the push ends where the box does.
            if at == 0 || at + 1 == n { 0.0 } else { field[i + step] - field[i - step] }
        })
    };
    let gradients: Vec<[f32; 3]> = (0..grid.voxels()).map(gradient).collect();
    let length = |g: &[f32; 3]| g.iter().map(|c| c * c).sum::<f32>().sqrt();
    let steepest = gradients.iter().map(length).fold(f32::MIN_POSITIVE, f32::max);
    gradients
        .iter()
        .zip(&depth)
        .map(|(g, &depth)| {
            // A Gaussian has no end; a push this small is none.
            let end = smooth_step(0.02, 0.08, length(g) / steepest);
            let scale = push_mm / steepest * end * smooth_step(0.55, 0.95, depth);
            g.map(|c| c * scale)
        })
        .collect()
}

/// The size of a grid in millimetres.
fn extent(grid: &Grid) -> Point {
    grid.dims.map(|n| n as f32 * grid.edge_mm)
}

/// A log-normal draw, cut to a range.
fn log_normal(rng: &mut impl Rng, median: f32, spread: f32, range: (f32, f32)) -> f32 {
    let normal: f32 = rng.sample(StandardNormal);
    (median * (spread * normal).exp()).clamp(range.0, range.1)
}
