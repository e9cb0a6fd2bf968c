//! `flips`: bits that turn in files at rest, of a coordinator and of a site, are found before the files are used.
//!
//! A bit is turned in a file, the file is put to every use that it has in a federation, by the code that uses it
//! there, and the bit is turned back. `fsck` has to find those of the coordinator too. Which bits they are follows
//! from the seed. The coordinator's database is not looked at: its pages have no digest.

mod rounds;
mod site;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fedpaint_tests::process::output;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::{Map, Value, json};

use crate::federation::{Federation, Shape};
use crate::scenario::exchange;
use crate::{Args, say};
use fedpaint_tests::outcome::Outcome;

/// How many bits are turned in the files of either side unless `--count` says otherwise.
const FLIPS: u32 = 1_000;

/// How many flips there are for one of which a round is made.
const FLIPS_PER_ROUND: u32 = 10;

/// How many bytes of a file are called its head: more than a model's header has here.
const HEAD_BYTES: u64 = 512;

/// Runs the mode.
///
/// # Errors
/// If a program does not start, or a run gets stuck.
pub(crate) async fn flips(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    outcome.set("seed", args.seed);
    turned(args, work, &mut outcome).await?;
    Ok(outcome)
}

/// Turns bits and says how many of them were found, by `fsck` and before use.
///
/// # Errors
/// If a program does not start, or a run gets stuck.
pub(crate) async fn turned(args: &Args, work: &Path, outcome: &mut Outcome) -> anyhow::Result<()> {
    let count = args.count.unwrap_or(FLIPS);
    let rounds = count.div_ceil(FLIPS_PER_ROUND);
    let (mut rng, mut tally) = (ChaCha12Rng::seed_from_u64(args.seed), Tally::default());
    say(&format!("{count} flipped bits"));
    let federation = trained(&work.join("flips"), args).await?;
    let flips = found_by_fsck(&federation, count, &mut rng, outcome)?;
    say("the coordinator uses what has lost a bit");
    stored::used(&federation, &flips, &mut tally).await?;
    say(&format!("{count} flipped bits at a site"));
    let unused = site::used(&federation, count, &mut rng, &mut tally).await?;
    federation.stop()?;
    say(&format!("{rounds} rounds with a flipped bit"));
    rounds::used(&work.join("flipped-rounds"), rounds, &mut rng, &mut tally).await?;
    outcome.set("workspace_files_without_use", unused);
    tally.tell(2 * count + rounds, outcome);
    Ok(())
}

/// A coordinator that has trained a run, whose updates leave something out, and sites that have stopped.
async fn trained(folder: &Path, args: &Args) -> anyhow::Result<Federation> {
    let shape = Shape {
        sites: args.sites.unwrap_or(2),
        rounds: 8,
        steps: 8,
        steps_ms: 0,
        checkpoint_steps: 2,
        // A model is longer than what a download reads at once, so that a part of it is given.
        parameters: 1 << 17,
        more: exchange("int8"),
        ..Shape::default()
    };
    let mut federation = Federation::found(folder, &shape).await?;
    federation.start_agents()?;
    let mut watch = federation.watch().await?;
    federation.finish(&mut watch).await?;
    drop(watch);
    // A site that has not heard it keeps what it may need to ask again.
    federation.all_delivered(shape.rounds).await?;
    federation.stop_agents()?;
    Ok(federation)
}

/// One bit of a file.
struct Flip {
    file: PathBuf,
    place: u64,
    bit: u32,
}

impl Flip {
    /// A bit of a file of so many bytes. One of four lies in the head, which of a large model is a small part.
    fn of(file: &Path, bytes: u64, rng: &mut ChaCha12Rng) -> Flip {
        let end = match rng.random_range(0..4_u32) {
            0 => bytes.min(HEAD_BYTES),
            _ => bytes,
        };
        let (place, bit) = (rng.random_range(0..end), rng.random_range(0..8_u32));
        Flip { file: file.to_owned(), place, bit }
    }

