//! The cache of prepared scans and what comes out of it, all on one thread: filling it, opening it,
//! the first batch, and slices per second over a round, planning included.
//!
//! Times are those this thread had a core for, as Linux counts them, so that a busy machine measures
//! as an idle one does; elsewhere they are the clock's. Waiting for the disk is not in them.
//!
//! The cases have BraTS's geometry, four contrasts and a tumour. They are ellipsoids of texture, made
//! in seconds: what costs time here is their size and not their looks.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use fedpaint_site_agent::data::cache::Cache;
use fedpaint_site_agent::data::labels::LabelScheme;
use fedpaint_site_agent::data::layout::{Case, Contrast};
use fedpaint_site_agent::data::mask::Mode;
use fedpaint_site_agent::data::mask::bank::Bank;
use fedpaint_site_agent::data::nifti::{self, Storage};
use fedpaint_site_agent::data::pool::{BatchKey, PoolCase, SlicePool};
use fedpaint_site_agent::data::scan::{MASKS_PER_CASE, SliceOptions};
use fedpaint_site_agent::data::shelf::{OPEN_BYTES_DEFAULT, Shelf};
use fedpaint_site_agent::data::volume::Volume;
use rayon::prelude::*;
use serde_json::{Value, json};

const DIMS: [usize; 3] = [240, 240, 155];

pub(crate) const SCHEME: Option<LabelScheme> = Some(LabelScheme::Brats2023);

const MIB: f64 = (1 << 20) as f64;

/// Slices per step.
const BATCH: usize = 16;

/// Measures and reports.
pub(crate) fn run(args: &[String]) -> Value {
    let option = |name: &str, default: usize| {
        let at = args.iter().position(|arg| arg == name);
        let value = at.and_then(|at| args.get(at + 1));
        value.map_or(default, |value| value.parse().expect("a number"))
    };
    let (cases, steps) = (option("--cases", 40), option("--steps", 200));
    let options = SliceOptions {
        size: option("--size", 64),
        masks: MASKS_PER_CASE,
        seed: 1,
        round: 1,
        mode: Mode::Corrected,
        augment: args.iter().any(|arg| arg == "--augment"),
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cases: Vec<Case> =
        (0..cases).into_par_iter().map(|index| write_case(folder.path(), index)).collect();
    let place = folder.path().join("cache");
    let fill = fill(&cases, &place);
    let (open, first_batch_s) = open(&cases, &place, options);
    let rounds: Vec<Value> = (1..=3)
        .map(|round| draw(&cases, &place, SliceOptions { round, ..options }, steps))
        .collect();
    json!({
        "benchmark": "prepared scans: cache, planning, slices; one thread",
        "cases": cases.len(),
        "size": options.size,
        "augment": options.augment,
        "batch": BATCH,
        "steps": steps,
        "fill": fill,
        "open": open,
        "first_batch_s": first_batch_s,
        "rounds": rounds,
    })
}

/// The time this thread has had a core for.
struct Watch {
    clock: Instant,
    busy_ns: Option<u64>,
}

impl Watch {
    fn start() -> Watch {
        Watch { clock: Instant::now(), busy_ns: busy_ns() }
    }

    fn seconds(&self) -> f64 {
        match (self.busy_ns, busy_ns()) {
            (Some(before), Some(now)) => (now - before) as f64 / 1e9,
            _ => self.clock.elapsed().as_secs_f64(),
        }
    }
}

fn busy_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok()
}

pub(crate) fn shelf(place: &Path) -> Shelf {
    let cache = Cache::open(place, 64 << 10).expect("a cache can be opened");
    Shelf::new(Some(cache), OPEN_BYTES_DEFAULT)
}

/// Reads every case for the first time.
pub(crate) fn fill(cases: &[Case], place: &Path) -> Value {
    let input: u64 = cases.iter().flat_map(files).map(|path| size(&path)).sum();
    let shelf = shelf(place);
    let start = Watch::start();
    for case in cases {
        shelf.check(case, SCHEME).expect("the case is sound");
    }
    let seconds = start.seconds();
    let entries = std::fs::read_dir(place.join("prepared-v1")).expect("the cache's folder");
    let kept: u64 = entries.map(|entry| size(&entry.expect("an entry").path())).sum();
    json!({
        "seconds_per_case": seconds / cases.len() as f64,
        "voxel_mib_per_s": (cases.len() * 4 * DIMS.iter().product::<usize>() * 2) as f64 / MIB / seconds,
        "files_mib_per_case": input as f64 / MIB / cases.len() as f64,
        "cache_mib_per_case": kept as f64 / MIB / cases.len() as f64,
    })
}

/// Opens every case in a new process's place, and draws the first batch.
fn open(cases: &[Case], place: &Path, options: SliceOptions) -> (Value, f64) {
    let shelf = shelf(place);
    let start = Watch::start();
    cases.iter().for_each(|case| shelf.check(case, SCHEME).expect("the case is sound"));
    let first = start.seconds();
    let again = Watch::start();
    cases.iter().for_each(|case| shelf.check(case, SCHEME).expect("the case is sound"));
    let known = again.seconds();
    with_pool(cases, &shelf, options, |pool| {
        black_box(pool.batch(key(&options, 0), BATCH).expect("a batch"));
    });
    let batch = start.seconds() - known;
    let each = |seconds: f64| seconds * 1e3 / cases.len() as f64;
    (
        json!({ "ms_per_case_in_a_new_process": each(first), "ms_per_case_known": each(known) }),
        batch,
    )
}

