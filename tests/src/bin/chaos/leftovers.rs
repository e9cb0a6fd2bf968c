//! What crashes and years leave behind, for the coordinator and for the first site: there are places that only
//! who finds something of it passes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use fedpaint_coordinator::blobs::STAGED_PARTS_MAX;
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_tests::lab::{COORDINATOR, Lab};

/// The first site.
const SITE: &str = "site-1";

/// How old is what nobody will come back for: more than a week.
const AGE: Duration = Duration::from_secs(8 * 86_400);

/// What the site finds where its first base model is to gather. The rest is the same in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// More bytes than the model has.
    LongPart,
    /// As many, and other ones.
    WrongPart,
}

/// Leaves it behind, where `model` is the first base model. Neither program may be about to use its files.
///
/// # Errors
/// If a file does not write.
pub(crate) fn leave(lab: &Lab, model: Blob, left: Leftovers) -> anyhow::Result<()> {
    let at = |name: String| PathBuf::from(lab.path(&name));
    // Parts of uploads that nobody went on with, and as many more as there may be.
    let staging = format!("coordinator/staging/site-{SITE}");
    for i in 0..=STAGED_PARTS_MAX {
        let digest = Digest::of(&i.to_le_bytes());
        let part = write(at(format!("{staging}/{digest}.1.part")), b"x")?;
        if i == 0 {
            age(&part)?;
        }
    }
    // A blob that no row names.
    let digest = Digest::of(b"orphan").to_string();
    age(&write(at(format!("coordinator/blobs/{}/{digest}", &digest[..2])), b"orphan")?)?;
    // Certificates and keys that were about to be replaced.
    for name in [COORDINATOR, SITE] {
        for end in ["pem", "key"] {
            write(at(format!("certificates/{name}.{end}.next")), b"left")?;
        }
    }
    let bytes = usize::try_from(model.size)? + usize::from(left == Leftovers::LongPart);
    let part = format!("workspace-{SITE}/models/{}.part", model.digest);
    write(at(part), &vec![7; bytes])?;
    // What is no checkpoint of any training.
    age(&write(at(format!("workspace-{SITE}/training/left")), b"left")?)?;
    // A prepared scan that was never whole.
    age(&write(at(format!("workspace-{SITE}/scans-cache/prepared-v1/.filling-left")), b"x")?)
}

fn write(path: PathBuf, bytes: &[u8]) -> anyhow::Result<PathBuf> {
    let folder = path.parent().context("a file lies in a folder")?;
    fs::create_dir_all(folder)?;
    fs::write(&path, bytes)?;
    Ok(path)
}

/// Has a file be as old as if it had been written long ago.
fn age(path: &Path) -> anyhow::Result<()> {
    let file = File::options().write(true).open(path)?;
    let then = file.metadata()?.modified()?.checked_sub(AGE).context("a time")?;
    Ok(file.set_modified(then)?)
}
