//! How much of the machine others used while something was measured, where Linux says so.

/// Time that processors have spent, in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// All of it, idle or not, over all processors.
    passed: u64,
    /// What was worked, by anybody.
    worked: u64,
    /// What this process and its ended children have worked.
    own: u64,
}

impl Load {
    /// As it is now.
    pub(crate) fn now() -> Option<Load> {
        let machine = std::fs::read_to_string("/proc/stat").ok()?;
        let me = std::fs::read_to_string("/proc/self/stat").ok()?;
        Load::parse(&machine, &me)
    }

    /// The share of all processors' time since `before` that others worked, 0 to 1.
    pub(crate) fn others_since(self, before: Load) -> f64 {
        let passed = self.passed.saturating_sub(before.passed).max(1);
        let worked = self.worked.saturating_sub(before.worked);
        let others = worked.saturating_sub(self.own.saturating_sub(before.own));
        (others as f64 / passed as f64).min(1.0)
    }

    fn parse(machine: &str, me: &str) -> Option<Load> {
        let all = machine.lines().next()?.strip_prefix("cpu ")?;
        // User, nice, system, idle, waiting for the disk, interrupts, stolen; guests are in user.
        let ticks: Vec<u64> =
            all.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let [_, _, _, idle, waiting, ..] = ticks[..] else { return None };
        let passed = ticks.iter().sum();
        // The name, in parentheses, may hold anything; what this process and its children worked are the
        // 12th to the 15th field after it.
        let fields = me.rsplit_once(')')?.1.split_whitespace();
        let own = fields.skip(11).take(4).map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
        Some(Load { passed, worked: passed - idle - waiting, own: own.iter().sum() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_work_is_what_is_worked_less_ones_own() {
        let me = |own: u64| format!("7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 {own} 1 2 3 20 0");
        let then = Load::parse("cpu  100 10 5 800 50 1 2 3 9 9\ncpu0 1", &me(10)).unwrap();
        let now = Load::parse("cpu  160 20 5 900 70 1 2 13 9 9\n", &me(40)).unwrap();
        // 200 ticks passed, 80 were worked, 30 of them here.
        assert_eq!(now.others_since(then), 0.25);
    }
}