/// One round on an open shelf, then the same steps again with every plan made.
fn draw(cases: &[Case], place: &Path, options: SliceOptions, steps: usize) -> Value {
    let shelf = shelf(place);
    cases.iter().for_each(|case| shelf.check(case, SCHEME).expect("the case is sound"));
    with_pool(cases, &shelf, options, |pool| {
        let pass = || {
            let start = Watch::start();
            for step in 0..steps {
                black_box(pool.batch(key(&options, step as u64), BATCH).expect("a batch"));
            }
            (steps * BATCH) as f64 / start.seconds()
        };
        let (with_planning, planned) = (pass(), pass());
        json!({ "slices_per_s": with_planning, "slices_per_s_planned": planned })
    })
}

pub(crate) fn key(options: &SliceOptions, step: u64) -> BatchKey {
    BatchKey { seed: options.seed, round: options.round, step }
}

pub(crate) fn with_pool<R>(
    cases: &[Case],
    shelf: &Shelf,
    options: SliceOptions,
    used: impl FnOnce(&SlicePool<'_>) -> R,
) -> R {
    let open = |index: usize| shelf.case(&cases[index], SCHEME).map_err(Into::into);
    let pooled = cases.iter().enumerate().map(|(index, case)| PoolCase {
        patient: case.patient.clone(),
        index,
        contrasts: case.scans.keys().map(|&contrast| contrast as usize).collect(),
    });
    let shapes_of = |case| shelf.shapes(case, SCHEME, options.mode).expect("the case is sound");
    let bank = Bank::new(cases.iter().flat_map(shapes_of).collect()).map(Arc::new);
    used(&SlicePool::new(pooled.collect(), options, bank, &open).expect("a pool"))
}

fn files(case: &Case) -> Vec<PathBuf> {
    case.scans.values().chain(&case.segmentation).cloned().collect()
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).expect("a file").len()
}

/// A head of its own for every index, in BraTS's files.
pub(crate) fn write_case(folder: &Path, index: usize) -> Case {
    let name = format!("B-{index:03}-000");
    let vary = |by: usize| ((index * by) % 17) as f64;
    let centre = [119.0 + 0.2 * vary(3), 125.0 - 0.3 * vary(5), 75.0 + 0.2 * vary(7)];
    let half_mm = [66.0 + 0.4 * vary(11), 80.0 + 0.4 * vary(13), 60.0 + 0.4 * vary(2)];
    let tumour = [centre[0] + 25.0 - vary(4), centre[1] + vary(6) - 8.0, centre[2] + 5.0];
    let away = |at: [f64; 3], from: [f64; 3], half: [f64; 3]| {
        (0..3).map(|a| ((at[a] - from[a]) / half[a]).powi(2)).sum::<f64>().sqrt()
    };
    let scale = 0.7 + 0.04 * vary(9);
    let label = |at: [f64; 3]| match away(at, tumour, [scale; 3]) {
        r if r < 8.0 => 1.0,
        r if r < 14.0 => 3.0,
        r if r < 26.0 => 2.0,
        _ => 0.0,
    };
    let volume = |value: &(dyn Fn([f64; 3]) -> f32 + Sync)| {
        let at = |i: usize| [i % DIMS[0], i / DIMS[0] % DIMS[1], i / DIMS[0] / DIMS[1]];
        let voxels = (0..DIMS.iter().product()).map(|i| value(at(i).map(|n| n as f64))).collect();
        Volume { dims: DIMS, spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels }
    };
    let write = |kind: &str, storage, volume: &Volume| {
        let path = folder.join(format!("{name}-{kind}.nii.gz"));
        nifti::write_new(&path, volume, storage, "benchmark").expect("the disk takes a scan");
        path
    };
    let scan = |(at, &contrast): (usize, &Contrast)| {
        let gain = 300.0 + 150.0 * at as f64;
        let image = volume(&|p| {
            if away(p, centre, half_mm) > 1.0 {
                return 0.0;
            }
            // Tissue, and noise by a hash: gzip must not find it easier than a scan.
            let tissue = 2.0 + (p[0] * 0.21).sin() * (p[1] * 0.17).cos() + (p[2] * 0.13).sin();
            let hash = (p[0] as u64 * 73_856_093)
                ^ (p[1] as u64 * 19_349_663)
                ^ (p[2] as u64 * 83_492_791);
            let noise =
                ((hash ^ (index as u64 * 7919)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as f64;
            (gain * tissue * (1.0 + 0.3 * f64::from(label(p))) / 2.0 + noise + 20.0) as i16 as f32
        });
        (contrast, write(contrast.name(), Storage::I16, &image))
    };
    let scans: BTreeMap<Contrast, PathBuf> = Contrast::ALL.iter().enumerate().map(scan).collect();
    let inside = |p| if away(p, centre, half_mm) <= 1.0 { label(p) } else { 0.0 };
    let segmentation = Some(write("seg", Storage::U8, &volume(&inside)));
    Case {
        patient: name.clone(),
        name,
        scans,
        segmentation,
        label_scheme: None,
        companions: BTreeMap::new(),
    }
}
