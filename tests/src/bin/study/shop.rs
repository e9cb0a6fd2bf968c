//! Where the work is done: the study's folder, the programs it starts, and how far it is. A step's
//! result is a file named by what it was made from, whole or absent, so that a study goes on where it
//! was killed. It decides nothing about the study.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fedpaint_proto::names::Digest;
use fedpaint_proto::weights::sync_folder;
use fedpaint_tests::process::program;
use tokio::sync::Semaphore;

/// The program that makes, trains and judges.
const TOOL: &str = "fedpaint-site-agent";

/// The domain of the hash that names a step's result.
const DOMAIN: &str = "fedpaint 2026 study step";

/// Letters of a key: 80 bits are enough among a study's thousands of files.
const KEY_LETTERS: usize = 20;

/// Progress is told at most so often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The folders in a study's folder.
const FOLDERS: [&str; 5] = ["data", "models", "updates", "scores", "plans"];

/// The folder of files in the making; what a killed study left there is removed.
const SCRATCH: &str = "scratch";

/// What a step's result was made from, as a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// The key of a step of the kind `what`, made from `parts`.
    pub(crate) fn of(what: &str, parts: &[&str]) -> Key {
        let mut hasher = blake3::Hasher::new_derive_key(DOMAIN);
        for part in [what].iter().chain(parts) {
            // The length keeps "ab" + "c" apart from "a" + "bc".
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Key(hasher.finalize().to_hex()[..KEY_LETTERS].to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A study's folder and how it computes.
#[derive(Debug)]
pub(crate) struct Shop {
    root: PathBuf,
    /// A permit per process that may run at once.
    slots: Semaphore,
    jobs: usize,
    threads: usize,
    stage: Mutex<Stage>,
    start: Instant,
    /// Held while the study runs, so that no second one writes here.
    _lock: File,
}

/// How far a stage is, in its own units.
#[derive(Debug)]
struct Stage {
    name: &'static str,
    begun: Instant,
    told: Option<Instant>,
    done: Count,
    total: u64,
}

/// Units that are done.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Now.
    fresh: u64,
    /// Already when the study began.
    found: u64,
}

impl Shop {
    /// Opens a study's folder, made or gone on with; `jobs` processes run at once.
    pub(crate) fn open(root: &Path, jobs: usize) -> anyhow::Result<Shop> {
        std::fs::create_dir_all(root)
            .with_context(|| format!("cannot make {}; choose another --out", root.display()))?;
        let root = root.canonicalize()?;
        let lock = File::create(root.join("lock"))?;
        if lock.try_lock().is_err() {
            bail!("another study works in {}; choose another --out", root.display());
        }
        for folder in FOLDERS {
            std::fs::create_dir_all(root.join(folder))?;
        }
        let scratch = root.join(SCRATCH);
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch)?;
        }
        std::fs::create_dir(&scratch)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = if jobs == 0 { cores } else { jobs };
        let begun = Instant::now();
        let stage = Stage { name: "", begun, told: None, done: Count::default(), total: 0 };
        Ok(Shop {
            root,
            slots: Semaphore::new(jobs),
            jobs,
            threads: (cores / jobs).max(1),
            stage: Mutex::new(stage),
            start: begun,
            _lock: lock,
        })
    }

    /// The path of a step's result: `FOLDER/LABEL-KEY.EXTENSION`.
    pub(crate) fn result(&self, folder: &str, label: &str, key: &Key, extension: &str) -> PathBuf {
        self.root.join(folder).join(format!("{label}-{}.{extension}", key.0))
    }

    /// A path in the study's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A path for a file or folder in the making.
    pub(crate) fn scratch(&self, label: &str, key: &Key) -> PathBuf {
        self.root.join(SCRATCH).join(format!("{label}-{}", key.0))
    }

    /// How many processes run at once, and the threads of each.
    pub(crate) fn parallelism(&self) -> (usize, usize) {
        (self.jobs, self.threads)
    }

    /// Runs the program to its end when a slot is free and gives what it printed. Dropping the
    /// future kills it.
    pub(crate) async fn tool(&self, args: &[String]) -> anyhow::Result<String> {
        let _slot = self.slots.acquire().await?;
        let mut command = tokio::process::Command::new(program(TOOL)?);
        let output = command.args(args).stdin(Stdio::null()).kill_on_drop(true).output().await?;
        if !output.status.success() {
            let (verb, stderr) = (args.first(), String::from_utf8_lossy(&output.stderr));
            bail!(
                "{TOOL} {} ended with {}: {}",
                verb.map_or("", |v| v),
                output.status,
                stderr.trim_end()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The options by which the program computes on this machine's processor.
    pub(crate) fn compute(&self) -> [String; 4] {
        ["--device", "cpu", "--threads", &self.threads.to_string()].map(str::to_owned)
    }

    /// The digest of the program: results of two builds do not belong into one study.
    pub(crate) fn program_digest() -> anyhow::Result<String> {
        Ok(Digest::of(&std::fs::read(program(TOOL)?)?).to_string())
    }

    /// Says a line, with the time since the start.
    pub(crate) fn say(&self, text: &str) {
        eprintln!("[{:>5} s] {text}", self.start.elapsed().as_secs());
    }

    /// Begins a stage of `total` units of work.
    pub(crate) fn begin(&self, name: &'static str, total: u64) {
        let begun = Instant::now();
        let stage = Stage { name, begun, told: None, done: Count::default(), total };
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.say(&format!("{name}: {total}"));
    }

    /// Counts work of the stage as done, `is_fresh` if just now, and says from time to time how far it
    /// is.
    pub(crate) fn advance(&self, units: u64, is_fresh: bool) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if is_fresh {
            stage.done.fresh += units;
        } else {
            stage.done.found += units;
        }
        let now = Instant::now();
        let is_due = stage.told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY);
        let is_over = stage.done.fresh + stage.done.found >= stage.total;
        if is_fresh && (is_due || is_over) {
            stage.told = Some(now);
            let line = told(&stage, now.duration_since(stage.begun));
            drop(stage);
            self.say(&line);
        }
    }
}

/// How far a stage is after `elapsed`, and how long it will take at this pace.
fn told(stage: &Stage, elapsed: Duration) -> String {
    let &Stage { name, done: Count { fresh, found }, total, .. } = stage;
    let left = total.saturating_sub(fresh + found);
    let before = if found > 0 { format!(" ({found} were there)") } else { String::new() };
    let eta_s = elapsed.as_secs_f64() / fresh.max(1) as f64 * left as f64;
    let eta = match eta_s {
        _ if left == 0 => String::new(),
        s if s < 120.0 => format!(", about {s:.0} s left"),
        s if s < 7200.0 => format!(", about {:.0} min left", s / 60.0),
        s => format!(", about {:.1} h left", s / 3600.0),
    };
    format!("{name}: {}/{total}{before}{eta}", fresh + found)
}

/// Writes a file whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().context("a file lies in a folder")?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(sync_folder(path)?)
}

