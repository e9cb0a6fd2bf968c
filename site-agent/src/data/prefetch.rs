//! Makes things ahead of their use, on threads of its own, and hands them over in order.
//!
//! What is made depends on its number alone, so how many threads there are changes nothing but the
//! wait. It holds a bounded number of things, and its threads end before it returns.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Threads and how far ahead they may be.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// Threads, at least one.
    pub threads: usize,
    /// Things that are made or waiting at a time, at least one.
    pub queue: usize,
}

/// Things that come in order: 0, 1, ….
pub struct Ready<'a, T> {
    belt: &'a Belt<T>,
}

struct Belt<T> {
    state: Mutex<State<T>>,
    /// Something was made, or nothing more will be.
    made: Condvar,
    /// Something was taken, or nothing more is wanted.
    taken: Condvar,
    queue: usize,
    count: usize,
}

struct State<T> {
    ready: BTreeMap<usize, T>,
    next_made: usize,
    next_taken: usize,
    stopped: bool,
}

/// Calls `make` for 0 to before `count` and `used` with what comes of it.
///
/// `used` may stop early, by returning; what is being made then is thrown away.
pub fn ahead<T: Send, R>(
    ahead: Ahead,
    count: usize,
    make: impl Fn(usize) -> T + Sync,
    used: impl FnOnce(&mut Ready<'_, T>) -> R,
) -> R {
    let state = State { ready: BTreeMap::new(), next_made: 0, next_taken: 0, stopped: false };
    let belt = Belt {
        state: Mutex::new(state),
        made: Condvar::new(),
        taken: Condvar::new(),
        queue: ahead.queue.max(1),
        count,
    };
    std::thread::scope(|scope| {
        for _ in 0..ahead.threads.max(1) {
            scope.spawn(|| {
                // A thread that panics must not leave the others and the caller waiting.
                let _stop = StopOnPanic(&belt);
                while let Some(number) = belt.begin() {
                    belt.finish(number, make(number));
                }
            });
        }
        let _stop = Stop(&belt);
        used(&mut Ready { belt: &belt })
    })
}

impl<T> Ready<'_, T> {
    /// The next thing, when it is made. None after the last one, or if a thread has died.
    pub fn take(&mut self) -> Option<T> {
        let belt = self.belt;
        let mut state = belt.lock();
        loop {
            let number = state.next_taken;
            if let Some(thing) = state.ready.remove(&number) {
                state.next_taken += 1;
                belt.taken.notify_all();
                return Some(thing);
            }
            if state.stopped || number >= belt.count {
                return None;
            }
            state = belt.made.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Belt<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number to make next, once there is room for it.
    fn begin(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            let number = state.next_made;
            if state.stopped || number >= self.count {
                return None;
            }
            if number < state.next_taken + self.queue {
                state.next_made += 1;
                return Some(number);
            }
            state = self.taken.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, number: usize, thing: T) {
        self.lock().ready.insert(number, thing);
        self.made.notify_all();
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.made.notify_all();
        self.taken.notify_all();
    }
}

struct Stop<'a, T>(&'a Belt<T>);

impl<T> Drop for Stop<'_, T> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

struct StopOnPanic<'a, T>(&'a Belt<T>);

impl<T> Drop for StopOnPanic<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::{Ahead, ahead};

    /// After which what was not made is not being made.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn things_come_in_order_and_are_the_same_for_any_number_of_threads() {
        for threads in [0, 1, 4] {
            for queue in [0, 1, 3, 100] {
                let taken = ahead(
                    Ahead { threads, queue },
                    50,
                    |n| n * n,
                    |ready| std::iter::from_fn(|| ready.take()).collect::<Vec<_>>(),
                );
                assert_eq!(taken, (0..50).map(|n| n * n).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn no_more_is_made_than_may_wait_and_threads_end_when_the_user_does() {
        let made = AtomicUsize::new(0);
        let make = |_| made.fetch_add(1, Ordering::SeqCst);
        ahead(Ahead { threads: 4, queue: 6 }, 1_000_000, make, |ready| {
            for _ in 0..10 {
                ready.take().unwrap();
            }
        });
        // The threads have ended, so the count is final.
        let made = made.load(Ordering::SeqCst);
        assert!((10..=16).contains(&made), "{made}");
    }

    #[test]
    fn the_next_batches_are_made_while_a_step_runs() {
        let queue = 3;
        for threads in [1, 2] {
            let (made, told) = channel();
            let make = |n: usize| {
                made.send(n).unwrap();
                n
            };
            ahead(Ahead { threads, queue }, 100, make, |ready| {
                for step in 0..20 {
                    assert_eq!(ready.take(), Some(step));
                    // The step has its batch and asks for no other. As many as may wait are made before
                    // it ends, however long it takes: it ends when they are.
                    let new = if step == 0 { 1 + queue } else { 1 };
                    let mut seen: Vec<usize> = (0..new)
                        .map(|_| told.recv_timeout(PATIENCE).expect("made while the step runs"))
                        .collect();
                    seen.sort_unstable();
                    assert_eq!(seen.last(), Some(&(step + queue)));
                }
            });
        }
    }

    #[test]
    fn errors_pass_through_in_their_place() {
        let make = |n| if n == 3 { Err(n) } else { Ok(n) };
        let taken = ahead(Ahead { threads: 4, queue: 8 }, 9, make, |ready| {
            std::iter::from_fn(|| ready.take()).collect::<Result<Vec<_>, _>>()
        });
        assert_eq!(taken, Err(3));
    }

    #[test]
    fn a_thread_that_panics_ends_the_wait() {
        let result = std::panic::catch_unwind(|| {
            let make = |n| if n == 2 { panic!("broken on purpose") } else { n };
            ahead(
                Ahead { threads: 2, queue: 4 },
                100,
                make,
                |ready| {
                    while ready.take().is_some() {}
                },
            );
        });
        assert!(result.is_err());
    }
}