    /// What the file is called in its folder.
    fn name(&self) -> String {
        self.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Turns the bit; doing it twice changes nothing.
    fn turn(&self) -> anyhow::Result<()> {
        let file = File::options().read(true).write(true).open(&self.file);
        let file = file.with_context(|| self.to_string())?;
        let mut byte = [0_u8];
        file.read_exact_at(&mut byte, self.place)?;
        byte[0] ^= 1 << self.bit;
        Ok(file.write_all_at(&byte, self.place)?)
    }

    /// Where a coordinator puts the file once it has found that it has changed.
    fn aside(&self) -> PathBuf {
        self.file.with_extension("rotten")
    }

    /// Turns the bit back, and brings the file back if it was set aside.
    fn turn_back(&self) -> anyhow::Result<()> {
        if self.aside().exists() {
            fs::rename(self.aside(), &self.file)?;
        }
        self.turn()
    }
}

impl fmt::Display for Flip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bit {} of byte {} of {}", self.bit, self.place, self.file.display())
    }
}

/// Whether a flip was found before a use, or what came of it.
type Found = Result<(), String>;

fn found(is_found: bool, otherwise: impl FnOnce() -> String) -> Found {
    if is_found { Ok(()) } else { Err(otherwise()) }
}

/// How many flips were put to use and found.
#[derive(Default)]
struct Tally {
    used: u32,
    found: u32,
    /// The same by use; a file may have several.
    by_use: BTreeMap<&'static str, (u32, u32)>,
    missed: Vec<String>,
}

impl Tally {
    /// Notes what came of a flip in each use of its file.
    fn note(&mut self, flip: &Flip, uses: Vec<(&'static str, Found)>) {
        let is_used = !uses.is_empty();
        let is_found = is_used && uses.iter().all(|(_, found)| found.is_ok());
        self.used += u32::from(is_used);
        self.found += u32::from(is_found);
        for (name, outcome) in uses {
            let (used, found) = self.by_use.entry(name).or_default();
            *used += 1;
            *found += u32::from(outcome.is_ok());
            if let Err(what) = outcome {
                self.missed.push(format!("{flip} was not found, {name}: {what}"));
            }
        }
    }

    /// Tells what was noted of so many flips.
    fn tell(self, flips: u32, outcome: &mut Outcome) {
        let Tally { used, found, by_use, missed } = self;
        let by_use = by_use.into_iter().map(|(name, (used, found))| {
            (name.to_owned(), json!({ "used": used, "found": found }))
        });
        outcome.set("used", used);
        outcome.set("found_before_use", found);
        outcome.set("by_use", by_use.collect::<Map<String, Value>>());
        outcome.require(used == flips, || {
            format!("{used} of {flips} flipped bits are in files that something uses")
        });
        outcome.require(found == used, || {
            format!("{found} of {used} flipped bits were found before use; {}", missed.join("; "))
        });
    }
}

/// Turns one bit in every blob, again and again at other places, and asks `fsck` each time. Which bits.
fn found_by_fsck(
    federation: &Federation,
    count: u32,
    rng: &mut ChaCha12Rng,
    outcome: &mut Outcome,
) -> anyhow::Result<Vec<Flip>> {
    let config = federation.lab.path("coordinator.toml");
    let blobs = files(Path::new(&federation.lab.path("coordinator/blobs")))?;
    anyhow::ensure!(!blobs.is_empty(), "there is no blob");
    let (well, said) = fsck(&config)?;
    outcome.require(well, || format!("fsck finds something before a bit is turned: {said}"));
    let (mut flips, mut found) = (Vec::new(), 0);
    while flips.len() < count as usize {
        let mut some = Vec::new();
        for blob in blobs.iter().take(count as usize - flips.len()) {
            some.push(Flip::of(blob, fs::metadata(blob)?.len(), rng));
        }
        some.iter().try_for_each(Flip::turn)?;
        let (well, said) = fsck(&config)?;
        some.iter().try_for_each(Flip::turn)?;
        found += some.iter().filter(|flip| !well && said.contains(&flip.name())).count();
        flips.append(&mut some);
    }
    let (well, said) = fsck(&config)?;
    outcome.require(well, || format!("fsck finds something once all is turned back: {said}"));
    let turned = flips.len();
    outcome.set("flips", turned);
    outcome.set("found", found);
    outcome.require(found == turned, || format!("{found} of {turned} flipped bits were found"));
    Ok(flips)
}

/// Whether `fsck` finds all well, and what it says.
fn fsck(config: &str) -> anyhow::Result<(bool, String)> {
    let output = output("fedpaint-coordinator", &["fsck", "--config", config, "--output", "json"])?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// Every file below a folder.
fn files(folder: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.insert(path);
        }
    }
    Ok(found)
}