/// Gives what was made its name, which says that it is whole.
pub(crate) fn finish(made: &Path, path: &Path) -> anyhow::Result<()> {
    std::fs::rename(made, path)
        .with_context(|| format!("cannot rename {} to {}", made.display(), path.display()))?;
    Ok(sync_folder(path)?)
}

/// The path of what is kept beside a model.
pub(crate) fn beside(model: &Path, ending: &str) -> PathBuf {
    let mut name = model.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// A path as an argument of a command line.
pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_changes_with_every_part_and_with_where_one_ends() {
        let key = Key::of("train", &["ab", "c"]);
        assert_eq!(key, Key::of("train", &["ab", "c"]));
        for other in [Key::of("train", &["a", "bc"]), Key::of("judge", &["ab", "c"])] {
            assert_ne!(key, other);
        }
    }

    #[test]
    fn what_was_there_before_does_not_make_the_rest_look_quick() {
        let begun = Instant::now();
        let done = Count { fresh: 10, found: 50 };
        let stage = Stage { name: "training", begun, told: None, done, total: 100 };
        let line = told(&stage, Duration::from_secs(20));
        assert_eq!(line, "training: 60/100 (50 were there), about 80 s left");
    }

    #[test]
    fn two_studies_never_write_into_one_folder_and_scratch_of_a_killed_one_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let shop = Shop::open(folder.path(), 1).unwrap();
        let half = shop.scratch("half", &Key::of("x", &[]));
        std::fs::write(&half, "half").unwrap();
        let refused = Shop::open(folder.path(), 1).unwrap_err().to_string();
        assert!(refused.contains("another study"), "{refused}");
        drop(shop);
        Shop::open(folder.path(), 1).unwrap();
        assert!(!half.exists());
    }
}
