//! A hard limit of a program's memory: a control group of its own. What the system keeps of its files in
//! memory counts too, so that a program within the limit needs no more than it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where control groups of the first kind limit memory.
const FIRST: &str = "/sys/fs/cgroup/memory";

/// Where those of the second kind are.
const SECOND: &str = "/sys/fs/cgroup";

/// A control group; dropping it lets its programs go.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    group: PathBuf,
    parent: PathBuf,
}

impl MemoryLimit {
    /// Makes a control group of at most `bytes`, without any swap.
    ///
    /// # Errors
    /// If the system has no control groups or one may not make them.
    pub(crate) fn new(bytes: u64) -> anyhow::Result<MemoryLimit> {
        let is_first = Path::new(FIRST).join("memory.limit_in_bytes").is_file();
        let (parent, file) = match is_first {
            true => (PathBuf::from(FIRST), "memory.limit_in_bytes"),
            false => (PathBuf::from(SECOND), "memory.max"),
        };
        let group = parent.join(format!("fedpaint-bench-{}", std::process::id()));
        let wanted = "a hard limit of memory needs control groups and the right to make them";
        fs::create_dir_all(&group).with_context(|| format!("{wanted}: {}", group.display()))?;
        let limit = MemoryLimit { group, parent };
        fs::write(limit.group.join(file), bytes.to_string()).context(wanted)?;
        Ok(limit)
    }

    /// Holds a program to it from now on.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn hold(&self, id: u32) -> anyhow::Result<()> {
        let file = self.group.join("cgroup.procs");
        fs::write(&file, id.to_string()).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let members = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for member in members.lines() {
            // One that has ended in the meantime needs no other group.
            let _ = fs::write(self.parent.join("cgroup.procs"), member);
        }
        let _ = fs::remove_dir(&self.group);
    }
}
