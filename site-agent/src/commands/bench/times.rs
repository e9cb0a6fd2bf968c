//! The times of steps, whole and by operation, from a clock's readings. Pure.

use crate::cpu::profile::{Operation, Totals};

/// The steps of a training, as they end.
#[derive(Debug)]
pub(super) struct StepTimes {
    /// Steps that do not count yet.
    warmup: usize,
    /// When the step before ended, and what had been counted by then.
    before: (u64, Totals),
    /// Nanoseconds of each step that counts, and of its operations.
    steps: Vec<(u64, Totals)>,
}

impl StepTimes {
    /// Times that begin now; the first `warmup` steps do not count.
    pub(super) fn new(warmup: usize, now: u64, totals: Totals) -> StepTimes {
        StepTimes { warmup, before: (now, totals), steps: Vec::new() }
    }

    /// A step has ended.
    pub(super) fn end(&mut self, now: u64, totals: Totals) {
        let (then, counted) = std::mem::replace(&mut self.before, (now, totals));
        if self.warmup > 0 {
            self.warmup -= 1;
            return;
        }
        let mut passed = totals;
        passed.iter_mut().zip(counted).for_each(|(now, before)| *now = now.saturating_sub(before));
        self.steps.push((now.saturating_sub(then), passed));
    }

    /// The steps, in milliseconds.
    pub(super) fn steps_ms(&self) -> Vec<f64> {
        self.steps.iter().map(|(whole, _)| milliseconds(*whole)).collect()
    }

    /// Every operation that took time, with the median over the steps of what it took, and `rest`.
    pub(super) fn operations_ms(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let of = |operation: Operation| {
            (operation.name(), self.median_ms(|(_, totals)| totals[operation as usize]))
        };
        let rest = self.median_ms(|(whole, totals)| whole.saturating_sub(totals.iter().sum()));
        let took_time = |&(_, ms): &(&str, f64)| ms > 0.0;
        Operation::ALL.into_iter().map(of).chain([("rest", rest)]).filter(took_time)
    }

    fn median_ms(&self, of: impl Fn(&(u64, Totals)) -> u64) -> f64 {
        let mut values: Vec<u64> = self.steps.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().map_or(0.0, milliseconds)
    }
}

fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_steps_count_nowhere_and_operations_are_medians_of_what_each_step_added() {
        let mut totals = Totals::default();
        let mut times = StepTimes::new(1, 1_000_000, totals);
        // Nanoseconds of a step, of its forward pass and of its optimiser, in millions.
        let steps = [(900, 500, 300), (10, 6, 3), (30, 20, 4), (20, 10, 2)];
        let mut now = 1_000_000;
        for (whole, forward, optimiser) in steps {
            now += whole * 1_000_000;
            totals[Operation::Forward as usize] += forward * 1_000_000;
            totals[Operation::Optimiser as usize] += optimiser * 1_000_000;
            times.end(now, totals);
        }
        assert_eq!(times.steps_ms(), [10.0, 30.0, 20.0]);
        let operations: Vec<_> = times.operations_ms().collect();
        assert_eq!(operations, [("forward", 10.0), ("optimiser", 3.0), ("rest", 6.0)]);
    }
}
