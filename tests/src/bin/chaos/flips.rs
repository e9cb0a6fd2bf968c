//! Bits that turn in files at rest are found by `fsck`. That such files are not used is shown by
//! `tests/storage.rs`, where a coordinator averages one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fedpaint_tests::process::output;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::federation::{Federation, Shape};
use crate::{Args, say};
use fedpaint_tests::outcome::Outcome;

/// How many bits are turned unless `--count` says otherwise.
const FLIPS: u32 = 1_000;

/// Turns one bit in every blob, again and again at other places, and asks `fsck` each time.
///
/// # Errors
/// If a program does not start, or a run gets stuck.
pub(crate) async fn flips(
    args: &Args,
    work: &Path,
    shape: &Shape,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let count = args.count.unwrap_or(FLIPS);
    say(&format!("{count} flipped bits"));
    let folder = work.join("flips");
    let shape = Shape { rounds: 8, steps_ms: 0, ..shape.clone() };
    let mut federation = Federation::found(&folder, &shape).await?;
    federation.start_agents()?;
    let mut watch = federation.watch().await?;
    federation.finish(&mut watch).await?;
    drop(watch);
    let config = federation.lab.path("coordinator.toml");
    federation.stop()?;

    let blobs = files(&folder.join("coordinator").join("blobs"))?;
    let mut rng = ChaCha12Rng::seed_from_u64(args.seed);
    let (mut turned, mut found) = (0, 0);
    let clean = fsck(&config)?;
    outcome
        .require(clean.0, || format!("fsck finds something before a bit is turned: {}", clean.1));
    while turned < count {
        let mut places = Vec::new();
        for blob in blobs.iter().take((count - turned) as usize) {
            let place = rng.random_range(0..fs::metadata(blob)?.len());
            let bit = rng.random_range(0..8);
            turn(blob, place, bit)?;
            places.push((blob, place, bit));
        }
        let (well, said) = fsck(&config)?;
        let named =
            |blob: &Path| blob.file_name().is_some_and(|n| said.contains(&*n.to_string_lossy()));
        turned += places.len() as u32;
        found += places.iter().filter(|(blob, ..)| !well && named(blob)).count() as u32;
        for (blob, place, bit) in places {
            turn(blob, place, bit)?;
        }
    }
    outcome
        .require(fsck(&config)?.0, || "fsck finds something once all bits are turned back".into());
    outcome.set("flips", turned);
    outcome.set("found", found);
    outcome.require(found == turned, || format!("{found} of {turned} flipped bits were found"));
    Ok(())
}

/// Whether `fsck` finds all well, and what it says.
fn fsck(config: &str) -> anyhow::Result<(bool, String)> {
    let output = output("fedpaint-coordinator", &["fsck", "--config", config, "--output", "json"])?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

fn turn(file: &Path, place: u64, bit: u32) -> anyhow::Result<()> {
    let mut bytes = fs::read(file)?;
    bytes[place as usize] ^= 1 << bit;
    Ok(fs::write(file, bytes)?)
}

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
