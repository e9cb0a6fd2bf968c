//! Tensors of many blocks, and more updates than may be open at once.

use super::*;
use crate::testing::Dice;

/// Several blocks and a part of one.
const MANY: usize = 70_001;

/// A model of one tensor of several blocks, one that is empty and one that is short.
fn large(folder: &Path, name: &str, seed: u64) -> (PathBuf, Vec<f32>) {
    let path = folder.join(name);
    let mut dice = Dice(seed);
    let values: Vec<f32> =
        (0..MANY + 3).map(|_| (dice.roll(2_000_001) as f32 - 1e6) * 1e-7).collect();
    write_model(&path, &[("a", &values[..MANY]), ("b", &[]), ("c", &values[MANY..])]);
    (path, values)
}

fn of(site: &str, weights: &Path, examples: u64) -> Contribution {
    let (site, weights) = (site.parse().unwrap(), weights.into());
    Contribution { site, weights, examples, stale: None, resent: false }
}

#[test]
fn a_tensor_of_many_blocks_is_averaged_alike_by_any_number_of_threads_and_as_numbers_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (base, _) = large(folder, "base", 1);
    let sites: Vec<(PathBuf, Vec<f32>)> =
        NAMES.iter().zip(2..).map(|(name, seed)| large(folder, name, seed)).collect();
    let parts: Vec<Contribution> =
        NAMES.iter().zip(&sites).zip(1..).map(|((name, (path, _)), n)| of(name, path, n)).collect();
    let job = |contributions| Job {
        plan: AggregationPlan {
            optimizer: ServerOptimizer::Momentum,
            ..AggregationPlan::default()
        },
        committed: 3,
        previous: Aggregate::of(base.clone()),
        contributions,
        quarantine: None,
    };
    let one = aggregate_on(&job(parts.clone()), &folder.join("one"), 1).unwrap();
    for threads in [2, 3, 7] {
        let shuffled = parts.iter().cycle().skip(threads).take(parts.len()).cloned().collect();
        let other = aggregate_on(&job(shuffled), &folder.join("other"), threads).unwrap();
        assert_eq!(other.map(|file| file.blob), one.clone().map(|file| file.blob));
    }

    average(&base, &parts, &folder.join("out")).unwrap();
    let out = ModelFile::open(&folder.join("out")).unwrap();
    let made = [out.read(0).unwrap(), out.read(1).unwrap(), out.read(2).unwrap()].concat();
    // In the order of the names, which is not that in which the sites were made.
    let mut sorted: Vec<(&str, &Vec<f32>, f64)> = Vec::new();
    for ((name, (_, values)), n) in NAMES.iter().zip(&sites).zip(1..) {
        sorted.push((name, values, f64::from(n)));
    }
    sorted.sort_by_key(|(name, ..)| *name);
    let total: f64 = sorted.iter().map(|(.., n)| n).sum();
    for at in 0..made.len() {
        let sum = sorted.iter().map(|(_, values, n)| n * f64::from(values[at]));
        let sum = sum.reduce(|sum, value| sum + value).unwrap();
        assert_eq!(made[at].to_bits(), ((sum / total) as f32).to_bits(), "value {at}");
    }
}

#[test]
fn updates_beyond_those_that_may_be_open_at_once_count_like_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (base, _) = large(folder, "base", 1);
    let (low, _) = large(folder, "low", 2);
    let (high, _) = large(folder, "high", 3);
    let open = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let before = open();
    let name = |at: usize| format!("site-{at:04}");
    let many: Vec<Contribution> =
        (0..600).map(|at| of(&name(at), if at < 300 { &low } else { &high }, 1)).collect();
    let specs = ModelFile::open(&base).unwrap().tensors().to_vec();
    let opened = Updates::open(&many, 0.5, &specs).unwrap();
    // Other tests open files at the same time, though not so many.
    assert!(open() < before + 400, "{} files are open, {before} were before", open());
    drop(opened);
    let all = average(&base, &many, &folder.join("all")).unwrap();
    let two = [of("a", &low, 1), of("b", &high, 1)];
    let two = average(&base, &two, &folder.join("two")).unwrap();
    let read = |name: &str| ModelFile::open(&folder.join(name)).unwrap().read(0).unwrap();
    assert_eq!(all.size, two.size);
    for (all, two) in read("all").iter().zip(read("two")) {
        assert!((all - two).abs() <= 1e-6 * two.abs().max(1e-3), "{all} for {two}");
    }
}
