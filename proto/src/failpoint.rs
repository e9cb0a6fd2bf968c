//! Places where a test may end this process, or have its disk fail, without a mock between.
//!
//! [`reach`] names a place. It does nothing unless the program was built with the feature `failpoints`
//! (as building the whole workspace does, because its tests ask for it; `cargo build -p` of one
//! program does not) *and* was started with `FEDPAINT_FAILPOINTS` in its environment, the path of a
//! file of rules. The file is read anew at every place, so that a test can change its mind while the
//! program runs. A rule is a line of words:
//!
//! ```text
//! PLACE ACTION[@N] [VERB]    PLACE is a name, or * for every one, or a prefix such as blob.*
//! trace FILE                 appends `PLACE VERB PROCESS` to FILE at every place that is reached, and
//!                            `killed PLACE` where a rule below it is about to end the process
//! ```
//!
//! VERB is the first word behind the program's name on its command line, such as `trainer`, `-` where there
//! is none. A rule that has one holds in such a process alone: agent and trainer obey the same file.
//!
//! `kill` ends the process as SIGKILL does; `enospc`, `eio` and `erofs` have the place fail as a full,
//! broken or read-only disk. With `@N` the rule holds only for the N-th time, from 1, that this
//! process reaches a place the rule names. Where no rule holds, or the file does not read, all is
//! well: a production process has neither the feature nor the variable.

/// The environment variable that names the file of rules.
pub const VARIABLE: &str = "FEDPAINT_FAILPOINTS";

/// How a line of a trace begins that names the place where a rule ends the process.
pub const KILLED: &str = "killed ";

/// Passes the place called `name`, such as `blob.rename`: words of a part and of what is about to be
/// done there.
///
/// # Errors
/// What a rule says, for a caller that was about to use the disk.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_name: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub use self::rules::reach;

#[cfg(feature = "failpoints")]
mod rules {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::{self, Write};
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    /// The longest file of rules that is read.
    const RULES_BYTES_MAX: u64 = 64 << 10;

