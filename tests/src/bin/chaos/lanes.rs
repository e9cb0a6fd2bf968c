//! Cases side by side: most of them wait most of the time. What they came to is told in their order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tokio::runtime::Builder;
use tokio::sync::mpsc;

/// How many cases run at once, on two cores.
pub(crate) const LANES: usize = 4;

/// The same of cases that do little but wait.
pub(crate) const LANES_WAITING: usize = 12;

/// Threads of a case's own runtime, which serve its proxies while it waits for a program in a way that blocks.
const THREADS: usize = 2;

/// Does every job by `work`, at most `lanes` at once, each in a runtime of its own; `done` is given what they came
/// to, in the jobs' order.
///
/// # Errors
/// If there is no thread left, or a job has panicked.
pub(crate) async fn side_by_side<J: Send + 'static, T: Send + 'static>(
    jobs: Vec<J>,
    lanes: usize,
    work: impl AsyncFn(J) -> T + Send + Sync + 'static,
    mut done: impl FnMut(T),
) -> anyhow::Result<()> {
    let count = jobs.len();
    let queue = Arc::new(Mutex::new(jobs.into_iter().enumerate()));
    let work = Arc::new(work);
    let (sender, mut results) = mpsc::unbounded_channel();
    for _ in 0..lanes.min(count) {
        let (queue, work, sender) = (Arc::clone(&queue), Arc::clone(&work), sender.clone());
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        // Nobody waits for the thread: where the whole is ended before its time, the process ends with it.
        std::thread::spawn(move || {
            let work = &*work;
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((place, job)) = next else { break };
                let result = runtime.block_on(work(job));
                if sender.send((place, result)).is_err() {
                    break;
                }
            }
        });
    }
    drop(sender);
    let (mut told, mut waiting) = (0, BTreeMap::new());
    while let Some((place, result)) = results.recv().await {
        waiting.insert(place, result);
        while let Some(result) = waiting.remove(&told) {
            done(result);
            told += 1;
        }
    }
    anyhow::ensure!(told == count, "a case has panicked");
    Ok(())
}

/// At most `max` of some, spread over all of them: one of every stretch of them, which one follows from the seed.
pub(crate) fn spread<T: Clone>(all: Vec<T>, max: Option<usize>, seed: u64) -> Vec<T> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    match max {
        Some(max) if max < all.len() => {
            let begin = |i: usize| i * all.len() / max;
            (0..max).map(|i| all[rng.random_range(begin(i)..begin(i + 1))].clone()).collect()
        }
        _ => all,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn jobs_run_side_by_side_and_are_told_in_their_order() {
        // The first two end only once both have begun, and the last one begun is told last.
        let both = Barrier::new(2);
        let work = async move |job: usize| {
            if job < 2 {
                both.wait();
            }
            job * 10
        };
        let mut told = Vec::new();
        side_by_side((0..5).collect(), 2, work, |result| told.push(result)).await.unwrap();
        assert_eq!(told, [0, 10, 20, 30, 40]);
    }

    #[tokio::test]
    async fn a_job_that_panics_is_no_job_that_ended_well() {
        let work = async |job: usize| assert_ne!(job, 1);
        side_by_side(vec![0, 1], 1, work, |()| ()).await.unwrap_err();
    }

    #[test]
    fn some_of_all_are_taken_from_everywhere_among_them() {
        let all: Vec<usize> = (0..10).collect();
        let some = |seed| spread(all.clone(), Some(4), seed);
        for seed in 0..20 {
            for (chosen, stretch) in some(seed).into_iter().zip([0..2, 2..5, 5..7, 7..10]) {
                assert!(stretch.contains(&chosen), "{seed}: {chosen}");
            }
        }
        assert_eq!(some(3), some(3), "the same seed takes the same ones");
        assert!((0..20).any(|seed| some(seed) != some(3)), "another seed takes other ones");
        assert_eq!(spread(all.clone(), Some(99), 1), all);
        assert_eq!(spread(all.clone(), None, 1), all);
        assert!(spread(all, Some(0), 1).is_empty());
    }
}
