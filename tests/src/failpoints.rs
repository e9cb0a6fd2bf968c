//! The rules of one program's failpoints, as a test changes them while the program runs, and the
//! places that the program has reached.
//!
//! Every program is traced all the time; see `fedpaint_proto::failpoint` for what a rule may say.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fedpaint_proto::failpoint;

/// A place that a process has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The place's name.
    pub place: String,
    /// What the process was started to do, such as `trainer`; nothing where an older program tells none.
    pub verb: String,
    /// The process; 0 where an older program tells none.
    pub process: u32,
}

impl Pass {
    /// What a line of a trace says.
    fn of(line: &str) -> Pass {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (place, verb) = (word(), word());
        Pass { place, verb, process: word().parse().unwrap_or(0) }
    }
}

/// One program's file of rules and its trace.
#[derive(Debug)]
pub struct Failpoints {
    rules: PathBuf,
    trace: PathBuf,
    /// How much of the trace has been looked at, for places that were reached and for those that killed.
    seen: u64,
    seen_killed: u64,
}

impl Failpoints {
    /// Rules that only trace, for a program called `name`, in `folder`.
    ///
    /// # Errors
    /// If the file does not write.
    pub fn new(folder: &Path, name: &str) -> anyhow::Result<Failpoints> {
        let rules = folder.join(format!("{name}.rules"));
        let trace = folder.join(format!("{name}.trace"));
        let points = Failpoints { rules, trace, seen: 0, seen_killed: 0 };
        points.disarm()?;
        Ok(points)
    }

    /// What the program needs in its environment.
    pub fn variable(&self) -> (String, PathBuf) {
        (failpoint::VARIABLE.to_owned(), self.rules.clone())
    }

    /// Has the program obey `rules`, a line each, from the next place on.
    ///
    /// # Errors
    /// If the file does not write.
    pub fn arm(&self, rules: &str) -> anyhow::Result<()> {
        let new = self.rules.with_extension("new");
        fs::write(&new, format!("trace {}\n{rules}\n", self.trace.display()))?;
        // The program reads all of the old rules or all of the new ones.
        fs::rename(new, &self.rules)?;
        Ok(())
    }

    /// Lets the program pass everywhere.
    ///
    /// # Errors
    /// If the file does not write.
    pub fn disarm(&self) -> anyhow::Result<()> {
        self.arm("")
    }

    /// The places reached since this was last asked, in their order.
    ///
    /// # Errors
    /// If the trace does not read.
    pub fn reached(&mut self) -> anyhow::Result<Vec<String>> {
        Ok(self.passed()?.into_iter().map(|pass| pass.place).collect())
    }

    /// The same places, with who has reached each.
    ///
    /// # Errors
    /// If the trace does not read.
    pub fn passed(&mut self) -> anyhow::Result<Vec<Pass>> {
        let text = self.since(self.seen)?;
        self.seen += text.len() as u64;
        let places = text.lines().filter(|line| !line.starts_with(failpoint::KILLED));
        Ok(places.map(Pass::of).collect())
    }

    /// The places at which a rule has ended a program since this was last asked; it has told so just before.
    ///
    /// # Errors
    /// If the trace does not read.
    pub fn killed(&mut self) -> anyhow::Result<Vec<String>> {
        let text = self.since(self.seen_killed)?;
        self.seen_killed += text.len() as u64;
        let places = text.lines().filter_map(|line| line.strip_prefix(failpoint::KILLED));
        Ok(places.map(str::to_owned).collect())
    }

    /// The whole lines of the trace behind its first `seen` bytes.
    fn since(&self, seen: u64) -> anyhow::Result<String> {
        let mut file = match File::open(&self.trace) {
            Ok(file) => file,
            // Nothing was reached yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => return Err(error.into()),
        };
        file.seek(SeekFrom::Start(seen))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reached_is_told_once_and_only_when_its_line_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut points = Failpoints::new(folder.path(), "x").unwrap();
        assert_eq!(points.reached().unwrap(), [""; 0]);
        let mut text = "blob.write serve 7\nblob.sy".to_owned();
        fs::write(&points.trace, &text).unwrap();
        assert_eq!(points.reached().unwrap(), ["blob.write"]);
        text.push_str("nc serve 7\nkilled blob.sync\ndb.open\n");
        fs::write(&points.trace, &text).unwrap();
        let pass = |place: &str, verb: &str, process| {
            let (place, verb) = (place.to_owned(), verb.to_owned());
            Pass { place, verb, process }
        };
        let told = [pass("blob.sync", "serve", 7), pass("db.open", "", 0)];
        assert_eq!(points.passed().unwrap(), told);
        assert_eq!(points.killed().unwrap(), ["blob.sync"]);
        assert_eq!((points.reached().unwrap(), points.killed().unwrap()), (vec![], vec![]));
        points.arm("blob.* kill").unwrap();
        let rules = fs::read_to_string(points.variable().1).unwrap();
        assert!(
            rules.starts_with("trace ") && rules.ends_with("x.trace\nblob.* kill\n"),
            "{rules}"
        );
    }
}
