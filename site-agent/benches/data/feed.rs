//! Whether the next batch is ready before a step ends: the share of its time that training waits for
//! examples, at a given pace, out of a warm cache, with batches made ahead as a round makes them.
//!
//! The steps are not trained. A step of the given length either leaves the processor to others, as a GPU
//! does (`idle`), or keeps one thread of it busy, as training on the processor does at least (`busy`).
//! `unpaced` takes batches as fast as they come: its rate is the most that a trainer could ask for.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use fedpaint_site_agent::data::layout::Case;
use fedpaint_site_agent::data::mask::Mode;
use fedpaint_site_agent::data::prefetch::ahead;
use fedpaint_site_agent::data::scan::{MASKS_PER_CASE, SliceOptions};
use fedpaint_site_agent::local_round::prefetch;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::cache;

/// Slices of a step.
const BATCH: usize = 8;

/// How a step that is not trained passes.
#[derive(Clone, Copy)]
enum Step {
    Idle(Duration),
    Busy(Duration),
    Unpaced,
}

/// Measures and reports.
pub(crate) fn run(args: &[String]) -> Value {
    let option = |name: &str, default: usize| {
        let at = args.iter().position(|arg| arg == name);
        let value = at.and_then(|at| args.get(at + 1));
        value.map_or(default, |value| value.parse().expect("a number"))
    };
    let (cases, steps, rate) =
        (option("--cases", 16), option("--steps", 640), option("--steps-per-s", 64));
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
        (0..cases).into_par_iter().map(|index| cache::write_case(folder.path(), index)).collect();
    let place = folder.path().join("cache");
    cache::fill(&cases, &place);
    let length = Duration::from_secs(1) / u32::try_from(rate).expect("a small number");
    // A round of its own each, so that none finds what another has planned.
    let mut round = 0;
    let mut measure = |step: Step| {
        round += 1;
        feed(&cases, &place, SliceOptions { round, ..options }, steps, step)
    };
    json!({
        "benchmark": "waiting for batches that are made ahead, from a warm cache",
        "cases": cases.len(),
        "size": options.size,
        "augment": options.augment,
        "batch": BATCH,
        "steps": steps,
        "threads": rayon::current_num_threads(),
        "ahead": format!("{:?}", prefetch(BATCH, options.size)),
        "steps_per_s": rate,
        "idle": measure(Step::Idle(length)),
        "busy": measure(Step::Busy(length)),
        "unpaced": measure(Step::Unpaced),
    })
}

/// One round of steps that end when they should, or later for want of a batch.
fn feed(cases: &[Case], place: &Path, options: SliceOptions, steps: usize, step: Step) -> Value {
    let shelf = cache::shelf(place);
    cases.iter().for_each(|case| shelf.check(case, cache::SCHEME).expect("the case is sound"));
    cache::with_pool(cases, &shelf, options, |pool| {
        let make = |number| pool.batch(cache::key(&options, number as u64), BATCH);
        let begun = Instant::now();
        let waits = ahead(prefetch(BATCH, options.size), steps, make, |ready| {
            let mut waits = Vec::with_capacity(steps);
            for _ in 0..steps {
                let asked = Instant::now();
                black_box(ready.take().expect("a batch for every step").expect("a batch"));
                waits.push(asked.elapsed());
                pass(step, Instant::now());
            }
            waits
        });
        report(&waits, begun.elapsed())
    })
}

/// Lets a step pass that begins now.
fn pass(step: Step, now: Instant) {
    match step {
        Step::Idle(length) => {
            while let Some(left) = length.checked_sub(now.elapsed()).filter(|l| !l.is_zero()) {
                std::thread::park_timeout(left);
            }
        }
        Step::Busy(length) => {
            while now.elapsed() < length {
                std::hint::spin_loop();
            }
        }
        Step::Unpaced => (),
    }
}

fn report(waits: &[Duration], whole: Duration) -> Value {
    let ms = |wait: Duration| wait.as_secs_f64() * 1e3;
    let waited: Duration = waits.iter().sum();
    let first = waits.first().copied().unwrap_or_default();
    let mut later: Vec<Duration> = waits.iter().skip(1).copied().collect();
    later.sort_unstable();
    let rank = |percent: usize| later.get(later.len() * percent / 100).copied().map(ms);
    let late = later.iter().filter(|&&wait| wait > Duration::from_millis(1)).count();
    json!({
        "steps_per_s": waits.len() as f64 / whole.as_secs_f64(),
        // Of the whole, the wait for the first batch included, for which nothing can be ahead.
        "waiting_share": waited.as_secs_f64() / whole.as_secs_f64(),
        "first_wait_ms": ms(first),
        "waiting_share_after_the_first": (waited - first).as_secs_f64() / (whole - first).as_secs_f64(),
        "wait_p50_ms": rank(50),
        "wait_p99_ms": rank(99),
        "wait_max_ms": later.last().copied().map(ms),
        "steps_that_waited_over_1_ms": late,
    })
}