    /// None in a process that no test has started.
    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os(super::VARIABLE).map(PathBuf::from));

    /// What a rule says that ends the process.
    const KILL: &str = "kill";

    /// The verb of a process that was started without one.
    const NO_VERB: &str = "-";

    /// This process's own.
    static VERB: LazyLock<String> = LazyLock::new(|| {
        let verb = std::env::args_os().nth(1).and_then(|word| word.into_string().ok());
        verb.unwrap_or_else(|| NO_VERB.to_owned())
    });

    /// How often this process has reached what a rule names, by the rule.
    static REACHED: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

    /// Passes the place called `name`.
    ///
    /// # Errors
    /// What a rule says.
    pub fn reach(name: &'static str) -> io::Result<()> {
        let Some(file) = &*FILE else { return Ok(()) };
        let small = fs::metadata(file).is_ok_and(|found| found.len() <= RULES_BYTES_MAX);
        let rules =
            if small { fs::read_to_string(file).unwrap_or_default() } else { String::new() };
        let mut reached = REACHED.lock().unwrap_or_else(PoisonError::into_inner);
        obey(&rules, (name, VERB.as_str()), &mut reached, act)
    }

    fn obey(
        rules: &str,
        (name, verb): (&str, &str),
        reached: &mut BTreeMap<String, u64>,
        act: fn(&str) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut trace = None;
        for rule in rules.lines() {
            let mut words = rule.split_whitespace();
            let (Some(pattern), Some(action)) = (words.next(), words.next()) else { continue };
            if pattern == "trace" {
                note(action, &format!("{name} {verb} {}", std::process::id()));
                trace = Some(action);
                continue;
            }
            let elsewhere = words.next().is_some_and(|only| only != verb);
            if elsewhere || !fits(pattern, name) {
                continue;
            }
            let (action, turn) = match action.split_once('@') {
                Some((action, turn)) => (action, turn.parse::<u64>().ok()),
                None => (action, None),
            };
            let count = reached.entry(rule.to_owned()).or_default();
            *count += 1;
            if outcome.is_ok() && turn.is_none_or(|turn| turn == *count) {
                if let Some(trace) = trace.filter(|_| action == KILL) {
                    note(trace, &format!("{}{name}", super::KILLED));
                }
                outcome = act(action);
            }
        }
        outcome
    }

    fn note(trace: &str, line: &str) {
        let log = fs::File::options().create(true).append(true).open(trace);
        // A trace that cannot be written is missed by the test that asked for it.
        let _ = log.and_then(|mut log| log.write_all(format!("{line}\n").as_bytes()));
    }

    fn fits(pattern: &str, name: &str) -> bool {
        match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        }
    }

    fn act(action: &str) -> io::Result<()> {
        match action {
            KILL => {
                // Nothing of this process survives the call.
                let _ = kill_process(getpid(), Signal::KILL);
                Ok(())
            }
            "enospc" => Err(Errno::NOSPC.into()),
            "eio" => Err(Errno::IO.into()),
            "erofs" => Err(Errno::ROFS.into()),
            _ => Ok(()),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn reach(rules: &str, names: &[&str]) -> Vec<Option<i32>> {
            let mut reached = BTreeMap::new();
            let mut outcome = |name: &&str| {
                let outcome = obey(rules, (name, "run"), &mut reached, act);
                outcome.err().and_then(|error| error.raw_os_error())
            };
            names.iter().map(&mut outcome).collect()
        }

        #[test]
        fn a_rule_holds_for_the_places_it_names_and_for_its_turn() {
            let full = Some(Errno::NOSPC.raw_os_error());
            let broken = Some(Errno::IO.raw_os_error());
            let names = ["blob.write", "blob.sync", "db.save", "blob.write"];
            assert_eq!(reach("", &names), [None; 4]);
            assert_eq!(reach("blob.write enospc", &names), [full, None, None, full]);
            assert_eq!(reach("blob.* enospc@2\ndb.save eio", &names), [None, full, broken, None]);
            assert_eq!(
                reach("* eio@4\nnonsense\nblob.sync what", &names),
                [None, None, None, broken]
            );
        }

        #[test]
        fn a_trace_names_every_place_in_its_order() {
            let folder = tempfile::tempdir().unwrap();
            let log = folder.path().join("trace");
            reach(&format!("trace {}\na kill@9", log.display()), &["a", "b", "a"]);
            let told = |name| format!("{name} run {}\n", std::process::id());
            assert_eq!(fs::read_to_string(log).unwrap(), ["a", "b", "a"].map(told).concat());
        }

        #[test]
        fn a_rule_for_a_verb_holds_in_no_other_process_and_counts_in_none() {
            let full = Some(Errno::NOSPC.raw_os_error());
            let names = ["a", "a", "a"];
            assert_eq!(reach("a enospc@2 trainer", &names), [None; 3]);
            assert_eq!(reach("a enospc@2 run", &names), [None, full, None]);
        }

        #[test]
        fn a_trace_says_where_a_process_is_ended_and_where_its_disk_fails_it_does_not() {
            let folder = tempfile::tempdir().unwrap();
            let log = folder.path().join("trace");
            let rules = format!("trace {}\na kill@2\nb eio", log.display());
            let mut reached = BTreeMap::new();
            for name in ["a", "b", "a", "a"] {
                // Whoever lives on here tells it all the same.
                let _ = obey(&rules, (name, "run"), &mut reached, |_| Ok(()));
            }
            let text = fs::read_to_string(log).unwrap();
            let mut firsts = text.lines().map(|line| line.split(' ').next().unwrap());
            assert!(firsts.by_ref().take(3).eq(["a", "b", "a"]), "{text}");
            assert!(firsts.eq(["killed", "a"]) && text.contains("\nkilled a\n"), "{text}");
        }
    }
}
