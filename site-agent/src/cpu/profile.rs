//! Where the time of a training step goes, by operation.
//!
//! It is off, at the cost of one load per operation, until [`keep`] gives it a clock; it reads none
//! of its own. A nanosecond counts once: of operations inside one another the innermost has it, so that
//! all operations together are the time of the outermost. That is why the passes are operations too:
//! what is left to them is what no operation inside them accounts for. Work that an operation gives to
//! other threads is counted by the time that its own thread waits for it.
//!
//! It times calls. A device that computes after the call has returned shows its time where a result is
//! waited for.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A clock: nanoseconds since any fixed time, never falling.
pub type Clock = fn() -> u64;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Taking the next examples, which other threads have made.
    Examples,
    /// Drawing steps and noise, on the host.
    Lesson,
    /// The forward pass and the loss, without the operations below.
    Forward,
    /// The backward pass, without the operations below.
    Backward,
    /// A 3x3 convolution.
    ConvForward,
    /// Its gradients.
    ConvBackward,
    /// The same linear map of every row or pixel: 1x1 convolutions, embeddings.
    PointwiseForward,
    /// Its gradients.
    PointwiseBackward,
    /// Group normalisation, with what is fused to it: modulation and SiLU.
    NormForward,
    /// Its gradients.
    NormBackward,
    /// Attention, without the maps before and after it.
    AttentionForward,
    /// Its gradients.
    AttentionBackward,
    /// The norm of all gradients, the clipping by it and the new weights.
    Optimiser,
}

/// Nanoseconds by operation, in the order of [`Operation::ALL`].
pub type Totals = [u64; Operation::ALL.len()];

/// What has been counted, and the clock it is counted with.
#[derive(Debug)]
struct Profile {
    clock: Clock,
    totals: [AtomicU64; Operation::ALL.len()],
}

static KEPT: OnceLock<Profile> = OnceLock::new();

thread_local! {
    /// Nanoseconds of this thread's operations that have ended inside the one that runs.
    static INSIDE: Cell<u64> = const { Cell::new(0) };
}

/// Does `work` as the operation `operation`.
#[inline]
pub fn measure<R>(operation: Operation, work: impl FnOnce() -> R) -> R {
    match KEPT.get() {
        None => work(),
        Some(profile) => profile.measure(operation, work),
    }
}

/// Counts from now on, by `clock`; the first clock of a process stays.
pub fn keep(clock: Clock) {
    KEPT.get_or_init(|| Profile::new(clock));
}

/// What has been counted so far; nothing before [`keep`].
pub fn totals() -> Totals {
    KEPT.get().map(Profile::totals).unwrap_or_default()
}

impl Profile {
    fn new(clock: Clock) -> Profile {
        Profile { clock, totals: Operation::ALL.map(|_| AtomicU64::new(0)) }
    }

    fn measure<R>(&self, operation: Operation, work: impl FnOnce() -> R) -> R {
        let before = INSIDE.replace(0);
        let begun = (self.clock)();
        let done = work();
        let whole = (self.clock)().saturating_sub(begun);
        let own = whole.saturating_sub(INSIDE.get());
        self.totals[operation as usize].fetch_add(own, Ordering::Relaxed);
        INSIDE.set(before.saturating_add(whole));
        done
    }

    fn totals(&self) -> Totals {
        self.totals.each_ref().map(|total| total.load(Ordering::Relaxed))
    }
}

impl Operation {
    /// Every operation, in the order of its number.
    pub const ALL: [Operation; 13] = [
        Operation::Examples,
        Operation::Lesson,
        Operation::Forward,
        Operation::Backward,
        Operation::ConvForward,
        Operation::ConvBackward,
        Operation::PointwiseForward,
        Operation::PointwiseBackward,
        Operation::NormForward,
        Operation::NormBackward,
        Operation::AttentionForward,
        Operation::AttentionBackward,
        Operation::Optimiser,
    ];

    /// Its name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Examples => "examples",
            Operation::Lesson => "lesson",
            Operation::Forward => "forward",
            Operation::Backward => "backward",
            Operation::ConvForward => "conv_forward",
            Operation::ConvBackward => "conv_backward",
            Operation::PointwiseForward => "pointwise_forward",
            Operation::PointwiseBackward => "pointwise_backward",
            Operation::NormForward => "norm_forward",
            Operation::NormBackward => "norm_backward",
            Operation::AttentionForward => "attention_forward",
            Operation::AttentionBackward => "attention_backward",
            Operation::Optimiser => "optimiser",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    fn pass(nanoseconds: u64) {
        NOW.set(NOW.get() + nanoseconds);
    }

    fn of(profile: &Profile, operation: Operation) -> u64 {
        profile.totals()[operation as usize]
    }

    #[test]
    fn the_innermost_operation_has_the_time_and_all_together_are_the_whole() {
        let profile = Profile::new(|| NOW.get());
        let answer = profile.measure(Operation::Backward, || {
            pass(5);
            for _ in 0..2 {
                profile.measure(Operation::ConvBackward, || {
                    pass(100);
                    profile.measure(Operation::PointwiseBackward, || pass(10));
                });
            }
            profile.measure(Operation::NormBackward, || pass(1000));
            pass(7);
            42
        });
        profile.measure(Operation::Optimiser, || pass(3));
        assert_eq!(answer, 42);
        assert_eq!(of(&profile, Operation::Backward), 12);
        assert_eq!(of(&profile, Operation::ConvBackward), 200);
        assert_eq!(of(&profile, Operation::PointwiseBackward), 20);
        assert_eq!(of(&profile, Operation::NormBackward), 1000);
        assert_eq!(of(&profile, Operation::Optimiser), 3);
        assert_eq!(profile.totals().iter().sum::<u64>(), NOW.get());
    }

    #[test]
    fn threads_count_into_the_same_totals() {
        let profile = Profile::new(|| NOW.get());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| profile.measure(Operation::ConvForward, || pass(25)));
            }
        });
        assert_eq!(of(&profile, Operation::ConvForward), 100);
    }

    #[test]
    fn every_operation_has_its_place_and_a_name_of_its_own() {
        let names: BTreeSet<&str> = Operation::ALL.iter().map(|o| o.name()).collect();
        assert_eq!(names.len(), Operation::ALL.len());
        for (place, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, place);
        }
    }
}
